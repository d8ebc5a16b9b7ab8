//! Dumps: a guest's memory as an ELF core that drgn, crash and klab itself open.
//!
//! It is laid out as the kernel's own `/proc/vmcore` is (`fs/proc/vmcore.c`, `arch/x86/kernel/crash.c`): notes with the
//! registers of each CPU and with VMCOREINFO, a segment for the kernel's image by its own addresses, and one for each
//! range of RAM by its addresses in the direct map. QEMU's `dump-guest-memory` knows no virtual addresses, and has
//! VMCOREINFO only where the guest's firmware driver has told QEMU of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use vm::{Registers, UserFile};

use crate::base::check_interrupt;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::vmcore::{NT_PRSTATUS, PRSTATUS, PRSTATUS_PID, PRSTATUS_REGISTERS};
use crate::memory::{GuestPhys, GuestVirt, PAGE_SIZE, PhysRange};
use crate::{Error, Result};

/// Bytes that are copied at a time.
const CHUNK: u64 = 1 << 20;
/// Bytes of an ELF header and of a program header.
const ELF_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// All may be read, written and executed: as `/proc/vmcore` has it.
const RWX: u32 = 7;

/// A dump that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dump {
    /// The file.
    pub path: PathBuf,
    /// The kernel's release.
    pub release: String,
    /// Bytes of memory in it.
    pub memory: u64,
    /// Bytes that it takes on the disk: pages of zeros are holes.
    pub written: u64,
    /// CPUs whose registers are in it.
    pub cpus: usize,
}

/// A segment of the file.
struct Segment {
    kind: u32,
    offset: u64,
    virt: u64,
    phys: u64,
    len: u64,
}

impl Guest {
    /// Writes its memory into a file, which appears whole: an ELF core with the registers of its CPUs. The guest stands
    /// still meanwhile. What is written can hold passwords and keys: the file is for this user alone.
    ///
    /// # Errors
    /// When the file cannot be written, or is there and no plain file; when the guest did not stand still.
    pub fn dump(&self, to: impl AsRef<Path>) -> Result<Dump> {
        let part = UserFile::plain(to.as_ref())?;
        let fault = |error: io::Error| Error::from(part.fault(error));
        let file = part.file();
        let mut dump = self.paused(|guest| {
            let kernel = guest.kernel()?;
            // One that nobody saved registers of has none.
            let registers = guest.registers().unwrap_or_default();
            let notes = notes(&kernel, &registers)?;
            let ranges = kernel.space().memory().ranges().to_vec();
            let segments = segments(&kernel, &ranges, notes.len() as u64)?;
            let mut head = header(&segments);
            head.extend(notes);
            file.write_all_at(&head, 0).map_err(fault)?;
            let mut written = head.len() as u64;
            let loads = &segments[segments.len() - ranges.len()..];
            for (range, segment) in ranges.iter().zip(loads) {
                written += copy(&kernel, range, file, segment.offset, &fault)?;
            }
            let end = loads.last().map_or(0, |last| last.offset + last.len);
            file.set_len(end).map_err(fault)?;
            Ok(Dump {
                path: PathBuf::new(),
                release: kernel.release().to_owned(),
                memory: ranges.iter().map(|range| range.len).sum(),
                written,
                cpus: registers.len(),
            })
        })?;
        dump.path = part.place()?;
        Ok(dump)
    }
}

/// Copies a range of RAM; pages of zeros are left as holes. Gives the bytes that were written.
fn copy(
    kernel: &Kernel,
    range: &PhysRange,
    file: &File,
    offset: u64,
    fault: &dyn Fn(io::Error) -> Error,
) -> Result<u64> {
    let memory = kernel.space().memory();
    let mut chunk = vec![0; CHUNK as usize];
    let (mut done, mut written) = (0, 0_u64);
    while done < range.len {
        check_interrupt();
        let want = (range.len - done).min(CHUNK) as usize;
        let bytes = &mut chunk[..want];
        memory.read_once(range.start.offset(done), bytes)?;
        let mut at = 0;
        for (zeros, run) in runs(bytes) {
            if !zeros {
                file.write_all_at(run, offset + done + at).map_err(fault)?;
                written += run.len() as u64;
            }
            at += run.len() as u64;
        }
        done += want as u64;
    }
    Ok(written)
}

/// Runs of pages that are all zeros, or all not: whether they are, and their bytes.
fn runs(bytes: &[u8]) -> impl Iterator<Item = (bool, &[u8])> {
    let zeros = |page: &[u8]| page.iter().all(|byte| *byte == 0);
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let mut pages = rest.chunks(PAGE_SIZE as usize);
        let first = zeros(pages.next()?);
        let more = pages.take_while(|page| zeros(page) == first).count();
        let (run, after) = rest.split_at(((more + 1) * PAGE_SIZE as usize).min(rest.len()));
        rest = after;
        Some((first, run))
    })
}

