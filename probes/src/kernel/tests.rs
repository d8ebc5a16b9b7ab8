//! Discovery, symbols and translation of a kernel that is made here, whole and broken.

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
    let fault = kernel.symbol("init_tsak").unwrap_err().to_string();
    assert_eq!(
        fault,
        "7.3.4-fake has no symbol `init_tsak`; did you mean `init_task`?"
    );
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

#[test]
fn symbols_of_a_module() {
    let mut btf = btf::build::Builder::new();
    let (byte, int) = (btf.int("char", 1, true), btf.int("unsigned int", 4, false));
    let (pointer, name) = (btf.pointer(byte), btf.array(byte, 56));
    let memory = btf.structure(
        "module_memory",
        16,
        &[("base", pointer, 0), ("size", int, 64)],
    );
    let mem = btf.array(memory, 2);
    let list = btf.structure(
        "list_head",
        16,
        &[("next", pointer, 0), ("prev", pointer, 64)],
    );
    let table = [
        ("symtab", pointer, 0),
        ("num_symtab", int, 64),
        ("strtab", pointer, 128),
        ("typetab", pointer, 192),
    ];
    btf.structure("mod_kallsyms", 32, &table);
    let members = [
        ("list", list, 0),
        ("name", name, 128),
        ("kallsyms", pointer, 576),
        ("mem", mem, 640),
    ];
    btf.structure("module", 112, &members);

    let build = |count: u64| {
        let mut fake = FakeKernel::new();
        fake.btf(&btf.bytes()).unwrap();
        let head = fake.symbol("modules", 'D', &[0; 16]).unwrap();
        let [module, kallsyms, text, symtab, strings, kinds] =
            [0; 6].map(|_| fake.alloc(256).unwrap());
        fake.write(strings, b"\0veth_xmit\0veth_open\0").unwrap();
        fake.write(kinds, b"?tT").unwrap();
        for (index, (name, at)) in [(0, 0), (1, text.0 + 16), (11, text.0 + 64)]
            .into_iter()
            .enumerate()
        {
            // In section 1: what has none is another's (SHN_UNDEF).
            fake.write_u64(symtab.offset(index as u64 * 24), name | 1 << 48)
                .unwrap();
            fake.write_u64(symtab.offset(index as u64 * 24 + 16), 8)
                .unwrap();
            fake.write_u64(symtab.offset(index as u64 * 24 + 8), at)
                .unwrap();
        }
        for (at, words) in [
            (head, vec![module.0, module.0]),
            (
                module,
                vec![head.0, head.0, u64::from_le_bytes(*b"veth\0\0\0\0")],
            ),
            (module.offset(72), vec![kallsyms.0, 0, 0, text.0, 128]),
            (kallsyms, vec![symtab.0, count, strings.0, kinds.0]),
        ] {
            for (index, word) in words.into_iter().enumerate() {
                fake.write_u64(at.offset(index as u64 * 8), word).unwrap();
            }
        }
        (fake.finish().unwrap(), text)
    };
    let (kernel, text) = build(3);
    assert_eq!(kernel.symbol("veth_open").unwrap(), text.offset(64));
    let modules = kernel.module_symbols().unwrap();
    let names: Vec<_> = modules[0]
        .symbols
        .iter()
        .map(|s| (s.name.as_str(), s.kind))
        .collect();
    assert_eq!(names, [("veth_xmit", 't'), ("veth_open", 'T')]);
    let at = kernel.symbol_at(text.offset(20)).unwrap().unwrap();
    assert_eq!(
        (at.name.as_str(), at.offset, at.module.as_deref()),
        ("veth_xmit", 4, Some("veth"))
    );
    // The last of a section ends with its size, not with the section; the first not with the next.
    assert_eq!(modules[0].after(text.offset(64)), Some(text.offset(72)));
    assert_eq!(modules[0].after(text.offset(20)), Some(text.offset(24)));
    assert_eq!(modules[0].after(text.offset(30)), Some(text.offset(64)));
    assert_eq!(kernel.symbol_at(text.offset(8)).unwrap(), None);
    assert_eq!(kernel.symbol_at(text.offset(128)).unwrap(), None);
    let fault = build(u64::from(u32::MAX))
        .0
        .module_symbols()
        .unwrap_err()
        .to_string();
    assert!(fault.contains("claims 4294967295 symbols"), "{fault}");
}

