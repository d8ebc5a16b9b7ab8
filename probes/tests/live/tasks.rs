//! All tasks: every thread of every process, field by field.

use std::collections::{BTreeMap, BTreeSet};

use probes::sched::{self, Task};
use probes::{Guest, Result};
use vm::agent::values;

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_those_of_proc);

/// A task in `/proc`, and how often it was switched away from.
pub(crate) type Said = BTreeMap<i32, (values::Task, String)>;

/// A task of memory with what is beside its `task_struct`.
pub(crate) struct Seen {
    pub(crate) task: Task,
    nspid: Vec<i32>,
    pid_ns: Option<u64>,
}

pub(crate) fn ask(ground: &mut Ground) -> Said {
    let tasks = ground.tasks();
    // Read after the tasks before the pause, and before them after it: the narrower side of the sandwich is what
    // counts, so a task that was switched between the two is only taken for less steady than it is.
    let text = ground.sh("cd /proc; grep -H ctxt_switches [0-9]*/task/*/status 2>/dev/null; true");
    let mut switches: BTreeMap<i32, String> = BTreeMap::new();
    for line in text.lines() {
        let mut parts = line.split('/');
        let pid = parts.nth(2).and_then(|pid| pid.parse().ok()).unwrap();
        switches
            .entry(pid)
            .or_default()
            .push_str(parts.next().unwrap());
    }
    let with = |task: values::Task| {
        let pid = task.pid;
        let switches = switches.get(&pid).cloned().unwrap_or_default();
        (pid, (task, switches))
    };
    tasks.into_iter().map(with).collect()
}

pub(crate) fn read(guest: &Guest) -> Result<BTreeMap<i32, Seen>> {
    let kernel = guest.kernel()?;
    let mut seen = BTreeMap::new();
    for process in guest.tasks()? {
        for task in guest.threads(process.pid)? {
            let numbers = sched::pid_numbers(&kernel, task.at)?;
            let nspid = numbers.iter().map(|number| number.nr).collect();
            let pid_ns = numbers.last().map(|number| u64::from(number.inum));
            let (pid, found) = (task.pid, guest.task(task.pid)?);
            assert_eq!(found, task, "found by its pid and in its list");
            let seen_before = seen.insert(
                pid,
                Seen {
                    task,
                    nspid,
                    pid_ns,
                },
            );
            assert!(seen_before.is_none(), "two tasks with pid {pid}");
        }
    }
    Ok(seen)
}

pub(crate) fn are_those_of_proc(kernel: &str) {
    let mut ground = Ground::new(kernel);
    let (before, seen, after) = ground.sandwich(ask, read);
    let mut ledger = Ledger::new(format!("tasks on {kernel}"));
    compare(&mut ledger, &before, &seen, &after);
    let strangers: Vec<&Task> = seen
        .values()
        .map(|seen| &seen.task)
        .filter(|task| !before.contains_key(&task.pid) && !after.contains_key(&task.pid))
        // The agent's threads come and go as they serve us.
        .filter(|task| task.comm != "klab-agent")
        .collect();
    assert!(strangers.is_empty(), "not in /proc: {strangers:?}");
    tree(&mut ledger, &ground, &after);
    let crowd = 13 + 7 + 1 + 1 + 4 + 4 + 1 + 5;
    let all = crowd + 50;
    ledger.end(&[
        ("pid", all),
        ("comm", all),
        ("ppid", all),
        ("state", all),
        ("starttime", all),
        ("nspid", all),
        ("pid namespace", crowd),
        ("child of", crowd),
    ]);
    // The crowd is as odd as it was meant to be.
    let of =
        |field: fn(&Seen) -> String| -> BTreeSet<String> { seen.values().map(field).collect() };
    let states = of(|seen| seen.task.state.letter().to_string());
    assert!(
        ["S", "I", "Z", "T"]
            .iter()
            .all(|state| states.contains(*state)),
        "{states:?}"
    );
    assert!(of(|seen| format!("{:?}", seen.task.uid)).contains("Some(1234)"));
    assert!(of(|seen| format!("{:?}", seen.task.egid)).contains("Some(4321)"));
    assert!(of(|seen| seen.task.nice.to_string()).contains("7"));
    assert!(of(|seen| seen.task.policy.name().to_owned()).contains("FIFO"));
    assert!(of(|seen| seen.nspid.len().to_string()).contains("2"));
}

