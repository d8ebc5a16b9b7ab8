//! Virtual memory statistics: what `/proc/vmstat` counts, and what each CPU has not yet added to it (`mm/vmstat.c`).
//!
//! The kernel counts on each CPU and adds to the shared counter once it has some; the shared counter is what
//! `/proc/vmstat` shows. Each counter is read whole, but the counters are those of one instant only while the guest is
//! paused.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::Listing;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::kernel::btf::Kind;
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::mmzone;
use crate::structures::{array, offset_of, online_cpus, per_cpu_ptr};
use crate::{Error, Result};

/// Counters of one kind that a kernel has at most, as far as we read.
const COUNTER_BOUND: usize = 1024;
/// Base pages of a huge page (`HPAGE_PMD_NR`).
const HPAGE_PMD_NR: u64 = 512;
/// The node counters that are shown in huge pages: `vmstat_item_print_in_thp()`.
const IN_HUGE_PAGES: [&str; 5] = [
    "NR_ANON_THPS",
    "NR_FILE_THPS",
    "NR_SHMEM_THPS",
    "NR_SHMEM_PMDMAPPED",
    "NR_FILE_PMDMAPPED",
];

/// Kind of a counter: what it counts, and where the kernel keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CounterKind {
    /// `vm_zone_stat`, in pages.
    Zone,
    /// `vm_numa_event`.
    Numa,
    /// `vm_node_stat`, in pages where it counts memory.
    Node,
    /// Worked out when it is asked for: the limits of dirty pages; or the pages of the memory map.
    Limit,
    /// `vm_event_states`, since boot.
    Event,
}

/// A counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counter {
    /// The name that `/proc/vmstat` gives it.
    pub name: String,
    /// The thing that it counts.
    pub kind: CounterKind,
    /// Its value as `/proc/vmstat` shows it.
    pub value: u64,
    /// Counts of the CPUs that are not yet added to it.
    pub held: i64,
}

/// All counters, in the order of `/proc/vmstat`.
pub type VmStat = Listing<Counter>;

impl VmStat {
    /// The value of a counter, by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        let found = self.items.iter().find(|counter| counter.name == name);
        found.map(|counter| counter.value)
    }
}

/// The names of all counters, from the kernel's own `vmstat_text`.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) zone: Vec<String>,
    pub(crate) numa: Vec<String>,
    pub(crate) node: Vec<String>,
    limits: Vec<String>,
    events: Vec<String>,
    /// Indices of node counters that are shown in huge pages.
    huge: Vec<usize>,
    /// Array and index of each counter, by its enumerator.
    items: HashMap<String, (CounterKind, usize)>,
}

/// The enumerations that number counters, and the array that each numbers.
const ITEMS: [(&str, CounterKind); 5] = [
    ("zone_stat_item", CounterKind::Zone),
    ("node_stat_item", CounterKind::Node),
    ("vm_stat_item", CounterKind::Limit),
    ("writeback_stat_item", CounterKind::Limit),
    ("vm_event_item", CounterKind::Event),
];

impl Names {
    pub(crate) fn of(kernel: &Kernel) -> Result<Arc<Self>> {
        kernel.once(|| {
            let btf = kernel.btf()?;
            let mut items = HashMap::new();
            for (name, kind) in ITEMS {
                let Some(id) = btf.find(Kind::Enum, name) else {
                    continue;
                };
                for item in btf.type_of(id)?.enumerators() {
                    let index = usize::try_from(item.value).unwrap_or(usize::MAX);
                    items.insert(item.name.to_owned(), (kind, index));
                }
            }
            let index = |name: &str| items.get(name).map(|(_, index)| *index);
            let limits = index("NR_VM_STAT_ITEMS").or_else(|| index("NR_VM_WRITEBACK_STAT_ITEMS"));
            let count = |c: &str, path: &str| array(kernel, c, path).map_or(0, |found| found.1);
            let mut at = kernel.symbol("vmstat_text")?;
            let mut names = |count: usize| -> Result<Vec<String>> {
                if count > COUNTER_BOUND {
                    let why = format!("it has {count} counters of one kind");
                    return Err(Error::Malformed {
                        what: "vmstat",
                        why,
                    });
                }
                (0..count)
                    .map(|_| {
                        let name = GuestVirt(kernel.read_u64(at)?);
                        at = at.offset(8);
                        kernel.read_cstr(name, 64)
                    })
                    .collect()
            };
            Ok(Self {
                zone: names(count("struct zone", "vm_stat"))?,
                numa: names(count("struct zone", "vm_numa_event"))?,
                node: names(count("struct pglist_data", "vm_stat"))?,
                limits: names(limits.unwrap_or(2))?,
                events: names(count("struct vm_event_state", "event"))?,
                huge: IN_HUGE_PAGES
                    .iter()
                    .filter_map(|name| index(name))
                    .collect(),
                items,
            })
        })
    }

