//! Virtual memory statistics: what `/proc/vmstat` counts, and what each CPU has not yet added to it (`mm/vmstat.c`).
//!
//! The kernel counts on each CPU and adds to the shared counter once it has some; the shared counter is what
//! `/proc/vmstat` shows. Each counter is read whole, but the counters are those of one instant only while the guest is
//! paused.

mod view;

use std::sync::Arc;

use serde::Serialize;

use crate::kernel::Kernel;
use crate::memory::{GuestVirt, PAGE_SIZE};
pub use crate::mm::mmzone::CounterKind;
use crate::mm::mmzone::{self, Names, shown, words};
use crate::structures::{offset_of, online_cpus, per_cpu_ptr};
use crate::{Error, Listing, Missing, Named, Of as _, Result};

/// A counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counter {
    /// The name that `/proc/vmstat` gives it.
    pub name: String,
    /// Kind of things that it counts.
    pub kind: CounterKind,
    /// Its value as `/proc/vmstat` shows it.
    pub value: u64,
    /// Counts that the CPUs have not yet added to it; `None` if they could not be read.
    pub held: Option<i64>,
}

/// All counters, in the order of `/proc/vmstat`.
pub type VmStat = Listing<Counter>;

impl Named for Counter {
    type Value<'a> = u64;

    fn name(&self) -> &str {
        &self.name
    }

    fn value(&self) -> u64 {
        self.value
    }
}

/// The counters of pages of all zones and nodes.
#[derive(Debug)]
pub(crate) struct Pages {
    names: Arc<Names>,
    zone: Vec<i64>,
    node: Vec<i64>,
}

impl Pages {
    pub(crate) fn read(kernel: &Kernel) -> Result<Self> {
        let names = Names::of(kernel)?;
        Ok(Self {
            zone: words(kernel, kernel.symbol("vm_zone_stat")?, names.zone.len())?,
            node: words(kernel, kernel.symbol("vm_node_stat")?, names.node.len())?,
            names,
        })
    }

    /// A counter, by its enumerator of `enum zone_stat_item` or `enum node_stat_item`; `None` where this kernel has none
    /// of the name.
    pub(crate) fn get(&self, name: &str) -> Option<u64> {
        let (kind, index) = self.names.items.get(name)?;
        let counters = match kind {
            CounterKind::Zone => &self.zone,
            CounterKind::Node => &self.node,
            _ => return None,
        };
        counters.get(*index).map(|raw| shown(*raw))
    }
}

/// The counters of `/proc/vmstat`, and what each CPU holds back of them.
pub(crate) fn vmstat(kernel: &Kernel) -> Result<VmStat> {
    let names = Names::of(kernel)?;
    let cpus = online_cpus(kernel)?;
    let mut all = Listing::new();
    let held = Held::read(kernel, &names, &cpus, &mut all.missing);
    let mut push = |name: &String, kind, value, held| {
        all.items.push(Counter {
            name: name.clone(),
            kind,
            value,
            held,
        });
    };
    let missing = &mut Vec::new();
    let pages = Pages::read(kernel).or_miss(missing, || "the counters of zones and nodes");
    let of = |held: &Option<Vec<i64>>, i: usize| held.as_ref().map(|held| held[i]);
    if let Some(pages) = &pages {
        for (i, name) in names.zone.iter().enumerate() {
            let held = of(&held.zone, i);
            push(name, CounterKind::Zone, shown(pages.zone[i]), held);
        }
    }
    if !names.numa.is_empty() {
        let events = kernel.symbol("vm_numa_event");
        let events = events.and_then(|at| words(kernel, at, names.numa.len()));
        let events = events.or_miss(missing, || "vm_numa_event");
        if let (Some(events), Some(held)) = (events, &held.numa) {
            for (i, name) in names.numa.iter().enumerate() {
                // The kernel adds up what the CPUs hold when it is asked.
                let value = events[i].wrapping_add(held[i]).cast_unsigned();
                push(name, CounterKind::Numa, value, Some(0));
            }
        }
    }
    if let Some(pages) = &pages {
        for (i, name) in names.node.iter().enumerate() {
            let value = names.shown(i, pages.node[i]);
            push(name, CounterKind::Node, value, of(&held.node, i));
        }
    }
    let limits = pages.and_then(|pages| {
        let limits = limits(kernel, &names, &pages);
        limits.or_miss(missing, || "the limits of dirty pages")
    });
    for (name, value) in names.limits.iter().zip(limits.unwrap_or_default()) {
        let unknown = || Error::Unsupported(format!("what {name} counts is not known"));
        let value = value.ok_or_else(unknown).or_miss(missing, || &**name);
        if let Some(value) = value {
            push(name, CounterKind::Limit, value, Some(0));
        }
    }
    let in_sectors = ["PGPGIN", "PGPGOUT"].map(|name| names.index(CounterKind::Event, name));
    let events = held.events.unwrap_or_default();
    for (i, (name, event)) in names.events.iter().zip(events).enumerate() {
        // Sectors, shown in KiB.
        let unit = if in_sectors.contains(&Some(i)) { 2 } else { 1 };
        push(name, CounterKind::Event, event / unit, Some(0));
    }
    all.missing.append(missing);
    Ok(all)
}

