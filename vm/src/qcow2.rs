//! An empty disk image in QEMU's format, for what QEMU can keep nowhere else: the states of a machine that is recorded.
//!
//! `docs/interop/qcow2.txt@v7.2.0`: the header, a table of one block of reference counts, that block, a table of clusters. All
//! numbers are big-endian. The four clusters are in use; the disk has none.

use std::fs;
use std::path::Path;

use crate::error::{At, Result};

/// Bytes of a cluster.
const CLUSTER: usize = 1 << CLUSTER_BITS;
const CLUSTER_BITS: u32 = 16;
/// Clusters of an empty image.
const CLUSTERS: usize = 4;
/// Bytes of the disk, which holds nothing: the states lie behind its end.
const DISK: u64 = 1 << 20;
/// Bytes of the header of version 3.
const HEADER: u32 = 104;

/// Writes an empty image.
pub(crate) fn create(path: &Path) -> Result<()> {
    fs::write(path, image()).at("write", path)
}

fn image() -> Vec<u8> {
    let cluster = CLUSTER as u64;
    let mut image = vec![0; CLUSTERS * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3_u32.to_be_bytes());
    put(20, &CLUSTER_BITS.to_be_bytes());
    put(24, &DISK.to_be_bytes());
    // The entries of the table of clusters, and where it is.
    put(36, &1_u32.to_be_bytes());
    put(40, &(3 * cluster).to_be_bytes());
    // Offset of the table of reference counts, and its clusters.
    put(48, &cluster.to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    // Two to the power of this are the bits of a reference count.
    put(96, &4_u32.to_be_bytes());
    put(100, &HEADER.to_be_bytes());
    put(CLUSTER, &(2 * cluster).to_be_bytes());
    for at in 0..CLUSTERS {
        put(2 * CLUSTER + 2 * at, &1_u16.to_be_bytes());
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `qemu-img create -f qcow2` writes one, but for what that adds behind the header.
    #[test]
    fn tables_lie_where_the_header_says() {
        let image = image();
        let word = |at: usize| u64::from_be_bytes(*image[at..].first_chunk().unwrap()) as usize;
        assert_eq!(&image[..8], b"QFI\xfb\0\0\0\x03");
        assert_eq!(image.len(), CLUSTERS * CLUSTER);
        assert_eq!(word(24) as u64, DISK);
        let (clusters, counts) = (word(40), word(word(48)));
        assert_eq!((clusters, counts), (3 * CLUSTER, 2 * CLUSTER));
        assert_eq!(&image[counts..counts + 10], [0, 1, 0, 1, 0, 1, 0, 1, 0, 0]);
    }
}
