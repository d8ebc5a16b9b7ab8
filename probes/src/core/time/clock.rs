//! The time, and how the kernel keeps it: the timekeeper, clock sources, clock event devices
//! (`include/linux/timekeeper_internal.h`, `include/linux/clocksource.h`, `include/linux/clockchips.h`).

use serde::Serialize;

use crate::base::parts;
use crate::kernel::{Function, Functions, Kernel};
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{offset_of, online_cpus, per_cpu_ptr, settle, settle_all, whole_list};
use crate::{Listing, Missing, Of as _, Result};

/// Clock sources that are read at most.
const BOUND: usize = 1 << 10;
/// Bytes of the longest name.
const NAME: usize = 64;
const NSEC_PER_SEC: i64 = 1_000_000_000;

/// A counter that time is read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClockSource {
    /// Address of its `struct clocksource`.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
    /// True if it is the one in use.
    pub current: bool,
    /// Rating: the kernel takes the working source with the highest.
    pub rating: i32,
    /// Function that reads it.
    pub read: Function,
    /// A count is `mult` divided by two to the `shift` nanoseconds.
    pub mult: u32,
    /// See `mult`.
    pub shift: u32,
    /// The bits that it counts in.
    pub mask: u64,
    /// `CLOCK_SOURCE_*`
    pub flags: u64,
}

/// A clock event device: it interrupts a CPU at a given time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClockEvent {
    /// Address of its `struct clock_event_device`.
    pub at: GuestVirt,
    /// The CPU that it is for; `None` for the one that wakes CPUs whose own stops when they are idle.
    pub cpu: Option<u32>,
    /// Its name.
    pub name: String,
    /// Mode: `ONESHOT`, told each time, or `PERIODIC`, ticking.
    pub mode: String,
    /// Time of the next interrupt, in nanoseconds of the monotonic clock.
    pub next_event: i64,
    /// Function that is called then.
    pub event_handler: Function,
    /// A nanosecond is `mult` divided by two to the `shift` counts.
    pub mult: u32,
    /// See `mult`.
    pub shift: u32,
}

/// The clocks. Times are those of the last tick, which is what memory holds; `None` where they could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clocks {
    /// `CLOCK_REALTIME`: nanoseconds since 1970.
    pub realtime: Option<i64>,
    /// `CLOCK_MONOTONIC`: nanoseconds since boot, without those that the machine slept.
    pub monotonic: Option<u64>,
    /// `CLOCK_BOOTTIME`: nanoseconds since boot; `/proc/uptime`.
    pub boottime: Option<i64>,
    /// Time of the boot, in seconds since 1970: `btime` of `/proc/stat`.
    pub btime: Option<i64>,
    /// Ticks since boot, which begin five minutes before they wrap in 32 bits.
    pub jiffies: Option<u64>,
    /// The clock sources.
    pub sources: Vec<ClockSource>,
    /// The clock event devices in use.
    pub events: Vec<ClockEvent>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct timekeeper")]
