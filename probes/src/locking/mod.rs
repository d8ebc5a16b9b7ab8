//! Wait queues, completions, mutexes, semaphores (`include/linux/wait.h`, `kernel/locking`).
//!
//! ```no_run
//! # use probes::Guest;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! for waiter in &guest.wait_queue(guest.symbol("log_wait")?)?.waiters {
//!     println!("{:?} {}", waiter.task, waiter.function);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A lock changes hands while it is read: it is read until it is twice the same. Pause the guest for a picture of one
//! instant.

mod mutex;
mod rt_mutex;
mod rwsem;
mod wait;

pub use mutex::Mutex;
pub use rt_mutex::{RtMutex, RtWaiter};
pub use rwsem::{RwSem, RwSemWaiter, RwState};
pub use wait::{Completion, WaitEntry, WaitQueue};

use serde::Serialize;

use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror};
use crate::structures::{list_for_each_entry, offset_of};

/// Waiters of one lock or queue that are read at most.
const BOUND: usize = 1 << 20;

/// A task that has something, or waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contender {
    /// Its pid.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Its `task_struct`.
    pub at: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct TaskStruct {
    pid: i32,
    comm: FixedStr<16>,
}

impl Contender {
    fn read(kernel: &Kernel, at: GuestVirt) -> Result<Self> {
        let task: TaskStruct = kernel.load(at)?;
        Ok(Self {
            pid: task.pid,
            comm: task.comm.to_str().into_owned(),
            at,
        })
    }

    /// The task that a word points to whose lower bits are flags; `None` for NULL.
    fn of_word(kernel: &Kernel, word: u64, flags: u64) -> Result<Option<Self>> {
        match word & !flags {
            0 => Ok(None),
            at => Self::read(kernel, GuestVirt(at)).map(Some),
        }
    }
}

/// The waiters of the lock at `at`, of type `lock`, each of them a `waiter`: behind a list's head, or since 7.1 a ring that
/// `first_waiter` points into.
fn waiters(kernel: &Kernel, at: GuestVirt, lock: &str, waiter: &str) -> Result<Vec<GuestVirt>> {
    let list = offset_of(kernel, waiter, "list")?;
    let Ok(first) = offset_of(kernel, lock, "first_waiter") else {
        let head = at.offset(offset_of(kernel, lock, "wait_list")?);
        return list_for_each_entry(kernel, head, list)
            .bound(BOUND)
            .collect();
    };
    let first = GuestVirt(kernel.read_u64(at.offset(first))?);
    if first.is_null() {
        return Ok(Vec::new());
    }
    let others = list_for_each_entry(kernel, first.offset(list), list).bound(BOUND);
    std::iter::once(Ok(first)).chain(others).collect()
}
