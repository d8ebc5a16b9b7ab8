//! The RAM of a QEMU that does not share it: read from that process, by `/proc/PID/mem`.
//!
//! The open file is bound to that process's memory, not to its id: when QEMU has ended, reads fail, and never give
//! another process's bytes. A read takes the kernel some 1.4 us, of which `process_vm_readv` saves nothing.
//!
//! A page that the guest has never used is not read there: the kernel would make one, of the host's memory, which the
//! process then keeps. `/proc/PID/pagemap` says which pages there are.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use klab_facts::{Behind, ProcessRam};

use super::ram::next_data;
use super::{GuestPhys, PAGE_SIZE, PhysMemory, PhysRange, RamRange, across};
use crate::{Error, Result};

/// Pages that are asked for at a time, 8 bytes each.
const ASKED: u64 = 512;
/// `PM_PRESENT` and `PM_SWAP` (`fs/proc/task_mmu.c`).
const THERE: u64 = 0b11 << 62;

/// A guest's RAM in the memory of QEMU's process.
#[derive(Debug)]
pub struct ProcessMemory {
    memory: File,
    path: String,
    /// Absent where this kernel gives none.
    pagemap: Option<File>,
    /// Ascending by address.
    places: Vec<Place>,
    ranges: Vec<PhysRange>,
}

#[derive(Debug)]
struct Place {
    range: RamRange,
    under: Under,
    /// A bit for each page that was seen to be there.
    seen: Box<[AtomicU64]>,
}

/// Content of a place where the process has no page.
#[derive(Debug)]
enum Under {
    Zeros,
    File { file: File, offset: u64 },
    Process,
}

impl ProcessMemory {
    /// Opens the memory of a process; `ram` says where in it the guest's RAM lies.
    ///
    /// # Errors
    /// When this user may not read it, or the ranges overlap.
    pub fn open(ram: &ProcessRam) -> Result<Self> {
        let path = format!("/proc/{}/mem", ram.pid);
        let fault = |why: String| Error::io(format!("cannot read the RAM in {path}: {why}"));
        let memory = File::open(&path).map_err(|e| fault(e.to_string()))?;
        let ranges: Vec<RamRange> = ram.parts.iter().map(|part| part.range).collect();
        let (_, ranges) = sorted(&ranges)
            .ok_or_else(|| fault("its ranges are not whole pages, or overlap".to_owned()))?;
        let mut places = Vec::with_capacity(ranges.len());
        for part in &ram.parts {
            let under = match &part.behind {
                Behind::Zeros => Under::Zeros,
                Behind::Process => Under::Process,
                Behind::File { path, offset } => {
                    let file = File::open(path)
                        .map_err(|e| fault(format!("its file {}: {e}", path.display())))?;
                    let offset = *offset;
                    Under::File { file, offset }
                }
            };
            let words = (part.range.len / PAGE_SIZE).div_ceil(64);
            places.push(Place {
                range: part.range,
                under,
                seen: (0..words).map(|_| AtomicU64::new(0)).collect(),
            });
        }
        places.sort_by_key(|place| place.range.gpa);
        Ok(Self {
            memory,
            pagemap: File::open(format!("/proc/{}/pagemap", ram.pid)).ok(),
            path,
            places,
            ranges,
        })
    }

    fn place(&self, at: GuestPhys) -> Option<&Place> {
        let index = self.places.partition_point(|place| place.range.gpa <= at.0);
        self.places.get(index.checked_sub(1)?)
    }

    fn fault(&self, error: &std::io::Error) -> Error {
        let why = match error.kind() {
            ErrorKind::UnexpectedEof => "QEMU has ended".to_owned(),
            _ => error.to_string(),
        };
        Error::io(format!("cannot read the RAM in {}: {why}", self.path))
    }

