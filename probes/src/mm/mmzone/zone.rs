//! `struct zone` and `struct pglist_data` as plain values.

use serde::Serialize;

use super::counters::{Names, shown, words};
use super::{node_addresses, pointer, zone_addresses};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{array, offset_of, online_cpus};
use crate::{Listing, Missing, Of as _, Result};

/// A counter of one node or zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stat {
    /// The name that `/proc/zoneinfo` gives it.
    pub name: String,
    /// Its value, as shown there.
    pub value: u64,
}

/// The watermarks of a zone, in pages, its boost included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Watermarks {
    /// Below it an allocation reclaims memory itself.
    pub min: u64,
    /// Below it `kswapd` wakes up.
    pub low: u64,
    /// Above it `kswapd` goes to sleep.
    pub high: u64,
    /// Above it pages are promoted from slower memory; older kernels have none.
    pub promo: Option<u64>,
    /// Amount that fragmentation added to all of them for a time: `watermark_boost`.
    pub boost: u64,
}

/// The free pages that a CPU keeps of a zone: its `per_cpu_pages`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PerCpuPages {
    /// The CPU.
    pub cpu: u32,
    /// Pages that it has.
    pub count: i32,
    /// Number of pages that it may have before it gives some back.
    pub high: i32,
    /// Pages that it takes or gives back at once.
    pub batch: i32,
    /// Lower bound of `high`, in pages; kernels before 6.7 do not tune it.
    pub high_min: Option<i32>,
    /// Upper bound of `high`, in pages; kernels before 6.7 do not tune it.
    pub high_max: Option<i32>,
    /// Amount that the CPU counts before it adds to the zone's counters: `stat_threshold`.
    pub stat_threshold: Option<i8>,
}

/// A zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Zone {
    /// Address of its `struct zone`.
    pub at: GuestVirt,
    /// `DMA`, `DMA32`, `Normal`, `Movable`, `Device`.
    pub name: String,
    /// Its first page frame.
    pub start_pfn: u64,
    /// Pages from its first to its last, holes included.
    pub spanned: u64,
    /// Pages without the holes.
    pub present: u64,
    /// Pages that the buddy allocator manages.
    pub managed: u64,
    /// Pages of the contiguous memory allocator.
    pub cma: u64,
    /// Free pages, without those that CPUs keep.
    pub free: u64,
    /// Its watermarks.
    pub watermarks: Watermarks,
    /// Pages kept from allocations that might have come from a higher zone, by that zone: `protection`.
    pub lowmem_reserve: Vec<i64>,
    /// Pages of blocks kept for urgent allocations.
    pub nr_reserved_highatomic: u64,
    /// Its counters; none of a zone without memory.
    pub stats: Vec<Stat>,
    /// Pages that each online CPU keeps; empty for a zone without memory.
    pub per_cpu: Vec<PerCpuPages>,
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Address of its `struct pglist_data`.
    pub at: GuestVirt,
    /// Its first page frame.
    pub start_pfn: u64,
    /// Pages from its first to its last, holes included.
    pub spanned: u64,
    /// Pages without the holes.
    pub present: u64,
    /// Number of times in a row that `kswapd` failed to free anything: `kswapd_failures`.
    pub kswapd_failures: u32,
    /// Its counters.
    pub stats: Vec<Stat>,
    /// Its zones, those without memory too.
    pub zones: Vec<Zone>,
}

/// All nodes.
pub type Zones = Listing<Node>;

