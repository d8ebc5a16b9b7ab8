//! Walks along tasks, and what makes them hold while the guest runs.

use std::collections::HashSet;

use super::kthread::KthreadNames;
use super::task::{Cred, SignalStruct, TaskStruct};
use super::{Task, Tasks};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Plan;
use crate::structures::{List, lacks, list_for_each_entry, offset_of, per_cpu_ptr, settle_all};
use crate::{Error, ErrorKind, Listing, Of as _, Result};

/// As many tasks as a kernel may have: `PID_MAX_LIMIT` of a 64-bit kernel.
pub const TASK_BOUND: usize = 4 << 20;

/// Offsets of the two lists of tasks, worked out once for a kernel.
#[derive(Debug, Clone, Copy)]
struct Lists {
    init_task: GuestVirt,
    tasks: u64,
    thread_node: u64,
    thread_head: u64,
    nr_threads: u64,
}

impl Lists {
    fn of(kernel: &Kernel) -> Result<Self> {
        Ok(*kernel.once(|| {
            Ok(Self {
                init_task: kernel.symbol("init_task")?,
                tasks: offset_of(kernel, "struct task_struct", "tasks")?,
                thread_node: offset_of(kernel, "struct task_struct", "thread_node")?,
                thread_head: offset_of(kernel, "struct signal_struct", "thread_head")?,
                nr_threads: offset_of(kernel, "struct signal_struct", "nr_threads")?,
            })
        })?)
    }
}

/// Walks all processes, without `init_task`: yields the address of each leader's `task_struct`.
///
/// The bare walk: fast, unchecked against a guest that runs. Load what you want of each task by a
/// [`Plan`] of your own; [`Guest::tasks`](crate::Guest::tasks) checks and retries.
///
/// # Errors
/// `Absent` if the kernel lacks `init_task` or a member. Later errors are the walk's items.
pub fn for_each_process(kernel: &Kernel) -> Result<List<'_>> {
    let lists = Lists::of(kernel)?;
    Ok(
        list_for_each_entry(kernel, lists.init_task.offset(lists.tasks), lists.tasks)
            .bound(TASK_BOUND),
    )
}

/// Walks the threads that share the `signal_struct` at `signal`: yields each `task_struct`, the leader first.
///
/// # Errors
/// As [`for_each_process`].
pub fn for_each_thread(kernel: &Kernel, signal: GuestVirt) -> Result<List<'_>> {
    let lists = Lists::of(kernel)?;
    Ok(
        list_for_each_entry(kernel, signal.offset(lists.thread_head), lists.thread_node)
            .bound(TASK_BOUND),
    )
}

/// The task that `cpu` runs: the per-CPU variable `current_task`, which older kernels keep in `pcpu_hot`.
pub(crate) fn current(kernel: &Kernel, cpu: u32) -> Result<GuestVirt> {
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
    /// None where the kernel keeps no names of kernel threads but `comm`.
    kthreads: Option<KthreadNames>,
}

impl Loader {
    fn new(kernel: &Kernel) -> Result<Self> {
        Ok(Self {
            kernel: kernel.clone(),
            task: Plan::new(kernel)?,
            cred: Plan::new(kernel)?,
            signal: Plan::new(kernel)?,
            tgid: offset_of(kernel, "struct task_struct", "tgid")?,
            kthreads: KthreadNames::new(kernel).ok(),
        })
    }

    /// Reads one task: `None` if it changed between the first look and the last.
    fn once(&self, at: GuestVirt) -> Result<Option<(Task, TaskStruct)>> {
        let before = self.task.load(at)?;
        let parent = self.kernel.read_u32(before.real_parent.offset(self.tgid));
        let cred = self.cred.load(before.real_cred);
        let signal = self.signal.load(before.signal);
        let after = self.task.load(at)?;
        let same = before.identity() == after.identity();
        // The later look is the one that is shown: its parts were together on one CPU's way through the task.
        Ok(same.then(|| {
            let mut task = Task::new(at, &after);
            let missing = &mut task.missing;
            let pointer = |member: &str, at: GuestVirt| format!("its {member} {at}");
            let parent = parent.or_miss(missing, || pointer("real_parent", before.real_parent));
            let cred = cred.or_miss(missing, || pointer("real_cred", before.real_cred));
            let signal = signal.or_miss(missing, || pointer("signal", before.signal));
            task.ppid = parent.map(u32::cast_signed);
            task.nr_threads = signal.map(|signal| signal.nr_threads);
            if let Some(cred) = cred {
                task.belongs_to(&cred);
            }
            task.full_name = self
                .kthreads
                .as_ref()
                .and_then(|names| names.of(task.at, task.flags, &task.comm));
            (task, after)
        }))
    }
}

