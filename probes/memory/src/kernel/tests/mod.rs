//! Discovery, symbols and translation of a kernel that is made here, whole and broken.

mod several;
mod symbols;

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::*;
use crate::memory::{EntryKind, FakeMemory, Level, PAGE_SIZE, Paging};

#[test]
fn four_and_five_levels() {
    for paging in [Paging::FourLevel, Paging::FiveLevel] {
        let mut fake = FakeKernel::with_paging(paging);
        let at = fake
            .symbol("linux_banner", 'D', b"Linux version\0")
            .unwrap();
        let heap = fake.alloc(8).unwrap();
        fake.write_u64(heap, 7).unwrap();
        let phys = fake.phys_to_virt(GuestPhys(0x1234));
        let kernel = fake.finish().unwrap();
        assert_eq!(kernel.release(), "7.3.4-fake");
        assert_eq!(kernel.symbol("linux_banner").unwrap(), at);
        assert_eq!(kernel.read_cstr(at, 64).unwrap(), "Linux version");
        assert_eq!(kernel.read_u64(heap).unwrap(), 7);
        assert_eq!(kernel.phys_to_virt(GuestPhys(0x1234)).unwrap(), phys);
        assert_eq!(kernel.virt_to_phys(phys).unwrap(), GuestPhys(0x1234));
        assert_eq!(kernel.space().paging(), Some(paging));
        // The linear rule and the tables agree.
        for at in [at, heap] {
            let walk = kernel.space().walk(at).unwrap();
            assert_eq!(walk.phys, Some(kernel.virt_to_phys(at).unwrap()));
            assert_eq!(
                walk.steps.len(),
                paging.levels().len() - usize::from(at == heap)
            );
        }
        assert_eq!(
            kernel.space().walk(heap).unwrap().page_size(),
            Some(2 << 20)
        );
    }
}

#[test]
fn every_style_of_kallsyms() {
    use KallsymsStyle::{AbsolutePercpu, Addresses, Base, Place};
    for style in [Place, AbsolutePercpu, Base, Addresses] {
        for short in [true, false] {
            let mut fake = FakeKernel::new();
            fake.kallsyms_style(style);
            if short {
                fake.short_names();
            }
            // Longer than one byte's low seven bits can say.
            let long = "long_".repeat(40);
            let first = fake.symbol("first", 'T', &[0; 32]).unwrap();
            let second = fake.symbol(&long, 't', &[0; 32]).unwrap();
            fake.symbol_at("alias", 'T', first);
            fake.symbol_at("first", 't', second.offset(8));
            if style == AbsolutePercpu {
                fake.symbol_at("current_task", 'A', GuestVirt(0x1f000));
            }
            let kernel = fake.finish().unwrap();
            let symbols = kernel.symbols().unwrap();
            let text = format!("{style:?} short {short}");
            assert_eq!(symbols.lookup("first"), Some(first), "{text}");
            assert_eq!(
                symbols.lookup_all("first").collect::<Vec<_>>(),
                [first, second.offset(8)],
                "{text}"
            );
            assert_eq!(symbols.lookup(&long), Some(second), "{text}");
            assert_eq!(symbols.lookup("firs"), None);
            let at = symbols.at(second.offset(3)).unwrap();
            assert_eq!((at.name, at.offset, at.module), (long, 3, None), "{text}");
            assert_eq!(symbols.at(first.offset(1)).unwrap().name, "first", "{text}");
            for within in [second, second.offset(3)] {
                assert_eq!(symbols.after(within), Some(second.offset(8)), "{text}");
            }
            assert_eq!(symbols.after(GuestVirt(u64::MAX)), None, "{text}");
            assert_eq!(
                symbols.iter().find(|s| s.at == second).unwrap().kind,
                't',
                "{text}"
            );
            if style == AbsolutePercpu {
                assert_eq!(symbols.lookup("current_task"), Some(GuestVirt(0x1f000)));
                for no_symbol in [0x1f008, 0x5555_5555_4000, 0xffff_9c40_c000_1000] {
                    assert_eq!(symbols.at(GuestVirt(no_symbol)), None);
                }
            }
        }
    }
}

