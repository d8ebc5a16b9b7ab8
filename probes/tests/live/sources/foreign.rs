//! Machines that klab did not start: their RAM in files, in sockets, in holes.

use super::*;

/// A QEMU that someone else started with RAM of its own, its gdbstub on TCP.
pub(crate) fn of_someone_else() {
    let choice: KernelChoice = "default".parse().unwrap();
    let kernel = Kernel::resolve(&choice, &mut Silent).unwrap();
    let initramfs = vm::initramfs::build(&kernel, &mut Silent).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let gdb = format!("127.0.0.1:{port}");
    let foreign = Foreign::start(&[
        "-M",
        "q35",
        "-accel",
        "tcg,thread=single",
        "-cpu",
        "max",
        "-m",
        "256M",
        "-smp",
        "2",
        "-gdb",
        &format!("tcp:{gdb}"),
        "-kernel",
        kernel.vmlinuz.to_str().unwrap(),
        "-initrd",
        initramfs.to_str().unwrap(),
        "-append",
        "console=ttyS0 panic=-1",
    ]);
    let name = format!("foreign-{}", std::process::id());
    let machine = Machine::adopt(&name, &foreign.qmp(), None).unwrap();
    assert!(matches!(machine.memory(), Memory::Process { .. }));
    let guest = until_booted(&name);
    let mut ledger = Ledger::new("a QEMU of someone else");

    // A command that needs a guest of klab's says so.
    for said in [
        guest.agent().unwrap_err().to_string(),
        guest.reset().unwrap_err().to_string(),
        machine.cable().unwrap_err().to_string(),
    ] {
        assert!(
            said.contains("klab did not start the guest") && said.lines().count() == 1,
            "{said}"
        );
    }
    let said = Machine::adopt(&name, &foreign.qmp(), None)
        .unwrap_err()
        .to_string();
    assert!(said.contains(&format!("`klab detach {name}`")), "{said}");

    guest
        .paused(|guest| {
            assert_eq!(guest.status()?.state, State::Paused);
            let truth = readings(guest)?;
            let attached = Attached::new("foreign-gdb", &foreign.qmp(), Some(&gdb));
            compare(&mut ledger, "gdbstub on TCP", &truth, &attached.guest);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("core");
            guest.dump(&path)?;
            compare(&mut ledger, "klab dump", &truth, &Guest::open_core(&path)?);
            let path = folder.path().join("by-gdb");
            attached.guest.dump(&path)?;
            compare(
                &mut ledger,
                "klab dump by gdbstub",
                &truth,
                &Guest::open_core(&path)?,
            );
            Qmp::connect(&foreign.qmp()).dump(&path, "elf");
            compare(&mut ledger, "elf", &truth, &Guest::open_core(&path)?);
            Ok(())
        })
        .unwrap();
    assert_eq!(machine.status().state, State::Running);
    ledger.end(&[("tasks", 4), ("stacks", 4)]);

    // One that runs is let go on after each burst, and holds still within `paused`.
    let attached = Attached::new("foreign-gdb", &foreign.qmp(), Some(&gdb));
    attached
        .guest
        .paused(|guest| {
            let (first, second) = (guest.log()?, guest.tasks()?);
            std::thread::sleep(Duration::from_millis(200));
            assert_eq!(machine.status().state, State::Paused);
            assert_eq!(guest.tasks()?, second);
            assert_eq!(guest.log()?, first);
            Ok(())
        })
        .unwrap();
    assert_eq!(machine.status().state, State::Running);
    assert!(attached.guest.tasks().unwrap().len() > 20);
    let until = Instant::now() + Duration::from_secs(10);
    while machine.status().state != State::Running {
        assert!(Instant::now() < until, "it was not let go on");
    }
    drop(attached);

    // Another boot is noticed.
    let before = places(&guest).unwrap();
    Qmp::connect(&foreign.qmp()).run("system_reset", &Value::Null);
    let until = Instant::now() + Duration::from_secs(180);
    while places(&guest).is_none_or(|now| now == before) {
        assert!(Instant::now() < until, "the old kernel is still shown");
        std::thread::sleep(Duration::from_millis(500));
    }

    // QEMU's end is one sentence, and its name can be forgotten.
    drop(foreign);
    for said in [
        guest.tasks().unwrap_err().to_string(),
        machine.pause().unwrap_err().to_string(),
        Guest::attach(&name).unwrap_err().to_string(),
    ] {
        assert!(said.lines().count() == 1, "{said}");
    }
    assert_eq!(machine.status().state, State::Dead);
    machine.detach().unwrap();
    assert!(Machine::attach(&name).is_err());
}

/// Blocks that each file which QEMU has open takes, and the kilobytes that it is resident with.
fn taken(pid: u32) -> (Vec<(PathBuf, u64)>, u64) {
    use std::os::unix::fs::MetadataExt;
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let paths = open.map(|entry| entry.unwrap().path());
    let files = paths.filter_map(|path| Some((std::fs::metadata(&path).ok()?, path)));
    let files = files.filter(|(meta, _)| meta.is_file());
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let rss = rollup.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kilobytes = rss.unwrap().trim().split(' ').next().unwrap();
    (
        files.map(|(meta, path)| (path, meta.blocks())).collect(),
        kilobytes.parse().unwrap(),
    )
}

