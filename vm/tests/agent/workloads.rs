//! Workloads have the shape that was asked for, and leave nothing behind.

use vm::agent::{Made, Workload, WorkloadKind, values::Task};

use crate::Guest;

fn comms<'a>(workload: &'a Workload, comm: &str) -> Vec<&'a Task> {
    workload.tasks.iter().filter(|t| t.comm == comm).collect()
}

/// Stops it, and sees that none of its tasks is left.
fn stop(guest: &mut Guest, workload: &Workload) {
    guest.workload_stop(workload.id).unwrap();
    let left: Vec<_> = guest
        .proc_tasks()
        .unwrap()
        .into_iter()
        .filter(|t| t.pgrp == workload.pid)
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(guest.workload_stop(workload.id).is_err());
}

#[test]
fn trees_threads_sleepers_and_zombies() {
    let mut guest = Guest::up("shapes");
    let comm = "fir".to_owned();
    let tree = guest
        .workload(WorkloadKind::Tree {
            depth: 2,
            width: 3,
            comm,
        })
        .unwrap();
    let firs = comms(&tree, "fir");
    assert_eq!(firs.len(), 13);
    for (parent, children) in [(tree.pid, 3), (firs.last().unwrap().pid, 0)] {
        assert_eq!(firs.iter().filter(|t| t.ppid == parent).count(), children);
    }
    let threads = guest
        .workload(WorkloadKind::Threads {
            count: 5,
            comm: "weave".to_owned(),
        })
        .unwrap();
    assert_eq!(threads.tasks.len(), 6);
    assert!(
        threads
            .tasks
            .iter()
            .all(|t| t.tgid == threads.pid && t.num_threads == 6)
    );
    assert_eq!(comms(&threads, "weave-4").len(), 1);

    let sleeper = guest
        .workload(WorkloadKind::Sleep {
            comm: "exactly15 bytes".to_owned(),
        })
        .unwrap();
    assert_eq!(
        (
            comms(&sleeper, "exactly15 bytes")[0].pid,
            sleeper.tasks.len()
        ),
        (sleeper.pid, 1)
    );

    let zombies = guest.workload(WorkloadKind::Zombies { count: 4 }).unwrap();
    let dead: Vec<i32> = zombies
        .tasks
        .iter()
        .filter(|t| t.state == 'Z')
        .map(|t| t.pid)
        .collect();
    let said: Vec<i32> = zombies
        .made
        .iter()
        .filter_map(|m| {
            if let Made::Zombie { pid } = m {
                Some(*pid)
            } else {
                None
            }
        })
        .collect();
    assert_eq!((dead.len(), dead), (4, said));

    assert_eq!(guest.workloads().unwrap().len(), 4);
    for workload in [tree, threads, sleeper, zombies] {
        stop(&mut guest, &workload);
    }
    let message = guest
        .workload(WorkloadKind::Sleep {
            comm: "sixteen bytes ..".to_owned(),
        })
        .unwrap_err()
        .to_string();
    assert!(message.contains("15 bytes"), "{message}");
    assert!(
        guest
            .workload(WorkloadKind::Tree {
                depth: 9,
                width: 9,
                comm: "x".to_owned()
            })
            .is_err()
    );
}

#[test]
fn mappings_are_where_it_says() {
    let mut guest = Guest::up("maps");
    let workload = guest.workload(WorkloadKind::Maps { count: 500 }).unwrap();
    let vmas = guest.proc_maps(workload.pid).unwrap();
    assert!(workload.made.len() > 510);
    for made in &workload.made {
        let Made::Mapping {
            start,
            end,
            perms,
            path,
            what,
        } = made
        else {
            panic!("{made:?}")
        };
        let vma = vmas
            .iter()
            .find(|v| v.start == *start)
            .unwrap_or_else(|| panic!("{made:?} in {vmas:#x?}"));
        assert_eq!(
            (vma.end, &vma.perms, &vma.path),
            (*end, perms, path),
            "{what}"
        );
    }
    let huge = workload
        .made
        .iter()
        .any(|m| matches!(m, Made::Mapping { start, end, .. } if end - start == 1 << 30));
    assert!(huge && vmas.len() > 520);
    let many = guest
        .workload(WorkloadKind::Maps { count: 10_000 })
        .unwrap();
    assert!(many.made.len() > 1010);
    assert!(guest.proc_maps(many.pid).unwrap().len() > 10_020);
    // The first page of the writable ones is resident, the second is not.
    let Made::Mapping { start, .. } = &workload.made[0] else {
        panic!()
    };
    let pages = guest.proc_pagemap(workload.pid, *start, 2).unwrap();
    assert!(
        pages[0].present && pages[0].pfn != 0 && pages[0].address == *start && !pages[1].present,
        "{pages:?}"
    );
    stop(&mut guest, &workload);
}

