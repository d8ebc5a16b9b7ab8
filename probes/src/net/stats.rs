//! Counters of a device: `dev_get_stats()` of `net/core/dev.c`, driver by driver.

use serde::Serialize;

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::structures::{enumerator, offset_of, possible_cpus};
use crate::{Error, Result};

/// Queues of one device that are summed up at most.
const QUEUES: u64 = 4096;

/// Counters of a device: `net_device_stats`, `rtnl_link_stats64`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Mirror)]
#[mirror(c = "struct net_device_stats")]
pub struct DeviceStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bad packets received.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets received and thrown away.
    pub rx_dropped: u64,
    /// Packets thrown away instead of sent.
    pub tx_dropped: u64,
    /// Multicast packets received.
    pub multicast: u64,
    /// Collisions.
    pub collisions: u64,
    /// Packets of a wrong length.
    pub rx_length_errors: u64,
    /// Packets too long for the receiver.
    pub rx_over_errors: u64,
    /// Packets with a wrong checksum of their frame.
    pub rx_crc_errors: u64,
    /// Packets with a misaligned frame.
    pub rx_frame_errors: u64,
    /// Packets that overran the receiver's queue.
    pub rx_fifo_errors: u64,
    /// Packets that the receiver missed.
    pub rx_missed_errors: u64,
    /// Transmissions that were given up.
    pub tx_aborted_errors: u64,
    /// Transmissions that lost the carrier.
    pub tx_carrier_errors: u64,
    /// Transmissions that underran the sender's queue.
    pub tx_fifo_errors: u64,
    /// Transmissions without a heartbeat.
    pub tx_heartbeat_errors: u64,
    /// Late collisions.
    pub tx_window_errors: u64,
    /// Compressed packets received.
    pub rx_compressed: u64,
    /// Compressed packets sent.
    pub tx_compressed: u64,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct net_device")]
struct Counters {
    stats: DeviceStats,
    /// One pointer, to what the driver chose.
    #[mirror(member = "lstats")]
    per_cpu: GuestVirt,
    pcpu_stat_type: Option<u32>,
    core_stats: Option<GuestVirt>,
    netdev_ops: GuestVirt,
    num_rx_queues: u32,
}

/// Counters of each CPU, or of each queue.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
}

struct Reader<'k> {
    kernel: &'k Kernel,
    dev: GuestVirt,
    raw: Counters,
}

/// The counters of the device at `dev`; `None` if its driver counts by a function that is not known here, which is named.
pub(super) fn read(kernel: &Kernel, dev: GuestVirt) -> Result<(Option<DeviceStats>, String)> {
    let raw: Counters = kernel.load(dev)?;
    let ops = raw.netdev_ops;
    let reader = Reader { kernel, dev, raw };
    let function = reader.function(ops, "ndo_get_stats64")?;
    let older = reader.function(ops, "ndo_get_stats")?;
    let kind = |name| Ok::<_, Error>(enumerator(kernel, name)?.map(|kind| kind as u32));
    let stats = match (&function, &older) {
        (Some(function), _) => reader.by_function(function)?,
        (None, Some(_)) => None,
        (None, None) => {
            let chosen = reader.raw.pcpu_stat_type;
            let is = |name| Ok::<_, Error>(chosen.is_some() && chosen == kind(name)?);
            if is("NETDEV_PCPU_STAT_TSTATS")? {
                Some(reader.tstats()?)
            } else if is("NETDEV_PCPU_STAT_DSTATS")? {
                Some(reader.dstats()?)
            } else {
                Some(reader.raw.stats.clone())
            }
        }
    };
    let stats = match stats {
        Some(mut stats) => {
            reader.core(&mut stats)?;
            Some(stats)
        }
        None => None,
    };
    let by = function.or(older);
    Ok((stats, by.unwrap_or_else(|| "dev_get_stats".to_owned())))
}