/// RAM that the guest has never used takes none of the host's memory, however it is read: of a memfd, of a file under a
/// private mapping, of QEMU's own.
pub(crate) fn holes_are_left_alone() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = folder.path().join("ram");
    let private = format!(
        "memory-backend-file,id=b,size=256M,share=off,mem-path={}",
        file.display()
    );
    let foreign = Foreign::start(&[
        "-S",
        "-M",
        "q35",
        "-m",
        "512M,slots=4,maxmem=4G",
        "-object",
        "memory-backend-ram,id=a,size=256M",
        "-object",
        &private,
        "-numa",
        "node,memdev=a",
        "-numa",
        "node,memdev=b",
        "-object",
        "memory-backend-memfd,id=c,size=512M,share=on",
        "-device",
        "pc-dimm,memdev=c",
    ]);
    let name = format!("holes-{}", std::process::id());
    let machine = Machine::adopt(&name, &foreign.qmp(), None).unwrap();
    let Memory::Process { files, process } = machine.memory() else {
        panic!("{:?}", machine.memory());
    };
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(process.parts.len() >= 2, "{process:?}");
    assert!(machine.memory().bytes() > 1000 << 20);
    // A page in the middle of each, as QEMU sees them.
    let marks = [64 << 20, 300 << 20, (4 << 30) + (100 << 20)];
    let pid = foreign.child.id();
    let before = taken(pid);
    let memory = probes::guest::of_machine(&machine).unwrap();
    let mut chunk = vec![1; 1 << 20];
    let mut read = 0;
    for range in memory.ranges() {
        let mut at = range.start;
        while at.0 < range.start.0 + range.len {
            let left = range.start.0 + range.len - at.0;
            let part = &mut chunk[..left.min(1 << 20) as usize];
            memory.read_once(at, part).unwrap();
            assert!(memory.next_data(at) >= at);
            read += part.len() as u64;
            at = at.offset(part.len() as u64);
        }
    }
    assert_eq!(read, machine.memory().bytes());
    assert_eq!(
        memory
            .find_page(b"no such page", probes::memory::GuestPhys(0))
            .unwrap(),
        None
    );
    let after = taken(pid);
    assert_eq!(after.0, before.0, "holes were filled");
    assert!(
        after.1 < before.1 + (8 << 10),
        "QEMU has grown from {} to {} kB",
        before.1,
        after.1
    );
    for mark in marks {
        let mut bytes = [1; 8];
        let at = probes::memory::GuestPhys(mark);
        memory.read(at, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 8], "{at}");
    }
    machine.detach().unwrap();
}