/// A note for each CPU, and VMCOREINFO.
///
/// A CPU's number is one less than its `pr_pid`, as QEMU's own dumps have it (`x86_64_write_elf64_note`,
/// target/i386/arch_dump.c): drgn finds the CPUs of a kernel that has not crashed by that (`libdrgn/stack_trace.c`), and gdb
/// shows as many threads as there are different ones. The task that a CPU ran is in memory.
fn notes(kernel: &Kernel, registers: &[Registers]) -> Result<Vec<u8>> {
    let mut notes = Vec::new();
    for registers in registers {
        let mut status = vec![0; PRSTATUS];
        let pid = registers.cpu.saturating_add(1);
        status[PRSTATUS_PID..PRSTATUS_PID + 4].copy_from_slice(&pid.to_le_bytes());
        for (slot, word) in registers.user().iter().enumerate() {
            let at = PRSTATUS_REGISTERS + slot * 8;
            status[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        note(&mut notes, b"CORE\0", NT_PRSTATUS, &status);
    }
    let text = kernel.vmcoreinfo()?.text();
    note(&mut notes, b"VMCOREINFO\0", 0, text.as_bytes());
    Ok(notes)
}

fn note(notes: &mut Vec<u8>, name: &[u8], kind: u32, data: &[u8]) {
    for word in [name.len() as u32, data.len() as u32, kind] {
        notes.extend(word.to_le_bytes());
    }
    for part in [name, data] {
        notes.extend(part);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
}

/// The notes, the kernel's image, and the ranges of RAM.
fn segments(kernel: &Kernel, ranges: &[PhysRange], notes: u64) -> Result<Vec<Segment>> {
    let image = image(kernel, ranges);
    let count = 1 + u64::from(image.is_some()) + ranges.len() as u64;
    if count > 0xfffe {
        return Err(Error::Unsupported(format!(
            "an ELF file holds no {} ranges of RAM",
            ranges.len()
        )));
    }
    let first = ELF_HEADER + count * PROGRAM_HEADER;
    let mut offset = (first + notes).next_multiple_of(PAGE_SIZE);
    let mut all = vec![Segment {
        kind: PT_NOTE,
        offset: first,
        virt: 0,
        phys: 0,
        len: notes,
    }];
    let mut loads = Vec::with_capacity(ranges.len());
    for range in ranges {
        loads.push(Segment {
            kind: PT_LOAD,
            offset,
            virt: kernel.phys_to_virt(range.start)?.0,
            phys: range.start.0,
            len: range.len,
        });
        offset = offset.saturating_add(range.len);
    }
    if let Some((virt, phys, len)) = image {
        let within = |load: &&Segment| (load.phys..load.phys + load.len).contains(&phys.0);
        if let Some(load) = loads.iter().find(within) {
            all.push(Segment {
                kind: PT_LOAD,
                offset: load.offset + (phys.0 - load.phys),
                virt: virt.0,
                phys: phys.0,
                len,
            });
        }
    }
    all.extend(loads);
    Ok(all)
}

/// Finds the kernel's image, if it is in one range of RAM.
fn image(kernel: &Kernel, ranges: &[PhysRange]) -> Option<(GuestVirt, GuestPhys, u64)> {
    let symbols = kernel.symbols().ok()?;
    let (start, end) = (symbols.lookup("_text")?, symbols.lookup("_end")?);
    let (virt, len) = (start.page(), end.0.checked_sub(start.page().0)?);
    let len = len.checked_next_multiple_of(PAGE_SIZE)?;
    let phys = kernel.virt_to_phys(virt).ok()?;
    let whole = |range: &PhysRange| {
        phys >= range.start
            && phys
                .0
                .checked_add(len)
                .is_some_and(|end| end <= range.start.0 + range.len)
    };
    ranges.iter().any(whole).then_some((virt, phys, len))
}

fn header(segments: &[Segment]) -> Vec<u8> {
    // ELFCLASS64, ELFDATA2LSB, EV_CURRENT.
    let mut head = b"\x7fELF\x02\x01\x01".to_vec();
    head.resize(16, 0);
    let mut half = |half: u16| head.extend(half.to_le_bytes());
    // ET_CORE, EM_X86_64, EV_CURRENT.
    half(4);
    half(62);
    half(1);
    half(0);
    head.extend([0; 8]);
    head.extend(ELF_HEADER.to_le_bytes());
    head.extend([0; 8 + 4]);
    for half in [
        ELF_HEADER as u16,
        PROGRAM_HEADER as u16,
        segments.len() as u16,
        0,
        0,
        0,
    ] {
        head.extend(half.to_le_bytes());
    }
    for segment in segments {
        head.extend(segment.kind.to_le_bytes());
        let flags = if segment.kind == PT_LOAD { RWX } else { 0 };
        head.extend(flags.to_le_bytes());
        for word in [
            segment.offset,
            segment.virt,
            segment.phys,
            segment.len,
            segment.len,
            0,
        ] {
            head.extend(word.to_le_bytes());
        }
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::FakeKernel;
    use crate::memory::vmcore::Core;

    #[test]
    fn what_is_dumped_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("core");
        let memory = FakeKernel::new().memory().unwrap();
        let guest = Guest::from_memory(std::sync::Arc::new(memory)).unwrap();
        let dump = guest.dump(&path).unwrap();
        assert_eq!((dump.cpus, dump.memory), (0, 16 << 20));
        assert!(dump.written < dump.memory, "{dump:?}");
        let core = Core::open(&path).unwrap();
        let text = guest
            .kernel()
            .unwrap()
            .vmcoreinfo()
            .unwrap()
            .text()
            .to_owned();
        assert_eq!(core.vmcoreinfo.as_deref(), Some(text.as_bytes()));
        let (mut there, mut here) = (vec![0; 16 << 20], vec![1; 16 << 20]);
        let kernel = guest.kernel().unwrap();
        kernel
            .space()
            .memory()
            .read(GuestPhys(0), &mut there)
            .unwrap();
        core.memory.read(GuestPhys(0), &mut here).unwrap();
        assert!(there == here);
        let back = Guest::open_core(&path).unwrap();
        assert_eq!(back.kernel().unwrap().release(), kernel.release());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_left_of_one_that_fails() {
        let guest = Guest::from_kernel(FakeKernel::new().finish().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("there");
        std::fs::create_dir(&to).unwrap();
        std::fs::write(to.join("x"), "").unwrap();
        let said = guest.dump(&to).unwrap_err().to_string();
        assert!(said.contains("it is a folder"), "{said}");
        assert!(guest.dump("/").is_err());
        assert!(guest.dump(folder.path().join("no/such")).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