/// A kernel with two modules, each with a function `show` and a type `struct own`, and of the kernel's own a `show` too.
fn two_modules() -> (Kernel, GuestVirt, [GuestVirt; 2]) {
    let mut btf = btf::build::Builder::new();
    let (byte, int) = (btf.int("char", 1, true), btf.int("unsigned int", 4, false));
    let (pointer, name) = (btf.pointer(byte), btf.array(byte, 56));
    let pair = |btf: &mut btf::build::Builder, name: &str, members: &[(&str, _, u32)], size| {
        btf.structure(name, size, members)
    };
    let memory = [("base", pointer, 0), ("size", int, 64)];
    let memory = pair(&mut btf, "module_memory", &memory, 16);
    let mem = btf.array(memory, 2);
    let list = [("next", pointer, 0), ("prev", pointer, 64)];
    let list = pair(&mut btf, "list_head", &list, 16);
    let table = [
        ("symtab", pointer, 0),
        ("num_symtab", int, 64),
        ("strtab", pointer, 128),
        ("typetab", pointer, 192),
    ];
    pair(&mut btf, "mod_kallsyms", &table, 32);
    let members = [
        ("list", list, 0),
        ("name", name, 128),
        ("kallsyms", pointer, 576),
        ("mem", mem, 640),
    ];
    pair(&mut btf, "module", &members, 112);
    btf.structure("slab", 8, &[("flags", pointer, 0)]);
    let mut fake = FakeKernel::new();
    fake.btf(&btf.bytes()).unwrap();
    let own = fake.symbol("show", 't', &[0; 64]).unwrap();
    fake.symbol("bare_code", 't', &[0; 64]).unwrap();
    fake.symbol("count.0", 'd', &[0; 64]).unwrap();
    let head = fake.symbol("modules", 'D', &[0; 16]).unwrap();
    let places = ["tun", "loop"].map(|name| {
        let [module, kallsyms, text, symtab, strings, kinds] =
            [0; 6].map(|_| fake.alloc(256).unwrap());
        let only = format!("\0show\0only_{name}\0both\0init.part.0\0");
        fake.write(strings, only.as_bytes()).unwrap();
        fake.write(kinds, b"?tTtt").unwrap();
        let names = ["", "show", &format!("only_{name}"), "both", "init.part.0"].map(str::to_owned);
        for (index, name) in names.iter().enumerate() {
            let at = symtab.offset(index as u64 * 24);
            let offset = match name.is_empty() {
                true => 0,
                false => only.find(name.as_str()).unwrap() as u64,
            };
            fake.write_u64(at, offset | 1 << 48).unwrap();
            fake.write_u64(at.offset(8), text.0 + index as u64 * 16)
                .unwrap();
            fake.write_u64(at.offset(16), 16).unwrap();
        }
        fake.write(module.offset(16), name.as_bytes()).unwrap();
        for (index, word) in [kallsyms.0, 0, 0, text.0, 128].into_iter().enumerate() {
            fake.write_u64(module.offset(72 + index as u64 * 8), word)
                .unwrap();
        }
        for (index, word) in [symtab.0, 5, strings.0, kinds.0].into_iter().enumerate() {
            fake.write_u64(kallsyms.offset(index as u64 * 8), word)
                .unwrap();
        }
        (module, text)
    });
    let ring = [head, places[0].0, places[1].0];
    for (index, at) in ring.iter().enumerate() {
        fake.write_u64(*at, ring[(index + 1) % 3].0).unwrap();
        fake.write_u64(at.offset(8), ring[(index + 2) % 3].0)
            .unwrap();
    }
    (fake.finish().unwrap(), own, places.map(|(_, text)| text))
}

#[test]
fn what_the_kernel_and_modules_have_is_told_apart() {
    let (kernel, own, [tun, looped]) = two_modules();
    let all = kernel.definitions("show").unwrap();
    let spelled: Vec<_> = all.iter().map(Definition::spelling).collect();
    assert_eq!(spelled, ["vmlinux:show", "tun:show", "loop:show"]);
    let at = |text: &str| kernel.resolve(text).map(|found| found.symbol.at);
    assert_eq!(at("vmlinux:show"), Ok(own));
    assert_eq!(at("tun:show"), Ok(tun.offset(16)));
    assert_eq!(at("show [loop]"), Ok(looped.offset(16)));
    assert_eq!(at("only_tun"), Ok(tun.offset(32)));
    let fault = at("show").unwrap_err().to_string();
    assert!(
        fault.contains("vmlinux:show (") && fault.contains("loop:show ("),
        "{fault}"
    );
    // Code that knows the name means the kernel's own, and none where only modules have it.
    assert_eq!(kernel.symbol("show"), Ok(own));
    assert!(matches!(
        kernel.symbol("both"),
        Err(Error::Ambiguous { .. })
    ));
    assert_eq!(
        kernel.resolve_at("init.part.0+0x3 [tun]"),
        Ok(Some(tun.offset(67)))
    );
    let none = at("tun:only_loop").unwrap_err().to_string();
    assert!(none.contains("no symbol `only_loop` in tun"), "{none}");
    // What is said of an address, is read again.
    for at in [own.offset(8), tun.offset(20), looped.offset(66)] {
        let said = kernel.symbol_at(at).unwrap().unwrap().to_string();
        let said = match said.contains('[') {
            true => said,
            false => format!("vmlinux:{said}"),
        };
        assert_eq!(kernel.resolve_at(&said), Ok(Some(at)), "{said}");
    }
}