#[test]
fn what_is_not_there_is_said() {
    let mut fake = FakeKernel::new();
    fake.symbol("init_task", 'D', &[0; 8]).unwrap();
    let kernel = fake.finish().unwrap();
    let fault = kernel.resolve("init_tsak").unwrap_err().to_string();
    assert_eq!(
        fault,
        "7.3.4-fake has no symbol `init_tsak`; did you mean `init_task`?"
    );
    // Code does not mistype, and asks often.
    let fault = kernel.symbol("init_tsak").unwrap_err().to_string();
    assert_eq!(fault, "7.3.4-fake has no symbol `init_tsak`");
    assert!(
        kernel
            .btf()
            .unwrap_err()
            .to_string()
            .contains("boot a kernel built with CONFIG_DEBUG_INFO_BTF")
    );
    let fault = kernel.read_u64(GuestVirt(0x1000)).unwrap_err();
    assert_eq!(
        fault,
        Error::NotMapped {
            at: GuestVirt(0x1000),
            level: "pgd",
            entry: 0
        }
    );
    let fault = kernel.read_u64(GuestVirt(0x8000_0000_0000)).unwrap_err();
    assert_eq!(
        fault,
        Error::NotCanonical {
            at: GuestVirt(0x8000_0000_0000),
            bits: 48
        }
    );
    let nothing = Kernel::discover(Arc::new(FakeMemory::new([(
        GuestPhys(0),
        vec![0; 1 << 16],
    )])))
    .unwrap_err();
    assert!(
        nothing.to_string().contains("has not booted yet"),
        "{nothing}"
    );
}

#[test]
fn a_page_of_another_boot_is_passed_over() {
    let mut fake = FakeKernel::new();
    let old = fake.alloc_page().unwrap();
    let text =
        b"OSRELEASE=7.3.4-fake\nSYMBOL(swapper_pg_dir)=ffffffff81001000\nNUMBER(phys_base)=0\n";
    fake.write_phys(old, text).unwrap();
    let kernel = fake.finish().unwrap();
    assert!(kernel.vmcoreinfo().unwrap().at() > Some(old));
}