/// RAM that is added to a machine after it was attached: a reader that has it open sees it, and a dump has it.
pub(crate) fn ram_is_added() {
    let choice: KernelChoice = "default".parse().unwrap();
    let kernel = Kernel::resolve(&choice, &mut Silent).unwrap();
    let initramfs = vm::initramfs::build(&kernel, &mut Silent).unwrap();
    let foreign = Foreign::start(&[
        "-M",
        "q35",
        "-accel",
        "tcg,thread=single",
        "-cpu",
        "max",
        "-m",
        "256M,slots=4,maxmem=4G",
        "-smp",
        "1",
        "-kernel",
        kernel.vmlinuz.to_str().unwrap(),
        "-initrd",
        initramfs.to_str().unwrap(),
        "-append",
        "console=ttyS0 panic=-1 memhp_default_state=online",
    ]);
    let name = format!("grows-{}", std::process::id());
    let machine = Machine::adopt(&name, &foreign.qmp(), None).unwrap();
    let guest = until_booted(&name);
    let bytes = |guest: &Guest| -> u64 {
        let kernel = guest.kernel().unwrap();
        let ranges = kernel.space().memory().ranges();
        ranges.iter().map(|range| range.len).sum()
    };
    let before = bytes(&guest);
    assert!(before <= 256 << 20);
    let mut qmp = Qmp::connect(&foreign.qmp());
    let object =
        serde_json::json!({ "qom-type": "memory-backend-ram", "id": "m1", "size": 256 << 20 });
    qmp.run("object-add", &object);
    let device = serde_json::json!({ "driver": "pc-dimm", "id": "d1", "memdev": "m1" });
    qmp.run("device_add", &device);
    drop(qmp);
    // QEMU says so at once, and the guest takes it into use.
    assert_eq!(machine.status().memory, before + (256 << 20));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(bytes(&guest), before + (256 << 20));
    let until = Instant::now() + Duration::from_secs(120);
    let ram = |resource: &probes::device::Resource| {
        resource.name == "System RAM" && resource.start >= 4 << 30
    };
    while !guest.iomem().unwrap().iter().any(ram) {
        assert!(
            Instant::now() < until,
            "the guest does not take it into use"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    let folder = tempfile::tempdir().unwrap();
    let dump = guest.dump(folder.path().join("core")).unwrap();
    assert_eq!(dump.memory, before + (256 << 20));
    let core = Guest::open_core(&dump.path).unwrap();
    assert!(core.tasks().unwrap().len() > 20);
    assert!(guest.tasks().unwrap().len() > 20);
    machine.detach().unwrap();
}

fn until_booted(name: &str) -> Guest {
    let until = Instant::now() + Duration::from_secs(180);
    loop {
        // Until then there is no kernel, or one without a process.
        match Guest::attach(name) {
            Ok(guest) if guest.task(1).is_ok_and(|task| task.mm.is_some()) => return guest,
            other => assert!(Instant::now() < until, "{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Addresses that KASLR draws anew at each boot.
fn places(guest: &Guest) -> Option<(u64, u64, u64)> {
    let kernel = guest.kernel().ok()?;
    let virt = kernel.page_offset_base().ok()?;
    Some((
        kernel.kaslr_offset().ok()?,
        kernel.phys_base().ok()?,
        virt.0,
    ))
}

/// RAM in two files that have no name, and sockets that are no QEMU's.
pub(crate) fn in_odd_places() {
    let foreign = Foreign::start(&[
        "-S",
        "-M",
        "q35",
        "-m",
        "256M",
        "-object",
        "memory-backend-memfd,id=a,size=128M,share=on",
        "-object",
        "memory-backend-memfd,id=b,size=128M,share=on",
        "-numa",
        "node,memdev=a",
        "-numa",
        "node,memdev=b",
    ]);
    let name = format!("memfd-{}", std::process::id());
    let machine = Machine::adopt(&name, &foreign.qmp(), None).unwrap();
    let Memory::Files(files) = machine.memory() else {
        panic!("{:?}", machine.memory());
    };
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(machine.memory().bytes() > 250 << 20);
    let memory = probes::guest::of_machine(&machine).unwrap();
    let last = memory.ranges().last().unwrap();
    assert_eq!(last.start.0 + last.len, 256 << 20);
    // Nothing has booted: that is said, and nothing else happens.
    let said = Guest::attach(&name).unwrap_err().to_string();
    assert!(said.contains("has not booted yet"), "{said}");
    assert!(!machine.runs().unwrap());

    // Another client has the socket: its name is told, and a cure that ends nobody. Commands that need no QMP go on.
    let held = Qmp::connect(&foreign.qmp());
    let us = format!("(process {})", std::process::id());
    let mut once_more = machine.clone();
    let all = Machine::list().unwrap();
    let listed = all.iter().find(|status| status.name == name).unwrap();
    assert_eq!(*listed, machine.status());
    assert_eq!(listed.state, State::Unreachable);
    assert!(!once_more.survey().unwrap());
    probes::guest::of_machine(&machine)
        .unwrap()
        .read_u64(probes::memory::GuestPhys(0x1000))
        .unwrap();
    for said in [
        machine.runs().unwrap_err().to_string(),
        listed.detail.clone().unwrap(),
        Machine::adopt("odd", &foreign.qmp(), None)
            .unwrap_err()
            .to_string(),
    ] {
        for part in ["busy with another client", &us, "a second `-qmp unix:"] {
            assert!(said.contains(part), "{said}");
        }
    }
    drop(held);

    // QEMU's own spellings.
    let path = foreign.qmp();
    for spelling in [
        format!("unix:{}", path.display()),
        format!("unix:{},server=on,wait=off", path.display()),
    ] {
        let odd = Machine::adopt("odd", Path::new(&spelling), None).unwrap();
        odd.detach().unwrap();
    }
    for spelling in ["tcp:127.0.0.1:4444", "127.0.0.1:4444", "tcp::4444"] {
        let said = Machine::adopt("odd", Path::new(spelling), None).unwrap_err();
        assert!(said.to_string().contains("-qmp unix:PATH"), "{said}");
    }
    let said = Machine::adopt("odd", Path::new("unix:/none/such"), None).unwrap_err();
    assert_eq!(said.to_string().matches("os error 2").count(), 1, "{said}");
    assert!(std::error::Error::source(&said).is_none());

    // A gdbstub that is none.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let attached = Machine::adopt("odd", &foreign.qmp(), Some(&address)).unwrap();
    let said = Guest::attach("odd").unwrap_err().to_string();
    assert!(
        said.contains("no answer in 5 s") && said.lines().count() == 1,
        "{said}"
    );
    attached.detach().unwrap();
    machine.down().unwrap();
    let mut qmp = Qmp::connect(&foreign.qmp());
    assert_eq!(qmp.run("query-status", &Value::Null)["status"], "prelaunch");

    // Sockets that speak something else, and nothing.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"220 mail ready\r\n");
        }
    });
    let said = Machine::adopt("odd", &path, None).unwrap_err().to_string();
    assert!(
        said.contains("no QMP socket") && said.lines().count() == 1,
        "{said}"
    );
    let said = Machine::adopt("odd", &folder.path().join("none"), None)
        .unwrap_err()
        .to_string();
    assert!(said.contains("none"), "{said}");
    assert!(Machine::attach("odd").is_err(), "something was left");
}
