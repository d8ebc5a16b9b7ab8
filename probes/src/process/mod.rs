//! One task in full: what `/proc/PID` has of it, read from what its `task_struct` points to (`fs/proc/array.c`,
//! `fs/proc/base.c`).
//!
//! ```no_run
//! # use probes::Guest;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! let init = guest.process(1)?;
//! let may = init.credentials.map(|cred| cred.effective.names);
//! println!("{:?} {may:?}", init.cmdline);
//! # Ok(())
//! # }
//! ```
//!
//! Each part can be read alone: `guest.credentials(1)`, `guest.signals(1)`, `guest.rlimits(1)`, .. A part is read twice,
//! and again until it is the same both times and of the same task.

mod args;
mod cred;
pub mod exec;
mod nsproxy;
mod resource;
mod signal;
mod times;
mod view;

pub(crate) use nsproxy::namespaces;

pub use cred::{CAPABILITIES, Capabilities, Credentials, Ids, Seccomp, SeccompMode};
pub use nsproxy::{Member, Namespace, NamespaceInUse, Namespaces, TaskNamespaces};
pub use resource::{Rlimit, Rlimits};
pub use signal::{Disposition, QueuedSignal, SignalAction, SignalSet, Signals, signal_name};
pub use times::{CpuTime, IoAccounting, Times};

use serde::Serialize;

use crate::fs::d_path;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::sched::cgroup::TaskCgroups;
use crate::sched::{Task, pid_nr};
use crate::structures::{offset_of, twice};
use crate::{Error, Listing, Missing, Of as _, Result};

/// Most ancestors of a task that are read.
const ANCESTORS: usize = 4096;

/// A task in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// The values that `ps` shows.
    pub task: Task,
    /// Its process group; `None` where it could not be read, as with all that follows: `missing` says why.
    pub pgrp: Option<i32>,
    /// Its session.
    pub session: Option<i32>,
    /// Its parents, from the nearest to the first process.
    pub ancestry: Vec<Ancestor>,
    /// Its arguments; empty of a kernel thread or zombie.
    pub cmdline: Option<Vec<String>>,
    /// Its environment; empty of a kernel thread or zombie.
    pub environ: Option<Vec<String>>,
    /// Its program; none of a kernel thread or zombie.
    pub exe: Option<String>,
    /// Its working directory; none of a zombie.
    pub cwd: Option<String>,
    /// Its root directory; none of a zombie.
    pub root: Option<String>,
    /// Its users, groups and capabilities.
    pub credentials: Option<Credentials>,
    /// Its signals; none once it was reaped.
    pub signals: Option<Signals>,
    /// Its limits.
    pub rlimits: Rlimits,
    /// Its namespaces.
    pub namespaces: TaskNamespaces,
    /// Its control groups.
    pub cgroups: TaskCgroups,
    /// Its use of processor time, its switches, faults and I/O.
    pub times: Option<Times>,
    /// Parts of it that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// A parent of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ancestor {
    /// Its process: `tgid`.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Its `task_struct`.
    pub at: GuestVirt,
}

impl Guest {
    /// The parents of the task `pid` up to the first process, the nearest first.
    ///
    /// # Errors
    /// `Absent` if there is no such task; `Broken` if the parents do not end; `Torn` if they keep changing.
    pub fn ancestry(&self, pid: i32) -> Result<Vec<Ancestor>> {
        self.of_task(pid, "the parents", |kernel, task| {
            let mut all = Vec::new();
            let mut at = task.parent;
            // The idle task is its own parent.
            while all.len() < ANCESTORS {
                let parent: Parent = kernel.load(at)?;
                if parent.tgid == 0 {
                    return Ok(all);
                }
                all.push(Ancestor {
                    pid: parent.tgid,
                    comm: parent.comm.to_str().into_owned(),
                    at,
                });
                at = parent.real_parent;
            }
            Err(Error::TooLong {
                what: "chain of parents",
                at: task.at,
                bound: ANCESTORS,
            })
        })
    }

