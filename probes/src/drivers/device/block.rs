//! Block devices: disks and partitions, their request queues, and the requests that are under way
//! (`include/linux/blk_types.h`, `include/linux/blkdev.h`, `block/blk-mq-tag.c`).

use serde::Serialize;

use super::{BOUND, DevT, pointer, text};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Object, Plan};
use crate::structures::{
    XarrayLayout, container_of, offset_of, possible_cpus, sbitmap, settle_all, whole_list,
    xa_for_each,
};
use crate::{Error, Listing, Missing, Of as _, Result};

/// Hardware queues of one disk: a CPU has no use of more than one.
const HW_QUEUES: u32 = 8192;
/// `BD_PARTNO` and `BD_READ_ONLY` of `include/linux/blk_types.h`.
const PARTNO: u32 = 0xff;
const READ_ONLY: u32 = 1 << 8;
/// `GD_READ_ONLY` of `include/linux/blkdev.h`.
const GD_READ_ONLY: u64 = 1 << 1;
/// `REQ_OP_MASK` of `include/linux/blk_types.h`.
const OP: u32 = 0xff;

/// Transfers of one kind: `enum stat_group`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Transfers {
    /// Requests that were completed.
    pub ios: u64,
    /// Requests that were joined with others.
    pub merges: u64,
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// Their total time, in nanoseconds.
    pub nsecs: u64,
}

/// Transfers since boot, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DiskStats {
    /// Reads.
    pub read: Transfers,
    /// Writes.
    pub write: Transfers,
    /// Discards.
    pub discard: Transfers,
    /// Flushes of the disk's cache.
    pub flush: Transfers,
    /// Time with a request under way, in jiffies (`io_ticks`).
    pub io_ticks: u64,
    /// Reads and writes that began and did not end. Kernels before 6.16 count them only where there are no requests.
    pub in_flight: [u64; 2],
}

/// A request to a disk that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockRequest {
    /// Address of its `struct request`.
    pub at: GuestVirt,
    /// Operation: `REQ_OP_READ`.
    pub op: String,
    /// True if that brings data to the disk.
    pub writes: bool,
    /// The first sector, of 512 bytes.
    pub sector: u64,
    /// Bytes that are left of it.
    pub bytes: u32,
    /// `MQ_RQ_IDLE` before the driver has it, `MQ_RQ_IN_FLIGHT` while it has, `MQ_RQ_COMPLETE` after.
    pub state: String,
    /// Its number in the driver's queue; -1 before it has one.
    pub tag: i32,
    /// Its number in the scheduler's queue; -1 without a scheduler.
    pub internal_tag: i32,
    /// Number of its hardware queue.
    pub hw_queue: u32,
    /// Time at which the driver got it, in nanoseconds of the monotonic clock; 0 where no statistics are kept.
    pub io_start_time_ns: u64,
}

/// A request queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestQueue {
    /// Address of its `struct request_queue`.
    pub at: GuestVirt,
    /// True if it has requests and hardware queues at all (blk-mq); other drivers take each bio as it comes.
    pub mq: bool,
    /// The scheduler: `mq-deadline`; `None` is `none`.
    pub elevator: Option<String>,
    /// Hardware queues.
    pub nr_hw_queues: u32,
    /// Most requests that a queue takes.
    pub nr_requests: u64,
    /// Bytes of the smallest unit that can be addressed.
    pub logical_block_size: u32,
    /// The requests that are under way; `None` if they could not be read. One that could not is among what is missing.
    pub requests: Option<Vec<BlockRequest>>,
}

