//! Things that all tasks share, of which there is none left, or which are held back: memory, file systems, rings of network cards.

use super::{Reason, machine};
use crate::fs;
use crate::kernel::Kernel;
use crate::memory::PAGE_SIZE;
use crate::mm::mmzone::{self, Node, Zone};
use crate::net;
use crate::{Missing, Of as _, Result};

/// The reasons that are a thing that is used up or held back.
pub(super) fn reasons(kernel: &Kernel, missing: &mut Vec<Missing>) -> Vec<Reason> {
    let memory = memory(kernel, missing).or_miss(missing, || "whether there is memory left");
    let mut reasons: Vec<Reason> = memory.flatten().into_iter().collect();
    let frozen =
        fs::frozen_filesystems(kernel).or_miss(missing, || "the file systems that are frozen");
    if let Some(mut frozen) = frozen {
        missing.append(&mut frozen.missing);
        reasons.extend(frozen.into_iter().map(Reason::Frozen));
    }
    let stalled = machine::jiffies(kernel).and_then(|now| net::stalled_queues(kernel, now));
    if let Some(mut stalled) = stalled.or_miss(missing, || "the queues of the network devices") {
        missing.append(&mut stalled.missing);
        reasons.extend(stalled.into_iter().map(Reason::TxStall));
    }
    reasons
}

/// Memory of which no zone has more than its allocations must leave: `__zone_watermark_ok()` of `mm/page_alloc.c` for one page.
fn memory(kernel: &Kernel, missing: &mut Vec<Missing>) -> Result<Option<Reason>> {
    let mut nodes = mmzone::zones(kernel)?;
    if !nodes.is_whole() {
        // Of a part there is no saying that there is none.
        missing.append(&mut nodes.missing);
        return Ok(None);
    }
    let zones = || nodes.iter().flat_map(|node| &node.zones);
    let pages = |of: fn(&Zone) -> u64| zones().map(of).fold(0_u64, u64::saturating_add);
    let managed = pages(|zone| zone.managed);
    if managed == 0 || nodes.iter().any(has_room) {
        return Ok(None);
    }
    Ok(Some(Reason::Memory {
        free: pages(|zone| zone.free).saturating_mul(PAGE_SIZE),
        managed: managed.saturating_mul(PAGE_SIZE),
    }))
}

/// Tells whether an allocation that may come from all zones of the node gets a page of it.
fn has_room(node: &Node) -> bool {
    let highest = node.zones.iter().rposition(|zone| zone.managed > 0);
    node.zones.iter().any(|zone| {
        let reserve = highest.and_then(|highest| zone.lowmem_reserve.get(highest));
        let reserve = reserve.map_or(0, |reserve| reserve.max(&0).cast_unsigned());
        // The boost is of the moment; what is kept for urgent allocations no other one gets.
        let min = zone.watermarks.min.saturating_sub(zone.watermarks.boost);
        let free = zone.free.saturating_sub(zone.nr_reserved_highatomic);
        zone.managed > 0 && free > min.saturating_add(reserve)
    })
}
