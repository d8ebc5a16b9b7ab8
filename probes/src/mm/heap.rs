//! The heap that `brk()` moves: from `start_brk` to `brk`, page by page.

use serde::Serialize;

use super::{MmStruct, user_space_of};
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::{AddressSpace, GuestVirt, PAGE_SIZE};
use crate::{Missing, Of as _, Result};

/// Pages of a heap that are looked at one by one.
const PAGES: u64 = 4096;

/// The heap of a process, and which of its pages are in RAM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Heap {
    /// Its process.
    pub pid: i32,
    /// Its process's name.
    pub comm: String,
    /// End of the program's own data: `end_data`.
    pub end_data: GuestVirt,
    /// Start of the heap: `start_brk`.
    pub start_brk: GuestVirt,
    /// End of the heap now: `brk`.
    pub brk: GuestVirt,
    /// For each page from the one that holds `start_brk`: whether it is present in the page tables; `None` where these cannot
    /// be read.
    pub present: Vec<Option<bool>>,
    /// Pages that were not looked at, of a heap of more than 4096 pages (16 MiB).
    pub not_looked_at: u64,
    /// Parts of it that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

impl Heap {
    /// Bytes from `start_brk` to `brk`.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.brk.0.saturating_sub(self.start_brk.0)
    }

    /// Tells whether the program has not asked for a heap yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(kernel: &Kernel, pid: i32, comm: String, mm: &MmStruct) -> Self {
        let (start_brk, brk) = (mm.start_brk, mm.brk);
        let first = start_brk.page();
        let pages = if brk > start_brk {
            (brk.0 - first.0).div_ceil(PAGE_SIZE)
        } else {
            0
        };
        let shown = pages.min(PAGES);
        let mut missing = Vec::new();
        let present = user_space_of(kernel, mm).and_then(|space| {
            if shown == 0 {
                return Ok(Vec::new());
            }
            // `brk` may be the last address there is.
            let last = first.offset(shown * PAGE_SIZE - 1);
            present_in(&space, first, last, &mut missing)
        });
        let present = present.or_miss(&mut missing, || "its page tables");
        Self {
            pid,
            comm,
            end_data: mm.end_data,
            start_brk,
            brk,
            present: present.unwrap_or_else(|| vec![None; shown as usize]),
            not_looked_at: pages - shown,
            missing,
        }
    }
}

/// Tells of each page from `first` to the one that holds `last` whether it is present.
fn present_in(
    space: &AddressSpace,
    first: GuestVirt,
    last: GuestVirt,
    missing: &mut Vec<Missing>,
) -> Result<Vec<Option<bool>>> {
    let count = (last.0 - first.0) / PAGE_SIZE + 1;
    let mut present = vec![Some(false); count as usize];
    for page in space.present_pages(first, last)? {
        let Some(page) = page.or_miss(missing, || "its page tables") else {
            continue;
        };
        // A large page covers many of the base pages that are counted here.
        let from = page.at.0.saturating_sub(first.0) / PAGE_SIZE;
        let end = page.at.0.saturating_add(page.size).saturating_sub(first.0);
        let to = end.div_ceil(PAGE_SIZE).min(count);
        present[from.min(to) as usize..to as usize].fill(Some(true));
    }
    if !missing.is_empty() {
        // Of those that were not met, the ones whose tables say so.
        for (i, page) in present.iter_mut().enumerate() {
            if *page == Some(false) && space.walk(first.offset(i as u64 * PAGE_SIZE)).is_err() {
                *page = None;
            }
        }
    }
    Ok(present)
}

impl Guest {
    /// The heap of the process that `pid` belongs to.
    ///
    /// # Errors
    /// As [`mm`](Self::mm).
    pub fn heap(&self, pid: i32) -> Result<Heap> {
        let task = self.task(pid)?;
        let mm = self.mm_of(&task)?;
        Ok(Heap::read(&self.kernel()?, task.tgid, task.comm, &mm))
    }
}
