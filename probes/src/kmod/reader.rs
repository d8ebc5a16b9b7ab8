//! The rings of the module, read through the mapping of the guest's RAM: nothing in the guest takes part.

use std::mem::{offset_of, size_of};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use serde::Serialize;

use super::call::CallRecord;
use super::ring::{Counters, MAGIC, MAX_CPUS, MAX_RING, RECORD, Record, RingHeader, VERSION};
use crate::memory::{GuestPhys, PhysMemory};
use crate::{Error, Result};

/// Records that are copied at once.
const SOME: usize = 256;
/// Offset in a ring's header of the count of sequence numbers given out.
const PRODUCED: u64 = offset_of!(RingHeader, produced) as u64;

/// A record and where it comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event<R = Record> {
    pub(crate) cpu: u32,
    /// Counts within its CPU's ring.
    pub(crate) sequence: u64,
    pub(crate) record: R,
}

/// Content of a slot of a ring.
pub(crate) trait InSlot {
    fn from_slot(bytes: &[u8; RECORD]) -> Self;
    /// Its time, in nanoseconds of the guest's monotonic clock.
    fn time(&self) -> u64;
}

impl InSlot for Record {
    fn from_slot(bytes: &[u8; RECORD]) -> Self {
        Self::from_bytes(bytes)
    }

    fn time(&self) -> u64 {
        self.time
    }
}

impl InSlot for CallRecord {
    fn from_slot(bytes: &[u8; RECORD]) -> Self {
        Self::from_bytes(bytes)
    }

    fn time(&self) -> u64 {
        self.time
    }
}

/// Counts of the records: every one that was written is in `delivered` or in `lost`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Records that were read whole.
    pub delivered: u64,
    /// Records that were overwritten before they were read, or while.
    pub lost: u64,
    /// Times a hook was called in the guest, whether or not that made a record.
    pub seen: u64,
    /// Calls whose argument was no readable `sk_buff`.
    pub unreadable: u64,
    /// Returns of netfilter's hook functions that the kernel could not watch.
    pub missed: u64,
    /// Packets that passed the filter and could not be followed any longer, for there were too many at once.
    pub forgotten: u64,
}

/// Counts of one CPU's records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CpuTally {
    /// The CPU.
    pub cpu: u32,
    /// Records that were read whole.
    pub delivered: u64,
    /// Records that were overwritten before they were read, or while.
    pub lost: u64,
}

#[derive(Debug)]
struct Ring {
    header: GuestPhys,
    records: GuestPhys,
    cpu: u32,
    slots: u64,
    /// The next sequence to read.
    next: u64,
    /// The time of the last record that was read, in nanoseconds.
    last: u64,
    /// `seen`, `unreadable`, `forgotten` and `rejected` when the reader was made.
    before: [u64; 4],
}

/// All rings of a module.
#[derive(Debug)]
pub(crate) struct Reader {
    memory: Arc<dyn PhysMemory>,
    rings: Vec<Ring>,
    tally: Tally,
    rejected: u64,
    cpus: Vec<CpuTally>,
    /// Time before which nothing was lost, in nanoseconds.
    whole_until: Option<u64>,
    copy: Vec<u8>,
}

impl Reader {
    /// The rings that the module names, from the sequences of this moment on.
    pub(crate) fn new(memory: Arc<dyn PhysMemory>, counters: &[u8]) -> Result<Self> {
        let bytes: &[u8; size_of::<Counters>()] = counters
            .try_into()
            .map_err(|_| malformed(format!("its counters are {} bytes", counters.len())))?;
        let counters = Counters::from_bytes(bytes);
        if counters.magic != MAGIC || counters.version != VERSION {
            return Err(malformed(format!(
                "it speaks version {}, this library {VERSION}: build the module again",
                counters.version
            )));
        }
        if counters.cpus as usize > MAX_CPUS {
            return Err(malformed(format!("it claims {} rings", counters.cpus)));
        }
        let mut reader = Self {
            memory,
            rings: Vec::new(),
            tally: Tally::default(),
            rejected: 0,
            cpus: Vec::new(),
            whole_until: None,
            copy: vec![0; SOME * RECORD],
        };
        for info in counters.rings.iter().take(counters.cpus as usize) {
            let at = GuestPhys(info.header);
            let header = reader.header(at)?;
            let bytes = u64::from(header.slots) * RECORD as u64;
            if header.magic != MAGIC
                || header.version != VERSION
                || header.record as usize != RECORD
                || header.slots == 0
                || bytes > u64::from(MAX_RING)
            {
                return Err(malformed(format!("there is no ring at physical {at}")));
            }
            reader.cpus.push(CpuTally {
                cpu: header.cpu,
                ..CpuTally::default()
            });
            reader.rings.push(Ring {
                header: at,
                records: GuestPhys(header.records),
                cpu: header.cpu,
                slots: u64::from(header.slots),
                next: header.produced,
                last: 0,
                before: [
                    header.seen,
                    header.unreadable,
                    header.forgotten,
                    header.rejected,
                ],
            });
        }
        Ok(reader)
    }

