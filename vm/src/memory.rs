//! How a machine's RAM is reached: where its guest-physical addresses lie on the host.

use serde::{Deserialize, Serialize};

use crate::ram::{RamFile, RamRange};

/// The ways to a machine's RAM, the best first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Memory {
    /// It is in files that QEMU shares: they are mapped. A machine that klab started has one.
    Files(Vec<RamFile>),
    /// It is QEMU's own: it is read from that process. The file is `/proc/PID/mem`, the offsets are addresses there.
    Process(RamFile),
    /// Only QEMU's gdbstub gives it, for which the guest stands still.
    Gdb {
        /// A Unix socket, or `host:port`.
        address: String,
        /// Where there is RAM; offsets say nothing.
        ranges: Vec<RamRange>,
    },
}

impl Memory {
    /// All ranges of RAM, in no order.
    pub fn ranges(&self) -> impl Iterator<Item = &RamRange> {
        let (files, ranges) = match self {
            Self::Files(files) => (files.as_slice(), &[][..]),
            Self::Process(file) => (std::slice::from_ref(file), &[][..]),
            Self::Gdb { ranges, .. } => (&[][..], ranges.as_slice()),
        };
        files.iter().flat_map(|file| &file.ranges).chain(ranges)
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges()
            .fold(0, |sum: u64, range| sum.saturating_add(range.len))
    }

    /// The way to it, in words.
    #[must_use]
    pub fn way(&self) -> &'static str {
        match self {
            Self::Files(_) => "mapped",
            Self::Process(_) => "read from QEMU's process",
            Self::Gdb { .. } => "read by its gdbstub",
        }
    }
}
