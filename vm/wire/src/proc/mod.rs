//! The values of `/proc`: a second reading of what the memory readers read, by way of the kernel itself.

mod kallsyms;
mod kmsg;
mod meminfo;
mod modules;
mod task;

use serde::{Deserialize, Serialize};

pub use kallsyms::{Symbol, parse_kallsyms};
pub use kmsg::{KmsgRecord, parse_kmsg};
pub use meminfo::{Mem, parse_meminfo};
pub use modules::{Module, parse_modules};
pub use task::{Mm, PF_KTHREAD, Task};

/// A line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vma {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
    /// `r-xp`: read, write, execute, private or shared.
    pub perms: String,
    /// Offset into the file, in bytes.
    pub offset: u64,
    /// The file's device, major and minor.
    pub dev: (u32, u32),
    /// The file's inode, 0 for none.
    pub inode: u64,
    /// The file, `[heap]`, `[stack]`, .., or empty.
    pub path: String,
}

/// Entry of one page in `/proc/PID/pagemap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageEntry {
    /// The page's first byte.
    pub address: u64,
    /// True if it is in RAM.
    pub present: bool,
    /// Its frame number, when it is in RAM.
    pub pfn: u64,
    /// True if it is swapped out.
    pub swapped: bool,
    /// True if it is of a file, or shared anonymous memory.
    pub file: bool,
    /// True if it is mapped exactly once.
    pub exclusive: bool,
}
