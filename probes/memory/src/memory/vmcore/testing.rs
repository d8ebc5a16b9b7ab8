//! Small dumps for tests.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its file cannot be written"
)]

use super::kdump::{DESCRIPTOR, MAGIC};
use crate::memory::PAGE_SIZE;

/// An ELF core with one segment a range; memory starts at an offset that is no page's, as QEMU writes it.
pub fn core(ram: &[u8], segments: &[(u64, u64, u64)]) -> tempfile::NamedTempFile {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([4, 0, 62, 0, 1, 0, 0, 0]);
    bytes.extend([0; 8]);
    bytes.extend(64_u64.to_le_bytes());
    bytes.extend([0; 8 + 4]);
    bytes.extend([64, 0, 56, 0, segments.len() as u8, 0, 0, 0, 0, 0, 0, 0]);
    let data = 64 + 56 * segments.len() as u64;
    for (gpa, offset, len) in segments {
        bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        for word in [data + offset, 0, *gpa, *len, *len, 0] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.extend_from_slice(ram);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

/// A kdump file of these pages, by their numbers, each snappy; `there` says which pages there are.
pub fn kdump(pages: &[(u64, &[u8])], there: u64, level: u32) -> Vec<u8> {
    let half = there.div_ceil(8).div_ceil(PAGE_SIZE);
    let mut bytes = vec![0; 4096];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8] = 6;
    bytes[272..278].copy_from_slice(b"x86_64");
    bytes[428..432].copy_from_slice(&4096_u32.to_le_bytes());
    bytes[432] = 1;
    bytes[436..440].copy_from_slice(&(half as u32 * 2).to_le_bytes());
    let mut sub = vec![0; 4096];
    sub[8..12].copy_from_slice(&level.to_le_bytes());
    sub[96..104].copy_from_slice(&there.to_le_bytes());
    let mut bitmaps = vec![0_u8; (half * 4096 * 2) as usize];
    for page in 0..there {
        bitmaps[(page / 8) as usize] |= 1 << (page % 8);
    }
    for (page, _) in pages {
        bitmaps[(half * 4096 + page / 8) as usize] |= 1 << (page % 8);
    }
    bytes.extend(sub);
    bytes.extend(bitmaps);
    let mut content = Vec::new();
    let start = bytes.len() as u64 + pages.len() as u64 * DESCRIPTOR;
    for (_, page) in pages {
        let packed = snap::raw::Encoder::new().compress_vec(page).unwrap();
        bytes.extend((start + content.len() as u64).to_le_bytes());
        bytes.extend((packed.len() as u32).to_le_bytes());
        bytes.extend([4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        content.extend(packed);
    }
    bytes.extend(content);
    bytes
}

/// A file of these bytes.
pub fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}
