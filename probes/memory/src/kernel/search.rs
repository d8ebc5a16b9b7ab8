//! Kernels in memory: pages that say they are a kernel's VMCOREINFO, each believed once all that will be asked of that
//! kernel was tried.
//!
//! Anyone in the guest can write such a page: a file of a tmpfs, another kernel that waits for a crash or has crashed,
//! one of an earlier boot.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::Kernel;
use super::layout::Layout;
use super::vmcoreinfo::{self, VmcoreInfo};
use crate::base::Of as _;
use crate::base::check_interrupt;
use crate::memory::{GuestPhys, PAGE_SIZE, PhysMemory};
use crate::{Error, Result};

/// Texts that are tried, each once: more than any memory has of kernels.
const MOST: usize = 256;
/// Pages that are named where no kernel is found.
const NAMED: usize = 3;
/// Kernels that are told apart in one memory.
const KERNELS: usize = 8;

/// A search through memory, kernel by kernel.
#[derive(Debug)]
pub(super) struct Search {
    memory: Arc<dyn PhysMemory>,
    /// The text that came with the memory.
    noted: Option<Vec<u8>>,
    from: Option<GuestPhys>,
    seen: HashSet<u64>,
    /// Reasons why the pages that were met hold no kernel.
    faults: Vec<Error>,
    /// One whose page tables are right and of which something else cannot be read.
    partly: Vec<(Kernel, Error)>,
}

impl Search {
    pub(super) fn new(memory: Arc<dyn PhysMemory>, noted: Option<&[u8]>) -> Self {
        Self {
            memory,
            noted: noted.map(<[u8]>::to_vec),
            from: Some(GuestPhys(0)),
            seen: HashSet::new(),
            faults: Vec::new(),
            partly: Vec::new(),
        }
    }

    /// The first kernel: one that is whole, else the one that is at least partly there.
    pub(super) fn first(mut self) -> Result<Kernel> {
        if let Some(kernel) = self.next_whole()? {
            return Ok(kernel);
        }
        // If the memory was cut off, or pages of it were left out, the part that is there is shown.
        let of_source = |(_, fault): &(Kernel, Error)| fault.kind().is_of_the_source();
        let best = self.partly.iter().position(of_source);
        match best.or((self.partly.len() == 1 && self.faults.is_empty()).then_some(0)) {
            Some(index) => Ok(self.partly.swap_remove(index).0),
            None => Err(self.fault()),
        }
    }

    /// All whole kernels, each once, in the order in which they were met.
    pub(super) fn all(mut self) -> Result<Vec<Kernel>> {
        let mut all: Vec<Kernel> = Vec::new();
        while let Some(kernel) = self.next_whole()? {
            // Copies of its text are no other kernel.
            if !all.iter().any(|known| known.is_same(&kernel)) {
                all.push(kernel);
            }
            if all.len() == KERNELS {
                break;
            }
        }
        Ok(all)
    }

    /// The next kernel of which all can be read that will be asked of it.
    fn next_whole(&mut self) -> Result<Option<Kernel>> {
        while let Some(info) = self.candidate()? {
            let place = match &info {
                Ok(info) => format!("VMCOREINFO {}", info.place()),
                Err(_) => String::new(),
            };
            let kernel = info
                .and_then(|info| Layout::of(&self.memory, info))
                .map(Kernel::of_layout);
            let kernel = match kernel {
                Ok(kernel) => kernel,
                Err(fault) => {
                    self.faults.push(fault);
                    continue;
                }
            };
            match kernel.try_all() {
                Ok(()) => return Ok(Some(kernel)),
                Err(fault) => {
                    let fault = Err::<(), _>(fault).of(|| place);
                    self.partly.extend(fault.err().map(|fault| (kernel, fault)));
                }
            }
        }
        Ok(None)
    }

    /// The next text that was not met before.
    fn candidate(&mut self) -> Result<Option<Result<VmcoreInfo>>> {
        if let Some(text) = self.noted.take() {
            let info = VmcoreInfo::parse(&text, None);
            return Ok(Some(info.of(|| "the note of the dump")));
        }
        while let Some(from) = self.from {
            check_interrupt();
            let Some(page) = self.memory.find_page(vmcoreinfo::PREFIX, from)? else {
                self.from = None;
                break;
            };
            self.from = page.0.checked_add(PAGE_SIZE).map(GuestPhys);
            let mut text = vec![0; PAGE_SIZE as usize];
            let read = self.memory.read(page, &mut text);
            let place = || format!("the page at physical {page}");
            if let Err(fault) = read {
                return Ok(Some(Err(fault).of(place)));
            }
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            if !self.seen.insert(hasher.finish()) {
                continue;
            }
            if self.seen.len() > MOST {
                let why = format!(
                    "more than {MOST} different pages of RAM begin with OSRELEASE=, the last at physical {page}"
                );
                self.from = None;
                return Ok(Some(Err(Error::NoKernel(why))));
            }
            return Ok(Some(VmcoreInfo::parse(&text, Some(page)).of(place)));
        }
        Ok(None)
    }

    /// Reason why there is no kernel: what the source lacks, else each page that said it is one.
    fn fault(self) -> Error {
        let partly = self.partly.into_iter().map(|(_, fault)| fault);
        let mut faults: Vec<Error> = partly.chain(self.faults).collect();
        if let Some(index) = faults
            .iter()
            .position(|fault| fault.kind().is_of_the_source())
        {
            return faults.swap_remove(index);
        }
        match faults.len() {
            0 => Error::NoKernel(
                "no page of RAM begins with OSRELEASE=: the guest has not booted yet, or its kernel lacks \
                 CONFIG_VMCORE_INFO (CONFIG_CRASH_CORE before 6.9)"
                    .to_owned(),
            ),
            1 => faults.swap_remove(0),
            count => {
                let said = |fault: &Error| match fault {
                    Error::NoKernel(why) => why.clone(),
                    other => other.to_string(),
                };
                let mut all: Vec<String> = faults.iter().take(NAMED).map(said).collect();
                if count > NAMED {
                    all.push(format!("and {} pages more", count - NAMED));
                }
                Error::NoKernel(all.join("; "))
            }
        }
    }
}
