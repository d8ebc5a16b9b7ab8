//! A hostile guest: its RAM with lies in it. Every reader ends soon, in little memory, with a value or an error.
//!
//! The lies are told in a process of their own, whose address space is limited and whose time is.

mod readers;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, thread};

use probes::memory::{GuestPhys, GuestVirt, RamRange};
use probes::page::MemMap;
use probes::structures::{MapleLayout, offset_of};
use probes::{ErrorKind, Guest, Result};
use vm::agent::WorkloadKind;

use self::readers::{Fared, read_all};
use crate::ground::Ground;

/// Says to this test that it is the process that reads the lies: the RAM file.
const LIES: &str = "KLAB_TEST_LIES";
/// KiB of address space that it may have: half a gigabyte is the mapped RAM.
const ADDRESS_SPACE: u64 = 2 << 20;
/// Time that the readers may take over one lie. All of them take some 2 s of an honest guest.
const PATIENCE: Duration = Duration::from_secs(40);

#[test]
fn every_lie_is_survived() {
    match env::var_os(LIES) {
        Some(file) => tell_lies(Path::new(&file)),
        None => in_a_process(),
    }
}

/// Copies the RAM of a guest, and starts this test again in a process of its own that lies in it.
fn in_a_process() {
    let mut ground = Ground::new("default");
    ground.sh("nft 'table ip t { chain c { type filter hook input priority 0; tcp dport 9 counter drop; }; }'");
    ground.sh("modprobe null_blk nr_devices=1; modprobe veth");
    ground.agent.workload(WorkloadKind::Bpf).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ram");
    Ram::copy(&ground, &file);
    drop(ground);
    let test = thread::current().name().unwrap().to_owned();
    let said = folder.path().join("said");
    let out = File::create(&said).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", &format!("ulimit -v {ADDRESS_SPACE} && exec \"$@\"")])
        .arg("sh")
        .arg(env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture", "--test-threads=1"])
        .env(LIES, &file)
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .spawn()
        .unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > Duration::from_secs(600) {
            child.kill().unwrap();
            break child.wait().unwrap();
        }
        thread::sleep(Duration::from_millis(50));
    };
    let said = std::fs::read_to_string(said).unwrap();
    // Its verdicts would be counted as ours.
    for line in said.lines() {
        println!("    {line}");
    }
    assert!(
        status.success(),
        "{status}: a panic, too much memory, or no end"
    );
}

/// The RAM file, and what was in it before the last lie.
pub(crate) struct Ram {
    file: File,
    path: PathBuf,
    ranges: Vec<RamRange>,
    truth: Vec<(u64, Vec<u8>)>,
    random: u64,
}

impl Ram {
    /// Copies the RAM of a guest, at one instant, into a file.
    pub(crate) fn copy(ground: &Ground, file: &Path) {
        let ram = ground.guest.machine().unwrap().ram().unwrap().clone();
        ground
            .guest
            .paused(|_| {
                let copy = Command::new("cp")
                    .args(["--sparse=always", "-L"])
                    .args([ram.path.as_path(), file])
                    .status();
                assert!(copy.unwrap().success());
                Ok(())
            })
            .unwrap();
        let ranges = serde_json::to_vec(&ram.ranges).unwrap();
        std::fs::write(file.with_extension("ranges"), ranges).unwrap();
    }

