//! kdump files, which makedumpfile and QEMU (`dump-guest-memory -z`, `-l`, `-s`) write: pages, each compressed by itself
//! (`struct disk_dump_header`, `struct kdump_sub_header`, `struct page_desc` of makedumpfile's `diskdump_mod.h`).
//!
//! ```text
//! block 0               header
//! 1 ..                  sub header; VMCOREINFO and notes where it says
//! then                  two bitmaps of pages: those that there are, and those that are in the dump
//! then                  a descriptor for each page of the second, in order
//! ```

use std::sync::Arc;

use super::pages::{self, Cache, Page};
use super::{Bytes, Core, notes, piece, u32_at, u64_at};
use crate::memory::{GuestPhys, PAGE_SIZE, PhysMemory, PhysRange};
use crate::{Error, Result};

pub(super) const MAGIC: &[u8] = b"KDUMP   ";
/// Pages that RAM has at most: 16 TiB.
const PAGES: u64 = 1 << 32;
/// Bytes of a bitmap that are one piece of its index.
const CHUNK: u64 = 4096;
/// More ranges of RAM than any machine has.
const RANGES: usize = 4096;
/// More bytes than the notes of any dump have.
const NOTES: u64 = 16 << 20;
/// Bytes of `struct page_desc`.
pub(super) const DESCRIPTOR: u64 = 24;

/// The memory in a kdump file.
#[derive(Debug)]
struct Kdump {
    bytes: Box<dyn Bytes>,
    stored: Bitmap,
    /// Offset of the descriptors, in bytes.
    descriptors: u64,
    /// Level of what makedumpfile left out (`-d`).
    level: u32,
    ranges: Vec<PhysRange>,
    cache: Cache,
}

/// Opens a kdump file.
pub(super) fn open(bytes: Box<dyn Bytes>) -> Result<Core, String> {
    let header = piece(bytes.as_ref(), "its header", 0, 464, 464)?;
    if !header.starts_with(MAGIC) {
        return Err("it is no kdump file: `makedumpfile -R FILE <THIS` makes a file of a flattened ELF dump".to_owned());
    }
    if !header
        .get(272..)
        .is_some_and(|machine| machine.starts_with(b"x86_64\0"))
    {
        return Err("it is not of x86-64".to_owned());
    }
    let version = u32_at(&header, 8);
    let block = u64::from(u32_at(&header, 428));
    if block != PAGE_SIZE {
        return Err(format!(
            "its blocks have {block} bytes, those of x86-64 have {PAGE_SIZE}"
        ));
    }
    let (sub, bitmaps) = (
        u64::from(u32_at(&header, 432)),
        u64::from(u32_at(&header, 436)) * block,
    );
    let more = piece(bytes.as_ref(), "its header", block, 104, 104)?;
    if version >= 2 && u32_at(&more, 12) != 0 {
        return Err(
            "it is one of several parts: `makedumpfile --reassemble` joins them".to_owned(),
        );
    }
    let count = match version {
        6.. => u64_at(&more, 96),
        _ => u64::from(u32_at(&header, 440)),
    };
    if count == 0 || count > PAGES || bitmaps / 2 * 8 < count {
        return Err(format!(
            "its bitmap of {bitmaps} bytes is not of {count} pages"
        ));
    }
    let noted = |offset: usize, least: u32| match version >= least {
        false => Ok(Vec::new()),
        true => piece(
            bytes.as_ref(),
            "a note",
            u64_at(&more, offset),
            u64_at(&more, offset + 8),
            NOTES,
        ),
    };
    let (vmcoreinfo, note) = (noted(32, 3)?, noted(48, 4)?);
    let said = notes::parse(&note);
    let first = (1 + sub) * block;
    let there = Bitmap::read(bytes.as_ref(), first, count)?;
    let stored = Bitmap::read(bytes.as_ref(), first + bitmaps / 2, count)?;
    let kdump = Kdump {
        ranges: there.ranges()?,
        stored,
        descriptors: first + bitmaps,
        level: u32_at(&more, 8),
        bytes,
        cache: Cache::default(),
    };
    // A dump that was cut off is told when it is opened; the pages that it has are read all the same.
    let last = kdump.stored.last();
    let cut = last.and_then(|last| kdump.page(last).err());
    if let (Some(cut), Some(first)) = (&cut, kdump.stored.next(0))
        && kdump.page(first).is_err()
    {
        return Err(cut.to_string());
    }
    Ok(Core {
        cut: cut.map(|fault| fault.to_string()),
        memory: Arc::new(kdump),
        registers: said.registers,
        vmcoreinfo: said
            .vmcoreinfo
            .or_else(|| Some(vmcoreinfo).filter(|text| !text.is_empty())),
    })
}

