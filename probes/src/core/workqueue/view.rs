//! Workqueues, and what their workers are at.

use crate::core::workqueue::{Work, Workqueues};
use crate::view::{Align, Table, View};

/// `WQ_*` of `include/linux/workqueue.h` that are worth a word.
const FLAGS: &[(u32, &str)] = &[
    (0, "bh"),
    (1, "unbound"),
    (2, "freezable"),
    (3, "mem_reclaim"),
    (4, "highpri"),
    (5, "cpu_intensive"),
    (17, "ordered"),
];

impl View for Workqueues {
    fn text(&self) -> String {
        let (queues, pools) = (queues(self), pools(self));
        format!("{}\n{}", queues.text(), pools.text())
    }

    fn html(&self) -> Option<String> {
        Some(queues(self).html()? + &pools(self).html()?)
    }

    fn missing(&self) -> Vec<crate::Missing> {
        self.missing.clone()
    }
}

fn queues(all: &Workqueues) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("WORKQUEUE", Left),
        ("FLAGS", Left),
        ("MAX", Right),
        ("ACTIVE", Right),
        ("INACTIVE", Right),
        ("POOLS", Left),
    ]);
    for queue in all.iter() {
        let flags = FLAGS.iter().filter(|(bit, _)| queue.flags >> bit & 1 == 1);
        let flags: Vec<&str> = flags.map(|(_, name)| *name).collect();
        let mut pools: Vec<i32> = queue.pools.iter().map(|pool| pool.pool).collect();
        pools.sort_unstable();
        pools.dedup();
        let pools: Vec<String> = pools.iter().map(i32::to_string).collect();
        let active: u64 = queue.pools.iter().map(|p| u64::from(p.nr_active)).sum();
        let inactive: usize = queue.pools.iter().map(|p| p.inactive.len()).sum();
        table.row([
            queue.name.clone(),
            flags.join(" "),
            queue.max_active.to_string(),
            active.to_string(),
            inactive.to_string(),
            pools.join(" "),
        ]);
    }
    table
}

fn pools(all: &Workqueues) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("POOL", Right),
        ("CPU", Right),
        ("NICE", Right),
        ("WORKERS", Right),
        ("IDLE", Right),
        ("", Left),
        ("WORK", Left),
    ]);
    let said = |work: &Work| match &work.workqueue {
        Some(queue) => format!("{} of {queue}", work.func),
        None => work.func.to_string(),
    };
    for pool in &all.pools {
        let mut rows = Vec::new();
        for worker in &pool.workers {
            let who = worker
                .pid
                .map_or_else(|| "softirq".to_owned(), |pid| pid.to_string());
            if let Some(work) = &worker.current {
                rows.push((format!("{who} runs"), said(work)));
            }
            for work in &worker.scheduled {
                rows.push((format!("then {who}"), said(work)));
            }
        }
        for work in &pool.pending {
            rows.push(("waits".to_owned(), said(work)));
        }
        let first = [
            pool.id.to_string(),
            pool.cpu.map_or_else(String::new, |cpu| cpu.to_string()),
            pool.nice.to_string(),
            pool.workers.len().to_string(),
            pool.nr_idle.to_string(),
        ];
        if rows.is_empty() {
            table.row(first.clone());
        }
        for (i, (what, work)) in rows.into_iter().enumerate() {
            let pool = if i == 0 {
                first.clone()
            } else {
                Default::default()
            };
            table.row(pool.into_iter().chain([what, work]));
        }
    }
    table.lacks(&all.missing);
    table
}

crate::displays!(Workqueues);
