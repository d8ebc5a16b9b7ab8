//! The RAM of a QEMU that does not share it: read from that process, by `/proc/PID/mem`.
//!
//! The open file is bound to that process's memory, not to its id: when QEMU has ended, reads fail, and never give
//! another process's bytes. A read takes the kernel some 1.4 us, of which `process_vm_readv` saves nothing.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use super::{GuestPhys, PAGE_SIZE, PhysMemory, PhysRange, RamRange};
use crate::{Error, Result};

/// Pages that are searched at a time.
const CHUNK: u64 = 64;

/// A guest's RAM in the memory of QEMU's process.
#[derive(Debug)]
pub struct ProcessMemory {
    file: File,
    path: String,
    /// Ascending by `gpa`, offsets being addresses in that process.
    places: Vec<RamRange>,
    ranges: Vec<PhysRange>,
}

impl ProcessMemory {
    /// Opens the memory of a process; `file` says where in it the guest's RAM lies.
    ///
    /// # Errors
    /// When this user may not read it, or the ranges overlap.
    pub fn open(file: &vm::RamFile) -> Result<Self> {
        let path = file.path.display().to_string();
        let fault = |why: String| Error::io(format!("cannot read the RAM in {path}: {why}"));
        let open = File::open(&file.path).map_err(|e| fault(e.to_string()))?;
        let (places, ranges) = sorted(&file.ranges)
            .ok_or_else(|| fault("its ranges are not whole pages, or overlap".to_owned()))?;
        Ok(Self {
            file: open,
            path,
            places,
            ranges,
        })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|e| {
            let why = match e.kind() {
                ErrorKind::UnexpectedEof => "QEMU has ended".to_owned(),
                _ => e.to_string(),
            };
            Error::io(format!("cannot read the RAM in {}: {why}", self.path))
        })
    }
}

/// The ranges in ascending order, if they are whole pages that do not overlap.
pub(super) fn sorted(ranges: &[RamRange]) -> Option<(Vec<RamRange>, Vec<PhysRange>)> {
    let mut places = ranges.to_vec();
    places.sort_by_key(|place| place.gpa);
    let mut end = 0;
    for place in &places {
        if (place.gpa | place.len) % PAGE_SIZE != 0 || place.gpa < end {
            return None;
        }
        place.offset.checked_add(place.len)?;
        end = place.gpa.checked_add(place.len)?;
    }
    let range = |place: &RamRange| PhysRange {
        start: GuestPhys(place.gpa),
        len: place.len,
    };
    let ranges = places.iter().map(range).collect();
    Some((places, ranges))
}

impl PhysMemory for ProcessMemory {
    fn read(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        let index = self.places.partition_point(|place| place.gpa <= at.0);
        let place = index.checked_sub(1).and_then(|i| self.places.get(i));
        let fits = |place: &&RamRange| {
            let offset = at.0 - place.gpa;
            offset <= place.len && buf.len() as u64 <= place.len - offset
        };
        let place = place
            .filter(fits)
            .ok_or(Error::NotRam { at, len: buf.len() })?;
        self.read_at(place.offset + (at.0 - place.gpa), buf)
    }

    fn ranges(&self) -> &[PhysRange] {
        &self.ranges
    }

    fn find_page(&self, prefix: &[u8], from: GuestPhys) -> Result<Option<GuestPhys>> {
        let mut chunk = vec![0; (CHUNK * PAGE_SIZE) as usize];
        for range in &self.ranges {
            let end = range.start.0 + range.len;
            let Some(mut at) = range
                .start
                .0
                .max(from.0)
                .checked_next_multiple_of(PAGE_SIZE)
            else {
                break;
            };
            while at < end {
                let want = (end - at).min(chunk.len() as u64) as usize;
                self.read(GuestPhys(at), &mut chunk[..want])?;
                let mut pages = chunk[..want].chunks_exact(PAGE_SIZE as usize);
                if let Some(hit) = pages.position(|page| page.starts_with(prefix)) {
                    return Ok(Some(GuestPhys(at + hit as u64 * PAGE_SIZE)));
                }
                at += want as u64;
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This process's own memory, of which `bytes` is the guest's RAM at 1 MiB.
    fn own(bytes: &[u8]) -> ProcessMemory {
        let range = RamRange {
            gpa: 1 << 20,
            offset: bytes.as_ptr() as u64,
            len: bytes.len() as u64,
        };
        ProcessMemory::open(&vm::RamFile {
            path: "/proc/self/mem".into(),
            ranges: vec![range],
        })
        .unwrap()
    }

    #[test]
    fn what_is_ram_is_read_and_nothing_beside_it() {
        let mut bytes = vec![0; 3 * PAGE_SIZE as usize];
        bytes[0x1000..0x1006].copy_from_slice(b"MARK=1");
        let memory = own(&bytes);
        let mut word = [0; 4];
        memory.read(GuestPhys(0x10_1000), &mut word).unwrap();
        assert_eq!(&word, b"MARK");
        let hit = memory.find_page(b"MARK", GuestPhys(0)).unwrap();
        assert_eq!(hit, Some(GuestPhys(0x10_1000)));
        assert_eq!(
            memory.find_page(b"MARK", GuestPhys(0x10_1001)).unwrap(),
            None
        );
        for at in [0, 0xf_fffe, 0x10_2ffe, 0x10_3000, u64::MAX] {
            let fault = memory.read(GuestPhys(at), &mut word).unwrap_err();
            assert!(matches!(fault, Error::NotRam { .. }), "{at:#x}: {fault}");
        }
    }

    #[test]
    fn what_is_not_mapped_there_is_an_error() {
        let range = RamRange {
            gpa: 0,
            offset: 0x1000,
            len: 0x1000,
        };
        let file = vm::RamFile {
            path: "/proc/self/mem".into(),
            ranges: vec![range],
        };
        let memory = ProcessMemory::open(&file).unwrap();
        let said = memory.read_u64(GuestPhys(0)).unwrap_err().to_string();
        assert!(said.contains("/proc/self/mem"), "{said}");
    }

    #[test]
    fn ranges_that_overlap_are_refused() {
        let range = |gpa, len| RamRange {
            gpa,
            offset: 0,
            len,
        };
        assert!(sorted(&[range(0x1000, 0x1000), range(0, 0x1000)]).is_some());
        assert!(sorted(&[range(0, 0x2000), range(0x1000, 0x1000)]).is_none());
        assert!(sorted(&[range(1, 0x1000)]).is_none());
        assert!(sorted(&[range(u64::MAX - 0xfff, 0x1000)]).is_none());
    }
}
