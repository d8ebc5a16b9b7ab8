//! Dumps of a guest's memory, by their formats: ELF, as QEMU's `dump-guest-memory`, `klab dump` and `/proc/vmcore` write
//! it, and what makedumpfile and QEMU compress.
//!
//! A dump is input like any other: every length in it is checked against the file and against a bound.

mod elf;
mod flat;
mod kdump;
mod lzo;
mod notes;
mod pages;
mod partial;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use klab_facts::Registers;

use super::PhysMemory;
use crate::{Error, Result};
pub use notes::{NT_PRSTATUS, PRSTATUS, PRSTATUS_PID, PRSTATUS_REGISTERS};

/// A dump: memory, and what its notes say.
#[derive(Debug, Clone)]
pub struct Core {
    /// The memory.
    pub memory: Arc<dyn PhysMemory>,
    /// The registers of the CPUs; empty where they were not saved.
    pub registers: Vec<Registers>,
    /// The text of VMCOREINFO, where it has a note with it; else the kernel is searched in the memory.
    pub vmcoreinfo: Option<Vec<u8>>,
    /// Note that it was cut off, and how much of it is missing.
    pub cut: Option<String>,
}

impl Core {
    /// Opens a dump of any of the formats.
    ///
    /// # Errors
    /// When it is none, is damaged, or is not of x86-64; one sentence.
    pub fn open(path: &Path) -> Result<Self> {
        let fault =
            |why: String| Error::io(format!("cannot read the dump {}: {why}", path.display()));
        let meta = std::fs::metadata(path).map_err(|e| fault(e.to_string()))?;
        // Opening a pipe would wait.
        if !meta.is_file() {
            return Err(fault(NO_DUMP.to_owned()));
        }
        let file = File::open(path).map_err(|e| fault(e.to_string()))?;
        let mut magic = [0; 16];
        file.read_exact_at(&mut magic, 0)
            .map_err(|_| fault(NO_DUMP.to_owned()))?;
        let opened = if magic.starts_with(kdump::MAGIC) {
            kdump::open(Box::new(file))
        } else if magic.starts_with(flat::MAGIC) {
            flat::Flat::open(file).and_then(|flat| kdump::open(Box::new(flat)))
        } else if magic.starts_with(b"\x7fELF") {
            elf::open(path, file)
        } else {
            Err(NO_DUMP.to_owned())
        };
        opened.map_err(fault)
    }
}

const NO_DUMP: &str = "it must be an ELF core or a kdump file, as `klab dump`, QEMU's `dump-guest-memory` and \
                       makedumpfile write them";

/// Bytes by their place, however they are stored.
trait Bytes: Send + Sync + std::fmt::Debug {
    /// Fills `buf` from `at`.
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Length of the file, in bytes.
    fn len(&self) -> io::Result<u64>;
}

impl Bytes for File {
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buf, at)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// A piece of a dump, of at most `most` bytes.
fn piece(bytes: &dyn Bytes, what: &str, at: u64, len: u64, most: u64) -> Result<Vec<u8>, String> {
    let whole = bytes.len().map_err(|e| e.to_string())?;
    let outside = || {
        format!(
            "{what} ({len} bytes from byte {at} on) is not in its {whole} bytes: it was cut off, or is damaged"
        )
    };
    if at.checked_add(len).is_none_or(|end| end > whole) {
        return Err(outside());
    }
    if len > most {
        return Err(format!("{what} has {len:#x} bytes, more than any dump's"));
    }
    let mut buf = vec![0; usize::try_from(len).map_err(|_| outside())?];
    bytes
        .read_at(at, &mut buf)
        .map_err(|e| format!("{what} cannot be read: {e}"))?;
    Ok(buf)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    word.map_or(0, u64::from_le_bytes)
}
