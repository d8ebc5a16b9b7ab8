//! High-resolution timers: `struct hrtimer_cpu_base` (`kernel/time/hrtimer.c`).

use serde::Serialize;

use super::{BOUND, Namer, Serves};
use crate::kernel::{Function, Kernel};
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{array, offset_of, per_cpu_ptr, rbtree_for_each_entry, settle_all};
use crate::{Listing, Result};

/// A high-resolution timer that is queued: a `struct hrtimer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HrTimer {
    /// Address.
    pub at: GuestVirt,
    /// The CPU whose it is.
    pub cpu: u32,
    /// Its clock, and whether its function runs in a softirq: `MONOTONIC`, `REALTIME_SOFT`.
    pub clock: String,
    /// Latest time at which it is due, in nanoseconds of that clock.
    pub expires: i64,
    /// Earliest time, in nanoseconds of that clock, at which it may be due, so that one interrupt serves several.
    pub soft_expires: i64,
    /// Function that will be called.
    pub function: Function,
    /// Task or work that it is for.
    pub serves: Option<Serves>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct hrtimer")]
struct Raw {
    #[mirror(member = "node.expires")]
    expires: i64,
    #[mirror(member = "_softexpires")]
    soft_expires: i64,
    function: GuestVirt,
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct hrtimer_cpu_base")]
struct CpuBase {
    active_bases: u32,
    nr_events: u32,
    expires_next: i64,
    softirq_expires_next: i64,
}

/// The timers of a CPU, clock by clock, those due first first.
pub(super) fn read(
    kernel: &Kernel,
    namer: &Namer<'_>,
    cpu: u32,
    timers: &mut Listing<HrTimer>,
) -> Result<()> {
    let plan = Plan::<CpuBase>::new(kernel)?;
    let at = per_cpu_ptr(kernel, "hrtimer_bases", cpu)?;
    let found = settle_all(&format!("the high-resolution timers of CPU {cpu}"), || {
        let before = plan.load(at)?;
        let found = queued(kernel, namer, at, cpu)?;
        Ok((plan.load(at)? == before).then_some(found))
    })?;
    timers.append(found);
    Ok(())
}

fn queued(
    kernel: &Kernel,
    namer: &Namer<'_>,
    base: GuestVirt,
    cpu: u32,
) -> Result<Listing<HrTimer>> {
    let (clocks, count, stride) = array(kernel, "struct hrtimer_cpu_base", "clock_base")?;
    let tree = offset_of(kernel, "struct hrtimer_clock_base", "active.rb_root")?;
    let node = offset_of(kernel, "struct hrtimer", "node.node")?;
    let plan = Plan::<Raw>::new(kernel)?;
    let mut timers = Listing::new();
    for index in 0..count as u64 {
        let root = base.offset(clocks + index * stride + tree);
        let clock = kernel.enumerator("hrtimer_base_type", index as i64)?;
        let clock = clock.trim_start_matches("HRTIMER_BASE_").to_owned();
        let what = format!("CPU {cpu}'s tree {clock} of high-resolution timers");
        let walk = rbtree_for_each_entry(kernel, root, node).bound(BOUND);
        let nodes = Listing::walk(&what, walk);
        timers.missing.extend(nodes.missing);
        for at in nodes.items {
            let timer = || {
                let raw = plan.load(at)?;
                let (function, serves) = namer.name(at, raw.function)?;
                Ok(HrTimer {
                    at,
                    cpu,
                    clock: clock.clone(),
                    expires: raw.expires,
                    soft_expires: raw.soft_expires,
                    function,
                    serves,
                })
            };
            timers.take(timer(), || format!("the hrtimer at {at}"));
        }
    }
    Ok(timers)
}
