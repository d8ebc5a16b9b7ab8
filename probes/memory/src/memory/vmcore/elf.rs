//! ELF dumps of a guest's memory: QEMU's `dump-guest-memory`, and what else writes `PT_LOAD` by physical address.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, ReadCache, elf};

use super::partial::Partial;
use super::{Core, notes, piece};
use crate::memory::{GuestPhys, PAGE_SIZE, PhysMemory, PhysRange, RamFile, RamRange};

/// More bytes than the notes of any dump have: some hundred a CPU.
const NOTES: u64 = 16 << 20;
/// More memory than any machine has: 16 TiB.
const MEMORY: u64 = 16 << 40;

/// Maps the memory in an ELF dump; it is read like a RAM file, and does not change.
pub(super) fn open(path: &Path, file: File) -> Result<Core, String> {
    let copy = file.try_clone().map_err(|e| e.to_string())?;
    let data = ReadCache::new(copy);
    let damaged = |e: object::read::Error| format!("{e}: it was cut off, or is damaged");
    let header = elf::FileHeader64::<Endianness>::parse(&data).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    if header.e_type(endian) != elf::ET_CORE || header.e_machine(endian) != elf::EM_X86_64 {
        return Err("it is an ELF file but no core of x86-64".to_owned());
    }
    let segments = header.program_headers(endian, &data).map_err(damaged)?;
    let of = |kind| segments.iter().filter(move |s| s.p_type(endian) == kind);
    let mut said = notes::Notes::default();
    for segment in of(elf::PT_NOTE) {
        let (at, len) = (segment.p_offset(endian), segment.p_filesz(endian));
        let parsed = notes::parse(&piece(&file, "its notes", at, len, NOTES)?);
        said.registers.extend(parsed.registers);
        said.of_program |= parsed.of_program;
        said.vmcoreinfo = said.vmcoreinfo.or(parsed.vmcoreinfo);
    }
    if said.of_program && said.vmcoreinfo.is_none() {
        return Err(
            "it is the core of a program, not of a machine's memory: gdb opens it".to_owned(),
        );
    }
    // A segment without a physical address has all bits set (`/proc/kcore`).
    let loads = || of(elf::PT_LOAD).filter(|s| s.p_paddr(endian) != u64::MAX);
    let with = |len: &dyn Fn(&elf::ProgramHeader64<Endianness>) -> u64| {
        let range = |s| RamRange {
            gpa: elf::ProgramHeader64::p_paddr(s, endian),
            offset: elf::ProgramHeader64::p_offset(s, endian),
            len: len(s) & !(PAGE_SIZE - 1),
        };
        apart(loads().map(range).collect())
    };
    let written = with(&|s| s.p_filesz(endian));
    if written.is_empty() {
        return Err("no segment of it holds memory".to_owned());
    }
    let whole = with(&|s| s.p_memsz(endian).max(s.p_filesz(endian)));
    let total = whole
        .iter()
        .fold(0_u64, |sum, range| sum.saturating_add(range.len));
    let odd = |range: &&RamRange| {
        !range.gpa.is_multiple_of(PAGE_SIZE) || range.gpa.checked_add(range.len).is_none()
    };
    if let Some(range) = whole.iter().find(odd) {
        let RamRange { gpa, len, .. } = range;
        return Err(format!(
            "its segment of {len} bytes at physical {gpa:#x} is not page-aligned"
        ));
    }
    if total > MEMORY {
        return Err(format!(
            "its segments have {total} bytes, more than any machine's memory"
        ));
    }
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    let end = |range: &RamRange| range.offset.saturating_add(range.len);
    let needed = written.iter().map(end).max().unwrap_or(0);
    let cut =
        (needed > size).then(|| format!("it was cut off, and has {size} of its {needed} bytes"));
    let there: Vec<RamRange> = written
        .iter()
        .map(|range| RamRange {
            len: size.saturating_sub(range.offset).min(range.len) & !(PAGE_SIZE - 1),
            ..*range
        })
        .filter(|range| range.len > 0)
        .collect();
    if let (true, Some(cut)) = (there.is_empty(), &cut) {
        return Err(format!("{cut}: no memory is among them"));
    }
    let ram = RamFile::open(path, &there).map_err(|e| e.to_string())?;
    let memory: Arc<dyn PhysMemory> = if there == whole {
        Arc::new(ram)
    } else {
        let ranges = |ranges: &[RamRange]| {
            let range = |range: &RamRange| PhysRange {
                start: GuestPhys(range.gpa),
                len: range.len,
            };
            ranges.iter().map(range).collect()
        };
        Arc::new(Partial {
            ram,
            ranges: ranges(&whole),
            written: ranges(&written),
            cut: cut.clone(),
        })
    };
    Ok(Core {
        memory,
        registers: said.registers,
        vmcoreinfo: said.vmcoreinfo,
        cut,
    })
}

