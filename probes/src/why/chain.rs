//! Chains of tasks, each of which waits for the next.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::wait::{Found, Waits};
use super::{Chain, Link, Object, Reason, clock};
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::locking::Contender;
use crate::memory::GuestVirt;
use crate::sched::{TaskState, find_task_by_pid};
use crate::unwind::{self, StackTrace};
use crate::{Error, Missing, Of as _, Result};

/// Nanoseconds for which a task may wait without being told of: no disk of a healthy machine takes as long.
const LONG: u64 = 5_000_000_000;

/// Links of a chain that are followed at most.
const LONGEST: usize = 256;

/// Chains that were found.
pub(super) struct Chains {
    pub(super) reasons: Vec<Reason>,
    pub(super) tasks: usize,
}

/// The chains of all tasks that wait for long, or that of one task.
pub(super) fn chains(
    guest: &Guest,
    kernel: &Kernel,
    pid: Option<i32>,
    missing: &mut Vec<Missing>,
) -> Result<Chains> {
    let traces = unwind::stack_traces(guest)?;
    missing.extend(traces.missing.iter().cloned());
    let mut tasks = Vec::new();
    for trace in &traces {
        // The idle tasks have no PID.
        let at = match trace.pid {
            0 => continue,
            pid => find_task_by_pid(kernel, pid),
        };
        let who = || format!("task {} ({})", trace.pid, trace.comm);
        if let Some(Some(at)) = at.or_miss(missing, who) {
            tasks.push((at, trace));
        }
    }
    let addresses: Vec<GuestVirt> = tasks.iter().map(|(at, _)| *at).collect();
    let mut finder = Finder {
        kernel,
        waits: Waits::new(guest, kernel, &addresses)?,
        now: clock::task_clock(kernel).or_miss(missing, || "the clock of the run queues"),
        traces: tasks.iter().copied().collect(),
        found: HashMap::new(),
        missing,
    };
    let starts: Vec<GuestVirt> = match pid {
        Some(pid) => {
            let none = || Error::Absent(format!("there is no task {pid}"));
            let start = tasks.iter().find(|(_, trace)| trace.pid == pid);
            vec![start.ok_or_else(none)?.0]
        }
        None => {
            let stuck = tasks.iter().filter(|(_, trace)| finder.is_stuck(trace));
            stuck.map(|(at, _)| *at).collect()
        }
    };
    let walks: Vec<Walk> = starts.iter().map(|start| finder.walk(*start)).collect();
    let reasons = finder.reasons(walks, pid.is_some());
    let unread = finder.waits.missing();
    missing.extend(unread);
    Ok(Chains {
        reasons,
        tasks: tasks.len(),
    })
}

/// The tasks from one that waits to the one that it waits for in the end.
struct Walk {
    tasks: Vec<GuestVirt>,
    /// Link that it comes back to, and whether each holder of the circle is sure.
    circle: Option<(usize, bool)>,
}

impl Walk {
    /// The task that all have in common that wait for the same in the end: the last of the chain, or the least of the
    /// circle.
    fn root(&self) -> Option<GuestVirt> {
        match self.circle {
            Some((from, _)) => self.tasks.get(from..)?.iter().min().copied(),
            None => self.tasks.last().copied(),
        }
    }
}

struct Finder<'k, 'm> {
    kernel: &'k Kernel,
    waits: Waits<'k>,
    now: Option<u64>,
    traces: HashMap<GuestVirt, &'k StackTrace>,
    found: HashMap<GuestVirt, Found>,
    missing: &'m mut Vec<Missing>,
}

impl Finder<'_, '_> {
    /// Tells whether a task waits in a way that nothing but its end ends, or for a lock.
    fn is_stuck(&self, trace: &StackTrace) -> bool {
        // A kernel thread that was made, and has not been woken for the first time.
        let unborn = |trace: &StackTrace| {
            let mut names = trace.frames.iter().map(|frame| &*frame.function);
            names.all(|name| {
                name.contains("schedule") || name == "kthread" || name.starts_with("ret_from_fork")
            })
        };
        match trace.state {
            TaskState::DiskSleep => trace.cpu.is_none() && !unborn(trace),
            TaskState::Sleeping => self.waits.is_locked_out(trace),
            _ => false,
        }
    }

