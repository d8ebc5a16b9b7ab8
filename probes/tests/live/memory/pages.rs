//! Every page frame: `/proc/kpageflags`, `/proc/kpagecount`, and the zones of `/proc/zoneinfo`.

use std::collections::BTreeMap;

use probes::page::{MemMap, Page, PageKind};

use crate::ground::Ground;
use crate::ledger::Ledger;

/// `KPF_*` of `include/uapi/linux/kernel-page-flags.h` and `include/linux/kernel-page-flags.h`, by the name of the flag
/// that is copied from the folio's first page.
const COPIED: [(u32, &str); 18] = [
    (0, "locked"),
    (2, "referenced"),
    (3, "uptodate"),
    (4, "dirty"),
    (5, "lru"),
    (6, "active"),
    (8, "writeback"),
    (9, "reclaim"),
    (14, "swapbacked"),
    (18, "unevictable"),
    (32, "reserved"),
    (33, "mlocked"),
    (35, "private"),
    (36, "private_2"),
    (37, "owner_priv_1"),
    (38, "arch_1"),
    (1, "error"),
    (39, "uncached"),
];

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|word| u64::from_le_bytes(*word))
        .collect()
}

fn ask(ground: &mut Ground) -> (Vec<u64>, Vec<u64>) {
    let mut read = |name: &str| words(&ground.agent.read(&format!("/proc/{name}")).unwrap());
    (read("kpageflags"), read("kpagecount"))
}

/// Differences of a reading of a frame from `/proc`, and the references that the frame has.
type Faults = BTreeMap<u64, (i32, String)>;

pub(super) fn are_those_of_proc(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("pages on {kernel}"));
    let mut faults: Option<Faults> = None;
    // Pages that the agent uses while it reads are free in between, most of them others each time.
    for _ in 0..3 {
        let found = once(
            ground,
            &mut ledger,
            kernel.starts_with("6.1-") || kernel == "6.1",
        );
        faults = Some(match faults {
            None => found,
            Some(before) => found
                .into_iter()
                .filter(|(pfn, _)| before.contains_key(pfn))
                .collect(),
        });
    }
    let faults = faults.unwrap();
    let lent = faults
        .values()
        .filter(|(refcount, _)| *refcount == 0)
        .count();
    ledger.same(lent, "lent to the agent", &(lent < 128), &true);
    for (pfn, (refcount, fault)) in faults {
        if refcount != 0 {
            ledger.fault(format!("{pfn:#x}: {fault}"));
        }
    }
    ledger.end(&[
        ("kpagecount", 360_000),
        ("flags", 300_000),
        ("zone", 300_000),
        ("free", 60_000),
        ("slab", 3_000),
        ("page table", 60),
        ("anon", 600),
        ("compound", 3_000),
        ("hugetlb", 9000),
        ("swapbacked", 300),
    ]);
}

fn once(ground: &mut Ground, ledger: &mut Ledger, old: bool) -> Faults {
    let (before, (pages, zones), after) = ground.sandwich(ask, |guest| {
        let memmap = MemMap::of(&guest.kernel()?)?;
        let zones = guest.zones()?;
        // The guest's RAM has no hole that the memory map does not cover.
        let end = (512 << 20) / 4096;
        let pages: probes::Result<Vec<Page>> = (0..end).map(|pfn| memmap.page(pfn)).collect();
        Ok((pages?, zones))
    });
    let mut faults = Faults::new();
    for page in &pages {
        let pfn = page.pfn as usize;
        if before.1[pfn] == after.1[pfn] {
            let count = before.1[pfn].cast_signed();
            ledger.same(pfn, "kpagecount", &true, &true);
            if page.mapcount != count {
                let fault = format!("mapcount is {}, /proc has {count}", page.mapcount);
                faults.insert(page.pfn, (page.refcount, fault));
            }
        }
        if before.0[pfn] != after.0[pfn] {
            continue;
        }
        if let Err(fault) = compare(ledger, page, before.0[pfn], old) {
            faults.insert(page.pfn, (page.refcount, fault));
        }
        let zone = zones[0]
            .zones
            .iter()
            .find(|zone| (zone.start_pfn..zone.start_pfn + zone.spanned).contains(&page.pfn));
        // Frame 0 is of no zone.
        if let Some(zone) = zone {
            ledger.same(pfn, "zone", &page.zone, &zone.name);
        }
    }
    faults
}

fn compare(ledger: &mut Ledger, page: &Page, said: u64, old: bool) -> Result<(), String> {
    let has = |bit: u32| said >> bit & 1 == 1;
    let tail = page.folio.as_ref().is_some_and(|folio| folio.index > 0);
    let head = page.folio.as_ref().is_some_and(|folio| folio.index == 0);
    let flag = |name: &str| page.flags.iter().any(|flag| flag == name);
    let mut one = |field: &'static str, memory: bool, proc: bool| {
        if memory || proc {
            ledger.same(page.pfn, field, &true, &true);
        }
        match memory == proc {
            true => Ok(()),
            false => Err(format!("{field}: {page:?}, but /proc has {said:#x}")),
        }
    };
    // Kernels before 6.9 copy each page's own flags and marks, also of those that are not a folio's first.
    if !(old && tail) {
        for (bit, name) in COPIED {
            one("flags", flag(name), has(bit))?;
        }
        one("slab", page.kind == PageKind::Slab, has(7))?;
        one("swapbacked", flag("swapbacked"), has(14))?;
        // The word that a slab has in the place of `mapping` is taken for one.
        if page.kind != PageKind::Slab {
            one(
                "anon",
                matches!(page.kind, PageKind::Anon | PageKind::Ksm),
                has(12),
            )?;
        }
    }
    one("free", matches!(page.kind, PageKind::Free { .. }), has(10))?;
    one("hugetlb", page.kind == PageKind::Hugetlb, has(17))?;
    one(
        "page table",
        page.kind == PageKind::Typed("table".to_owned()),
        has(26),
    )?;
    one("compound", head, has(15))?;
    one("compound", tail, has(16))
}