/// Counts that the CPUs hold: of page counters small differences, of events the whole. `None`: it could not be read of
/// one of them.
struct Held {
    zone: Option<Vec<i64>>,
    numa: Option<Vec<i64>>,
    node: Option<Vec<i64>>,
    events: Option<Vec<u64>>,
}

impl Held {
    fn read(kernel: &Kernel, names: &Names, cpus: &[u32], missing: &mut Vec<Missing>) -> Self {
        let zones = of_zones(kernel, names, cpus);
        let zones = zones.or_miss(missing, || "what CPUs hold of the zones' counters");
        let (zone, numa) = zones.unzip();
        let node = of_nodes(kernel, names, cpus);
        let events = events(kernel, names, cpus);
        Self {
            zone,
            numa,
            node: node.or_miss(missing, || "what CPUs hold of the nodes' counters"),
            events: events.or_miss(missing, || "vm_event_states"),
        }
    }
}

fn of_nodes(kernel: &Kernel, names: &Names, cpus: &[u32]) -> Result<Vec<i64>> {
    let mut held = vec![0; names.node.len()];
    let diff = offset_of(kernel, "struct per_cpu_nodestat", "vm_node_stat_diff")?;
    for node in mmzone::node_addresses(kernel)? {
        let stats = mmzone::pointer(kernel, node?, "struct pglist_data", "per_cpu_nodestats")?;
        for cpu in cpus {
            let stats = kernel.per_cpu(stats, *cpu)?;
            add_bytes(kernel, stats.offset(diff), &mut held)?;
        }
    }
    Ok(held)
}

/// Counters of the zones, and of NUMA events.
fn of_zones(kernel: &Kernel, names: &Names, cpus: &[u32]) -> Result<(Vec<i64>, Vec<i64>)> {
    let (mut held, mut numa) = (vec![0; names.zone.len()], vec![0i64; names.numa.len()]);
    let present = offset_of(kernel, "struct zone", "present_pages")?;
    let at = |member| offset_of(kernel, "struct per_cpu_zonestat", member);
    for node in mmzone::node_addresses(kernel)? {
        for zone in mmzone::zone_addresses(kernel, node?)? {
            // Zones without memory share what is there for the time of the boot.
            if kernel.read_u64(zone.offset(present))? == 0 {
                continue;
            }
            let stats = mmzone::pointer(kernel, zone, "struct zone", "per_cpu_zonestats")?;
            for cpu in cpus {
                let stats = kernel.per_cpu(stats, *cpu)?;
                add_bytes(kernel, stats.offset(at("vm_stat_diff")?), &mut held)?;
                if numa.is_empty() {
                    continue;
                }
                let events = words(kernel, stats.offset(at("vm_numa_event")?), numa.len())?;
                for (sum, event) in numa.iter_mut().zip(events) {
                    *sum = sum.wrapping_add(event);
                }
            }
        }
    }
    Ok((held, numa))
}

