//! Traced tracepoints, held against the events that the kernel itself writes into `/sys/kernel/tracing`.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use probes::Guest;
use probes::ftrace::{Traced, TracedCall};
use probes::object::{Object, Value};

use crate::ground::Ground;

const TRACING: &str = "cd /sys/kernel/tracing";
/// Tasks that sleep and run, on both CPUs.
const WORK: &str = "for i in 1 2 3; do sleep 0.02 & cat /proc/self/stat >/dev/null; done; wait";

/// One switch: of a CPU from a task to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Switch {
    cpu: u32,
    prev: (String, i64),
    next: (String, i64),
}

fn sound(traced: &Traced) {
    let tally = &traced.tally;
    assert_eq!((tally.lost, tally.missed, tally.left_out, tally.undecided), (0, 0, 0, 0), "{tally:?}");
    assert!(tally.delivered > 0 && traced.gaps.is_empty(), "{tally:?} {:?}", traced.gaps);
}

fn number(call: &TracedCall, name: &str) -> i64 {
    match call.arg(name) {
        Some(Value::Int(number)) => *number,
        Some(Value::Uint(number)) => *number as i64,
        other => panic!("{name}: {other:?}"),
    }
}

fn task(call: &TracedCall, arg: &str) -> (String, i64) {
    match call.arg(&format!("{arg}->comm")) {
        Some(Value::Text(comm)) => (comm.clone(), number(call, &format!("{arg}->pid"))),
        other => panic!("{other:?}"),
    }
}

fn switches(traced: &Traced) -> Vec<Switch> {
    let is = |call: &&TracedCall| call.function == "sched:sched_switch";
    let all = traced.calls.iter().filter(is).map(|call| Switch {
        cpu: call.cpu,
        prev: task(call, "prev"),
        next: task(call, "next"),
    });
    all.collect()
}

/// `  sh-77  [001] d..2. 45.678901: sched_switch: prev_comm=sh prev_pid=77 prev_prio=120 prev_state=S ==> next_comm=.. next_pid=..`
fn said(text: &str) -> Vec<Switch> {
    let between = |line: &str, from: &str, to: &str| {
        let (_, rest) = line.split_once(from)?;
        Some(rest.split_once(to)?.0.to_owned())
    };
    let lines = text.lines().filter(|line| line.contains(": sched_switch: "));
    let all = lines.map(|line| {
        let one = |which: &str| {
            let comm = between(line, &format!("{which}_comm="), &format!(" {which}_pid="))?;
            let pid = between(line, &format!("{which}_pid="), " ")?.parse().ok()?;
            Some((comm, pid))
        };
        Some(Switch {
            cpu: between(line, " [", "]")?.parse().ok()?,
            prev: one("prev")?,
            next: one("next")?,
        })
    });
    all.collect::<Option<_>>().unwrap_or_else(|| panic!("{text}"))
}

/// Traces while the kernel writes the event, too; gives what it has written.
fn both(ground: &mut Ground, event: &str, trace: impl FnOnce(&Guest) -> Traced) -> (Traced, String) {
    ground.sh(&format!(
        "{TRACING}; echo 4096 >buffer_size_kb; echo mono >trace_clock; echo >trace; echo 1 >events/{event}/enable; echo 1 >tracing_on"
    ));
    let traced = trace(&ground.guest.clone());
    let text = ground.sh(&format!("{TRACING}; echo 0 >tracing_on; echo 0 >events/{event}/enable; cat trace"));
    assert!(!text.contains("LOST"), "{text}");
    (traced, text)
}

/// What klab recorded is, on each CPU, a stretch of what the kernel wrote: it began later and ended before.
fn is_stretch(ours: &[Switch], theirs: &[Switch]) {
    let mut compared = 0;
    for cpu in 0..8 {
        let of = |all: &[Switch]| -> Vec<Switch> { all.iter().filter(|one| one.cpu == cpu).cloned().collect() };
        let (ours, theirs) = (of(ours), of(theirs));
        let found = ours.is_empty() || theirs.windows(ours.len()).any(|stretch| stretch == ours);
        assert!(found, "CPU {cpu}: {ours:#?}\n{theirs:#?}");
        compared += ours.len();
    }
    assert!(compared > 10, "{compared}");
}

