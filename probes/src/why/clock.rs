//! The kernel's clocks, as the run queues have them.

use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{offset_of, online_cpus, per_cpu_ptr};

/// The clock of the scheduler: nanoseconds, of the CPU that has it latest.
///
/// An idle CPU's stands still between its ticks: what is taken from it is at least what is true.
pub(super) fn task_clock(kernel: &Kernel) -> Result<u64> {
    let mut latest = 0;
    for cpu in online_cpus(kernel)? {
        latest = latest.max(of_cpu(kernel, cpu, "clock_task")?);
    }
    Ok(latest)
}

/// A clock of a CPU's `struct rq`, in nanoseconds.
pub(super) fn of_cpu(kernel: &Kernel, cpu: u32, member: &str) -> Result<u64> {
    let rq = per_cpu_ptr(kernel, "runqueues", cpu)?;
    kernel.read_u64(rq.offset(offset_of(kernel, "struct rq", member)?))
}

/// Time at which a task that sleeps ran last, by the same clock: `se.exec_start`, which `update_curr()` sets when it
/// leaves its CPU.
pub(super) fn ran(kernel: &Kernel, task: GuestVirt) -> Result<u64> {
    kernel.read_u64(task.offset(offset_of(kernel, "struct task_struct", "se.exec_start")?))
}