    fn found(&mut self, task: GuestVirt) -> &Found {
        self.found.entry(task).or_insert_with(|| {
            let trace = self.traces.get(&task).filter(|trace| trace.cpu.is_none());
            trace.map_or_else(Found::default, |trace| self.waits.find(trace, task))
        })
    }

    fn walk(&mut self, start: GuestVirt) -> Walk {
        let (mut tasks, mut sure) = (vec![start], Vec::new());
        while let Some(last) = tasks.last() {
            let Some(wait) = &self.found(*last).wait else {
                break;
            };
            let Some(holder) = wait.holder.as_ref().map(|holder| holder.at) else {
                break;
            };
            // The name of a reader may be that of one that has left.
            sure.push(wait.readers.is_none() && wait.on != Object::Semaphore);
            if let Some(from) = tasks.iter().position(|task| *task == holder) {
                let sure = sure
                    .get(from..)
                    .is_some_and(|sure| sure.iter().all(|sure| *sure));
                return Walk {
                    tasks,
                    circle: Some((from, sure)),
                };
            }
            if !self.traces.contains_key(&holder) || tasks.len() == LONGEST {
                break;
            }
            tasks.push(holder);
        }
        Walk {
            tasks,
            circle: None,
        }
    }

    fn reasons(&mut self, mut walks: Vec<Walk>, all: bool) -> Vec<Reason> {
        walks.sort_by_key(|walk| Reverse(walk.tasks.len()));
        let mut roots: Vec<GuestVirt> = Vec::new();
        let mut reasons: HashMap<GuestVirt, (bool, Chain)> = HashMap::new();
        for walk in walks {
            let Some(root) = walk.root() else { continue };
            let deadlock = walk.circle.is_some_and(|(_, sure)| sure);
            let Some(start) = walk.tasks.first() else {
                continue;
            };
            if let Some((_, chain)) = reasons.get_mut(&root) {
                let known = chain.links.iter().any(|link| link.task.at == *start);
                if !known {
                    chain
                        .behind
                        .extend(contender(self.kernel, *start, self.missing));
                }
                continue;
            }
            // A circle counts only itself; a task that waits for one of it waits behind.
            let (before, of) = match walk.circle {
                Some((from, true)) => walk.tasks.split_at(from),
                _ => walk.tasks.split_at(0),
            };
            let links: Vec<Link> = of.iter().filter_map(|task| self.link(*task)).collect();
            let behind = before
                .iter()
                .filter_map(|task| contender(self.kernel, *task, self.missing));
            roots.push(root);
            reasons.insert(
                root,
                (
                    deadlock,
                    Chain {
                        behind: behind.collect(),
                        links,
                    },
                ),
            );
        }
        let mut chains: Vec<(bool, Chain)> = roots
            .iter()
            .filter_map(|root| reasons.remove(root))
            .filter(|(deadlock, chain)| all || *deadlock || chain.age() >= LONG)
            .collect();
        chains.sort_by_key(|(deadlock, chain)| (!deadlock, Reverse(chain.age())));
        let told = |(deadlock, chain)| match deadlock {
            true => Reason::Deadlock(chain),
            false => Reason::Waits(chain),
        };
        chains.into_iter().map(told).collect()
    }

    fn link(&mut self, task: GuestVirt) -> Option<Link> {
        let trace = *self.traces.get(&task)?;
        let who = || format!("task {} ({})", trace.pid, trace.comm);
        let contender = Contender::read(self.kernel, task).or_miss(self.missing, who)?;
        let ran = clock::ran(self.kernel, task).or_miss(self.missing, who);
        let since = self.now.zip(ran).map(|(now, ran)| now.saturating_sub(ran));
        let found = self.found(task);
        Some(Link {
            task: contender,
            state: trace.state,
            since,
            wait: found.wait.clone(),
            function: found.function.clone(),
        })
    }
}

/// A task by its address.
fn contender(kernel: &Kernel, task: GuestVirt, missing: &mut Vec<Missing>) -> Option<Contender> {
    Contender::read(kernel, task).or_miss(missing, || format!("the task {task}"))
}

impl Chain {
    /// Time for which the task that waits longest has waited, in nanoseconds.
    fn age(&self) -> u64 {
        let waits = self
            .links
            .iter()
            .filter(|link| link.wait.is_some() || link.state == TaskState::DiskSleep);
        waits.filter_map(|link| link.since).max().unwrap_or(0)
    }
}
