//! Breakpoints and watchpoints: what a call gets and gives is what the program that made it knows, no call is lost, and whatever
//! ends the one who watches, the guest goes on.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use probes::debug::{Ended, Return};
use probes::object::Value;
use probes::{ErrorKind, Guest};
use vm::{Machine, Options, State};

use crate::ground::Ground;

crate::on_kernels!(
    breakpoints_give_what_the_program_knows,
    breakpoints_at_both_ends_of_an_entry,
    breakpoints_in_modules,
    breakpoints_agree_with_ftrace,
    watchpoints_tell_the_writer,
);

const SOON: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(120);
/// Three writes of 5000 bytes.
const DD: &str = "dd if=/dev/zero of=/tmp/dd bs=5000 count=3 2>/dev/null";
const OF_DD: &str = "current->comm == \"dd\" && count == 5000";

/// The guest runs, and nothing is left.
fn is_free(guest: &Guest) {
    let machine = guest.machine().unwrap();
    let until = Instant::now() + SOON;
    while machine.run_dir().join("holds").exists() || !machine.runs().unwrap() {
        assert!(Instant::now() < until, "the guest is not let go");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn breakpoints_give_what_the_program_knows(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    let guest = ground.guest.clone();
    // The table: arguments, task, return value.
    let calls = guest.breakpoint("vfs_write").unwrap();
    let calls = calls.when(OF_DD).within(LONG).shell(DD).calls().unwrap();
    assert_eq!((calls.calls.len(), calls.ended), (3, Ended::Command), "{calls:?}");
    for call in &calls.calls {
        let names: Vec<&str> = call.args.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["file", "buf", "count", "pos"]);
        assert_eq!(call.args[2].value, Value::Uint(5000));
        assert_eq!(call.args[0].ty, "struct file *");
        assert_eq!(call.returned, Return::Value(Value::Int(5000)));
        assert_eq!(call.comm, "dd");
        let caller = call.caller.as_ref().unwrap();
        assert_eq!(caller.name.as_deref(), Some("ksys_write"));
    }
    // One call, in place: what it writes is what the program has, and the system call gives what it wrote.
    ground.sh("printf 'these are the bytes' > /tmp/known");
    let mut seen = Vec::new();
    let hits = guest
        .breakpoint("__x64_sys_write")
        .unwrap()
        .within(LONG)
        .when("current->comm == \"dd\" && regs->dx == 19")
        .shell("dd if=/tmp/known of=/tmp/copy 2>/dev/null")
        .each(|call| {
            let regs = call.arg("regs")?;
            let (buffer, len) = (regs.member("si")?.u64()?, regs.member("dx")?.u64()?);
            let task = call.task()?;
            let mut bytes = vec![0; len as usize];
            let user = call.guest().user_space(task.pid)?;
            user.read(probes::memory::GuestVirt(buffer), &mut bytes)?;
            let names: Vec<String> = call
                .stack()?
                .frames
                .iter()
                .map(|frame| frame.function.to_string())
                .collect();
            assert_eq!(names[0], "__x64_sys_write", "{names:?}");
            assert!(names.iter().any(|name| name == "do_syscall_64"), "{names:?}");
            assert!(call.guest().agent().is_err(), "the agent cannot answer");
            let before = call.place()?;
            let after = call.step()?;
            assert_eq!(after.name, before.name);
            assert!(after.offset > before.offset);
            assert_eq!(call.instruction()?.at, after.at);
            let gave = call.finish()?.unwrap().i64()?;
            assert_eq!(call.place()?.name.as_deref().map(|n| n.contains("syscall")), Some(true));
            // Once more is the same.
            assert_eq!(call.finish()?.unwrap().i64()?, gave);
            seen.push((task.comm, bytes, gave));
            Ok(())
        })
        .unwrap();
    assert_eq!(hits.hits, 1, "{hits:?}");
    assert_eq!(seen, [("dd".to_owned(), b"these are the bytes".to_vec(), 19)]);
    // One that sleeps: it returns when its time is over, and others come by.
    let slept = guest
        .breakpoint("hrtimer_nanosleep")
        .unwrap()
        .within(LONG)
        .when("current->comm == \"sleep\"")
        .shell("sleep 0.3 & sleep 0.6; wait")
        .calls()
        .unwrap();
    assert_eq!(slept.calls.len(), 2, "{slept:?}");
    assert!(slept.calls.iter().all(|call| call.returned == Return::Value(Value::Int(0))));
    // An end by the look, by the number, by the time.
    let twice = |most| guest.breakpoint("vfs_write").unwrap().when(OF_DD).at_most(most).within(LONG).shell(DD);
    let hits = twice(10).each(|call| Ok(call.hits() < 2)).unwrap();
    assert_eq!((hits.hits, hits.ended), (2, Ended::Look));
    let hits = twice(1).each(|_| Ok(())).unwrap();
    assert_eq!((hits.hits, hits.ended), (1, Ended::Hits));
    let none = guest.breakpoint("panic").unwrap().within(Duration::from_millis(300));
    let hits = none.each(|_| Ok(())).unwrap();
    assert_eq!((hits.hits, hits.ended), (0, Ended::Time));
    // A thing that is not there is said.
    let fault = guest.breakpoint("no_such_function").unwrap_err();
    assert_eq!(fault.kind(), ErrorKind::Absent);
    assert!(fault.to_string().contains("put into all its callers"), "{fault}");
    assert_eq!(guest.breakpoint("init_task").unwrap_err().kind(), ErrorKind::Invalid);
    let fault = twice(1).each(|call| call.arg("cnt").map(|_| ())).unwrap_err();
    assert_eq!(fault.kind(), ErrorKind::Absent);
    assert!(fault.to_string().contains("file, buf, count, pos"), "{fault}");
    is_free(&guest);
}

fn breakpoints_at_both_ends_of_an_entry(kernel: &str) {
    let mut ground = Ground::to_trace(kernel);
    let guest = ground.guest.clone();
    let start = guest.symbol("vfs_write").unwrap();
    let code = guest.disassembly(start).unwrap().instructions;
    let mut places = vec!["vfs_write".to_owned(), format!("{start}")];
    // Behind the endbr64 and behind what calls ftrace, where there is one; ftrace off and on.
    let first = code.iter().take_while(|one| {
        let patched = one.patched.as_deref();
        // An endbr64 that nobody jumps to is a nop since 6.2.
        let is_landing = one.text.contains("endbr") || one.text.starts_with("nop");
        is_landing || patched.is_some_and(|what| what.starts_with("ftrace"))
    });
    let behind = first.map(|one| one.offset + one.bytes.len() as u64);
    places.extend(behind.map(|offset| format!("vfs_write+{offset:#x}")));
    assert!(places.len() > 2, "{places:?}");
    let mount = "mount -t tracefs t /sys/kernel/tracing 2>/dev/null; cd /sys/kernel/tracing";
    for on in [false, true] {
        if on {
            ground.sh(&format!("{mount}; echo vfs_write > set_ftrace_filter; echo function_graph > current_tracer"));
        }
        for place in &places {
            let mut seen = Vec::new();
            let breakpoint = guest.breakpoint(place).unwrap().when(OF_DD).within(LONG);
            let done = breakpoint.shell(DD).each(|call| {
                seen.push((call.arg("count")?.u64()?, call.finish()?.unwrap().i64()?));
                Ok(())
            });
            done.unwrap();
            assert_eq!(seen, [(5000, 5000); 3], "{place}, ftrace {on}");
        }
    }
    ground.sh("cd /sys/kernel/tracing; echo nop > current_tracer; echo > set_ftrace_filter");
    // In the middle there are no arguments, and its end is found by its stack.
    let middle = code.iter().filter(|one| one.text.starts_with("mov")).nth(2).unwrap();
    let breakpoint = guest.breakpoint(&format!("vfs_write+{:#x}", middle.offset)).unwrap();
    let hits = breakpoint.within(LONG).shell(DD).each(|call| {
        assert_eq!(call.arg("count").unwrap_err().kind(), ErrorKind::Unsupported);
        if call.task()?.comm != "dd" {
            return Ok(true);
        }
        assert_eq!(call.finish()?.unwrap().i64()?, 5000);
        Ok(false)
    });
    assert_eq!(hits.unwrap().ended, Ended::Look);
    is_free(&guest);
}

fn breakpoints_in_modules(kernel: &str) {
    let ground = Ground::bare(kernel, 512 << 20);
    let guest = ground.guest.clone();
    let mut agent = guest.agent().unwrap();
    let line = "ip link add v0 type veth peer name v1";
    assert!(agent.shell(line).unwrap().status.success());
    let breakpoint = guest.breakpoint("veth:veth_open").unwrap().within(LONG);
    let mut names = Vec::new();
    let hits = breakpoint.shell("ip link set v0 up; ip link set v1 up").each(|call| {
        names.push(call.arg("dev")?.member("name")?.string()?);
        assert_eq!(call.place()?.module.as_deref(), Some("veth"));
        // The first has no peer that is up, and both are opened.
        assert_eq!(call.finish()?.unwrap().i64()?, 0);
        Ok(())
    });
    assert_eq!(hits.unwrap().function, "veth_open [veth]");
    assert_eq!(names, ["v0", "v1"]);
    is_free(&guest);
}

/// The guest's own function tracer counts the calls that stop it.
fn breakpoints_agree_with_ftrace(kernel: &str) {
    let mut ground = Ground::to_trace(kernel);
    let guest = ground.guest.clone();
    ground.sh("mount -t tracefs t /sys/kernel/tracing 2>/dev/null; cd /sys/kernel/tracing; echo vfs_read > set_ftrace_filter; echo function > current_tracer; echo > trace");
    let mut of_task: BTreeMap<String, u64> = BTreeMap::new();
    let line = "dd if=/dev/zero of=/dev/null bs=7 count=40 2>/dev/null; ls -lR /proc/self >/dev/null; cat /proc/*/stat > /dev/null; true";
    let breakpoint = guest.breakpoint("vfs_read").unwrap().within(LONG).at_most(100_000);
    let hits = breakpoint.shell(line).each(|call| {
        let task = call.task()?;
        *of_task.entry(format!("{}-{}", task.comm, task.pid)).or_default() += 1;
        Ok(())
    });
    ground.sh("cd /sys/kernel/tracing; echo 0 > tracing_on");
    let trace = ground.sh("cat /sys/kernel/tracing/trace");
    let mut traced: BTreeMap<String, u64> = BTreeMap::new();
    for line in trace.lines().filter(|line| line.contains(": vfs_read <-")) {
        let task = line.split_whitespace().next().unwrap();
        *traced.entry(task.to_owned()).or_default() += 1;
    }
    assert!(hits.unwrap().hits > 50);
    // The writes before and after are of the agent and of the shells that were asked here.
    let mine = |all: &BTreeMap<String, u64>| {
        let mut all = all.clone();
        all.retain(|task, _| ["dd-", "ls-", "cat-"].iter().any(|name| task.starts_with(name)));
        all
    };
    let stopped = mine(&of_task);
    assert!(stopped.values().sum::<u64>() > 50, "{of_task:?}");
    for (task, count) in stopped {
        let traced = traced.get(&task).copied().unwrap_or(0);
        // One of 114 was once not in the trace of 6.1; a stop that is counted twice, or missed, shows in dd's 40 above all.
        let slack = if task.starts_with("dd-") { 0 } else { 1 + count / 100 };
        assert!(traced.abs_diff(count) <= slack, "{task}: {count} stops, {traced} in the trace");
    }
    is_free(&guest);
}

fn watchpoints_tell_the_writer(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    let guest = ground.guest.clone();
    // `processes` of /proc/stat is this variable.
    let processes = |ground: &mut Ground| -> u64 {
        let said = ground.sh("cat /proc/stat");
        let line = said.lines().find_map(|line| line.strip_prefix("processes "));
        line.unwrap().parse().unwrap()
    };
    let before = processes(&mut ground);
    let forks = guest.eval("total_forks").unwrap();
    let write = guest.watch(&forks).unwrap().within(LONG).shell("ls; ls").next().unwrap();
    assert_eq!(write.place.name.as_deref(), Some("copy_process"), "{write:?}");
    let (Value::Uint(old), Value::Uint(new)) = (&write.old, &write.new) else {
        panic!("{write:?}");
    };
    assert_eq!(*new, old + 1);
    assert!((before..=before + 1).contains(old), "{before} {old}");
    let writer = write.writer.as_ref().unwrap();
    assert!(writer.addresses && writer.instruction.text.contains("total_forks"), "{writer:?}");
    let stack = write.stack.as_ref().unwrap();
    assert_eq!((stack.frames[0].function.as_str(), stack.pid), ("copy_process", write.pid));
    assert!(stack.frames.iter().any(|frame| frame.function == "kernel_clone"));
    // Words that a known program writes: a number by a file of /proc/sys, a text by a system call.
    let swappiness = guest.eval("*(int *)&vm_swappiness").unwrap();
    let said: i64 = ground.sh("cat /proc/sys/vm/swappiness").trim().parse().unwrap();
    let line = "echo 7 > /proc/sys/vm/swappiness";
    let write = guest.watch(&swappiness).unwrap().within(LONG).shell(line).next().unwrap();
    assert_eq!((&write.old, &write.new), (&Value::Int(said), &Value::Int(7)));
    assert_eq!(write.comm, "sh");
    let of = |write: &probes::debug::Write| -> Vec<String> {
        let frames = &write.stack.as_ref().unwrap().frames;
        frames.iter().map(|frame| frame.function.to_string()).collect()
    };
    let names = of(&write);
    assert!(names.iter().any(|name| name.contains("dointvec")), "{names:?}");
    assert!(names.iter().any(|name| name == "vfs_write"), "{names:?}");
    let node = guest.eval("init_uts_ns.name.nodename").unwrap();
    let write = guest.watch(&node).unwrap().within(LONG).shell("hostname known").next().unwrap();
    assert!(matches!(&write.new, Value::Text(text) if text.starts_with('k')), "{write:?}");
    assert_eq!(write.comm, "hostname");
    let names = of(&write);
    assert!(names.iter().any(|name| name.contains("sethostname")), "{names:?}");
    // Several writes, each with the one before.
    let mut values = Vec::new();
    let count = guest.watch(&forks).unwrap().within(LONG).shell("ls; ls; ls; ls").each(|write| {
        values.push((write.old.clone(), write.new.clone()));
        Ok(values.len() < 3)
    });
    assert_eq!(count.unwrap(), 3);
    assert!(values.windows(2).all(|pair| pair[0].1 == pair[1].0), "{values:?}");
    // Nothing writes: an error in time.
    let fixed = guest.eval("init_task.pid").unwrap();
    let quiet = guest.watch(&fixed).unwrap().within(Duration::from_millis(300));
    assert_eq!(quiet.next().unwrap_err().kind(), ErrorKind::Absent);
    for (what, kind) in [("1 + 1", ErrorKind::Invalid), ("init_task", ErrorKind::Invalid), ("*(int *)0x1000", ErrorKind::Invalid)] {
        let object = guest.eval(what).unwrap();
        assert_eq!(guest.who_writes(&object).unwrap_err().kind(), kind, "{what}");
    }
    is_free(&guest);
}

/// Two CPUs at a function at once, hundreds of times: no call is lost.
#[test]
fn breakpoints_lose_no_call() {
    for cpus in [1, 2] {
        let mut ground = Ground::of(Options { cpus, ..Options::default() });
        let guest = ground.guest.clone();
        let line = "for cpu in 1 2; do taskset $cpu dd if=/dev/zero of=/dev/null bs=3 count=150 2>/dev/null & done; wait";
        let line = if cpus == 1 { line.replace("taskset $cpu", "") } else { line.to_owned() };
        let mut of_task: BTreeMap<(i32, u32), u64> = BTreeMap::new();
        let began = Instant::now();
        let breakpoint = guest.breakpoint("vfs_write").unwrap().within(LONG * 5).at_most(100_000);
        let hits = breakpoint.when("count == 3").shell(&line).each(|call| {
            let pid = call.eval("current->pid")?.i64()? as i32;
            *of_task.entry((pid, call.cpu())).or_default() += 1;
            Ok(())
        });
        let hits = hits.unwrap();
        println!("{cpus} CPUs: {} calls in {:?}", hits.hits, began.elapsed());
        assert_eq!((hits.hits, hits.ended), (300, Ended::Command), "{of_task:?}");
        assert!(of_task.values().all(|count| *count == 150) , "{of_task:?}");
        // With their returns.
        let line = line.replace("150", "30");
        let calls = guest.breakpoint("vfs_write").unwrap().within(LONG * 5).at_most(100_000);
        let calls = calls.when("count == 3").shell(&line).calls().unwrap();
        assert_eq!(calls.calls.len(), 60);
        let three = Return::Value(Value::Int(3));
        assert!(calls.calls.iter().all(|call| call.returned == three));
        // And a word that both write.
        let forks = guest.eval("total_forks").unwrap();
        let line = "for cpu in 1 2; do (for i in 1 2 3 4 5 6 7 8 9 10; do (true); done) & done; wait";
        let mut last = None;
        let count = guest.watch(&forks).unwrap().within(LONG).shell(line).each(|write| {
            assert!(write.writer.as_ref().is_some_and(|one| one.addresses), "{write:?}");
            assert!(last.is_none() || last == Some(write.old.clone()), "{last:?} {write:?}");
            last = Some(write.new.clone());
            Ok(true)
        });
        assert!(count.unwrap() >= 22);
        is_free(&guest);
        ground.sh("true");
    }
}

/// Task of a child of the tests below: `WAY GUEST`.
const HOLDER: &str = "KLAB_TEST_DEBUG";

fn hold(what: &str) {
    let (way, name) = what.split_once(' ').unwrap();
    let guest = Guest::attach(name).unwrap();
    let stands = || -> ! {
        println!("stands");
        std::thread::sleep(Duration::from_secs(600));
        std::process::exit(7)
    };
    let busy = "while true; do dd if=/dev/zero of=/dev/null bs=3 count=100 2>/dev/null; done";
    let breakpoint = guest.breakpoint("vfs_write").unwrap().within(SOON * 10).when("count == 3");
    let breakpoint = breakpoint.at_most(u64::MAX);
    let _ = match way {
        "stands" => breakpoint.shell(busy).each(|_| -> probes::Result<()> { stands() }),
        "finished" => breakpoint.shell(busy).each(|call| -> probes::Result<()> {
            call.finish()?;
            stands()
        }),
        "panics" => breakpoint.shell(busy).each(|_| -> probes::Result<()> {
            println!("stands");
            panic!("as it was told")
        }),
        "exits" => breakpoint.shell(busy).each(|_| -> probes::Result<()> {
            println!("stands");
            std::process::exit(3)
        }),
        "runs" => breakpoint.shell(busy).each(|call| {
            if call.hits() == 50 {
                println!("stands");
            }
            Ok(())
        }),
        "watches" => {
            let forks = guest.eval("total_forks").unwrap();
            let watch = guest.watch(&forks).unwrap().within(SOON * 10).shell(busy);
            let _ = watch.each(|_| stands());
            return;
        }
        other => panic!("{other}"),
    };
}

#[test]
fn breakpoints_end_with_whoever_set_them() {
    if let Ok(what) = std::env::var(HOLDER) {
        return hold(&what);
    }
    let ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let own = guest.machine().unwrap().name().to_owned();
    // A machine that was attached is let go, too.
    let attached = format!("{own}-q");
    Machine::adopt(&attached, &guest.machine().unwrap().qmp_socket(), None).unwrap();
    let ways = ["stands", "finished", "panics", "exits", "runs", "watches"];
    for way in ways {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "debug::breakpoints_end_with_whoever_set_them", "--nocapture"])
            .env(HOLDER, format!("{way} {own}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = std::io::BufReader::new(child.stdout.take().unwrap());
        let stands = out.lines().map_while(Result::ok).any(|line| line.contains("stands"));
        assert!(stands, "{way}");
        if !matches!(way, "panics" | "exits") {
            child.kill().unwrap();
        }
        child.wait().unwrap();
        is_free(&guest);
        // On each CPU the function is called as if nothing had been.
        let mut agent = guest.agent().unwrap();
        let line = "for cpu in 1 2; do taskset $cpu dd if=/dev/zero of=/dev/null bs=3 count=50 2>/dev/null || exit 1; done; ls >/dev/null";
        assert!(agent.shell(line).unwrap().status.success(), "{way}");
        assert_eq!(guest.status().unwrap().state, State::Running, "{way}");
    }
    let _ = Machine::attach(&attached).unwrap().detach();
}

#[test]
fn breakpoints_of_an_attached_machine() {
    let mut ground = Ground::bare("default", 512 << 20);
    let own = ground.guest.machine().unwrap();
    let attached = format!("{}-q", own.name());
    let guest = Guest::attach_qmp(&attached, own.qmp_socket()).unwrap();
    ground.sh(&format!("while true; do {DD}; done >/dev/null 2>&1 </dev/null &"));
    let calls = guest.breakpoint("vfs_write").unwrap().when(OF_DD).within(LONG);
    let calls = calls.at_most(5).calls().unwrap();
    let all: Vec<&Return> = calls.calls.iter().map(|call| &call.returned).collect();
    assert_eq!(all, [&Return::Value(Value::Int(5000)); 5]);
    let write = guest.who_writes(&guest.eval("total_forks").unwrap()).unwrap();
    assert_eq!(write.place.name.as_deref(), Some("copy_process"));
    is_free(&guest);
    guest.machine().unwrap().detach().unwrap();
    // By its gdbstub alone both ways are one.
    let gdb = own.gdb_socket();
    Machine::adopt(&attached, &own.qmp_socket(), gdb.to_str()).unwrap();
    let guest = Guest::attach(&attached).unwrap();
    let fault = guest.break_at("vfs_write", |_| Ok(())).unwrap_err().to_string();
    assert!(fault.contains("without --gdb"), "{fault}");
    guest.machine().unwrap().detach().unwrap();
}