    /// The path of a task's program.
    fn exe(&self, task: &Task) -> Result<Option<String>> {
        if task.mm.is_none() {
            return Ok(None);
        }
        let kernel = self.kernel()?;
        let file = self.mm_of(task)?.exe_file;
        if file.is_null() {
            return Ok(None);
        }
        let path = file.offset(offset_of(&kernel, "struct file", "f_path")?);
        d_path(&kernel, path).map(Some)
    }

    /// Reads what belongs to the task `pid`, until it is twice the same, and the task too.
    pub(crate) fn of_task<T: PartialEq>(
        &self,
        pid: i32,
        what: &str,
        read: impl Fn(&Kernel, &Task) -> Result<T>,
    ) -> Result<T> {
        let kernel = self.kernel()?;
        let both = twice(&format!("{what} of task {pid}"), || {
            let task = self.task(pid)?;
            Ok((task.at, task.start_time, read(&kernel, &task)?))
        });
        both.map(|(_, _, value)| value)
    }
}

/// The task `pid`, a process or thread, in full. A part that cannot be read does not hide the others.
///
/// # Errors
/// When there is no such task, or its `task_struct` itself cannot be read.
pub(crate) fn process(guest: &Guest, pid: i32) -> Result<Process> {
    let mut task = guest.task(pid)?;
    let kernel = guest.kernel()?;
    let mut missing = std::mem::take(&mut task.missing);
    let number = |kind: &'static str| {
        guest.of_task(pid, "the process group", |kernel, task| {
            pid_nr(kernel, task.signal, kind)
        })
    };
    // Once it has exited it has none.
    let fs = match guest.task_pointer(&task, "fs", "directories") {
        Err(Error::Absent(_)) => None,
        fs => fs.or_miss(&mut missing, || "its fs"),
    };
    let path = |member: &str, missing: &mut Vec<Missing>| {
        let fs = fs?;
        let path = offset_of(&kernel, "struct fs_struct", member)
            .and_then(|offset| d_path(&kernel, fs.offset(offset)));
        path.or_miss(missing, || format!("the {member} of its fs_struct {fs}"))
    };
    let signals = match guest.signals(pid) {
        Err(Error::Absent(_)) => None,
        signals => signals.or_miss(&mut missing, || "its signals"),
    };
    let missing = &mut missing;
    Ok(Process {
        pgrp: number("PIDTYPE_PGID").or_miss(missing, || "its process group"),
        session: number("PIDTYPE_SID").or_miss(missing, || "its session"),
        ancestry: guest
            .ancestry(pid)
            .or_miss(missing, || "its parents")
            .unwrap_or_default(),
        cmdline: guest.cmdline(pid).or_miss(missing, || "its arguments"),
        environ: guest.environ(pid).or_miss(missing, || "its environment"),
        exe: guest
            .exe(&task)
            .or_miss(missing, || "its program")
            .flatten(),
        cwd: path("pwd", missing),
        root: path("root", missing),
        credentials: guest
            .credentials(pid)
            .or_miss(missing, || "its credentials"),
        signals,
        rlimits: whole(guest.rlimits(pid), missing, "its limits"),
        namespaces: whole(guest.task_namespaces(pid), missing, "its namespaces"),
        cgroups: whole(guest.cgroup(pid), missing, "its control groups"),
        times: guest.times(pid).or_miss(missing, || "its times"),
        task,
        missing: std::mem::take(missing),
    })
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct Parent {
    tgid: i32,
    comm: crate::object::FixedStr<16>,
    real_parent: GuestVirt,
}

/// A list that is a part of something larger: what is missing of it is missing there.
fn whole<T>(list: Result<Listing<T>>, missing: &mut Vec<Missing>, what: &str) -> Listing<T> {
    let mut list = list.or_miss(missing, || what).unwrap_or_default();
    missing.extend(list.missing.drain(..).map(|part| part.of(what)));
    list
}