    fn header(&self, at: GuestPhys) -> Result<RingHeader> {
        let mut bytes = [0; size_of::<RingHeader>()];
        self.memory.read(at, &mut bytes)?;
        Ok(RingHeader::from_bytes(&bytes))
    }

    /// All that came since the last call. A record that is still being written ends its ring's turn, unless `last`
    /// says that nothing writes any more: then it was never finished, and is lost.
    pub(crate) fn drain<R: InSlot>(
        &mut self,
        last: bool,
        events: &mut Vec<Event<R>>,
    ) -> Result<()> {
        let mut counted = [0_u64; 4];
        for index in 0..self.rings.len() {
            let header = self.header(self.rings[index].header)?;
            let (ring, tally) = (&mut self.rings[index], &mut self.cpus[index]);
            let now = [
                header.seen,
                header.unreadable,
                header.forgotten,
                header.rejected,
            ];
            for ((sum, now), before) in counted.iter_mut().zip(now).zip(ring.before) {
                *sum = sum.wrapping_add(now.wrapping_sub(before));
            }
            if header.produced < ring.next {
                return Err(malformed("its sequence went back".to_owned()));
            }
            // A record that is a lap behind was overwritten.
            let oldest = header.produced.saturating_sub(ring.slots);
            let oldest_lost = oldest.saturating_sub(ring.next);
            tally.lost += oldest_lost;
            ring.next += oldest_lost;
            let mut first_lost = (oldest_lost > 0).then_some(ring.last);
            let mut stuck = false;
            while ring.next < header.produced && !stuck {
                let slot = ring.next % ring.slots;
                let count = (header.produced - ring.next)
                    .min(ring.slots - slot)
                    .min(SOME as u64);
                let at = GuestPhys(ring.records.0.wrapping_add(slot * RECORD as u64));
                let some = &mut self.copy[..count as usize * RECORD];
                // The mark of a whole record is read before the record, and whether it was overwritten after it.
                self.memory.read(at, some)?;
                let commits: Vec<u64> = some.chunks_exact(RECORD).map(first_word).collect();
                fence(Ordering::Acquire);
                self.memory.read(at, some)?;
                fence(Ordering::Acquire);
                let produced = self.memory.read_u64(ring.header.offset(PRODUCED))?;
                for (before, bytes) in commits.into_iter().zip(some.chunks_exact(RECORD)) {
                    let overwritten = produced.saturating_sub(ring.slots) > ring.next;
                    match read::<R>(before, bytes, ring.next) {
                        Read::Whole(record) if !overwritten => {
                            tally.delivered += 1;
                            ring.last = record.time();
                            events.push(Event {
                                cpu: ring.cpu,
                                sequence: ring.next,
                                record,
                            });
                        }
                        Read::NotYet if !last && !overwritten => {
                            stuck = true;
                            break;
                        }
                        _ => {
                            tally.lost += 1;
                            first_lost.get_or_insert(ring.last);
                        }
                    }
                    ring.next += 1;
                }
            }
            if let Some(at) = first_lost {
                self.whole_until = Some(self.whole_until.map_or(at, |before| before.min(at)));
            }
        }
        [
            self.tally.seen,
            self.tally.unreadable,
            self.tally.forgotten,
            self.rejected,
        ] = counted;
        self.tally.delivered = self.cpus.iter().map(|cpu| cpu.delivered).sum();
        self.tally.lost = self.cpus.iter().map(|cpu| cpu.lost).sum();
        Ok(())
    }

    /// Before which time nothing was lost; `None` where nothing was at all.
    pub(crate) fn whole_until(&self) -> Option<u64> {
        self.whole_until
    }

    /// The next record to read of each CPU.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.rings.iter().map(|ring| (ring.cpu, ring.next))
    }

    /// The same by CPU.
    pub(crate) fn cpus(&self) -> &[CpuTally] {
        &self.cpus
    }

    /// Times the filter or a plan said no.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }
}

enum Read<R> {
    Whole(R),
    NotYet,
    Lost,
}

fn first_word(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |word| u64::from_le_bytes(*word))
}