    pub(crate) fn open(path: &Path) -> Self {
        let ranges = std::fs::read(path.with_extension("ranges")).unwrap();
        Self {
            file: File::options().read(true).write(true).open(path).unwrap(),
            path: path.to_owned(),
            ranges: serde_json::from_slice(&ranges).unwrap(),
            truth: Vec::new(),
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    pub(crate) fn guest(&self) -> Result<Guest> {
        Guest::open_ram(&self.path, &self.ranges)
    }

    /// xorshift64: the same lies each time.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Offset at which the file has so many bytes of physical memory.
    fn offset(&self, at: GuestPhys, len: u64) -> Option<u64> {
        let range = self.ranges.iter().find(|range| {
            let offset = at.0.checked_sub(range.gpa);
            offset.is_some_and(|offset| offset + len <= range.len)
        });
        range.map(|range| at.0 - range.gpa + range.offset)
    }

    fn word(&self, at: GuestPhys) -> u32 {
        let mut word = [0; 4];
        let offset = self.offset(at, 4).unwrap();
        self.file.read_exact_at(&mut word, offset).unwrap();
        u32::from_le_bytes(word)
    }

    pub(crate) fn lie(&mut self, at: GuestPhys, bytes: &[u8]) {
        let Some(offset) = self.offset(at, bytes.len() as u64) else {
            return;
        };
        let mut truth = vec![0; bytes.len()];
        self.file.read_exact_at(&mut truth, offset).unwrap();
        self.truth.push((offset, truth));
        self.file.write_all_at(bytes, offset).unwrap();
    }

    pub(crate) fn lie_u64(&mut self, at: GuestPhys, word: u64) {
        self.lie(at, &word.to_le_bytes());
    }

    /// A word that is often worse than a random one.
    fn bad_word(&mut self, others: &[GuestVirt]) -> u64 {
        let random = self.random();
        match random % 7 {
            0 => 0,
            1 => u64::MAX,
            2 => random >> 32,
            3 => others[(random >> 8) as usize % others.len()].0,
            4 => others[(random >> 8) as usize % others.len()].0 + (random >> 40) % 64 * 8,
            5 => 1 << (random >> 8 & 63),
            _ => random,
        }
    }

    pub(crate) fn heal(&mut self) {
        while let Some((offset, truth)) = self.truth.pop() {
            self.file.write_all_at(&truth, offset).unwrap();
        }
    }
}

/// Reads all, within the time that there is.
fn survive(what: &str, ram: &mut Ram) -> Fared {
    let began = Instant::now();
    let fared = read_all(ram);
    ram.heal();
    let (took, first) = (
        began.elapsed(),
        fared.errors.first().map(ToString::to_string),
    );
    println!(
        "{what}: {} values, {} errors, {} missing in {took:.1?} ({} {:.1?}): {}",
        fared.values,
        fared.errors.len(),
        fared.missing.len(),
        fared.slowest.1,
        fared.slowest.0,
        first.unwrap_or_default()
    );
    let (slowest, reader) = &fared.slowest;
    assert!(
        took < PATIENCE,
        "{what} took {took:?}, {reader} {slowest:?} of it"
    );
    fared
}

/// Words and their places, as they were before the first lie.
struct Map {
    tasks: Vec<GuestVirt>,
    /// Structures that the readers follow, in physical memory: all of the kind, with the bytes that they have.
    bodies: Vec<(GuestPhys, u64)>,
    /// Number of these, the first ones, that the walk along the tasks itself needs.
    shallow: usize,
    /// All of these and more, as pointers.
    pointers: Vec<GuestVirt>,
    btf: (GuestPhys, u64),
    symbols: Vec<GuestPhys>,
    /// The kernel's image.
    image: std::ops::Range<u64>,
    tables: Vec<GuestPhys>,
    task_next: u64,
    thread_next: u64,
}

impl Map {
    fn of(guest: &Guest) -> Result<Self> {
        let kernel = guest.kernel()?;
        let size = |c: &str| kernel.c_type(c)?.size();
        let (mut tasks, mut pointers) = (Vec::new(), Vec::new());
        let (mut bodies, mut deep) = (Vec::new(), Vec::new());
        let mut tables = Vec::new();
        for task in guest.tasks()? {
            tasks.push(task.at);
            for (at, c) in [
                (task.at, "struct task_struct"),
                (task.signal, "struct signal_struct"),
            ] {
                bodies.push((kernel.virt_to_phys(at)?, size(c)?));
                pointers.push(at);
            }
            let mut all = Vec::new();
            if task.mm.is_some() {
                let mm = guest.mm_of(&task)?;
                all.push((mm.at, size("struct mm_struct")?));
                let tree = mm
                    .at
                    .offset(offset_of(&kernel, "struct mm_struct", "mm_mt")?);
                let root =
                    GuestVirt(kernel.read_u64(tree.offset(MapleLayout::of(&kernel)?.root))? & !255);
                all.push((root, 256));
                let walk = guest.page_walk_of(task.pid, mm.start_code)?;
                tables.extend(walk.steps.iter().map(|step| step.table));
                for vma in guest.vmas_of(&task)? {
                    all.push((vma.at, size("struct vm_area_struct")?));
                    if let Some(file) = vma.file {
                        let path = guest.at("struct file", file)?.member("f_path")?;
                        all.push((path.member("dentry")?.pointer()?, size("struct dentry")?));
                        all.push((file, size("struct file")?));
                    }
                }
            }
            for (at, len) in all {
                deep.push((kernel.virt_to_phys(at)?, len));
                pointers.push(at);
            }
        }
        for module in guest.modules()? {
            deep.push((kernel.virt_to_phys(module.at)?, size("struct module")?));
        }
        for device in guest.devices()? {
            deep.push((kernel.virt_to_phys(device.at)?, size("struct device")?));
            pointers.push(device.at);
        }
        for irq in guest.irqs()?.iter() {
            deep.push((kernel.virt_to_phys(irq.at)?, size("struct irq_desc")?));
        }
        for queue in guest.workqueues()?.iter() {
            deep.push((
                kernel.virt_to_phys(queue.at)?,
                size("struct workqueue_struct")?,
            ));
            for pool in &queue.pools {
                deep.push((
                    kernel.virt_to_phys(pool.at)?,
                    size("struct pool_workqueue")?,
                ));
            }
        }
        for disk in guest.disks()?.iter() {
            deep.push((kernel.virt_to_phys(disk.at)?, size("struct gendisk")?));
            let queue = kernel.virt_to_phys(disk.queue.as_ref().unwrap().at)?;
            deep.push((queue, size("struct request_queue")?));
        }
        for symbol in [
            "idt_table",
            "sys_call_table",
            "iomem_resource",
            "rcu_state",
            "prog_idr",
            "ftrace_pages_start",
            "clocksource_list",
            "kprobe_table",
            "mod_tree",
            "netdev_chain",
            "chrdevs",
        ] {
            deep.push((kernel.virt_to_phys(kernel.symbol(symbol)?)?, 256));
        }
        let mut noted = |c: &str, at: GuestVirt, len: u64| -> Result<()> {
            deep.push((kernel.virt_to_phys(at)?, size(c)?.min(len)));
            pointers.push(at);
            Ok(())
        };
        for node in guest.zones()?.iter() {
            for zone in node.zones.iter().filter(|zone| zone.present > 0) {
                noted("struct zone", zone.at, 4096)?;
            }
        }
        let memmap = MemMap::of(&kernel)?;
        for name in ["task_struct", "dentry"] {
            let all = guest.slab_objects(name)?;
            noted("struct kmem_cache", all.cache.at, 512)?;
            for node in &all.nodes {
                noted("struct kmem_cache_node", node.at, 512)?;
            }
            for object in all.objects.iter().step_by(20) {
                let page = guest.page(*object)?;
                let head = page.folio.map_or(page.at, |folio| folio.at);
                noted("struct page", head, memmap.page_size())?;
            }
        }
        for area in guest.vmalloc_areas()?.iter() {
            noted("struct vmap_area", area.at, 128)?;
        }
        let cache = guest.page_cache("/bin/busybox")?;
        noted("struct inode", cache.file.inode, 1024)?;
        noted("struct address_space", cache.file.at, 512)?;
        for folio in cache.folios.iter().step_by(20) {
            noted("struct page", folio.at, memmap.page_size())?;
        }
        let prb = GuestVirt(kernel.read_u64(kernel.symbol("prb")?)?);
        deep.push((kernel.virt_to_phys(prb)?, size("struct printk_ringbuffer")?));
        let (start, stop) = (kernel.symbol("__start_BTF")?, kernel.symbol("__stop_BTF")?);
        let shallow = bodies.len();
        bodies.append(&mut deep);
        let image = ["_text", "_end"].map(|name| kernel.virt_to_phys(kernel.symbol(name)?));
        let [first, last] = image;
        let mut symbols = Vec::new();
        for name in [
            "kallsyms_num_syms",
            "kallsyms_names",
            "kallsyms_token_table",
            "kallsyms_offsets",
        ] {
            if let Some(at) = kernel.vmcoreinfo()?.symbol(name) {
                symbols.push(kernel.virt_to_phys(at)?);
            }
        }
        let vmcoreinfo = kernel
            .space()
            .memory()
            .find_page(b"OSRELEASE=", GuestPhys(0))?;
        symbols.extend(vmcoreinfo);
        Ok(Self {
            tasks,
            bodies,
            shallow,
            image: first?.0..last?.0,
            pointers,
            btf: (kernel.virt_to_phys(start)?, stop.0 - start.0),
            symbols,
            tables,
            task_next: offset_of(&kernel, "struct task_struct", "tasks")?,
            thread_next: offset_of(&kernel, "struct task_struct", "thread_node")?,
        })
    }
}

/// Places where BTF says how large a structure or union is, of which type a member, and where it lies.
fn records(ram: &Ram, btf: GuestPhys) -> Vec<u64> {
    let word = |at: u64| ram.word(btf.offset(at));
    // struct btf_header: hdr_len, type_off, type_len.
    let first = u64::from(word(4)) + u64::from(word(8));
    let (mut at, end) = (first, first + u64::from(word(12)));
    let mut records = Vec::new();
    while at < end {
        // struct btf_type of include/uapi/linux/btf.h: name_off, info, size or type; then what the kind has.
        let info = word(at + 4);
        let (kind, count) = (info >> 24 & 0x1f, u64::from(info & 0xffff));
        if kind == 4 || kind == 5 {
            records.push(at + 8);
            records.extend((0..count).flat_map(|i| [at + 16 + i * 12, at + 20 + i * 12]));
        }
        at += 12
            + match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                _ => 0,
            };
    }
    records
}

fn tell_lies(path: &Path) {
    let mut ram = Ram::open(path);
    let honest = survive("no lie", &mut ram);
    assert!(honest.values > 300, "{honest:?}");
    let map = Map::of(&ram.guest().unwrap()).unwrap();
    let phys = |at: GuestVirt| -> GuestPhys {
        let kernel = Ram::open(path).guest().unwrap().kernel().unwrap();
        kernel.virt_to_phys(at).unwrap()
    };

    // A list that loops: past its head, and onto itself.
    for (from, to) in [(20, 10), (5, 5)] {
        let node = map.tasks[to].offset(map.task_next);
        ram.lie_u64(phys(map.tasks[from].offset(map.task_next)), node.0);
        let guest = ram.guest().unwrap();
        let tasks = guest.tasks().unwrap();
        let told = tasks.missing.first().map(|part| part.kind);
        assert_eq!(told, Some(ErrorKind::Broken), "{:?}", tasks.missing);
        // By the other end of the list, and by their numbers, all others are found.
        assert!(tasks.len() + 2 > map.tasks.len(), "{}", tasks.len());
        survive("a task list that loops", &mut ram);
    }
    let node = map.tasks[9].offset(map.thread_next);
    ram.lie_u64(phys(node), node.0);
    survive("a thread list that loops", &mut ram);

    // Page tables that point at themselves, at each level.
    let mut noticed = 0;
    for table in map.tables.iter().rev().take(5) {
        for index in 0..512 {
            ram.lie_u64(table.offset(index * 8), table.0 | 0x67);
        }
        let fared = survive("a page table that points at itself", &mut ram);
        noticed += usize::from(fared.failed() > honest.failed());
    }
    assert!(noticed >= 3, "only {noticed} of 5 were noticed");

    // Types that lie: their header, their sizes, their ids.
    let (btf, len) = map.btf;
    let records = records(&ram, btf);
    assert!(records.len() > 100_000, "{}", records.len());
    let mut noticed = 0;
    for round in 0..20_u64 {
        let lies = [(0..4, 1), (4..8, 400), (8..12, 2)];
        let lies = lies.iter().find(|(rounds, _)| rounds.contains(&round));
        for _ in 0..lies.map_or(0, |(_, lies)| *lies) {
            let word = ram.random();
            // The first rounds are about the header.
            let at = if round < 4 {
                4 + round * 4
            } else {
                ram.random() % (len / 4) * 4
            };
            ram.lie(btf.offset(at), &(word as u32).to_le_bytes());
        }
        if round >= 12 {
            // Sound records that say what is not so: types, offsets and sizes of structures.
            let share = 1 << (round - 12);
            for at in &records {
                if ram.random() % 256 < share {
                    let word = ram.random() % 0x4_0000;
                    ram.lie(btf.offset(*at), &(word as u32).to_le_bytes());
                }
            }
        }
        let fared = survive("BTF that lies", &mut ram);
        noticed += usize::from(fared.failed() > honest.failed());
    }
    assert!(noticed >= 8, "only {noticed} of 20 were noticed");

    // The tables of symbols, and what the kernel says of itself.
    for at in &map.symbols {
        for _ in 0..2 {
            for _ in 0..8 {
                let (offset, word) = (ram.random() % 64, ram.random());
                ram.lie(at.offset(offset), &(word as u32).to_le_bytes());
            }
            survive("symbols that lie", &mut ram);
        }
    }

    // Bad words in whatever the readers follow, in a thousandth of it and more; at first not in the tasks themselves.
    let all = map.bodies.len();
    for (bodies, share) in [
        (map.shallow..all, 10),
        (map.shallow..all, 100),
        (map.shallow..all, 100),
        (map.shallow..all, 500),
        (map.shallow..all, 1000),
        (0..all, 2),
        (0..all, 10),
        (0..all, 50),
        (0..all, 1000),
    ] {
        for (at, len) in &map.bodies[bodies] {
            if ram.random() % 1000 >= share {
                continue;
            }
            for _ in 0..4 {
                let at = at.offset(ram.random() % (len / 8) * 8);
                let word = ram.bad_word(&map.pointers);
                ram.lie_u64(at, word);
            }
        }
        survive("bad words", &mut ram);
    }

    // Anything anywhere, but for the image: symbols and types end each reading early.
    let words: u64 = ram.ranges.iter().map(|range| range.len / 8).sum();
    for lies in [1000, 1000, 10_000, 10_000, 50_000] {
        for _ in 0..lies {
            let at = ram.random() % words * 8;
            let word = ram.bad_word(&map.pointers);
            if !map.image.contains(&at) {
                ram.lie_u64(GuestPhys(at), word);
            }
        }
        survive("random words", &mut ram);
    }
    assert_eq!(survive("no lie", &mut ram).values, honest.values);
}
