//! Run queues: what each CPU runs, and what waits for it.

use super::{Align, Table, View, clean};
use crate::sched::RunQueues;

impl View for RunQueues {
    fn text(&self) -> String {
        table(self).text()
    }

    fn html(&self) -> Option<String> {
        table(self).html()
    }
}

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
    ];
    let mut table = Table::new(columns);
    let ms = |ns: u64| format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000);
    for queue in all.iter() {
        let running = |pid: i32| if pid == queue.curr { "runs" } else { "" };
        if queue.rt.is_empty() && queue.fair.is_empty() {
            table.row([
                queue.cpu.to_string(),
                String::new(),
                queue.curr.to_string(),
                queue.comm.clone(),
                "runs".to_owned(),
            ]);
        }
        for task in &queue.rt {
            table.row([
                queue.cpu.to_string(),
                "rt".to_owned(),
                task.pid.to_string(),
                task.comm.clone(),
                running(task.pid).to_owned(),
                format!("prio {}", task.prio),
            ]);
        }
        for task in &queue.fair {
            let state = if task.delayed {
                "sleeps"
            } else {
                running(task.pid)
            };
            table.row([
                queue.cpu.to_string(),
                "fair".to_owned(),
                task.pid.to_string(),
                task.comm.clone(),
                state.to_owned(),
                task.weight.to_string(),
                ms(task.vruntime),
                task.deadline.map_or_else(String::new, ms),
                task.slice.map_or_else(String::new, ms),
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
    table.note(clean(&format!(
        "load average {}; {}",
        load.join(" "),
        queues.join("; ")
    )));
    table
}

crate::displays!(RunQueues);