/// Reads the task at an address.
pub(super) fn load(kernel: &Kernel, at: GuestVirt) -> Result<Task> {
    let loader = Loader::new(kernel)?;
    settle_all(&format!("the task at {at}"), || {
        Ok(loader.once(at)?.map(|(task, _)| task))
    })
    .of(|| name(kernel, at))
}

/// The task at an address as an error names it: by number and name, as far as they can be read.
pub(crate) fn name(kernel: &Kernel, at: GuestVirt) -> String {
    let read = || {
        let pid = kernel.read_u32(at.offset(offset_of(kernel, "struct task_struct", "pid")?))?;
        let comm = at.offset(offset_of(kernel, "struct task_struct", "comm")?);
        Ok::<_, Error>((pid.cast_signed(), kernel.read_cstr(comm, 16)?))
    };
    match read() {
        Ok((pid, comm)) => format!("task {pid} ({comm}) at {at}"),
        Err(_) => format!("the task_struct at {at}"),
    }
}

lacks!(Task);

/// Has the listing tell what is missing of one of its tasks.
fn take_missing(task: &mut Task, tasks: &mut Tasks) {
    if !task.missing.is_empty() {
        let whole = format!("task {} ({}) at {}", task.pid, task.comm, task.at);
        let missing = std::mem::take(&mut task.missing).into_iter();
        tasks.missing.extend(missing.map(|part| part.of(&whole)));
    }
}

/// All processes. Where the list is damaged: those before the damage, those that `prev` reaches from the other end, and
/// those that only the numbers of the initial pid namespace lead to, with what could not be read.
pub(super) fn processes(kernel: &Kernel) -> Result<Tasks> {
    let loader = Loader::new(kernel)?;
    let lists = Lists::of(kernel)?;
    let head = lists.init_task.offset(lists.tasks);
    let tasks = settle_all("the task list", || {
        let found = collect(&loader, for_each_process(kernel)?, head, |task, at| {
            (task.tasks.prev, at.offset(lists.tasks))
        })?;
        let Some(mut tasks) = found else {
            return Ok(None);
        };
        if tasks.broken {
            salvage(kernel, &loader, lists, &mut tasks);
        }
        Ok(Some(tasks.found))
    })?;
    match tasks.missing.first() {
        // Nothing at all, and for a reason of the source: a machine that has ended, a dump that was cut off.
        Some(why) if tasks.is_empty() && why.kind.is_of_the_source() => Err(match why.kind {
            ErrorKind::Machine => Error::machine(why.error.clone()),
            _ => Error::io(why.error.clone()),
        }),
        _ => Ok(tasks),
    }
}

/// Adds the processes that a broken list does not lead to.
fn salvage(kernel: &Kernel, loader: &Loader, lists: Lists, tasks: &mut Found) {
    let head = lists.init_task.offset(lists.tasks);
    let mut behind = Vec::new();
    let add = |tasks: &mut Found, at: GuestVirt| {
        if !tasks.met.insert(at) {
            return None;
        }
        match loader.once(at) {
            Ok(Some((mut task, raw))) => {
                take_missing(&mut task, &mut tasks.found);
                Some((task, raw))
            }
            Ok(None) => None,
            Err(error) => {
                tasks.found.miss(name(kernel, at), &error);
                None
            }
        }
    };
    let (mut node, mut next) = (kernel.read_u64(head.offset(8)).map(GuestVirt), head);
    while let Ok(at) = node {
        let (task, seen) = (at.back(lists.tasks), tasks.met.len());
        // Its next must be the node that it was reached from, as the list's is forwards.
        let follows = kernel.read_u64(at).is_ok_and(|word| word == next.0);
        if at == head || !follows || seen > TASK_BOUND {
            break;
        }
        let Some((found, raw)) = add(tasks, task) else {
            break;
        };
        behind.push(found);
        (node, next) = (Ok(raw.tasks.prev), at);
    }
    tasks.found.items.extend(behind.into_iter().rev());
    match leaders(kernel) {
        Ok(leaders) => {
            for at in leaders {
                if let Some((task, _)) = add(tasks, at) {
                    tasks.found.items.push(task);
                }
            }
        }
        Err(error) => tasks.found.miss("the numbers of init_pid_ns", &error),
    }
}

