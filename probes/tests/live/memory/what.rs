//! Things at an address: known objects, `/proc/kallsyms`, `/proc/vmallocinfo`, `/proc/PID/maps` and `pagemap`.

use std::collections::{BTreeMap, BTreeSet};

use probes::memory::GuestVirt;
use probes::page::MemMap;
use probes::structures::{offset_of, per_cpu_ptr};
use probes::what::{Identifier, Thing, What};
use probes::{Guest, Result};

use crate::ground::Ground;
use crate::ledger::Ledger;
use crate::maps;

/// Mappings that are looked at.
const MAPPINGS: usize = 300;

pub(super) fn is_what_is_there(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("addresses on {kernel}"));
    ground.sh("modprobe veth");
    symbols(&mut ledger, ground);
    let guest = ground.guest.clone();
    guest.paused(|guest| objects(&mut ledger, guest)).unwrap();
    vmalloc(&mut ledger, ground);
    mappings(&mut ledger, ground);
    swapped(&mut ledger, ground);
    ledger.end(&[
        ("symbol", 150),
        ("module symbol", 10),
        ("task", 60),
        ("stack", 60),
        ("stack in the direct map", 60),
        ("per-CPU", 4),
        ("struct page", 3),
        ("vmalloc area", 60),
        ("mapping", 200),
        ("frame", 60),
        ("swapped", 50),
        ("nothing", 3),
    ]);
}

fn symbols(ledger: &mut Ledger, ground: &mut Ground) {
    let all = ground.agent.kallsyms().unwrap();
    let code = all
        .iter()
        .filter(|symbol| "TtDdBb".contains(symbol.kind) && symbol.address >> 63 == 1);
    let (own, of_modules): (Vec<_>, Vec<_>) = code.partition(|symbol| symbol.module.is_none());
    let identifier = Identifier::new(&ground.guest).unwrap();
    // Aliases share an address.
    let mut names: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for symbol in &all {
        names.entry(symbol.address).or_default().push(&symbol.name);
    }
    let mut compare = |field: &'static str, symbol: &vm::agent::values::Symbol| {
        let what = identifier.what(GuestVirt(symbol.address)).unwrap();
        // Code and data of the initialisation are gone, and per-CPU variables are not where their symbols are.
        let Some(Thing::Symbol { symbol: found, .. }) = what
            .things
            .iter()
            .find(|t| matches!(t, Thing::Symbol { .. }))
        else {
            return;
        };
        let named = names[&symbol.address].contains(&&*found.name);
        let same = found.offset == 0 && named && found.module == symbol.module;
        ledger.same(format!("{symbol:?} {found:?}"), field, &same, &true);
    };
    for symbol in own.iter().step_by(own.len() / 400) {
        compare("symbol", symbol);
    }
    for symbol in of_modules.iter().step_by((of_modules.len() / 60).max(1)) {
        compare("module symbol", symbol);
    }
}

fn stack(what: &What) -> Option<i32> {
    what.things.iter().find_map(|thing| match thing {
        Thing::Stack { pid, .. } => Some(*pid),
        _ => None,
    })
}

fn objects(ledger: &mut Ledger, guest: &Guest) -> Result<()> {
    let kernel = guest.kernel()?;
    let identifier = Identifier::new(guest)?;
    let comm = offset_of(&kernel, "struct task_struct", "comm")?;
    for task in guest.tasks()? {
        let what = identifier.what(task.at.offset(comm + 1))?;
        let known = format!(
            "struct task_struct at {}, {} ({}): comm[1] (cache task_struct",
            task.at, task.pid, task.comm
        );
        ledger.same(
            format!("{what:?}"),
            "task",
            &what.brief().contains(&known),
            &true,
        );
        if task.stack.is_null() {
            continue;
        }
        let at = task.stack.offset(0x2010);
        ledger.same(
            task.pid,
            "stack",
            &stack(&identifier.what(at)?),
            &Some(task.pid),
        );
        // The same memory, by its other address.
        let direct = kernel.phys_to_virt(kernel.virt_to_phys(at)?)?;
        let what = identifier.what(direct)?;
        let alias = what.things.contains(&Thing::Alias(at));
        ledger.same(
            format!("{what:?}"),
            "stack in the direct map",
            &(stack(&what), alias),
            &(Some(task.pid), true),
        );
    }
    let switches = offset_of(&kernel, "struct rq", "nr_switches")?;
    for cpu in 0..2 {
        for (symbol, into, member) in [
            ("runqueues", switches, Some("nr_switches")),
            ("runqueues", 0, None),
        ] {
            let what = identifier.what(per_cpu_ptr(&kernel, symbol, cpu)?.offset(into))?;
            let found = what.things.iter().any(|thing| {
                matches!(thing, Thing::PerCpu { cpu: of, symbol: Some(found), member: inside, .. }
                    if *of == cpu && found.name == symbol && (member.is_none() || inside.as_deref() == member))
            });
            ledger.same(format!("{what:?}"), "per-CPU", &found, &true);
        }
    }
    let memmap = MemMap::of(&kernel)?;
    let refcount = offset_of(&kernel, "struct page", "_refcount")?;
    for pfn in [0x100, 0x1234, 0x1_f000] {
        let what = identifier.what(memmap.pfn_to_page(pfn).offset(refcount))?;
        let known = Thing::StructPage {
            pfn,
            member: Some("_refcount.counter".to_owned()),
        };
        ledger.same(
            format!("{what:?}"),
            "struct page",
            &what.things.contains(&known),
            &true,
        );
    }
    for (at, says) in [
        (0xffff_ff7f_ffff_f000, "espfix"),
        (0x1234, "--pid"),
        (1 << 62, "not an address"),
    ] {
        let text = format!("{:?}", identifier.what(GuestVirt(at))?);
        ledger.same(&text, "nothing", &text.contains(says), &true);
    }
    Ok(())
}

