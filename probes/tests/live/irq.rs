//! Interrupts and what is done later: `/proc/interrupts`, `/sys/kernel/irq`, `/proc/softirqs`, workers and their works.

use std::collections::BTreeMap;

use probes::irq::{Idt, Irqs, Softirqs};
use probes::workqueue::{Work, Workqueues};

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_those_of_proc);

pub(crate) fn are_those_of_proc(kernel: &str) {
    let mut ground = Ground::bare(kernel, vm::Options::default().memory);
    interrupts(&mut ground, kernel);
    softirqs(&mut ground, kernel);
    idt(&mut ground, kernel);
    workers(&mut ground, kernel);
    works(&mut ground, kernel);
}

/// The rows of a table whose first row names the CPUs: name, counts by CPU, the rest.
fn rows(text: &str) -> BTreeMap<String, (Vec<u64>, String)> {
    let mut lines = text.lines();
    let cpus = lines.next().unwrap().split_whitespace().count();
    let rows = lines.filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let counts = words.iter().take(cpus).map_while(|word| word.parse().ok());
        let counts: Vec<u64> = counts.collect();
        // A row of one number for all CPUs, such as ERR.
        let rest = words.get(cpus..).unwrap_or_default().join(" ");
        (counts.len() == cpus).then(|| (name.trim().to_owned(), (counts, rest)))
    });
    rows.collect()
}

type Said = (
    BTreeMap<String, (Vec<u64>, String)>,
    BTreeMap<String, String>,
);

fn ask(ground: &mut Ground) -> Said {
    let interrupts = rows(&ground.sh("cat /proc/interrupts"));
    let files = ground.sh(
        "cd /sys/kernel/irq && grep -H '' */actions */chip_name */hwirq */name */per_cpu_count; \
         cd /proc/irq && grep -H . */smp_affinity_list */effective_affinity_list",
    );
    let files = files.lines().filter_map(|line| line.split_once(':'));
    let files = files.map(|(file, text)| (file.to_owned(), text.to_owned()));
    (interrupts, files.collect())
}

fn interrupts(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("interrupts on {kernel}"));
    ground.sh("echo 1 >/proc/irq/4/smp_affinity");
    let (before, seen, after): (_, Irqs, _) = ground.sandwich(ask, |guest| guest.irqs());
    let mut shown = Vec::new();
    for irq in seen.iter() {
        let number = irq.irq.to_string();
        let names: Vec<&str> = irq.actions.iter().map(|a| a.name.as_str()).collect();
        if let (Some(first), Some(second)) = (before.0.get(&number), after.0.get(&number)) {
            shown.push(irq.irq);
            ledger.steady(&number, "counts", &irq.counts, (&first.0, &second.0));
            let chip = irq.chip.clone().unwrap_or_default();
            ledger.same(&number, "chip in proc", &first.1.starts_with(&chip), &true);
            let ends = first.1.ends_with(&names.join(", "));
            ledger.same(&number, "actions in proc", &ends, &true);
        } else {
            ledger.same(&number, "hidden", &names.is_empty(), &true);
        }
        let counts: Vec<String> = irq.counts.iter().map(u64::to_string).collect();
        let list = |cpus: &[u32]| {
            let cpus: Vec<String> = cpus.iter().map(u32::to_string).collect();
            // Two CPUs: `0`, `1` or `0-1`.
            cpus.join("-")
        };
        for (file, own) in [
            ("actions", names.join(",")),
            ("chip_name", irq.chip.clone().unwrap_or_default()),
            ("hwirq", irq.hwirq.to_string()),
            ("name", irq.name.clone().unwrap_or_default()),
            ("per_cpu_count", counts.join(",")),
            ("smp_affinity_list", list(&irq.affinity)),
            ("effective_affinity_list", list(&irq.effective)),
        ] {
            let file = format!("{number}/{file}");
            let [first, second] = [&before, &after].map(|said| said.1.get(&file));
            if let (Some(first), Some(second)) = (first, second) {
                ledger.steady(&file, "files", &own, (first, second));
            }
        }
        for action in &irq.actions {
            let named = action.handler.name.is_some() && action.handler.offset == 0;
            ledger.same(&number, "handler", &named, &true);
        }
    }
    let listed: Vec<u32> = before
        .0
        .keys()
        .filter_map(|name| name.parse().ok())
        .collect();
    let mut listed = listed;
    listed.sort_unstable();
    ledger.same("/proc/interrupts", "numbers", &shown, &listed);
    let four = seen.iter().find(|irq| irq.irq == 4).unwrap();
    ledger.same(4, "affinity set", &four.affinity, &vec![0]);
    for own in &seen.cpu_interrupts {
        let [first, second] = [&before, &after].map(|said| said.0.get(&own.name));
        if let (Some(first), Some(second)) = (first, second) {
            ledger.steady(&own.name, "own", &own.counts, (&first.0, &second.0));
            ledger.same(&own.name, "about", &own.about, &first.1);
        }
    }
    ledger.end(&[
        ("counts", 6),
        ("chip in proc", 8),
        ("actions in proc", 8),
        ("files", 80),
        ("handler", 8),
        ("numbers", 1),
        ("own", 8),
        ("about", 12),
    ]);
}

