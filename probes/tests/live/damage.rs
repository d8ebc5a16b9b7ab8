//! Single damages of a guest that stands still: one word of its RAM at a time is overwritten, every listing is read, and the
//! word is put back. A listing never fails as a whole for one bad thing, what it lost it names, and what it shows was
//! there before.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use probes::memory::GuestVirt;
use probes::readers::{READERS, Reader};
use probes::{Guest, Missing, Result};
use vm::{Machine, RamFile};

use crate::ground::Ground;
use crate::ledger::Ledger;

/// Damages where `KLAB_TEST_DAMAGES` does not say how many.
const DAMAGES: usize = 40;
/// A reading that takes longer hangs: a debug build on a busy machine takes a tenth of it.
const HANGS: Duration = Duration::from_secs(30);

/// A listing: how many things it shows, and what it says to lack.
type Listing = (usize, Vec<Missing>);

/// The readers of things that are independent of each other: what the damages are of.
fn listings() -> Vec<&'static Reader> {
    let damaged = ["tasks", "slab_caches", "namespaces", "vmas"];
    let is_one = |reader: &&Reader| damaged.contains(&reader.method);
    let found: Vec<_> = READERS.iter().filter(is_one).collect();
    assert_eq!(found.len(), damaged.len(), "a reader has another name");
    found
}

/// Listing of a reader.
fn listed(reader: &Reader, guest: &Guest) -> Result<Listing> {
    let value = reader.read(guest, &reader.words(reader.samples[0])?)?;
    let missing = value.missing();
    // The missing parts stand behind the things.
    let json: Vec<serde_json::Value> = serde_json::from_str(&value.json()?).unwrap();
    let count = json.len() - missing.len();
    Ok((count, missing))
}

/// The guest's RAM as something else writes it.
pub(crate) struct Ram {
    file: File,
    ranges: RamFile,
}

impl Ram {
    pub(crate) fn of(machine: &Machine) -> Self {
        let ranges = machine.ram().unwrap().clone();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&ranges.path)
            .unwrap();
        Self { file, ranges }
    }

    /// Puts a word at a virtual address, and gives the one that was there.
    pub(crate) fn put(&self, guest: &Guest, at: GuestVirt, word: u64) -> u64 {
        let phys = guest.kernel().unwrap().space().translate(at).unwrap();
        let range = self.ranges.ranges.iter();
        let range = range
            .copied()
            .find(|range| phys.0 >= range.gpa && phys.0 - range.gpa < range.len)
            .unwrap();
        let place = phys.0 - range.gpa + range.offset;
        let mut old = [0; 8];
        self.file.read_exact_at(&mut old, place).unwrap();
        self.file.write_all_at(&word.to_le_bytes(), place).unwrap();
        u64::from_le_bytes(old)
    }
}

/// Words that can be damaged: what each is, and its address.
fn places(guest: &Guest) -> Vec<(String, GuestVirt)> {
    let mut places = Vec::new();
    let mut add = |what: &str, c: &str, at: GuestVirt, members: &[&str]| {
        for member in members {
            let place = guest
                .at(c, at)
                .and_then(|object| object.member(member))
                .map(|object| object.address().unwrap());
            // Not every kernel has every member.
            if let Ok(place) = place {
                places.push((format!("{what}, {member}"), place));
            }
        }
    };
    let tasks = guest.tasks().unwrap();
    for task in tasks.iter().step_by(tasks.len() / 8 + 1).chain(&tasks[..1]) {
        let what = format!("task {} ({})", task.pid, task.comm);
        let members = [
            "tasks.next",
            "tasks.prev",
            "signal",
            "real_cred",
            "real_parent",
            "nsproxy",
            "files",
            "fs",
            "mm",
            "stack",
            "group_leader",
            "thread_node.next",
            "thread_pid",
        ];
        add(&what, "struct task_struct", task.at, &members);
        let members = ["thread_head.next", "thread_head.prev", "nr_threads"];
        add(&what, "struct signal_struct", task.signal, &members);
    }
    let caches = guest.slab_caches().unwrap();
    for cache in caches.iter().step_by(caches.len() / 8 + 1) {
        let what = format!("slab cache {}", cache.name);
        let members = [
            "name",
            "size",
            "offset",
            "oo",
            "list.next",
            "list.prev",
            "cpu_sheaves",
            "cpu_slab",
        ];
        add(&what, "struct kmem_cache", cache.at, &members);
    }
    for vma in &guest.vmas(1).unwrap() {
        let what = format!("mapping {}", vma.start);
        let members = ["vm_start", "vm_end", "vm_mm", "vm_file", "vm_ops"];
        add(&what, "struct vm_area_struct", vma.at, &members);
        if let Some(file) = vma.file {
            let members = ["f_inode", "f_path.dentry", "f_path.mnt"];
            add(&what, "struct file", file, &members);
        }
    }
    places
}

/// Numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

pub(crate) fn hides_nothing_else(kernel: &str) {
    let ground = Ground::new(kernel);
    let guest = &ground.guest;
    let machine = guest.machine().unwrap();
    machine.pause().unwrap();
    let ram = Ram::of(&machine);
    let places = places(guest);
    let whole: Vec<Listing> = listings()
        .into_iter()
        .map(|reader| listed(reader, guest).unwrap_or_else(|error| panic!("{reader:?}: {error}")))
        .collect();
    for (reader, (shown, missing)) in listings().iter().zip(&whole) {
        assert!(*shown > 3 && missing.is_empty(), "{reader:?}: {missing:?}");
    }
    let count = std::env::var("KLAB_TEST_DAMAGES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(DAMAGES);
    let mut ledger = Ledger::new(format!("damages on {kernel}"));
    let mut dice = Dice(7);
    for round in 0..count {
        let (what, at) = &places[dice.below(places.len())];
        let old = guest.kernel().unwrap().read_u64(*at).unwrap();
        let word = [
            0x41,
            0,
            0x1234,
            at.0,
            0xdead_0000_0000_0100,
            u64::MAX,
            0x4141_4141_4141_4141,
            old ^ 1 << 20,
        ][dice.below(8)];
        assert_eq!(ram.put(guest, *at, word), old);
        let damage = format!("round {round}: {what} at {at} = {word:#x}");
        for (reader, (before, _)) in listings().iter().zip(&whole) {
            let name = reader.method;
            let began = Instant::now();
            let read = listed(reader, guest);
            assert!(began.elapsed() < HANGS, "{damage}: {name} hangs");
            match read {
                // The pointer itself is the damage, and there is no other way to them.
                Err(error) if name == "vmas" && what.ends_with(", mm") => {
                    ledger.same(&damage, "named", &error.to_string().contains("mm"), &true);
                }
                Err(error) => ledger.fault(format!("{damage}: {name} shows nothing: {error}")),
                Ok((shown, missing)) => {
                    let told = shown == *before || !missing.is_empty();
                    ledger.same(&damage, name, &(shown > 0, told), &(true, true));
                    for part in missing {
                        ledger.same(&damage, "named", &part.what.is_empty(), &false);
                    }
                }
            }
        }
        ram.put(guest, *at, old);
    }
    for (reader, (before, _)) in listings().iter().zip(&whole) {
        let (shown, missing) = listed(reader, guest).unwrap();
        ledger.same(
            "afterwards",
            reader.method,
            &(shown, missing.len()),
            &(*before, 0),
        );
    }
    machine.resume().unwrap();
    ledger.end(&[("tasks", count), ("slab_caches", count)]);
}