/// A bitmap of pages, of which the parts without a bit take no memory.
#[derive(Debug)]
struct Bitmap {
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    /// Number of bits that are set before it.
    before: u64,
    bits: Option<Box<[u8]>>,
}

impl Bitmap {
    /// The bitmap of `count` bits at `at`.
    fn read(bytes: &dyn Bytes, at: u64, count: u64) -> Result<Self, String> {
        let len = count.div_ceil(8);
        let (mut chunks, mut before) = (Vec::new(), 0);
        let mut done = 0;
        while done < len {
            let want = CHUNK.min(len - done);
            let mut bits = piece(bytes, "its bitmap", at + done, want, CHUNK)?;
            if done + want == len && !count.is_multiple_of(8) {
                // Bits after the last page.
                if let Some(last) = bits.last_mut() {
                    *last &= 0xff >> (8 - count % 8);
                }
            }
            let ones: u64 = bits.iter().map(|byte| u64::from(byte.count_ones())).sum();
            chunks.push(Chunk {
                before,
                bits: (ones > 0).then(|| bits.into()),
            });
            before += ones;
            done += want;
        }
        Ok(Self { chunks })
    }

    /// Number of bits set before a page's; `None` if its own is not set.
    fn rank(&self, page: u64) -> Option<u64> {
        let chunk = self.chunks.get(usize::try_from(page / 8 / CHUNK).ok()?)?;
        let bits = chunk.bits.as_ref()?;
        let at = (page / 8 % CHUNK) as usize;
        let byte = *bits.get(at)?;
        let bit = page % 8;
        if byte >> bit & 1 == 0 {
            return None;
        }
        let before: u64 = bits[..at]
            .iter()
            .map(|byte| u64::from(byte.count_ones()))
            .sum();
        let below = u64::from((byte & ((1_u16 << bit) - 1) as u8).count_ones());
        Some(chunk.before + before + below)
    }

    /// The first page at or after `from` whose bit is set.
    fn next(&self, from: u64) -> Option<u64> {
        let per = CHUNK * 8;
        let mut at = from;
        while let Some(chunk) = self.chunks.get(usize::try_from(at / per).ok()?) {
            if let Some(bits) = &chunk.bits {
                let start = at / per * per;
                for page in at..start + (bits.len() as u64) * 8 {
                    let index = ((page - start) / 8) as usize;
                    if bits[index] >> (page % 8) & 1 == 1 {
                        return Some(page);
                    }
                }
            }
            at = (at / per + 1) * per;
        }
        None
    }

    fn last(&self) -> Option<u64> {
        let (index, bits) = self
            .chunks
            .iter()
            .enumerate()
            .rev()
            .find_map(|(index, chunk)| Some((index as u64, chunk.bits.as_ref()?)))?;
        let (byte, value) = bits
            .iter()
            .enumerate()
            .rev()
            .find(|(_, byte)| **byte != 0)?;
        Some((index * CHUNK + byte as u64) * 8 + u64::from(7 - value.leading_zeros()))
    }

