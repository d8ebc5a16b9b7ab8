//! Memory of words for the tests of this module's walkers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kernel::Kernel;
use crate::memory::{AddressSpace, FakeMemory, GuestPhys};

/// Words at addresses; everything else is not RAM.
#[derive(Debug, Default, Clone)]
pub(crate) struct Image {
    bytes: BTreeMap<u64, u8>,
}

impl Image {
    /// Sets the word at `at`; returns what was there.
    pub(crate) fn set(&mut self, at: u64, value: u64) -> Option<u64> {
        let mut old = [0; 8];
        let mut had = true;
        for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
            match self.bytes.insert(at + i as u64, byte) {
                Some(byte) => old[i] = byte,
                None => had = false,
            }
        }
        had.then(|| u64::from_le_bytes(old))
    }

    /// Sets bytes at `at`.
    pub(crate) fn fill(&mut self, at: u64, bytes: &[u8]) {
        self.bytes
            .extend(bytes.iter().enumerate().map(|(i, b)| (at + i as u64, *b)));
    }

    /// A kernel whose virtual addresses are this image's.
    pub(crate) fn kernel(&self) -> Kernel {
        let mut pieces: Vec<(GuestPhys, Vec<u8>)> = Vec::new();
        for (&at, &byte) in &self.bytes {
            match pieces.last_mut() {
                Some((start, bytes)) if start.0 + bytes.len() as u64 == at => bytes.push(byte),
                _ => pieces.push((GuestPhys(at), vec![byte])),
            }
        }
        Kernel::from_parts(
            "test",
            AddressSpace::identity(Arc::new(FakeMemory::new(pieces))),
        )
    }
}
