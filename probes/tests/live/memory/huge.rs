//! Huge pages in the page tables of a process: the walk, against `AnonHugePages` of `/proc/PID/smaps` and `pagemap`.

use probes::memory::{EntryKind, GuestVirt, Level};

use crate::ground::Ground;
use crate::ledger::Ledger;

const HUGE: u64 = 2 << 20;

pub(super) fn pages_are_huge(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("huge pages on {kernel}"));
    // The process that cannot write its buffer of 16 MiB into the pipe.
    let pid: i32 = ground.sh("pidof dd").trim().parse().unwrap();
    let areas = ground.agent.proc_maps(pid).unwrap();
    let area = areas
        .iter()
        .find(|area| area.end - area.start >= 8 * HUGE)
        .unwrap();
    let said = format!(
        "sed -n '/^{:x}-/,/^VmFlags/s/^AnonHugePages: *//p' /proc/{pid}/smaps",
        area.start
    );
    let said: u64 = ground
        .sh(&said)
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    let mut huge = 0;
    for at in (area.start.next_multiple_of(HUGE)..=area.end - HUGE).step_by(HUGE as usize) {
        // In the middle of it, as the processor takes it apart.
        let at = at + 0x12_3456;
        let walk = ground.guest.page_walk_of(pid, GuestVirt(at)).unwrap();
        let last = walk.steps.last().unwrap();
        let EntryKind::Page { phys, size } = last.kind else {
            continue;
        };
        let entry = ground.agent.proc_pagemap(pid, at & !4095, 1).unwrap()[0];
        ledger.same(
            at,
            "frame",
            &walk.phys.map(|phys| phys.0 / 4096),
            &Some(entry.pfn),
        );
        if size == HUGE {
            huge += HUGE / 1024;
            ledger.same(at, "level", &(last.level, phys.0 % HUGE), &(Level::Pmd, 0));
            ledger.same(at, "page size", &walk.page_size(), &Some(HUGE));
            let page = ground.guest.page(walk.phys.unwrap()).unwrap();
            let folio = page.folio.map(|folio| (folio.order, folio.index));
            ledger.same(at, "folio", &folio, &Some((9, 0x123)));
        }
    }
    ledger.same(pid, "AnonHugePages", &huge, &said);
    // With `PREEMPT_RT` a kernel has no transparent huge pages (`mm/Kconfig:837@v7.3.4`): all must be small there.
    let transparent = ground.sh("ls -d /sys/kernel/mm/transparent_hugepage || true");
    let least = if transparent.is_empty() { 0 } else { 6 };
    ledger.end(&[
        ("frame", 6),
        ("level", least),
        ("folio", least),
        ("AnonHugePages", 1),
    ]);
}
