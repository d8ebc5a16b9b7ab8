use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `PF_KTHREAD` of `include/linux/sched.h`, in [`Task::flags`].
pub const PF_KTHREAD: u32 = 0x0020_0000;

/// A thread, from `/proc/TGID/task/PID/{stat,status,cmdline,exe,ns}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The thread.
    pub pid: i32,
    /// Its process: the pid of the thread group's leader.
    pub tgid: i32,
    /// The process's parent.
    pub ppid: i32,
    /// Its process group.
    pub pgrp: i32,
    /// Its session.
    pub session: i32,
    /// Its name.
    pub comm: String,
    /// `R`, `S`, `D`, `Z`, `T`, `t`, `I`, `X`.
    pub state: char,
    /// `task_struct.flags`.
    pub flags: u32,
    /// Threads of its process.
    pub num_threads: i64,
    /// Real, effective, saved and file-system user.
    pub uid: [u32; 4],
    /// Real, effective, saved and file-system group.
    pub gid: [u32; 4],
    /// `task_struct.static_prio` as nice value.
    pub nice: i64,
    /// As in `/proc/PID/stat`: `task_struct.prio - 100`.
    pub priority: i64,
    /// `task_struct.policy`.
    pub policy: u32,
    /// The processor it ran on last.
    pub processor: i32,
    /// Start time, in clock ticks (1/100 s) after boot.
    pub starttime: u64,
    /// Time in user mode, in clock ticks.
    pub utime: u64,
    /// Time in the kernel, in clock ticks.
    pub stime: u64,
    /// `task_struct.exit_signal`.
    pub exit_signal: i32,
    /// Blocked signals.
    pub blocked: u64,
    /// Effective capabilities.
    pub cap_effective: u64,
    /// Its pid in every pid namespace that it is in, outermost first.
    pub nspid: Vec<i32>,
    /// Inode numbers of its namespaces by their names (`pid`, `net`, `mnt`, `uts`, ..); empty for a zombie.
    pub namespaces: BTreeMap<String, u64>,
    /// Its arguments; empty for a kernel thread or a zombie.
    pub cmdline: Vec<String>,
    /// Its program; none for a kernel thread or a zombie.
    pub exe: Option<String>,
    /// Its address space; none for a kernel thread or a zombie.
    pub mm: Option<Mm>,
}

impl Task {
    /// Tells whether it is a thread of the kernel.
    pub fn is_kthread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// Tells whether it leads its thread group, so stands for its process.
    pub fn is_leader(&self) -> bool {
        self.pid == self.tgid
    }
}

/// An address space: sizes in KiB from `status`, addresses from `stat`.
///
/// The resident counters are the kernel's per-CPU counters summed up; between ticks a few pages may be
/// counted on a processor and not yet in the sum.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mm {
    /// `hiwater_vm` or `total_vm`, whichever is more.
    pub vm_peak: u64,
    /// `total_vm`.
    pub vm_size: u64,
    /// `locked_vm`.
    pub vm_lck: u64,
    /// `pinned_vm`.
    pub vm_pin: u64,
    /// `hiwater_rss` or what is resident, whichever is more.
    pub vm_hwm: u64,
    /// Resident: anonymous, file and shared memory.
    pub vm_rss: u64,
    /// `MM_ANONPAGES`.
    pub rss_anon: u64,
    /// `MM_FILEPAGES`.
    pub rss_file: u64,
    /// `MM_SHMEMPAGES`.
    pub rss_shmem: u64,
    /// `data_vm`.
    pub vm_data: u64,
    /// `stack_vm`.
    pub vm_stk: u64,
    /// Code of the program.
    pub vm_exe: u64,
    /// Code of its libraries.
    pub vm_lib: u64,
    /// `pgtables_bytes`.
    pub vm_pte: u64,
    /// `MM_SWAPENTS`.
    pub vm_swap: u64,
    /// `start_code`.
    pub start_code: u64,
    /// `end_code`.
    pub end_code: u64,
    /// `start_data`.
    pub start_data: u64,
    /// `end_data`.
    pub end_data: u64,
    /// `start_brk`.
    pub start_brk: u64,
    /// `start_stack`.
    pub start_stack: u64,
    /// `arg_start`.
    pub arg_start: u64,
    /// `arg_end`.
    pub arg_end: u64,
    /// `env_start`.
    pub env_start: u64,
    /// `env_end`.
    pub env_end: u64,
}
