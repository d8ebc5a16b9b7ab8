//! An ELF dump of which a part is missing: it was cut off, or pages were left out of it.

use super::super::{GuestPhys, PhysMemory, PhysRange, RamFile, across};
use crate::{Error, Result};

/// The memory that there is, and what is known of the rest.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) ram: RamFile,
    /// The memory that the dump says it has, ascending.
    pub(super) ranges: Vec<PhysRange>,
    /// Ranges that were written, ascending; the others were left out.
    pub(super) written: Vec<PhysRange>,
    /// Note that it was cut off.
    pub(super) cut: Option<String>,
}

/// The range that has `at`.
fn has(ranges: &[PhysRange], at: GuestPhys) -> Option<&PhysRange> {
    let index = ranges.partition_point(|range| range.start <= at);
    let range = ranges.get(index.checked_sub(1)?)?;
    (at.0 - range.start.0 < range.len).then_some(range)
}

impl Partial {
    /// The error about what is not there, from `at` on.
    fn lacks(&self, at: GuestPhys, len: usize) -> Error {
        // The first byte that is missing.
        let mut here = at;
        while let Some(range) = has(self.ram.ranges(), here) {
            here = GuestPhys(range.start.0 + range.len);
        }
        if has(&self.ranges, here).is_none() {
            return Error::NotRam { at, len };
        }
        match &self.cut {
            Some(cut) if has(&self.written, here).is_some() => Error::io(format!(
                "the memory at physical {here} is not in the dump: {cut}"
            )),
            _ => Error::LeftOut {
                at: format!("the dump's memory at physical {here}"),
                why: "it was left out when the dump was written".to_owned(),
            },
        }
    }
}

impl PhysMemory for Partial {
    fn read(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        across(&self.ranges, at, buf, |at, part| {
            let read = self.ram.read(at, part);
            read.map_err(|fault| match fault {
                Error::NotRam { .. } => self.lacks(at, part.len()),
                other => other,
            })
        })
    }

    fn read_once(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        across(&self.ranges, at, buf, |at, part| {
            let read = self.ram.read_once(at, part);
            read.map_err(|fault| match fault {
                Error::NotRam { .. } => self.lacks(at, part.len()),
                other => other,
            })
        })
    }

    fn next_data(&self, at: GuestPhys) -> GuestPhys {
        self.ram.next_data(at)
    }

    fn ranges(&self) -> &[PhysRange] {
        &self.ranges
    }

    fn stored(&self, range: PhysRange) -> Vec<PhysRange> {
        let end = range.start.0.saturating_add(range.len);
        let parts = self.ram.ranges().iter().filter_map(|there| {
            let from = there.start.0.max(range.start.0);
            let to = end.min(there.start.0 + there.len);
            (from < to).then_some(PhysRange {
                start: GuestPhys(from),
                len: to - from,
            })
        });
        parts.collect()
    }

    fn find_page(&self, prefix: &[u8], from: GuestPhys) -> Result<Option<GuestPhys>> {
        self.ram.find_page(prefix, from)
    }
}
