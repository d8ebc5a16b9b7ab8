//! The values of `/proc` are what `/proc`'s text says.

use std::collections::BTreeSet;

use vm::agent::{WorkloadKind, values::PF_KTHREAD};

use crate::Guest;

#[test]
fn tasks_are_all_there_and_as_their_text_says() {
    let mut guest = Guest::up("tasks");
    guest
        .workload(WorkloadKind::Threads {
            count: 3,
            comm: "weave".to_owned(),
        })
        .unwrap();
    let tasks = guest.proc_tasks().unwrap();
    let listed = guest.sh("cd /proc; for t in [0-9]*/task/*; do echo ${t##*/}; done");
    let listed: BTreeSet<i32> = listed.lines().filter_map(|l| l.parse().ok()).collect();
    let read: BTreeSet<i32> = tasks.iter().map(|t| t.pid).collect();
    // But for kworkers and the listing shell itself, both see the same.
    assert!(
        read.symmetric_difference(&listed).count() <= 6,
        "{read:?} {listed:?}"
    );

    let init = tasks.iter().find(|t| t.pid == 1).unwrap();
    assert_eq!(
        (init.comm.as_str(), init.ppid, init.exe.as_deref()),
        ("init", 0, Some("/init"))
    );
    let kthreadd = tasks.iter().find(|t| t.pid == 2).unwrap();
    assert!(kthreadd.is_kthread() && kthreadd.mm.is_none() && kthreadd.cmdline.is_empty());
    assert_eq!(init.flags & PF_KTHREAD, 0);

    // One by hand, that keeps still.
    let weave = tasks
        .iter()
        .find(|t| t.comm == "weave" && t.is_leader())
        .unwrap();
    let status =
        String::from_utf8(guest.read(&format!("/proc/{}/status", weave.pid)).unwrap()).unwrap();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
            .unwrap()
            .trim()
            .to_owned()
    };
    let mm = weave.mm.as_ref().unwrap();
    assert_eq!(field("VmSize"), format!("{} kB", mm.vm_size));
    assert_eq!(field("VmExe"), format!("{} kB", mm.vm_exe));
    assert_eq!(field("PPid"), weave.ppid.to_string());
    assert_eq!(field("NSpid"), weave.pid.to_string());
    assert_eq!(weave.uid, [0; 4]);
    let text =
        String::from_utf8(guest.read(&format!("/proc/{}/stat", weave.pid)).unwrap()).unwrap();
    let stat: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let at = |n: usize| stat[n - 3].parse::<u64>().unwrap();
    assert_eq!(
        (mm.start_code, mm.end_code, mm.start_stack),
        (at(26), at(27), at(28))
    );
    assert_eq!(
        (mm.start_data, mm.end_data, mm.start_brk),
        (at(45), at(46), at(47))
    );
    assert_eq!(
        (mm.arg_start, mm.arg_end, mm.env_start, mm.env_end),
        (at(48), at(49), at(50), at(51))
    );
    assert_eq!((weave.starttime, u64::from(weave.flags)), (at(22), at(9)));
    assert!(weave.namespaces.len() >= 8, "{:?}", weave.namespaces);
}

#[test]
fn maps_are_the_lines_of_maps() {
    let mut guest = Guest::up("mapslines");
    let workload = guest.workload(WorkloadKind::Maps { count: 50 }).unwrap();
    let text =
        String::from_utf8(guest.read(&format!("/proc/{}/maps", workload.pid)).unwrap()).unwrap();
    let vmas = guest.proc_maps(workload.pid).unwrap();
    assert_eq!(text.lines().count(), vmas.len());
    for (line, vma) in text.lines().zip(&vmas) {
        let head = format!(
            "{:08x}-{:08x} {} {:08x} {:02x}:{:02x} {}",
            vma.start, vma.end, vma.perms, vma.offset, vma.dev.0, vma.dev.1, vma.inode
        );
        let path = line
            .strip_prefix(&head)
            .unwrap_or_else(|| panic!("{line:?} {head:?}"))
            .trim_start();
        assert_eq!(path, vma.path);
    }
    let message = guest.proc_maps(99_999).unwrap_err().to_string();
    assert!(message.contains("no process 99999"), "{message}");
    assert!(guest.proc_pagemap(1, 0, u32::MAX).is_err());
    assert!(guest.proc_maps(2).unwrap().is_empty());
}

#[test]
fn the_log_the_symbols_and_the_rest() {
    let mut guest = Guest::up("log");
    guest.sh("echo '<3>a line of ours' > /dev/kmsg");
    let log = guest.kmsg().unwrap();
    assert!(log.windows(2).all(|w| w[1].seq == w[0].seq + 1));
    let banner = guest.version().unwrap();
    assert_eq!(log[0].text.trim_end(), banner);
    let ours = log.iter().rfind(|r| r.text == "a line of ours").unwrap();
    assert_eq!((ours.level, ours.facility), (3, 1));
    assert!(
        log.iter()
            .any(|r| r.text.starts_with("klab-agent: ready on 8 ports"))
    );

    let symbols = guest.kallsyms().unwrap();
    let lines: usize = guest.sh("wc -l < /proc/kallsyms").trim().parse().unwrap();
    assert_eq!(symbols.len(), lines);
    let init_task = symbols.iter().find(|s| s.name == "init_task").unwrap();
    assert!(init_task.address > 0xffff_ffff_8000_0000 && init_task.module.is_none());

    let memory = guest.meminfo().unwrap();
    let total = memory.iter().find(|m| m.name == "MemTotal").unwrap().value;
    assert!((400 << 20..512 << 20).contains(&total), "{total}");
    assert!(guest.uptime().unwrap() > 1.0);
}
