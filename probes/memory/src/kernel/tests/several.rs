//! Memory with damaged copies of VMCOREINFO, and with two kernels.

use super::*;

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
    let cpu = |cr3| klab_facts::Registers {
        cr3,
        ..klab_facts::Registers::default()
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
    let at = |rip| klab_facts::Registers {
        rip,
        ..klab_facts::Registers::default()
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
    let cpu = klab_facts::Registers {
        cr3: all[1].space().root().map(|root| root.0),
        ..klab_facts::Registers::default()
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
