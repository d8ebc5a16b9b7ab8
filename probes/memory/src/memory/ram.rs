//! The guest's RAM as QEMU shares it: a file, or several, mapped read-only, no copy in between.
//!
//! The guest writes while we read. Aligned words are loaded atomically, so they are never torn; longer reads are
//! plain copies and may be. The mapping follows the file, so it stays valid when a snapshot is written back into
//! the same file; the file must never shrink below the ranges it was opened with.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use vm_memory::mmap::MmapRegion;
use vm_memory::{AtomicInteger, FileOffset, VolatileMemory};

use super::{GuestPhys, PAGE_SIZE, PhysMemory, PhysRange, RamRange, across};
use crate::{Error, Result};

/// A guest's RAM file, mapped read-only. Clones share the mapping.
#[derive(Debug, Clone)]
pub struct RamFile {
    /// The longest first: most reads are in it.
    regions: Arc<[Region]>,
    ranges: Arc<[PhysRange]>,
}

#[derive(Debug)]
struct Region {
    start: u64,
    len: u64,
    /// Offset of the first byte in the file.
    offset: u64,
    /// A mapping begins at a page of the file: what of that page comes before the first byte.
    skip: u64,
    map: MmapRegion<()>,
    file: Arc<File>,
}

impl RamFile {
    /// Maps `ranges` of the file at `path`.
    ///
    /// # Errors
    /// `Io` if the file cannot be mapped, or a range lies beyond its end, is not a whole number of pages, or overlaps
    /// another.
    pub fn open(path: &Path, ranges: &[RamRange]) -> Result<Self> {
        Self::of(map(path, ranges)?)
    }

    /// Maps RAM that lies in several files.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_all(files: &[klab_facts::RamFile]) -> Result<Self> {
        let mut regions = Vec::new();
        for file in files {
            regions.append(&mut map(&file.path, &file.ranges)?);
        }
        Self::of(regions)
    }

    fn of(mut regions: Vec<Region>) -> Result<Self> {
        regions.sort_by_key(|region| region.start);
        let mut end = 0;
        for region in &regions {
            if region.start < end {
                return Err(Error::io(format!(
                    "cannot map the guest's RAM: two ranges overlap at {:#x}",
                    region.start
                )));
            }
            end = region.start + region.len;
        }
        let range = |region: &Region| PhysRange {
            start: GuestPhys(region.start),
            len: region.len,
        };
        let ranges = regions.iter().map(range).collect();
        regions.sort_by_key(|region| std::cmp::Reverse(region.len));
        Ok(Self {
            regions: regions.into(),
            ranges,
        })
    }

    /// Maps the whole file as RAM from physical address 0: a guest whose RAM ends below the PCI hole.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_whole(path: &Path) -> Result<Self> {
        let len = std::fs::metadata(path)
            .map_err(|e| {
                Error::io(format!(
                    "cannot open the guest's RAM file {}: {e}",
                    path.display()
                ))
            })?
            .len();
        Self::open(
            path,
            &[RamRange {
                gpa: 0,
                offset: 0,
                len: len & !(PAGE_SIZE - 1),
            }],
        )
    }

    /// Tells whether `path` is still the one file that was mapped.
    #[must_use]
    pub fn is(&self, path: &Path) -> bool {
        let id = |of: std::io::Result<std::fs::Metadata>| of.ok().map(|of| (of.dev(), of.ino()));
        let at = id(std::fs::metadata(path));
        at.is_some()
            && self
                .regions
                .iter()
                .all(|region| id(region.file.metadata()) == at)
    }

    /// The region that holds `at`, and the offset into it.
    #[inline]
    fn locate(&self, at: GuestPhys) -> Option<(&Region, usize)> {
        for region in self.regions.iter() {
            let offset = at.0.wrapping_sub(region.start);
            if offset < region.len {
                return Some((region, (offset + region.skip) as usize));
            }
        }
        None
    }

    /// Tells whether it has the byte at `at`.
    pub(super) fn has(&self, at: GuestPhys) -> bool {
        self.locate(at).is_some()
    }

    /// One naturally aligned word, loaded in one piece; `None` when unaligned or not RAM.
    #[inline]
    pub(crate) fn load<T: Word>(&self, at: GuestPhys) -> Option<T::V> {
        let (region, offset) = self.locate(at)?;
        let word = region.map.get_atomic_ref::<T>(offset).ok()?;
        Some(word.value())
    }
}