fn vmalloc(ledger: &mut Ledger, ground: &mut Ground) {
    let areas = ground.sh("grep -E ' (vmalloc|vmap|ioremap)' /proc/vmallocinfo | cut -d' ' -f1");
    let identifier = Identifier::new(&ground.guest).unwrap();
    for line in areas.lines() {
        let (start, end) = line.split_once('-').unwrap();
        let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
        let (start, end) = (hex(start), hex(end));
        let what = identifier
            .what(GuestVirt(u64::midpoint(start, end)))
            .unwrap();
        let found = what.things.iter().find_map(|thing| match thing {
            Thing::Vmalloc(area) => Some((area.start.0, area.start.0 + area.size)),
            _ => None,
        });
        ledger.same(line, "vmalloc area", &found, &Some((start, end)));
    }
}

fn mappings(ledger: &mut Ledger, ground: &mut Ground) {
    let areas = maps::ask(ground);
    let mut left = MAPPINGS;
    let identifier = Identifier::new(&ground.guest).unwrap();
    for (pid, vmas) in areas {
        for vma in vmas.iter().take(left) {
            left -= 1;
            let entry = ground.agent.proc_pagemap(pid, vma.start, 1).unwrap()[0];
            let Ok(what) = identifier.what_of(pid, GuestVirt(vma.start + 8)) else {
                continue;
            };
            let found = what.things.iter().find_map(|thing| match thing {
                Thing::Vma {
                    start,
                    end,
                    perms,
                    name,
                    offset,
                    ..
                } => Some((start.0, end.0, perms.clone(), name.clone(), *offset)),
                _ => None,
            });
            let offset = vma.path.starts_with('/').then_some(vma.offset + 8);
            let known = (
                vma.start,
                vma.end,
                vma.perms.clone(),
                vma.path.clone(),
                offset,
            );
            ledger.same(format!("{pid} {vma:?}"), "mapping", &found, &Some(known));
            let frame = what.things.iter().find_map(|thing| match thing {
                Thing::Page(page) => Some(page.pfn),
                _ => None,
            });
            // A huge zero page, a device's memory or one that only the kernel touches is not told by pagemap.
            if entry.present && entry.pfn != 0 {
                ledger.same(
                    format!("{pid} {:#x}", vma.start),
                    "frame",
                    &frame,
                    &Some(entry.pfn),
                );
            }
        }
    }
}

/// Pages of the process that was made lean are in the swap area.
fn swapped(ledger: &mut Ledger, ground: &mut Ground) {
    let pid = ground
        .sh("head -1 /sys/fs/cgroup/lean/cgroup.procs")
        .trim()
        .parse()
        .unwrap();
    let identifier = Identifier::new(&ground.guest).unwrap();
    let areas = ground.agent.proc_maps(pid).unwrap();
    let slots = ground.guest.swap_areas().unwrap()[0].pages;
    let mut seen = BTreeSet::new();
    for vma in areas
        .iter()
        .filter(|vma| vma.path.is_empty() || vma.path == "[heap]")
    {
        let pages = ((vma.end - vma.start) / 4096).min(600) as u32;
        for entry in ground.agent.proc_pagemap(pid, vma.start, pages).unwrap() {
            if !entry.swapped {
                continue;
            }
            let what = identifier.what_of(pid, GuestVirt(entry.address)).unwrap();
            let slot = what.things.iter().find_map(|thing| match thing {
                Thing::Swapped { path, slot } if path == "/dev/loop0" => Some(*slot),
                _ => None,
            });
            // Each page has a slot of its own.
            let sound = slot.is_some_and(|slot| slot > 0 && slot <= slots && seen.insert(slot));
            ledger.same(format!("{what:?}"), "swapped", &sound, &true);
        }
    }
}