/// Compares each task that was there all the time.
pub(crate) fn compare(
    ledger: &mut Ledger,
    before: &Said,
    seen: &BTreeMap<i32, Seen>,
    after: &Said,
) {
    for (pid, (first, switches)) in before {
        let Some((last, switches_after)) = after.get(pid) else {
            continue;
        };
        let Some(Seen {
            task,
            nspid,
            pid_ns,
        }) = seen.get(pid)
        else {
            ledger.fault(format!("{pid} ({}) is not found in memory", first.comm));
            continue;
        };
        let who = format!("{pid} ({})", first.comm);
        macro_rules! steady {
            ($field:literal, $memory:expr, $proc:expr) => {{
                let of: fn(&values::Task) -> _ = $proc;
                ledger.steady(&who, $field, &$memory, (&of(first), &of(last)));
            }};
        }
        steady!("pid", task.pid, |t| t.pid);
        steady!("tgid", task.tgid, |t| t.tgid);
        steady!("ppid", task.ppid, |t| Some(t.ppid));
        comm(ledger, task, (&first.comm, &last.comm));
        // Between the two readings the agent has a thread more, the one that serves the reading.
        if first.comm != "klab-agent" {
            steady!("num_threads", task.nr_threads.map(i64::from), |t| Some(t.num_threads));
        }
        steady!("uid", task.uid, |t| Some(t.uid[0]));
        steady!("euid", task.euid, |t| Some(t.uid[1]));
        steady!("gid", task.gid, |t| Some(t.gid[0]));
        steady!("egid", task.egid, |t| Some(t.gid[1]));
        steady!("nice", i64::from(task.nice), |t| t.nice);
        steady!("priority", i64::from(task.prio) - 100, |t| t.priority);
        steady!("policy", task.policy.0, |t| t.policy);
        // nsec_to_clock_t(): a tick is 10 ms.
        steady!("starttime", task.start_time / 10_000_000, |t| t.starttime);
        steady!("kernel thread", task.kthread, values::Task::is_kthread);
        steady!("has mm", task.mm.is_some(), |t| t.mm.is_some());
        steady!("nspid", nspid.clone(), |t| t.nspid.clone());
        if let (Some(pid_ns), true) = (pid_ns, first.namespaces.contains_key("pid")) {
            steady!("pid namespace", *pid_ns, |t| t.namespaces["pid"]);
        }
        // These come and go, and come back: only of a task that did not run meanwhile they are known.
        if switches == switches_after && first.utime == last.utime && first.stime == last.stime {
            steady!("state", task.state.letter(), |t| t.state);
            steady!("flags", task.flags, |t| u64::from(t.flags));
            steady!("processor", i64::from(task.cpu), |t| i64::from(t.processor));
        }
    }
}

/// `/proc` adds to the `comm` of a kernel thread what did not fit, and to a worker's what it works on:
/// `proc_task_name()` of `fs/proc/array.c`. Of them its beginning is compared.
fn comm(ledger: &mut Ledger, task: &Task, proc: (&String, &String)) {
    const PF_WQ_WORKER: u64 = 0x20;
    let longer = task.kthread && (task.comm.len() == 15 || task.flags & PF_WQ_WORKER != 0);
    let cut = |said: &String| {
        let beginning = said.get(..task.comm.len()).filter(|_| longer);
        beginning.unwrap_or(said).to_owned()
    };
    let (before, after) = (cut(proc.0), cut(proc.1));
    ledger.steady(task.pid, "comm", &task.comm, (&before, &after));
}

/// The tree has each process once, below its parent.
fn tree(ledger: &mut Ledger, ground: &Ground, said: &Said) {
    let tree = ground.guest.paused(Guest::task_tree).unwrap();
    let flat = tree.flat();
    for (index, (depth, task)) in flat.iter().enumerate() {
        let Some((proc, _)) = said.get(&task.pid) else {
            continue;
        };
        let above = flat[..index]
            .iter()
            .rev()
            .find(|(above, _)| above < depth)
            .map_or(0, |(_, parent)| parent.tgid);
        ledger.same(task.pid, "child of", &above, &proc.ppid);
    }
}

/// As in the middle of a fork or an exit: one task is in the list of all, and not at its number.
#[test]
fn one_that_is_at_no_number_is_found_in_the_list() {
    let mut ground = Ground::bare("default", 512 << 20);
    let line = "sleep 1000 >/dev/null 2>&1 </dev/null & while [ \"$(cat /proc/$!/comm)\" != sleep ]; do :; done; echo $!";
    let pid: i32 = ground.sh(line).trim().parse().unwrap();
    let guest = ground.guest.clone();
    let task = guest.find_task(pid).unwrap();
    let at = task.pointer().unwrap();
    let first = task.member("thread_pid").unwrap().member("tasks").unwrap().index(0).unwrap().member("first").unwrap();
    let was = first.pointer().unwrap();
    let change = guest.writable().unwrap();
    change.store(&first, 0).unwrap();
    // The kernel's own look-up does not see it.
    assert_eq!(ground.sh(&format!("test -e /proc/{pid} || echo gone")), "gone\n");
    let found = || guest.find_task(pid).unwrap().pointer().unwrap();
    assert_eq!(found(), at);
    assert_eq!(guest.task(pid).unwrap().comm.to_string(), "sleep");
    assert_eq!(guest.threads(pid).unwrap().len(), 1);
    assert!(guest.tasks().unwrap().pid(pid).is_some());
    change.store(&first, was).unwrap();
    assert_eq!(ground.sh(&format!("cat /proc/{pid}/comm")), "sleep\n");
    assert_eq!(found(), at);
    assert!(guest.task(4_000_000).is_err() && guest.task(0).is_err() && guest.task(-1).is_err());
}
