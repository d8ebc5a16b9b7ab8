//! One task, as plain values.

use serde::Serialize;

use super::{Policy, TaskState};
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror};
use crate::{HasPid, Listing, Missing};

/// `PF_KTHREAD` of `include/linux/sched.h`.
pub(crate) const PF_KTHREAD: u64 = 0x0020_0000;

/// A process or thread: what was read of its `task_struct`, its `cred` and its `signal_struct`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Task {
    /// Address of its `struct task_struct`.
    pub at: GuestVirt,
    /// `pid`: the thread's own number, in the initial pid namespace.
    pub pid: i32,
    /// `tgid`: the number of its thread group, what user space calls the process.
    pub tgid: i32,
    /// The `tgid` of `real_parent`; `None` where that cannot be read.
    pub ppid: Option<i32>,
    /// `comm`: the name, up to 15 bytes, as [`text_of`](crate::text_of) has it.
    pub comm: String,
    /// A kernel thread's whole name, as `/proc/PID/comm` has it, where it says more than `comm`:
    /// `kworker/u8:2-events_unbound`, `rcu_exp_gp_kthread_worker`.
    pub full_name: Option<String>,
    /// Its state.
    pub state: TaskState,
    /// `flags`: `PF_*`.
    pub flags: u64,
    /// True if it is a kernel thread (`PF_KTHREAD`).
    pub kthread: bool,
    /// Threads in its group; `None` where its `signal` cannot be read.
    pub nr_threads: Option<i32>,
    /// Start time, in nanoseconds since boot, time asleep included (`start_boottime`).
    pub start_time: u64,
    /// Real user; `None`, as the next three, where its `real_cred` cannot be read.
    pub uid: Option<u32>,
    /// Effective user.
    pub euid: Option<u32>,
    /// Real group.
    pub gid: Option<u32>,
    /// Effective group.
    pub egid: Option<u32>,
    /// The CPU it runs on, or ran on last.
    pub cpu: u32,
    /// True if it is on that CPU right now.
    pub on_cpu: bool,
    /// `prio`, 0 to 139: lower is more urgent; below 100 is real time.
    pub prio: i32,
    /// The nice value, -20 to 19.
    pub nice: i32,
    /// `SCHED_*`.
    pub policy: Policy,
    /// Its address space; `None` for kernel threads and zombies.
    pub mm: Option<GuestVirt>,
    /// The lowest address of its kernel stack.
    pub stack: GuestVirt,
    /// `real_parent`.
    pub parent: GuestVirt,
    /// `group_leader`.
    pub group_leader: GuestVirt,
    /// `signal`: what the threads of a group share.
    pub signal: GuestVirt,
    /// Parts of it that could not be read. Of a task in a listing they stand in the listing's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Mirror)]
#[mirror(c = "struct list_head")]
pub(super) struct ListHead {
    pub(super) next: GuestVirt,
    pub(super) prev: GuestVirt,
}

#[derive(Debug, Clone, PartialEq, Eq, Mirror)]
#[mirror(c = "struct task_struct")]
pub(super) struct TaskStruct {
    pub(super) pid: i32,
    pub(super) tgid: i32,
    pub(super) comm: FixedStr<16>,
    #[mirror(member = "__state", or = "state")]
    pub(super) state: u64,
    pub(super) exit_state: u64,
    pub(super) flags: u64,
    #[mirror(member = "start_boottime", or = "real_start_time")]
    pub(super) start_time: u64,
    /// Absent without CONFIG_SMP.
    pub(super) on_cpu: Option<u32>,
    #[mirror(member = "thread_info.cpu", or = "cpu")]
    pub(super) cpu: Option<u32>,
    pub(super) prio: i32,
    pub(super) static_prio: i32,
    pub(super) policy: u32,
    pub(super) mm: GuestVirt,
    pub(super) stack: GuestVirt,
    pub(super) real_parent: GuestVirt,
    pub(super) group_leader: GuestVirt,
    pub(super) signal: GuestVirt,
    pub(super) real_cred: GuestVirt,
    pub(super) tasks: ListHead,
    pub(super) thread_node: ListHead,
}

