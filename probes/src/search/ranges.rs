//! The stretches of memory that a search goes through.

use std::ops::RangeInclusive;

use crate::base::check_interrupt;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::{AddressSpace, GuestPhys, GuestVirt, PhysRange};
use crate::search::what::regions;
use crate::{Error, Missing, Of as _, Result};

/// Most times that a region of the address space may map RAM.
const OVER: u64 = 8;
/// Tables that cannot be read that are named one by one, of each region or mapping.
const TOLD: usize = 16;

/// Addresses in a row, and the memory behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    /// Physical ranges of the memory, in the order of the addresses.
    pub(super) parts: Vec<PhysRange>,
}

impl Run {
    pub(super) fn len(&self) -> u64 {
        self.parts
            .iter()
            .map(|part| part.len)
            .fold(0, u64::saturating_add)
    }

    /// Takes the part within a range of addresses.
    pub(super) fn clip(&self, within: &RangeInclusive<u64>) -> Option<Self> {
        let last = self.start.checked_add(self.len().checked_sub(1)?)?;
        let (first, last) = (self.start.max(*within.start()), last.min(*within.end()));
        if first > last {
            return None;
        }
        let (mut skip, mut left) = (first - self.start, last - first + 1);
        let mut parts = Vec::new();
        for part in &self.parts {
            let gone = skip.min(part.len);
            skip -= gone;
            let len = (part.len - gone).min(left);
            left -= len;
            if len > 0 {
                let start = part.start.offset(gone);
                parts.push(PhysRange { start, len });
            }
        }
        Some(Self {
            start: first,
            parts,
        })
    }
}

/// All of RAM.
pub(super) fn physical(kernel: &Kernel) -> Vec<Run> {
    let memory = kernel.space().memory();
    let run = |range: PhysRange| Run {
        start: range.start.0,
        parts: vec![range],
    };
    let ranges = memory.ranges().iter();
    ranges
        .flat_map(|range| memory.stored(*range))
        .map(run)
        .collect()
}

/// The kernel's half of the address space, as far as it maps RAM.
pub(super) fn kernel(kernel: &Kernel, missing: &mut Vec<Missing>) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for region in regions(kernel)? {
        let wanted = [
            "direct map",
            "vmalloc",
            "vmemmap",
            "kernel image",
            "modules",
        ];
        if !wanted.iter().any(|name| region.name.starts_with(name)) {
            continue;
        }
        let mut last = region.last;
        // The direct map's size is more than there is, and what lies behind it has a region of its own.
        if region.name.starts_with("direct map") {
            let ram = kernel.space().memory().ranges().last();
            let ram = ram.map_or(0, |range| range.start.0.saturating_add(range.len));
            last = last.min(region.start.offset(ram.max(1) - 1));
        }
        mapped(
            kernel.space(),
            (region.start, last),
            &mut runs,
            missing,
            || region.name.to_owned(),
        );
    }
    runs.sort_by_key(|run: &Run| run.start);
    Ok(runs)
}

/// The pages of a process that are in memory.
pub(super) fn user(guest: &Guest, pid: i32, missing: &mut Vec<Missing>) -> Result<Vec<Run>> {
    let space = guest.user_space(pid)?;
    let mut runs = Vec::new();
    let vmas = guest.vmas(pid)?.into_items(missing).into_iter();
    for vma in vmas.filter(|vma| !vma.is_empty()) {
        let range = (vma.start, vma.end.back(1));
        mapped(&space, range, &mut runs, missing, || {
            format!("the mapping at {}", vma.start)
        });
    }
    Ok(runs)
}

