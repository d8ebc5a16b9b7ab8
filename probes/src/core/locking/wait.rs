//! `wait_queue_head` and `completion` (`include/linux/wait.h`, `include/linux/swait.h`, `include/linux/completion.h`).

use serde::Serialize;

use super::{BOUND, Contender, TaskStruct, each};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::sched::find_task_by_pid;
use crate::structures::{list_for_each_entry, offset_of, twice};
use crate::{Listing, Missing, Of as _, Result};

/// `WQ_FLAG_EXCLUSIVE` of `include/linux/wait.h`.
const EXCLUSIVE: u32 = 1;

/// A waiter that is told when a queue is woken: its `wait_queue_entry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WaitEntry {
    /// Address.
    pub at: GuestVirt,
    /// The task that waits; `None` if the function tells somebody else, as epoll's does.
    pub task: Option<Contender>,
    /// Function that is called when the queue is woken: `wait_queue_entry.func`.
    pub function: String,
    /// True if one such is enough, where a waker wants to wake only one.
    pub exclusive: bool,
}

/// A queue of waiters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WaitQueue {
    /// Address of its head.
    pub at: GuestVirt,
    /// Its entries, in the order in which they are told.
    pub waiters: Vec<WaitEntry>,
    /// Parts that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// Something that tasks wait to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Completion {
    /// Address.
    pub at: GuestVirt,
    /// Number of waiters that may still pass; `u32::MAX / 2` if all may.
    pub done: u32,
    /// Waiters.
    pub waiters: Vec<Contender>,
    /// Parts that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct wait_queue_entry")]
struct Entry {
    flags: u32,
    private: GuestVirt,
    func: GuestVirt,
}

/// Lists the waiters of the `struct completion` at an address.
pub(crate) fn completion(kernel: &Kernel, at: GuestVirt) -> Result<Completion> {
    twice(&format!("the completion at {at}"), || {
        read_completion(kernel, at)
    })
}

/// Lists the waiters of the `struct wait_queue_head` at an address.
pub(crate) fn wait_queue(kernel: &Kernel, at: GuestVirt) -> Result<WaitQueue> {
    twice(&format!("the wait queue at {at}"), || queue(kernel, at))
}

fn queue(kernel: &Kernel, at: GuestVirt) -> Result<WaitQueue> {
    let head = at.offset(offset_of(kernel, "struct wait_queue_head", "head")?);
    let member = offset_of(kernel, "struct wait_queue_entry", "entry")?;
    let walk = list_for_each_entry(kernel, head, member).bound(BOUND);
    let (mut missing, mut unnamed) = (Vec::new(), Vec::new());
    let waiters = each(Listing::walk("head", walk), &mut missing, |at| {
        let entry: Entry = kernel.load(at)?;
        let function = kernel.symbol_at(entry.func)?;
        let function = function.filter(|function| function.offset == 0);
        let task = task(kernel, entry.private);
        let task = task.or_miss(&mut unnamed, || format!("the task of the waiter at {at}"));
        Ok(WaitEntry {
            at,
            task: task.flatten(),
            function: function.map_or_else(|| entry.func.to_string(), |symbol| symbol.name),
            exclusive: entry.flags & EXCLUSIVE != 0,
        })
    });
    missing.append(&mut unnamed);
    Ok(WaitQueue {
        at,
        waiters,
        missing,
    })
}

/// Finds the task behind `private`, free for each function: a task if that of its pid lies there, or, for `poll()`, the
/// `poll_wqueues` that names one.
fn task(kernel: &Kernel, private: GuestVirt) -> Result<Option<Contender>> {
    let is_task = |at: GuestVirt| -> Result<bool> {
        let Ok(task) = kernel.load::<TaskStruct>(at) else {
            return Ok(false);
        };
        Ok(find_task_by_pid(kernel, task.pid)? == Some(at))
    };
    if private.is_null() {
        return Ok(None);
    }
    if is_task(private)? {
        return Contender::read(kernel, private).map(Some);
    }
    let polling = offset_of(kernel, "struct poll_wqueues", "polling_task")?;
    match kernel.read_u64(private.offset(polling)).map(GuestVirt) {
        Ok(polling) if is_task(polling)? => Contender::read(kernel, polling).map(Some),
        _ => Ok(None),
    }
}

fn read_completion(kernel: &Kernel, at: GuestVirt) -> Result<Completion> {
    let c = "struct completion";
    let head = at.offset(offset_of(kernel, c, "wait.task_list")?);
    let member = offset_of(kernel, "struct swait_queue", "task_list")?;
    let task = offset_of(kernel, "struct swait_queue", "task")?;
    let walk = list_for_each_entry(kernel, head, member).bound(BOUND);
    let mut missing = Vec::new();
    let waiters = each(Listing::walk("task_list", walk), &mut missing, |entry| {
        let task = kernel.read_u64(entry.offset(task))?;
        Contender::read(kernel, GuestVirt(task))
    });
    Ok(Completion {
        at,
        done: kernel.read_u32(at.offset(offset_of(kernel, c, "done")?))?,
        waiters,
        missing,
    })
}
