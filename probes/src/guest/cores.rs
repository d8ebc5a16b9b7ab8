//! Guests that are dumps: a kernel is found in them, and what they lack is told as the file's fault.

use super::Guest;
use crate::base::{Error, ErrorKind};
use crate::kernel::FakeKernel;
use crate::memory::vmcore::Core;
use crate::memory::vmcore::testing::{core, kdump, written};
use crate::memory::{GuestPhys, PAGE_SIZE, PhysMemory, PhysRange};

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

/// The pages that are there are read, and what is missing is told as the file's fault, in plain numbers.
#[test]
fn of_an_elf_core_that_was_cut_off_the_rest_is_read() {
    let mut ram = vec![0; 16 << 20];
    FakeKernel::new()
        .memory()
        .unwrap()
        .read(GuestPhys(0), &mut ram)
        .unwrap();
    let file = core(&ram, &[(0, 0, 16 << 20)]);
    let whole = file.as_file().metadata().unwrap().len();
    file.as_file().set_len(whole - (1 << 20)).unwrap();
    let guest = Guest::open_core(file.path()).unwrap();
    let kernel = guest.kernel().unwrap();
    assert_eq!(kernel.release(), "7.3.4-fake");
    let note = guest.note().unwrap().unwrap();
    assert!(
        note.contains(&format!("{} of its {whole} bytes", whole - (1 << 20))),
        "{note}"
    );
    let memory = kernel.space().memory();
    let last = GuestPhys((15 << 20) - 8);
    assert_eq!(memory.read_u64(last.page()).unwrap(), 0);
    let mut across = [0; 16];
    let fault = memory.read(last, &mut across).unwrap_err();
    assert_eq!(fault.kind(), ErrorKind::Io, "{fault}");
    assert!(fault.to_string().contains("cut off"), "{fault}");
    // By the direct map too: no verdict on the kernel.
    let at = kernel.phys_to_virt(GuestPhys(15 << 20)).unwrap();
    assert_eq!(kernel.read_u64(at).unwrap_err().kind(), ErrorKind::Io);
    assert!(matches!(
        memory.read_u64(GuestPhys(16 << 20)),
        Err(Error::NotRam { .. })
    ));
    // Without the page tables no kernel is found, and that is no verdict either.
    for part in [2, 3, 5, 9] {
        file.as_file().set_len(whole / part).unwrap();
        if let Err(fault) = Guest::open_core(file.path()) {
            assert_eq!(fault.kind(), ErrorKind::Io, "{fault}");
            assert!(fault.to_string().contains("cut off"), "{fault}");
        }
    }
}

fn fake() -> Vec<u8> {
    let mut ram = vec![0; 16 << 20];
    let memory = FakeKernel::new().memory().unwrap();
    memory.read(GuestPhys(0), &mut ram).unwrap();
    let all: Vec<_> = ram.chunks_exact(PAGE_SIZE as usize).enumerate().collect();
    let full = all
        .iter()
        .filter(|(_, page)| page.iter().any(|byte| *byte != 0));
    let pages: Vec<(u64, &[u8])> = full.map(|(at, page)| (*at as u64, *page)).collect();
    kdump(&pages, all.len() as u64, 1)
}

#[test]
fn a_kernel_in_a_kdump_file() {
    let file = written(&fake());
    let guest = Guest::open_core(file.path()).unwrap();
    assert_eq!(guest.kernel().unwrap().release(), "7.3.4-fake");
    let memory = Core::open(file.path()).unwrap().memory;
    assert_eq!(
        memory.ranges(),
        [PhysRange {
            start: GuestPhys(0),
            len: 16 << 20
        }]
    );
    assert!(memory.read(GuestPhys((16 << 20) - 1), &mut [0; 2]).is_err());
    assert!(memory.read(GuestPhys(u64::MAX), &mut [0; 2]).is_err());
}

/// What is missing is the file's fault, never the kernel's, wherever it was cut.
#[test]
fn of_a_kdump_file_that_was_cut_off_the_rest_is_read() {
    let whole = fake();
    for percent in [10, 30, 60, 90, 99] {
        let cut = written(&whole[..whole.len() * percent / 100]);
        match Guest::open_core(cut.path()) {
            Ok(guest) => assert!(guest.note().unwrap().unwrap().contains("cut off")),
            Err(fault) => {
                assert_eq!(fault.kind(), ErrorKind::Io, "{percent}: {fault}");
                assert!(fault.to_string().contains("cut off"), "{percent}: {fault}");
            }
        }
    }
    let cut = written(&whole[..whole.len() - 1]);
    let guest = Guest::open_core(cut.path()).unwrap();
    assert_eq!(guest.kernel().unwrap().release(), "7.3.4-fake");
}
