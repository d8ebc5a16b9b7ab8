//! Translation: from guest-virtual to guest-physical addresses, and reads through it.
//!
//! Nothing is cached: each translation reads the tables as they stand, so none can be stale. The kernel's direct
//! map and its image are linear and need no tables at all; with the RAM file mapped, a read there is a subtraction,
//! a comparison and a load.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use super::pagetable::{self, EntryKind, PageWalk, Paging, PresentPages};
use super::ram::Word;
use super::{GuestPhys, GuestVirt, PAGE_SIZE, PhysMemory, RamFile};
use crate::{Error, Result};

/// A virtual address space: physical memory and the page tables that arrange it.
#[derive(Debug, Clone)]
pub struct AddressSpace {
    memory: Arc<dyn PhysMemory>,
    /// The mapped file when `memory` is one: reads then go past the trait object.
    ram: Option<RamFile>,
    tables: Option<Tables>,
    linear: [Linear; 3],
}

#[derive(Debug, Clone, Copy)]
struct Tables {
    root: GuestPhys,
    paging: Paging,
}

/// A stretch of virtual addresses that maps a stretch of physical ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Linear {
    /// First virtual address.
    pub virt: GuestVirt,
    /// Length in bytes; 0 matches nothing.
    pub len: u64,
    /// First physical address.
    pub phys: GuestPhys,
}

impl AddressSpace {
    /// A space in which virtual and physical addresses are the same: for tests.
    #[must_use]
    pub fn identity(memory: Arc<dyn PhysMemory>) -> Self {
        let all = Linear {
            len: u64::MAX,
            ..Linear::default()
        };
        Self {
            ram: memory.as_ram().cloned(),
            memory,
            tables: None,
            linear: [all, Linear::default(), Linear::default()],
        }
    }

    /// The space whose page tables are at `root`.
    #[must_use]
    pub fn paged(memory: Arc<dyn PhysMemory>, root: GuestPhys, paging: Paging) -> Self {
        let tables = Some(Tables { root, paging });
        Self {
            ram: memory.as_ram().cloned(),
            memory,
            tables,
            linear: [Linear::default(); 3],
        }
    }

    /// This space with stretches that are translated without tables: the direct map and the kernel image.
    #[must_use]
    pub fn with_linear(mut self, linear: [Linear; 3]) -> Self {
        self.linear = linear;
        self
    }

    /// The space with other tables over the same memory: a process's, `pgd` being the physical address of its
    /// `mm->pgd` (with page-table isolation the kernel's half of the pair, which maps the process too).
    #[must_use]
    pub fn with_root(&self, pgd: GuestPhys) -> Self {
        let paging = self.tables.map_or(Paging::FourLevel, |t| t.paging);
        Self {
            tables: Some(Tables { root: pgd, paging }),
            ..self.clone()
        }
    }

    /// The physical memory below.
    #[must_use]
    pub fn memory(&self) -> &Arc<dyn PhysMemory> {
        &self.memory
    }

    /// The physical address of the root table, when there are tables.
    #[must_use]
    pub fn root(&self) -> Option<GuestPhys> {
        self.tables.map(|t| t.root)
    }

    /// Four or five levels, when there are tables.
    #[must_use]
    pub fn paging(&self) -> Option<Paging> {
        self.tables.map(|t| t.paging)
    }

    #[inline]
    fn linear(&self, at: GuestVirt, len: u64) -> Option<GuestPhys> {
        for stretch in &self.linear {
            let offset = at.0.wrapping_sub(stretch.virt.0);
            if offset < stretch.len && len <= stretch.len - offset {
                return Some(stretch.phys.offset(offset));
            }
        }
        None
    }

    #[inline]
    fn phys_u64(&self, at: GuestPhys) -> Result<u64> {
        match &self.ram {
            Some(ram) => ram.read_u64(at),
            None => self.memory.read_u64(at),
        }
    }

    /// The physical address behind a virtual one.
    ///
    /// In the direct map and the kernel image by their linear rule; elsewhere by the tables, read as they stand.
    ///
    /// # Errors
    /// `Unmapped` if the tables do not map it; `LeftOut` if its page is in swap; `Broken` if a table is damaged; as
    /// [`PhysMemory::read`] for the tables that it goes through.
    #[inline]
    pub fn translate(&self, at: GuestVirt) -> Result<GuestPhys> {
        match self.linear(at, 1) {
            Some(phys) => Ok(phys),
            None => self
                .translate_mapped(at)
                .map_or_else(|| self.translate_by_tables(at), Ok),
        }
    }

    /// By the tables in the mapped file; `None` when there is no such file, or something to report. Not a part of its
    /// caller: what is read by the linear rule would be slower for it, and what goes through the tables not faster.
    #[inline(never)]
    fn translate_mapped(&self, at: GuestVirt) -> Option<GuestPhys> {
        let (ram, tables) = (self.ram.as_ref()?, self.tables?);
        pagetable::translate(tables.root, tables.paging, at, |entry| {
            ram.load::<AtomicU64>(entry)
        })
    }

    #[cold]
    #[inline(never)]
    fn translate_by_tables(&self, at: GuestVirt) -> Result<GuestPhys> {
        let Tables { root, paging } = self.tables()?;
        pagetable::walk(root, paging, at, |entry| self.phys_u64(entry), |_| ())?.map_err(|step| {
            match step.kind {
                EntryKind::Swap { ty, offset } if at.0 >> 63 == 0 => Error::LeftOut {
                    at: at.to_string(),
                    why: format!(
                        "it is not in RAM but at page {offset:#x} of swap type {ty}: `swap` lists the areas"
                    ),
                },
                _ => Error::NotMapped {
                    at,
                    level: step.level.name(),
                    entry: step.entry.0,
                },
            }
        })
    }

