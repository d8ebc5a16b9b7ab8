//! Programs in memory: `/proc/PID/auxv`, `maps`, `mem`, and the files themselves as the `object` crate reads them.

use std::collections::{BTreeMap, BTreeSet};

use object::{Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _};
use probes::Result;
use probes::exec::{Auxv, ElfImage, ElfImages, Vdso};
use probes::memory::GuestVirt;
use vm::agent::WorkloadKind;

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_those_of_their_files);

/// Programs that are linked to libraries, that are not, that may lie anywhere, and that must lie where they were linked to.
const PROGRAMS: &str = r"
    modprobe nf_tables
    start() { setsid $@ </dev/null >/dev/null 2>&1 & }
    start /usr/sbin/nft monitor; start /usr/sbin/ip monitor; start sleep 9000; mkfifo /tmp/fifo
    (exec 3<>/tmp/fifo; setsid /bin/sh -c 'read x <&3' </dev/null >/dev/null 2>&1 &)
    for i in $(seq 100); do pidof nft >/dev/null && pidof ip >/dev/null && break; sleep 0.1; done; sleep 1
    pidof nft; pidof ip; pidof sleep; ps | sed -n 's,^ *\([0-9]*\) root */bin/sh -c read.*,\1,p'; echo 1
";

struct Seen {
    auxv: Auxv,
    images: ElfImages,
    vdso: Vdso,
    vdso_pages: Vec<Option<Vec<u8>>>,
}

pub(crate) fn are_those_of_their_files(kernel: &str) {
    let mut ground = Ground::bare(kernel, vm::Options::default().memory);
    ground.agent.workload(WorkloadKind::Confined).unwrap();
    let pids: Vec<i32> = ground
        .sh(PROGRAMS)
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    let mut ledger = Ledger::new(format!("programs on {kernel}"));
    let seen: BTreeMap<i32, Seen> = ground
        .guest
        .paused(|guest| {
            let read = |pid: &i32| -> Result<(i32, Seen)> {
                let vdso = guest.vdso(*pid)?;
                // A page that nobody has executed yet is not in the page tables.
                let space = guest.user_space(*pid)?;
                let page = |i: u64| {
                    let mut page = vec![0; 4096];
                    let read = space.read(vdso.image.base.offset(4096 * i), &mut page);
                    read.ok().map(|()| page)
                };
                let vdso_pages = (0..vdso.len / 4096).map(page).collect();
                let (auxv, images) = (guest.auxv(*pid)?, guest.elf_images(*pid)?);
                Ok((
                    *pid,
                    Seen {
                        auxv,
                        images,
                        vdso,
                        vdso_pages,
                    },
                ))
            };
            pids.iter().map(read).collect()
        })
        .unwrap();
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (pid, seen) in &seen {
        auxv(&mut ledger, &mut ground, *pid, seen);
        vdso(&mut ledger, &mut ground, *pid, seen);
        let maps = ground.sh(&format!("cat /proc/{pid}/maps"));
        let code: Vec<String> = maps
            .lines()
            .filter(|line| line.split(' ').nth(1).unwrap().contains('x'))
            .map(|line| line.split_whitespace().next().unwrap().to_owned())
            .collect();
        let memory: Vec<String> = seen
            .images
            .code
            .iter()
            .map(|one| format!("{:08x}-{:08x}", one.start.0, one.end.0))
            .collect();
        // The vsyscall page is no mapping of the process.
        let said: Vec<String> = code
            .into_iter()
            .filter(|line| !line.starts_with("ffffffff"))
            .collect();
        ledger.same(pid, "code", &memory, &said);
        // Each file that is executed is among the images.
        for one in seen
            .images
            .code
            .iter()
            .filter(|one| one.path.starts_with('/'))
        {
            let found = seen
                .images
                .images
                .iter()
                .any(|image| image.path == one.path);
            ledger.same(&one.path, "image of code", &found, &true);
        }
        for image in &seen.images.images {
            if !files.contains_key(&image.path) && image.path != "[vdso]" {
                let path = image.path.trim_start_matches("/proc/self/exe");
                files.insert(image.path.clone(), ground.agent.read(path).unwrap());
            }
        }
    }
    for seen in seen.values() {
        for image in &seen.images.images {
            if let Some(bytes) = files.get(&image.path) {
                file(&mut ledger, image, bytes);
            }
        }
    }
    ledger.end(&[
        ("auxv", 80),
        ("vdso", 4),
        ("vdso symbols", 4),
        ("code", 4),
        ("entry", 10),
        ("segments", 10),
        ("interpreter", 2),
        ("needed", 8),
        ("init array", 8),
        ("symbols", 8),
        ("sections", 1),
        ("relocated function", 10),
    ]);
}