#[test]
fn a_process_and_its_resident_pages() {
    let mut fake = FakeKernel::new();
    let root = fake.process().unwrap();
    let page = fake.alloc_page().unwrap();
    fake.write_phys(page, b"/sbin/init\0").unwrap();
    let text = GuestVirt(0x5555_5555_4000);
    fake.map(root, text, page.0 | 0x25 | 1 << 63, PAGE_SIZE)
        .unwrap();
    fake.map(root, GuestVirt(0x7f00_0020_0000), 0x20_0000 | 0xe7, 2 << 20)
        .unwrap();
    // PROT_NONE stores the frame number inverted; a swap entry its offset.
    fake.map(
        root,
        text.offset(0x1000),
        !page.0 & 0x000f_ffff_ffff_f000 | 0x100,
        PAGE_SIZE,
    )
    .unwrap();
    fake.map(
        root,
        text.offset(0x2000),
        3 << 59 | (!0x1234 << 14) >> 5 & !(0x1f << 59) & !0x1ff,
        PAGE_SIZE,
    )
    .unwrap();
    let kernel = fake.finish().unwrap();
    let space = kernel.space().with_root(root);
    assert_eq!(space.read_cstr(text, 64).unwrap(), b"/sbin/init");

    let walk = space.walk(text).unwrap();
    let levels: Vec<Level> = walk.steps.iter().map(|s| s.level).collect();
    assert_eq!(levels, [Level::Pgd, Level::Pud, Level::Pmd, Level::Pte]);
    assert_eq!(
        walk.steps[3].entry.flags(),
        ["PRESENT", "USER", "ACCESSED", "NX"]
    );
    assert_eq!(walk.phys, Some(page));

    let absent = |at| space.walk(at).unwrap().steps.last().unwrap().kind;
    assert_eq!(absent(text.offset(0x1000)), EntryKind::ProtNone(page));
    // The page is there, and only the processor may not reach it.
    assert_eq!(
        space.translate(text.offset(0x1008)).unwrap(),
        page.offset(8)
    );
    assert_eq!(
        space.walk(text.offset(0x1008)).unwrap().phys,
        Some(page.offset(8))
    );
    let kinds: Vec<_> = space
        .present_pages(text, text.offset(0x2fff))
        .unwrap()
        .map(|found| found.unwrap().at)
        .collect();
    assert_eq!(kinds, [text, text.offset(0x1000)]);
    assert_eq!(
        space.translate(text.offset(0x2000)).unwrap_err().kind(),
        crate::ErrorKind::LeftOut
    );
    assert_eq!(
        absent(text.offset(0x2000)),
        EntryKind::Swap {
            ty: 3,
            offset: 0x1234
        }
    );
    assert_eq!(absent(text.offset(0x3000)), EntryKind::Empty);

    let pages = |first, last| {
        let pages = space
            .present_pages(GuestVirt(first), GuestVirt(last))
            .unwrap();
        pages
            .map(|page| page.map(|p| (p.at.0, p.size)).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        pages(0, 0x7fff_ffff_ffff),
        [
            (text.0, PAGE_SIZE),
            (text.0 + 0x1000, PAGE_SIZE),
            (0x7f00_0020_0000, 2 << 20)
        ]
    );
    assert_eq!(pages(text.0 + 1, text.0 + 2), [(text.0, PAGE_SIZE)]);
    assert_eq!(
        pages(text.0 + 0x2000, 0x7f00_0020_0000),
        [(0x7f00_0020_0000, 2 << 20)]
    );
    assert!(pages(text.0 + 0x2000, 0x7f00_001f_ffff).is_empty());
    assert!(pages(1, 0).is_empty());
}

#[test]
fn tables_that_lie() {
    let mut fake = FakeKernel::new();
    let [own, outside, shared] = [0; 3].map(|_| fake.process().unwrap());
    fake.write_phys(own, &(own.0 | 7).to_le_bytes()).unwrap();
    fake.write_phys(outside, &(0x7_ffff_f000_u64 | 7).to_le_bytes())
        .unwrap();
    // Every entry of every level is the next table: 2^36 pages' worth of walking, none of them present.
    let mut lower = fake.alloc_page().unwrap();
    for _ in 0..3 {
        let upper = fake.alloc_page().unwrap();
        for index in 0..512 {
            fake.write_phys(upper.offset(index * 8), &(lower.0 | 7).to_le_bytes())
                .unwrap();
        }
        lower = upper;
    }
    fake.write_phys(shared, &(lower.0 | 7).to_le_bytes())
        .unwrap();
    let kernel = fake.finish().unwrap();
    let space = |root| kernel.space().with_root(root);
    let said = |fault: Error| fault.to_string();
    assert!(said(space(own).read_u64(GuestVirt(0)).unwrap_err()).contains("its own ancestor"));
    assert!(said(space(own).walk(GuestVirt(0)).unwrap_err()).contains("its own ancestor"));
    assert!(said(space(outside).read_u64(GuestVirt(0)).unwrap_err()).contains("not in RAM"));
    let count = |root| {
        space(root)
            .present_pages(GuestVirt(0), GuestVirt(u64::MAX >> 17))
            .unwrap()
            .last()
    };
    for root in [own, outside, shared] {
        assert!(count(root).unwrap().is_err());
    }
}

#[test]
fn a_table_that_cannot_be_read_hides_no_other() {
    let mut fake = FakeKernel::new();
    let root = fake.process().unwrap();
    let page = fake.alloc_page().unwrap();
    // A table each; the second one's is said to be where no RAM is.
    let at = [0x40_0000, 0x60_0000, 0x80_0000].map(GuestVirt);
    fake.map(root, at[0], page.0 | 7, PAGE_SIZE).unwrap();
    fake.map(root, at[1], 0x7_ffff_f000 | 7, 2 << 20).unwrap();
    fake.map(root, at[2], page.0 | 7, PAGE_SIZE).unwrap();
    let kernel = fake.finish().unwrap();
    let space = kernel.space().with_root(root);
    let last = GuestVirt(0x7fff_ffff_ffff);
    let found: Vec<_> = space.present_pages(GuestVirt(0), last).unwrap().collect();
    let [Ok(first), Err(error), Ok(third)] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!([first.at, third.at], [at[0], at[2]]);
    let said = error.to_string();
    assert!(
        said.starts_with("the pages from 0x0000000000600000 to 0x00000000007fffff: page table"),
        "{said}"
    );
    assert_eq!(error.kind(), crate::ErrorKind::Broken);
}

/// A kernel's RAM, and where in it words are that are not zero.
static WHOLE: LazyLock<(Vec<u8>, Vec<usize>)> = LazyLock::new(|| {
    let mut fake = FakeKernel::new();
    fake.symbol("init_task", 'D', &[0; 64]).unwrap();
    let mut ram = vec![0; 16 << 20];
    fake.memory().unwrap().read(GuestPhys(0), &mut ram).unwrap();
    let used = (0..ram.len())
        .step_by(8)
        .filter(|i| ram[*i..*i + 8] != [0; 8])
        .collect();
    (ram, used)
});

fn corrupt(writes: &[(usize, u64)]) -> Result<Kernel> {
    let (mut ram, used) = (WHOLE.0.clone(), &WHOLE.1);
    for (place, value) in writes {
        let at = used[place % used.len()];
        ram[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    Kernel::discover(Arc::new(FakeMemory::new([(GuestPhys(0), ram)])))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever words of a kernel are overwritten, it is read or refused.
    #[test]
    fn a_corrupt_kernel_is_read_or_refused(writes in prop::collection::vec((any::<usize>(), any::<u64>()), 1..200)) {
        if let Ok(kernel) = corrupt(&writes) {
            let _ = kernel.symbol("init_task");
            if let Ok(symbols) = kernel.symbols() {
                let _ = symbols.at(GuestVirt(u64::MAX));
                let _ = symbols.iter().take(1000).count();
            }
            let _ = kernel.nr_cpus();
            let _ = kernel.btf();
            for at in [0, 0x5555_5555_4000, u64::MAX] {
                let _ = kernel.space().walk(GuestVirt(at));
            }
        }
    }

    /// Page tables of any bytes end every walk.
    #[test]
    fn any_page_tables_end(words in prop::collection::vec((any::<u16>(), 0_u64..32, any::<u16>()), 0..600), at: u64) {
        let mut ram = vec![0; 32 << 12];
        for (place, page, flags) in words {
            let entry = page << 12 | u64::from(flags & 0xfff);
            let at = (usize::from(place) * 8) % ram.len();
            ram[at..at + 8].copy_from_slice(&entry.to_le_bytes());
        }
        let memory: Arc<dyn PhysMemory> = Arc::new(FakeMemory::new([(GuestPhys(0), ram)]));
        for paging in [Paging::FourLevel, Paging::FiveLevel] {
            let space = AddressSpace::paged(Arc::clone(&memory), GuestPhys(0), paging);
            let _ = space.walk(GuestVirt(at));
            let at = GuestVirt(paging.canonical(at));
            let walked = space.walk(at);
            prop_assert_eq!(space.translate(at).ok(), walked.ok().and_then(|w| w.phys));
            let pages = space.present_pages(GuestVirt(0), GuestVirt(u64::MAX));
            prop_assert!(pages.unwrap().count() <= 33 * 512);
        }
    }
}

#[test]
fn what_changes_under_the_reader_is_torn() {
    let kernel = FakeKernel::new().finish().unwrap();
    let mut readings = [1, 2, 2, 3].into_iter();
    let read = kernel.consistent("counter", |_| Ok(readings.next().unwrap()));
    assert_eq!(read.unwrap(), 2);
    let mut count = 0;
    let torn = kernel.consistent("counter", |_| {
        count += 1;
        Ok(count)
    });
    assert_eq!(
        torn.unwrap_err(),
        Error::Torn {
            what: "counter".to_owned(),
            tries: 8
        }
    );
    // An error that stays is what is wrong with the memory, not with the reader's luck.
    let missing = kernel.consistent("hole", |kernel| kernel.read_u64(GuestVirt(0)));
    assert!(matches!(missing, Err(Error::NotMapped { .. })));
}
