//! Run queues and the load average: `/proc/loadavg`, `/proc/PID/stat` and `/proc/PID/sched`.

use std::collections::BTreeMap;

use probes::structures::{list_for_each_entry, offset_of, per_cpu_ptr};
use probes::{Guest, Result};
use vm::agent::WorkloadKind;

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_those_of_proc);

/// Tasks that always want to run, by their nice value, and the weight that `sched_prio_to_weight[]` has for it.
const HOGS: [(i32, u64); 4] = [(0, 1024), (0, 1024), (5, 335), (-5, 3121)];

/// `se.vruntime` of each of these tasks in nanoseconds, and how often it has moved to another CPU (where the vruntime
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
    ground.sh("cd /sys/fs/cgroup; echo +cpu >cgroup.subtree_control; mkdir -p a/b; echo +cpu >a/cgroup.subtree_control");
    let mut hogs = BTreeMap::new();
    for (cpu, (nice, weight)) in HOGS.into_iter().enumerate() {
        // One in a control group below another, the others in groups of their sessions where there are such.
        let group = if nice == 5 {
            "echo $! >/sys/fs/cgroup/a/b/cgroup.procs;"
        } else {
            ""
        };
        let line = format!(
            "setsid taskset -c {} sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null & {group} renice -n {nice} -p $! && echo $!",
            cpu % 2
        );
        let pid = ground.sh(&line).trim().parse::<i32>().unwrap();
        hogs.insert(pid, (cpu % 2, weight));
    }
    let group = |ground: &mut Ground, pid: i32| {
        let line = format!(
            "cut -d: -f3 /proc/{pid}/cgroup; f=/proc/sys/kernel/sched_autogroup_enabled; [ ! -e $f ] || [ $(cat $f) = 0 ] || cut -d' ' -f1 /proc/{pid}/autogroup"
        );
        // A control group with this controller comes before the session's.
        let said = ground.sh(&line);
        let mut lines = said.lines();
        let (cgroup, autogroup) = (lines.next().unwrap(), lines.next());
        if cgroup == "/" {
            autogroup.unwrap_or("/")
        } else {
            cgroup
        }
        .to_owned()
    };
    let pids: Vec<i32> = hogs.keys().copied().collect();
    let groups: BTreeMap<i32, String> = pids
        .iter()
        .map(|pid| (*pid, group(&mut ground, *pid)))
        .collect();
    let mut ledger = Ledger::new(format!("run queues on {kernel}"));
    // On a busy host a pause often falls on a queue that is locked, which is in the middle of a change.
    for _ in 0..60 {
        if ledger.compared("on one queue") >= 24 {
            break;
        }
        let (before, (seen, current, listed), after) = ground.sandwich(
            |ground| ask(ground, &pids),
            |guest| {
                let current = |cpu| guest.current(cpu).map(|task| task.pid);
                Ok((
                    guest.run_queues()?,
                    vec![current(0)?, current(1)?],
                    listed(guest)?,
                ))
            },
        );
        for (queue, current) in seen.iter().zip(&current) {
            // A pause may fall between the two writes of a context switch.
            if queue.curr == *current {
                ledger.same(queue.cpu, "curr", &queue.curr, current);
            }
        }
        for (queue, listed) in seen.iter().zip(&listed) {
            let Some(listed) = listed else { continue };
            let cpu = queue.cpu;
            let mut fair: Vec<i32> = queue.fair_tasks().map(|(pid, _)| pid).collect();
            fair.sort_unstable();
            ledger.same(cpu, "all that are listed", &fair, listed);
            let tasks = fair.len() + queue.rt.len();
            // A deadline server and the stop task are counted and are on no list.
            let counted = queue.nr_running as usize;
            ledger.same(
                format!("CPU {cpu} {queue:?}"),
                "nr_running",
                &(tasks..=tasks + 1).contains(&counted),
                &true,
            );
        }
        for (pid, (cpu, weight)) in &hogs {
            if listed.get(*cpu).is_none_or(Option::is_none) {
                continue;
            }
            let places: Vec<_> = seen
                .iter()
                .flat_map(|queue| queue.fair_tasks())
                .filter(|(task, _)| task == pid)
                .map(|(_, entity)| entity)
                .collect();
            ledger.same(pid, "on one queue", &places.len(), &1);
            let Some(task) = places.first() else {
                continue;
            };
            ledger.same(pid, "group", &task.group, &groups[pid]);
            ledger.same(pid, "weight", &task.weight, weight);
            let (first, last) = (&before[pid], &after[pid]);
            if first.1 == last.1 {
                let between = first.0 <= task.vruntime && task.vruntime <= last.0;
                let who = format!("{pid}: {} {} {}", first.0, task.vruntime, last.0);
                ledger.same(who, "vruntime", &between, &true);
            }
        }
    }
    deadline(&mut ledger, &mut ground);
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
        ("group", 24),
        ("all that are listed", 8),
        ("deadline", 4),
    ]);
}

/// The tasks of the fair class by the list that load balancing keeps, which knows no groups.
/// `None` of a queue that is locked: a pause may fall between the two insertions of one task.
fn listed(guest: &Guest) -> Result<Vec<Option<Vec<i32>>>> {
    let kernel = guest.kernel()?;
    let member = offset_of(&kernel, "struct task_struct", "se.group_node")?;
    let pid = offset_of(&kernel, "struct task_struct", "pid")?;
    let of = |cpu| -> Result<Option<Vec<i32>>> {
        let rq = per_cpu_ptr(&kernel, "runqueues", cpu)?;
        let lock = rq.offset(offset_of(&kernel, "struct rq", "__lock")?);
        if kernel.read_u32(lock)? != 0 {
            return Ok(None);
        }
        let head = rq.offset(offset_of(&kernel, "struct rq", "cfs_tasks")?);
        let mut pids = list_for_each_entry(&kernel, head, member)
            .map(|at| Ok(kernel.read_u32(at?.offset(pid))?.cast_signed()))
            .collect::<Result<Vec<i32>>>()?;
        pids.sort_unstable();
        Ok(Some(pids))
    };
    (0..2).map(of).collect()
}

/// A task with a deadline is on a queue of that class half of the time, with the numbers that it asked for.
fn deadline(ledger: &mut Ledger, ground: &mut Ground) {
    let pid = ground.agent.workload(WorkloadKind::Deadline).unwrap();
    let pid = pid
        .tasks
        .iter()
        .find(|task| task.comm == "klab-deadline")
        .unwrap()
        .pid;
    let policy = ground.sh(&format!("sed -n 's/^policy *: *//p' /proc/{pid}/sched"));
    ledger.same(pid, "policy", &policy.trim(), &"6");
    let mut seen = 0;
    for _ in 0..200 {
        let queues = ground.guest.paused(Guest::run_queues).unwrap();
        for entity in queues
            .iter()
            .flat_map(|queue| &queue.dl)
            .filter(|entity| entity.pid == pid)
        {
            let numbers = (entity.dl_runtime, entity.dl_deadline, entity.dl_period);
            ledger.same(
                pid,
                "deadline",
                &numbers,
                &(10_000_000, 20_000_000, 20_000_000),
            );
            seen += 1;
        }
        if seen >= 4 {
            return;
        }
    }
}
