//! Guest memory: addresses, the one trait to read physical memory, its backends, and translation.

mod addr;
mod fake;
mod space;

pub use addr::{GuestPhys, GuestVirt, PAGE_SIZE};
pub use fake::FakeMemory;
pub use space::AddressSpace;

use crate::Result;

/// A stretch of guest RAM, in guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhysRange {
    /// First byte.
    pub start: GuestPhys,
    /// Length in bytes.
    pub len: u64,
}

/// Physical memory of a guest. Implemented by the mapped RAM file, a vmcore, gdbstub and the fake image.
pub trait PhysMemory: Send + Sync + std::fmt::Debug {
    /// Fills `buf` from `at`, or fails and says which part is not RAM.
    fn read(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()>;

    /// Reads one little-endian word. Backends that can do it without a copy override it;
    /// an aligned word is then read in one piece, never torn.
    fn read_u64(&self, at: GuestPhys) -> Result<u64> {
        let mut word = [0; 8];
        self.read(at, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// The RAM there is, ascending, without overlaps.
    fn ranges(&self) -> &[PhysRange];
}
