//! A guest that does not keep still: what does not change in it is read all the same, and what does is never made up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use probes::Error;
use vm::agent::WorkloadKind;

use crate::ground::Ground;
use crate::ledger::Ledger;
use crate::{maps, tasks};

/// Paused: as in a quiet guest, for all that was there before and after.
pub(crate) fn paused(kernel: &str) {
    let mut ground = Ground::new(kernel);
    ground
        .agent
        .workload(WorkloadKind::Busy { count: 3 })
        .unwrap();
    let mut ledger = Ledger::new(format!("busy, paused, on {kernel}"));
    for _ in 0..3 {
        let (before, seen, after) = ground.sandwich(tasks::ask, tasks::read);
        tasks::compare(&mut ledger, &before, &seen, &after);
    }
    let (before, seen, after) = ground.sandwich(maps::ask, maps::read);
    maps::compare(&mut ledger, &before, &seen, &after);
    ledger.end(&[("pid", 250), ("state", 200), ("start", 350)]);
}

/// Running: each reading is right or says that it was torn.
pub(crate) fn running(kernel: &str) {
    let mut ground = Ground::new(kernel);
    let still = tasks::ask(&mut ground);
    ground
        .agent
        .workload(WorkloadKind::Busy { count: 3 })
        .unwrap();
    let (began, mut torn, mut ledger) = (
        Instant::now(),
        0,
        Ledger::new(format!("busy, running, on {kernel}")),
    );
    while began.elapsed() < Duration::from_secs(5) {
        let tasks = match ground.guest.tasks() {
            Ok(tasks) => tasks,
            Err(Error::Torn { .. }) => {
                torn += 1;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let by_pid: BTreeMap<i32, _> = tasks.iter().map(|task| (task.pid, task)).collect();
        ledger.same("all", "once each", &by_pid.len(), &tasks.len());
        // The tasks of the crowd that were there before live on.
        for (pid, (said, _)) in still.iter().filter(|(_, (said, _))| said.is_leader()) {
            if said.is_kthread() {
                continue;
            }
            match by_pid.get(pid) {
                Some(task) => {
                    let memory = (&*task.comm, task.ppid, task.start_time / 10_000_000);
                    let proc = (&*said.comm, Some(said.ppid), said.starttime);
                    ledger.same(pid, "still there", &memory, &proc);
                }
                None => ledger.fault(format!("{pid} ({}) was missed", said.comm)),
            }
        }
    }
    println!("{torn} readings were torn");
    ledger.end(&[("once each", 20), ("still there", 500)]);
}