#[test]
fn expressions_know_the_spellings_of_symbols() {
    let (kernel, own, [tun, looped]) = two_modules();
    let at = |text: &str| kernel.eval(text).and_then(|object| object.pointer());
    assert_eq!(at("&tun:show"), Ok(tun.offset(16)));
    assert_eq!(at("(unsigned long)&tun:show + 1"), Ok(tun.offset(17)));
    assert_eq!(at("1 ? (void *)&only_tun : &only_loop"), Ok(tun.offset(32)));
    assert_eq!(at("0?&only_tun:&only_loop"), Ok(looped.offset(32)));
    assert_eq!(at("1?(&tun:show):0"), Ok(tun.offset(16)));
    assert_eq!(at("&loop:init.part.0"), Ok(looped.offset(64)));
    assert_eq!(at("show+0x2 [loop]"), Ok(looped.offset(18)));
    assert_eq!(
        at("bare_code+0x10"),
        at("&bare_code").map(|at| at.offset(16))
    );
    assert_eq!(
        kernel.eval("&vmlinux:show").unwrap().to_string(),
        format!("(void *){own:?}")
    );
    assert_eq!(at("*(int *)&count.0"), Ok(GuestVirt(0)));
    for (text, says) in [
        ("&show", "is the name of several"),
        ("&both", "loop:both"),
        ("&tun:nothing", "no symbol `nothing` in tun"),
        ("bare_code", "`bare_code` is code"),
        ("count.0", "*(type *)&count.0"),
    ] {
        let said = at(text).unwrap_err().to_string();
        assert!(said.contains(says), "{text}: {said}");
    }
    let hint = |name: &str| kernel.resolve_type(name).unwrap_err().to_string();
    assert!(hint("slab cache").contains("did you mean `struct slab`?"));
    assert!(!hint("struct slub").contains("`struct slub`?"));
}

/// RAM of a kernel with `decoys` in pages below its image; each is the text of its own VMCOREINFO, changed.
fn with_decoys(decoys: &[&dyn Fn(&str) -> String]) -> Arc<dyn PhysMemory> {
    let mut fake = FakeKernel::new();
    fake.symbol("init_task", 'D', &[0; 64]).unwrap();
    let memory = fake.memory().unwrap();
    let mut ram = vec![0; 16 << 20];
    memory.read(GuestPhys(0), &mut ram).unwrap();
    let kernel = Kernel::discover(Arc::new(memory)).unwrap();
    let text = kernel.vmcoreinfo().unwrap().text();
    for (index, decoy) in decoys.iter().enumerate() {
        let page = decoy(text);
        let at = (index + 1) * PAGE_SIZE as usize;
        ram[at..at + page.len()].copy_from_slice(page.as_bytes());
    }
    Arc::new(FakeMemory::new([(GuestPhys(0), ram)]))
}

fn without_kallsyms(text: &str) -> String {
    let kept = text.lines().filter(|line| !line.contains("kallsyms"));
    kept.map(|line| format!("{line}\n")).collect()
}

fn elsewhere(name: &str) -> impl Fn(&str) -> String {
    let start = format!("SYMBOL({name})=");
    move |text| {
        let changed = text.lines().map(|line| match line.strip_prefix(&start) {
            Some(_) => format!("{start}ffff000012345678\n"),
            None => format!("{line}\n"),
        });
        changed.collect()
    }
}

#[test]
fn a_damaged_copy_of_vmcoreinfo_stops_nothing() {
    let places = elsewhere("kallsyms_names");
    let count = elsewhere("kallsyms_num_syms");
    let tables = elsewhere("swapper_pg_dir");
    let decoys: [&dyn Fn(&str) -> String; 5] =
        [&without_kallsyms, &places, &count, &tables, &|text| {
            text[..20].to_owned()
        }];
    let kernel = Kernel::discover(with_decoys(&decoys)).unwrap();
    assert!(kernel.symbol("init_task").is_ok());
    let at = kernel.vmcoreinfo().unwrap().at().unwrap();
    assert!(at >= GuestPhys(0x10_0000), "{at}");
    // A copy of the same text is no other kernel.
    let whole = |text: &str| format!("{text}\n");
    let all = Kernel::discover_all(with_decoys(&[&without_kallsyms, &whole])).unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    let chosen = Kernel::discover_at(&with_decoys(&[&whole]), GuestPhys(PAGE_SIZE)).unwrap();
    assert!(chosen.symbol("init_task").is_ok());
    assert!(Kernel::discover_at(&with_decoys(&[&whole]), GuestPhys(0)).is_err());
}

