//! Guest memory: addresses, the one trait to read physical memory, its backends, and translation.

mod fake;
mod mixed;
mod pagetable;
mod process;
mod ram;
mod space;
mod view;
pub mod vmcore;

pub use crate::base::{GuestPhys, GuestVirt, PAGE_SIZE};
pub use fake::FakeMemory;
pub use klab_facts::RamRange;
pub use mixed::MixedMemory;
pub use pagetable::{Entry, EntryKind, Level, PageWalk, Paging, PresentPage, PresentPages, Step};
pub use process::{ProcessMemory, sorted};
pub use ram::RamFile;
pub use space::{AddressSpace, Linear};

use crate::base::ErrorKind;
use crate::{Error, Result};

/// Pages that are searched at a time.
const SEARCHED: u64 = 64;

/// Reads what may lie in several ranges that follow each other (two nodes, a DIMM behind the board's own memory): each
/// part by `read`.
fn across(
    ranges: &[PhysRange],
    at: GuestPhys,
    buf: &mut [u8],
    mut read: impl FnMut(GuestPhys, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let not_ram = Error::NotRam { at, len: buf.len() };
    if at.0.checked_add(buf.len() as u64).is_none() {
        return Err(not_ram);
    }
    let mut done = 0;
    while done < buf.len() {
        let here = at.offset(done as u64);
        let index = ranges.partition_point(|range| range.start <= here);
        let range = index.checked_sub(1).and_then(|i| ranges.get(i));
        let left = range.map_or(0, |range| range.len.saturating_sub(here.0 - range.start.0));
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        if left == 0 {
            return Err(not_ram);
        }
        let end = buf.len().min(done.saturating_add(left));
        read(here, &mut buf[done..end])?;
        done = end;
    }
    Ok(())
}

/// A stretch of guest RAM, in guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhysRange {
    /// First byte.
    pub start: GuestPhys,
    /// Length in bytes.
    pub len: u64,
}

/// Physical memory of a guest. Implemented by the mapped RAM file, QEMU's process, its gdbstub, dumps and the fake image.
pub trait PhysMemory: Send + Sync + std::fmt::Debug {
    /// Fills `buf` from `at`.
    ///
    /// # Errors
    /// `Unmapped`, with the part, if it is not all RAM; `LeftOut` if a dump lacks the page; `Machine` or `Io` if the source
    /// fails.
    fn read(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()>;

    /// Reads one little-endian word. Backends that can do it without a copy override it;
    /// an aligned word is then read in one piece, never torn.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn read_u64(&self, at: GuestPhys) -> Result<u64> {
        let mut word = [0; 8];
        self.read(at, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// Fills `buf` from `at` as [`Self::read`] does, for bytes that are looked at once: nothing of them is kept.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn read_once(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        self.read(at, buf)
    }

    /// The first byte at or after `at` that may be anything but zero, or the end of the memory around `at`.
    fn next_data(&self, at: GuestPhys) -> GuestPhys {
        at
    }

    /// The RAM there is, ascending, without overlaps.
    fn ranges(&self) -> &[PhysRange];

    /// Lists the parts of a stretch of RAM that can be read, ascending: dumps leave pages out.
    fn stored(&self, range: PhysRange) -> Vec<PhysRange> {
        vec![range]
    }

    /// The first page at or after `from` whose bytes begin with `prefix`. Pages that are not stored are left out, and one that
    /// cannot be read hides no other.
    ///
    /// # Errors
    /// As [`Self::read`]: at once for a machine that fails; of a page that cannot be read, where no other one is the page.
    fn find_page(&self, prefix: &[u8], from: GuestPhys) -> Result<Option<GuestPhys>> {
        let mut chunk = vec![0; (SEARCHED * PAGE_SIZE) as usize];
        let prefix = &prefix[..prefix.len().min(PAGE_SIZE as usize)];
        // A search that is gone on with after a hit often hits at once.
        let mut want = PAGE_SIZE;
        let mut unread = None;
        let ranges = self.ranges().iter();
        for range in ranges.flat_map(|range| self.stored(*range)) {
            let end = range.start.0.saturating_add(range.len);
            let first = range.start.0.max(from.0);
            let Some(mut at) = first.checked_next_multiple_of(PAGE_SIZE) else {
                break;
            };
            while at < end {
                at = at.max(self.next_data(GuestPhys(at)).page().0);
                if at >= end {
                    break;
                }
                let here = want.min(end - at) as usize;
                match self.read_once(GuestPhys(at), &mut chunk[..here]) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::Machine => return Err(error),
                    Err(error) if want == PAGE_SIZE => {
                        unread.get_or_insert(error);
                        at += PAGE_SIZE;
                        continue;
                    }
                    Err(_) => {
                        want = PAGE_SIZE;
                        continue;
                    }
                }
                let mut pages = chunk[..here].chunks(PAGE_SIZE as usize);
                if let Some(hit) = pages.position(|page| page.starts_with(prefix)) {
                    return Ok(Some(GuestPhys(at + hit as u64 * PAGE_SIZE)));
                }
                at = at.saturating_add(here as u64);
                want = (want * 2).min(chunk.len() as u64);
            }
        }
        unread.map_or(Ok(None), Err)
    }

    /// Keeps the guest standing still, until it is called with `false`, where only a guest that stands still can be read;
    /// then true. Else a caller that wants the guest still pauses its machine.
    ///
    /// # Errors
    /// `Machine` if the guest cannot be stopped or let go on.
    fn hold(&self, _still: bool) -> Result<bool> {
        Ok(false)
    }

    /// The mapped RAM file, when this is one: translation then reads it without a call through this trait.
    fn as_ram(&self) -> Option<&RamFile> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of which the page at 1 MiB cannot be read, and the one behind it was left out.
    #[derive(Debug)]
    struct Holes(FakeMemory);

    const BAD: u64 = 1 << 20;
    const LEFT_OUT: u64 = BAD + PAGE_SIZE;

    impl PhysMemory for Holes {
        fn read(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
            for hole in [BAD, LEFT_OUT] {
                if at.0 < hole + PAGE_SIZE && hole < at.0 + buf.len() as u64 {
                    let (at, why) = (format!("{hole:#x}"), String::new());
                    return Err(Error::LeftOut { at, why });
                }
            }
            self.0.read(at, buf)
        }

        fn ranges(&self) -> &[PhysRange] {
            self.0.ranges()
        }

        fn stored(&self, range: PhysRange) -> Vec<PhysRange> {
            let behind = LEFT_OUT + PAGE_SIZE;
            [(0, LEFT_OUT), (behind, range.len - behind)]
                .map(|(start, len)| PhysRange {
                    start: GuestPhys(start),
                    len,
                })
                .to_vec()
        }
    }

    #[test]
    fn a_page_that_cannot_be_read_hides_none_behind_it() {
        let mut ram = vec![0; 4 << 20];
        let mark = 3 << 20;
        ram[mark..mark + 4].copy_from_slice(b"MARK");
        let memory = Holes(FakeMemory::new([(GuestPhys(0), ram)]));
        let found = memory.find_page(b"MARK", GuestPhys(0));
        assert_eq!(found, Ok(Some(GuestPhys(mark as u64))));
        // It may be the one that cannot be read; the one that was left out is none that is there.
        let error = memory.find_page(b"NONE", GuestPhys(0)).unwrap_err();
        assert!(error.to_string().starts_with("0x100000 "), "{error}");
    }
}