/// The words of `/proc/PID/auxv`, and what they say of the images.
fn auxv(ledger: &mut Ledger, ground: &mut Ground, pid: i32, seen: &Seen) {
    let text = ground.sh(&format!("od -An -v -tu8 /proc/{pid}/auxv"));
    let words: Vec<u64> = text
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    for (pair, entry) in words.chunks(2).zip(&seen.auxv.entries) {
        ledger.same(pid, "auxv", &[entry.kind, entry.value].as_slice(), &pair);
    }
    let end = words.chunks(2).position(|pair| pair[0] == 0).unwrap();
    ledger.same(pid, "auxv", &seen.auxv.entries.len(), &end);
    let images = &seen.images.images;
    let at = |at: u64| images.iter().find(|image| image.base.0 == at);
    let program = images
        .iter()
        .find(|image| image.entry.map(|at| at.0) == seen.auxv.get("ENTRY"))
        .unwrap();
    ledger.same(
        pid,
        "AT_PHDR",
        &Some(program.base.0 + 64),
        &seen.auxv.get("PHDR"),
    );
    let vdso = seen.auxv.get("SYSINFO_EHDR").unwrap();
    ledger.same(
        pid,
        "AT_SYSINFO_EHDR",
        &at(vdso).unwrap().path.as_str(),
        &"[vdso]",
    );
    if let (Some(base), Some(interpreter)) = (seen.auxv.get("BASE"), &program.interpreter) {
        let loader = at(base)
            .unwrap()
            .path
            .rsplit('/')
            .next()
            .unwrap()
            .to_owned();
        ledger.same(
            pid,
            "AT_BASE",
            &Some(loader.as_str()),
            &interpreter.rsplit('/').next(),
        );
    }
    let exec = seen
        .auxv
        .entries
        .iter()
        .find(|entry| entry.name == "PLATFORM")
        .unwrap();
    ledger.same(
        pid,
        "AT_PLATFORM",
        &exec.points_to.as_deref(),
        &Some("x86_64"),
    );
}

/// The vDSO's pages as the process itself has them, and its symbols as another parser reads them there.
fn vdso(ledger: &mut Ledger, ground: &mut Ground, pid: i32, seen: &Seen) {
    let (base, len) = (seen.vdso.image.base.0, seen.vdso.len);
    let copy = format!("/tmp/vdso.{pid}");
    ground.sh(&format!(
        "dd if=/proc/{pid}/mem of={copy} bs=4096 skip={} count={} 2>/dev/null",
        base / 4096,
        len / 4096
    ));
    let bytes = ground.agent.read(&copy).unwrap();
    for (memory, said) in seen.vdso_pages.iter().zip(bytes.chunks(4096)) {
        if let Some(memory) = memory {
            ledger.same(pid, "vdso", &(memory == said), &true);
        }
    }
    let file = object::File::parse(&*bytes);
    // Newer kernels leave no section headers in it, which that parser wants.
    let symbols = match &file {
        Ok(file) if file.dynamic_symbols().next().is_some() => file
            .dynamic_symbols()
            .filter(|symbol| !symbol.is_undefined())
            .map(|symbol| (symbol.name().unwrap().to_owned(), symbol.address()))
            .collect(),
        _ => Vec::new(),
    };
    let memory: Vec<(String, u64)> = seen
        .vdso
        .image
        .dynamic
        .as_ref()
        .unwrap()
        .symbols
        .iter()
        .filter(|one| one.at.0 != 0)
        .map(|one| (one.name.clone(), one.at.0 - base))
        .collect();
    for (name, at) in symbols.iter().filter(|(_, at)| *at != 0) {
        let found = memory.iter().any(|(one, place)| one == name && place == at);
        ledger.same(name, "vdso symbols", &found, &true);
    }
    for name in [
        "__vdso_clock_gettime",
        "__vdso_gettimeofday",
        "__vdso_getcpu",
        "__vdso_time",
    ] {
        let found = memory
            .iter()
            .filter(|(one, at)| one == name && *at > 0 && *at < len)
            .count();
        ledger.same(name, "vdso symbols", &found, &1);
    }
}

