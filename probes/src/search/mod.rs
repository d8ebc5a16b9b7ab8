//! Search: bytes, values, pointers, text and regular expressions in the memory of the kernel, of a process, or in all of
//! physical memory.
//!
//! ```no_run
//! # use probes::Guest;
//! # use probes::search::Needle;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! // Who points to init's task_struct?
//! let task = guest.task(1)?;
//! println!("{:#?}", guest.search(Needle::pointer(task.at)).limit(50).run()?);
//! // Where in the memory of init is its name?
//! println!("{:#?}", guest.search(Needle::text("init")).user(1).run()?);
//! # Ok(())
//! # }
//! ```
//!
//! Memory is read in pieces of 256 KiB that stay in the processor's cache; what the RAM file has no bytes for is skipped.
//! Bytes that the guest changes meanwhile may be found before or after the change; a paused guest holds still.

mod needle;
mod ranges;
mod scan;
mod view;
pub mod what;

use std::ops::{ControlFlow, Deref, RangeInclusive};

pub use needle::Needle;
use ranges::Run;
use serde::Serialize;

use crate::base::check_interrupt;
use crate::cell::{self, Progress};
use crate::guest::Guest;
use crate::memory::{GuestPhys, GuestVirt};
use crate::search::what::Identifier;
use crate::{Error, Missing, Result};

/// Hits that are kept unless told otherwise.
const LIMIT: usize = 100;
/// Bytes of a hit that are kept.
const SHOWN: usize = 32;

/// Memory to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// Everything that the kernel's page tables map to RAM: the direct map, the image, modules, the vmalloc space, the
    /// `struct page`s. What is mapped twice is found twice, once at each address.
    Kernel,
    /// All of RAM, each byte once.
    Physical,
    /// The pages that a process has in memory.
    User(i32),
}

/// One place where the needle is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// The address; `None` in a search of physical memory.
    pub at: Option<GuestVirt>,
    /// The physical address.
    pub phys: GuestPhys,
    /// Length of the match, in bytes.
    pub len: u64,
    /// The first of them.
    pub bytes: Vec<u8>,
    /// Describes the place in one line.
    pub what: String,
}

/// Result of a search.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hits {
    /// The needle.
    pub needle: String,
    /// Memory that was searched.
    pub space: Space,
    /// The hits, ascending.
    pub hits: Vec<Hit>,
    /// Bytes that were looked at.
    pub searched: u64,
    /// Bytes that there are.
    pub total: u64,
    /// True if there may be more hits: the limit was reached, or the search was stopped.
    pub more: bool,
    /// Parts of the memory that could not be searched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

impl Deref for Hits {
    type Target = [Hit];

    fn deref(&self) -> &[Hit] {
        &self.hits
    }
}

/// A search that is being put together: see [`Guest::search`].
#[derive(Debug, Clone)]
#[must_use = "a search does nothing before `run`"]
pub struct Search {
    guest: Guest,
    needle: Needle,
    space: Space,
    within: RangeInclusive<u64>,
    alignment: u64,
    limit: usize,
}

impl Guest {
    /// A search for a needle, in the kernel's memory unless told otherwise: nothing is read before [`Search::run`].
    pub fn search(&self, needle: impl Into<Needle>) -> Search {
        let needle = needle.into();
        Search {
            guest: self.clone(),
            alignment: needle.alignment(),
            needle,
            space: Space::Kernel,
            within: 0..=u64::MAX,
            limit: LIMIT,
        }
    }
}

impl Search {
    /// In all of RAM.
    pub fn physical(mut self) -> Self {
        self.space = Space::Physical;
        self
    }

    /// In the memory of a process.
    pub fn user(mut self, pid: i32) -> Self {
        self.space = Space::User(pid);
        self
    }

    /// Only at these addresses, which are physical ones in a search of physical memory.
    pub fn within(mut self, first: u64, last: u64) -> Self {
        self.within = first..=last;
        self
    }

    /// Only at multiples of so many bytes. Values and pointers are looked for where they are aligned, all else
    /// everywhere.
    pub fn aligned(mut self, bytes: u64) -> Self {
        self.alignment = bytes.max(1);
        self
    }

    /// Ends after so many hits.
    pub fn limit(mut self, hits: usize) -> Self {
        self.limit = hits;
        self
    }

    /// Searches. In a cell it shows how far it is, and can be interrupted.
    ///
    /// # Errors
    /// `Invalid` if the needle is not well formed; `Absent` if there is no such process. Memory that cannot be read is
    /// missing of the hits.
    pub fn run(&self) -> Result<Hits> {
        let mut bar: Option<Progress> = None;
        self.run_with(&mut |done, total| {
            check_interrupt();
            if cell::has_front() {
                let mib = |bytes: u64| bytes >> 20;
                let bar = bar.get_or_insert_with(|| Progress::new("MiB searched", mib(total)));
                bar.set(mib(done));
            }
            ControlFlow::Continue(())
        })
    }

    /// Searches, and tells `progress` after each piece how many bytes of how many are done; `Break` ends it with what was
    /// found so far.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_with(&self, progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>) -> Result<Hits> {
        let kernel = self.guest.kernel()?;
        let matcher = self.needle.compile()?;
        let mut missing = Vec::new();
        let runs = match self.space {
            Space::Kernel => ranges::kernel(&kernel, &mut missing)?,
            Space::Physical => ranges::physical(&kernel),
            Space::User(pid) => ranges::user(&self.guest, pid, &mut missing)?,
        };
        let runs: Vec<Run> = runs
            .iter()
            .filter_map(|run| run.clip(&self.within))
            .collect();
        let total = runs.iter().map(Run::len).fold(0, u64::saturating_add);
        let mut scan = scan::Scan {
            memory: kernel.space().memory().as_ref(),
            matcher: &matcher,
            alignment: self.alignment,
            limit: self.limit,
            found: Vec::new(),
            searched: 0,
            missing,
        };
        let ended = scan.all(&runs, &mut |done| progress(done, total));
        let (found, searched, missing) = (scan.found, scan.searched, scan.missing);
        let identifier = Identifier::new(&self.guest)?;
        let hits: Result<Vec<Hit>> = found
            .into_iter()
            .map(|found| {
                check_interrupt();
                self.hit(&identifier, found)
            })
            .collect();
        Ok(Hits {
            needle: self.needle.to_string(),
            space: self.space,
            hits: hits?,
            searched,
            total,
            more: ended.is_break(),
            missing,
        })
    }

    fn hit(&self, identifier: &Identifier, found: scan::Found) -> Result<Hit> {
        let at = GuestVirt(found.at);
        let what = match self.space {
            Space::Kernel => identifier.what(at),
            Space::User(pid) => identifier.what_of(pid, at),
            Space::Physical => identifier.what_phys(found.phys),
        };
        let mut bytes = found.bytes;
        bytes.truncate(SHOWN);
        Ok(Hit {
            at: (self.space != Space::Physical).then_some(at),
            phys: found.phys,
            len: found.len,
            bytes,
            // The guest may have unmapped it meanwhile.
            what: what.map_or_else(|error: Error| error.to_string(), |what| what.brief()),
        })
    }
}
