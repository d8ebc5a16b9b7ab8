//! The pages of a kdump file: how each is compressed, and the last ones that were read.

use std::sync::{Mutex, PoisonError};

use super::lzo;
use crate::memory::PAGE_SIZE;

/// A page as it is in memory.
pub(super) type Page = [u8; PAGE_SIZE as usize];

/// Compression of a page (`DUMP_DH_COMPRESSED_*` of makedumpfile's `diskdump_mod.h`).
const ZLIB: u32 = 0x1;
const LZO: u32 = 0x2;
const SNAPPY: u32 = 0x4;
const ZSTD: u32 = 0x20;
const ANY: u32 = ZLIB | LZO | SNAPPY | ZSTD;

/// Pages that are kept: 4 MiB.
const KEPT: u64 = 1024;

/// The page that is stored as these bytes; `None` where they are none.
pub(super) fn unpack(flags: u32, bytes: &[u8]) -> Option<Box<Page>> {
    let mut page = Box::new([0; PAGE_SIZE as usize]);
    let len = match flags & ANY {
        0 => {
            *page = *<&Page>::try_from(bytes).ok()?;
            page.len()
        }
        ZLIB => miniz_oxide::inflate::decompress_slice_iter_to_slice(
            page.as_mut_slice(),
            std::iter::once(bytes),
            true,
            false,
        )
        .ok()?,
        LZO => lzo::decompress(bytes, page.as_mut_slice())?,
        SNAPPY => {
            if snap::raw::decompress_len(bytes).ok()? != page.len() {
                return None;
            }
            snap::raw::Decoder::new()
                .decompress(bytes, page.as_mut_slice())
                .ok()?
        }
        ZSTD => {
            if !is_small(bytes) {
                return None;
            }
            ruzstd::decoding::FrameDecoder::new()
                .decode_all(bytes, page.as_mut_slice())
                .ok()?
        }
        _ => return None,
    };
    (len == page.len()).then_some(page)
}

/// Tells whether a zstd frame says that it needs no more memory than a page takes: its window is what a decoder
/// allocates (RFC 8878, 3.1.1.1).
fn is_small(frame: &[u8]) -> bool {
    let Some([0x28, 0xb5, 0x2f, 0xfd, descriptor, next, ..]) = frame.first_chunk::<6>() else {
        return false;
    };
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        // The window's size is 2 to the power of 10 and what its upper five bits say, and at most twice that.
        return next >> 3 <= 7;
    }
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = match descriptor >> 6 {
        0 => 1,
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let Some(field) = frame.get(5 + dictionary..5 + dictionary + size) else {
        return false;
    };
    let mut word = [0; 8];
    word[..size].copy_from_slice(field);
    u64::from_le_bytes(word) + if size == 2 { 256 } else { 0 } <= PAGE_SIZE
}

/// The last pages that were read, by their numbers. A dump does not change, so they stay true.
#[derive(Debug)]
pub(super) struct Cache {
    slots: Vec<Mutex<Slot>>,
}

/// A page and its number.
type Slot = Option<(u64, Box<Page>)>;

impl Default for Cache {
    fn default() -> Self {
        let slots = (0..KEPT).map(|_| Mutex::new(None)).collect();
        Self { slots }
    }
}

impl Cache {
    /// Copies from the page `number` at `offset`; `read` gets it where it is not kept.
    pub(super) fn copy<E>(
        &self,
        number: u64,
        offset: usize,
        to: &mut [u8],
        read: impl FnOnce() -> Result<Box<Page>, E>,
    ) -> Result<(), E> {
        let slot = &self.slots[(number % KEPT) as usize];
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let page = match &mut *slot {
            Some((known, page)) if *known == number => page,
            other => &mut other.insert((number, read()?)).1,
        };
        to.copy_from_slice(&page[offset..offset + to.len()]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page() -> Vec<u8> {
        (0..PAGE_SIZE).map(|at| (at / 100 * 7) as u8).collect()
    }

    #[test]
    fn each_way_gives_the_page_back() {
        let page = page();
        assert_eq!(unpack(0, &page).unwrap().as_slice(), page);
        let snappy = snap::raw::Encoder::new().compress_vec(&page).unwrap();
        assert_eq!(unpack(SNAPPY, &snappy).unwrap().as_slice(), page);
        let zstd = ruzstd::encoding::compress_to_vec(
            page.as_slice(),
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        assert_eq!(unpack(ZSTD, &zstd).unwrap().as_slice(), page);
    }

    #[test]
    fn what_is_shorter_or_longer_than_a_page_is_none() {
        let short = snap::raw::Encoder::new()
            .compress_vec(&page()[1..])
            .unwrap();
        assert!(unpack(SNAPPY, &short).is_none());
        assert!(unpack(0, &page()[1..]).is_none());
        assert!(unpack(0, &[page(), page()].concat()).is_none());
        assert!(unpack(ZLIB | LZO, &page()).is_none());
        // A window of 2 GiB.
        assert!(!is_small(&[0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3]));
        // One segment of 256 MiB.
        assert!(!is_small(&[0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x10]));
    }

    #[test]
    fn pages_are_read_once() {
        let cache = Cache::default();
        let mut word = [0; 2];
        for number in [1, 1 + KEPT] {
            let read = || Ok::<_, ()>(Box::new([number as u8; PAGE_SIZE as usize]));
            cache.copy(number, 8, &mut word, read).unwrap();
        }
        let known = || -> Result<_, ()> { panic!("it is kept") };
        cache.copy(1 + KEPT, 4094, &mut word, known).unwrap();
        assert_eq!(word, [(1 + KEPT) as u8; 2]);
        assert!(cache.copy(1, 0, &mut word, || Err(())).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_page_or_none(bytes in prop::collection::vec(any::<u8>(), 0..600), flags in 0..64_u32) {
            let _ = unpack(flags, &bytes);
            let _ = unpack(ZSTD, &[&[0x28, 0xb5, 0x2f, 0xfd][..], &bytes].concat());
        }
    }
}
