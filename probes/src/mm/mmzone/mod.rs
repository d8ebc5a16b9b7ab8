//! Nodes and zones: how physical memory is divided, and what of it is free (`include/linux/mmzone.h`, `mm/page_alloc.c`,
//! `mm/vmstat.c`).
//!
//! The numbers of a zone change while they are read, as they do under `/proc/zoneinfo`; lists of free blocks are walked
//! again when they do not fit their count.

mod buddy;
mod counters;
mod view;
mod zone;

pub use buddy::{Buddy, FreeArea, ZoneBuddy};
pub use counters::CounterKind;
pub(crate) use counters::{Names, shown, words};
pub use zone::{Node, PerCpuPages, Stat, Watermarks, Zone, Zones};

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{array, bitmap, offset_of};
use crate::{Error, Of as _, Result};

/// Nodes that a kernel may have: `CONFIG_NODES_SHIFT` is at most 10.
const NODE_BOUND: usize = 1024;

/// The free blocks of each zone by order and migrate type, and what its pageblocks are for: `/proc/buddyinfo` and
/// `/proc/pagetypeinfo`.
pub(crate) fn buddy(kernel: &Kernel) -> Result<Buddy> {
    buddy::read(kernel)
}

/// The nodes with their zones: watermarks, sizes, counters, what the CPUs keep: `/proc/zoneinfo`.
pub(crate) fn zones(kernel: &Kernel) -> Result<Zones> {
    zone::read(kernel)
}

/// A pointer member.
pub(crate) fn pointer(kernel: &Kernel, at: GuestVirt, c: &str, member: &str) -> Result<GuestVirt> {
    kernel
        .read_u64(at.offset(offset_of(kernel, c, member)?))
        .map(GuestVirt)
}

/// The nodes that are online: `for_each_online_node()`.
pub(crate) fn online_nodes(kernel: &Kernel) -> Result<Vec<u32>> {
    struct Online(Option<GuestVirt>);
    // An array of nodemask_t, a bitmap each, by enum node_states. Without CONFIG_NUMA there is one node.
    let online = kernel.once(|| {
        let symbols = kernel.symbols()?;
        let number = kernel.btf()?.find_enumerator("N_ONLINE");
        let (Some(states), Some(_), Some((_, number))) = (
            symbols.lookup("node_states"),
            symbols.lookup("node_data"),
            number,
        ) else {
            return Ok(Online(None));
        };
        let stride = kernel.c_type("nodemask_t")?.size()?;
        let at = states.offset(stride.wrapping_mul(number.cast_unsigned()));
        Ok(Online(Some(at)))
    })?;
    let Some(online) = online.0 else {
        return Ok(vec![0]);
    };
    let count = kernel.read_u32(kernel.symbol("nr_node_ids")?)? as usize;
    if count > NODE_BOUND {
        return Err(Error::Malformed {
            what: "nr_node_ids",
            why: format!("it is {count}"),
        });
    }
    let set = bitmap(kernel, online, count)?;
    Ok(set.into_iter().map(|node| node as u32).collect())
}

/// The `pglist_data` of each node that is online, or why it is not known: `for_each_online_pgdat()`.
pub(crate) fn node_addresses(kernel: &Kernel) -> Result<Vec<Result<GuestVirt>>> {
    let Some(data) = kernel.symbols()?.lookup("node_data") else {
        return Ok(vec![kernel.symbol("contig_page_data")]);
    };
    let pointer = |node: u32| {
        let at = kernel.read_u64(data.offset(8 * u64::from(node)));
        at.map(GuestVirt).of(|| format!("node {node}"))
    };
    Ok(online_nodes(kernel)?.into_iter().map(pointer).collect())
}

/// The zones of a node, those without memory too.
pub(crate) fn zone_addresses(kernel: &Kernel, node: GuestVirt) -> Result<Vec<GuestVirt>> {
    let (zones, count, stride) = array(kernel, "struct pglist_data", "node_zones")?;
    let count = count.min(8) as u64;
    Ok((0..count)
        .map(|i| node.offset(zones.wrapping_add(stride.wrapping_mul(i))))
        .collect())
}
