//! Faults that keep a whole machine from going on: a panic, a CPU that does not change tasks, RCU, work that is not
//! begun.

use super::{Reason, clock};
use crate::core::{rcu, workqueue};
use crate::kernel::Kernel;
use crate::locking::Contender;
use crate::sched;
use crate::structures::{cpumask, offset_of, online_cpus, per_cpu_ptr};
use crate::{Missing, Of as _, Result};

/// `TAINT_DIE`: bit 7 of `tainted_mask` (`include/linux/panic.h`).
const TAINT_DIE: u64 = 1 << 7;
/// `WATCHDOG_SOFTOCKUP_ENABLED_BIT` of `include/linux/nmi.h`, under whichever name: the detector of soft lockups runs.
const SOFT: u64 = 1 << 1;
/// `get_timestamp()` of `kernel/watchdog.c` takes 2^30 nanoseconds for a second.
const SECOND: u32 = 30;

/// The reasons that concern all tasks.
pub(super) fn reasons(kernel: &Kernel, missing: &mut Vec<Missing>) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let panic = panic(kernel).or_miss(missing, || "whether the kernel has panicked");
    reasons.extend(panic.flatten());
    let lockups = lockups(kernel, missing).or_miss(missing, || "the watchdogs of the CPUs");
    reasons.extend(lockups.into_iter().flatten());
    let stall = grace_period(kernel, missing).or_miss(missing, || "the state of RCU");
    reasons.extend(stall.flatten());
    let pools = pools(kernel, missing).or_miss(missing, || "the pools of workers");
    reasons.extend(pools.into_iter().flatten());
    reasons
}

fn panic(kernel: &Kernel) -> Result<Option<Reason>> {
    let cpu = kernel.read_u32(kernel.symbol("panic_cpu")?)?;
    // PANIC_CPU_INVALID is -1.
    if cpu != u32::MAX {
        return Ok(Some(Reason::Panic { cpu }));
    }
    let taint = kernel.read_u64(kernel.symbol("tainted_mask")?)?;
    Ok((taint & TAINT_DIE != 0).then_some(Reason::Oops))
}

/// The CPUs whose watchdog's thread has not run for too long: `is_softlockup()` of `kernel/watchdog.c`.
fn lockups(kernel: &Kernel, missing: &mut Vec<Missing>) -> Result<Vec<Reason>> {
    // A kernel without CONFIG_SOFTLOCKUP_DETECTOR looks for none.
    let Some(enabled) = kernel.find_symbol("watchdog_enabled")? else {
        return Ok(Vec::new());
    };
    if kernel.find_symbol("watchdog_touch_ts")?.is_none() || kernel.read_u64(enabled)? & SOFT == 0 {
        return Ok(Vec::new());
    }
    let limit = u64::from(kernel.read_u32(kernel.symbol("watchdog_thresh")?)?) * 2;
    // Before 5.13 a 0 asked for the time to be set anew; since then it is the first second of the boot.
    let zero_is_none = kernel.find_symbol("watchdog_report_ts")?.is_none();
    let watched = cpumask(
        kernel,
        kernel.symbol("watchdog_cpumask")?,
        kernel.nr_cpus()? as usize,
    )?;
    let mut reasons = Vec::new();
    for cpu in online_cpus(kernel)? {
        if !watched.contains(&(cpu as usize)) {
            continue;
        }
        let lockup = || -> Result<Option<Reason>> {
            let touched = kernel.read_u64(per_cpu_ptr(kernel, "watchdog_touch_ts", cpu)?)?;
            let now = clock::of_cpu(kernel, cpu, "clock")? >> SECOND;
            let seconds = now.saturating_sub(touched);
            if limit == 0 || (touched == 0 && zero_is_none) || seconds <= limit {
                return Ok(None);
            }
            let task = Contender::read(kernel, sched::current(kernel, cpu)?)?;
            Ok(Some(Reason::SoftLockup { cpu, task, seconds }))
        };
        let found = lockup().or_miss(missing, || format!("the watchdog of CPU {cpu}"));
        reasons.extend(found.flatten());
    }
    Ok(reasons)
}

/// Nanoseconds of a jiffy, by the clock source of that name, and the jiffies since boot.
pub(super) fn jiffies(kernel: &Kernel) -> Result<(u64, u64)> {
    let clock = kernel.symbol("clocksource_jiffies")?;
    let of = |member| -> Result<u32> {
        kernel.read_u32(clock.offset(offset_of(kernel, "struct clocksource", member)?))
    };
    let (mult, shift) = (of("mult")?, of("shift")?);
    let nanos = u64::from(mult).checked_shr(shift).unwrap_or(0);
    Ok((nanos, kernel.read_u64(kernel.symbol("jiffies_64")?)?))
}

/// A grace period that has lasted longer than `rcu_cpu_stall_timeout` seconds.
fn grace_period(kernel: &Kernel, missing: &mut Vec<Missing>) -> Result<Option<Reason>> {
    let (nanos, now) = jiffies(kernel)?;
    let start = offset_of(kernel, "struct rcu_state", "gp_start")?;
    let start = kernel.read_u64(kernel.symbol("rcu_state")?.offset(start))?;
    let limit = kernel.read_u32(kernel.symbol("rcu_cpu_stall_timeout")?)?;
    let seconds = now.saturating_sub(start).saturating_mul(nanos) / 1_000_000_000;
    if seconds <= u64::from(limit) {
        return Ok(None);
    }
    // RCU's debts are read only now: a grace period that began meanwhile is none that lasts.
    let rcu = rcu::rcu(kernel)?;
    missing.extend(rcu.missing.iter().cloned());
    let cpus = rcu.cpus.iter().filter(|cpu| cpu.waited_for);
    let cpus = cpus.map(|cpu| cpu.cpu).collect();
    Ok(rcu.under_way.then_some(Reason::RcuStall { cpus, seconds }))
}

/// The pools of workers that have work, and have not begun any for `wq_watchdog_thresh` seconds: `wq_watchdog_timer_fn()`.
fn pools(kernel: &Kernel, missing: &mut Vec<Missing>) -> Result<Vec<Reason>> {
    let Some(limit) = kernel.find_symbol("wq_watchdog_thresh")? else {
        return Ok(Vec::new());
    };
    let limit = kernel.read_u64(limit)?;
    let (nanos, now) = jiffies(kernel)?;
    let began = offset_of(kernel, "struct worker_pool", "watchdog_ts")?;
    let mut reasons = Vec::new();
    let all = workqueue::workqueues(kernel)?;
    missing.extend(all.missing);
    for pool in all.pools {
        let began = kernel.read_u64(pool.at.offset(began))?;
        let seconds = now.saturating_sub(began).saturating_mul(nanos) / 1_000_000_000;
        if limit != 0 && seconds > limit && !pool.pending.is_empty() {
            reasons.push(Reason::WorkStall {
                pool: pool.id,
                cpu: pool.cpu,
                seconds,
            });
        }
    }
    Ok(reasons)
}