fn softirqs(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("softirqs on {kernel}"));
    for _ in 0..3 {
        let ask = |ground: &mut Ground| rows(&ground.sh("cat /proc/softirqs"));
        let (before, seen, after): (_, Softirqs, _) =
            ground.sandwich(ask, |guest| guest.softirqs());
        let mut names: Vec<&String> = seen.softirqs.iter().map(|s| &s.name).collect();
        names.sort();
        ledger.same("/proc/softirqs", "names", &names, &before.keys().collect());
        for softirq in &seen.softirqs {
            let (first, second) = (&before[&softirq.name].0, &after[&softirq.name].0);
            ledger.steady(&softirq.name, "counts", &softirq.counts, (first, second));
            let between = (first.iter().zip(second).zip(&softirq.counts))
                .all(|((first, second), count)| (first..=second).contains(&count));
            ledger.same(&softirq.name, "between", &between, &true);
            if softirq.name == "TIMER" {
                let action = softirq.action.as_ref().unwrap().to_string();
                ledger.same("TIMER", "action", &action.as_str(), &"run_timer_softirq");
            }
        }
    }
    ledger.end(&[("names", 3), ("counts", 15), ("between", 30), ("action", 3)]);
}

/// The entries that every x86-64 kernel has, at the addresses of `/proc/kallsyms`.
const ENTRIES: &[(u8, &str)] = &[
    (0, "asm_exc_divide_error"),
    (1, "asm_exc_debug"),
    (2, "asm_exc_nmi"),
    (3, "asm_exc_int3"),
    (6, "asm_exc_invalid_op"),
    (8, "asm_exc_double_fault"),
    (13, "asm_exc_general_protection"),
    (14, "asm_exc_page_fault"),
    (236, "asm_sysvec_apic_timer_interrupt"),
    (251, "asm_sysvec_call_function_single"),
    (253, "asm_sysvec_reschedule_ipi"),
    (255, "asm_sysvec_spurious_apic_interrupt"),
];

fn idt(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("IDT on {kernel}"));
    let seen: Idt = ground.guest.idt().unwrap();
    let mut symbols = BTreeMap::new();
    for line in ground
        .sh("grep -E ' asm_(exc|sysvec)_' /proc/kallsyms")
        .lines()
    {
        let words: Vec<&str> = line.split(' ').collect();
        let at = u64::from_str_radix(words[0], 16).unwrap();
        symbols.insert(words[2].to_owned(), at);
    }
    ledger.same("IDT", "entries", &seen.len(), &256);
    ledger.same(
        "IDT",
        "image",
        &seen.iter().all(|gate| gate.in_image),
        &true,
    );
    for (vector, name) in ENTRIES {
        let gate = &seen[usize::from(*vector)];
        ledger.same(vector, "address", &gate.handler.at.0, &symbols[*name]);
        let found = gate.handler.name.clone().unwrap_or_default();
        ledger.same(vector, "name", &found.as_str(), name);
    }
    // Vectors that user space may raise: breakpoint, overflow, and the system calls of 32-bit programs.
    let open = seen.iter().filter(|gate| gate.dpl == 3);
    let open: Vec<u8> = open.map(|gate| gate.vector).collect();
    ledger.same("IDT", "for users", &open, &vec![3, 4, 128]);
    ledger.end(&[
        ("entries", 1),
        ("address", 12),
        ("name", 12),
        ("for users", 1),
    ]);
}

