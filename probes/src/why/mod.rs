//! Reasons for which a kernel does not go on: tasks that wait for what others hold, CPUs that do not change tasks,
//! memory that is used up, file systems that are frozen, rings of network cards that are full.
//!
//! ```no_run
//! # use probes::Guest;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! for reason in guest.why()?.reasons {
//!     println!("{}", reason.sentence());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A task that waits has its waiter (`struct mutex_waiter`, `struct swait_queue`, ..) on its kernel stack; the list that it is
//! linked in leads to the lock, and the lock names its owner, which may wait in turn. The guest may run meanwhile:
//! pause it for a picture of one instant.

mod chain;
mod clock;
mod machine;
mod resources;
mod sentence;
mod view;
mod wait;
mod waiter;

use serde::Serialize;

use crate::fs::Frozen;
use crate::guest::Guest;
use crate::locking::Contender;
use crate::memory::GuestVirt;
use crate::net::StalledQueue;
use crate::sched::TaskState;
use crate::{Missing, Result};

/// Reasons why the kernel, or a task, does not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reasons {
    /// The reasons: of the machine first, then deadlocks, then the chains by their age.
    pub reasons: Vec<Reason>,
    /// Number of tasks that were looked at.
    pub tasks: usize,
    /// Parts that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The kernel has panicked.
    Panic {
        /// The CPU that did.
        cpu: u32,
    },
    /// The kernel has had an oops or a `BUG()`: `TAINT_DIE` is set.
    Oops,
    /// A CPU has not let its watchdog's thread run for longer than `2 * watchdog_thresh`.
    SoftLockup {
        /// The CPU.
        cpu: u32,
        /// Its task.
        task: Contender,
        /// Seconds for which it did not.
        seconds: u64,
    },
    /// A grace period of RCU that has lasted too long.
    RcuStall {
        /// The CPUs that it waits for.
        cpus: Vec<u32>,
        /// Seconds for which it has lasted.
        seconds: u64,
    },
    /// A pool of workers that has work, and has not begun any for longer than `wq_watchdog_thresh`.
    WorkStall {
        /// The pool's id.
        pool: i32,
        /// The pool's CPU; `None` for one of no CPU.
        cpu: Option<u32>,
        /// Seconds for which it has not.
        seconds: u64,
    },
    /// No zone has a page to give away that its watermark does not keep.
    Memory {
        /// Bytes that are free.
        free: u64,
        /// Bytes that there are to be allocated.
        managed: u64,
    },
    /// A file system whose writers wait.
    Frozen(Frozen),
    /// A transmit queue of a network device that takes no packets, and has sent none for more than 5 seconds.
    TxStall(StalledQueue),
    /// Tasks that wait for one another: each holds what the one before it waits for, and the first what the last waits for.
    Deadlock(Chain),
    /// Tasks that wait, and what for.
    Waits(Chain),
}

/// Tasks, each of which waits for something that the next one holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// The tasks.
    pub links: Vec<Link>,
    /// Other tasks that wait for what one of them holds.
    pub behind: Vec<Contender>,
}

/// A task of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The task.
    pub task: Contender,
    /// Its state.
    pub state: TaskState,
    /// Nanoseconds since it ran last, at least.
    pub since: Option<u64>,
    /// The wait; `None` for a task that runs, or sleeps in a way of its own.
    pub wait: Option<Wait>,
    /// The function that waits: the first of its stack that is not of the scheduler and the locks, as `/proc/PID/wchan` has it.
    pub function: Option<String>,
}

/// The thing that a task waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// The kind of thing.
    pub on: Object,
    /// Its address.
    pub at: GuestVirt,
    /// The symbol, or object of a slab, that it lies in.
    pub within: Option<String>,
    /// The task that holds it, or that will end the wait, where the kernel says so.
    pub holder: Option<Contender>,
    /// Number of readers that hold it, of a semaphore for readers and writers.
    pub readers: Option<u64>,
    /// True if the task wants to write, where the kernel says so.
    pub writes: Option<bool>,
}

/// A kind of thing that tasks wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    /// `struct mutex`.
    Mutex,
    /// `struct rw_semaphore`.
    RwSem,
    /// `struct rt_mutex_base`.
    RtMutex,
    /// `struct semaphore`.
    Semaphore,
    /// `struct completion`.
    Completion,
    /// `struct percpu_rw_semaphore`.
    PercpuRwSem,
    /// The lock or a bit of a `struct folio`, `struct page` before 6.
    Folio,
    /// `struct wait_queue_head`.
    WaitQueue,
}

/// Finds what keeps the kernel from going on; with a `pid` what that one task waits for, however short.
pub(crate) fn why(guest: &Guest, pid: Option<i32>) -> Result<Reasons> {
    let kernel = guest.kernel()?;
    let mut missing = Vec::new();
    let mut reasons = match pid {
        None => {
            let mut reasons = machine::reasons(&kernel, &mut missing);
            reasons.extend(resources::reasons(&kernel, &mut missing));
            reasons
        }
        Some(_) => Vec::new(),
    };
    let mut chains = chain::chains(guest, &kernel, pid, &mut missing)?;
    reasons.append(&mut chains.reasons);
    Ok(Reasons {
        reasons,
        tasks: chains.tasks,
        missing,
    })
}
