//! Run queues and the load average: `/proc/loadavg`, `/proc/PID/stat` and `/proc/PID/sched`.

use std::collections::BTreeMap;

use probes::Guest;
use probes::sched::RunQueues;

use crate::ground::Ground;
use crate::ledger::Ledger;

/// Tasks that always want to run, by their nice value, and the weight that `sched_prio_to_weight[]` has for it.
const HOGS: [(i32, u64); 4] = [(0, 1024), (0, 1024), (5, 335), (-5, 3121)];

/// Of each of these tasks its `se.vruntime` in nanoseconds, with how often it has moved to another CPU (where the vruntime
/// begins anew).
fn ask(ground: &mut Ground, pids: &[i32]) -> BTreeMap<i32, (u64, String)> {
    let mut said = BTreeMap::new();
    for pid in pids {
        let text = ground.sh(&format!(
            "sed -nE 's/^se.(vruntime|nr_migrations) *: *//p' /proc/{pid}/sched"
        ));
        let mut lines = text.lines();
        let (ms, ns) = lines.next().unwrap().trim().split_once('.').unwrap();
        let ns = ms.parse::<u64>().unwrap() * 1_000_000 + ns.parse::<u64>().unwrap();
        said.insert(*pid, (ns, lines.next().unwrap().to_owned()));
    }
    said
}

pub(crate) fn are_those_of_proc(kernel: &str) {
    let mut ground = Ground::new(kernel);
    let mut hogs = BTreeMap::new();
    for (nice, weight) in HOGS {
        let line = format!(
            "sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null & renice -n {nice} -p $! && echo $!"
        );
        hogs.insert(ground.sh(&line).trim().parse::<i32>().unwrap(), weight);
    }
    let pids: Vec<i32> = hogs.keys().copied().collect();
    let mut ledger = Ledger::new(format!("run queues on {kernel}"));
    for _ in 0..6 {
        let (before, (seen, current), after): (_, (RunQueues, Vec<i32>), _) = ground.sandwich(
            |ground| ask(ground, &pids),
            |guest| {
                let current = |cpu| guest.current(cpu).map(|task| task.pid);
                Ok((guest.run_queues()?, vec![current(0)?, current(1)?]))
            },
        );
        for (queue, current) in seen.iter().zip(&current) {
            // A pause may fall between the two writes of a context switch.
            if queue.curr == *current {
                ledger.same(queue.cpu, "curr", &queue.curr, current);
            }
        }
        for queue in seen.iter() {
            let cpu = queue.cpu;
            let tasks = queue.fair.len() + queue.rt.len();
            // A deadline server and the stop task are counted and are on no list.
            let counted = queue.nr_running as usize;
            ledger.same(
                format!("CPU {cpu} {queue:?}"),
                "nr_running",
                &(tasks..=tasks + 1).contains(&counted),
                &true,
            );
        }
        for (pid, weight) in &hogs {
            let places: Vec<_> = seen
                .iter()
                .flat_map(|queue| queue.fair.iter().map(move |task| (queue.cpu, task)))
                .filter(|(_, task)| task.pid == *pid)
                .collect();
            ledger.same(pid, "on one queue", &places.len(), &1);
            let Some((_, task)) = places.first() else {
                continue;
            };
            ledger.same(pid, "weight", &task.weight, weight);
            let (first, last) = (&before[pid], &after[pid]);
            if first.1 == last.1 {
                let between = first.0 <= task.vruntime && task.vruntime <= last.0;
                let who = format!("{pid}: {} {} {}", first.0, task.vruntime, last.0);
                ledger.same(who, "vruntime", &between, &true);
            }
        }
    }
    // It is computed anew every five seconds, which is soon on a busy host.
    for _ in 0..20 {
        let ask =
            |ground: &mut Ground| ground.sh("cut -d' ' -f1-3 /proc/loadavg").trim().to_owned();
        let (first, seen, last) = ground.sandwich(ask, Guest::run_queues);
        let load = seen
            .load
            .map(|load| format!("{}.{:02}", load / 100, load % 100));
        ledger.steady("load", "load", &load.join(" "), (&first, &last));
        if first == last {
            break;
        }
    }
    ledger.end(&[
        ("load", 1),
        ("curr", 9),
        ("on one queue", 24),
        ("weight", 24),
        ("vruntime", 4),
    ]);
}
