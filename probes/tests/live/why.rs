//! Tasks that wait for one another: `klab why` names who, what for and whose, where `/proc/PID/wchan` has the function.

use std::path::Path;
use std::time::Duration;

use probes::Guest;
use probes::why::{Chain, Link, Object, Reason, Reasons};
use vm::Silent;
use vm::toolchain::Toolchain;

use crate::ground::Ground;
use crate::ledger::Ledger;
use crate::locking::holders;

crate::on_kernels!(names_who_waits_for_whom);

/// The reasons of one instant.
fn why(guest: &Guest) -> Reasons {
    let reasons = guest.paused(Guest::why).unwrap();
    assert!(reasons.missing.is_empty(), "{:?}", reasons.missing);
    reasons
}

/// The one chain of a task.
fn chain(guest: &Guest, pid: i32) -> Chain {
    let reasons = guest.paused(|guest| guest.why_of(pid)).unwrap();
    assert!(reasons.missing.is_empty(), "{:?}", reasons.missing);
    match reasons.reasons.into_iter().next() {
        Some(Reason::Waits(chain) | Reason::Deadlock(chain)) => chain,
        other => panic!("{other:?}"),
    }
}

fn holder(link: &Link) -> Option<i32> {
    let wait = link.wait.as_ref()?;
    wait.holder.as_ref().map(|holder| holder.pid)
}