    /// Tells whether the process has the page, and how many of the `most` from there on are alike in that.
    fn run(&self, place: &Place, page: u64, most: u64) -> Result<(bool, u64)> {
        let Some(pagemap) = &self.pagemap else {
            return Ok((true, most));
        };
        if matches!(place.under, Under::Process) {
            return Ok((true, most));
        }
        let known = (page..page + most).take_while(|page| place.seen(*page));
        match known.count() as u64 {
            0 => {}
            known => return Ok((true, known)),
        }
        let most = most.min(ASKED);
        let mut entries = [0; 8 * ASKED as usize];
        let entries = &mut entries[..8 * most as usize];
        let first = place.range.offset / PAGE_SIZE + page;
        pagemap
            .read_exact_at(entries, first * 8)
            .map_err(|e| self.fault(&e))?;
        let words = entries.chunks_exact(8).map(|word| {
            let word = word.try_into().map_or(0, u64::from_le_bytes);
            word & THERE != 0
        });
        let (mut run, mut first) = (0, false);
        for (index, there) in words.enumerate() {
            if index == 0 {
                first = there;
            } else if there != first {
                break;
            }
            if there {
                place.note(page + index as u64);
            }
            run += 1;
        }
        Ok((first, run))
    }

    /// Reads what lies in one place.
    fn read_in(&self, place: &Place, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let here = offset + done as u64;
            let page = here / PAGE_SIZE;
            let last = (offset + buf.len() as u64 - 1) / PAGE_SIZE;
            let (there, pages) = self.run(place, page, last - page + 1)?;
            let end = (page + pages) * PAGE_SIZE - offset;
            let end = buf.len().min(usize::try_from(end).unwrap_or(usize::MAX));
            let part = &mut buf[done..end];
            match &place.under {
                Under::File { file, offset } if !there => {
                    read_file(file, offset + here, part).map_err(|e| self.fault(&e))?;
                }
                Under::Zeros if !there => part.fill(0),
                _ => self
                    .memory
                    .read_exact_at(part, place.range.offset + here)
                    .map_err(|e| self.fault(&e))?,
            }
            done = end;
        }
        Ok(())
    }
}

/// Reads a file, behind whose end there are zeros: QEMU's RAM may be longer than its file.
fn read_file(file: &File, at: u64, buf: &mut [u8]) -> std::io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at + done as u64) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buf[done..].fill(0);
    Ok(())
}

impl Place {
    fn seen(&self, page: u64) -> bool {
        let word = self.seen.get((page / 64) as usize);
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (page % 64) & 1 == 1)
    }

    fn note(&self, page: u64) {
        if let Some(word) = self.seen.get((page / 64) as usize) {
            word.fetch_or(1 << (page % 64), Ordering::Relaxed);
        }
    }
}

/// The ranges in ascending order, if they are whole pages that do not overlap.
pub fn sorted(ranges: &[RamRange]) -> Option<(Vec<RamRange>, Vec<PhysRange>)> {
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
        across(&self.ranges, at, buf, |at, part| {
            let not_ram = Error::NotRam {
                at,
                len: part.len(),
            };
            let place = self.place(at).ok_or(not_ram)?;
            self.read_in(place, at.0 - place.range.gpa, part)
        })
    }

    fn next_data(&self, at: GuestPhys) -> GuestPhys {
        let Some(place) = self.place(at) else {
            return at;
        };
        let RamRange { gpa, len, .. } = place.range;
        let pages = len / PAGE_SIZE;
        let mut page = (at.0 - gpa) / PAGE_SIZE;
        let of_file = match &place.under {
            Under::Process => return at,
            Under::Zeros => None,
            Under::File { file, offset } => {
                next_data(file, offset + (at.0 - gpa)).map(|data| (data - offset) / PAGE_SIZE)
            }
        };
        while page < pages.min(of_file.unwrap_or(u64::MAX)) {
            match self.run(place, page, pages - page) {
                Ok((false, run)) => page += run,
                // A reader there is told of the error.
                Ok((true, _)) | Err(_) => break,
            }
        }
        let found = page.min(of_file.unwrap_or(u64::MAX)).min(pages);
        GuestPhys(at.0.max(gpa + found * PAGE_SIZE))
    }

    fn ranges(&self) -> &[PhysRange] {
        &self.ranges
    }
}

