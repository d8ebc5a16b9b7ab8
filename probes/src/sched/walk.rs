//! Walks along tasks, and what makes them hold while the guest runs.

use super::task::{Cred, SignalStruct, TaskStruct};
use super::{Task, Tasks};
use crate::Listing;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Plan;
use crate::structures::{List, list_for_each_entry, offset_of, per_cpu_ptr, settle};
use crate::{Error, Result};

/// As many tasks as a kernel may have: `PID_MAX_LIMIT` of a 64-bit kernel.
pub const TASK_BOUND: usize = 4 << 20;

/// Where the two lists of tasks lie: worked out once for a kernel.
#[derive(Debug, Clone, Copy)]
struct Lists {
    init_task: GuestVirt,
    tasks: u64,
    thread_node: u64,
    thread_head: u64,
}

impl Lists {
    fn of(kernel: &Kernel) -> Result<Self> {
        Ok(*kernel.once(|| {
            Ok(Self {
                init_task: kernel.symbol("init_task")?,
                tasks: offset_of(kernel, "struct task_struct", "tasks")?,
                thread_node: offset_of(kernel, "struct task_struct", "thread_node")?,
                thread_head: offset_of(kernel, "struct signal_struct", "thread_head")?,
            })
        })?)
    }
}

/// Walks all processes, without `init_task`: yields the address of each leader's `task_struct`.
///
/// The bare walk: fast, unchecked against a guest that runs. Load what you want of each task by a
/// [`Plan`] of your own; [`Guest::tasks`](crate::Guest::tasks) checks and retries.
pub fn for_each_process(kernel: &Kernel) -> Result<List<'_>> {
    let lists = Lists::of(kernel)?;
    Ok(
        list_for_each_entry(kernel, lists.init_task.offset(lists.tasks), lists.tasks)
            .bound(TASK_BOUND),
    )
}

/// Walks the threads that share the `signal_struct` at `signal`: yields each `task_struct`, the leader first.
pub fn for_each_thread(kernel: &Kernel, signal: GuestVirt) -> Result<List<'_>> {
    let lists = Lists::of(kernel)?;
    Ok(
        list_for_each_entry(kernel, signal.offset(lists.thread_head), lists.thread_node)
            .bound(TASK_BOUND),
    )
}

/// The task that `cpu` runs: the per-CPU variable `current_task`, which older kernels keep in `pcpu_hot`.
pub(super) fn current(kernel: &Kernel, cpu: u32) -> Result<GuestVirt> {
    let at = match per_cpu_ptr(kernel, "current_task", cpu) {
        Ok(at) => at,
        Err(none) => {
            let hot = per_cpu_ptr(kernel, "pcpu_hot", cpu).map_err(|_| none)?;
            hot.offset(offset_of(kernel, "struct pcpu_hot", "current_task")?)
        }
    };
    kernel.read_u64(at).map(GuestVirt)
}

/// Everything that a task is made of, ready to load.
#[derive(Debug)]
struct Loader {
    kernel: Kernel,
    task: Plan<TaskStruct>,
    cred: Plan<Cred>,
    signal: Plan<SignalStruct>,
    tgid: u64,
}

impl Loader {
    fn new(kernel: &Kernel) -> Result<Self> {
        Ok(Self {
            kernel: kernel.clone(),
            task: Plan::new(kernel)?,
            cred: Plan::new(kernel)?,
            signal: Plan::new(kernel)?,
            tgid: offset_of(kernel, "struct task_struct", "tgid")?,
        })
    }

    /// Reads one task: `None` if it changed between the first look and the last.
    fn once(&self, at: GuestVirt) -> Result<Option<(Task, TaskStruct)>> {
        let before = self.task.load(at)?;
        let ppid = self
            .kernel
            .read_u32(before.real_parent.offset(self.tgid))?
            .cast_signed();
        let cred = self.cred.load(before.real_cred)?;
        let signal = self.signal.load(before.signal)?;
        let after = self.task.load(at)?;
        let same = before.identity() == after.identity();
        // The later look is the one that is shown: its parts were together on one CPU's way through the task.
        Ok(same.then(|| (Task::new(at, &after, ppid, &cred, &signal), after)))
    }
}

/// Reads the task at an address.
pub(super) fn load(kernel: &Kernel, at: GuestVirt) -> Result<Task> {
    let loader = Loader::new(kernel)?;
    settle(&format!("the task at {at}"), || loader.once(at)).map(|(task, _)| task)
}

/// All processes.
pub(super) fn processes(kernel: &Kernel) -> Result<Tasks> {
    let loader = Loader::new(kernel)?;
    let lists = Lists::of(kernel)?;
    let head = lists.init_task.offset(lists.tasks);
    settle("the task list", || {
        collect(&loader, for_each_process(kernel)?, head, |task, at| {
            (task.tasks.prev, at.offset(lists.tasks))
        })
    })
}

/// The threads of `task`'s group.
pub(super) fn threads(kernel: &Kernel, task: &Task) -> Result<Tasks> {
    let loader = Loader::new(kernel)?;
    let lists = Lists::of(kernel)?;
    let head = task.signal.offset(lists.thread_head);
    settle(&format!("the thread list of {}", task.tgid), || {
        collect(
            &loader,
            for_each_thread(kernel, task.signal)?,
            head,
            |task, at| (task.thread_node.prev, at.offset(lists.thread_node)),
        )
    })
}

/// Reads the tasks of a list: `None` if a task changed. `links` gives a task's `prev` and its own node.
fn collect(
    loader: &Loader,
    walk: List<'_>,
    head: GuestVirt,
    links: impl Fn(&TaskStruct, GuestVirt) -> (GuestVirt, GuestVirt),
) -> Result<Option<Tasks>> {
    let mut tasks = Vec::new();
    let mut before = head;
    for at in walk {
        let at = at?;
        let Some((task, raw)) = loader.once(at)? else {
            return Ok(None);
        };
        let (prev, node) = links(&raw, at);
        follows(node, prev, before)?;
        before = node;
        tasks.push(task);
    }
    // The head closes the ring: its prev is its second word.
    follows(
        head,
        GuestVirt(loader.kernel.read_u64(head.offset(8))?),
        before,
    )?;
    Ok(Some(Listing::from(tasks)))
}

fn follows(node: GuestVirt, prev: GuestVirt, before: GuestVirt) -> Result<()> {
    if prev == before {
        return Ok(());
    }
    let why = format!("its prev is {prev}, but the node before it is {before}");
    Err(Error::Broken {
        what: "task list",
        at: node,
        why,
    })
}
