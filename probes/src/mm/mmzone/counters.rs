//! The counters of nodes and zones: their names, and how the kernel shows them (`mm/vmstat.c`).

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::kernel::Kernel;
use crate::kernel::btf::Kind;
use crate::memory::GuestVirt;
use crate::structures::array;
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

/// Kind of a counter, and where the kernel keeps it.
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

/// The names of all counters, from the kernel's own `vmstat_text`.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) zone: Vec<String>,
    pub(crate) numa: Vec<String>,
    pub(crate) node: Vec<String>,
    pub(crate) limits: Vec<String>,
    pub(crate) events: Vec<String>,
    /// Indices of node counters that are shown in huge pages.
    huge: Vec<usize>,
    /// Array that has a counter, and its index there, by its enumerator.
    pub(crate) items: HashMap<String, (CounterKind, usize)>,
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

    /// Index of a counter of this kind; `None` where this kernel has none of the name.
    pub(crate) fn index(&self, kind: CounterKind, name: &str) -> Option<usize> {
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
