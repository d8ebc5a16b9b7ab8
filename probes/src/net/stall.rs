//! Transmit queues that are stopped for too long, as `dev_watchdog()` of `net/sched/sch_generic.c` looks for them.

use serde::Serialize;

use super::{device, net_namespaces};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::structures::{enumerator, offset_of};
use crate::{Listing, Of as _, Result};

/// Seconds that a queue may be stopped: the `watchdog_timeo` of most drivers.
const LIMIT: u64 = 5;
/// `__LINK_STATE_START`, `__LINK_STATE_PRESENT` and `__LINK_STATE_NOCARRIER` of `include/linux/netdevice.h`, as bits.
const START: u64 = 1;
const PRESENT: u64 = 1 << 1;
const NO_CARRIER: u64 = 1 << 2;

/// A transmit queue that takes no packets, and has sent none for long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StalledQueue {
    /// Address of its `struct netdev_queue`.
    pub at: GuestVirt,
    /// The device.
    pub device: String,
    /// The device's network namespace.
    pub netns: u32,
    /// Its number among the device's.
    pub queue: u32,
    /// Who stopped it: the driver, whose ring is full, or the stack, by its limit of bytes.
    pub by: &'static str,
    /// Seconds since it sent last.
    pub seconds: u64,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct net_device")]
struct Device {
    state: u64,
    #[mirror(member = "_tx")]
    tx: GuestVirt,
    netdev_ops: GuestVirt,
    #[mirror(member = "dev.parent")]
    parent: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct netdev_queue")]
struct Queue {
    state: u64,
    trans_start: u64,
}

/// The queues that are stopped, at this number of jiffies, of so many nanoseconds each.
pub(crate) fn stalled_queues(
    kernel: &Kernel,
    (nanos, now): (u64, u64),
) -> Result<Listing<StalledQueue>> {
    let namespaces = net_namespaces(kernel)?;
    let devices = device::read(kernel, &namespaces)?;
    let mut all = Listing::new();
    all.missing = namespaces.missing;
    all.missing.extend(devices.missing);
    let size = kernel.c_type("struct netdev_queue")?.size()?;
    let timeout = offset_of(kernel, "struct net_device_ops", "ndo_tx_timeout")?;
    let stops = [
        ("__QUEUE_STATE_DRV_XOFF", "driver"),
        ("__QUEUE_STATE_STACK_XOFF", "stack"),
    ];
    let mut bits = Vec::new();
    for (name, by) in stops {
        bits.extend(enumerator(kernel, name)?.map(|bit| (1_u64 << (bit & 63), by)));
    }
    for device in devices.items {
        let what = || format!("device {} at {}", device.name, device.at);
        let Some(raw) = kernel
            .load::<Device>(device.at)
            .or_miss(&mut all.missing, what)
        else {
            continue;
        };
        let sends = raw.state & (START | PRESENT | NO_CARRIER) == START | PRESENT;
        // Without hardware there is no ring.
        if !sends || raw.tx.is_null() || raw.parent.is_null() {
            continue;
        }
        // As in the kernel: no queue of a driver that has nothing to do about it is expected to move.
        let watched = kernel.read_u64(raw.netdev_ops.offset(timeout));
        let its = || format!("device {}, its netdev_ops", device.name);
        if watched
            .or_miss(&mut all.missing, its)
            .is_none_or(|function| function == 0)
        {
            continue;
        }
        for queue in 0..device.tx_queues.min(super::details::QUEUES as u32) {
            let at = raw.tx.offset(u64::from(queue) * size);
            let of = || format!("device {}, its netdev_queue {at}", device.name);
            let Some(raw) = kernel.load::<Queue>(at).or_miss(&mut all.missing, of) else {
                continue;
            };
            let Some((_, by)) = bits.iter().find(|(bit, _)| raw.state & bit != 0) else {
                continue;
            };
            // It may have sent after the jiffies were read.
            let ago = now.wrapping_sub(raw.trans_start).cast_signed().max(0);
            let seconds = ago.cast_unsigned().saturating_mul(nanos) / 1_000_000_000;
            if seconds > LIMIT {
                all.items.push(StalledQueue {
                    at,
                    device: device.name.clone(),
                    netns: device.netns,
                    queue,
                    by,
                    seconds,
                });
            }
        }
    }
    Ok(all)
}
