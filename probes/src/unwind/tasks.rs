//! The tasks whose stacks are shown: every thread, of which no more is read than a stack needs.

use std::collections::HashSet;

use crate::base::Of as _;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::sched::{
    PF_KTHREAD, TaskState, find_task_by_pid, for_each_process, for_each_task, for_each_thread,
};
use crate::structures::{offset_of, settle};
use crate::{Error, Listing, Result};

/// Members of `task_struct` for reading a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Mirror)]
#[mirror(c = "struct task_struct")]
pub(super) struct Raw {
    pub(super) pid: i32,
    tgid: i32,
    comm: FixedStr<16>,
    #[mirror(member = "__state", or = "state")]
    state: u64,
    exit_state: u64,
    flags: u64,
    /// Absent without CONFIG_SMP.
    on_cpu: Option<u32>,
    stack: GuestVirt,
    /// Number of references to the stack, `stack_refcount`; absent without CONFIG_THREAD_INFO_IN_TASK.
    #[mirror(member = "stack_refcount.refs.counter")]
    stack_refcount: Option<u32>,
    signal: GuestVirt,
    #[mirror(member = "start_boottime", or = "real_start_time")]
    start_time: u64,
    #[mirror(member = "thread.sp")]
    pub(super) sp: GuestVirt,
    #[mirror(member = "thread_node.prev")]
    prev: GuestVirt,
}

/// A task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thread {
    pub(super) at: GuestVirt,
    pub(super) raw: Raw,
}

impl Thread {
    pub(super) fn load(plan: &Plan<Raw>, at: GuestVirt) -> Result<Self> {
        Ok(Self {
            at,
            raw: plan.load(at)?,
        })
    }

    pub(super) const fn flags(&self) -> u64 {
        self.raw.flags
    }

    pub(super) fn comm(&self) -> String {
        self.raw.comm.to_str().into_owned()
    }

    /// `task 132 (cat)`
    pub(super) fn who(&self) -> String {
        format!("task {} ({})", self.raw.pid, self.comm())
    }

    pub(super) const fn state(&self) -> TaskState {
        TaskState::from_raw(self.raw.state, self.raw.exit_state)
    }

    pub(super) const fn kthread(&self) -> bool {
        self.raw.flags & PF_KTHREAD != 0
    }

    /// Tells whether a CPU runs it, is about to, or has just left it.
    pub(super) fn on_cpu(&self) -> bool {
        self.raw.on_cpu.is_some_and(|on| on != 0)
    }

    /// The lowest address of its stack; `None` for one whose stack is freed.
    pub(super) fn stack(&self) -> Option<GuestVirt> {
        let freed = self.raw.stack.is_null() || self.raw.stack_refcount == Some(0);
        (!freed).then_some(self.raw.stack)
    }

    /// Tells whether it is the same task still.
    pub(super) fn is(&self, other: &Self) -> bool {
        let of = |thread: &Self| (thread.at, thread.raw.pid, thread.raw.start_time);
        of(self) == of(other)
    }
}

/// All tasks of the lists, and those that only their PIDs lead to; what is wrong with a list is missing.
pub(super) fn all(kernel: &Kernel, plan: &Plan<Raw>) -> Result<Listing<Thread>> {
    let mut reader = Reader {
        kernel,
        plan,
        list: Listing::new(),
        seen: HashSet::new(),
    };
    for at in reader.leaders()? {
        match Thread::load(plan, at) {
            Ok(leader) => reader.group(&leader)?,
            Err(error) => reader.list.miss(format!("the task at {at}"), &error),
        }
    }
    if let Err(error) = reader.by_pid() {
        reader.list.miss("the tasks by their PIDs", &error);
    }
    Ok(reader.list)
}

struct Reader<'k> {
    kernel: &'k Kernel,
    plan: &'k Plan<Raw>,
    list: Listing<Thread>,
    seen: HashSet<GuestVirt>,
}