/// Every switch with both tasks, on each CPU in the same order, beside functions in one trace.
#[test]
fn sched_switch_is_what_the_kernel_writes() {
    let mut ground = Ground::bare("default", 512 << 20);
    let (traced, text) = both(&mut ground, "sched/sched_switch", |guest| {
        let trace = guest.trace(["sched_switch", "vfs_read"]).unwrap();
        trace.shell(WORK).within(Duration::from_secs(60)).calls().unwrap()
    });
    sound(&traced);
    is_stretch(&switches(&traced), &said(&text));
    assert!(traced.calls.iter().any(|call| call.function == "vfs_read" && call.duration.is_some()));
    for call in traced.calls.iter().filter(|call| call.point) {
        // Before the switch `current` is the task that leaves, and its name may be the whole one of a kernel thread.
        assert_eq!(i64::from(call.pid), number(call, "prev->pid"));
        assert_eq!(call.duration, None);
    }
    let text = probes::view::View::text(&traced);
    assert!(text.contains("calls and events of 2 functions and tracepoints; then the command"), "{text}");
    // Nothing stays, and the kernel has nothing to say.
    assert!(!is_hooked(&ground.guest, "sched_switch"));
    let log = ground.sh("dmesg | grep -cE 'WARNING|BUG|Oops|Call Trace' || true");
    assert_eq!(log.trim(), "0");
}

