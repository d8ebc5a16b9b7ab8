//! A task's use of resources: processor time, switches, faults, I/O (`kernel/sched/cputime.c`, `fs/proc/array.c`,
//! `include/linux/task_io_accounting.h`).

use serde::Serialize;

use crate::Result;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::sched::{Task, for_each_thread};
use crate::structures::settle;

/// Processor time, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CpuTime {
    /// Time in user mode, in nanoseconds.
    pub user: u64,
    /// Time in the kernel, in nanoseconds.
    pub system: u64,
}

/// Bytes and calls of reads and writes: `task_io_accounting`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Mirror)]
#[mirror(c = "struct task_io_accounting")]
pub struct IoAccounting {
    /// Bytes that `read()` and its like returned.
    pub rchar: u64,
    /// Bytes given to `write()` and its like.
    pub wchar: u64,
    /// Calls of `read()` and its like.
    pub syscr: u64,
    /// Calls of `write()` and its like.
    pub syscw: u64,
    /// Bytes that came from a device.
    pub read_bytes: u64,
    /// Bytes that go to a device.
    pub write_bytes: u64,
    /// Bytes of those that were cut off before they went.
    pub cancelled_write_bytes: u64,
}

/// A task's use of resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Times {
    /// Start time, in nanoseconds since boot, time asleep included.
    pub start: u64,
    /// The thread's own time, by where the clock's ticks found it.
    pub thread: CpuTime,
    /// The thread's own time on a CPU, exactly: `se.sum_exec_runtime`, in nanoseconds.
    pub exec: u64,
    /// The process's, dead threads included, as `/proc/PID/stat` has it: the exact sum, divided in the ticks' proportion.
    pub process: CpuTime,
    /// CPU time of its children that it has waited for.
    pub children: CpuTime,
    /// Number of voluntary switches: the thread waited (`nvcsw`).
    pub nvcsw: u64,
    /// Number of involuntary switches: it had to leave its CPU (`nivcsw`).
    pub nivcsw: u64,
    /// Page faults of the process that needed no I/O.
    pub min_flt: u64,
    /// Page faults of the process that needed I/O.
    pub maj_flt: u64,
    /// Such faults of its children that it has waited for.
    pub cmin_flt: u64,
    /// Such faults of its children that it has waited for.
    pub cmaj_flt: u64,
    /// Reads and writes of the process, dead threads included; `None` in a kernel that does not count them.
    pub io: Option<IoAccounting>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct Used {
    utime: u64,
    stime: u64,
    #[mirror(member = "se.sum_exec_runtime")]
    exec: u64,
    nvcsw: u64,
    nivcsw: u64,
    min_flt: u64,
    maj_flt: u64,
    ioac: Option<IoAccounting>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct prev_cputime")]
struct PrevCputime {
    utime: u64,
    stime: u64,
}

/// Use by dead threads, and by children that were waited for.
#[derive(Debug, Mirror)]
#[mirror(c = "struct signal_struct")]
struct Left {
    utime: u64,
    stime: u64,
    cutime: u64,
    cstime: u64,
    sum_sched_runtime: u64,
    prev_cputime: PrevCputime,
    min_flt: u64,
    maj_flt: u64,
    cmin_flt: u64,
    cmaj_flt: u64,
    ioac: Option<IoAccounting>,
}

impl Guest {
    /// Reads what a task and its process have used: times, switches, faults and I/O of `/proc/PID/stat`, `status`, `io`.
    ///
    /// These are counters, each whole by itself; of a task that runs they go on while they are read, and what it has run
    /// since the last tick is not yet among them.
    ///
    /// # Errors
    /// `Absent` if there is no such task; `Unmapped` if what it points to is not in RAM.
    pub fn times(&self, pid: i32) -> Result<Times> {
        let kernel = self.kernel()?;
        settle(&format!("the times of task {pid}"), || {
            let task = self.task(pid)?;
            let times = read(&kernel, &task)?;
            let same = self.task(pid)?;
            Ok((same.at == task.at && same.start_time == task.start_time).then_some(times))
        })
    }
}

fn read(kernel: &Kernel, task: &Task) -> Result<Times> {
    let plan = Plan::<Used>::new(kernel)?;
    let own = plan.load(task.at)?;
    let left: Left = kernel.load(task.signal)?;
    let mut sum = CpuTime {
        user: left.utime,
        system: left.stime,
    };
    let mut exec = left.sum_sched_runtime;
    let (mut min_flt, mut maj_flt, mut io) = (left.min_flt, left.maj_flt, left.ioac);
    let threads: Result<Vec<GuestVirt>> = for_each_thread(kernel, task.signal)?.collect();
    for thread in threads? {
        let used = plan.load(thread)?;
        sum.user = sum.user.wrapping_add(used.utime);
        sum.system = sum.system.wrapping_add(used.stime);
        exec = exec.wrapping_add(used.exec);
        min_flt = min_flt.wrapping_add(used.min_flt);
        maj_flt = maj_flt.wrapping_add(used.maj_flt);
        if let (Some(io), Some(more)) = (&mut io, used.ioac) {
            add(io, &more);
        }
    }
    Ok(Times {
        start: task.start_time,
        thread: CpuTime {
            user: own.utime,
            system: own.stime,
        },
        exec: own.exec,
        process: adjust(sum, exec, &left.prev_cputime),
        children: CpuTime {
            user: left.cutime,
            system: left.cstime,
        },
        nvcsw: own.nvcsw,
        nivcsw: own.nivcsw,
        min_flt,
        maj_flt,
        cmin_flt: left.cmin_flt,
        cmaj_flt: left.cmaj_flt,
        io,
    })
}

/// `task_io_accounting_add()`
fn add(to: &mut IoAccounting, more: &IoAccounting) {
    for (to, more) in [
        (&mut to.rchar, more.rchar),
        (&mut to.wchar, more.wchar),
        (&mut to.syscr, more.syscr),
        (&mut to.syscw, more.syscw),
        (&mut to.read_bytes, more.read_bytes),
        (&mut to.write_bytes, more.write_bytes),
        (&mut to.cancelled_write_bytes, more.cancelled_write_bytes),
    ] {
        *to = to.wrapping_add(more);
    }
}

/// `cputime_adjust()`: `ticks` tells the proportion of user and system time, `exec` how much it was together; neither
/// goes back behind what was shown before.
fn adjust(ticks: CpuTime, exec: u64, shown: &PrevCputime) -> CpuTime {
    let before = CpuTime {
        user: shown.utime,
        system: shown.stime,
    };
    if before.user.wrapping_add(before.system) >= exec {
        return before;
    }
    let all = u128::from(ticks.user) + u128::from(ticks.system);
    let system = match (ticks.user, ticks.system) {
        (_, 0) => 0,
        (0, _) => exec,
        // Not more than `exec`, which is a u64.
        (_, system) => (u128::from(system) * u128::from(exec) / all) as u64,
    };
    let system = system.max(before.system);
    let user = exec.saturating_sub(system);
    if user < before.user {
        return CpuTime {
            user: before.user,
            system: exec.saturating_sub(before.user),
        };
    }
    CpuTime { user, system }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_divided_as_the_ticks_are_and_never_go_back() {
        let ticks = |user, system| CpuTime { user, system };
        let none = PrevCputime { utime: 0, stime: 0 };
        assert_eq!(adjust(ticks(3, 1), 1000, &none), ticks(750, 250));
        assert_eq!(adjust(ticks(0, 0), 1000, &none), ticks(1000, 0));
        assert_eq!(adjust(ticks(0, 4), 1000, &none), ticks(0, 1000));
        let shown = PrevCputime {
            utime: 800,
            stime: 100,
        };
        assert_eq!(adjust(ticks(3, 1), 1000, &shown), ticks(800, 200));
        assert_eq!(adjust(ticks(3, 1), 900, &shown), ticks(800, 100));
        let most = adjust(ticks(u64::MAX, u64::MAX), u64::MAX, &none);
        assert_eq!(most.system, u64::MAX / 2);
    }
}
