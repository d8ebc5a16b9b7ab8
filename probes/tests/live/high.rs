//! RAM above 4 GiB: a second range of the RAM file.

use crate::ground::Ground;
use crate::ledger::Ledger;
use crate::{maps, mm, tasks};

/// Above the hole below 4 GiB, where the guest's devices are.
const HIGH: u64 = 1 << 32;

#[test]
fn ram_above_4_gib() {
    let mut ground = Ground::bare("default", 5 << 30);
    ground.fill();
    let mut ledger = Ledger::new("5 GiB");
    let (before, seen, after) = ground.sandwich(tasks::ask, tasks::read);
    tasks::compare(&mut ledger, &before, &seen, &after);
    let (before, areas, after) = ground.sandwich(maps::ask, maps::read);
    maps::compare(&mut ledger, &before, &areas, &after);
    let kernel = ground.guest.kernel().unwrap();
    let ranges = kernel.space().memory().ranges().to_vec();
    assert!(
        ranges.iter().any(|range| range.start.0 >= HIGH),
        "{ranges:?}"
    );
    let high = seen
        .values()
        .filter(|seen| kernel.virt_to_phys(seen.task.at).unwrap().0 >= HIGH)
        .count();
    assert!(high > 10, "only {high} tasks lie above 4 GiB");
    ledger.end(&[("pid", 90), ("start", 400)]);
    mm::compare_pages(&mut ground, "pages, 5 GiB".to_owned());
}
