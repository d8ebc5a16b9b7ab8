//! The kernel's log: the whole `printk_ringbuffer` (`kernel/printk/printk_ringbuffer.c`).
//!
//! A ring of descriptors, each of them in one of four states, a parallel ring of `printk_info`, and a ring of bytes that
//! holds the texts, each behind the id of its descriptor. Writers are lock-free, so a record is believed only if its
//! descriptor was finalized with the right id before and after it was read, as the kernel's own readers do.

mod level;
mod view;

use std::fmt;
use std::ops::Deref;

use serde::Serialize;

use crate::Listing;
use crate::base::check_interrupt;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::{Error, Of as _, Result};

// kernel/printk/printk_ringbuffer.h: the state is in the two upper bits of state_var, the id below.
const STATE_SHIFT: u32 = 62;
const ID_MASK: u64 = (1 << STATE_SHIFT) - 1;
/// `desc_committed`: whole as it is, and its writer may add to the line.
const COMMITTED: u64 = 1;
/// `desc_finalized`: written, and no more text will be added.
const FINALIZED: u64 = 2;
/// `FAILED_LPOS`, with bit 0 set: the text was lost. Other odd positions are empty texts.
const FAILED_LPOS: u64 = 1;
/// Rings larger than this are no kernel's: `CONFIG_LOG_BUF_SHIFT` ends at 25.
const MAX_BITS: u32 = 31;
/// `LOG_CONT`, of `kernel/printk/internal.h`.
const LOG_CONT: u8 = 8;

pub use self::level::{facility_name, level_name};

/// Writer of a record: `printk_info.caller_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Caller {
    /// A task, by its pid.
    Task(u32),
    /// A CPU, outside of any task.
    Cpu(u32),
}

/// As the kernel prints it with CONFIG_PRINTK_CALLER: `T1`, `C0`.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(pid) => write!(f, "T{pid}"),
            Self::Cpu(cpu) => write!(f, "C{cpu}"),
        }
    }
}

/// One record of the kernel's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogRecord {
    /// Its number, from 0 at boot.
    pub seq: u64,
    /// Time at which it was written, in nanoseconds of the boot CPU's clock (`local_clock()`).
    pub ts_nsec: u64,
    /// 0 (emergency) to 7 (debug): `KERN_*`.
    pub level: u8,
    /// 0 for the kernel, others for what user space wrote to `/dev/kmsg`.
    pub facility: u8,
    /// True if it goes on a line begun before (`LOG_CONT`).
    pub cont: bool,
    /// True if its line is not ended: more may be added. What a dying kernel says last often is such a one; `/dev/kmsg`
    /// does not give it.
    pub open: bool,
    /// Its writer.
    pub caller: Caller,
    /// The other half of that, where the kernel keeps it: the CPU of a task, the task that a CPU interrupted.
    pub caller2: Option<Caller>,
    /// The name of the task, where the kernel keeps it.
    pub comm: Option<String>,
    /// The text, without a prefix; a byte that is not UTF-8 is `\xNN`.
    pub text: String,
    /// `SUBSYSTEM=` of a device's record, or empty.
    pub subsystem: String,
    /// `DEVICE=` of a device's record, or empty.
    pub device: String,
}

/// The kernel's log, oldest record first. In JSON it is the list of its records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Log {
    /// The records.
    pub records: Listing<LogRecord>,
    /// Number of older records, which newer ones have overwritten.
    #[serde(skip)]
    pub overwritten: u64,
    /// Gaps in the numbers, each as the number before it and its length: records that were overwritten while the log was
    /// read, or were being written.
    #[serde(skip)]
    pub holes: Vec<(u64, u64)>,
    /// Beginning of each text, after the time.
    #[serde(skip)]
    pub prefix: Prefix,
}

/// Beginning of the text of a record. JSON has all of it in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prefix {
    /// Facility and level, as `dmesg -x` prints them.
    pub level: bool,
    /// The writer.
    pub caller: bool,
}