/// A partition of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Address of its `struct block_device`.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
    /// Its device number.
    pub dev: DevT,
    /// Its number on the disk.
    pub partno: u8,
    /// Its first sector on the disk.
    pub start: u64,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// Counters of transfers; `None` if they could not be read.
    pub stats: Option<DiskStats>,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Address of its `struct gendisk`.
    pub at: GuestVirt,
    /// Address of the whole disk's `struct block_device`.
    pub part0: GuestVirt,
    /// Its name.
    pub name: String,
    /// Its device number.
    pub dev: DevT,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// True if it cannot be written to.
    pub read_only: bool,
    /// Reads and writes that its driver has: `/sys/block/NAME/inflight`. `None`, as the next two: it could not be read.
    pub in_flight: Option<[u64; 2]>,
    /// Counters of transfers.
    pub stats: Option<DiskStats>,
    /// Its request queue.
    pub queue: Option<RequestQueue>,
    /// Its partitions.
    pub partitions: Vec<Partition>,
}

/// The disks.
pub type Disks = Listing<Disk>;

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct block_device")]
struct Bdev {
    bd_start_sect: u64,
    bd_nr_sectors: u64,
    bd_stats: GuestVirt,
    bd_dev: u32,
    bd_disk: GuestVirt,
    #[mirror(member = "bd_device.kobj.name")]
    name: GuestVirt,
    /// Kernels since 6.10: the number and the flags in one word.
    #[mirror(member = "__bd_flags.counter")]
    flags: Option<u32>,
    bd_partno: Option<u8>,
    bd_read_only: Option<u8>,
}

impl Bdev {
    fn partno(&self) -> u8 {
        self.flags.map_or_else(
            || self.bd_partno.unwrap_or(0),
            |flags| (flags & PARTNO) as u8,
        )
    }

    fn read_only(&self) -> bool {
        self.flags.map_or_else(
            || self.bd_read_only.unwrap_or(0) != 0,
            |flags| flags & READ_ONLY != 0,
        )
    }
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct gendisk")]
struct Gendisk {
    disk_name: FixedStr<32>,
    part0: GuestVirt,
    queue: GuestVirt,
    state: u64,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct request_queue")]
struct Queue {
    elevator: GuestVirt,
    mq_ops: GuestVirt,
    nr_hw_queues: u32,
    nr_requests: u64,
    #[mirror(member = "limits.logical_block_size")]
    logical_block_size: u32,
    /// An array of pointers, or in some kernels an xarray.
    queue_hw_ctx: Option<GuestVirt>,
    sched_shared_tags: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct blk_mq_hw_ctx")]
struct HwCtx {
    tags: GuestVirt,
    sched_tags: GuestVirt,
    queue_num: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct blk_mq_tags")]
struct Tags {
    nr_tags: u32,
    nr_reserved_tags: u32,
    rqs: GuestVirt,
    static_rqs: GuestVirt,
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct request")]
struct Request {
    q: GuestVirt,
    mq_hctx: GuestVirt,
    cmd_flags: u32,
    tag: i32,
    internal_tag: i32,
    #[mirror(member = "__data_len")]
    data_len: u32,
    #[mirror(member = "__sector")]
    sector: u64,
    io_start_time_ns: u64,
    state: u32,
    #[mirror(member = "ref.counter", or = "ref.refs.counter")]
    refs: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct disk_stats")]
struct Stats {
    nsecs: [u64; 4],
    sectors: [u64; 4],
    ios: [u64; 4],
    merges: [u64; 4],
    io_ticks: u64,
}

/// The disks, with their partitions, queues and the requests that are under way: `/sys/block`, `/proc/diskstats`.
/// Requests come and go: pause the guest for those of one instant.
pub(crate) fn disks(kernel: &Kernel) -> Result<Disks> {
    settle_all("the disks", || Reader::new(kernel)?.disks())
}

struct Reader<'k> {
    kernel: &'k Kernel,
    bdev: Plan<Bdev>,
    stats: Plan<Stats>,
    request: Plan<Request>,
    cpus: Vec<u32>,
}

impl<'k> Reader<'k> {
    fn new(kernel: &'k Kernel) -> Result<Self> {
        Ok(Self {
            kernel,
            bdev: Plan::new(kernel)?,
            stats: Plan::new(kernel)?,
            request: Plan::new(kernel)?,
            cpus: possible_cpus(kernel)?,
        })
    }

