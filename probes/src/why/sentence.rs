//! Reasons in words.

use super::{Chain, Link, Object, Reason, Wait};
use crate::locking::Contender;
use crate::sched::TaskState;
use crate::view::bytes;

impl Reason {
    /// The reason as one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Panic { cpu } => {
                format!("The kernel has panicked, on CPU {cpu}: `klab log` has its last words.")
            }
            Self::Oops => {
                "The kernel has had an oops or a BUG: `klab log` has it; what it held then stays held."
                    .to_owned()
            }
            Self::SoftLockup { cpu, task, seconds } => format!(
                "CPU {cpu} has not changed tasks for {seconds} s (a soft lockup): {} runs on it.",
                name(task)
            ),
            Self::RcuStall { cpus, seconds } => {
                let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
                let cpus = match cpus.len() {
                    0 => "tasks that were preempted in a reader".to_owned(),
                    _ => format!("CPU {}", cpus.join(", ")),
                };
                format!("RCU has waited {seconds} s for {cpus}: what was to be freed is not.")
            }
            Self::WorkStall { pool, cpu, seconds } => {
                let of = cpu.map_or_else(|| "of no CPU".to_owned(), |cpu| format!("of CPU {cpu}"));
                format!("The workers of pool {pool} {of} have begun no work for {seconds} s, and some waits.")
            }
            Self::Memory { free, managed } => format!(
                "Memory is used up: {} of {} are free, and no zone has more than its `min` watermark keeps; what allocates reclaims first, or \
                 is killed.",
                bytes(*free),
                bytes(*managed)
            ),
            Self::Frozen(fs) => format!(
                "The file system {} on {} is frozen ({}): what writes to it waits until it is thawed (`fsfreeze -u`).",
                fs.fs_type, fs.id, fs.level
            ),
            Self::TxStall(queue) => format!(
                "The device {} sends nothing by its queue {}: the {} stopped it {} s ago or more, as one does whose ring is full, and no packet \
                 went out since.",
                queue.device, queue.queue, queue.by, queue.seconds
            ),
            Self::Deadlock(chain) => deadlock(chain),
            Self::Waits(chain) => waits(chain),
        }
    }

    /// The commands that show what the reason rests on, as `klab NAME ARGUMENTS`.
    #[must_use]
    pub fn see(&self) -> Vec<String> {
        let stack = |pid: i32| format!("klab stack {pid}");
        match self {
            Self::Panic { .. } | Self::Oops => vec!["klab log".to_owned()],
            Self::SoftLockup { task, .. } => vec![stack(task.pid), "klab runq".to_owned()],
            Self::RcuStall { .. } => vec!["klab rcu".to_owned()],
            Self::WorkStall { .. } => vec!["klab workqueue".to_owned()],
            Self::Memory { .. } => ["meminfo", "zones", "slab"]
                .map(|name| format!("klab {name}"))
                .to_vec(),
            Self::Frozen(_) => vec!["klab mounts".to_owned(), "klab filesystems".to_owned()],
            Self::TxStall(queue) => {
                vec![format!("klab net {}", queue.device), "klab irq".to_owned()]
            }
            Self::Deadlock(chain) | Self::Waits(chain) => {
                let of = |link: &Link| {
                    let wait = link.wait.as_ref();
                    let shown = wait
                        .and_then(|wait| Some(format!("klab {} {}", command(wait.on)?, wait.at)));
                    [Some(stack(link.task.pid)), shown]
                };
                chain.links.iter().flat_map(of).flatten().collect()
            }
        }
    }
}

impl Object {
    /// Its name in C, without `struct`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mutex => "mutex",
            Self::RwSem => "rw_semaphore",
            Self::RtMutex => "rt_mutex",
            Self::Semaphore => "semaphore",
            Self::Completion => "completion",
            Self::PercpuRwSem => "percpu_rw_semaphore",
            Self::Folio => "folio",
            Self::WaitQueue => "wait queue",
        }
    }
}

impl Object {
    /// Names of its first member, in C.
    pub(super) const fn first(self) -> &'static [&'static str] {
        match self {
            Self::Mutex => &["owner", "rtmutex"],
            Self::RwSem => &["count", "rwbase"],
            Self::RtMutex | Self::Semaphore | Self::WaitQueue => &["wait_lock", "lock"],
            Self::Completion => &["done"],
            Self::PercpuRwSem => &["rss"],
            Self::Folio => &["flags", "page"],
        }
    }
}

