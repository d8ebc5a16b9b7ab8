//! RAM of which QEMU shares a part: that is mapped, the rest read from its process.

use super::{GuestPhys, PhysMemory, PhysRange, ProcessMemory, RamFile, across};
use crate::{Error, Result};

/// A guest's RAM in files and in the memory of QEMU's process.
#[derive(Debug)]
pub struct MixedMemory {
    files: RamFile,
    process: ProcessMemory,
    ranges: Vec<PhysRange>,
}

impl MixedMemory {
    /// Both parts as one memory.
    ///
    /// # Errors
    /// When they overlap.
    pub fn new(files: RamFile, process: ProcessMemory) -> Result<Self> {
        let mut ranges = [files.ranges(), process.ranges()].concat();
        ranges.sort_by_key(|range| range.start);
        if let Some(pair) = ranges
            .windows(2)
            .find(|pair| pair[0].start.0 + pair[0].len > pair[1].start.0)
        {
            return Err(Error::io(format!(
                "cannot read the guest's RAM: two ranges overlap at {}",
                pair[1].start
            )));
        }
        Ok(Self {
            files,
            process,
            ranges,
        })
    }

    /// The part that has `at`.
    fn part(&self, at: GuestPhys) -> &dyn PhysMemory {
        if self.files.has(at) {
            &self.files
        } else {
            &self.process
        }
    }
}

impl PhysMemory for MixedMemory {
    fn read(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        across(&self.ranges, at, buf, |at, part| {
            self.part(at).read(at, part)
        })
    }

    fn read_u64(&self, at: GuestPhys) -> Result<u64> {
        self.part(at).read_u64(at)
    }

    fn read_once(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        across(&self.ranges, at, buf, |at, part| {
            self.part(at).read_once(at, part)
        })
    }

    fn next_data(&self, at: GuestPhys) -> GuestPhys {
        self.part(at).next_data(at)
    }

    fn ranges(&self) -> &[PhysRange] {
        &self.ranges
    }
}
