//! A network device in detail: features, queues, NAPI, counters (`include/linux/netdevice.h`).

use serde::Serialize;

use super::stats::{self, DeviceStats};
use super::{NetDevice, device, net_namespaces};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::structures::{enumerator, offset_of, possible_cpus, whole_list};
use crate::{Error, Listing, Missing, Of as _, Result};

/// Queues and NAPI instances of one device that are read at most.
pub(super) const QUEUES: u64 = 4096;
/// `ETH_GSTRING_LEN` of `include/uapi/linux/ethtool.h`.
const GSTRING: u64 = 32;
/// `TCQ_F_CPUSTATS` of `include/net/sch_generic.h`: each CPU counts for itself.
const CPUSTATS: u32 = 0x20;
/// `IF_OPER_*` of `include/uapi/linux/if.h`.
const OPERSTATES: [&str; 7] = [
    "unknown",
    "notpresent",
    "down",
    "lowerlayerdown",
    "testing",
    "dormant",
    "up",
];

/// A transmit queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TxQueue {
    /// Address of its `struct netdev_queue`.
    pub at: GuestVirt,
    /// Name of its queueing discipline, in which packets wait.
    pub qdisc: String,
    /// Its handle, as `tc` has it: the upper half is what stands before the colon.
    pub handle: u32,
    /// Packets that wait.
    pub qlen: u32,
    /// Bytes that wait.
    pub backlog: u32,
    /// Packets that were thrown away.
    pub drops: u32,
    /// Parts of the kernel that stopped it: the driver, the stack, or a reset.
    pub stopped: Vec<&'static str>,
}

/// A poller of a device's packets: its `napi_struct`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Napi {
    /// Address.
    pub at: GuestVirt,
    /// Its number; 0 of one that nobody can poll busily.
    pub id: u32,
    /// Function that it calls.
    pub poll: String,
    /// Most packets that it takes at a time: `napi_struct.weight`.
    pub weight: u32,
    /// `NAPI_STATE_*` that are set, without `NAPI_STATE_`.
    pub state: Vec<&'static str>,
    /// The task that polls, if one does.
    pub thread: Option<i32>,
}

/// A network device in detail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceDetails {
    /// The values that `klab net` shows.
    pub device: NetDevice,
    /// Kind, as in `ip link add type`; empty for hardware.
    pub kind: String,
    /// Its driver's functions, by the name of their table.
    pub ops: String,
    /// State of its ability to send, by RFC 2863.
    pub operstate: &'static str,
    /// Number of times that the carrier came or went.
    pub carrier_changes: u32,
    /// Number of packets that may wait to be sent, in disciplines that ask.
    pub tx_queue_len: u32,
    /// Its features, by the names of `ethtool -k`.
    pub features: Vec<String>,
    /// Its transmit queues that are in use.
    pub tx: Vec<TxQueue>,
    /// Its receive queues that are in use: where each `netdev_rx_queue` lies.
    pub rx: Vec<GuestVirt>,
    /// Its pollers.
    pub napi: Vec<Napi>,
    /// Its counters; `None` if only its driver knows them.
    pub stats: Option<DeviceStats>,
    /// The function that counts.
    pub stats_by: String,
}

/// Devices of one name, one a network namespace.
pub type AllDeviceDetails = Listing<DeviceDetails>;

