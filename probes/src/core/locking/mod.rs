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
mod view;
mod wait;

pub(crate) use wait::completion;

pub(crate) use rt_mutex::rt_mutex;

pub(crate) use rwsem::rwsem;

pub(crate) use mutex::mutex;

pub(crate) use wait::wait_queue;

pub use mutex::Mutex;
pub use rt_mutex::{RtMutex, RtWaiter};
pub use rwsem::{RwSem, RwSemWaiter, RwState};
pub use wait::{Completion, WaitEntry, WaitQueue};

use serde::Serialize;

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror};
use crate::structures::{list_for_each_entry, offset_of};
use crate::{Listing, Missing, Of as _, Result};

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
    /// Reads the `struct task_struct` at an address.
    pub(crate) fn read(kernel: &Kernel, at: GuestVirt) -> Result<Self> {
        let task: TaskStruct = kernel.load(at)?;
        Ok(Self {
            pid: task.pid,
            comm: task.comm.to_str().into_owned(),
            at,
        })
    }

    /// The owner that a word points to whose lower bits are flags; `None` for NULL, and for one that cannot be read, which
    /// is noted.
    fn of_word(kernel: &Kernel, word: u64, flags: u64, missing: &mut Vec<Missing>) -> Option<Self> {
        match GuestVirt(word & !flags) {
            GuestVirt(0) => None,
            at => Self::read(kernel, at).or_miss(missing, || format!("its owner, the task {at}")),
        }
    }
}

/// The waiters of the lock at `at`, of type `lock`, each of them a `waiter`: behind a list's head, or since 7.1 a ring that
/// `first_waiter` points into.
fn waiters(kernel: &Kernel, at: GuestVirt, lock: &str, waiter: &str) -> Result<Listing<GuestVirt>> {
    let list = offset_of(kernel, waiter, "list")?;
    let Ok(first) = offset_of(kernel, lock, "first_waiter") else {
        let head = at.offset(offset_of(kernel, lock, "wait_list")?);
        let walk = list_for_each_entry(kernel, head, list).bound(BOUND);
        return Ok(Listing::walk("wait_list", walk));
    };
    let first = GuestVirt(kernel.read_u64(at.offset(first))?);
    if first.is_null() {
        return Ok(Listing::new());
    }
    let others = list_for_each_entry(kernel, first.offset(list), list).bound(BOUND);
    let walk = std::iter::once(Ok(first)).chain(others);
    Ok(Listing::walk("the ring of first_waiter", walk))
}

/// Value of `read` for each waiter, and which could not be read.
fn each<T>(
    nodes: Listing<GuestVirt>,
    missing: &mut Vec<Missing>,
    mut read: impl FnMut(GuestVirt) -> Result<T>,
) -> Vec<T> {
    let mut list = Listing::new();
    list.missing = nodes.missing;
    for at in nodes.items {
        list.take(read(at), || format!("the waiter at {at}"));
    }
    list.into_items(missing)
}