struct Timekeeper {
    #[mirror(member = "tkr_mono.base")]
    base: u64,
    #[mirror(member = "tkr_mono.xtime_nsec")]
    xtime_nsec: u64,
    #[mirror(member = "tkr_mono.shift")]
    shift: u32,
    offs_real: i64,
    offs_boot: i64,
    /// Since 6.15 kept for itself.
    coarse_nsec: Option<u32>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct clocksource")]
struct Source {
    name: GuestVirt,
    rating: i32,
    read: GuestVirt,
    mult: u32,
    shift: u32,
    mask: u64,
    flags: u64,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct clock_event_device")]
struct Event {
    name: GuestVirt,
    next_event: i64,
    event_handler: GuestVirt,
    mult: u32,
    shift: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct tick_device")]
struct Tick {
    evtdev: GuestVirt,
    mode: u32,
}

/// The clocks, as of the last tick, the clock sources, and what interrupts the CPUs.
pub(crate) fn clocks(kernel: &Kernel) -> Result<Clocks> {
    let functions = Functions::new(kernel);
    let mut missing = Vec::new();
    let now = coarse(kernel).or_miss(&mut missing, || "the timekeeper");
    let now = now.as_ref();
    let jiffies = kernel
        .symbol("jiffies_64")
        .and_then(|at| kernel.read_u64(at));
    let jiffies = jiffies.or_miss(&mut missing, || "jiffies_64");
    let all = settle_all("the clock sources", || {
        sources(kernel, &functions).map(Some)
    });
    Ok(Clocks {
        realtime: now.map(|now| now.realtime),
        monotonic: now.map(|now| now.monotonic),
        boottime: now.map(|now| now.boottime),
        btime: now.map(|now| now.btime),
        jiffies,
        sources: parts(&mut missing, "the clock sources", all),
        events: parts(
            &mut missing,
            "the clock event devices",
            events(kernel, &functions),
        ),
        missing,
    })
}

/// The times of the last tick.
pub(super) struct Coarse {
    realtime: i64,
    pub(super) monotonic: u64,
    boottime: i64,
    btime: i64,
}

/// Offset of the timekeeper in `tk_core`, a structure without a name (`kernel/time/timekeeping.c:53@v6.12.117`): behind a
/// `seqcount_raw_spinlock_t`, and aligned to 8 bytes. That is a sequence counter alone, or, with PREEMPT_RT or lockdep, one
/// with a pointer to the writer's lock (`SEQCOUNT_LOCKNAME`, `include/linux/seqlock_types.h:62@v7.3.4`).
fn after_seqcount(kernel: &Kernel) -> u64 {
    offset_of(kernel, "struct seqcount_raw_spinlock", "lock").map_or(8, |lock| lock + 8)
}

/// Offset from `CLOCK_MONOTONIC` to `CLOCK_REALTIME`, in nanoseconds: `timekeeper.offs_real`.
pub(crate) fn realtime_offset(kernel: &Kernel) -> Result<i64> {
    let now = coarse(kernel)?;
    Ok(now.realtime.wrapping_sub_unsigned(now.monotonic))
}

/// `ktime_get_coarse()` and its kin.
pub(super) fn coarse(kernel: &Kernel) -> Result<Coarse> {
    // Since 6.17 an array, whose first element is the one in use for all but auxiliary clocks.
    let (at, timekeeper) = match kernel.symbols()?.lookup("timekeeper_data") {
        Some(at) => (at, offset_of(kernel, "struct tk_data", "timekeeper")?),
        None => (kernel.symbol("tk_core")?, after_seqcount(kernel)),
    };
    let plan = Plan::<Timekeeper>::new(kernel)?;
    // Each begins with its seqcount, which is odd while it is written.
    let tk = settle("the timekeeper", || {
        let before = kernel.read_u32(at)?;
        let tk = plan.load(at.offset(timekeeper))?;
        let same = before % 2 == 0 && kernel.read_u32(at)? == before;
        Ok(same.then_some(tk))
    })?;
    let nsec = tk.coarse_nsec.map_or_else(
        || tk.xtime_nsec.checked_shr(tk.shift).unwrap_or(0),
        u64::from,
    );
    let monotonic = tk.base.wrapping_add(nsec);
    Ok(Coarse {
        realtime: tk.offs_real.wrapping_add_unsigned(monotonic),
        monotonic,
        boottime: tk.offs_boot.wrapping_add_unsigned(monotonic),
        btime: tk
            .offs_real
            .wrapping_sub(tk.offs_boot)
            .div_euclid(NSEC_PER_SEC),
    })
}

fn sources(kernel: &Kernel, functions: &Functions<'_>) -> Result<Listing<ClockSource>> {
    let head = kernel.symbol("clocksource_list")?;
    let list = offset_of(kernel, "struct clocksource", "list")?;
    let current = kernel.read_u64(kernel.symbol("curr_clocksource")?)?;
    let plan = Plan::<Source>::new(kernel)?;
    let source = |at| {
        let raw = plan.load(at)?;
        Ok(ClockSource {
            at,
            name: kernel.read_cstr(raw.name, NAME)?,
            current: at.0 == current,
            rating: raw.rating,
            read: functions.at(raw.read)?,
            mult: raw.mult,
            shift: raw.shift,
            mask: raw.mask,
            flags: raw.flags,
        })
    };
    let nodes = whole_list(kernel, head, list, BOUND, "clocksource_list");
    let mut sources = Listing::new();
    sources.missing = nodes.missing;
    for at in nodes.items {
        sources.take(source(at), || format!("the clocksource at {at}"));
    }
    Ok(sources)
}

/// The device of each CPU, and the one for all of them.
fn events(kernel: &Kernel, functions: &Functions<'_>) -> Result<Listing<ClockEvent>> {
    let mut ticks = Vec::new();
    for cpu in online_cpus(kernel)? {
        ticks.push((Some(cpu), per_cpu_ptr(kernel, "tick_cpu_device", cpu)));
    }
    // A kernel whose CPUs' own devices never stop has none.
    if let Some(at) = kernel.symbols()?.lookup("tick_broadcast_device") {
        ticks.push((None, Ok(at)));
    }
    let event = |cpu: Option<u32>, at: Result<GuestVirt>| {
        let tick: Tick = kernel.load(at?)?;
        if tick.evtdev.is_null() {
            return Ok(None);
        }
        let raw: Event = kernel.load(tick.evtdev)?;
        let mode = kernel.enumerator("tick_device_mode", tick.mode.into())?;
        Ok(Some(ClockEvent {
            at: tick.evtdev,
            cpu,
            name: kernel.read_cstr(raw.name, NAME)?,
            mode: mode.trim_start_matches("TICKDEV_MODE_").to_owned(),
            next_event: raw.next_event,
            event_handler: functions.at(raw.event_handler)?,
            mult: raw.mult,
            shift: raw.shift,
        }))
    };
    let mut events = Listing::new();
    for (cpu, at) in ticks {
        let name = || match cpu {
            Some(cpu) => format!("the tick_cpu_device of CPU {cpu}"),
            None => "tick_broadcast_device".to_owned(),
        };
        let event = event(cpu, at).or_miss(&mut events.missing, name);
        events.items.extend(event.flatten());
    }
    Ok(events)
}