#[derive(Debug, Mirror)]
#[mirror(c = "struct net_device")]
struct Raw {
    features: u64,
    state: u64,
    operstate: u32,
    #[mirror(member = "carrier_up_count.counter")]
    ups: u32,
    #[mirror(member = "carrier_down_count.counter")]
    downs: u32,
    tx_queue_len: u32,
    netdev_ops: GuestVirt,
    rtnl_link_ops: GuestVirt,
    #[mirror(member = "_tx")]
    tx: GuestVirt,
    #[mirror(member = "_rx")]
    rx: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct Qdisc")]
struct Qdisc {
    flags: u32,
    handle: u32,
    #[mirror(member = "q.qlen")]
    qlen: u32,
    #[mirror(member = "qstats.backlog")]
    backlog: u32,
    #[mirror(member = "qstats.drops")]
    drops: u32,
    cpu_qstats: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct napi_struct")]
struct NapiStruct {
    state: u64,
    weight: u32,
    poll: GuestVirt,
    napi_id: u32,
    thread: Option<GuestVirt>,
}

/// The devices of this name in all network namespaces, in detail.
pub(crate) fn net_device(kernel: &Kernel, name: &str) -> Result<AllDeviceDetails> {
    let namespaces = net_namespaces(kernel)?;
    let devices = device::read(kernel, &namespaces)?;
    let mut all = AllDeviceDetails::new();
    all.missing = namespaces.missing;
    all.missing.extend(devices.missing);
    for device in devices.items {
        if device.name == name {
            let what = format!("device {name} at {}", device.at);
            let mut parts = Vec::new();
            all.take(details(kernel, device, &mut parts), || what.as_str());
            all.missing
                .extend(parts.into_iter().map(|part| part.of(&what)));
        }
    }
    // One that could not be read may be the one: that is said then.
    match all.is_empty() && all.is_whole() {
        true => Err(Error::Absent(format!(
            "no network namespace has a device `{name}`: `klab net` lists those there are"
        ))),
        false => Ok(all),
    }
}

/// The details; parts that cannot be read are missing, and empty.
fn details(
    kernel: &Kernel,
    device: NetDevice,
    missing: &mut Vec<Missing>,
) -> Result<DeviceDetails> {
    let at = device.at;
    let raw: Raw = kernel.load(at)?;
    let stats = stats::read(kernel, at).or_miss(missing, || "its counters");
    let (stats, stats_by) = stats.unwrap_or_default();
    let kind = kind(kernel, raw.rtnl_link_ops).or_miss(missing, || "its rtnl_link_ops");
    let ops = named(kernel, raw.netdev_ops).or_miss(missing, || "its netdev_ops");
    let features = features(kernel, raw.features).or_miss(missing, || "its features");
    let mut tx = Vec::new();
    for at in each(kernel, raw.tx, "struct netdev_queue", device.tx_queues)? {
        tx.extend(tx_queue(kernel, at).or_miss(missing, || format!("its netdev_queue {at}")));
    }
    Ok(DeviceDetails {
        kind: kind.unwrap_or_default(),
        ops: ops.unwrap_or_else(|| raw.netdev_ops.to_string()),
        // __LINK_STATE_START is 0: one that nobody has set up is down, whatever it was before.
        operstate: match raw.state & 1 {
            0 => "down",
            _ => OPERSTATES
                .get(raw.operstate as usize)
                .copied()
                .unwrap_or("?"),
        },
        carrier_changes: raw.ups.wrapping_add(raw.downs),
        tx_queue_len: raw.tx_queue_len,
        features: features.unwrap_or_default(),
        tx,
        rx: each(kernel, raw.rx, "struct netdev_rx_queue", device.rx_queues)?,
        napi: napi(kernel, at, missing)?,
        stats,
        stats_by,
        device,
    })
}

fn kind(kernel: &Kernel, link_ops: GuestVirt) -> Result<String> {
    if link_ops.is_null() {
        return Ok(String::new());
    }
    let kind = offset_of(kernel, "struct rtnl_link_ops", "kind")?;
    let kind = kernel.read_u64(link_ops.offset(kind))?;
    kernel.read_cstr(GuestVirt(kind), 32)
}

/// The elements of an array of structures.
fn each(kernel: &Kernel, first: GuestVirt, c: &str, count: u32) -> Result<Vec<GuestVirt>> {
    if first.is_null() {
        return Ok(Vec::new());
    }
    let size = kernel.c_type(c)?.size()?;
    let count = u64::from(count).min(QUEUES);
    Ok((0..count).map(|i| first.offset(i * size)).collect())
}

/// The symbol at an address, or the address.
fn named(kernel: &Kernel, at: GuestVirt) -> Result<String> {
    let symbol = kernel.symbol_at(at)?.filter(|symbol| symbol.offset == 0);
    Ok(symbol.map_or_else(|| at.to_string(), |symbol| symbol.name))
}

/// The names of `netdev_features_strings[]`, in the kernel's own memory.
fn features(kernel: &Kernel, bits: u64) -> Result<Vec<String>> {
    let strings = kernel.symbol("netdev_features_strings")?;
    let name = |bit: u64| {
        let at = strings.offset(GSTRING * bit);
        let name = kernel.read_cstr(at, GSTRING as usize)?;
        Ok(match name.as_str() {
            "" => bit.to_string(),
            name => name.to_owned(),
        })
    };
    (0..64)
        .filter(|bit| bits >> bit & 1 == 1)
        .map(name)
        .collect()
}

fn tx_queue(kernel: &Kernel, at: GuestVirt) -> Result<TxQueue> {
    let c = "struct netdev_queue";
    let qdisc = GuestVirt(kernel.read_u64(at.offset(offset_of(kernel, c, "qdisc")?))?);
    let state = kernel.read_u64(at.offset(offset_of(kernel, c, "state")?))?;
    let stops = [
        ("__QUEUE_STATE_DRV_XOFF", "driver"),
        ("__QUEUE_STATE_STACK_XOFF", "stack"),
        ("__QUEUE_STATE_FROZEN", "frozen"),
    ];
    let mut stopped = Vec::new();
    for (bit, who) in stops {
        if enumerator(kernel, bit)?.is_some_and(|bit| state >> (bit & 63) & 1 == 1) {
            stopped.push(who);
        }
    }
    let mut queue = TxQueue {
        at,
        qdisc: device::qdisc(kernel, qdisc)?,
        handle: 0,
        qlen: 0,
        backlog: 0,
        drops: 0,
        stopped,
    };
    if qdisc.is_null() {
        return Ok(queue);
    }
    let raw: Qdisc = kernel.load(qdisc)?;
    queue.handle = raw.handle;
    (queue.qlen, queue.backlog, queue.drops) = (raw.qlen, raw.backlog, raw.drops);
    if raw.flags & CPUSTATS != 0 && !raw.cpu_qstats.is_null() {
        for cpu in possible_cpus(kernel)? {
            let at = kernel.per_cpu(raw.cpu_qstats, cpu)?;
            let counter = |member| -> Result<u32> {
                kernel.read_u32(at.offset(offset_of(kernel, "struct gnet_stats_queue", member)?))
            };
            queue.qlen = queue.qlen.wrapping_add(counter("qlen")?);
            queue.backlog = queue.backlog.wrapping_add(counter("backlog")?);
            queue.drops = queue.drops.wrapping_add(counter("drops")?);
        }
    }
    Ok(queue)
}

fn napi(kernel: &Kernel, dev: GuestVirt, missing: &mut Vec<Missing>) -> Result<Vec<Napi>> {
    let states = [
        ("NAPI_STATE_SCHED", "SCHED"),
        ("NAPI_STATE_MISSED", "MISSED"),
        ("NAPI_STATE_DISABLE", "DISABLE"),
        ("NAPI_STATE_NPSVC", "NPSVC"),
        ("NAPI_STATE_LISTED", "LISTED"),
        ("NAPI_STATE_NO_BUSY_POLL", "NO_BUSY_POLL"),
        ("NAPI_STATE_IN_BUSY_POLL", "IN_BUSY_POLL"),
        ("NAPI_STATE_PREFER_BUSY_POLL", "PREFER_BUSY_POLL"),
        ("NAPI_STATE_THREADED", "THREADED"),
        ("NAPI_STATE_SCHED_THREADED", "SCHED_THREADED"),
    ];
    let head = dev.offset(offset_of(kernel, "struct net_device", "napi_list")?);
    let member = offset_of(kernel, "struct napi_struct", "dev_list")?;
    let pid = offset_of(kernel, "struct task_struct", "pid")?;
    let one = |at: GuestVirt| -> Result<Napi> {
        let raw: NapiStruct = kernel.load(at)?;
        let mut state = Vec::new();
        for (bit, name) in states {
            if enumerator(kernel, bit)?.is_some_and(|bit| raw.state >> (bit & 63) & 1 == 1) {
                state.push(name);
            }
        }
        let thread = raw.thread.filter(|thread| !thread.is_null());
        Ok(Napi {
            at,
            id: raw.napi_id,
            poll: named(kernel, raw.poll)?,
            weight: raw.weight,
            state,
            thread: match thread {
                Some(thread) => Some(kernel.read_u32(thread.offset(pid))?.cast_signed()),
                None => None,
            },
        })
    };
    let nodes = whole_list(kernel, head, member, QUEUES as usize, "its napi_list");
    let mut all = Vec::new();
    for at in nodes.into_items(missing) {
        all.extend(one(at).or_miss(missing, || format!("its napi_struct {at}")));
    }
    Ok(all)
}