impl Log {
    fn of(records: Listing<LogRecord>, overwritten: u64) -> Self {
        let holes = records.windows(2).filter_map(|pair| {
            let missing = pair[1].seq.wrapping_sub(pair[0].seq).wrapping_sub(1);
            (missing > 0).then_some((pair[0].seq, missing))
        });
        Self {
            holes: holes.collect(),
            overwritten,
            records,
            prefix: Prefix::default(),
        }
    }

    /// The last `n` records.
    #[must_use]
    pub fn tail(mut self, n: usize) -> Self {
        let older = self.records.len().saturating_sub(n);
        self.records.items.drain(..older);
        if older > 0 {
            self.overwritten = 0;
            let first = self.records.first().map_or(u64::MAX, |first| first.seq);
            self.holes.retain(|(before, _)| *before >= first);
        }
        self
    }

    /// The records of a level and of worse ones.
    #[must_use]
    pub fn at_least(mut self, level: u8) -> Self {
        self.records.items.retain(|record| record.level <= level);
        self
    }
}

impl Deref for Log {
    type Target = [LogRecord];

    fn deref(&self) -> &[LogRecord] {
        &self.records
    }
}

impl FromIterator<LogRecord> for Log {
    fn from_iter<I: IntoIterator<Item = LogRecord>>(records: I) -> Self {
        Self::of(records.into_iter().collect(), 0)
    }
}

impl IntoIterator for Log {
    type Item = LogRecord;
    type IntoIter = std::vec::IntoIter<LogRecord>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.into_iter()
    }
}

impl<'a> IntoIterator for &'a Log {
    type Item = &'a LogRecord;
    type IntoIter = std::slice::Iter<'a, LogRecord>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.iter()
    }
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct printk_ringbuffer")]
struct Ring {
    #[mirror(member = "desc_ring.count_bits")]
    count_bits: u32,
    #[mirror(member = "desc_ring.descs")]
    descs: GuestVirt,
    #[mirror(member = "desc_ring.infos")]
    infos: GuestVirt,
    #[mirror(member = "desc_ring.head_id.counter")]
    head_id: u64,
    #[mirror(member = "desc_ring.tail_id.counter")]
    tail_id: u64,
    #[mirror(member = "text_data_ring.size_bits")]
    size_bits: u32,
    #[mirror(member = "text_data_ring.data")]
    data: GuestVirt,
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct prb_desc")]
struct Desc {
    #[mirror(member = "state_var.counter")]
    state_var: u64,
    #[mirror(member = "text_blk_lpos.begin")]
    begin: u64,
    #[mirror(member = "text_blk_lpos.next")]
    next: u64,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct printk_info")]
struct Info {
    seq: u64,
    ts_nsec: u64,
    text_len: u16,
    facility: u8,
    flags: u8,
    level: u8,
    caller_id: u32,
    /// Absent without CONFIG_PRINTK_EXECUTION_CTX.
    caller_id2: Option<u32>,
    comm: Option<FixedStr<16>>,
    #[mirror(member = "dev_info.subsystem")]
    subsystem: FixedStr<16>,
    #[mirror(member = "dev_info.device")]
    device: FixedStr<48>,
}

/// Number of the newest record, without the others; `None` for an empty log.
///
/// # Errors
/// As [`log`]; when a record behind the newest one that can be read cannot be.
pub(crate) fn newest(kernel: &Kernel) -> Result<Option<u64>> {
    let reader = Reader::new(kernel)?;
    let count = reader.count()?;
    for i in 0..=count {
        check_interrupt();
        // The last ones may be being written.
        let id = reader.ring.head_id.wrapping_sub(i) & ID_MASK;
        if let Some(record) = reader.record(id)? {
            return Ok(Some(record.seq));
        }
    }
    Ok(None)
}

/// The kernel's log: every record that `/dev/kmsg` would give, oldest first, and the last one before its line is ended.
///
/// Records that are overwritten while they are read are left out, as they are gone: `Log::holes`.
pub(crate) fn log(kernel: &Kernel) -> Result<Log> {
    let reader = Reader::new(kernel)?;
    let (tail_id, count) = (reader.ring.tail_id, reader.count()?);
    let mut records = Listing::new();
    for i in 0..=count {
        check_interrupt();
        let id = tail_id.wrapping_add(i) & ID_MASK;
        match reader.record(id) {
            Ok(record) => records.items.extend(record),
            Err(error) => records.miss(format!("the record with the id {id:#x}"), &error),
        }
    }
    let overwritten = records.first().map_or(0, |first| first.seq);
    Ok(Log::of(records, overwritten))
}

/// The records of a level and of worse ones, each shown with what is asked for of `level` and `caller`.
pub(crate) fn log_of(kernel: &Kernel, level: Option<&str>, show: Option<&str>) -> Result<Log> {
    let level = level.map(level::parse).transpose()?;
    let mut prefix = Prefix::default();
    for word in show.into_iter().flat_map(|show| show.split(',')) {
        match word.trim() {
            "level" => prefix.level = true,
            "caller" => prefix.caller = true,
            other => {
                let why =
                    format!("`{other}` cannot be shown of a record: `level` and `caller` can");
                return Err(Error::Invalid(why));
            }
        }
    }
    let mut log = log(kernel)?;
    log.prefix = prefix;
    Ok(match level {
        Some(level) => log.at_least(level),
        None => log,
    })
}

struct Reader<'k> {
    kernel: &'k Kernel,
    at: GuestVirt,
    ring: Ring,
    desc: Plan<Desc>,
    info: Plan<Info>,
}

impl<'k> Reader<'k> {
    /// Ids from the oldest to the newest, which is one less than the descriptors in use.
    fn count(&self) -> Result<u64> {
        let Ring {
            head_id,
            tail_id,
            count_bits,
            ..
        } = self.ring;
        let count = head_id.wrapping_sub(tail_id) & ID_MASK;
        if count >> count_bits != 0 {
            let why = format!(
                "its ids run from {tail_id:#x} to {head_id:#x}, more than its 2^{count_bits} descriptors"
            );
            return Err(Error::broken("printk ring buffer", self.at, why));
        }
        Ok(count)
    }

