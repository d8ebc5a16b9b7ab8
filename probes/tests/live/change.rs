//! Writes: the kernel itself says what is there then, by its own files; what is refused, and who is told.

use probes::object::Value;
use probes::{ErrorKind, Guest};
use vm::Machine;

use crate::ground::Ground;

crate::on_kernels!(writes_are_what_the_kernel_reads);

fn writes_are_what_the_kernel_reads(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    let guest = ground.guest.clone();
    let machine = guest.machine().unwrap();
    assert!(machine.writes().is_empty());
    let change = guest.writable().unwrap();

    // An integer, as /proc/sys shows it and as the kernel takes it.
    let before: i64 = ground.sh("cat /proc/sys/vm/swappiness").trim().parse().unwrap();
    let done = change.set("*(int *)&vm_swappiness", 7).unwrap();
    assert_eq!((done.old, done.new), (Value::Int(before), Value::Int(7)));
    assert_eq!(ground.sh("cat /proc/sys/vm/swappiness"), "7\n");
    // A text: the task's name in /proc, and nothing left of a longer one.
    // An execve would give it its name anew.
    let line = "sleep 1000 >/dev/null 2>&1 </dev/null & while [ \"$(cat /proc/$!/comm)\" != sleep ]; do :; done; echo $!";
    let pid: i32 = ground.sh(line).trim().parse().unwrap();
    let task = guest.find_task(pid).unwrap();
    let comm = task.member("comm").unwrap();
    for name in ["fifteen letters", "hello"] {
        change.store(&comm, name).unwrap();
        assert_eq!(ground.sh(&format!("cat /proc/{pid}/comm")).trim(), name);
    }
    // A member that is followed by others: its neighbours stay.
    let value = |member: &str| task.member(member).unwrap().i64().unwrap();
    let signal = task.member("signal").unwrap();
    let least = || signal.member("oom_score_adj_min").unwrap().i64().unwrap();
    let before_it = least();
    change.store(&signal.member("oom_score_adj").unwrap(), -17).unwrap();
    assert_eq!(ground.sh(&format!("cat /proc/{pid}/oom_score_adj")), "-17\n");
    assert_eq!(least(), before_it);
    // A bit field.
    let flag = task.member("no_cgroup_migration").unwrap();
    let around = ["sched_reset_on_fork", "sched_contributes_to_load", "in_execve"].map(value);
    for bit in [1_i64, 0] {
        change.store(&flag, bit).unwrap();
        assert_eq!(flag.i64().unwrap(), bit);
        assert_eq!(["sched_reset_on_fork", "sched_contributes_to_load", "in_execve"].map(value), around);
    }
    // A pointer.
    let parent = task.member("real_parent").unwrap();
    let was = parent.pointer().unwrap();
    let init = guest.find_task(1).unwrap().pointer().unwrap();
    guest
        .paused(|_| {
            change.store(&parent, init)?;
            assert_eq!(guest.task(pid)?.ppid, Some(1));
            change.store(&parent, was)
        })
        .unwrap();

    // As a command has them: words.
    let name = format!("((struct task_struct *){:#x})->comm", task.pointer().unwrap().0);
    for value in ["a_word", "\"a text\"", "by words ("] {
        change.set_c(&name, value).unwrap();
        assert_eq!(ground.sh(&format!("cat /proc/{pid}/comm")).trim(), value.trim_matches('"'));
    }
    let expression = "*(int *)&vm_swappiness";
    assert!(change.set_c(expression, "no value (").is_err());
    let fault = change.set_c("vm_swappiness", "1").unwrap_err();
    assert!(fault.to_string().contains("cast its address"), "{fault}");
    assert_eq!(change.set_c(expression, "2 * 4").unwrap().new, Value::Int(8));

    // A value that does not fit is refused, and nothing is written.
    let told = machine.writes().len();
    for (what, value, kind) in [
        ("*(int *)&vm_swappiness", i64::MAX, ErrorKind::Invalid),
        ("init_task", 1, ErrorKind::Invalid),
        ("1 + 1", 1, ErrorKind::Invalid),
        ("*(int *)&vfs_read", 1, ErrorKind::Invalid),
        ("*(int *)0x1000", 1, ErrorKind::Unmapped),
        ("no_such_variable", 1, ErrorKind::Absent),
    ] {
        let fault = change.set(what, value).unwrap_err();
        assert_eq!(fault.kind(), kind, "{what}: {fault}");
    }
    assert_eq!(change.store(&flag, 2).unwrap_err().kind(), ErrorKind::Invalid);
    let fault = change.store(&comm, "sixteen letters!").unwrap_err();
    assert!(fault.to_string().contains("15 bytes and its NUL"), "{fault}");
    assert_eq!(machine.writes().len(), told);

    // All are told to every client until the reset.
    assert_eq!(told, 12);
    assert!(machine.writes()[0].contains("vm_swappiness = 7"));
    assert_eq!(Machine::attach(machine.name()).unwrap().status().writes.len(), told);
    let mut machine = machine;
    machine.reset().unwrap();
    assert!(machine.status().writes.is_empty());
    assert_eq!(guest.eval("*(int *)&vm_swappiness").unwrap().i64().unwrap(), before);
}

#[test]
fn what_klab_did_not_start_is_written_to_when_asked() {
    let mut ground = Ground::bare("default", 512 << 20);
    let own = ground.guest.machine().unwrap();
    let attached = format!("{}-q", own.name());
    let guest = Guest::attach_qmp(&attached, own.qmp_socket()).unwrap();
    let fault = guest.writable().unwrap_err();
    assert_eq!(fault.kind(), ErrorKind::Unsupported);
    assert!(fault.to_string().contains("--write"), "{fault}");
    let change = guest.writable_attached().unwrap();
    change.set("*(int *)&vm_swappiness", 9).unwrap();
    assert_eq!(ground.sh("cat /proc/sys/vm/swappiness"), "9\n");
    guest.machine().unwrap().detach().unwrap();
}