/// Kernel threads by pid: their names as `/proc` composes those of workers, their nice values, and how often they ran.
fn ask_workers(ground: &mut Ground) -> BTreeMap<i32, (String, i32, String)> {
    let said = ground.sh(
        "for p in /proc/[0-9]*; do IFS= read -r c <$p/comm && read -r s <$p/stat && read -r r <$p/schedstat && echo \"$c|$s|${r##* }\"; done 2>/dev/null; true",
    );
    let workers = said.lines().map(|line| {
        let (comm, stat) = line.split_once('|').unwrap();
        let (stat, runs) = stat.rsplit_once('|').unwrap();
        let pid = stat.split(' ').next().unwrap().parse().unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let nice = rest.split_whitespace().nth(16).unwrap().parse().unwrap();
        (pid, (comm.to_owned(), nice, runs.to_owned()))
    });
    workers.collect()
}

fn workers(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("workers on {kernel}"));
    let ask = |ground: &mut Ground| {
        let files = "cd /sys/bus/workqueue/devices && grep -H . */max_active */nice";
        (
            ask_workers(ground),
            ground.sh(&format!("{files} 2>/dev/null || true")),
        )
    };
    for _ in 0..3 {
        let (before, seen, after): (_, Workqueues, _) =
            ground.sandwich(ask, |guest| guest.workqueues());
        for pool in &seen.pools {
            for worker in &pool.workers {
                // That of a CPU's bottom halves is no thread.
                let Some(pid) = worker.pid else { continue };
                let mut name = match pool.cpu {
                    Some(cpu) => format!("kworker/{cpu}:{}", worker.id),
                    None => format!("kworker/u{}:{}", pool.id, worker.id),
                };
                if pool.nice < 0 && pool.cpu.is_some() {
                    name.push('H');
                }
                if !worker.desc.is_empty() {
                    name.push(if worker.current.is_some() { '+' } else { '-' });
                    name += &worker.desc;
                }
                let [first, second] = [&before.0, &after.0].map(|said| said.get(&pid));
                if let (Some(first), Some(second)) = (first, second) {
                    // One that ran meanwhile may have had other work, and be back.
                    if first.2 == second.2 {
                        ledger.steady(pid, "name", &name, (&first.0, &second.0));
                    }
                    ledger.steady(pid, "nice", &pool.nice, (&first.1, &second.1));
                }
            }
            let idle = pool
                .workers
                .iter()
                .filter(|worker| worker.current.is_none());
            let idle_least = pool.nr_idle as usize;
            ledger.same(pool.id, "idle", &(idle.count() >= idle_least), &true);
        }
        for queue in seen.iter() {
            if let Some(pid) = queue.rescuer
                && let Some((comm, ..)) = before.0.get(&pid)
            {
                // `kworker/R-NAME`, or in older kernels the queue's name; cut to what a comm holds.
                let name = comm.strip_prefix("kworker/R-").unwrap_or(comm);
                ledger.same(pid, "rescuer", &queue.name.starts_with(name), &true);
            }
            let file = format!("{}/max_active:{}", queue.name, queue.max_active);
            let steady = |said: &str| {
                let named = format!("{}/max_active:", queue.name);
                said.lines()
                    .find(|line| line.starts_with(&named))
                    .map(str::to_owned)
            };
            // Two queues may have one name; sysfs has the one that asked for it.
            let namesakes = seen.iter().filter(|other| other.name == queue.name).count();
            if namesakes == 1
                && let (Some(first), Some(second)) = (steady(&before.1), steady(&after.1))
            {
                ledger.steady(&queue.name, "max_active", &file, (&first, &second));
            }
        }
    }
    ledger.end(&[
        ("name", 15),
        ("nice", 15),
        ("idle", 12),
        ("rescuer", 20),
        ("max_active", 3),
    ]);
}