    /// Tells whether the processor would fetch instructions at an address: no entry on the way there forbids it.
    ///
    /// # Errors
    /// As [`Self::walk`].
    pub fn is_executable(&self, at: GuestVirt) -> Result<bool> {
        let walk = self.walk(at)?;
        Ok(walk.phys.is_some() && !walk.steps.iter().any(|step| step.entry.no_execute()))
    }

    /// The walk of the page tables for `at`, level by level, also where it ends at an entry that is not present.
    ///
    /// Always by the tables, never by the linear rule.
    ///
    /// # Errors
    /// `Unsupported` if there are no tables; `Unmapped` if it is not canonical; `Broken` if a table is damaged.
    pub fn walk(&self, at: GuestVirt) -> Result<PageWalk> {
        let Tables { root, paging } = self.tables()?;
        let mut steps = Vec::with_capacity(5);
        let phys = pagetable::walk(
            root,
            paging,
            at,
            |entry| self.phys_u64(entry),
            |step| steps.push(step),
        )?
        .ok();
        Ok(PageWalk { at, steps, phys })
    }

    /// The present pages that hold any of the addresses `first..=last`, ascending.
    ///
    /// # Errors
    /// As [`Self::walk`], for either end and the first table.
    pub fn present_pages(&self, first: GuestVirt, last: GuestVirt) -> Result<PresentPages<'_>> {
        let Tables { root, paging } = self.tables()?;
        let bytes = self
            .memory
            .ranges()
            .iter()
            .fold(0_u64, |sum, r| sum.saturating_add(r.len));
        PresentPages::new(
            self.memory.as_ref(),
            root,
            paging,
            first,
            last,
            bytes / PAGE_SIZE,
        )
    }

    fn tables(&self) -> Result<Tables> {
        self.tables.ok_or_else(|| {
            Error::Unsupported("this address space has no page tables: it is a fake one".to_owned())
        })
    }

    /// Fills `buf` from `at`, page by page.
    ///
    /// Longer reads are not atomic: the guest may write between two words.
    ///
    /// # Errors
    /// As [`Self::translate`] for each page, and [`PhysMemory::read`].
    #[inline]
    pub fn read(&self, at: GuestVirt, buf: &mut [u8]) -> Result<()> {
        match self.linear(at, buf.len() as u64) {
            Some(phys) => match &self.ram {
                Some(ram) => ram.read(phys, buf),
                None => self.memory.read(phys, buf),
            },
            None => self.read_pages(at, buf),
        }
    }

    fn read_pages(&self, at: GuestVirt, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let here = at.offset(done as u64);
            let room = (PAGE_SIZE - here.page_offset()) as usize;
            let end = buf.len().min(done.saturating_add(room));
            self.memory
                .read(self.translate(here)?, &mut buf[done..end])?;
            done = end;
        }
        Ok(())
    }

    #[inline]
    fn load<T: Word>(&self, at: GuestVirt) -> Option<T::V> {
        let ram = self.ram.as_ref()?;
        let phys = self.linear(at, 1).or_else(|| self.translate_mapped(at))?;
        ram.load::<T>(phys)
    }

    /// Reads a byte.
    ///
    /// # Errors
    /// As [`Self::read`].
    #[inline]
    pub fn read_u8(&self, at: GuestVirt) -> Result<u8> {
        match self.load::<AtomicU8>(at) {
            Some(value) => Ok(value),
            None => self.read_array::<1>(at).map(u8::from_le_bytes),
        }
    }

    /// Reads a little-endian 16-bit word; in one piece when it is aligned and the RAM file is mapped.
    ///
    /// # Errors
    /// As [`Self::read`].
    #[inline]
    pub fn read_u16(&self, at: GuestVirt) -> Result<u16> {
        match self.load::<AtomicU16>(at) {
            Some(value) => Ok(u16::from_le(value)),
            None => self.read_array(at).map(u16::from_le_bytes),
        }
    }

    /// Reads a little-endian 32-bit word; in one piece when it is aligned and the RAM file is mapped.
    ///
    /// # Errors
    /// As [`Self::read`].
    #[inline]
    pub fn read_u32(&self, at: GuestVirt) -> Result<u32> {
        match self.load::<AtomicU32>(at) {
            Some(value) => Ok(u32::from_le(value)),
            None => self.read_array(at).map(u32::from_le_bytes),
        }
    }

    /// Reads a little-endian 64-bit word; in one piece when it is aligned and the RAM file is mapped.
    ///
    /// # Errors
    /// As [`Self::read`].
    #[inline]
    pub fn read_u64(&self, at: GuestVirt) -> Result<u64> {
        match self.load::<AtomicU64>(at) {
            Some(value) => Ok(u64::from_le(value)),
            None => self.read_array(at).map(u64::from_le_bytes),
        }
    }

    #[cold]
    #[inline(never)]
    fn read_array<const N: usize>(&self, at: GuestVirt) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads the bytes of a C string at `at`, without its NUL, at most `max` of them; not more than is mapped.
    ///
    /// # Errors
    /// As [`Self::read`], if that page is reached before the NUL.
    pub fn read_cstr(&self, at: GuestVirt, max: usize) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut chunk = [0; 64];
        while text.len() < max {
            let here = at.offset(text.len() as u64);
            // A chunk never crosses a line of its own size, so never a page: the next page may not be mapped.
            let room = chunk.len() - (here.0 as usize % chunk.len());
            let want = room.min(max - text.len());
            self.read(here, &mut chunk[..want])?;
            if let Some(end) = memchr::memchr(0, &chunk[..want]) {
                text.extend_from_slice(&chunk[..end]);
                break;
            }
            text.extend_from_slice(&chunk[..want]);
        }
        Ok(text)
    }
}