    fn new(kernel: &'k Kernel) -> Result<Self> {
        // `prb` points to the ring in use: the static one of early boot or the one allocated after.
        let at = GuestVirt(kernel.read_u64(kernel.symbol("prb")?)?);
        let ring: Ring = kernel
            .load(at)
            .of(|| format!("prb, the printk_ringbuffer {at}"))?;
        if ring.count_bits > MAX_BITS || ring.size_bits > MAX_BITS {
            let why = format!(
                "it has 2^{} descriptors and 2^{} bytes",
                ring.count_bits, ring.size_bits
            );
            return Err(Error::Broken {
                what: "printk ring buffer",
                at,
                why,
            });
        }
        Ok(Self {
            kernel,
            at,
            ring,
            desc: Plan::new(kernel)?,
            info: Plan::new(kernel)?,
        })
    }

    /// The record of this id; `None` if it is not written to the end, or overwritten.
    fn record(&self, id: u64) -> Result<Option<LogRecord>> {
        let index = id & ((1 << self.ring.count_bits) - 1);
        let at = self.ring.descs.offset(index.wrapping_mul(self.desc.size()));
        let desc = self.desc.load(at)?;
        let state = desc.state_var >> STATE_SHIFT;
        if desc.state_var & ID_MASK != id {
            return self.gone(id, || {
                let why = format!("its id is {:#x}", desc.state_var & ID_MASK);
                Error::broken("descriptor of a record", at, why)
            });
        }
        // Being written, or taken for a new one.
        if !matches!(state, COMMITTED | FINALIZED) {
            return Ok(None);
        }
        let info = self
            .info
            .load(self.ring.infos.offset(index.wrapping_mul(self.info.size())))?;
        let text = self.text(id, &desc, info.text_len);
        if self.desc.load(at)? != desc {
            return Ok(None);
        }
        let text = match text {
            Ok(text) => text,
            Err(error) => return self.gone(id, || error),
        };
        // Its text was lost: there was no room for it.
        let Some(text) = text else { return Ok(None) };
        let comm = info.comm.map(|comm| comm.to_str().into_owned());
        Ok(Some(LogRecord {
            seq: info.seq,
            ts_nsec: info.ts_nsec,
            level: info.level,
            facility: info.facility,
            cont: info.flags & LOG_CONT != 0,
            open: state == COMMITTED,
            caller: caller(info.caller_id),
            caller2: info.caller_id2.map(caller),
            comm: comm.filter(|comm| !comm.is_empty()),
            text: crate::text_of(&text),
            subsystem: info.subsystem.to_str().into_owned(),
            device: info.device.to_str().into_owned(),
        }))
    }