/// Lines of `show_all_workqueues()` for each queue: `in-flight`, `pending`, `inactive`, and the functions.
fn ask_busy(ground: &mut Ground) -> BTreeMap<(String, String), Vec<String>> {
    let log = ground.sh(
        "dmesg -c >/dev/null; echo t >/proc/sysrq-trigger; sleep 1; dmesg | sed -n '/Showing busy workqueues/,$p'",
    );
    let mut busy: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut queue = String::new();
    for line in log.lines() {
        let text = line.split_once("] ").map_or(line, |(_, text)| text);
        if let Some(rest) = text.strip_prefix("workqueue ") {
            rest.split_once(": flags").unwrap().0.clone_into(&mut queue);
        }
        for kind in ["in-flight", "pending", "inactive"] {
            let Some((_, works)) = text.split_once(&format!("{kind}: ")) else {
                continue;
            };
            let all = busy.entry((queue.clone(), kind.to_owned())).or_default();
            // `55:wb_workfn for 3s BAR(60), 77(RESCUER):loop_workfn [loop] for 1s loop_workfn`, `2*vmstat_update`
            let words = works.split([' ', ',']);
            let words = words.filter(|word| !word.is_empty() && *word != "for");
            for word in words {
                let seconds = word
                    .strip_suffix('s')
                    .is_some_and(|n| n.parse::<u64>().is_ok());
                if word.starts_with('[') || seconds {
                    continue;
                }
                let name = word.rsplit_once(':').map_or(word, |(_, name)| name);
                let (times, name) = match name.split_once('*') {
                    Some((times, name)) => (times.parse().unwrap(), name),
                    None if name.starts_with("BAR(") => (1, "wq_barrier_func"),
                    None => (1, name),
                };
                all.extend(std::iter::repeat_n(name.to_owned(), times));
            }
        }
    }
    for all in busy.values_mut() {
        all.sort();
    }
    busy
}

/// Writes to two disks that take seconds for each request, by a workqueue that may do one work at a time: one is under way
/// for long, the other waits; and a third disk whose worker waits for the first one.
const STUCK: &str = r#"
    modprobe null_blk nr_devices=2 gb=1 queue_mode=2 irqmode=2 completion_nsec=4000000000 hw_queue_depth=4 submit_queues=1
    modprobe loop
    losetup /dev/loop0 /dev/nullb0
    for d in 0 1; do
        echo 4 >/sys/block/nullb$d/queue/max_sectors_kb
        # The last one who closes a disk waits until it is written.
        sleep 1000 >/dev/null 2>&1 <>/dev/nullb$d &
        dd if=/dev/zero of=/dev/nullb$d bs=4k count=200 2>/dev/null
    done
    cat /dev/loop0 >/dev/null 2>&1 </dev/null &
    echo 1 >/sys/bus/workqueue/devices/writeback/max_active
    sync >/dev/null 2>&1 </dev/null &
    sleep 2
"#;

fn works(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("works on {kernel}"));
    ground.sh(STUCK);
    let (before, seen, after): (_, Workqueues, _) =
        ground.sandwich(ask_busy, |guest| guest.workqueues());
    let mut own: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut add = |kind: &str, work: &Work, queue: Option<&String>| {
        let queue = queue.or(work.workqueue.as_ref()).unwrap().clone();
        let name = work.func.name.clone().unwrap();
        own.entry((queue, kind.to_owned())).or_default().push(name);
    };
    for queue in seen.iter() {
        for pool in &queue.pools {
            for work in &pool.inactive {
                add("inactive", work, Some(&queue.name));
            }
        }
    }
    for pool in &seen.pools {
        for worker in &pool.workers {
            for work in worker.current.iter().chain(&worker.scheduled) {
                add("in-flight", work, None);
            }
        }
        for work in &pool.pending {
            add("pending", work, None);
        }
    }
    for all in own.values_mut() {
        all.sort();
    }
    // Works that were there before and after were there between.
    for (key, first) in &before {
        let second = after.get(key).cloned().unwrap_or_default();
        if *first == second {
            let found = own.get(key).cloned().unwrap_or_default();
            ledger.same(format!("{key:?}"), "works", &found, first);
        }
    }
    let of = |queue: &str, kind: &str| {
        let key = (queue.to_owned(), kind.to_owned());
        own.get(&key).cloned().unwrap_or_default()
    };
    let has = |queue: &str, kind: &str, name: &str| of(queue, kind).iter().any(|work| work == name);
    let stuck = has("writeback", "in-flight", "wb_workfn");
    ledger.same("writeback", "stuck", &stuck, &true);
    let waits = has("writeback", "inactive", "wb_workfn");
    ledger.same("writeback", "waits", &waits, &true);
    let third = has("loop0", "in-flight", "loop_rootcg_workfn");
    ledger.same("loop0", "third", &third, &true);
    ledger.end(&[("works", 3), ("stuck", 1), ("waits", 1), ("third", 1)]);
}