    /// `None` if they changed.
    fn disks(&self) -> Result<Option<Disks>> {
        let nodes = self.block_devices()?;
        let mut disks = Listing::new();
        disks.missing = nodes.missing;
        let mut partitions = Vec::new();
        for at in nodes.items {
            let raw = match self.bdev.load(at) {
                Ok(raw) => raw,
                Err(error) => {
                    disks.miss(format!("the block_device at {at}"), &error);
                    continue;
                }
            };
            let disk = self.kernel.load::<Gendisk>(raw.bd_disk);
            let name = match &disk {
                Ok(disk) if disk.part0 == at => format!("the disk {}", disk.disk_name.to_str()),
                Ok(disk) => format!("a partition of {} at {at}", disk.disk_name.to_str()),
                Err(_) => format!("the block_device at {at}"),
            };
            let missing = &mut disks.missing;
            let disk = disk.of(|| format!("its bd_disk {}", raw.bd_disk));
            let Some(disk) = disk.or_miss(missing, || &*name) else {
                continue;
            };
            let stats = self.stats(raw.bd_stats).of(|| "its bd_stats");
            let stats = stats.or_miss(missing, || &*name);
            if disk.part0 == at {
                let queue = self.queue(disk.queue, missing, &name);
                let queue = queue.of(|| format!("its request_queue {}", disk.queue));
                let queue = queue.or_miss(missing, || &*name);
                let in_flight = queue.as_ref().and_then(|queue| match queue.mq {
                    true => queue.requests.as_deref().map(in_flight),
                    false => stats.map(|stats| stats.in_flight),
                });
                disks.items.push(Disk {
                    at: raw.bd_disk,
                    part0: at,
                    name: disk.disk_name.to_str().into_owned(),
                    dev: DevT::of(raw.bd_dev),
                    sectors: raw.bd_nr_sectors,
                    read_only: raw.read_only() || disk.state & GD_READ_ONLY != 0,
                    in_flight,
                    stats,
                    queue,
                    partitions: Vec::new(),
                });
            } else if let Some(part) = text(self.kernel, raw.name).or_miss(missing, || &*name) {
                let partition = Partition {
                    at,
                    name: part,
                    dev: DevT::of(raw.bd_dev),
                    partno: raw.partno(),
                    start: raw.bd_start_sect,
                    sectors: raw.bd_nr_sectors,
                    stats,
                };
                partitions.push((raw.bd_disk, partition));
            }
            if !self.bdev.load(at).is_ok_and(|after| after == raw) {
                return Ok(None);
            }
        }
        for (of, partition) in partitions {
            match disks.items.iter_mut().find(|disk| disk.at == of) {
                Some(disk) => disk.partitions.push(partition),
                None => {
                    let broken = Error::Broken {
                        what: "block_device",
                        at: partition.at,
                        why: format!("its disk {of} is none of those that could be read"),
                    };
                    disks.miss(format!("the partition {}", partition.name), &broken);
                }
            }
        }
        for disk in &mut disks.items {
            disk.partitions.sort_by_key(|partition| partition.partno);
        }
        Ok(Some(disks))
    }

    /// Each `block_device` of the class `block`.
    fn block_devices(&self) -> Result<Listing<GuestVirt>> {
        let kernel = self.kernel;
        let class = kernel.symbol("block_class")?;
        let kset = pointer(kernel, kernel.symbol("class_kset")?)?;
        let list = kset.offset(offset_of(kernel, "struct kset", "list")?);
        let c = "struct subsys_private";
        let of = |member| offset_of(kernel, c, member);
        let (of_class, devices_of) = (of("class")?, of("klist_devices.k_list")?);
        let c = "struct device_private";
        let node = offset_of(kernel, c, "knode_class.n_node")?;
        let device_of = offset_of(kernel, c, "device")?;
        let member = offset_of(kernel, "struct block_device", "bd_device")?;
        let classes = whole_list(kernel, list, of("subsys.kobj.entry")?, BOUND, "class_kset");
        let mut devices = Listing::new();
        devices.missing = classes.missing;
        for subsystem in classes.items {
            let its = pointer(kernel, subsystem.offset(of_class))
                .or_miss(&mut devices.missing, || format!("the class of {subsystem}"));
            if its != Some(class) {
                continue;
            }
            let head = subsystem.offset(devices_of);
            let privates = whole_list(kernel, head, node, BOUND, "block_class's devices");
            devices.missing.extend(privates.missing);
            for private in privates.items {
                let device = pointer(kernel, private.offset(device_of));
                let device = device.map(|device| container_of(device, member));
                devices.take(device, || format!("the device_private at {private}"));
            }
        }
        Ok(devices)
    }