/// An image against its file.
fn file(ledger: &mut Ledger, image: &ElfImage, bytes: &[u8]) {
    let file = object::File::parse(bytes).unwrap();
    let bias = |at: u64| GuestVirt(at).offset(image.bias);
    let who = &image.path;
    let entry = (file.entry() != 0).then(|| bias(file.entry()));
    ledger.same(who, "entry", &image.entry, &entry);
    let memory: Vec<(u64, u64)> = image
        .segments
        .iter()
        .filter(|one| one.kind == "LOAD")
        .map(|one| (one.at.0, one.mem_size))
        .collect();
    let said: Vec<(u64, u64)> = file
        .segments()
        .map(|one| (bias(one.address()).0, one.size()))
        .collect();
    ledger.same(who, "segments", &memory, &said);
    if let (Some(section), false) = (
        file.section_by_name(".interp"),
        image.missing.contains(&"interpreter"),
    ) {
        let said = String::from_utf8_lossy(section.data().unwrap())
            .trim_end_matches('\0')
            .to_owned();
        ledger.same(
            who,
            "interpreter",
            &image.interpreter.as_deref(),
            &Some(said.as_str()),
        );
    }
    if !image.sections.is_empty() {
        let memory: Vec<(String, u64)> = image
            .sections
            .iter()
            .map(|one| (one.name.clone(), one.size))
            .collect();
        let said: Vec<(String, u64)> = file
            .sections()
            .map(|one| (one.name().unwrap().to_owned(), one.size()))
            .collect();
        ledger.same(who, "sections", &memory, &said);
    }
    let Some(dynamic) = &image.dynamic else {
        return;
    };
    // The file's own words about its dynamic section, by its section's strings.
    let strings = file
        .section_by_name(".dynstr")
        .map(|section| section.data().unwrap().to_vec());
    let table = file
        .section_by_name(".dynamic")
        .unwrap()
        .data()
        .unwrap()
        .to_vec();
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let tags = table
        .chunks(16)
        .map(|pair| (word(&pair[..8]), word(&pair[8..])))
        .take_while(|(tag, _)| *tag != 0);
    let needed: Vec<String> = tags
        .filter(|(tag, _)| *tag == 1)
        .map(|(_, offset)| {
            let rest = &strings.as_ref().unwrap()[offset as usize..];
            String::from_utf8_lossy(&rest[..rest.iter().position(|byte| *byte == 0).unwrap()])
                .into_owned()
        })
        .collect();
    ledger.same(who, "needed", &dynamic.needed, &needed);
    let mut said = 0;
    let mut text = None;
    for section in file.sections() {
        match section.name().unwrap() {
            ".init_array" | ".preinit_array" => said += section.size() / 8,
            // DT_INIT
            ".init" => said += 1,
            ".text" => text = Some((section.address(), section.size())),
            _ => {}
        }
    }
    ledger.same(who, "init array", &(dynamic.init.len() as u64), &said);
    // Each, as it was relocated, lies in the file's code.
    let code = image
        .segments
        .iter()
        .filter(|one| one.kind == "LOAD" && one.flags.contains('x'));
    let code: Vec<(u64, u64)> = code
        .map(|one| (one.at.0, one.at.0 + one.mem_size))
        .collect();
    for function in dynamic.init.iter().chain(&dynamic.fini) {
        let inside = code
            .iter()
            .any(|(start, end)| (*start..*end).contains(&function.at.0));
        ledger.same(
            format!("{who} {function:?} {text:x?}"),
            "relocated function",
            &inside,
            &true,
        );
    }
    let defined = file
        .dynamic_symbols()
        .filter(|one| !one.is_undefined() && one.kind() != object::SymbolKind::Tls);
    let said: Vec<(String, u64)> = defined
        .map(|one| (one.name().unwrap().to_owned(), one.address()))
        .collect();
    let memory: Vec<(String, u64)> = dynamic
        .symbols
        .iter()
        .map(|one| {
            (
                one.name.clone(),
                if one.absolute {
                    one.at.0
                } else {
                    one.at.0.wrapping_sub(image.bias)
                },
            )
        })
        .collect();
    let (memory, said): (BTreeSet<_>, BTreeSet<_>) =
        (memory.into_iter().collect(), said.into_iter().collect());
    let odd: Vec<_> = memory.symmetric_difference(&said).take(8).collect();
    ledger.same(who, "symbols of", &odd, &Vec::new());
    for symbol in memory.intersection(&said) {
        ledger.same(who, "symbols", symbol, symbol);
    }
}
