//! Pids: one task has one number in each pid namespace it is visible in (`include/linux/pid.h`, `kernel/pid.c`).

use serde::Serialize;

use super::{for_each_process, for_each_thread};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::structures::{
    IdrLayout, array, enumerator, hlist_for_each_entry, idr_for_each, idr_load, offset_of,
};
use crate::{Error, Result};

/// `MAX_PID_NS_LEVEL` of `include/linux/pid_namespace.h`.
const MAX_PID_NS_LEVEL: u32 = 32;

/// A task's number in one pid namespace: its `upid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PidNumber {
    /// Depth of the namespace; 0 is the initial one.
    pub level: u32,
    /// The number there.
    pub nr: i32,
    /// The `pid_namespace`.
    pub ns: GuestVirt,
    /// The namespace's inode number, as `/proc/PID/ns/pid` shows it.
    pub inum: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct pid")]
struct Pid {
    level: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct upid")]
struct Upid {
    nr: i32,
    ns: GuestVirt,
}

/// The task that has `pid` in the initial pid namespace: `find_task_by_pid_ns(pid, &init_pid_ns)`, else the one of that
/// `pid` in the list of all processes. In the middle of a fork or of an exit a task is in that list, and not at its number
/// (`copy_process()` of `kernel/fork.c`, `__unhash_process()` of `kernel/exit.c`).
///
/// # Errors
/// `Broken` or `Unmapped` if the idr of the namespace or the pid's list is damaged; `LeftOut` or `Io` where it is at no number
/// and the source lacks a part of the list of all.
pub fn find_task_by_pid(kernel: &Kernel, pid: i32) -> Result<Option<GuestVirt>> {
    match at_number(kernel, pid)? {
        None => match listed(kernel, pid) {
            // The list moves, or is damaged: it says nothing against the number. What the source does not have, nobody knows.
            Err(error) if !error.kind().is_of_the_source() => Ok(None),
            other => other,
        },
        found => Ok(found),
    }
}

/// The task of this `pid` in the list of all processes and their threads.
fn listed(kernel: &Kernel, pid: i32) -> Result<Option<GuestVirt>> {
    let nr = offset_of(kernel, "struct task_struct", "pid")?;
    let signal = offset_of(kernel, "struct task_struct", "signal")?;
    for process in for_each_process(kernel)? {
        let signal = GuestVirt(kernel.read_u64(process?.offset(signal))?);
        for thread in for_each_thread(kernel, signal)? {
            let thread = thread?;
            if kernel.read_u32(thread.offset(nr))?.cast_signed() == pid {
                return Ok(Some(thread));
            }
        }
    }
    Ok(None)
}

fn at_number(kernel: &Kernel, pid: i32) -> Result<Option<GuestVirt>> {
    let Ok(id) = u64::try_from(pid) else {
        return Ok(None);
    };
    let idr =
        kernel
            .symbol("init_pid_ns")?
            .offset(offset_of(kernel, "struct pid_namespace", "idr")?);
    let Some(pid) = idr_load(kernel, idr, IdrLayout::of(kernel)?, id)? else {
        return Ok(None);
    };
    // PIDTYPE_PID is 0: the first list of a pid holds the one task that has it, linked by its first pid link.
    let (tasks, _, _) = array(kernel, "struct pid", "tasks")?;
    let (links, _, _) = array(kernel, "struct task_struct", "pid_links")?;
    hlist_for_each_entry(kernel, pid.offset(tasks), links)
        .bound(1)
        .next()
        .transpose()
}

/// Walks the tasks, processes and threads, by their numbers in the initial pid namespace: a second way to them beside the
/// list of all processes.
pub(crate) fn for_each_task(
    kernel: &Kernel,
) -> Result<impl Iterator<Item = Result<GuestVirt>> + '_> {
    let idr =
        kernel
            .symbol("init_pid_ns")?
            .offset(offset_of(kernel, "struct pid_namespace", "idr")?);
    let (tasks, _, _) = array(kernel, "struct pid", "tasks")?;
    let (links, _, _) = array(kernel, "struct task_struct", "pid_links")?;
    let all = idr_for_each(kernel, idr, IdrLayout::of(kernel)?)?;
    Ok(all.filter_map(move |pid| match pid {
        Ok((_, pid)) => hlist_for_each_entry(kernel, pid.offset(tasks), links)
            .bound(1)
            .next(),
        Err(error) => Some(Err(error)),
    }))
}

/// The number in the initial pid namespace of what a `signal_struct` names by `kind`, such as `PIDTYPE_PGID`, its process
/// group: `signal->pids[kind]`. 0 for one that is not in that namespace.
pub(crate) fn pid_nr(kernel: &Kernel, signal: GuestVirt, kind: &'static str) -> Result<i32> {
    let Some(index) = enumerator(kernel, kind)? else {
        return Err(Error::Unsupported(format!(
            "{} has no enumerator `{kind}`",
            kernel.release()
        )));
    };
    let (pids, _, stride) = array(kernel, "struct signal_struct", "pids")?;
    let at = signal.offset(pids + stride * index.unsigned_abs());
    let pid = GuestVirt(kernel.read_u64(at)?);
    if pid.is_null() {
        return Ok(0);
    }
    let (numbers, ..) = array(kernel, "struct pid", "numbers")?;
    let nr = offset_of(kernel, "struct upid", "nr")?;
    Ok(kernel.read_u32(pid.offset(numbers + nr))?.cast_signed())
}

/// The numbers of the task at `task`, one for each pid namespace that it is in, the initial one first. None for a task
/// that was reaped.
///
/// # Errors
/// `Unmapped` if its `struct pid` is not in RAM; `Broken` if that has more levels than namespaces can nest.
pub fn pid_numbers(kernel: &Kernel, task: GuestVirt) -> Result<Vec<PidNumber>> {
    let pid = GuestVirt(kernel.read_u64(task.offset(offset_of(
        kernel,
        "struct task_struct",
        "thread_pid",
    )?))?);
    if pid.is_null() {
        return Ok(Vec::new());
    }
    let level = kernel.load::<Pid>(pid)?.level;
    if level > MAX_PID_NS_LEVEL {
        let why = format!("its level is {level}, deeper than {MAX_PID_NS_LEVEL}");
        return Err(Error::Broken {
            what: "pid",
            at: pid,
            why,
        });
    }
    let (numbers, _, stride) = array(kernel, "struct pid", "numbers")?;
    let inum = offset_of(kernel, "struct pid_namespace", "ns.inum")?;
    let upid = |level: u32| {
        let upid = kernel.load::<Upid>(pid.offset(numbers + stride * u64::from(level)))?;
        Ok(PidNumber {
            level,
            nr: upid.nr,
            ns: upid.ns,
            inum: kernel.read_u32(upid.ns.offset(inum))?,
        })
    };
    (0..=level).map(upid).collect()
}