    /// `part_stat_read_all()`: the sum over all CPUs.
    fn stats(&self, at: GuestVirt) -> Result<DiskStats> {
        let mut sum = DiskStats::default();
        let mut in_flight = [0u64; 2];
        // Two local_t, each a word.
        let counters = offset_of(self.kernel, "struct disk_stats", "in_flight")?;
        for cpu in &self.cpus {
            let at = self.kernel.per_cpu(at, *cpu)?;
            let raw = self.stats.load(at)?;
            let groups = [
                &mut sum.read,
                &mut sum.write,
                &mut sum.discard,
                &mut sum.flush,
            ];
            for (i, group) in groups.into_iter().enumerate() {
                group.ios = group.ios.wrapping_add(raw.ios[i]);
                group.merges = group.merges.wrapping_add(raw.merges[i]);
                group.sectors = group.sectors.wrapping_add(raw.sectors[i]);
                group.nsecs = group.nsecs.wrapping_add(raw.nsecs[i]);
            }
            sum.io_ticks = sum.io_ticks.wrapping_add(raw.io_ticks);
            for (i, sum) in (0..).zip(&mut in_flight) {
                *sum = sum.wrapping_add(self.kernel.read_u64(at.offset(counters + 8 * i))?);
            }
        }
        // A CPU may have counted the end of what began on another one.
        sum.in_flight = in_flight.map(|count| (count as i64).max(0) as u64);
        Ok(sum)
    }

    fn queue(&self, at: GuestVirt, missing: &mut Vec<Missing>, disk: &str) -> Result<RequestQueue> {
        let raw: Queue = self.kernel.load(at)?;
        let elevator = match raw.elevator.is_null() {
            true => None,
            false => {
                let queue = Object::at(self.kernel, "struct elevator_queue", raw.elevator)?;
                let name = queue.member("type")?.member("elevator_name")?.string();
                let name = name.of(|| "its elevator");
                name.or_miss(missing, || disk).or(Some("?".to_owned()))
            }
        };
        let mq = !raw.mq_ops.is_null();
        Ok(RequestQueue {
            at,
            mq,
            requests: match mq {
                true => self
                    .requests(at, &raw, missing, disk)
                    .of(|| "its requests")
                    .or_miss(missing, || disk),
                false => Some(Vec::new()),
            },
            elevator,
            nr_hw_queues: raw.nr_hw_queues,
            nr_requests: raw.nr_requests,
            logical_block_size: raw.logical_block_size,
        })
    }

    /// Its hardware queues.
    fn hw_queues(&self, at: GuestVirt, raw: &Queue) -> Result<Vec<HwCtx>> {
        if raw.nr_hw_queues > HW_QUEUES {
            return Err(Error::Broken {
                what: "request queue",
                at,
                why: format!("it has {} hardware queues", raw.nr_hw_queues),
            });
        }
        let plan = Plan::<HwCtx>::new(self.kernel)?;
        if let Some(first) = raw.queue_hw_ctx {
            return (0..u64::from(raw.nr_hw_queues))
                .map(|index| plan.load(pointer(self.kernel, first.offset(index * 8))?))
                .collect();
        }
        let table = at.offset(offset_of(
            self.kernel,
            "struct request_queue",
            "hctx_table",
        )?);
        xa_for_each(self.kernel, table, XarrayLayout::of(self.kernel)?)
            .bound(HW_QUEUES as usize)
            .map(|entry| plan.load(GuestVirt(entry?.entry)))
            .collect()
    }

