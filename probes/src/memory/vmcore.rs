//! ELF dumps of a guest's memory: QEMU's `dump-guest-memory`, and what else writes `PT_LOAD` by physical address.

use std::fs::File;
use std::path::Path;

use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, ReadCache, elf};

use super::{PAGE_SIZE, RamFile, RamRange};
use crate::{Error, Result};

/// Maps the memory in an ELF dump; it is read like a RAM file, and does not change.
///
/// # Errors
/// When the file is no ELF core of x86-64, or has no memory by physical address in it.
pub fn open_core(path: &Path) -> Result<RamFile> {
    let fault =
        |why: String| Error::Machine(format!("cannot read the dump {}: {why}", path.display()));
    let file = File::open(path).map_err(|e| fault(e.to_string()))?;
    let data = ReadCache::new(file);
    let not_elf = |e: object::read::Error| {
        fault(format!(
            "{e}: it must be an ELF core, as `dump-guest-memory FILE` writes it without -z"
        ))
    };
    let header = elf::FileHeader64::<Endianness>::parse(&data).map_err(not_elf)?;
    let endian = header.endian().map_err(not_elf)?;
    if header.e_type(endian) != elf::ET_CORE || header.e_machine(endian) != elf::EM_X86_64 {
        return Err(fault("it is an ELF file but no core of x86-64".to_owned()));
    }
    let segments = header.program_headers(endian, &data).map_err(not_elf)?;
    let loads = segments.iter().filter(|s| s.p_type(endian) == elf::PT_LOAD);
    let ranges: Vec<RamRange> = loads
        .map(|s| RamRange {
            gpa: s.p_paddr(endian),
            offset: s.p_offset(endian),
            len: s.p_filesz(endian) & !(PAGE_SIZE - 1),
        })
        .filter(|range| range.len > 0)
        .collect();
    if ranges.is_empty() {
        return Err(fault("no segment of it holds memory".to_owned()));
    }
    RamFile::open(path, &ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Guest;
    use crate::kernel::FakeKernel;
    use crate::memory::{GuestPhys, PhysMemory};

    /// An ELF core with one segment a range; memory starts at an offset that is no page's, as QEMU writes it.
    fn core(ram: &[u8], segments: &[(u64, u64, u64)]) -> tempfile::NamedTempFile {
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

    #[test]
    fn a_kernel_in_a_dump() {
        let mut ram = vec![0; 16 << 20];
        FakeKernel::new()
            .memory()
            .unwrap()
            .read(GuestPhys(0), &mut ram)
            .unwrap();
        let half = 8 << 20;
        let file = core(&ram, &[(half, half, half), (0, 0, half)]);
        let guest = Guest::open_core(file.path()).unwrap();
        assert_eq!(guest.kernel().unwrap().release(), "7.3.4-fake");
        assert_eq!(guest.paused(|_| Ok(7)).unwrap(), 7);
        assert_eq!(guest.kernel().unwrap().space().memory().ranges().len(), 2);
    }

    #[test]
    fn what_is_no_dump_is_refused() {
        let said = |file: tempfile::NamedTempFile| open_core(file.path()).unwrap_err().to_string();
        let text = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(text.path(), b"KDUMP   ").unwrap();
        assert!(said(text).contains("without -z"));
        assert!(said(core(&[0; 4096], &[(0, 4096, 4096)])).contains("more than its"));
        assert!(said(core(&[0; 4096], &[])).contains("no segment"));
        assert!(said(core(&[0; 4096], &[(0, u64::MAX - 5000, 4096)])).contains("more than its"));
    }
}
