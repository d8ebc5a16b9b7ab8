//! Slab caches: `/proc/slabinfo`, and their objects.

use std::collections::BTreeMap;

use probes::Guest;
use probes::memory::GuestVirt;
use probes::slab::{SlabCaches, SlabObject, SlabObjects};

use crate::ground::Ground;
use crate::ledger::Ledger;

/// Caches whose objects are listed: of sizes from some bytes to some KiB, some of them with many slabs.
const LISTED: [&str; 9] = [
    "task_struct",
    "mm_struct",
    "filp",
    "dentry",
    "vm_area_struct",
    "kmalloc-64",
    "kmalloc-4k",
    "proc_inode_cache",
    "maple_node",
];

/// Numbers of each cache: active objects, objects, the size of one, objects and pages of a slab, slabs.
fn ask(ground: &mut Ground) -> BTreeMap<String, [u64; 6]> {
    let text = ground.agent.read("/proc/slabinfo").unwrap();
    let text = String::from_utf8(text).unwrap();
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |i: usize| words[i].parse().unwrap();
        let numbers = [
            number(1),
            number(2),
            number(3),
            number(4),
            number(5),
            number(14),
        ];
        (words[0].to_owned(), numbers)
    };
    text.lines().skip(2).map(line).collect()
}

struct Read {
    caches: SlabCaches,
    objects: Vec<SlabObjects>,
    tasks: Vec<(GuestVirt, Option<SlabObject>)>,
    free: Vec<Option<bool>>,
}

fn read(guest: &Guest) -> probes::Result<Read> {
    let kernel = guest.kernel()?;
    let objects: Vec<SlabObjects> = LISTED
        .iter()
        // Kernels before 6.1 have no maple tree.
        .filter_map(|name| guest.slab_objects(name).ok())
        .collect();
    let mut tasks = Vec::new();
    for task in guest.tasks()? {
        // An address in the middle of it.
        tasks.push((task.at, guest.slab_object(task.at.offset(0x123))?));
    }
    // Memory between two objects that are in use, and not listed itself, must be told as free.
    let mut free = Vec::new();
    for listed in &objects {
        for pair in listed.objects.windows(2) {
            let between = pair[0].offset(listed.cache.size.into());
            if between < pair[1] && between.page() == pair[0].page() && free.len() < 200 {
                let object = guest.slab_object(between)?;
                free.extend(object.map(|object| object.in_use));
            }
        }
    }
    drop(kernel);
    Ok(Read {
        caches: guest.slab_caches()?,
        objects,
        tasks,
        free,
    })
}

pub(super) fn is_that_of_proc(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("slab caches on {kernel}"));
    for _ in 0..2 {
        let (before, seen, after) = ground.sandwich(ask, read);
        let (names, of_proc) = (seen.caches.len(), before.len());
        ledger.same("slabinfo", "caches", &names, &of_proc);
        for cache in seen.caches.iter() {
            let memory = [
                cache.active().unwrap(),
                cache.objects.unwrap(),
                cache.size.into(),
                cache.objects_per_slab.into(),
                1 << cache.order,
                cache.slabs.unwrap(),
            ];
            let (Some(first), Some(last)) = (before.get(&cache.name), after.get(&cache.name))
            else {
                ledger.fault(format!("slabinfo has no {}", cache.name));
                continue;
            };
            ledger.steady(&cache.name, "cache", &memory, (first, last));
            let free = cache
                .free
                .sum()
                .is_some_and(|free| Some(free) <= cache.objects);
            ledger.same(&cache.name, "free", &free, &true);
        }
        for listed in &seen.objects {
            // Two ways: by the lists of partial slabs and what CPUs hold, and by all pages and the lists of their slabs.
            let name = &listed.cache.name;
            let counted = listed.cache.in_use().unwrap();
            ledger.same(
                name,
                "objects in use",
                &(listed.objects.len() as u64),
                &counted,
            );
            let cpus = listed
                .cpus
                .iter()
                .map(|cpu| cpu.free.unwrap() + cpu.main.unwrap())
                .sum::<u64>();
            if cpus > 0 {
                ledger.same(name, "held by CPUs", &true, &true);
            }
        }
        let all = &seen.objects[0];
        for (at, object) in &seen.tasks {
            let object = object.as_ref().unwrap();
            let memory = (
                object.at,
                object.offset,
                object.in_use,
                &*object.cache,
                object.c_type.as_deref(),
            );
            let known = (
                *at,
                0x123,
                Some(true),
                "task_struct",
                Some("struct task_struct"),
            );
            ledger.same(at, "task", &memory, &known);
            ledger.same(
                at,
                "task among the objects",
                &all.objects.binary_search(at).is_ok(),
                &true,
            );
        }
        for in_use in &seen.free {
            ledger.same("free object", "free object", in_use, &Some(false));
        }
    }
    ledger.end(&[
        ("cache", 200),
        ("objects in use", 14),
        ("held by CPUs", 6),
        ("task", 100),
        ("task among the objects", 100),
        ("free object", 60),
    ]);
}