impl Reader<'_> {
    /// The processes of the list; of a broken one, those before the break.
    fn leaders(&mut self) -> Result<Vec<GuestVirt>> {
        let what = "the list of all tasks";
        let strict = settle(what, || {
            let all = for_each_process(self.kernel)?.collect::<Result<Vec<_>>>();
            all.map(Some)
        });
        strict.or_else(|error| {
            self.miss(what, &error)?;
            let walk = for_each_process(self.kernel)?;
            Ok(walk.map_while(Result::ok).collect())
        })
    }

    /// Notes what is wrong with a list, unless a CPU stands still in the middle of changing the lists: what it has not
    /// linked yet, the PIDs lead to.
    fn miss(&mut self, what: &str, error: &Error) -> Result<()> {
        if !tasklist_is_locked(self.kernel)? {
            self.list.miss(what, error);
        }
        Ok(())
    }

    fn add(&mut self, thread: Thread) {
        if self.seen.insert(thread.at) {
            self.list.items.push(thread);
        }
    }

    /// The threads of a process.
    fn group(&mut self, leader: &Thread) -> Result<()> {
        let (kernel, plan) = (self.kernel, self.plan);
        let what = format!(
            "the list of threads of process {} ({})",
            leader.raw.pid,
            leader.comm()
        );
        let strict = settle(&what, || threads(kernel, plan, leader));
        let error = match strict {
            Ok(threads) => {
                threads.into_iter().for_each(|thread| self.add(thread));
                return Ok(());
            }
            Err(error) => error,
        };
        // It may have exited meanwhile.
        let now = find_task_by_pid(kernel, leader.raw.pid);
        let there = now.as_ref().is_ok_and(|now| *now != Some(leader.at));
        if there && !Thread::load(plan, leader.at).is_ok_and(|now| now.is(leader)) {
            return Ok(());
        }
        self.miss(&what, &error)?;
        self.add(*leader);
        for at in for_each_thread(kernel, leader.raw.signal)?.map_while(Result::ok) {
            match Thread::load(plan, at) {
                Ok(thread) if thread.raw.signal == leader.raw.signal => self.add(thread),
                _ => break,
            }
        }
        Ok(())
    }

    /// The tasks that no list led to: a PID leads to its task, too.
    fn by_pid(&mut self) -> Result<()> {
        for at in for_each_task(self.kernel)? {
            let at = match at {
                Ok(at) if self.seen.contains(&at) => continue,
                at => at,
            };
            match at.and_then(|at| Thread::load(self.plan, at)) {
                Ok(thread) => self.add(thread),
                Err(error) => self.list.miss("a task that its PID leads to", &error),
            }
        }
        Ok(())
    }
}

/// The threads of a process by its list, each link of it checked, and their number against what the kernel counts.
fn threads(kernel: &Kernel, plan: &Plan<Raw>, leader: &Thread) -> Result<Option<Vec<Thread>>> {
    let signal = leader.raw.signal;
    let c = "struct signal_struct";
    let node = offset_of(kernel, "struct task_struct", "thread_node")?;
    let mut before = signal.offset(offset_of(kernel, c, "thread_head")?);
    let broken = |at, why| Error::Broken {
        what: "list of threads",
        at,
        why,
    };
    let mut threads = Vec::new();
    for at in for_each_thread(kernel, signal).of(|| "its signal_struct")? {
        let at = at?;
        let thread = Thread::load(plan, at).of(|| format!("the task at {at}"))?;
        if thread.raw.prev != before {
            let prev = thread.raw.prev;
            let why = format!("its prev is {prev}, but the node before it is {before}");
            return Err(broken(at.offset(node), why));
        }
        before = at.offset(node);
        threads.push(thread);
    }
    let at = signal.offset(offset_of(kernel, c, "nr_threads")?);
    let count = kernel.read_u32(at).of(|| "its signal_struct")?;
    let moves = || tasklist_is_locked(kernel);
    if threads.len() as u64 != u64::from(count) && !moves()? {
        let why = format!("it has {} threads, nr_threads is {count}", threads.len());
        return Err(broken(at, why));
    }
    Ok(Some(threads))
}

/// Tells whether a CPU is about to change the lists: the lock's word has what `queued_write_lock()` or a writer of an
/// `rwbase_rt` puts there.
fn tasklist_is_locked(kernel: &Kernel) -> Result<bool> {
    const QW_LOCKED: u32 = 0xff;
    const WRITER_BIAS: u32 = 1 << 30;
    let word = kernel.read_u32(kernel.symbol("tasklist_lock")?)?;
    Ok(word & QW_LOCKED == QW_LOCKED || word & WRITER_BIAS != 0)
}