#[test]
fn the_break_moves_step_by_step() {
    let mut guest = Guest::up("brk");
    let workload = guest.workload(WorkloadKind::Brk).unwrap();
    let at = |w: &Workload| {
        if let [Made::Break { at }] = w.made[..] {
            at
        } else {
            panic!("{:?}", w.made)
        }
    };
    let (id, first) = (workload.id, at(&workload));
    let heap_end = |guest: &mut Guest| {
        guest
            .proc_maps(workload.pid)
            .unwrap()
            .iter()
            .find(|v| v.path == "[heap]")
            .map(|v| v.end)
    };
    for (step, expected) in [
        (1 << 20, 1 << 20),
        (4096, (1 << 20) + 4096),
        (-8192, (1 << 20) - 4096),
    ] {
        let moved = guest.workload_step(id, step).unwrap();
        assert_eq!(at(&moved), first + expected);
        assert_eq!(heap_end(&mut guest), Some(first + expected));
    }
    let message = guest.workload_step(id, -(1 << 30)).unwrap_err().to_string();
    assert!(message.contains("break"), "{message}");
    assert!(guest.workload_step(id, i64::MAX).is_err());
    assert_eq!(
        at(&guest.workload_step(id, 0).unwrap()),
        first + (1 << 20) - 4096
    );
    stop(&mut guest, &workload);
}

#[test]
fn namespaces_hold_processes_with_pids_of_their_own() {
    let mut guest = Guest::up("namespaces");
    let workload = guest
        .workload(WorkloadKind::Namespaces { count: 3 })
        .unwrap();
    let outside = workload
        .tasks
        .iter()
        .find(|t| t.pid == workload.pid)
        .unwrap();
    let inside: Vec<_> = workload
        .tasks
        .iter()
        .filter(|t| t.nspid.len() == 2)
        .collect();
    assert_eq!(inside.len(), 3);
    let first = inside.iter().find(|t| t.nspid[1] == 1).unwrap();
    for name in ["pid", "net", "mnt", "uts", "ipc"] {
        assert_ne!(first.namespaces[name], outside.namespaces[name], "{name}");
        assert!(
            inside
                .iter()
                .all(|t| t.namespaces[name] == first.namespaces[name]),
            "{name}"
        );
    }
    assert_eq!(first.namespaces["user"], outside.namespaces["user"]);
    assert_eq!(
        workload
            .made
            .iter()
            .filter(|m| matches!(m, Made::Namespace { .. }))
            .count(),
        3
    );
    stop(&mut guest, &workload);
}

#[test]
fn a_busy_guest_still_answers() {
    let mut guest = Guest::up("busy");
    let workload = guest.workload(WorkloadKind::Busy { count: 2 }).unwrap();
    let forks = |guest: &mut Guest| -> u64 {
        let stat = String::from_utf8(guest.read("/proc/stat").unwrap()).unwrap();
        stat.lines()
            .find_map(|l| l.strip_prefix("processes "))
            .unwrap()
            .parse()
            .unwrap()
    };
    let before = forks(&mut guest);
    for _ in 0..10 {
        // Processes come and go under it: none is an error.
        assert!(guest.proc_tasks().unwrap().len() > 40);
    }
    assert!(forks(&mut guest) > before + 10);
    stop(&mut guest, &workload);
}