    /// Finds a counter of this kind; `None` if this kernel has none of the name.
    fn index(&self, kind: CounterKind, name: &str) -> Option<usize> {
        let (of, index) = self.items.get(name)?;
        (*of == kind).then_some(*index)
    }

    /// A node counter as the kernel shows it: none below zero, some in huge pages.
    pub(crate) fn shown(&self, index: usize, raw: i64) -> u64 {
        let value = shown(raw);
        match self.huge.contains(&index) {
            true => value / HPAGE_PMD_NR,
            false => value,
        }
    }
}

/// A counter of pages as the kernel shows it: CPUs that lag behind can make it negative for a moment.
pub(crate) fn shown(raw: i64) -> u64 {
    raw.max(0).cast_unsigned()
}

/// Words of 64 bits in a row.
pub(crate) fn words(kernel: &Kernel, at: GuestVirt, count: usize) -> Result<Vec<i64>> {
    let mut bytes = vec![0; count.min(COUNTER_BOUND) * 8];
    kernel.read(at, &mut bytes)?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok(words.iter().map(|word| i64::from_le_bytes(*word)).collect())
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

impl Guest {
    /// The counters of `/proc/vmstat`, and what each CPU holds back of them.
    pub fn vmstat(&self) -> Result<VmStat> {
        let kernel = self.kernel()?;
        let names = Names::of(&kernel)?;
        let cpus = online_cpus(&kernel)?;
        let pages = Pages::read(&kernel)?;
        let held = Held::read(&kernel, &names, &cpus)?;
        let mut counters = Vec::new();
        let mut push = |name: &String, kind, value, held| {
            counters.push(Counter {
                name: name.clone(),
                kind,
                value,
                held,
            });
        };
        for (i, name) in names.zone.iter().enumerate() {
            push(name, CounterKind::Zone, shown(pages.zone[i]), held.zone[i]);
        }
        if !names.numa.is_empty() {
            let at = kernel.symbol("vm_numa_event")?;
            let events = words(&kernel, at, names.numa.len())?;
            for (i, name) in names.numa.iter().enumerate() {
                // Whoever asks the kernel makes it add up what the CPUs hold.
                let value = events[i].wrapping_add(held.numa[i]).cast_unsigned();
                push(name, CounterKind::Numa, value, 0);
            }
        }
        for (i, name) in names.node.iter().enumerate() {
            let value = names.shown(i, pages.node[i]);
            push(name, CounterKind::Node, value, held.node[i]);
        }
        let limits = limits(&kernel, &names, &pages)?;
        for (i, name) in names.limits.iter().enumerate() {
            let value = limits.get(i).copied().unwrap_or(0);
            push(name, CounterKind::Limit, value, 0);
        }
        let in_sectors = ["PGPGIN", "PGPGOUT"].map(|name| names.index(CounterKind::Event, name));
        for (i, name) in names.events.iter().enumerate() {
            // Sectors, shown in KiB.
            let unit = if in_sectors.contains(&Some(i)) { 2 } else { 1 };
            push(name, CounterKind::Event, held.events[i] / unit, 0);
        }
        Ok(Listing::from(counters))
    }
}

/// Counts that the CPUs hold: small differences of page counters, whole counts of events.
struct Held {
    zone: Vec<i64>,
    numa: Vec<i64>,
    node: Vec<i64>,
    events: Vec<u64>,
}

impl Held {
    fn read(kernel: &Kernel, names: &Names, cpus: &[u32]) -> Result<Self> {
        let mut held = Self {
            zone: vec![0; names.zone.len()],
            numa: vec![0; names.numa.len()],
            node: vec![0; names.node.len()],
            events: vec![0; names.events.len()],
        };
        for node in mmzone::node_addresses(kernel)? {
            let stats = mmzone::pointer(kernel, node, "struct pglist_data", "per_cpu_nodestats")?;
            let diff = offset_of(kernel, "struct per_cpu_nodestat", "vm_node_stat_diff")?;
            for cpu in cpus {
                add_bytes(
                    kernel,
                    kernel.per_cpu(stats, *cpu)?.offset(diff),
                    &mut held.node,
                )?;
            }
            for zone in mmzone::zone_addresses(kernel, node)? {
                held.of_zone(kernel, zone, cpus)?;
            }
        }
        for cpu in cpus {
            let at = per_cpu_ptr(kernel, "vm_event_states", *cpu)?;
            for (sum, event) in held
                .events
                .iter_mut()
                .zip(words(kernel, at, names.events.len())?)
            {
                *sum = sum.wrapping_add(event.cast_unsigned());
            }
        }
        Ok(held)
    }

    fn of_zone(&mut self, kernel: &Kernel, zone: GuestVirt, cpus: &[u32]) -> Result<()> {
        let present = offset_of(kernel, "struct zone", "present_pages")?;
        // Zones without memory share what is there for the time of the boot.
        if kernel.read_u64(zone.offset(present))? == 0 {
            return Ok(());
        }
        let stats = mmzone::pointer(kernel, zone, "struct zone", "per_cpu_zonestats")?;
        let at = |member| offset_of(kernel, "struct per_cpu_zonestat", member);
        for cpu in cpus {
            let stats = kernel.per_cpu(stats, *cpu)?;
            add_bytes(kernel, stats.offset(at("vm_stat_diff")?), &mut self.zone)?;
            if !self.numa.is_empty() {
                let events = stats.offset(at("vm_numa_event")?);
                let events = words(kernel, events, self.numa.len())?;
                for (sum, event) in self.numa.iter_mut().zip(events) {
                    *sum = sum.wrapping_add(event);
                }
            }
        }
        Ok(())
    }
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
fn limits(kernel: &Kernel, names: &Names, pages: &Pages) -> Result<Vec<u64>> {
    let (dirty, background) = dirty_limits(kernel, pages)?;
    let counted = |symbol: &str| match kernel.symbols()?.lookup(symbol) {
        Some(at) => kernel.read_u64(at),
        None => Ok(0),
    };
    let mut limits = vec![0; names.limits.len()];
    for (name, value) in [
        ("NR_DIRTY_THRESHOLD", dirty),
        ("NR_DIRTY_BG_THRESHOLD", background),
        ("NR_MEMMAP_PAGES", counted("nr_memmap_pages")?),
        ("NR_MEMMAP_BOOT_PAGES", counted("nr_memmap_boot_pages")?),
    ] {
        let slot = names.index(CounterKind::Limit, name);
        if let Some(slot) = slot.and_then(|i| limits.get_mut(i)) {
            *slot = value;
        }
    }
    Ok(limits)
}

/// `global_dirty_limits()` of `mm/page-writeback.c`, for a task that is not a real-time one.
fn dirty_limits(kernel: &Kernel, pages: &Pages) -> Result<(u64, u64)> {
    let long = |symbol: &str| kernel.read_u64(kernel.symbol(symbol)?);
    let int = |symbol: &str| kernel.read_u32(kernel.symbol(symbol)?).map(u64::from);
    // global_dirtyable_memory()
    let free = pages.get("NR_FREE_PAGES").unwrap_or(0);
    let available = free
        .saturating_sub(long("totalreserve_pages")?)
        .saturating_add(pages.get("NR_INACTIVE_FILE").unwrap_or(0))
        .saturating_add(pages.get("NR_ACTIVE_FILE").unwrap_or(0))
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