    /// The requests of a queue that have a tag: the scheduler's where there is one, since a request gets that first, else
    /// the driver's.
    fn requests(
        &self,
        queue: GuestVirt,
        raw: &Queue,
        missing: &mut Vec<Missing>,
        disk: &str,
    ) -> Result<Vec<BlockRequest>> {
        let mut done: Vec<GuestVirt> = Vec::new();
        let mut requests = Listing::new();
        let scheduled = !raw.elevator.is_null();
        for hctx in self.hw_queues(queue, raw)? {
            let tags = match scheduled {
                true if !raw.sched_shared_tags.is_null() => raw.sched_shared_tags,
                true => hctx.sched_tags,
                false => hctx.tags,
            };
            // Hardware queues may share theirs.
            if tags.is_null() || done.contains(&tags) {
                continue;
            }
            done.push(tags);
            self.tagged((queue, scheduled), tags, &mut requests)?;
        }
        missing.extend(requests.missing.into_iter().map(|part| part.of(disk)));
        Ok(requests.items)
    }

    /// The requests behind the tags in use.
    fn tagged(
        &self,
        (queue, scheduled): (GuestVirt, bool),
        at: GuestVirt,
        requests: &mut Listing<BlockRequest>,
    ) -> Result<()> {
        let kernel = self.kernel;
        let tags: Tags = kernel.load(at)?;
        let of = |member| offset_of(kernel, "struct blk_mq_tags", member);
        let reserved = sbitmap(kernel, at.offset(of("breserved_tags.sb")?))?;
        let others = sbitmap(kernel, at.offset(of("bitmap_tags.sb")?))?;
        let first = tags.nr_reserved_tags as usize;
        let all = others.into_iter().map(|tag| tag + first);
        for tag in reserved.into_iter().filter(|tag| *tag < first).chain(all) {
            if tag >= tags.nr_tags as usize {
                continue;
            }
            let table = if scheduled { tags.static_rqs } else { tags.rqs };
            let read = || {
                let at = pointer(kernel, table.offset(tag as u64 * 8))?;
                // A tag is taken before its request is put there.
                if at.is_null() {
                    return Ok(None);
                }
                let raw = self.request.load(at)?;
                let own = if scheduled { raw.internal_tag } else { raw.tag };
                if raw.q != queue || raw.refs == 0 || own != tag as i32 {
                    return Ok(None);
                }
                self.request(at, &raw).map(Some)
            };
            let request = read().or_miss(&mut requests.missing, || {
                format!("the request of tag {tag}")
            });
            requests.items.extend(request.flatten());
        }
        Ok(())
    }

    fn request(&self, at: GuestVirt, raw: &Request) -> Result<BlockRequest> {
        let op = i64::from(raw.cmd_flags & OP);
        let hw_queue = self.kernel.load::<HwCtx>(raw.mq_hctx)?.queue_num;
        Ok(BlockRequest {
            at,
            op: self.kernel.enumerator("req_op", op)?,
            // An odd operation writes: `op_is_write()`.
            writes: op & 1 == 1,
            sector: raw.sector,
            bytes: raw.data_len,
            state: self.kernel.enumerator("mq_rq_state", raw.state.into())?,
            tag: raw.tag,
            internal_tag: raw.internal_tag,
            hw_queue,
            io_start_time_ns: raw.io_start_time_ns,
        })
    }
}

/// Reads and writes among the requests that the driver has.
fn in_flight(requests: &[BlockRequest]) -> [u64; 2] {
    let mut count = [0; 2];
    for request in requests.iter().filter(|r| r.state == "MQ_RQ_IN_FLIGHT") {
        count[usize::from(request.writes)] += 1;
    }
    count
}
