//! The vmalloc space, swap areas and pools of huge pages: `/proc/vmallocinfo`, `/proc/swaps`, `/sys/kernel/mm/hugepages`.

use std::collections::BTreeMap;

use probes::Guest;
use probes::hugetlb::HugePools;
use probes::swap::SwapAreas;
use probes::vmalloc::VmallocAreas;

use crate::ground::Ground;
use crate::ledger::Ledger;

struct Said {
    vmalloc: Vec<String>,
    swaps: String,
    huge: BTreeMap<String, Vec<u64>>,
}

/// The files of a pool, in the order of the fields that are compared.
const POOL: [&str; 5] = [
    "nr_hugepages",
    "free_hugepages",
    "resv_hugepages",
    "surplus_hugepages",
    "nr_overcommit_hugepages",
];

fn ask(ground: &mut Ground) -> Said {
    let mut vmalloc: Vec<String> = ground
        .sh("cat /proc/vmallocinfo")
        .lines()
        .map(str::to_owned)
        .collect();
    vmalloc.sort();
    let swaps = ground.sh("tail -n +2 /proc/swaps");
    let cat = format!(
        "cd /sys/kernel/mm/hugepages; for pool in *; do (cd $pool; echo $pool $(cat {})); done",
        POOL.join(" ")
    );
    let pool = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap().to_owned();
        (name, words.map(|word| word.parse().unwrap()).collect())
    };
    let huge = ground.sh(&cat).lines().map(pool).collect();
    Said {
        vmalloc,
        swaps,
        huge,
    }
}

fn read(guest: &Guest) -> probes::Result<(VmallocAreas, SwapAreas, HugePools)> {
    Ok((
        guest.vmalloc_areas()?,
        guest.swap_areas()?,
        guest.hugetlb()?,
    ))
}

pub(super) fn is_that_of_proc(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("kernel space on {kernel}"));
    let (before, (areas, swaps, pools), after) = ground.sandwich(ask, read);
    vmalloc(&mut ledger, &areas, (&before.vmalloc, &after.vmalloc));
    let lines: Vec<String> = swaps
        .iter()
        .map(|area| {
            let kind = if area.device { "partition" } else { "file" };
            format!(
                "{} {kind} {} {} {}",
                area.path,
                area.pages * 4,
                area.used * 4,
                area.priority
            )
        })
        .collect();
    let words = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    ledger.steady(
        "swaps",
        "swap areas",
        &lines,
        (&words(&before.swaps), &words(&after.swaps)),
    );
    assert!(
        swaps[0].used > 100 && swaps[0].writable,
        "as furnished: {swaps:?}"
    );
    ledger.same("hugepages", "pools", &pools.len(), &before.huge.len());
    for pool in pools.iter() {
        let memory = vec![
            pool.total,
            pool.free,
            pool.reserved,
            pool.surplus,
            pool.overcommit,
        ];
        ledger.steady(
            &pool.name,
            "huge pages",
            &memory,
            (&before.huge[&pool.name], &after.huge[&pool.name]),
        );
    }
    assert!(
        pools
            .iter()
            .any(|pool| pool.default && pool.total == 6 && pool.free == 4),
        "as furnished"
    );
    ledger.end(&[("vmalloc area", 70), ("swap areas", 1), ("huge pages", 2)]);
}

/// A line as `/proc/vmallocinfo` prints it, without the caller's length, pages by node, and `vpages`.
fn line(line: &str) -> (u64, u64, Vec<String>) {
    let mut words = line.split_whitespace();
    let (start, end) = words.next().unwrap().split_once('-').unwrap();
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let mut rest = Vec::new();
    for word in words.skip(1) {
        let by_node = word
            .strip_prefix('N')
            .is_some_and(|w| w.starts_with(|c: char| c.is_ascii_digit()));
        if word == "vpages" || by_node || word == "vm_area" {
            continue;
        }
        rest.push(match word.split_once('/') {
            Some((symbol, _)) => symbol.to_owned(),
            None => word.to_owned(),
        });
    }
    (hex(start), hex(end), rest)
}

fn vmalloc(ledger: &mut Ledger, seen: &VmallocAreas, (before, after): (&[String], &[String])) {
    let mut memory = BTreeMap::new();
    for area in seen.iter() {
        let mut words = Vec::new();
        if let Some(caller) = &area.caller {
            words.push(format!("{}+{:#x}", caller.name, caller.offset));
            words.extend(caller.module.as_ref().map(|module| format!("[{module}]")));
        }
        if area.pages > 0 {
            words.push(format!("pages={}", area.pages));
        }
        words.extend(area.phys.map(|phys| format!("phys={:#018x}", phys.0)));
        words.extend(area.kinds.iter().map(|kind| (*kind).to_owned()));
        memory.insert(area.start.0, (area.start.0 + area.size, words));
        let middle = area.start.offset(area.size / 2);
        ledger.same(
            area.start,
            "area of an address",
            &seen.at(middle),
            &Some(area),
        );
    }
    for text in before.iter().filter(|text| after.contains(text)) {
        let (start, end, words) = line(text);
        ledger.same(
            text,
            "vmalloc area",
            &memory.get(&start),
            &Some(&(end, words)),
        );
    }
    let steady = before == after;
    if steady {
        ledger.same("vmallocinfo", "vmalloc areas", &memory.len(), &before.len());
    }
}
