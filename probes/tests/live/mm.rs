//! Address spaces: every field of `mm_struct`, the program break as it moves, and each page against `/proc/PID/pagemap`.

use std::collections::BTreeMap;

use probes::memory::{EntryKind, GuestVirt, PAGE_SIZE};
use probes::mm::{MmStruct, RssCounter};
use vm::agent::{Made, values};

use crate::ground::Ground;
use crate::ledger::Ledger;
use crate::maps;

crate::on_kernels!(fields, the_break_moves, pages, kernel_addresses);

/// Pages of one area that are compared: one of 1 GiB has 262144.
const PAGES: u64 = 600;

pub(crate) fn fields(kernel: &str) {
    let mut ground = Ground::new(kernel);
    let (before, seen, after) = ground.sandwich(Ground::with_mm, |guest| {
        let mut all = BTreeMap::new();
        for task in guest.tasks()?.iter().filter(|task| task.mm.is_some()) {
            all.insert(task.pid, guest.mm_of(task)?);
        }
        Ok(all)
    });
    let mut ledger = Ledger::new(format!("mm on {kernel}"));
    for first in &before {
        let Some(last) = after.iter().find(|task| task.pid == first.pid) else {
            continue;
        };
        match seen.get(&first.pid) {
            Some(mm) => compare(
                &mut ledger,
                first.pid,
                mm,
                (first.mm.as_ref().unwrap(), last.mm.as_ref().unwrap()),
            ),
            None => ledger.fault(format!("{} has no mm in memory", first.pid)),
        }
    }
    ledger.end(&[("start_code", 25), ("VmSize", 25), ("VmRSS", 25)]);
}

fn compare(
    ledger: &mut Ledger,
    pid: i32,
    mm: &MmStruct,
    (before, after): (&values::Mm, &values::Mm),
) {
    macro_rules! steady {
        ($($name:literal $field:ident = $memory:expr;)*) => {
            $(ledger.steady(pid, $name, &$memory, (&before.$field, &after.$field));)*
        };
    }
    // task_mem() of fs/proc/task_mmu.c.
    let kib = |pages: u64| pages * (PAGE_SIZE / 1024);
    let code = mm.end_code.0.next_multiple_of(PAGE_SIZE) - mm.start_code.page().0;
    let text = (code / 1024).min(kib(mm.exec_vm));
    steady! {
        "start_code" start_code = mm.start_code.0;
        "end_code" end_code = mm.end_code.0;
        "start_data" start_data = mm.start_data.0;
        "end_data" end_data = mm.end_data.0;
        "start_brk" start_brk = mm.start_brk.0;
        "start_stack" start_stack = mm.start_stack.0;
        "arg_start" arg_start = mm.arg_start.0;
        "arg_end" arg_end = mm.arg_end.0;
        "env_start" env_start = mm.env_start.0;
        "env_end" env_end = mm.env_end.0;
        "VmPeak" vm_peak = kib(mm.hiwater_vm.max(mm.total_vm));
        "VmSize" vm_size = kib(mm.total_vm);
        "VmLck" vm_lck = kib(mm.locked_vm);
        "VmPin" vm_pin = kib(mm.pinned_vm);
        "VmData" vm_data = kib(mm.data_vm);
        "VmStk" vm_stk = kib(mm.stack_vm);
        "VmExe" vm_exe = text;
        "VmLib" vm_lib = kib(mm.exec_vm) - text;
        "VmPTE" vm_pte = mm.pgtables_bytes / 1024;
    }
    // What is allowed: kernels show either the shared part of a counter or the sum with what each CPU holds back, which
    // one has changed over time; one of the two it must be, exactly, and no counter below zero. The total is made of
    // the same parts.
    let shown = |counter: &RssCounter| [counter.count, counter.sum.unwrap()].map(|n| kib(n.max(0) as u64));
    let (anon, file, shmem) = (
        shown(&mm.rss.anon),
        shown(&mm.rss.file),
        shown(&mm.rss.shmem),
    );
    let total: Vec<u64> = (0..2).map(|i| anon[i] + file[i] + shmem[i]).collect();
    let peak: Vec<u64> = total
        .iter()
        .map(|total| kib(mm.hiwater_rss).max(*total))
        .collect();
    macro_rules! allowed {
        ($($name:literal $field:ident = $memory:expr;)*) => {
            $(if before.$field == after.$field {
                ledger.one_of(pid, $name, &$memory, &before.$field);
            })*
        };
    }
    allowed! {
        "RssAnon" rss_anon = anon;
        "RssFile" rss_file = file;
        "RssShmem" rss_shmem = shmem;
        "VmRSS" vm_rss = total;
        "VmHWM" vm_hwm = peak;
        "VmSwap" vm_swap = shown(&mm.rss.swap);
    }
}

