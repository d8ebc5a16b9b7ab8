//! Tasks: running and waiting ones, and their parents (`include/linux/sched.h`, `kernel/fork.c`, `kernel/pid.c`).
//!
//! ```no_run
//! # use probes::Guest;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! for task in guest.tasks()? {
//!     println!("{} {} {}", task.pid, task.state, task.comm);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A running guest forks and exits while it is read. Each task is read whole or not at all: its identity is read again
//! after the rest, and every link of the list is checked against the one before it. What changed is read again, a few
//! times; if that does not help the answer is [`Error::Torn`]. The list as a whole is that of one
//! instant only while the guest is paused.

pub mod cgroup;
mod kthread;
mod pid;
mod rq;
mod stack;
mod state;
mod task;
#[cfg(test)]
mod tests;
mod tree;
mod view;
mod walk;

pub(crate) use rq::run_queues;

pub(crate) use kthread::KthreadNames;
pub use pid::{PidNumber, find_task_by_pid, pid_numbers};
pub(crate) use pid::{for_each_task, pid_nr};
pub use rq::{DlEntity, FairEntity, FairOf, RtTask, RunQueue, RunQueues};
pub use stack::{KernelStack, KernelStacks, StackOf};
pub use state::{Policy, TaskState};
pub(crate) use task::PF_KTHREAD;
#[cfg(test)]
pub(crate) use task::testing;
pub use task::{Task, Tasks};
pub use tree::{TaskNode, TaskTree};
pub(crate) use walk::current;
pub use walk::{TASK_BOUND, for_each_process, for_each_thread};

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::object::Object;
use crate::{Error, Result};

pub(crate) fn no_task(pid: i32) -> Error {
    Error::Absent(format!(
        "there is no task with pid {pid}: `klab tasks` lists those there are"
    ))
}

impl Guest {
    /// The task, process or thread, that has this pid in the initial pid namespace.
    ///
    /// # Errors
    /// `Absent` if there is none; `Unmapped` or `Broken` if its `task_struct` is damaged. What that points to is a part, which may be missing.
    pub fn task(&self, pid: i32) -> Result<Task> {
        let kernel = self.kernel()?;
        let at = find_task_by_pid(&kernel, pid)?;
        walk::load(&kernel, at.ok_or_else(|| no_task(pid))?)
    }

    /// The `struct task_struct` with this pid in the initial pid namespace, as drgn's `find_task(prog, pid)` gives it:
    /// `guest.find_task(1)?.member("comm")?`. [`Guest::task`] has its usual members read.
    ///
    /// # Errors
    /// When there is no such task.
    pub fn find_task(&self, pid: i32) -> Result<Object> {
        let kernel = self.kernel()?;
        let at = find_task_by_pid(&kernel, pid)?.ok_or_else(|| no_task(pid))?;
        self.at("struct task_struct", at)
    }

    /// The threads of the process that `pid` belongs to, its leader first.
    ///
    /// # Errors
    /// As [`task`](Self::task); `Torn` if they keep changing.
    pub fn threads(&self, pid: i32) -> Result<Tasks> {
        walk::threads(&self.kernel()?, &self.task(pid)?)
    }

    /// The task that `cpu` runs: its `current`.
    ///
    /// # Errors
    /// `Absent` if there is no such CPU; as [`task`](Self::task).
    pub fn current(&self, cpu: u32) -> Result<Task> {
        let kernel = self.kernel()?;
        walk::load(&kernel, walk::current(&kernel, cpu)?)
    }
}

/// All processes by parent: `init` and `kthreadd` at the top.
pub(crate) fn task_tree(guest: &Guest) -> Result<TaskTree> {
    Ok(TaskTree::new(guest.tasks()?))
}

/// All processes, in the order of the kernel's list: the leaders of all thread groups, kernel threads among them,
/// without the idle tasks.
pub(crate) fn tasks(kernel: &Kernel) -> Result<Tasks> {
    walk::processes(kernel)
}
