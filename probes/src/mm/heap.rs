//! The heap that `brk()` moves: from `start_brk` to `brk`, page by page.

use serde::Serialize;

use super::{MmStruct, user_space_of};
use crate::Result;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::{GuestVirt, PAGE_SIZE};

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
    /// For each page from the one that holds `start_brk`: whether it is present in the page tables.
    pub present: Vec<bool>,
    /// Pages that were not looked at, of a heap of more than 4096 pages (16 MiB).
    pub not_looked_at: u64,
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

    fn read(kernel: &Kernel, pid: i32, comm: String, mm: &MmStruct) -> Result<Self> {
        let (start_brk, brk) = (mm.start_brk, mm.brk);
        let first = start_brk.page();
        let pages = if brk > start_brk {
            (brk.0 - first.0).div_ceil(PAGE_SIZE)
        } else {
            0
        };
        let shown = pages.min(PAGES);
        let mut present = vec![false; shown as usize];
        if shown > 0 {
            let space = user_space_of(kernel, mm)?;
            let last = GuestVirt(first.0 + shown * PAGE_SIZE - 1);
            for page in space.present_pages(first, last)? {
                let page = page?;
                // A large page covers many of the base pages that are counted here.
                let from = page.at.0.saturating_sub(first.0) / PAGE_SIZE;
                let to = page
                    .at
                    .0
                    .saturating_add(page.size)
                    .saturating_sub(first.0)
                    .div_ceil(PAGE_SIZE);
                let covered = from.min(shown) as usize..to.min(shown) as usize;
                present[covered].fill(true);
            }
        }
        Ok(Self {
            pid,
            comm,
            end_data: mm.end_data,
            start_brk,
            brk,
            present,
            not_looked_at: pages - shown,
        })
    }
}

impl Guest {
    /// The heap of the process that `pid` belongs to.
    ///
    /// # Errors
    /// As [`mm`](Self::mm); `Broken` if a page table is damaged.
    pub fn heap(&self, pid: i32) -> Result<Heap> {
        let task = self.task(pid)?;
        let mm = self.mm_of(&task)?;
        Heap::read(&self.kernel()?, task.tgid, task.comm, &mm)
    }
}