/// Looks at a copy of record `sequence` as the head comment of `kmod/ring.rs` says; `before` is its commit word, read
/// before the copy was made.
fn read<R: InSlot>(before: u64, bytes: &[u8], sequence: u64) -> Read<R> {
    let age = (sequence as u32).wrapping_sub(before as u32) as i32;
    let whole = (before >> 32) as u8 != 0;
    match bytes.first_chunk() {
        _ if !whole || age > 0 => Read::NotYet,
        Some(bytes) if age == 0 && first_word(bytes) == before => Read::Whole(R::from_slot(bytes)),
        _ => Read::Lost,
    }
}

fn malformed(why: String) -> Error {
    Error::Malformed {
        what: "klab's module",
        why,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::kmod::ring::{Context, Kind, commit};
    use crate::memory::PhysRange;

    /// No power of two, as in a ring of the module.
    const SLOTS: u64 = 5;
    const RECORDS: usize = 4096;

    /// A ring of four records behind a page with its header, at physical 0.
    #[derive(Debug)]
    struct Guest(Mutex<Vec<u8>>);

    impl Guest {
        fn new() -> Self {
            let guest = Self(Mutex::new(vec![0; RECORDS + SLOTS as usize * RECORD]));
            guest.put(0, MAGIC);
            guest.put(8, u64::from(VERSION) | (RECORD as u64) << 32);
            guest.put(16, SLOTS << 32);
            guest.put(24, RECORDS as u64);
            guest
        }

        fn put(&self, at: usize, word: u64) {
            self.0.lock().unwrap()[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }

        /// The writer begins record `n`.
        fn begin(&self, n: u64) {
            self.put(40, n + 1);
            self.put(slot(n), 0);
        }

        fn write(&self, n: u64) {
            self.begin(n);
            self.put(slot(n) + 16, 1000 + n);
            self.put(
                slot(n),
                commit(n, Kind::Entry as u8, Context::Softirq as u8, 0, 0),
            );
        }
    }

    fn slot(n: u64) -> usize {
        RECORDS + (n % SLOTS) as usize * RECORD
    }

    impl PhysMemory for Guest {
        fn read(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
            let bytes = self.0.lock().unwrap();
            let from = at.0 as usize;
            let fault = Error::NotRam { at, len: buf.len() };
            buf.copy_from_slice(bytes.get(from..from + buf.len()).ok_or(fault)?);
            Ok(())
        }

        fn ranges(&self) -> &[PhysRange] {
            &[]
        }
    }

    fn counters() -> Vec<u8> {
        let mut bytes = vec![0; size_of::<Counters>()];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&1_u32.to_le_bytes());
        bytes
    }

    fn skbs(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.record.skb).collect()
    }

    #[test]
    fn every_record_is_delivered_or_lost() {
        let guest = Arc::new(Guest::new());
        guest.write(0);
        let mut reader = Reader::new(guest.clone(), &counters()).unwrap();
        let mut events = Vec::new();
        // Records that were there before are not ours; one that is half written ends the turn.
        guest.write(1);
        guest.begin(2);
        reader.drain(false, &mut events).unwrap();
        assert_eq!(skbs(&events), [1001]);
        guest.write(2);
        reader.drain(false, &mut events).unwrap();
        assert_eq!(skbs(&events), [1001, 1002]);
        // Eight more into five slots: three are gone. Then one that never becomes whole.
        (3..10).for_each(|n| guest.write(n));
        guest.begin(10);
        reader.drain(true, &mut events).unwrap();
        assert_eq!(skbs(&events)[2..], [1006, 1007, 1008, 1009]);
        let tally = reader.tally();
        assert_eq!((tally.delivered, tally.lost), (6, 4));
        assert_eq!(tally.delivered + tally.lost, 10);
    }

    #[test]
    fn lies_are_errors() {
        let guest = Arc::new(Guest::new());
        let refused = |bytes: &[u8]| Reader::new(guest.clone(), bytes).is_err();
        assert!(refused(&[]));
        let mut wrong = counters();
        wrong[8] ^= 0xff;
        assert!(refused(&wrong));
        let mut many = counters();
        many[12] = 0xff;
        assert!(refused(&many));
        let mut reader = Reader::new(guest.clone(), &counters()).unwrap();
        guest.put(40, u64::MAX);
        let mut events: Vec<Event> = Vec::new();
        // An absurd count is a lap behind, and ends.
        reader.drain(true, &mut events).unwrap();
        guest.put(40, 0);
        assert!(reader.drain(true, &mut events).is_err());
        guest.put(16, 0);
        assert!(refused(&counters()));
    }
}