impl TaskStruct {
    /// Members that must be the same before and after the rest of the task is read.
    pub(super) fn identity(&self) -> (i32, i32, [GuestVirt; 6], u64) {
        let links = [
            self.tasks.prev,
            self.thread_node.prev,
            self.real_parent,
            self.signal,
            self.real_cred,
            self.group_leader,
        ];
        (self.pid, self.tgid, links, self.start_time)
    }
}

#[derive(Debug, Clone, Mirror)]
#[mirror(c = "struct cred")]
pub(super) struct Cred {
    #[mirror(member = "uid.val")]
    uid: u32,
    #[mirror(member = "euid.val")]
    euid: u32,
    #[mirror(member = "gid.val")]
    gid: u32,
    #[mirror(member = "egid.val")]
    egid: u32,
}

#[derive(Debug, Clone, Mirror)]
#[mirror(c = "struct signal_struct")]
pub(super) struct SignalStruct {
    pub(super) nr_threads: i32,
}

impl Task {
    /// The name as `/proc/PID/comm` has it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.full_name.as_deref().unwrap_or(&self.comm)
    }

    /// The task of what was read of it, without what lies behind its pointers.
    pub(super) fn new(at: GuestVirt, task: &TaskStruct) -> Self {
        Self {
            at,
            pid: task.pid,
            tgid: task.tgid,
            ppid: None,
            comm: task.comm.to_str().into_owned(),
            full_name: None,
            state: TaskState::from_raw(task.state, task.exit_state),
            flags: task.flags,
            kthread: task.flags & PF_KTHREAD != 0,
            nr_threads: None,
            start_time: task.start_time,
            uid: None,
            euid: None,
            gid: None,
            egid: None,
            cpu: task.cpu.unwrap_or(0),
            on_cpu: task.on_cpu.is_some_and(|on| on != 0),
            prio: task.prio,
            // PRIO_TO_NICE: DEFAULT_PRIO is MAX_RT_PRIO + NICE_WIDTH / 2.
            nice: task.static_prio.wrapping_sub(120),
            policy: Policy(task.policy),
            mm: (!task.mm.is_null()).then_some(task.mm),
            stack: task.stack,
            parent: task.real_parent,
            group_leader: task.group_leader,
            signal: task.signal,
            missing: Vec::new(),
        }
    }

    /// Adds its users and groups.
    pub(super) fn belongs_to(&mut self, cred: &Cred) {
        (self.uid, self.euid) = (Some(cred.uid), Some(cred.euid));
        (self.gid, self.egid) = (Some(cred.gid), Some(cred.egid));
    }
}

/// Tasks, in the order in which the kernel has them.
pub type Tasks = Listing<Task>;

impl HasPid for Task {
    fn pid(&self) -> i32 {
        self.pid
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A task of which only the numbers matter.
    pub(crate) fn task(pid: i32, ppid: i32) -> Task {
        Task {
            at: GuestVirt(0xffff_8880_0000_0000 + 0x2000 * u64::from(pid.unsigned_abs())),
            pid,
            tgid: pid,
            ppid: Some(ppid),
            comm: format!("task-{pid}"),
            full_name: None,
            state: TaskState::Sleeping,
            flags: 0,
            kthread: false,
            nr_threads: Some(1),
            start_time: 0,
            uid: Some(0),
            euid: Some(0),
            gid: Some(0),
            egid: Some(0),
            cpu: 0,
            on_cpu: false,
            prio: 120,
            nice: 0,
            policy: Policy(0),
            mm: None,
            stack: GuestVirt(0),
            parent: GuestVirt(0),
            group_leader: GuestVirt(0),
            signal: GuestVirt(0),
            missing: Vec::new(),
        }
    }
}
