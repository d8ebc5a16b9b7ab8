//! Symbols and types of the kernel and of its modules.

use super::*;

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
    // A module whose table cannot be read still says what memory it holds, and what is wrong.
    let (kernel, text) = build(u64::from(u32::MAX));
    let modules = kernel.module_symbols().unwrap();
    assert!(modules[0].symbols.is_empty() && modules[0].holds(text) && !modules[0].is_read);
    let fault = modules.missing[0].to_string();
    assert!(fault.contains("module veth, its symbols"), "{fault}");
    assert!(fault.contains("claims 4294967295 symbols"), "{fault}");
}

/// A kernel with two modules, each with a function `show` and a type `struct own`, and of the kernel's own a `show` too.
fn two_modules() -> (Kernel, GuestVirt, [GuestVirt; 2]) {
    two_modules_damaged(|_, _| ())
}

/// The same, with something of it overwritten: what `damage` does with the head of the list and the modules.
fn two_modules_damaged(
    damage: impl FnOnce(&mut FakeKernel, [GuestVirt; 3]),
) -> (Kernel, GuestVirt, [GuestVirt; 2]) {
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
    let types = [
        ("data", pointer, 0),
        ("data_size", int, 64),
        ("id", int, 96),
        ("start_id", int, 128),
        ("name", name, 160),
    ];
    pair(&mut btf, "btf", &types, 80);
    let types = [("list", list, 0), ("btf", pointer, 128)];
    pair(&mut btf, "btf_module", &types, 24);
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
    damage(&mut fake, ring);
    (fake.finish().unwrap(), own, places.map(|(_, text)| text))
}

#[test]
fn a_module_that_cannot_be_read_hides_no_other() {
    // The pointer to its table of symbols.
    let (kernel, _, [tun, looped]) = two_modules_damaged(|fake, [_, tun, _]| {
        fake.write_u64(tun.offset(72), 0x1000).unwrap();
    });
    let modules = kernel.module_symbols().unwrap();
    let read: Vec<_> = modules.iter().map(|m| (&*m.module, m.is_read)).collect();
    assert_eq!(read, [("tun", false), ("loop", true)]);
    assert_eq!(modules.missing[0].what, "module tun, its symbols");
    let at = |at| kernel.symbol_at(at);
    assert_eq!(at(looped.offset(20)).unwrap().unwrap().name, "show");
    let error = at(tun.offset(20)).unwrap_err().to_string();
    assert!(error.starts_with("module tun, its symbols: "), "{error}");
    assert_eq!(kernel.symbol("only_loop"), Ok(looped.offset(32)));
    let error = kernel.symbol("only_tun").unwrap_err().to_string();
    assert!(error.contains("module tun, its symbols"), "{error}");
    let all = kernel.definitions("show").unwrap();
    assert_eq!((all.len(), all.missing.len()), (2, 1));
    let functions = super::super::functions::Functions::new(&kernel);
    let name = |at| functions.at(at).unwrap().to_string();
    assert_eq!(name(looped.offset(20)), "show+0x4 [loop]");
    assert_eq!(
        name(tun.offset(20)),
        format!("{} [tun, its symbols cannot be read]", tun.offset(20))
    );
}

#[test]
fn modules_without_types_are_named_where_a_type_is_not_found() {
    let (kernel, ..) = two_modules_damaged(|fake, _| {
        let head = fake.symbol("btf_modules", 'd', &[0; 16]).unwrap();
        fake.write_u64(head, head.0).unwrap();
    });
    let error = kernel.resolve_type("struct nothing_like_it").unwrap_err();
    let error = error.to_string();
    let said = "the modules tun, loop have no BTF, so their types are not known";
    assert!(error.contains(said), "{error}");
}

#[test]
fn modules_behind_a_broken_link_are_found_from_the_other_end() {
    let (kernel, _, [_, looped]) = two_modules_damaged(|fake, [head, ..]| {
        fake.write_u64(head, 0x1000).unwrap();
    });
    let modules = kernel.module_symbols().unwrap();
    let names: Vec<_> = modules.iter().map(|m| &*m.module).collect();
    assert_eq!(names, ["tun", "loop"]);
    assert_eq!(modules.missing[0].what, "the list of modules");
    assert_eq!(kernel.symbol("only_loop"), Ok(looped.offset(32)));
    // One that leads back into the list is a loop, and each module is there once.
    let (kernel, ..) = two_modules_damaged(|fake, [_, tun, looped]| {
        fake.write_u64(looped, tun.0).unwrap();
    });
    let modules = kernel.module_symbols().unwrap();
    assert_eq!((modules.len(), modules.missing.len()), (2, 1));
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
    // The text about an address can be read as a name again.
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
