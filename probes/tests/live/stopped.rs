//! A guest that is kept where it stopped: steps and returns are those of its code, others are told that it stands, and it is let go.

use std::time::{Duration, Instant};

use probes::ErrorKind;
use probes::debug::{Reason, Return, Stopped};
use probes::object::Value;
use probes::view::View as _;

use crate::ground::Ground;

crate::on_kernels!(
    it_is_gone_on_from_step_by_step,
    a_condition_that_cannot_be_told,
    writes_stop_it_too,
    it_stands_wherever_it_is,
);

const LONG: Duration = Duration::from_secs(120);
/// Three writes of 5000 bytes.
const DD: &str = "dd if=/dev/zero of=/tmp/dd bs=5000 count=3 2>/dev/null";
const OF_DD: &str = "current->comm == \"dd\" && count == 5000";

fn is_free(guest: &probes::Guest) {
    let machine = guest.machine().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while machine.run_dir().join("holds").exists() || !machine.runs().unwrap() {
        assert!(Instant::now() < until, "the guest is not let go");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn name(stop: &Stopped) -> String {
    stop.here().unwrap().at.name.unwrap()
}

fn it_is_gone_on_from_step_by_step(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    let guest = ground.guest.clone();
    let breakpoint = guest.breakpoint("vfs_write").unwrap().when(OF_DD);
    let mut stop = breakpoint.within(LONG).shell(DD).stay().unwrap();
    assert_eq!(name(&stop), "vfs_write");
    assert_eq!(stop.arg("count").unwrap().u64().unwrap(), 5000);
    assert_eq!(stop.args().unwrap().args[0].ty, "struct file *");
    assert!(stop.eval("current->comm == \"dd\"").unwrap().bool().unwrap());
    let stack = stop.stack().unwrap();
    assert_eq!(stack.frames[1].function, *"ksys_write");

    // Everybody else is told at once, and readers read.
    let began = Instant::now();
    let said = guest.agent().unwrap_err().to_string();
    assert!(said.contains("stopped by a debugger"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let tasks = guest.tasks().unwrap();
    assert!(tasks.iter().any(|task| task.comm == "dd"));
    guest.paused(|guest| guest.stack_traces()).unwrap();
    assert!(!guest.machine().unwrap().runs().unwrap(), "a reading's end let it go");

    // A step is one instruction: the next one, or where it goes to.
    for _ in 0..40 {
        let before = stop.here().unwrap();
        let next = before.code.iter().find(|one| one.at == before.at.at).unwrap();
        let after = stop.step().unwrap();
        let behind = next.at.offset(next.bytes.len() as u64);
        let went = after.at.at;
        let by_itself = next.text.starts_with("ret") || next.text.contains("QWORD") || next.target.is_none();
        assert!(
            went == behind || Some(went) == next.target || by_itself,
            "{}: {} to {went}",
            next.at,
            next.text
        );
    }
    // What called what does not make this call unknown.
    let frames = stop.stack().unwrap().frames;
    let depth = frames.iter().position(|frame| frame.function == *"vfs_write").unwrap();
    let given = stop.args_of_frame(depth).unwrap();
    let count = given.iter().find(|(name, _)| name == "count").unwrap();
    assert_eq!(count.1.u64().unwrap(), 5000);
    while name(&stop) != "vfs_write" {
        stop.finish().unwrap();
    }
    // Over its calls: it never leaves the function before its end.
    for _ in 0..30 {
        let here = stop.step_over().unwrap();
        assert_eq!(here.at.name.as_deref(), Some("vfs_write"), "{here:?}");
        assert!(matches!(here.why, Reason::Step), "{here:?}");
    }
    let end = stop.finish().unwrap();
    let returned = Reason::Returned("vfs_write".to_owned(), Return::Value(Value::Int(5000)));
    assert_eq!((end.why, end.at.name.as_deref()), (returned, Some("ksys_write")));

    // The second call; the third one has no breakpoint any more.
    let again = stop.go_on().unwrap();
    assert_eq!((again.why, again.args.unwrap().len()), (Reason::Breakpoint, 4));
    let all = stop.breakpoints();
    assert_eq!(all.len(), 1);
    assert!(stop.remove(all[0].0).unwrap());
    let none = stop.go_on_for(LONG).unwrap_err();
    assert!(none.kind() == ErrorKind::Absent && none.to_string().contains("the command has ended"), "{none}");
    assert!(!stop.is_standing());
    assert!(stop.step().is_err());
    assert!(guest.agent().is_ok(), "it runs, and its agent answers");
    let here = stop.pause().unwrap();
    assert_eq!(here.why, Reason::Interrupted);
    stop.end().unwrap();
    is_free(&guest);
    assert_eq!(ground.sh("stat -c %s /tmp/dd").trim(), "15000");
}

/// A condition that leads nowhere in one call stops it there; one that makes no sense is an error, which lets it run.
fn a_condition_that_cannot_be_told(kernel: &str) {
    let ground = Ground::bare(kernel, 512 << 20);
    let guest = ground.guest.clone();
    let nowhere = format!("{OF_DD} && *(int *)(unsigned long)8 == 1");
    let breakpoint = || guest.breakpoint("vfs_write").unwrap().within(LONG).shell(DD);
    let stop = breakpoint().when(&nowhere).stay().unwrap();
    let Reason::Condition(why) = stop.why() else {
        panic!("{:?}", stop.why());
    };
    assert!(why.contains("0x0000000000000008"), "{why}");
    assert!(stop.here().unwrap().text().contains("cannot be told here"));
    assert_eq!(stop.arg("count").unwrap().u64().unwrap(), 5000);
    drop(stop);
    is_free(&guest);
    let fault = breakpoint().when("nosuch == 1").stay().unwrap_err();
    assert_eq!(fault.kind(), ErrorKind::Absent, "{fault}");
    is_free(&guest);
}

fn writes_stop_it_too(kernel: &str) {
    let ground = Ground::bare(kernel, 512 << 20);
    let guest = ground.guest.clone();
    let forks = guest.eval("total_forks").unwrap();
    let before = forks.u64().unwrap();
    let watch = guest.watch(&forks).unwrap();
    let mut stop = watch.within(LONG).shell("true; true; true").stay().unwrap();
    let Reason::Write(write) = stop.why().clone() else {
        panic!("{:?}", stop.why());
    };
    assert_eq!((write.old, write.new), (Value::Uint(before), Value::Uint(before + 1)));
    assert_eq!(name(&stop), "copy_process");
    let next = stop.go_on_for(LONG).unwrap();
    let Reason::Write(write) = next.why else {
        panic!("{:?}", next.why);
    };
    assert_eq!(write.new, Value::Uint(before + 2));
    drop(stop);
    is_free(&guest);
}

fn it_stands_wherever_it_is(kernel: &str) {
    let ground = Ground::bare(kernel, 512 << 20);
    let guest = ground.guest.clone();
    let agent = guest.agent().unwrap();
    let mut stop = guest.stop().unwrap();
    let pid = stop.here().unwrap().pid;
    assert_eq!(stop.task().unwrap().pid, pid);
    assert!(guest.stop().is_err(), "one debugger at a time");
    // A breakpoint that is set while it stands is met later, and twice.
    stop.add("do_sys_openat2", None).or_else(|_| stop.add("do_sys_open", None)).unwrap();
    stop.release().unwrap();
    let run = std::thread::spawn(move || {
        let mut agent = agent;
        agent.set_timeout(LONG);
        agent.output(&["cat", "/etc/passwd"]).unwrap()
    });
    for _ in 0..2 {
        let until = Instant::now() + LONG;
        while !stop.poll().unwrap() {
            assert!(Instant::now() < until, "no call");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(*stop.why(), Reason::Breakpoint);
        stop.release().unwrap();
    }
    stop.pause().unwrap();
    stop.end().unwrap();
    is_free(&guest);
    assert!(!run.join().unwrap().stdout.is_empty());
}