impl Reader<'_> {
    /// The name of a function of `net_device_ops`, if the device has it.
    fn function(&self, ops: GuestVirt, member: &str) -> Result<Option<String>> {
        let at = ops.offset(offset_of(self.kernel, "struct net_device_ops", member)?);
        let at = GuestVirt(self.kernel.read_u64(at)?);
        if at.is_null() {
            return Ok(None);
        }
        let Some(symbol) = self.kernel.symbol_at(at)? else {
            let why = format!("its {member} {at} is no function");
            return Err(Error::broken("net_device_ops", ops, why));
        };
        Ok(Some(match symbol.offset {
            0 => symbol.name,
            _ => at.to_string(),
        }))
    }

    fn by_function(&self, function: &str) -> Result<Option<DeviceStats>> {
        let none = DeviceStats::default();
        Ok(match function {
            "dev_get_tstats64" => Some(self.tstats()?),
            "loopback_get_stats64" => {
                let sum = self.lstats(self.raw.per_cpu)?;
                Some(DeviceStats {
                    rx_packets: sum.tx_packets,
                    rx_bytes: sum.tx_bytes,
                    tx_packets: sum.tx_packets,
                    tx_bytes: sum.tx_bytes,
                    ..none
                })
            }
            "dummy_get_stats64" => {
                let sum = self.lstats(self.raw.per_cpu)?;
                Some(DeviceStats {
                    tx_packets: sum.tx_packets,
                    tx_bytes: sum.tx_bytes,
                    ..none
                })
            }
            "virtnet_stats" => Some(self.virtnet()?),
            "veth_get_stats64" => Some(self.veth()?),
            _ => None,
        })
    }

    /// A counter: a `u64`, or a structure around one.
    fn counter(&self, at: GuestVirt, c: &str, member: &str) -> Result<u64> {
        self.kernel
            .read_u64(at.offset(offset_of(self.kernel, c, member)?))
    }

    /// `dev_lstats_read()`
    fn lstats(&self, per_cpu: GuestVirt) -> Result<Sums> {
        let c = "struct pcpu_lstats";
        let mut sum = Sums::default();
        for cpu in self.cpus(per_cpu)? {
            add(&mut sum.tx_packets, self.counter(cpu, c, "packets")?);
            add(&mut sum.tx_bytes, self.counter(cpu, c, "bytes")?);
        }
        Ok(sum)
    }

    /// `dev_fetch_sw_netstats()`
    fn sw_netstats(&self, per_cpu: GuestVirt, c: &str) -> Result<Sums> {
        let mut sum = Sums::default();
        for cpu in self.cpus(per_cpu)? {
            add(&mut sum.rx_packets, self.counter(cpu, c, "rx_packets")?);
            add(&mut sum.rx_bytes, self.counter(cpu, c, "rx_bytes")?);
            add(&mut sum.tx_packets, self.counter(cpu, c, "tx_packets")?);
            add(&mut sum.tx_bytes, self.counter(cpu, c, "tx_bytes")?);
        }
        Ok(sum)
    }

    fn cpus(&self, per_cpu: GuestVirt) -> Result<Vec<GuestVirt>> {
        if per_cpu.is_null() {
            return Ok(Vec::new());
        }
        let cpus = possible_cpus(self.kernel)?;
        let at = |cpu| self.kernel.per_cpu(per_cpu, cpu);
        cpus.into_iter().map(at).collect()
    }

    fn with(&self, sum: Sums) -> DeviceStats {
        let mut stats = self.raw.stats.clone();
        add(&mut stats.rx_packets, sum.rx_packets);
        add(&mut stats.rx_bytes, sum.rx_bytes);
        add(&mut stats.tx_packets, sum.tx_packets);
        add(&mut stats.tx_bytes, sum.tx_bytes);
        stats
    }

    /// `dev_get_tstats64()`
    fn tstats(&self) -> Result<DeviceStats> {
        let sum = self.sw_netstats(self.raw.per_cpu, "struct pcpu_sw_netstats")?;
        Ok(self.with(sum))
    }

    /// `dev_get_dstats64()`
    fn dstats(&self) -> Result<DeviceStats> {
        let c = "struct pcpu_dstats";
        let mut stats = self.with(self.sw_netstats(self.raw.per_cpu, c)?);
        for cpu in self.cpus(self.raw.per_cpu)? {
            add(&mut stats.rx_dropped, self.counter(cpu, c, "rx_drops")?);
            add(&mut stats.tx_dropped, self.counter(cpu, c, "tx_drops")?);
        }
        Ok(stats)
    }

    /// `virtnet_stats()` of `drivers/net/virtio_net.c`: each queue counts.
    fn virtnet(&self) -> Result<DeviceStats> {
        let kernel = self.kernel;
        let info = netdev_priv(kernel, self.dev)?;
        let c = "struct virtnet_info";
        let pairs = kernel.read_u16(info.offset(offset_of(kernel, c, "max_queue_pairs")?))?;
        let queue = |member: &str| -> Result<GuestVirt> {
            let at = info.offset(offset_of(kernel, c, member)?);
            kernel.read_u64(at).map(GuestVirt)
        };
        let (sq, rq) = (queue("sq")?, queue("rq")?);
        let (tx, rx) = ("struct send_queue", "struct receive_queue");
        let (tx_size, rx_size) = (kernel.c_type(tx)?.size()?, kernel.c_type(rx)?.size()?);
        let own = &self.raw.stats;
        let mut stats = DeviceStats {
            tx_dropped: own.tx_dropped,
            tx_fifo_errors: own.tx_fifo_errors,
            rx_length_errors: own.rx_length_errors,
            rx_frame_errors: own.rx_frame_errors,
            ..DeviceStats::default()
        };
        for i in 0..u64::from(pairs).min(QUEUES) {
            let (sq, rq) = (sq.offset(i * tx_size), rq.offset(i * rx_size));
            let (to, from) = (&mut stats, |member| self.counter(sq, tx, member));
            add(&mut to.tx_packets, from("stats.packets")?);
            add(&mut to.tx_bytes, from("stats.bytes")?);
            add(&mut to.tx_errors, from("stats.tx_timeouts")?);
            let from = |member| self.counter(rq, rx, member);
            add(&mut to.rx_packets, from("stats.packets")?);
            add(&mut to.rx_bytes, from("stats.bytes")?);
            add(&mut to.rx_dropped, from("stats.drops")?);
        }
        Ok(stats)
    }

    /// `veth_get_stats64()` of `drivers/net/veth.c`: what one end has received is what the other has sent.
    fn veth(&self) -> Result<DeviceStats> {
        let kernel = self.kernel;
        let (c, private) = ("struct veth_priv", netdev_priv(kernel, self.dev)?);
        let peer = GuestVirt(self.counter(private, c, "peer")?);
        // It has counted in one kind of counters, and in the other since 6.15.
        let tstats = enumerator(kernel, "NETDEV_PCPU_STAT_TSTATS")?.map(|kind| kind as u32);
        let sent = |device: &Counters| -> Result<Sums> {
            if device.pcpu_stat_type.is_some() && device.pcpu_stat_type == tstats {
                self.sw_netstats(device.per_cpu, "struct pcpu_sw_netstats")
            } else {
                self.lstats(device.per_cpu)
            }
        };
        let (own, xdp) = (
            sent(&self.raw)?,
            self.veth_rx(private, self.raw.num_rx_queues)?,
        );
        let mut stats = DeviceStats {
            tx_packets: own.tx_packets,
            tx_bytes: own.tx_bytes,
            tx_dropped: self
                .counter(private, c, "dropped")?
                .wrapping_add(xdp.xdp_tx_err),
            rx_packets: own.rx_packets.wrapping_add(xdp.xdp_packets),
            rx_bytes: own.rx_bytes.wrapping_add(xdp.xdp_bytes),
            rx_dropped: xdp.rx_drops.wrapping_add(xdp.peer_tq_xdp_xmit_err),
            ..DeviceStats::default()
        };
        if !peer.is_null() {
            let device: Counters = kernel.load(peer)?;
            let (other, xdp) = (
                sent(&device)?,
                self.veth_rx(netdev_priv(kernel, peer)?, device.num_rx_queues)?,
            );
            add(&mut stats.rx_packets, other.tx_packets);
            add(&mut stats.rx_bytes, other.tx_bytes);
            add(&mut stats.tx_packets, xdp.xdp_packets);
            add(&mut stats.tx_bytes, xdp.xdp_bytes);
            add(&mut stats.tx_dropped, xdp.peer_tq_xdp_xmit_err);
            add(&mut stats.rx_dropped, xdp.xdp_tx_err);
        }
        Ok(stats)
    }

    /// `veth_stats_rx()`
    fn veth_rx(&self, private: GuestVirt, queues: u32) -> Result<VethStats> {
        let first = GuestVirt(self.counter(private, "struct veth_priv", "rq")?);
        let size = self.kernel.c_type("struct veth_rq")?.size()?;
        let vs = offset_of(self.kernel, "struct veth_rq", "stats.vs")?;
        let mut sum = VethStats::default();
        for i in 0..u64::from(queues).min(QUEUES) {
            let one: VethStats = self.kernel.load(first.offset(i * size + vs))?;
            add(&mut sum.rx_drops, one.rx_drops);
            add(&mut sum.xdp_packets, one.xdp_packets);
            add(&mut sum.xdp_bytes, one.xdp_bytes);
            add(&mut sum.xdp_tx_err, one.xdp_tx_err);
            add(&mut sum.peer_tq_xdp_xmit_err, one.peer_tq_xdp_xmit_err);
        }
        Ok(sum)
    }

    /// Packets that the kernel itself has dropped: `core_stats`.
    fn core(&self, stats: &mut DeviceStats) -> Result<()> {
        let c = "struct net_device_core_stats";
        for cpu in self.cpus(self.raw.core_stats.unwrap_or_default())? {
            add(&mut stats.rx_dropped, self.counter(cpu, c, "rx_dropped")?);
            add(&mut stats.tx_dropped, self.counter(cpu, c, "tx_dropped")?);
        }
        Ok(())
    }
}

#[derive(Debug, Default, Mirror)]
#[mirror(c = "struct veth_stats")]
struct VethStats {
    rx_drops: u64,
    xdp_packets: u64,
    xdp_bytes: u64,
    xdp_tx_err: u64,
    peer_tq_xdp_xmit_err: u64,
}

fn add(to: &mut u64, more: u64) {
    *to = to.wrapping_add(more);
}

/// `netdev_priv()`: behind the device, aligned to `NETDEV_ALIGN`.
fn netdev_priv(kernel: &Kernel, dev: GuestVirt) -> Result<GuestVirt> {
    match offset_of(kernel, "struct net_device", "priv") {
        Ok(offset) => Ok(dev.offset(offset)),
        Err(Error::NoMember { .. }) => {
            let size = kernel.c_type("struct net_device")?.size()?;
            Ok(dev.offset(size.next_multiple_of(32)))
        }
        Err(error) => Err(error),
    }
}