#[test]
fn where_none_fits_the_pages_are_named() {
    let memory = with_decoys(&[&without_kallsyms, &elsewhere("swapper_pg_dir")]);
    let kernel = Kernel::discover(memory.clone()).unwrap();
    let real = kernel.vmcoreinfo().unwrap().at().unwrap();
    let mut ram = vec![0; 16 << 20];
    memory.read(GuestPhys(0), &mut ram).unwrap();
    ram[real.0 as usize] = b'X';
    let memory = FakeMemory::new([(GuestPhys(0), ram)]);
    let said = Kernel::discover(Arc::new(memory)).unwrap_err().to_string();
    for part in [
        "0x0000000000001000",
        "0x0000000000002000",
        "kallsyms",
        "another boot",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn the_kernel_that_the_cpus_run_is_shown() {
    let kernel = |text| {
        let mut fake = FakeKernel::new();
        fake.symbol("panic_cpu", 'D', &u32::to_le_bytes(text))
            .unwrap();
        fake.finish().unwrap()
    };
    let cpu = |cr3| vm::Registers {
        cr3,
        ..vm::Registers::default()
    };
    let dead = kernel(1);
    let root = dead.space().root().unwrap().0;
    // With the number of an address space, and in a program under page-table isolation.
    for cr3 in [root, root | 0x7ff, root | 1 << 63] {
        assert!(dead.owns(&cpu(Some(cr3))), "{cr3:#x}");
    }
    for cr3 in [0, 0x5000, u64::MAX] {
        assert!(!dead.owns(&cpu(Some(cr3))), "{cr3:#x}");
    }
    let at = |rip| vm::Registers {
        rip,
        ..vm::Registers::default()
    };
    assert!(dead.owns(&at(dead.symbol("_stext").unwrap().0)) && dead.owns(&at(0x40_1000)));
    assert!(!dead.owns(&at(0xffff_ffff_8000_0000)));
    // One that runs is taken as it is, and nothing is searched.
    let none = || -> crate::Result<Vec<Kernel>> { panic!("searched") };
    let choice = choose(kernel(u32::MAX), None, none).unwrap();
    assert_eq!(choice.note, None);
    let choice = choose(dead.clone(), Some(&[cpu(Some(root))]), none).unwrap();
    assert_eq!(choice.note, None);
    // One that panicked, and no other: it stands there.
    let choice = choose(dead.clone(), Some(&[cpu(Some(0))]), || Ok(Vec::new())).unwrap();
    assert_eq!((choice.kernel.release(), choice.note), ("7.3.4-fake", None));
    // One that no CPU runs and that did not panic.
    let choice = choose(kernel(u32::MAX), Some(&[cpu(Some(0))]), || Ok(Vec::new())).unwrap();
    assert!(choice.note.unwrap().starts_with("no CPU runs 7.3.4-fake"));
}

#[test]
fn two_kernels_in_one_memory_are_told_apart() {
    let ram = |base: u64, panicked: u32| {
        let mut fake = FakeKernel::with_ram_at(base);
        fake.symbol("panic_cpu", 'D', &panicked.to_le_bytes())
            .unwrap();
        let mut ram = vec![0; 16 << 20];
        let memory = fake.memory().unwrap();
        memory.read(GuestPhys(base), &mut ram).unwrap();
        (GuestPhys(base), ram)
    };
    let second = 1 << 30;
    let memory: Arc<dyn PhysMemory> = Arc::new(FakeMemory::new([ram(0, 0), ram(second, u32::MAX)]));
    let first = Kernel::discover(memory.clone()).unwrap();
    assert!(first.gave_over());
    let all = Kernel::discover_all(memory.clone()).unwrap();
    let at = |kernel: &Kernel| kernel.vmcoreinfo().unwrap().at().unwrap();
    assert_eq!(all.len(), 2);
    assert!(at(&all[0]) < at(&all[1]) && at(&all[1]).0 > second);
    let cpu = vm::Registers {
        cr3: all[1].space().root().map(|root| root.0),
        ..vm::Registers::default()
    };
    assert!(all[1].owns(&cpu) && !first.owns(&cpu));
    // By the CPUs; and without registers by what the first says of itself.
    for registers in [Some(&[cpu][..]), None] {
        let all = || Kernel::discover_all(memory.clone());
        let choice = choose(first.clone(), registers, all).unwrap();
        assert!(
            choice
                .kernel
                .is_same(&Kernel::discover_at(&memory, at(&choice.kernel)).unwrap())
        );
        assert!(at(&choice.kernel).0 > second);
        let note = choice.note.unwrap();
        assert!(note.starts_with("2 kernels are in this memory"), "{note}");
        assert!(
            note.contains(&at(&first).to_string()) && note.contains("--kernel-at"),
            "{note}"
        );
    }
}