#[cfg(test)]
mod tests {
    use klab_facts::ProcessPart;

    use super::super::ram::map_holes;
    use super::*;

    fn own(parts: Vec<ProcessPart>) -> ProcessMemory {
        let pid = std::process::id();
        ProcessMemory::open(&ProcessRam { pid, parts }).unwrap()
    }

    fn part(gpa: u64, at: u64, len: u64, behind: Behind) -> ProcessPart {
        let range = RamRange {
            gpa,
            offset: at,
            len,
        };
        ProcessPart { range, behind }
    }

    #[test]
    fn what_is_ram_is_read_and_nothing_beside_it() {
        let mut bytes = vec![0; 4 * PAGE_SIZE as usize];
        let at = (bytes.as_ptr() as u64).next_multiple_of(PAGE_SIZE);
        let skip = (at - bytes.as_ptr() as u64) as usize;
        bytes[skip + 0x1000..skip + 0x1006].copy_from_slice(b"MARK=1");
        let memory = own(vec![part(1 << 20, at, 3 * PAGE_SIZE, Behind::Zeros)]);
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

    /// Reading memory that was never used makes no page of it, and what lies in the file under it is seen.
    #[test]
    fn what_was_never_used_is_left_alone() {
        const LEN: u64 = 64 << 12;
        let file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile());
        let file = file.unwrap();
        file.set_len(LEN).unwrap();
        file.write_all_at(b"IN THE FILE", 0x5000).unwrap();
        let blocks = || {
            use std::os::unix::fs::MetadataExt;
            file.metadata().unwrap().blocks()
        };
        let private = map_holes(&file, LEN, nix::libc::MAP_PRIVATE).unwrap();
        let before = blocks();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        let behind = Behind::File {
            path: format!("/proc/self/fd/{fd}").into(),
            offset: 0,
        };
        let memory = own(vec![part(0, private.as_ptr() as u64, LEN, behind)]);
        let mut all = vec![1; LEN as usize];
        memory.read_once(GuestPhys(0), &mut all).unwrap();
        assert_eq!(&all[0x5000..0x500b], b"IN THE FILE");
        assert!(all[..0x5000].iter().all(|byte| *byte == 0));
        assert_eq!(memory.next_data(GuestPhys(0)), GuestPhys(0x5000));
        assert_eq!(memory.next_data(GuestPhys(0x6000)), GuestPhys(LEN));
        assert_eq!(blocks(), before, "a hole was filled");
        // The same through the process fills them: the test sees it.
        let told = own(vec![part(0, private.as_ptr() as u64, LEN, Behind::Process)]);
        told.read_once(GuestPhys(0), &mut all).unwrap();
        assert!(blocks() > before, "this file system has no holes");
    }

    #[test]
    fn ranges_that_follow_each_other_are_read_as_one() {
        let bytes: Vec<u8> = (0..5 * PAGE_SIZE).map(|at| (at / 64) as u8).collect();
        let at = (bytes.as_ptr() as u64).next_multiple_of(PAGE_SIZE);
        let skip = (at - bytes.as_ptr() as u64) as usize;
        let memory = own(vec![
            part(PAGE_SIZE, at + PAGE_SIZE, PAGE_SIZE, Behind::Zeros),
            part(0, at, PAGE_SIZE, Behind::Zeros),
        ]);
        let mut read = [0; 200];
        memory.read(GuestPhys(PAGE_SIZE - 100), &mut read).unwrap();
        let from = skip + PAGE_SIZE as usize - 100;
        assert_eq!(read, bytes[from..from + 200]);
    }

    #[test]
    fn what_is_not_mapped_there_is_an_error() {
        let memory = own(vec![part(0, 0x1000, 0x1000, Behind::Process)]);
        let said = memory.read_u64(GuestPhys(0)).unwrap_err().to_string();
        assert!(said.contains("/proc/"), "{said}");
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
