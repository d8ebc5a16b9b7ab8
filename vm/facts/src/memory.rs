//! Access to a machine's RAM: the places of its guest-physical addresses on the host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The file that is the guest's RAM, and where in guest-physical space its parts lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamFile {
    /// The file; it keeps its inode and its length for the guest's life, also over a reset.
    pub path: PathBuf,
    /// In ascending order of `gpa`, none overlapping.
    pub ranges: Vec<RamRange>,
}

/// One range of guest-physical addresses that a stretch of the RAM file backs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamRange {
    /// First guest-physical address.
    pub gpa: u64,
    /// Where it lies in the file, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// The ways to a machine's RAM, the best first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Memory {
    /// It is in files that QEMU shares: they are mapped. A machine that klab started has one.
    Files(Vec<RamFile>),
    /// Some of it, or all, is QEMU's own: that is read from the process.
    Process {
        /// Parts in files that QEMU shares.
        files: Vec<RamFile>,
        /// The rest.
        process: ProcessRam,
    },
    /// Only QEMU's gdbstub gives it, for which the guest stands still.
    Gdb {
        /// A Unix socket, or `host:port`.
        address: String,
        /// Ranges of RAM; offsets say nothing.
        ranges: Vec<RamRange>,
    },
}

/// RAM in the memory of QEMU's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRam {
    /// QEMU's process.
    pub pid: u32,
    /// Parts of the RAM: the offsets of the ranges are addresses in that process.
    pub parts: Vec<ProcessPart>,
}

/// A range of RAM in a process, and what is where the process has no page of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPart {
    /// The range.
    pub range: RamRange,
    /// Memory behind it.
    pub behind: Behind,
}

/// Content of a page of a process that is not in its page tables. To read such a page through the process would make it
/// one: the host's memory would be filled with what the guest never used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behind {
    /// Zeros: private memory of its own.
    Zeros,
    /// The file's content there: a private mapping of it.
    File {
        /// The file.
        path: PathBuf,
        /// Offset of the range in it, in bytes.
        offset: u64,
    },
    /// Only the process can say: its file cannot be opened by this user.
    Process,
}

impl Memory {
    /// All ranges of RAM, in no order.
    pub fn ranges(&self) -> impl Iterator<Item = &RamRange> {
        let (files, parts, ranges) = match self {
            Self::Files(files) => (files.as_slice(), &[][..], &[][..]),
            Self::Process { files, process } => {
                (files.as_slice(), process.parts.as_slice(), &[][..])
            }
            Self::Gdb { ranges, .. } => (&[][..], &[][..], ranges.as_slice()),
        };
        let parts = parts.iter().map(|part| &part.range);
        files
            .iter()
            .flat_map(|file| &file.ranges)
            .chain(parts)
            .chain(ranges)
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
            Self::Process { files, .. } if files.is_empty() => "read from QEMU's process",
            Self::Process { .. } => "mapped where QEMU shares it, else read from its process",
            Self::Gdb { .. } => "read by its gdbstub",
        }
    }
}