/// Waits until the kernel's threads of these names are there, and gives their PIDs.
fn threads<const N: usize>(guest: &Guest, names: [&str; N]) -> [i32; N] {
    names.map(|name| {
        for _ in 0..100 {
            let tasks = guest.tasks().unwrap();
            if let Some(task) = tasks.iter().find(|task| task.comm == name) {
                return task.pid;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("no {name}")
    })
}

/// Asks again until there are so many reasons: the guest's seconds are not ours.
fn until(guest: &Guest, what: &str, found: impl Fn(&Reasons) -> bool) -> Reasons {
    for _ in 0..120 {
        let reasons = why(guest);
        if found(&reasons) {
            return reasons;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    panic!("{what}: {:#?}", why(guest))
}

pub(crate) fn names_who_waits_for_whom(kernel: &str) {
    let mut ground = Ground::bare(kernel, vm::Options::default().memory);
    let healthy = why(&ground.guest);
    assert_eq!(healthy.reasons, [], "of a healthy guest");
    assert!(healthy.tasks > 30, "{}", healthy.tasks);
    let who = holders(&mut ground);
    let rt = ground.sh("uname -v").contains("PREEMPT_RT");
    let mut ledger = Ledger::new(format!("reasons on {kernel}"));
    // The first thing that each waits for, and the task: with PREEMPT_RT it is the rt_mutex inside, and a writer that
    // waits for readers has it already.
    let cases = [
        ("second", Object::Mutex, "reader"),
        ("wants_to_write", Object::RwSem, "writer"),
        ("wants_to_read", Object::RwSem, "writer"),
        ("wants_to_write_r", Object::RwSem, "last_reader"),
    ];
    for (name, on, by) in cases {
        let readers = by == "last_reader";
        if rt && readers {
            continue;
        }
        let found = chain(&ground.guest, who[name]);
        let first = &found.links[0];
        let wait = first.wait.as_ref();
        let on = if rt { Object::RtMutex } else { on };
        ledger.same(name, "kind", &wait.map(|wait| wait.on), &Some(on));
        ledger.same(name, "holder", &holder(first), &Some(who[by]));
        let count = wait.and_then(|wait| wait.readers);
        ledger.same(name, "readers", &count, &readers.then_some(2));
        let next = found.links.get(1).map(|link| link.task.pid);
        ledger.same(name, "next", &next, &Some(who[by]));
        let last = found.links.last().unwrap();
        let wait = last.wait.as_ref().map(|wait| wait.on);
        ledger.same(name, "last", &wait, &Some(Object::WaitQueue));
    }
    let parent = chain(&ground.guest, who["parent"]);
    let wait = parent.links[0].wait.as_ref().map(|wait| wait.on);
    ledger.same("parent", "kind", &wait, &Some(Object::Completion));
    let child = ground.sh(&format!("cat /proc/{0}/task/{0}/children", who["parent"]));
    let child: Option<i32> = child.trim().parse().ok();
    ledger.same("parent", "holder", &holder(&parent.links[0]), &child);
    for (name, pid) in &who {
        let wchan = ground.sh(&format!("cat /proc/{pid}/wchan"));
        let function = chain(&ground.guest, *pid).links[0].function.clone();
        ledger.same(name, "wchan", &function.as_deref(), &Some(wchan.trim()));
    }
    // All tasks that wait for one directory, or for another, are one reason; all are told of after some seconds.
    let told = |found: &Reasons| -> Vec<i32> {
        let chains = found.reasons.iter().filter_map(|reason| match reason {
            Reason::Waits(chain) => Some(chain),
            _ => None,
        });
        let tasks = chains.flat_map(|chain| chain.links.iter().map(|link| &link.task).chain(&chain.behind));
        tasks.map(|task| task.pid).collect()
    };
    until(&ground.guest, "the tasks that wait for long", |found| {
        let told = told(found);
        ["wants_to_write", "wants_to_read", "writer", "parent"]
            .iter()
            .all(|name| told.contains(&who[*name]))
    });
    ledger.end(&[("kind", 4), ("holder", 4), ("wchan", 9)]);
}

/// A guest with a fault.
fn planted(fault: &str) -> Ground {
    let mut ground = Ground::bare("default", vm::Options::default().memory);
    let machine = ground.guest.machine().unwrap();
    let toolchain = Toolchain::of(machine.kernel().unwrap()).unwrap();
    toolchain.ensure(&mut Silent).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kmod/faults");
    let module = toolchain.build("klab_faults", &source, &mut Silent).unwrap();
    let at = "/run/klab_faults.ko";
    ground.agent.push_file(&module, at).unwrap();
    ground
        .agent
        .load_module(at, &format!("fault={fault}"))
        .unwrap();
    ground
}

#[test]
fn a_deadlock_is_found_at_once() {
    let ground = planted("deadlock");
    let guest = &ground.guest;
    let [first, second, bystander] = threads(guest, ["klab-first", "klab-second", "klab-bystander"]);
    let found = until(guest, "the bystander", |found| {
        let behind = |chain: &Chain| chain.behind.iter().any(|task| task.pid == bystander);
        matches!(found.reasons.first(), Some(Reason::Deadlock(chain)) if behind(chain))
    });
    let [Reason::Deadlock(chain)] = found.reasons.as_slice() else {
        panic!("{found:#?}");
    };
    let mut pids: Vec<i32> = chain.links.iter().map(|link| link.task.pid).collect();
    pids.sort_unstable();
    let mut both = [first, second];
    both.sort_unstable();
    assert_eq!(pids, both);
    for link in &chain.links {
        let wait = link.wait.as_ref().unwrap();
        assert_eq!(wait.on, Object::Mutex);
        // The one that the other has taken first.
        let name = if link.task.pid == first { "klab_fault_two" } else { "klab_fault_one" };
        assert_eq!(wait.at, guest.symbol(name).unwrap());
        let within = wait.within.as_deref().unwrap();
        assert!(within.contains(name), "{within}");
    }
    let sentence = found.reasons[0].sentence();
    assert!(sentence.starts_with("Deadlock: "), "{sentence}");
}

#[test]
fn planted_waits_are_named() {
    let cases = [
        ("rwsem", Object::RwSem, "klab-reader", Some("klab-writer"), "klab_fault_rwsem"),
        ("semaphore", Object::Semaphore, "klab-waiter", Some("klab-holder"), "klab_fault_sem"),
        ("lost_wakeup", Object::Completion, "klab-forgotten", None, "klab_fault_done"),
    ];
    for (fault, on, waiter, by, name) in cases {
        let ground = planted(fault);
        let guest = &ground.guest;
        let [pid] = threads(guest, [waiter]);
        let found = until(guest, fault, |found| {
            found.reasons.iter().any(|reason| {
                matches!(reason, Reason::Waits(chain) if chain.links[0].task.pid == pid)
            })
        });
        let Some(Reason::Waits(chain)) = found.reasons.first() else {
            panic!("{found:#?}");
        };
        let wait = chain.links[0].wait.as_ref().unwrap();
        assert_eq!((wait.on, wait.at), (on, guest.symbol(name).unwrap()), "{fault}");
        let holder = wait.holder.as_ref().map(|holder| holder.comm.as_str());
        assert_eq!(holder, by, "{fault}");
    }
}

#[test]
fn a_cpu_that_changes_no_tasks_is_named() {
    let ground = planted("softlockup");
    let guest = &ground.guest;
    let [pid] = threads(guest, ["klab-spinner"]);
    let lockup = |found: &Reasons| {
        found
            .reasons
            .iter()
            .any(|reason| matches!(reason, Reason::SoftLockup { task, .. } if task.pid == pid))
    };
    until(guest, "the soft lockup", lockup);
}

#[test]
fn what_all_share_and_nobody_gets_is_named() {
    let mut ground = Ground::bare("default", vm::Options::default().memory);
    let written = ground.sh(
        "modprobe loop; dd if=/dev/zero of=/tmp/image bs=1M count=16 2>/dev/null; mke2fs -F /tmp/image >/dev/null 2>&1
        mkdir -p /mnt/frozen; mount -o loop -t ext4 /tmp/image /mnt/frozen; fsfreeze --freeze /mnt/frozen
        sh -c 'echo $$; exec >/mnt/frozen/file; echo x' </dev/null & sleep 1",
    );
    let pid: i32 = written.trim().parse().unwrap();
    let guest = ground.guest.clone();
    let of_writer = |reason: &&Reason| matches!(reason, Reason::Waits(chain) if chain.links[0].task.pid == pid);
    let found = until(&guest, "the writer", |found| found.reasons.iter().any(|reason| of_writer(&reason)));
    let frozen = found.reasons.iter().find(|reason| matches!(reason, Reason::Frozen(_)));
    let writer = found.reasons.iter().find(of_writer);
    let (Some(Reason::Frozen(fs)), Some(waits @ Reason::Waits(chain))) = (frozen, writer) else {
        panic!("{found:#?}");
    };
    assert_eq!((fs.fs_type.as_str(), fs.level), ("ext4", "complete"));
    let said = ground.sh("grep /mnt/frozen /proc/self/mountinfo");
    assert!(said.contains(&format!("/dev/{} ", fs.id)), "{said}");
    assert_eq!((chain.links.len(), chain.links[0].task.pid), (1, pid));
    let sentence = waits.sentence();
    assert!(sentence.contains(&format!("ext4 on {}, which is frozen", fs.id)), "{sentence}");
    ground.sh("fsfreeze --unfreeze /mnt/frozen");
    assert_eq!(until(&guest, "the end", |found| found.reasons.is_empty()).reasons, []);

    // No zone has as much as it must keep, as long as the guest stands.
    let change = guest.writable().unwrap();
    let used_up = guest
        .paused(|guest| {
            let nodes = guest.zones()?;
            let zones = nodes.iter().flat_map(|node| &node.zones);
            let marks = zones.map(|zone| format!("((struct zone *){})->_watermark[0]", zone.at));
            let marks: Vec<_> = marks.map(|mark| Ok((guest.eval(&mark)?, guest.eval(&mark)?.to_value()?))).collect::<probes::Result<_>>()?;
            for (mark, _) in &marks {
                change.store(mark, u64::from(u32::MAX))?;
            }
            let used_up = guest.why()?;
            for (mark, was) in &marks {
                let probes::object::Value::Uint(was) = was else { panic!("{was:?}") };
                change.store(mark, *was)?;
            }
            Ok(used_up)
        })
        .unwrap();
    let [Reason::Memory { free, managed }] = used_up.reasons.as_slice() else {
        panic!("{used_up:#?}");
    };
    let said = ground.sh("grep -e MemTotal -e MemFree /proc/meminfo");
    let kib: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(managed / 1024, kib[0], "{said}");
    assert!(free.abs_diff(kib[1] * 1024) < 16 << 20, "{said}");
    assert_eq!(why(&guest).reasons, []);

    // A queue whose driver has stopped it, and which has sent nothing for ten seconds.
    ground.sh("modprobe virtio_net; ip link set eth0 up");
    let stalled = guest
        .paused(|guest| {
            let eth0 = guest.net_device("eth0")?;
            let queue = eth0[0].tx[0].at;
            let member = |member: &str| guest.eval(&format!("((struct netdev_queue *){queue})->{member}"));
            let (state, start) = (member("state")?, member("trans_start")?);
            let was = [state.to_value()?, start.to_value()?].map(|value| match value {
                probes::object::Value::Uint(was) => was,
                other => panic!("{other:?}"),
            });
            let now = guest.kernel()?.read_u64(guest.symbol("jiffies_64")?)?;
            change.store(&state, was[0] | 1)?;
            change.store(&start, now - 10 * 250)?;
            let stalled = guest.why()?;
            change.store(&state, was[0])?;
            change.store(&start, was[1])?;
            Ok(stalled)
        })
        .unwrap();
    let [Reason::TxStall(queue)] = stalled.reasons.as_slice() else {
        panic!("{stalled:#?}");
    };
    assert_eq!((queue.device.as_str(), queue.queue, queue.by, queue.seconds), ("eth0", 0, "driver", 10));
    assert_eq!(why(&guest).reasons, []);
}