    /// The runs of set bits, as memory.
    fn ranges(&self) -> Result<Vec<PhysRange>, String> {
        let mut ranges: Vec<PhysRange> = Vec::new();
        let mut end = None;
        for (index, chunk) in self.chunks.iter().enumerate() {
            let first = index as u64 * CHUNK * 8;
            for (at, byte) in chunk.bits.iter().flatten().enumerate() {
                for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                    let page = first + at as u64 * 8 + bit;
                    match ranges.last_mut() {
                        Some(last) if end == Some(page) => last.len += PAGE_SIZE,
                        _ => ranges.push(PhysRange {
                            start: GuestPhys(page * PAGE_SIZE),
                            len: PAGE_SIZE,
                        }),
                    }
                    end = Some(page + 1);
                }
            }
            if ranges.len() > RANGES {
                return Err("its bitmap has more ranges of RAM than any machine".to_owned());
            }
        }
        Ok(ranges)
    }
}

impl Kdump {
    /// The page of this number, read and decompressed.
    fn page(&self, number: u64) -> Result<Box<Page>> {
        let at = GuestPhys(number * PAGE_SIZE);
        let damaged = |why: String| {
            Error::io(format!(
                "the dump's page at physical {at} cannot be read: {why}"
            ))
        };
        let Some(rank) = self.stored.rank(number) else {
            return Err(Error::LeftOut {
                at: format!("the dump's page at physical {at}"),
                why: format!(
                    "it was left out when the dump was written (makedumpfile -d {})",
                    self.level
                ),
            });
        };
        let bytes = self.bytes.as_ref();
        let place = self.descriptors + rank * DESCRIPTOR;
        let descriptor =
            piece(bytes, "its descriptor", place, DESCRIPTOR, DESCRIPTOR).map_err(damaged)?;
        let (offset, size) = (u64_at(&descriptor, 0), u64::from(u32_at(&descriptor, 8)));
        let stored = piece(bytes, "its content", offset, size, PAGE_SIZE).map_err(damaged)?;
        let flags = u32_at(&descriptor, 12);
        pages::unpack(flags, &stored)
            .ok_or_else(|| damaged(format!("its {size} bytes (flags {flags:#x}) are no page")))
    }

    /// Tells whether only pages of zeros were left out.
    fn zeros_alone(&self) -> bool {
        self.level == 1
    }
}

impl PhysMemory for Kdump {
    fn read(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        let index = self.ranges.partition_point(|range| range.start <= at);
        let range = index.checked_sub(1).and_then(|i| self.ranges.get(i));
        let fits = range.is_some_and(|range| {
            let offset = at.0 - range.start.0;
            offset <= range.len && buf.len() as u64 <= range.len - offset
        });
        if !fits {
            return Err(Error::NotRam { at, len: buf.len() });
        }
        let mut done = 0;
        while done < buf.len() {
            let here = at.offset(done as u64);
            let (number, offset) = (here.0 / PAGE_SIZE, here.page_offset() as usize);
            let end = buf.len().min(done + PAGE_SIZE as usize - offset);
            let part = &mut buf[done..end];
            if self.zeros_alone() && self.stored.rank(number).is_none() {
                part.fill(0);
            } else {
                self.cache
                    .copy(number, offset, part, || self.page(number))?;
            }
            done = end;
        }
        Ok(())
    }

    fn ranges(&self) -> &[PhysRange] {
        &self.ranges
    }

    fn stored(&self, range: PhysRange) -> Vec<PhysRange> {
        if self.zeros_alone() {
            return vec![range];
        }
        let end = range.start.0.saturating_add(range.len);
        let mut stored: Vec<PhysRange> = Vec::new();
        let mut at = range.start.0;
        while let Some(page) = self.stored.next(at / PAGE_SIZE) {
            let from = at.max(page * PAGE_SIZE);
            if from >= end {
                break;
            }
            at = end.min((page + 1) * PAGE_SIZE);
            match stored.last_mut() {
                Some(last) if last.start.0 + last.len == from => last.len += at - from,
                _ => stored.push(PhysRange {
                    start: GuestPhys(from),
                    len: at - from,
                }),
            }
        }
        stored
    }