/// The command that shows such a thing.
const fn command(on: Object) -> Option<&'static str> {
    match on {
        Object::Mutex => Some("mutex"),
        Object::RwSem => Some("rwsem"),
        Object::RtMutex => Some("rt_mutex"),
        Object::Completion => Some("completion"),
        Object::WaitQueue => Some("wait"),
        Object::Folio => Some("page"),
        Object::Semaphore | Object::PercpuRwSem => None,
    }
}

fn name(task: &Contender) -> String {
    format!("{} ({})", task.comm, task.pid)
}

/// Name of the thing that is waited for: `the mutex 0xff.. (rtnl_mutex), to write`.
pub(super) fn thing(wait: &Wait) -> String {
    let within = wait.within.as_ref();
    let within = within.map_or_else(String::new, |within| format!(" ({within})"));
    let writes = match wait.writes {
        Some(true) => ", to write",
        Some(false) => ", to read",
        None => "",
    };
    format!("the {} {}{within}{writes}", wait.on.name(), wait.at)
}

/// Nanoseconds as seconds.
pub(super) fn seconds(nanos: u64) -> String {
    format!("{}.{} s", nanos / 1_000_000_000, nanos / 100_000_000 % 10)
}

/// Activity of a task: `waits in filename_create for the rw_semaphore ..`.
fn does(link: &Link) -> String {
    let place = link.function.as_ref();
    let place = place.map_or_else(String::new, |function| format!(" in {function}"));
    match (&link.wait, link.state) {
        (Some(wait), _) => format!("waits{place} for {}", thing(wait)),
        (None, TaskState::Running) => "runs, or is ready to".to_owned(),
        (None, TaskState::Zombie | TaskState::Dead) => "has exited".to_owned(),
        (None, state) => format!("sleeps{place} ({})", state.name()),
    }
}

/// Clause that says how the next link's task has what this one waits for.
fn has(wait: &Wait, holder: &str) -> String {
    match (wait.on, wait.readers) {
        (Object::Completion, _) => format!("{holder} is to complete it"),
        (Object::Semaphore, _) => format!("{holder} took it last"),
        (_, Some(1)) => format!("{holder} took it last, to read"),
        (_, Some(readers)) => format!("{readers} readers hold it, {holder} took it last"),
        _ => format!("{holder} holds it"),
    }
}

fn behind(chain: &Chain) -> String {
    match chain.behind.as_slice() {
        [] => String::new(),
        [one] => format!(" {} waits behind them.", name(one)),
        more => {
            let names: Vec<String> = more.iter().take(5).map(name).collect();
            let rest = more.len() - names.len();
            let rest = if rest > 0 {
                format!(" and {rest} more")
            } else {
                String::new()
            };
            format!(" Behind them wait {}{rest}.", names.join(", "))
        }
    }
}

fn deadlock(chain: &Chain) -> String {
    let count = chain.links.len();
    let parts: Vec<String> = (0..count)
        .filter_map(|index| {
            let link = chain.links.get(index)?;
            let next = chain.links.get((index + 1) % count)?;
            let wait = link.wait.as_ref()?;
            Some(format!(
                "{} waits for {}, which {} holds",
                name(&link.task),
                thing(wait),
                name(&next.task)
            ))
        })
        .collect();
    format!("Deadlock: {}.{}", parts.join("; "), behind(chain))
}

fn waits(chain: &Chain) -> String {
    let Some(first) = chain.links.first() else {
        return String::new();
    };
    let since = first.since.map(seconds);
    let since = since.map_or_else(String::new, |since| format!(", which ran {since} ago,"));
    let mut text = format!("{}{since} {}", name(&first.task), does(first));
    for pair in chain.links.windows(2) {
        let [link, next] = pair else { continue };
        let how = link.wait.as_ref().map(|wait| has(wait, &name(&next.task)));
        text.push_str(&format!(
            "; {}, and {}",
            how.unwrap_or_default(),
            does(next)
        ));
    }
    if let Some(wait) = chain.links.last().and_then(|last| last.wait.as_ref()) {
        let holder = match (&wait.holder, wait.on) {
            (Some(holder), _) => has(wait, &name(holder)),
            (None, Object::WaitQueue | Object::Completion) => {
                "whoever is to wake it has not yet".to_owned()
            }
            (None, Object::Folio) => "its page is locked or under I/O".to_owned(),
            (None, _) => "the kernel does not note who holds it".to_owned(),
        };
        text.push_str(&format!("; {holder}"));
    }
    format!("{text}.{}", behind(chain))
}