/// The break is where the program says that it moved it, and what it touched is present.
pub(crate) fn the_break_moves(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    let workload = ground.agent.workload(vm::agent::WorkloadKind::Brk).unwrap();
    let mut ledger = Ledger::new(format!("brk on {kernel}"));
    for step in [0, 1 << 20, 4096, -8192, 12288] {
        let moved = ground.agent.workload_step(workload.id, step).unwrap();
        let [Made::Break { at }] = moved.made[..] else {
            panic!("{:?}", moved.made)
        };
        let (mm, heap, vmas) = ground
            .guest
            .paused(|guest| {
                let pid = workload.pid;
                Ok((guest.mm(pid)?, guest.heap(pid)?, guest.vmas(pid)?))
            })
            .unwrap();
        ledger.same(step, "brk", &mm.brk.0, &at);
        ledger.same(step, "heap", &heap.brk.0, &at);
        let end = vmas.iter().find(|vma| vma.name == "[heap]");
        let end = end.map(|vma| vma.end.0);
        ledger.same(step, "[heap]", &end, &Some(at.next_multiple_of(PAGE_SIZE)));
        let touched = heap.present.iter().filter(|present| **present == Some(true)).count();
        if step == 1 << 20 {
            ledger.same(step, "touched", &(touched >= 256), &true);
        }
    }
    ledger.end(&[("brk", 5), ("touched", 1)]);
}

/// A page as both have it: its first byte and, when it is present, its frame.
type Page = (u64, Option<u64>);

/// Every page of every area, by a walk of the page tables each, against `/proc/PID/pagemap`.
pub(crate) fn pages(kernel: &str) {
    let mut ground = Ground::new(kernel);
    compare_pages(&mut ground, format!("pages on {kernel}"));
}

/// The same in any guest.
pub(crate) fn compare_pages(ground: &mut Ground, what: String) {
    let areas: Vec<(i32, u64, u64)> = maps::ask(ground)
        .into_iter()
        .flat_map(|(pid, vmas)| vmas.into_iter().map(move |vma| (pid, vma.start, vma.end)))
        .collect();
    let ask = |ground: &mut Ground| -> Vec<Vec<Page>> {
        let of = |&(pid, start, end): &(i32, u64, u64)| {
            let pages = ((end - start) / PAGE_SIZE).min(PAGES) as u32;
            let entries = ground.agent.proc_pagemap(pid, start, pages).unwrap();
            let page =
                |entry: values::PageEntry| (entry.address, entry.present.then_some(entry.pfn));
            entries.into_iter().map(page).collect()
        };
        areas.iter().map(of).collect()
    };
    let (before, (seen, resident), after) = ground.sandwich(ask, |guest| {
        let (mut seen, mut resident) = (Vec::new(), Vec::new());
        for &(pid, start, end) in &areas {
            let space = guest.user_space(pid)?;
            let mut pages: Vec<Page> = Vec::new();
            for at in (start..end)
                .step_by(PAGE_SIZE as usize)
                .take(PAGES as usize)
            {
                let walk = space.walk(GuestVirt(at))?;
                // A page that only the kernel may touch (PROT_NONE) is there all the same.
                let phys = match walk.steps.last().unwrap().kind {
                    EntryKind::ProtNone(phys) => Some(phys),
                    _ => walk.phys,
                };
                pages.push((at, phys.map(|phys| phys.0 / PAGE_SIZE)));
            }
            seen.push(pages);
            let last = GuestVirt(end.min(start + PAGES * PAGE_SIZE) - 1);
            let mut present = 0;
            for page in space.present_pages(GuestVirt(start), last)? {
                present += page?.size.min(last.0 + 1 - start) / PAGE_SIZE;
            }
            resident.push(present);
        }
        Ok((seen, resident))
    });
    let mut ledger = Ledger::new(what);
    for (index, (pid, ..)) in areas.iter().enumerate() {
        let pages = before[index].iter().zip(&seen[index]).zip(&after[index]);
        let mut steady = true;
        for ((first, page), last) in pages {
            let field = match first.1 {
                Some(_) => "present page",
                None => "absent page",
            };
            let who = format!("{pid} at {:#x}", first.0);
            ledger.steady(who, field, page, (first, last));
            steady &= first == last;
        }
        let none = seen[index].iter().filter(|page| page.1.is_some()).count() as u64;
        if steady && none == 0 {
            ledger.same(pid, "resident", &resident[index], &0);
        } else if steady {
            // Pages of PROT_NONE are not the processor's.
            ledger.same(pid, "resident", &(resident[index] <= none), &true);
        }
    }
    ledger.end(&[
        ("present page", 2000),
        ("absent page", 2000),
        ("resident", 300),
    ]);
}

/// The kernel's own page tables lead where its linear rule leads.
pub(crate) fn kernel_addresses(kernel: &str) {
    let ground = Ground::new(kernel);
    let mut ledger = Ledger::new(format!("kernel addresses on {kernel}"));
    ground
        .guest
        .paused(|guest| {
            let kernel = guest.kernel()?;
            let mut addresses: Vec<GuestVirt> = guest.tasks()?.iter().map(|task| task.at).collect();
            for symbol in kernel.symbols()?.iter().step_by(500) {
                // Per-CPU symbols are offsets, and what only initialisation needed is given back.
                if symbol.at.0 >> 63 == 1 && "TtDdRr".contains(symbol.kind) {
                    addresses.push(symbol.at);
                }
            }
            for at in addresses {
                let walk = guest.page_walk(at)?;
                if let Some(phys) = walk.phys {
                    ledger.same(at, "physical address", &kernel.virt_to_phys(at)?, &phys);
                }
            }
            Ok(())
        })
        .unwrap();
    ledger.end(&[("physical address", 150)]);
}