/// The leaders of all thread groups, by the numbers of the initial pid namespace.
fn leaders(kernel: &Kernel) -> Result<Vec<GuestVirt>> {
    let leader = offset_of(kernel, "struct task_struct", "group_leader")?;
    let mut all = Vec::new();
    for task in super::pid::for_each_task(kernel)? {
        // Faults of one task are told where its list is walked.
        if let Ok(task) = task
            && kernel.read_u64(task.offset(leader)).ok() == Some(task.0)
        {
            all.push(task);
        }
    }
    Ok(all)
}

/// The threads of `task`'s group. The list is held against `signal->nr_threads`.
pub(super) fn threads(kernel: &Kernel, task: &Task) -> Result<Tasks> {
    let loader = Loader::new(kernel)?;
    let lists = Lists::of(kernel)?;
    let head = task.signal.offset(lists.thread_head);
    let count = task.signal.offset(lists.nr_threads);
    settle_all(&format!("the thread list of {}", task.tgid), || {
        let walk = for_each_thread(kernel, task.signal)?;
        let found = collect(&loader, walk, head, |task, at| {
            (task.thread_node.prev, at.offset(lists.thread_node))
        })?;
        let Some(Found {
            mut found, broken, ..
        }) = found
        else {
            return Ok(None);
        };
        let counted = kernel.read_u32(count)? as usize;
        if !broken && found.is_whole() && found.len() != counted {
            let why = format!(
                "it has {} threads, its nr_threads says {counted}",
                found.len()
            );
            let error = Error::Broken {
                what: "thread list",
                at: head,
                why,
            };
            found.miss(format!("threads of {} ({})", task.tgid, task.comm), &error);
        }
        Ok(Some(found))
    })
}

/// Result of the walk along a list of tasks.
struct Found {
    found: Tasks,
    /// Every task that was met, whether it could be read or not.
    met: HashSet<GuestVirt>,
    /// The list's own links are damaged, so that tasks may be left.
    broken: bool,
}

/// Reads the tasks of a list: `None` if a task changed. `links` gives a task's `prev` and its own node.
fn collect(
    loader: &Loader,
    walk: List<'_>,
    head: GuestVirt,
    links: impl Fn(&TaskStruct, GuestVirt) -> (GuestVirt, GuestVirt),
) -> Result<Option<Found>> {
    let mut tasks = Found {
        found: Listing::new(),
        met: HashSet::new(),
        broken: false,
    };
    let mut before = head;
    let mut last = None;
    let behind = |last: Option<GuestVirt>| match last {
        Some(at) => format!("the list behind {}", name(&loader.kernel, at)),
        None => "the list".to_owned(),
    };
    for at in walk {
        let at = match at {
            Ok(at) => at,
            Err(error) => {
                tasks.found.miss(behind(last), &error);
                tasks.broken = true;
                return Ok(Some(tasks));
            }
        };
        let raw = match loader.task.load(at) {
            Ok(raw) => raw,
            Err(error) => {
                tasks.found.miss(behind(last), &error);
                tasks.broken = true;
                return Ok(Some(tasks));
            }
        };
        let (prev, node) = links(&raw, at);
        if let Err(error) = follows(node, prev, before) {
            tasks.found.miss(behind(last), &error);
            tasks.broken = true;
            return Ok(Some(tasks));
        }
        tasks.met.insert(at);
        match loader.once(at) {
            Ok(Some((mut task, _))) => {
                take_missing(&mut task, &mut tasks.found);
                tasks.found.items.push(task);
            }
            Ok(None) => return Ok(None),
            Err(error) => tasks.found.miss(name(&loader.kernel, at), &error),
        }
        before = node;
        last = Some(at);
    }
    // The head closes the ring: its prev is its second word.
    let closing = GuestVirt(loader.kernel.read_u64(head.offset(8))?);
    if let Err(error) = follows(head, closing, before) {
        tasks.found.miss("the head of the list", &error);
        tasks.broken = true;
    }
    Ok(Some(tasks))
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
