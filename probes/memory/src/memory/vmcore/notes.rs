//! The notes of a dump (elf(5)): registers of CPUs, and VMCOREINFO.

use klab_facts::Registers;

use super::u32_at;

/// The type of a note with a CPU's registers, named `CORE`.
pub const NT_PRSTATUS: u32 = 1;
/// Bytes of `struct elf_prstatus` (`include/linux/elfcore.h`).
pub const PRSTATUS: usize = 336;
/// Offset of its `pr_pid`.
pub const PRSTATUS_PID: usize = 32;
/// Offset of its `pr_reg`.
pub const PRSTATUS_REGISTERS: usize = 112;
/// Notes of a program's core (`fs/binfmt_elf.c`).
const NT_AUXV: u32 = 6;
const NT_FILE: u32 = 0x4649_4c45;
const NT_SIGINFO: u32 = 0x5349_4749;
/// Offset of CR3 in QEMU's own note of a CPU: `cr[3]` of `QEMUCPUState` (`target/i386/arch_dump.c`).
const QEMU_CR3: usize = 416;
/// More CPUs than any x86-64 kernel supports.
const CPUS: usize = 8192;

/// Content of the notes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    pub(super) registers: Vec<Registers>,
    pub(super) vmcoreinfo: Option<Vec<u8>>,
    /// True if there are notes that the core of a program alone has.
    pub(super) of_program: bool,
}

/// Reads notes one after another, up to the first that is not whole.
pub(super) fn parse(mut bytes: &[u8]) -> Notes {
    let mut notes = Notes::default();
    let mut cpu = 0;
    while let Some((note, rest)) = next(bytes) {
        bytes = rest;
        let data = note.data;
        match (note.name, note.kind) {
            (b"CORE", NT_PRSTATUS) if data.len() >= PRSTATUS && notes.registers.len() < CPUS => {
                let words: [u64; Registers::USER] =
                    std::array::from_fn(|slot| super::u64_at(data, PRSTATUS_REGISTERS + slot * 8));
                let cpu = notes.registers.len() as u32;
                notes.registers.push(Registers::from_user(cpu, &words));
            }
            // The notes of all CPUs follow those of `CORE`.
            (b"QEMU", 0) => {
                if let (Some(registers), true) =
                    (notes.registers.get_mut(cpu), data.len() >= QEMU_CR3 + 8)
                {
                    registers.cr3 = Some(super::u64_at(data, QEMU_CR3));
                }
                cpu += 1;
            }
            (b"CORE", NT_AUXV | NT_FILE | NT_SIGINFO) => notes.of_program = true,
            (b"VMCOREINFO", 0) => notes.vmcoreinfo = Some(data.to_vec()),
            _ => {}
        }
    }
    notes
}

struct Note<'a> {
    name: &'a [u8],
    kind: u32,
    data: &'a [u8],
}

/// The first note, and what comes after it. Each part is padded to a multiple of 4 bytes.
fn next(bytes: &[u8]) -> Option<(Note<'_>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(12)?;
    let (name, data) = (u32_at(head, 0) as usize, u32_at(head, 4) as usize);
    let (padded, rest) = rest.split_at_checked(name.checked_next_multiple_of(4)?)?;
    let content = rest.get(..data)?;
    // The last one's padding may be missing.
    let rest = rest
        .get(data.checked_next_multiple_of(4)?..)
        .unwrap_or_default();
    let name = padded.get(..name)?;
    let note = Note {
        name: name.strip_suffix(b"\0").unwrap_or(name),
        kind: u32_at(head, 8),
        data: content,
    };
    Some((note, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn note(name: &[u8], kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [name.len() as u32, data.len() as u32, kind] {
            bytes.extend(word.to_le_bytes());
        }
        for part in [name, data] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn registers_and_vmcoreinfo_are_found_among_others() {
        let mut status = [0; PRSTATUS];
        status[PRSTATUS_REGISTERS + 16 * 8] = 7;
        let bytes = [
            note(b"CORE\0", NT_PRSTATUS, &status),
            note(b"QEMU\0", 0, &[1; 440]),
            note(b"CORE\0", NT_PRSTATUS, &status[..100]),
            note(b"VMCOREINFO\0", 0, b"OSRELEASE=x\n"),
        ]
        .concat();
        let notes = parse(&bytes);
        assert_eq!(notes.registers.len(), 1);
        assert_eq!(notes.registers[0].rip, 7);
        assert_eq!(notes.registers[0].cr3, Some(0x0101_0101_0101_0101));
        assert_eq!(notes.vmcoreinfo.unwrap(), b"OSRELEASE=x\n");
        assert_eq!(parse(&bytes[..bytes.len() - 1]).registers.len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_notes_or_none(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = parse(&bytes);
        }
    }
}
