//! Run queues: what each CPU runs, and what waits for it.

use crate::sched::{FairOf, RunQueues};
use crate::view::{Align, Table};

crate::faces! { RunQueues => table }

fn table(all: &RunQueues) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("CPU", Right),
        ("CLASS", Left),
        ("PID", Right),
        ("COMM", Left),
        ("", Left),
        ("WEIGHT", Right),
        ("VRUNTIME", Right),
        ("DEADLINE", Right),
        ("SLICE", Right),
        ("GROUP", Left),
    ];
    let mut table = Table::new(columns);
    let ms = |ns: u64| {
        let (ns, minus) = (
            ns.cast_signed(),
            if ns.cast_signed() < 0 { "-" } else { "" },
        );
        let ns = ns.unsigned_abs();
        format!("{minus}{}.{:06}", ns / 1_000_000, ns % 1_000_000)
    };
    for queue in all.iter() {
        let running = |runs: bool| if runs { "runs" } else { "" }.to_owned();
        let cpu = queue.cpu.to_string();
        if queue.dl.is_empty() && queue.rt.is_empty() && queue.fair.is_empty() {
            table.row([
                cpu.clone(),
                String::new(),
                queue.curr.to_string(),
                queue.comm.clone(),
                "runs".to_owned(),
            ]);
        }
        for entity in &queue.dl {
            table.row([
                cpu.clone(),
                "dl".to_owned(),
                entity.pid.to_string(),
                entity.comm.clone(),
                running(entity.runs),
                format!(
                    "{} of {}",
                    ms(entity.runtime.cast_unsigned()),
                    ms(entity.dl_runtime)
                ),
                String::new(),
                ms(entity.deadline),
                ms(entity.dl_period),
            ]);
        }
        for task in &queue.rt {
            table.row([
                cpu.clone(),
                "rt".to_owned(),
                task.pid.to_string(),
                task.comm.clone(),
                running(task.pid == queue.curr),
                format!("prio {}", task.prio),
            ]);
        }
        for entity in &queue.fair {
            let indent = "  ".repeat(entity.depth as usize);
            let (pid, name) = match &entity.of {
                FairOf::Task { pid, comm, .. } => (pid.to_string(), comm),
                FairOf::Group { name, .. } => (String::new(), name),
            };
            let state = match entity.delayed {
                true => "sleeps".to_owned(),
                false => running(entity.runs),
            };
            table.row([
                cpu.clone(),
                "fair".to_owned(),
                pid,
                format!("{indent}{name}"),
                state,
                entity.weight.to_string(),
                ms(entity.vruntime),
                entity.deadline.map_or_else(String::new, ms),
                entity.slice.map_or_else(String::new, ms),
                entity.group.clone(),
            ]);
        }
    }
    let load = all
        .load
        .map(|load| format!("{}.{:02}", load / 100, load % 100));
    let queues = all.iter().map(|queue| {
        let (cpu, running, switches) = (queue.cpu, queue.nr_running, queue.nr_switches);
        format!("CPU {cpu}: {running} running, {switches} switches")
    });
    let queues: Vec<String> = queues.collect();
    table.note(format!(
        "load average {}; {}",
        load.join(" "),
        queues.join("; ")
    ));
    table.lacks(&all.missing);
    table
}
