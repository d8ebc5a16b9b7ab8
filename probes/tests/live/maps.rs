//! All areas of all processes: `/proc/PID/maps`, line by line.

use std::collections::BTreeMap;

use probes::mm::{Vma, Vmas};
use probes::{Guest, Result};
use vm::agent::values;

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_those_of_proc);

pub(crate) type Said = BTreeMap<i32, Vec<values::Vma>>;

/// The areas of every process that has some, by `/proc`.
pub(crate) fn ask(ground: &mut Ground) -> Said {
    let processes = ground.with_mm();
    let maps = processes.iter().filter_map(|task| {
        // One that has ended since has none.
        Some((task.pid, ground.agent.proc_maps(task.pid).ok()?))
    });
    maps.collect()
}

pub(crate) type Seen = BTreeMap<i32, Vmas>;

/// The areas of every process that has some, by memory.
pub(crate) fn read(guest: &Guest) -> Result<Seen> {
    let mut all = BTreeMap::new();
    for task in guest.tasks()?.iter().filter(|task| task.mm.is_some()) {
        all.insert(task.pid, guest.vmas_of(task)?);
    }
    Ok(all)
}

/// Compares each process whose areas stayed as they were.
pub(crate) fn compare(ledger: &mut Ledger, before: &Said, seen: &Seen, after: &Said) {
    for (pid, first) in before {
        let Some(last) = after.get(pid) else { continue };
        let Some(memory) = seen.get(pid) else {
            ledger.fault(format!("{pid} has no areas in memory"));
            continue;
        };
        if first == last {
            areas(ledger, *pid, memory, first);
        }
    }
}

pub(crate) fn are_those_of_proc(kernel: &str) {
    let mut ground = Ground::new(kernel);
    let (before, seen, after) = ground.sandwich(ask, read);
    let mut ledger = Ledger::new(format!("maps on {kernel}"));
    compare(&mut ledger, &before, &seen, &after);
    let paths: Vec<&str> = seen.values().flatten().map(|vma| &*vma.name).collect();
    for path in [
        "[heap]",
        "[stack]",
        "[vdso]",
        "[vvar]",
        "/tmp/busybox 2",
        "/tmp/busybox-gone (deleted)",
    ] {
        assert!(paths.contains(&path), "no {path:?} among the areas");
    }
    ledger.end(&[("areas of", 25), ("start", 400), ("path", 400)]);
}

/// The areas of one process.
fn areas(ledger: &mut Ledger, pid: i32, memory: &[Vma], proc: &[values::Vma]) {
    ledger.same(pid, "areas of", &memory.len(), &proc.len());
    for (seen, said) in memory.iter().zip(proc) {
        let who = format!("{pid} at {:#x}", said.start);
        ledger.same(&who, "start", &seen.start.0, &said.start);
        ledger.same(&who, "end", &seen.end.0, &said.end);
        ledger.same(&who, "perms", &seen.perms(), &said.perms);
        ledger.same(&who, "offset", &seen.offset, &said.offset);
        ledger.same(&who, "dev", &seen.dev, &said.dev);
        ledger.same(&who, "inode", &seen.inode, &said.inode);
        ledger.same(&who, "path", &seen.name, &said.path);
    }
}
