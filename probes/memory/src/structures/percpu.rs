//! Per-CPU variables and the masks of CPUs (`include/linux/percpu-defs.h`, `include/linux/cpumask.h`).

use super::bitmap::cpumask;
use super::layout::member;
use crate::Result;
use crate::kernel::Kernel;
use crate::kernel::btf::Shape;
use crate::memory::GuestVirt;

/// The address of `cpu`'s copy of the per-CPU variable `symbol`: `per_cpu_ptr(&symbol, cpu)`.
///
/// # Errors
/// `Absent` if there is no such variable or CPU.
pub fn per_cpu_ptr(kernel: &Kernel, symbol: &str, cpu: u32) -> Result<GuestVirt> {
    kernel.per_cpu(kernel.symbol(symbol)?, cpu)
}

/// The CPUs that may come to be: `for_each_possible_cpu()`.
///
/// # Errors
/// `Absent` if the kernel has no such mask; `Unmapped` if it is not in RAM.
pub fn possible_cpus(kernel: &Kernel) -> Result<Vec<u32>> {
    cpus(kernel, "__cpu_possible_mask")
}

/// The CPUs that run: `for_each_online_cpu()`.
///
/// # Errors
/// As [`possible_cpus`].
pub fn online_cpus(kernel: &Kernel) -> Result<Vec<u32>> {
    cpus(kernel, "__cpu_online_mask")
}

fn cpus(kernel: &Kernel, mask: &str) -> Result<Vec<u32>> {
    let set = cpumask(kernel, kernel.symbol(mask)?, kernel.nr_cpus()? as usize)?;
    // A bit's number is below `nr_cpus`, which is a u32.
    Ok(set.into_iter().map(|cpu| cpu as u32).collect())
}

/// The CPUs in a member of the type `cpumask_var_t`: a pointer to a mask, or without CONFIG_CPUMASK_OFFSTACK the mask
/// itself. A NULL pointer is no CPUs.
///
/// # Errors
/// `Absent` where the kernel has no such member; when the mask cannot be read.
pub fn cpumask_var(kernel: &Kernel, owner: GuestVirt, (c, path): (&str, &str)) -> Result<Vec<u32>> {
    let field = member(kernel, c, path)?;
    let at = owner.offset(field.offset());
    let mask = match kernel.btf()?.shape(field.ty)? {
        Shape::Ptr(_) => GuestVirt(kernel.read_u64(at)?),
        _ => at,
    };
    if mask.is_null() {
        return Ok(Vec::new());
    }
    let set = cpumask(kernel, mask, kernel.nr_cpus()? as usize)?;
    Ok(set.into_iter().map(|cpu| cpu as u32).collect())
}