#[derive(Debug, Mirror)]
#[mirror(c = "struct zone")]
struct RawZone {
    name: GuestVirt,
    zone_start_pfn: u64,
    spanned_pages: u64,
    present_pages: u64,
    #[mirror(member = "managed_pages.counter")]
    managed_pages: u64,
    /// Absent without CONFIG_CMA.
    cma_pages: Option<u64>,
    watermark_boost: u64,
    nr_reserved_highatomic: u64,
    per_cpu_pageset: GuestVirt,
    per_cpu_zonestats: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct pglist_data")]
struct RawNode {
    node_id: u32,
    node_start_pfn: u64,
    node_spanned_pages: u64,
    node_present_pages: u64,
    #[mirror(member = "kswapd_failures.counter", or = "kswapd_failures")]
    kswapd_failures: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct per_cpu_pages")]
struct RawPcp {
    count: i32,
    high: i32,
    batch: i32,
    high_min: Option<i32>,
    high_max: Option<i32>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct per_cpu_zonestat")]
struct RawZoneStat {
    /// Absent without CONFIG_SMP.
    stat_threshold: Option<i8>,
}

pub(super) fn read(kernel: &Kernel) -> Result<Zones> {
    let names = Names::of(kernel)?;
    let cpus = online_cpus(kernel)?;
    let mut nodes = Listing::new();
    for at in node_addresses(kernel)? {
        let Some(at) = at.or_miss(&mut nodes.missing, || "") else {
            continue;
        };
        let mut missing = Vec::new();
        nodes.take(node(kernel, at, &names, &cpus, &mut missing), || {
            format!("the node at {at}")
        });
        nodes.missing.extend(missing);
    }
    Ok(nodes)
}

fn node(
    kernel: &Kernel,
    at: GuestVirt,
    names: &Names,
    cpus: &[u32],
    missing: &mut Vec<Missing>,
) -> Result<Node> {
    let raw: RawNode = kernel.load(at)?;
    let stats = at.offset(offset_of(kernel, "struct pglist_data", "vm_stat")?);
    let stats = words(kernel, stats, names.node.len())?;
    let stats = names.node.iter().zip(stats).enumerate();
    let mut zones = Vec::new();
    for at in zone_addresses(kernel, at)? {
        let what = || format!("node {}, the zone at {at}", raw.node_id);
        zones.extend(zone(kernel, at, names, cpus).or_miss(missing, what));
    }
    Ok(Node {
        id: raw.node_id,
        at,
        start_pfn: raw.node_start_pfn,
        spanned: raw.node_spanned_pages,
        present: raw.node_present_pages,
        kswapd_failures: raw.kswapd_failures,
        stats: stats
            .map(|(i, (name, value))| Stat {
                name: name.clone(),
                value: names.shown(i, value),
            })
            .collect(),
        zones,
    })
}

/// The name of a zone.
pub(super) fn name(kernel: &Kernel, zone: GuestVirt) -> Result<String> {
    kernel.read_cstr(pointer(kernel, zone, "struct zone", "name")?, 16)
}

fn zone(kernel: &Kernel, at: GuestVirt, names: &Names, cpus: &[u32]) -> Result<Zone> {
    let raw: RawZone = kernel.load(at)?;
    let member = |path: &str| array(kernel, "struct zone", path);
    let (marks, count, _) = member("_watermark")?;
    let marks = words(kernel, at.offset(marks), count)?;
    let mark = |i: usize| {
        let mark = marks.get(i).copied().unwrap_or(0).cast_unsigned();
        mark.wrapping_add(raw.watermark_boost)
    };
    let (reserve, count, _) = member("lowmem_reserve")?;
    let stats = words(kernel, at.offset(member("vm_stat")?.0), names.zone.len())?;
    let free = stats.first().map_or(0, |free| shown(*free));
    let populated = raw.present_pages > 0;
    let mut zone = Zone {
        at,
        name: kernel.read_cstr(raw.name, 16)?,
        start_pfn: raw.zone_start_pfn,
        spanned: raw.spanned_pages,
        present: raw.present_pages,
        managed: raw.managed_pages,
        cma: raw.cma_pages.unwrap_or(0),
        // NR_FREE_PAGES is 0.
        free,
        watermarks: Watermarks {
            min: mark(0),
            low: mark(1),
            high: mark(2),
            promo: (marks.len() > 3).then(|| mark(3)),
            boost: raw.watermark_boost,
        },
        lowmem_reserve: words(kernel, at.offset(reserve), count)?,
        nr_reserved_highatomic: raw.nr_reserved_highatomic,
        stats: Vec::new(),
        per_cpu: Vec::new(),
    };
    if populated {
        let pages = names.zone.iter().zip(stats).map(|(name, value)| Stat {
            name: name.clone(),
            value: shown(value),
        });
        zone.stats.extend(pages);
        numa(kernel, &mut zone, &raw, names, cpus)?;
        for cpu in cpus {
            zone.per_cpu.push(per_cpu(kernel, &raw, *cpu)?);
        }
    }
    Ok(zone)
}

/// The NUMA events of a zone, with those that its CPUs hold: the kernel adds them up when it is asked.
fn numa(
    kernel: &Kernel,
    zone: &mut Zone,
    raw: &RawZone,
    names: &Names,
    cpus: &[u32],
) -> Result<()> {
    if names.numa.is_empty() {
        return Ok(());
    }
    let count = names.numa.len();
    let shared = offset_of(kernel, "struct zone", "vm_numa_event")?;
    let mut sums = words(kernel, zone.at.offset(shared), count)?;
    let held = offset_of(kernel, "struct per_cpu_zonestat", "vm_numa_event")?;
    for cpu in cpus {
        let at = kernel.per_cpu(raw.per_cpu_zonestats, *cpu)?.offset(held);
        for (sum, held) in sums.iter_mut().zip(words(kernel, at, count)?) {
            *sum = sum.wrapping_add(held);
        }
    }
    let stats = names.numa.iter().zip(sums).map(|(name, value)| Stat {
        name: name.clone(),
        value: value.cast_unsigned(),
    });
    zone.stats.extend(stats);
    Ok(())
}

fn per_cpu(kernel: &Kernel, zone: &RawZone, cpu: u32) -> Result<PerCpuPages> {
    let pages = Plan::<RawPcp>::new(kernel)?.load(kernel.per_cpu(zone.per_cpu_pageset, cpu)?)?;
    let stats: RawZoneStat = kernel.load(kernel.per_cpu(zone.per_cpu_zonestats, cpu)?)?;
    Ok(PerCpuPages {
        cpu,
        count: pages.count,
        high: pages.high,
        batch: pages.batch,
        high_min: pages.high_min,
        high_max: pages.high_max,
        stat_threshold: stats.stat_threshold,
    })
}
