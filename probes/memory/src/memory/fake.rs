//! Memory made of pieces, for tests and doc examples: no QEMU.

use super::{GuestPhys, PhysMemory, PhysRange};
use crate::{Error, Result};

/// Physical memory made of pieces.
///
/// ```
/// use klab_memory::memory::{FakeMemory, GuestPhys, PhysMemory};
/// let memory = FakeMemory::new([(GuestPhys(0x1000), vec![1, 0, 0, 0, 0, 0, 0, 0])]);
/// assert_eq!(memory.read_u64(GuestPhys(0x1000))?, 1);
/// # Ok::<(), klab_memory::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct FakeMemory {
    pieces: Vec<(GuestPhys, Vec<u8>)>,
    ranges: Vec<PhysRange>,
}

impl FakeMemory {
    /// Memory of these pieces; pieces must not overlap.
    #[must_use]
    pub fn new(pieces: impl IntoIterator<Item = (GuestPhys, Vec<u8>)>) -> Self {
        let mut pieces: Vec<_> = pieces.into_iter().collect();
        pieces.sort_by_key(|(at, _)| *at);
        let ranges = pieces
            .iter()
            .map(|(start, b)| PhysRange {
                start: *start,
                len: b.len() as u64,
            })
            .collect();
        Self { pieces, ranges }
    }
}

impl PhysMemory for FakeMemory {
    fn read(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        let fault = Error::NotRam { at, len: buf.len() };
        let index = self.pieces.partition_point(|(start, _)| *start <= at);
        let (start, bytes) = index
            .checked_sub(1)
            .and_then(|i| self.pieces.get(i))
            .ok_or_else(|| fault.clone())?;
        let from = usize::try_from(at.0 - start.0).map_err(|_| fault.clone())?;
        let piece = from
            .checked_add(buf.len())
            .and_then(|to| bytes.get(from..to))
            .ok_or(fault)?;
        buf.copy_from_slice(piece);
        Ok(())
    }

    fn ranges(&self) -> &[PhysRange] {
        &self.ranges
    }
}