/// A condition on a member, seen to by the guest, and one that is evaluated here on what was copied.
#[test]
fn conditions_are_on_what_was_there_then() {
    let mut ground = Ground::bare("default", 512 << 20);
    let pid: i64 = ground.sh("grep -lE '^rcu_(preempt|sched)' /proc/[0-9]*/comm | cut -d/ -f3").trim().parse().unwrap();
    let when = |guest: &Guest, condition: &str| {
        let trace = guest.trace(["sched:sched_switch"]).unwrap().when(condition);
        trace.shell(WORK).within(Duration::from_secs(60)).calls().unwrap()
    };
    let (traced, text) = both(&mut ground, "sched/sched_switch", |guest| when(guest, &format!("next->pid == {pid}")));
    sound(&traced);
    assert!(traced.tally.passed > 0);
    let ours = switches(&traced);
    let theirs: Vec<Switch> = said(&text).into_iter().filter(|one| one.next.1 == pid).collect();
    assert!(!ours.is_empty() && ours.iter().all(|one| one.next.1 == pid), "{ours:?}");
    for cpu in 0..8 {
        let of = |all: &[Switch]| -> Vec<Switch> { all.iter().filter(|one| one.cpu == cpu).cloned().collect() };
        let (ours, theirs) = (of(&ours), of(&theirs));
        assert!(ours.is_empty() || theirs.windows(ours.len()).any(|some| some == ours), "{ours:?} {theirs:?}");
    }
    // `sleep` has ended by the time at which this is evaluated, and its memory is another's.
    let traced = when(&ground.guest, r#"prev->comm == "sleep" || next->comm == "sleep""#);
    sound(&traced);
    let ours = switches(&traced);
    assert!(ours.len() >= 6, "{ours:?}");
    assert!(ours.iter().all(|one| one.prev.0 == "sleep" || one.next.0 == "sleep"), "{ours:?}");
    let wrong = ground.guest.trace(["sched_switch"]).unwrap().when("nxt->pid == 1").calls();
    assert!(wrong.unwrap_err().to_string().contains("preempt, prev, next"));
    let wrong = ground.guest.trace(["sched_switch"]).unwrap().reading(["next->no_such"]).calls();
    assert!(wrong.unwrap_err().to_string().contains("no member no_such"));
}

/// Members by name: numbers of the next task, as `/proc` has them.
#[test]
fn members_are_read_when_it_happens() {
    let ground = Ground::bare("default", 512 << 20);
    let traced = ground
        .guest
        .trace(["sched_switch"])
        .unwrap()
        .reading(["next->static_prio", "next->se.vruntime", "next->tgid"])
        .when("next->static_prio == 127")
        .shell("sleep 0.05 & renice -n 7 $!; wait")
        .calls()
        .unwrap();
    sound(&traced);
    assert!(!traced.calls.is_empty());
    for call in &traced.calls {
        assert_eq!(number(call, "next->static_prio"), 127);
        assert_eq!(number(call, "next->tgid"), number(call, "next->pid"));
    }
    let runtimes: Vec<i64> = traced.calls.iter().map(|call| number(call, "next->se.vruntime")).collect();
    assert!(runtimes.iter().any(|one| *one != 0), "{runtimes:?}");
}

/// An interrupt's handler by name: text of the kernel's own, and the words of `/proc/interrupts`.
#[test]
fn text_of_an_interrupt() {
    let mut ground = Ground::bare("default", 512 << 20);
    let (traced, text) = both(&mut ground, "irq/softirq_entry", |guest| {
        let trace = guest.trace(["irq:softirq_entry", "irq_handler_entry"]).unwrap();
        trace.shell(WORK).calls().unwrap()
    });
    sound(&traced);
    let softirqs = traced.calls.iter().filter(|call| call.function == "irq:softirq_entry");
    let mut counts: HashMap<i64, usize> = HashMap::new();
    softirqs.for_each(|call| *counts.entry(number(call, "vec_nr")).or_default() += 1);
    assert!(!counts.is_empty());
    for (vector, count) in counts {
        let theirs = text.matches(&format!("softirq_entry: vec={vector} ")).count();
        assert!(theirs >= count, "{vector}: {count} {theirs}");
    }
    let actions: Vec<&TracedCall> = traced.calls.iter().filter(|call| call.function == "irq:irq_handler_entry").collect();
    let interrupts = ground.sh("cat /proc/interrupts");
    for call in actions {
        let irq = format!("{}:", number(call, "irq"));
        assert!(interrupts.lines().any(|line| line.trim_start().starts_with(&irq)), "{irq} {interrupts}");
    }
}

/// The stacks of a tracepoint and of a function are those that the kernel writes below its own events.
#[test]
fn stacks_are_those_of_the_kernel() {
    let mut ground = Ground::bare("default", 512 << 20);
    ground.sh(&format!("{TRACING}; echo 'p:call vfs_open' >kprobe_events; echo stacktrace >events/kprobes/call/trigger"));
    let (traced, text) = both(&mut ground, "kprobes/call", |guest| {
        let trace = guest.trace(["vfs_open", "sched_switch"]).unwrap().stacks();
        trace.when(r#"comm == "cat""#).shell("cat /etc/passwd").calls().unwrap()
    });
    ground.sh(&format!("{TRACING}; echo '!stacktrace' >events/kprobes/call/trigger; echo >kprobe_events"));
    sound(&traced);
    let names = |call: &TracedCall| -> Vec<String> {
        let stack = call.stack.as_ref().unwrap_or_else(|| panic!("{call:?}"));
        // Of the 20 that fit, what calls the probes is left out.
        assert!(stack.whole || stack.frames.len() >= 19);
        stack.frames.iter().map(|frame| frame.name.clone().unwrap_or_default()).collect()
    };
    // ` => do_open` and so on, below `<stack trace>`.
    let theirs: Vec<Vec<String>> = text
        .split("<stack trace>")
        .skip(1)
        .map(|stack| stack.lines().filter_map(|line| Some(line.strip_prefix(" => ")?.to_owned())).collect())
        .collect();
    let mut compared = 0;
    for call in &traced.calls {
        let ours = names(call);
        if call.point {
            assert_eq!(ours[0], "__schedule", "{ours:?}");
            continue;
        }
        assert!(theirs.iter().any(|one| one.ends_with(&ours)), "{ours:?} {theirs:?}");
        compared += 1;
    }
    assert!(compared > 0 && traced.calls.iter().any(|call| call.point), "{traced:?}");
    let stacks = traced.stacks();
    assert_eq!(stacks.stacks.iter().map(|one| one.calls).sum::<u64>(), traced.calls.len() as u64);
    assert_eq!(stacks.without, 0);
}

/// The time that a task ran, by its slices and by its own account in `/proc`; the lanes have no holes and no overlaps.
#[test]
fn timeline_is_what_schedstat_says() {
    let ground = Ground::bare("default", 512 << 20);
    let mut agent = ground.guest.agent().unwrap();
    let mut said = String::new();
    let line = "echo $$; i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; cat /proc/$$/schedstat; cat /proc/$$/status";
    let traced = ground
        .guest
        .trace(["sched_switch"])
        .unwrap()
        .during(|| {
            said = agent.output(&["sh", "-c", line])?.text();
            Ok(())
        })
        .unwrap();
    sound(&traced);
    let timeline = traced.timeline().unwrap();
    assert_eq!(timeline.unknown, []);
    let word = |line: usize| said.lines().nth(line).and_then(|line| line.split(' ').next()?.parse::<u64>().ok());
    let (pid, ran) = (word(0).unwrap(), word(1).unwrap());
    let task = timeline.tasks.iter().find(|task| task.pid as u64 == pid).unwrap();
    assert!(ran > 50_000_000 && task.time.abs_diff(ran) < ran / 8 + 10_000_000, "{ran} {task:?}");
    let forced = said.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:")).unwrap();
    assert!(task.preempted >= forced.trim().parse().unwrap(), "{forced} {task:?}");
    for cpu in &timeline.cpus {
        let mut at = timeline.start;
        for slice in timeline.slices.iter().filter(|slice| slice.cpu == *cpu) {
            assert_eq!(slice.start, at, "{slice:?}");
            at = slice.end;
        }
        assert_eq!(at, timeline.end);
    }
    let file: serde_json::Value = serde_json::from_slice(&traced.perfetto()).unwrap();
    let slices = file["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X").count();
    assert_eq!(slices, timeline.slices.iter().filter(|slice| slice.pid != 0).count());
}

/// What the tracepoint says of three busy tasks on one CPU is what EEVDF says of their run queue: of those that are not ahead of
/// the average the one with the earliest deadline is next. What waits is, in the memory of the guest, as it was when it left.
#[test]
fn the_next_task_is_the_one_that_eevdf_chooses() {
    let mut ground = Ground::bare("default", 512 << 20);
    let started = ground.sh(
        "setsid sh -c 'for i in 1 2 3; do taskset 1 sh -c \"while :; do :; done\" & echo $!; done >/tmp/busy; renice -n 5 -p $!; wait' \
         </dev/null >/dev/null 2>&1 & sleep 1; cat /tmp/busy",
    );
    let pids: Vec<i64> = started.lines().map(|line| line.trim().parse().unwrap()).collect();
    let guest = ground.guest.clone();
    let mut queues = None;
    let traced = guest
        .trace(["sched_switch"])
        .unwrap()
        .reading(["prev->se.vruntime", "prev->se.deadline", "next->se.vruntime", "next->se.deadline"])
        .during(|| {
            std::thread::sleep(Duration::from_secs(2));
            // A pause may fall on a queue in the middle of a change, which is said.
            for _ in 0..60 {
                let read = guest.paused(|guest| guest.run_queues())?;
                let whole = read.missing.is_empty();
                queues = Some(read);
                if whole {
                    break;
                }
            }
            std::thread::sleep(Duration::from_secs(2));
            Ok(())
        })
        .unwrap();
    sound(&traced);
    let queues = queues.unwrap();
    assert_eq!(queues.missing, []);
    let queue = queues.iter().find(|queue| queue.cpu == 0).unwrap();
    let entities: HashMap<i64, _> = queue.fair_tasks().map(|(pid, entity)| (i64::from(pid), entity)).collect();
    let weight = |pid: i64| i128::from(entities[&pid].h_weight.unwrap_or(entities[&pid].weight));
    assert!(pids.iter().all(|pid| entities.contains_key(pid)), "{queue:#?}");
    let mut known: HashMap<i64, (i64, i64)> = HashMap::new();
    let (mut right, mut wrong, mut seen) = (0, Vec::new(), 0);
    for call in traced.calls.iter().filter(|call| call.cpu == 0) {
        let of = |which: &str| {
            let at = |member: &str| number(call, &format!("{which}->se.{member}"));
            (number(call, &format!("{which}->pid")), (at("vruntime"), at("deadline")))
        };
        let ((prev, left), (next, _)) = (of("prev"), of("next"));
        if pids.contains(&prev) {
            known.insert(prev, left);
        }
        if known.len() == pids.len() && pids.contains(&prev) && pids.contains(&next) {
            let (base, _) = known[&prev];
            let key = |pid: i64| i128::from(known[&pid].0.wrapping_sub(base));
            let load: i128 = pids.iter().map(|pid| weight(*pid)).sum();
            let sum: i128 = pids.iter().map(|pid| key(*pid) * weight(*pid)).sum();
            let eligible = pids.iter().filter(|pid| key(**pid) * load <= sum);
            let chosen = eligible.min_by_key(|pid| known[*pid].1.wrapping_sub(base));
            match chosen == Some(&next) {
                true => right += 1,
                false => wrong.push((prev, next, known.clone())),
            }
        }
        // The queue as it was read while the guest stood still: who waits there has the numbers with which it left.
        let waits = |pid: &&i64| **pid != i64::from(queue.curr);
        let same = pids.iter().filter(waits).all(|pid| {
            let entity = entities[pid];
            known.get(pid) == Some(&(entity.vruntime as i64, entity.deadline.unwrap_or_default() as i64))
        });
        seen += usize::from(same && next == i64::from(queue.curr));
    }
    assert!(right > 10 && wrong.len() * 20 <= right, "{right} {wrong:#?}");
    assert!(seen > 0, "{queue:#?}");
    println!("{right} right, {} wrong, the queue seen {seen} times", wrong.len());
}

/// A tracepoint of a module: the module stays while it is traced.
#[test]
fn a_tracepoint_of_a_module() {
    let mut ground = Ground::bare("default", 512 << 20);
    ground.sh("modprobe null_blk nr_devices=0");
    let guest = ground.guest.clone();
    let mut agent = guest.agent().unwrap();
    let mut unloaded = true;
    let traced = guest
        .trace(["nullb:*", "sched:sched_process_exit"])
        .unwrap()
        .during(|| {
            unloaded = agent.output(&["rmmod", "null_blk"])?.status.success();
            Ok(())
        })
        .unwrap();
    sound(&traced);
    assert!(!unloaded && traced.functions.iter().any(|name| name == "nullb:nullb_zone_op"), "{:?}", traced.functions);
    ground.sh("rmmod null_blk");
}

/// Tells whether a tracepoint has a probe.
fn is_hooked(guest: &Guest, name: &str) -> bool {
    let kernel = guest.kernel().unwrap();
    let at = kernel.symbol(&format!("__tracepoint_{name}")).unwrap();
    let point = Object::at(&kernel, "struct tracepoint", at).unwrap();
    !point.member("funcs").unwrap().pointer().unwrap().is_null()
}

/// Program that [`killed_in_the_middle`] starts, as that of `ftrace.rs`.
const KILLED: &str = "KLAB_TEST_TRACEPOINTS";

#[test]
fn killed_in_the_middle() {
    if let Ok(name) = std::env::var(KILLED) {
        let guest = Guest::attach(&name).unwrap();
        let trace = guest.trace(["sched_wakeup", "sched_switch"]).unwrap();
        let _ = trace.stacks().during(|| {
            println!("armed");
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        });
        return;
    }
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tracepoints::killed_in_the_middle", "--nocapture"])
        .env(KILLED, guest.machine().unwrap().name())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    assert!(std::io::BufRead::lines(out).any(|line| line.unwrap().contains("armed")));
    assert!(is_hooked(&guest, "sched_wakeup") && is_hooked(&guest, "sched_switch"));
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = |_| {
        std::thread::sleep(Duration::from_millis(100));
        !is_hooked(&guest, "sched_wakeup") && !is_hooked(&guest, "sched_switch")
    };
    assert!((0..300).any(gone));
    // The module goes, and the kernel has nothing to say.
    ground.sh("for i in $(seq 100); do rmmod klab && exit 0; sleep 0.1; done; exit 1");
    let log = ground.sh("dmesg | grep -cE 'WARNING|BUG|Oops|Call Trace' || true");
    assert_eq!(log.trim(), "0");
}

crate::on_kernels!(names_are_those_of_tracefs);

/// Every 20th event of the kernel's list, and names that mean two things or nothing. Naming needs no module.
fn names_are_those_of_tracefs(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    let guest = ground.guest.clone();
    let said = ground.sh(&format!("{TRACING}; cat available_events"));
    let events = said.lines().filter(|line| !line.starts_with("syscalls:"));
    let (mut yes, mut absent) = (0, Vec::new());
    for event in events.step_by(20) {
        match guest.trace([event]) {
            Ok(trace) => {
                assert_eq!(trace.functions().collect::<Vec<_>>(), [event]);
                yes += 1;
            }
            Err(_) => absent.push(event),
        }
    }
    // Those of ftrace's own records are no tracepoints.
    assert!(yes > 20 && absent.len() * 10 < yes, "{yes} {absent:?}");
    let names = |name: &str| -> Result<Vec<String>, String> {
        let trace = guest.trace([name]).map_err(|error| error.to_string())?;
        Ok(trace.functions().map(str::to_owned).collect())
    };
    let both = names("consume_skb").unwrap_err();
    assert!(both.contains("skb:consume_skb or function:consume_skb"), "{both}");
    assert_eq!(names("skb:consume_skb").unwrap(), ["skb:consume_skb"]);
    assert_eq!(names("tracepoint:consume_skb").unwrap(), ["skb:consume_skb"]);
    assert_eq!(names("function:consume_skb").unwrap(), ["consume_skb"]);
    assert_eq!(names("sched_switch").unwrap(), ["sched:sched_switch"]);
    assert!(names("sched:sched_process_*").unwrap().len() > 4);
    let wrong = names("tracepoint:no_such").unwrap_err();
    assert!(wrong.contains("no tracepoint is called no_such"), "{wrong}");
    assert!(names("sched:vfs_read").is_err() && names("no_such").is_err());
}