/// Adds the pages of a range that are mapped to RAM. Tables that cannot be read are missing, some of them by name.
fn mapped(
    space: &AddressSpace,
    (first, last): (GuestVirt, GuestVirt),
    runs: &mut Vec<Run>,
    missing: &mut Vec<Missing>,
    name: impl Fn() -> String,
) {
    let ram = space
        .memory()
        .ranges()
        .iter()
        .map(|range| range.len)
        .fold(0, u64::saturating_add);
    let mut left = ram.saturating_mul(OVER);
    let mut unread = 0;
    let Some(pages) = space.present_pages(first, last).or_miss(missing, &name) else {
        return;
    };
    for page in pages {
        check_interrupt();
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                unread += 1;
                if unread <= TOLD {
                    missing.push(Missing::new(name(), &error));
                }
                continue;
            }
        };
        // A large page may reach beyond what was asked for.
        let from = page.at.max(first);
        let end = page.at.0.saturating_add(page.size - 1).min(last.0);
        let phys = page.phys.offset(from.0 - page.at.0);
        for part in in_ram(space, phys, end - from.0 + 1) {
            let Some(rest) = left.checked_sub(part.len) else {
                let why = format!("it maps all of RAM more than {OVER} times from here on");
                let error = Error::broken("page table", first, why);
                missing.push(Missing::new(format!("the rest of {}", name()), &error));
                return;
            };
            left = rest;
            push(runs, from.offset(part.start.0 - phys.0).0, part);
        }
    }
    if let Some(more @ 1..) = usize::checked_sub(unread, TOLD) {
        let error = Error::broken("page table", first, format!("{more} more cannot be read"));
        missing.push(Missing::new(name(), &error));
    }
}

/// Finds the parts of a stretch of physical memory that are RAM and can be read.
fn in_ram(space: &AddressSpace, start: GuestPhys, len: u64) -> Vec<PhysRange> {
    let ranges = space.memory().ranges().iter();
    let part = |range: &PhysRange| {
        let from = range.start.0.max(start.0);
        let to = range
            .start
            .0
            .saturating_add(range.len)
            .min(start.0.saturating_add(len));
        (from < to).then(|| PhysRange {
            start: GuestPhys(from),
            len: to - from,
        })
    };
    ranges
        .filter_map(part)
        .flat_map(|part| space.memory().stored(part))
        .collect()
}

/// Adds a part to the last run where it goes on there, and to that run's last part where it goes on there too.
fn push(runs: &mut Vec<Run>, at: u64, part: PhysRange) {
    let Some(run) = runs
        .last_mut()
        .filter(|run| run.start.wrapping_add(run.len()) == at)
    else {
        runs.push(Run {
            start: at,
            parts: vec![part],
        });
        return;
    };
    match run.parts.last_mut() {
        Some(last) if last.start.0.wrapping_add(last.len) == part.start.0 => last.len += part.len,
        _ => run.parts.push(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, len: u64) -> PhysRange {
        PhysRange {
            start: GuestPhys(start),
            len,
        }
    }

    #[test]
    fn pages_in_a_row_are_one_run_and_frames_in_a_row_one_part() {
        let mut runs = Vec::new();
        for (at, phys) in [
            (0x1000, 0x8000),
            (0x2000, 0x9000),
            (0x3000, 0x5000),
            (0x9000, 0x6000),
        ] {
            push(&mut runs, at, part(phys, 0x1000));
        }
        let parts = |run: &Run| (run.start, run.parts.clone());
        assert_eq!(
            runs.iter().map(parts).collect::<Vec<_>>(),
            [
                (0x1000, vec![part(0x8000, 0x2000), part(0x5000, 0x1000)]),
                (0x9000, vec![part(0x6000, 0x1000)]),
            ]
        );
        let clipped = runs[0].clip(&(0x1800..=0x30ff)).unwrap();
        assert_eq!((clipped.start, clipped.len()), (0x1800, 0x1900));
        assert_eq!(clipped.parts, [part(0x8800, 0x1800), part(0x5000, 0x100)]);
        assert_eq!(runs[0].clip(&(0x4000..=u64::MAX)), None);
        assert_eq!(runs[0].clip(&(0..=u64::MAX)).as_ref(), Some(&runs[0]));
    }
}