/// A word that is loaded in one piece. vm-memory's own `load` is a call, also where all else is inlined: a walk of page
/// tables makes four or five of them.
pub(crate) trait Word: AtomicInteger {
    /// Its value now.
    fn value(&self) -> Self::V;
}

macro_rules! words {
    ($($atomic:ident),*) => {
        $(impl Word for $atomic {
            #[inline]
            fn value(&self) -> Self::V {
                Self::load(self, Ordering::Relaxed)
            }
        })*
    };
}
words!(AtomicU8, AtomicU16, AtomicU32, AtomicU64);

impl PhysMemory for RamFile {
    fn read(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        let slice = self
            .locate(at)
            .and_then(|(r, offset)| r.map.get_slice(offset, buf.len()).ok());
        match slice {
            Some(slice) => {
                slice.copy_to(buf);
                Ok(())
            }
            None if buf.is_empty() => Ok(()),
            None => across(&self.ranges, at, buf, |at, part| {
                let slice = self
                    .locate(at)
                    .and_then(|(r, offset)| r.map.get_slice(offset, part.len()).ok());
                let len = part.len();
                slice.ok_or(Error::NotRam { at, len })?.copy_to(part);
                Ok(())
            }),
        }
    }

    fn read_u64(&self, at: GuestPhys) -> Result<u64> {
        if let Some(word) = self.load::<AtomicU64>(at) {
            return Ok(u64::from_le(word));
        }
        let mut word = [0; 8];
        self.read(at, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    fn next_data(&self, at: GuestPhys) -> GuestPhys {
        let Some((region, _)) = self.locate(at) else {
            return at;
        };
        let offset = region.offset + (at.0 - region.start);
        let end = region.start + region.len;
        match next_data(&region.file, offset) {
            Some(data) => GuestPhys((data - region.offset).saturating_add(region.start).min(end)),
            None => GuestPhys(end),
        }
    }

    fn ranges(&self) -> &[PhysRange] {
        &self.ranges
    }

    /// Reads the file rather than the mapping: pages looked at once must not stay in this process, and a hole that is
    /// touched in a mapping is filled.
    fn read_once(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        across(&self.ranges, at, buf, |at, part| {
            let len = part.len();
            let (region, offset) = self.locate(at).ok_or(Error::NotRam { at, len })?;
            let from = region.offset - region.skip + offset as u64;
            region
                .file
                .read_exact_at(part, from)
                .map_err(|e| Error::io(format!("cannot read the guest's RAM file: {e}")))
        })
    }

    fn as_ram(&self) -> Option<&RamFile> {
        Some(self)
    }
}

/// Maps these ranges of a file.
fn map(path: &Path, ranges: &[RamRange]) -> Result<Vec<Region>> {
    let fault = |why: String| {
        Error::io(format!(
            "cannot map the guest's RAM file {}: {why}",
            path.display()
        ))
    };
    let file = Arc::new(File::open(path).map_err(|e| fault(e.to_string()))?);
    let size = file.metadata().map_err(|e| fault(e.to_string()))?.len();
    let mut regions = Vec::with_capacity(ranges.len());
    for &RamRange { gpa, offset, len } in ranges {
        if len == 0 || (gpa | len) % PAGE_SIZE != 0 || gpa.checked_add(len).is_none() {
            return Err(fault(format!(
                "the range of {len:#x} bytes at {gpa:#x} is not page-aligned"
            )));
        }
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(fault(format!(
                "{len:#x} bytes at offset {offset:#x} are more than its {size:#x} bytes"
            )));
        }
        let skip = offset % PAGE_SIZE;
        let owned = file.try_clone().map_err(|e| fault(e.to_string()))?;
        let backing = FileOffset::new(owned, offset - skip);
        let bytes = usize::try_from(len + skip).map_err(|e| fault(e.to_string()))?;
        let flags = nix::libc::MAP_SHARED | nix::libc::MAP_NORESERVE;
        let map = MmapRegion::build(Some(backing), bytes, nix::libc::PROT_READ, flags)
            .map_err(|e| fault(e.to_string()))?;
        regions.push(Region {
            start: gpa,
            len,
            offset,
            skip,
            map,
            file: Arc::clone(&file),
        });
    }
    Ok(regions)
}

/// A mapping of the first `len` bytes of a file.
#[cfg(test)]
pub(super) fn map_holes(file: &File, len: u64, flags: i32) -> Option<MmapRegion<()>> {
    let backing = FileOffset::new(file.try_clone().ok()?, 0);
    let bytes = usize::try_from(len).ok()?;
    MmapRegion::build(Some(backing), bytes, nix::libc::PROT_READ, flags).ok()
}

/// The first offset at or after `from` that the file holds bytes for, `from` itself where the filesystem cannot say.
pub(super) fn next_data(file: &File, from: u64) -> Option<u64> {
    let offset = i64::try_from(from).ok()?;
    match nix::unistd::lseek(file, offset, nix::unistd::Whence::SeekData) {
        Ok(data) => u64::try_from(data).ok(),
        Err(nix::Error::ENXIO) => None,
        Err(_) => Some(from),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    fn file(len: u64, writes: &[(u64, &[u8])]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(len).unwrap();
        for (at, bytes) in writes {
            file.seek(SeekFrom::Start(*at)).unwrap();
            file.write_all(bytes).unwrap();
        }
        file
    }

    #[test]
    fn two_ranges_with_a_hole_between() {
        let file = file(
            0x4000,
            &[(0x1ff8, &1u64.to_le_bytes()), (0x2000, &2u64.to_le_bytes())],
        );
        let low = RamRange {
            gpa: 0,
            offset: 0,
            len: 0x2000,
        };
        let high = RamRange {
            gpa: 0x1_0000_0000,
            offset: 0x2000,
            len: 0x2000,
        };
        let ram = RamFile::open(file.path(), &[high, low]).unwrap();
        assert_eq!(ram.read_u64(GuestPhys(0x1ff8)).unwrap(), 1);
        assert_eq!(ram.read_u64(GuestPhys(0x1_0000_0000)).unwrap(), 2);
        let fault = ram.read_u64(GuestPhys(0x1ffc)).unwrap_err();
        assert_eq!(
            fault,
            Error::NotRam {
                at: GuestPhys(0x1ffc),
                len: 8
            }
        );
        assert!(ram.read_u64(GuestPhys(u64::MAX)).is_err());
    }

    #[test]
    fn a_range_beyond_the_file_is_refused() {
        let file = file(0x1000, &[]);
        let fault = RamFile::open(
            file.path(),
            &[RamRange {
                gpa: 0,
                offset: 0x1000,
                len: 0x1000,
            }],
        )
        .unwrap_err();
        assert!(
            fault.to_string().contains("more than its 0x1000 bytes"),
            "{fault}"
        );
    }

    #[test]
    fn pages_are_found_across_holes() {
        let file = file(
            0x100_0000,
            &[
                (0x5001, b"MARK"),
                (0x80_3000, b"MARK"),
                (0xff_f000, b"MARK"),
            ],
        );
        let ram = RamFile::open_whole(file.path()).unwrap();
        let first = ram.find_page(b"MARK", GuestPhys(0)).unwrap();
        assert_eq!(first, Some(GuestPhys(0x80_3000)));
        assert_eq!(
            ram.find_page(b"MARK", GuestPhys(0x80_4000)).unwrap(),
            Some(GuestPhys(0xff_f000))
        );
        assert_eq!(ram.find_page(b"NONE", GuestPhys(0)).unwrap(), None);
    }

    #[test]
    fn the_mapping_follows_the_file() {
        let mut file = file(0x1000, &[]);
        let ram = RamFile::open_whole(file.path()).unwrap();
        assert_eq!(ram.read_u64(GuestPhys(8)).unwrap(), 0);
        file.seek(SeekFrom::Start(8)).unwrap();
        file.write_all(&7u64.to_le_bytes()).unwrap();
        assert_eq!(ram.read_u64(GuestPhys(8)).unwrap(), 7);
    }
}
