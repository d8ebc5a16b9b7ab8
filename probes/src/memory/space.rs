//! Translation: from guest-virtual to guest-physical addresses, and reads through it.

use std::sync::Arc;

use super::{GuestPhys, GuestVirt, PAGE_SIZE, PhysMemory};
use crate::Result;

/// A virtual address space: physical memory and the page tables that arrange it.
#[derive(Debug, Clone)]
pub struct AddressSpace {
    memory: Arc<dyn PhysMemory>,
}

impl AddressSpace {
    /// A space in which virtual and physical addresses are the same: for tests.
    #[must_use]
    pub fn identity(memory: Arc<dyn PhysMemory>) -> Self {
        Self { memory }
    }

    /// The physical memory below.
    #[must_use]
    pub fn memory(&self) -> &Arc<dyn PhysMemory> {
        &self.memory
    }

    /// The physical address behind a virtual one.
    pub fn translate(&self, at: GuestVirt) -> Result<GuestPhys> {
        Ok(GuestPhys(at.0))
    }

    /// Fills `buf` from `at`, page by page.
    pub fn read(&self, at: GuestVirt, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let here = at.offset(done as u64);
            let room = (PAGE_SIZE - here.page_offset()) as usize;
            let end = buf.len().min(done + room);
            self.memory
                .read(self.translate(here)?, &mut buf[done..end])?;
            done = end;
        }
        Ok(())
    }
}
