//! Page frames: the `struct page` of each, and the folio that it is part of (`include/linux/mm_types.h`,
//! `include/linux/page-flags.h`).
//!
//! ```no_run
//! # use probes::Guest;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! let page = guest.page(guest.task(1)?.at)?;
//! println!("pfn {} is {:?}, {} references", page.pfn, page.kind, page.refcount);
//! # Ok(())
//! # }
//! ```
//!
//! A page may be freed, split or merged while it is read: it is read again until two looks at it and at the head of its
//! folio are the same.

mod flags;
mod folio;
mod mapping;
mod memmap;
mod view;

pub use folio::{Folio, Page, PageKind};
pub(crate) use mapping::file as mapped_file;
pub use mapping::{MappedFile, Mapping};
pub use memmap::MemMap;

use serde::Serialize;

use crate::Result;
use crate::guest::Guest;
use crate::memory::{GuestPhys, GuestVirt, PAGE_SIZE};

/// A page frame, by number or by address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum PageAt {
    /// The frame of this number.
    Pfn(u64),
    /// The frame behind a kernel address, or the frame that the `struct page` at it describes.
    Address(GuestVirt),
}

impl From<u64> for PageAt {
    fn from(pfn: u64) -> Self {
        Self::Pfn(pfn)
    }
}

impl From<GuestPhys> for PageAt {
    fn from(at: GuestPhys) -> Self {
        Self::Pfn(at.0 / PAGE_SIZE)
    }
}

impl From<GuestVirt> for PageAt {
    fn from(at: GuestVirt) -> Self {
        Self::Address(at)
    }
}

impl Guest {
    /// The page frame of a number, of a physical address, behind a kernel address, or that a `struct page` describes.
    ///
    /// # Errors
    /// When the address is not mapped, or the frame has no `struct page`.
    pub fn page(&self, at: impl Into<PageAt>) -> Result<Page> {
        let kernel = self.kernel()?;
        let memmap = MemMap::of(&kernel)?;
        let pfn = match at.into() {
            PageAt::Pfn(pfn) => pfn,
            PageAt::Address(at) => match memmap.page_to_pfn(at) {
                Some(pfn) => pfn,
                None => kernel.virt_to_phys(at)?.0 / PAGE_SIZE,
            },
        };
        memmap.page(pfn)
    }
}