fn events(kernel: &Kernel, names: &Names, cpus: &[u32]) -> Result<Vec<u64>> {
    let mut sums = vec![0u64; names.events.len()];
    for cpu in cpus {
        let at = per_cpu_ptr(kernel, "vm_event_states", *cpu)?;
        let events = words(kernel, at, names.events.len())?;
        for (sum, event) in sums.iter_mut().zip(events) {
            *sum = sum.wrapping_add(event.cast_unsigned());
        }
    }
    Ok(sums)
}

/// Adds differences of one signed byte each.
fn add_bytes(kernel: &Kernel, at: GuestVirt, sums: &mut [i64]) -> Result<()> {
    let mut bytes = vec![0; sums.len()];
    kernel.read(at, &mut bytes)?;
    for (sum, byte) in sums.iter_mut().zip(bytes) {
        *sum += i64::from(byte.cast_signed());
    }
    Ok(())
}

/// `enum vm_stat_item`: the threshold of dirty pages, that of the background's, and of the memory map in newer kernels.
fn limits(kernel: &Kernel, names: &Names, pages: &Pages) -> Result<Vec<Option<u64>>> {
    let (dirty, background) = dirty_limits(kernel, pages)?;
    let counted = |symbol: &str| match kernel.symbols()?.lookup(symbol) {
        Some(at) => kernel.read_u64(at),
        None => Ok(0),
    };
    let mut limits = vec![None; names.limits.len()];
    for (name, value) in [
        ("NR_DIRTY_THRESHOLD", dirty),
        ("NR_DIRTY_BG_THRESHOLD", background),
        ("NR_MEMMAP_PAGES", counted("nr_memmap_pages")?),
        ("NR_MEMMAP_BOOT_PAGES", counted("nr_memmap_boot_pages")?),
    ] {
        let slot = names.index(CounterKind::Limit, name);
        if let Some(slot) = slot.and_then(|i| limits.get_mut(i)) {
            *slot = Some(value);
        }
    }
    Ok(limits)
}

/// `global_dirty_limits()` of `mm/page-writeback.c`, for a task that is not a real-time one.
fn dirty_limits(kernel: &Kernel, pages: &Pages) -> Result<(u64, u64)> {
    let long = |symbol: &str| kernel.read_u64(kernel.symbol(symbol)?);
    let int = |symbol: &str| kernel.read_u32(kernel.symbol(symbol)?).map(u64::from);
    // global_dirtyable_memory()
    let count = |name: &str| {
        let unknown = || Error::Absent(format!("this kernel has no {name}"));
        pages.get(name).ok_or_else(unknown)
    };
    let available = count("NR_FREE_PAGES")?
        .saturating_sub(long("totalreserve_pages")?)
        .saturating_add(count("NR_INACTIVE_FILE")?)
        .saturating_add(count("NR_ACTIVE_FILE")?)
        .saturating_add(1);
    let limit = |bytes: u64, ratio: u64| match bytes {
        0 => (ratio * PAGE_SIZE / 100).wrapping_mul(available) / PAGE_SIZE,
        bytes => bytes.div_ceil(PAGE_SIZE),
    };
    let dirty = limit(long("vm_dirty_bytes")?, int("vm_dirty_ratio")?);
    let background = limit(
        long("dirty_background_bytes")?,
        int("dirty_background_ratio")?,
    );
    Ok((
        dirty,
        if background >= dirty {
            dirty / 2
        } else {
            background
        },
    ))
}