/// The ranges without what is in another too: the kernel's image has a segment of its own and is in that of its RAM.
fn apart(mut ranges: Vec<RamRange>) -> Vec<RamRange> {
    ranges.sort_by_key(|range| (range.gpa, std::cmp::Reverse(range.len)));
    let mut end = 0_u64;
    ranges.retain_mut(|range| {
        let skip = end.saturating_sub(range.gpa).min(range.len);
        let (gpa, offset) = (range.gpa.checked_add(skip), range.offset.checked_add(skip));
        // One that ends nowhere is refused when it is mapped.
        range.gpa = gpa.unwrap_or(range.gpa);
        range.offset = offset.unwrap_or(range.offset);
        range.len -= skip;
        end = end.max(range.gpa.saturating_add(range.len));
        range.len > 0
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::super::testing::core;
    use super::*;
    use crate::base::ErrorKind;

    fn said(file: &tempfile::NamedTempFile) -> String {
        let said = Core::open(file.path()).unwrap_err().to_string();
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    }

    #[test]
    fn what_is_no_dump_is_refused() {
        let text = tempfile::NamedTempFile::new().unwrap();
        for bytes in [&b""[..], b"ELF", b"MZ                            "] {
            std::fs::write(text.path(), bytes).unwrap();
            assert!(said(&text).contains("must be an ELF core or a kdump file"));
        }
        let folder = tempfile::tempdir().unwrap();
        let fault = Core::open(folder.path()).unwrap_err().to_string();
        assert!(fault.contains("must be an ELF core"), "{fault}");
        assert!(said(&core(&[0; 4096], &[(0, 4096, 4096)])).contains("cut off"));
        assert!(said(&core(&[0; 4096], &[])).contains("no segment"));
        assert!(said(&core(&[0; 4096], &[(0, u64::MAX - 5000, 4096)])).contains("cut off"));
        assert!(said(&core(&[0; 4096], &[(u64::MAX - 0xfff, 0, 4096)])).contains("page-aligned"));
    }

    #[test]
    fn what_is_cut_off_is_told() {
        let whole = std::fs::read(core(&[0; 8192], &[(0, 0, 8192)]).path()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        for len in [20, 63, 64, 100, 64 + 56, 4096] {
            std::fs::write(file.path(), &whole[..len]).unwrap();
            said(&file);
        }
        // A note that claims more than there is, and a count of headers that is more than the file.
        let mut lie = whole.clone();
        lie[64] = 4;
        lie[64 + 32..64 + 40].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        std::fs::write(file.path(), &lie).unwrap();
        assert!(said(&file).contains("its notes"));
        lie[56..58].copy_from_slice(&[0xfe, 0xff]);
        std::fs::write(file.path(), &lie).unwrap();
        assert!(said(&file).contains("cut off"));
    }

    #[test]
    fn what_was_left_out_is_no_memory_that_is_absent() {
        let file = core(&[7; 8192], &[(0, 0, 4096)]);
        // Memory of 8192 bytes, of which 4096 are in the file.
        let mut bytes = std::fs::read(file.path()).unwrap();
        bytes[64 + 40..64 + 48].copy_from_slice(&8192_u64.to_le_bytes());
        std::fs::write(file.path(), &bytes).unwrap();
        let core = Core::open(file.path()).unwrap();
        assert_eq!(core.cut, None);
        assert_eq!(
            core.memory.read_u64(GuestPhys(8)).unwrap(),
            0x0707_0707_0707_0707
        );
        let fault = core.memory.read_u64(GuestPhys(4096)).unwrap_err();
        assert_eq!(fault.kind(), ErrorKind::LeftOut, "{fault}");
        let all = core.memory.ranges()[0];
        let stored = core.memory.stored(all);
        assert_eq!((all.len, stored.len(), stored[0].len), (8192, 1, 4096));
    }

    #[test]
    fn a_program_s_core_is_called_one() {
        let mut bytes = std::fs::read(core(&[0; 4096], &[(0, 0, 4096)]).path()).unwrap();
        // NT_AUXV, of no bytes, where the memory was.
        bytes[64] = 4;
        let at = bytes.len() - 4096;
        bytes[at..at + 20].copy_from_slice(b"\x05\0\0\0\0\0\0\0\x06\0\0\0CORE\0\0\0\0");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        assert!(said(&file).contains("core of a program"), "{}", said(&file));
    }

    #[test]
    fn a_segment_in_another_is_read_once() {
        let range = |gpa, offset, len| RamRange { gpa, offset, len };
        let ranges = apart(vec![
            range(0x5000, 0x9000, 0x1000),
            range(0x1000, 0, 0x8000),
            range(0x8000, 0x20_000, 0x2000),
        ]);
        assert_eq!(
            ranges,
            [range(0x1000, 0, 0x8000), range(0x9000, 0x21_000, 0x1000)]
        );
    }
}