    /// Tells a record that was overwritten meanwhile from a damaged one, by the ring's tail.
    fn gone(&self, id: u64, error: impl FnOnce() -> Error) -> Result<Option<LogRecord>> {
        let ring: Ring = self.kernel.load(self.at)?;
        let behind = id.wrapping_sub(ring.tail_id) & ID_MASK;
        match behind >> ring.count_bits.min(MAX_BITS) {
            0 => Err(error()),
            _ => Ok(None),
        }
    }

    /// The text of a record: `get_data()`. `None` if it was lost.
    fn text(&self, id: u64, desc: &Desc, len: u16) -> Result<Option<Vec<u8>>> {
        let Some((at, size)) = block(desc.begin, desc.next, self.ring.size_bits) else {
            // Odd positions: no text, or one that was lost. Others are no block of this turn of the ring.
            return match (desc.begin & 1, desc.next & 1) {
                (1, 1) => Ok((desc.begin != FAILED_LPOS).then(Vec::new)),
                _ => {
                    let why = format!("its text is from {:#x} to {:#x}", desc.begin, desc.next);
                    Err(Error::broken("descriptor of a record", self.at, why))
                }
            };
        };
        // Each block begins with the id of its descriptor.
        let block = self.ring.data.offset(at);
        let owner = self.kernel.read_u64(block)? & ID_MASK;
        if owner != id || size < 8 {
            let why = format!("it has {size} bytes and the id {owner:#x}, its record {id:#x}");
            return Err(Error::broken("block of text", block, why));
        }
        // The kernel's reader cuts what is longer than its block, too.
        let mut text = vec![0; u64::from(len).min(size - 8) as usize];
        self.kernel.read(block.offset(8), &mut text)?;
        Ok(Some(text))
    }
}

/// `printk_caller_id()`: the top bit tells a CPU from a task.
const fn caller(id: u32) -> Caller {
    match id >> 31 {
        0 => Caller::Task(id),
        _ => Caller::Cpu(id & 0x7fff_ffff),
    }
}

/// Finds the data block between two positions in a ring of `2^bits` bytes: offset and size. `None` without data.
///
/// A block never wraps: one that would is put at the start of the ring, and the end stays unused.
fn block(begin: u64, next: u64, bits: u32) -> Option<(u64, u64)> {
    if begin & 1 == 1 && next & 1 == 1 {
        return None;
    }
    let (size, mask) = (1u64 << bits, (1u64 << bits) - 1);
    // The block's last byte tells the turn it is in: it may end just where the ring does.
    let turn = |position: u64| position >> bits;
    if turn(begin) == turn(next.wrapping_sub(1)) && begin < next {
        return Some((begin & mask, next - begin));
    }
    (turn(begin.wrapping_add(size)) == turn(next)).then_some((0, next & mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_in_the_ring() {
        assert_eq!(block(16, 48, 10), Some((16, 32)));
        assert_eq!(block(1024 + 16, 1024 + 48, 10), Some((16, 32)));
        // It ends with the ring.
        assert_eq!(block(992, 1024, 10), Some((992, 32)));
        // It did not fit: it is at the start of the next turn.
        assert_eq!(block(1000, 1024 + 40, 10), Some((0, 40)));
        assert_eq!(block(3, 3, 10), None);
        assert_eq!(block(1, 1, 10), None);
        // Two turns on: overwritten since.
        assert_eq!(block(16, 2048 + 48, 10), None);
    }

    proptest::proptest! {
        #[test]
        fn a_block_lies_within_its_ring(begin: u64, next: u64, bits in 0u32..=31) {
            if let Some((at, size)) = block(begin, next, bits) {
                proptest::prop_assert!(at + size <= 1 << bits);
            }
        }
    }
}
