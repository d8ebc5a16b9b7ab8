//! The timer wheel: `struct timer_base` (`kernel/time/timer.c`).

use serde::Serialize;

use super::{BOUND, Namer, Serves};
use crate::kernel::btf::Shape;
use crate::kernel::{Function, Kernel};
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{array, hlist_for_each_entry, offset_of, per_cpu_ptr, settle_all};
use crate::{Error, Listing, Result};

/// More bases than any kernel has for a CPU.
const BASES: u32 = 8;
/// More buckets than any kernel's wheel has: 9 levels of 64.
const BUCKETS: usize = 1 << 12;

/// A timer of the wheel: a `struct timer_list` that is pending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WheelTimer {
    /// Address.
    pub at: GuestVirt,
    /// The CPU whose wheel it is on.
    pub cpu: u32,
    /// Name among that CPU's wheels: `LOCAL`, `GLOBAL`, or `DEF` for one that need not wake an idle CPU.
    pub base: &'static str,
    /// Time at which it is due, in jiffies.
    pub expires: u64,
    /// Function that will be called.
    pub function: Function,
    /// Task or work that it is for.
    pub serves: Option<Serves>,
    /// `TIMER_*`, and the CPU and bucket that it is in.
    pub flags: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct timer_list")]
struct Raw {
    expires: u64,
    function: GuestVirt,
    flags: u32,
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct timer_base")]
struct Base {
    clk: u64,
    next_expiry: u64,
    running_timer: GuestVirt,
}

/// Number of a CPU's wheels: per-CPU variables have their types in BTF.
fn bases(kernel: &Kernel) -> Result<u32> {
    let btf = kernel.btf()?;
    let shape = match btf.find_var("timer_bases") {
        Some(ty) => Some(btf.shape(ty)?),
        None => None,
    };
    match shape {
        Some(Shape::Array { count, .. }) if count <= BASES => Ok(count),
        _ => Err(Error::Unsupported(format!(
            "{} has no array `timer_bases` in its BTF",
            kernel.release()
        ))),
    }
}

/// Name of a wheel, by the number that a CPU has (`BASE_*`).
fn name(count: u32, index: u32) -> &'static str {
    match (count, index) {
        (3, 0) => "LOCAL",
        (3, 1) => "GLOBAL",
        (2 | 3, _) if index + 1 == count => "DEF",
        _ => "STD",
    }
}

/// The timers on the wheels of a CPU, those due first first.
pub(super) fn read(
    kernel: &Kernel,
    namer: &Namer<'_>,
    cpu: u32,
    timers: &mut Listing<WheelTimer>,
) -> Result<()> {
    let plan = Plan::<Base>::new(kernel)?;
    let first = per_cpu_ptr(kernel, "timer_bases", cpu)?;
    let count = bases(kernel)?;
    for index in 0..count {
        let at = first.offset(u64::from(index) * plan.size());
        let place = (cpu, name(count, index));
        let mut found = settle_all(&format!("the timers of CPU {cpu}"), || {
            let before = plan.load(at)?;
            let found = wheel(kernel, namer, at, place)?;
            Ok((plan.load(at)? == before).then_some(found))
        })?;
        found.sort_by_key(|timer| timer.expires);
        timers.append(found);
    }
    Ok(())
}

fn wheel(
    kernel: &Kernel,
    namer: &Namer<'_>,
    base: GuestVirt,
    (cpu, name): (u32, &'static str),
) -> Result<Listing<WheelTimer>> {
    let (vectors, count, _) = array(kernel, "struct timer_base", "vectors")?;
    if count > BUCKETS {
        let why = format!("it has {count} buckets");
        return Err(Error::Malformed {
            what: "struct timer_base",
            why,
        });
    }
    let plan = Plan::<Raw>::new(kernel)?;
    let entry = offset_of(kernel, "struct timer_list", "entry")?;
    // An hlist_head is one pointer, and nearly all are NULL.
    let first = base.offset(vectors);
    let mut heads = vec![0; count * 8];
    kernel.read(first, &mut heads)?;
    let mut timers = Listing::new();
    for (bucket, head) in heads.chunks_exact(8).enumerate() {
        if head == [0; 8] {
            continue;
        }
        let head = first.offset(bucket as u64 * 8);
        let what = format!("CPU {cpu}'s wheel {name}, bucket {bucket}, the timers");
        let walk = hlist_for_each_entry(kernel, head, entry).bound(BOUND);
        let nodes = Listing::walk(&what, walk);
        timers.missing.extend(nodes.missing);
        for at in nodes.items {
            let timer = || {
                let raw = plan.load(at)?;
                let (function, serves) = namer.name(at, raw.function)?;
                Ok(WheelTimer {
                    at,
                    cpu,
                    base: name,
                    expires: raw.expires,
                    function,
                    serves,
                    flags: raw.flags,
                })
            };
            timers.take(timer(), || format!("the timer_list at {at}"));
        }
    }
    Ok(timers)
}