    /// Looks at the pages that are in the dump.
    fn find_page(&self, prefix: &[u8], from: GuestPhys) -> Result<Option<GuestPhys>> {
        let mut next = self.stored.next(from.0.div_ceil(PAGE_SIZE));
        while let Some(number) = next {
            // One that is damaged does not hide the others.
            if self.page(number).is_ok_and(|page| page.starts_with(prefix)) {
                return Ok(Some(GuestPhys(number * PAGE_SIZE)));
            }
            next = self.stored.next(number + 1);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{kdump, written};
    use super::*;
    use crate::memory::vmcore::Core as AnyCore;

    #[test]
    fn a_page_that_was_left_out_is_told() {
        let one = [1; PAGE_SIZE as usize];
        let read = |level| {
            let bytes = kdump(&[(1, &one), (3, &one)], 5, level);
            let memory = AnyCore::open(written(&bytes).path()).unwrap().memory;
            let mut word = [7; 4];
            memory.read(GuestPhys(0x3ffe), &mut word)?;
            Ok::<_, Error>(word)
        };
        assert_eq!(read(1).unwrap(), [1, 1, 0, 0]);
        let stored = |level| {
            let bytes = kdump(&[(1, &one), (3, &one), (4, &one)], 8, level);
            let memory = AnyCore::open(written(&bytes).path()).unwrap().memory;
            let part = |start, len| PhysRange {
                start: GuestPhys(start),
                len,
            };
            let stored = memory.stored(part(0x1800, 0x3000));
            stored
                .iter()
                .map(|part| (part.start.0, part.len))
                .collect::<Vec<_>>()
        };
        assert_eq!(stored(1), [(0x1800, 0x3000)]);
        assert_eq!(stored(31), [(0x1800, 0x800), (0x3000, 0x1800)]);
        assert_eq!(
            read(31).unwrap_err().kind(),
            crate::base::ErrorKind::LeftOut
        );
        let said = read(31).unwrap_err().to_string();
        assert!(
            said.contains("-d 31") && said.contains("0x0000000000004000"),
            "{said}"
        );
    }

    #[test]
    fn what_is_wrong_is_one_sentence() {
        let one = [1; PAGE_SIZE as usize];
        let good = kdump(&[(1, &one)], 5, 0);
        let said = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            let said = AnyCore::open(written(&bytes).path())
                .unwrap_err()
                .to_string();
            assert_eq!(said.lines().count(), 1, "{said}");
            said
        };
        for len in [
            8,
            300,
            4096,
            4200,
            8192,
            9000,
            12_288,
            16_384,
            16_400,
            good.len() - 1,
        ] {
            said(&|bytes| bytes.truncate(len));
        }
        assert!(said(&|bytes| bytes[272] = b'X').contains("x86-64"));
        assert!(said(&|bytes| bytes[430] = 1).contains("blocks"));
        assert!(said(&|bytes| bytes[4096 + 12] = 1).contains("several parts"));
        assert!(said(&|bytes| bytes[4096 + 96..4096 + 104].fill(0xff)).contains("bitmap"));
        assert!(said(&|bytes| bytes[436..440].fill(0xff)).contains("not in it"));
        assert!(said(&|bytes| bytes[4096 + 32..4096 + 48].fill(0x7f)).contains("a note"));
        assert!(said(&|bytes| bytes[16_384 + 8..16_384 + 12].fill(0xff)).contains("its content"));
        assert!(said(&|bytes| bytes[16_384 + 12] = 1).contains("no page"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_damage_is_survived(at in 0..20_000_usize, with in prop::collection::vec(any::<u8>(), 1..64)) {
            let mut bytes = kdump(&[(1, &[1; 4096]), (4, &[2; 4096])], 40_000, 0);
            let end = bytes.len().min(at + with.len());
            let at = at.min(end);
            bytes[at..end].copy_from_slice(&with[..end - at]);
            if let Ok(core) = AnyCore::open(written(&bytes).path()) {
                let _ = core.memory.find_page(b"OSRELEASE=", GuestPhys(0));
                let _ = core.memory.read(GuestPhys(0x1000), &mut [0; 8192]);
            }
        }
    }
}
