//! The way back, in a guest whose run is recorded: to any moment of it, and to what wrote a word.
//!
//! ```no_run
//! # use probes::prelude::*;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! let write = guest.last_write(&guest.eval("*(int *)&vm_swappiness")?)?;
//! // The task list as it was before that instruction.
//! guest.seek(write.instruction - 1)?;
//! guest.tasks()?;
//! # Ok(())
//! # }
//! ```
//!
//! `klab up NAME --record` begins a record, in the ready state. Whatever here goes back first ends it: from then on the guest is a
//! replay, whose memory every reader reads, and in which nothing new can happen. Writes are found by a replay from the beginning
//! with a watchpoint: the instructions are the same each time, so there is no write that is missed or seen twice.

use serde::Serialize;
use vm::Progress;

use super::stop::Current;
use super::watchpoint::Write;
use super::writer;
use crate::cell::check_interrupt;
use crate::guest::{Guest, Pause};
use crate::object::{Object, Plan};
use crate::{Error, Result, sched};

/// Writes of a history that are kept.
const MOST: usize = 1000;

/// Instructions that are gone on by, where something cannot be read in the middle of its change, and how often.
const STEP: u64 = 1000;
const RETRIES: u32 = 8;

/// Moment at which a recorded guest stands, in instructions since its boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Instructions that were executed.
    pub instruction: u64,
    /// First instruction of the record.
    pub first: u64,
    /// Last instruction of the record.
    pub last: u64,
}

/// A write of the past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PastWrite {
    /// Instructions that were executed when it was done: `guest.seek(instruction)` is behind it, one less before it.
    pub instruction: u64,
    /// The write itself.
    #[serde(flatten)]
    pub write: Write,
}

/// Writes to an object, from the beginning of the record to where the guest stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct History {
    /// Type of the object in C, and its address.
    pub object: String,
    /// In their order; the first 1000.
    pub writes: Vec<PastWrite>,
    /// Number of writes that there were.
    pub total: u64,
    /// The moments between which they were looked for.
    pub between: (u64, u64),
}

impl Guest {
    /// Moment at which it stands in its record; while that goes on, its end.
    ///
    /// # Errors
    /// When it has none.
    pub fn position(&self) -> Result<Moment> {
        Ok(Moment::of(self.machine()?.position()?))
    }

    /// Goes to a moment of the record; every reader reads what was there then.
    ///
    /// # Errors
    /// When it has no record, or one without that instruction; when QEMU cannot replay it.
    pub fn seek(&self, instruction: u64) -> Result<Moment> {
        let machine = self.machine()?;
        Ok(Moment::of(
            machine.seek(Some(instruction), &mut Interrupts)?,
        ))
    }

    /// Ends the record and goes to its beginning.
    ///
    /// # Errors
    /// As [`Self::seek`].
    pub fn rewind(&self) -> Result<Moment> {
        self.seek(self.machine()?.recording()?.first)
    }

    /// First moment of the record at which something holds that holds from then on: a task is there, a counter has passed a
    /// number. It is found by halving, to the instruction, and the guest stands there; each half takes about as long as the
    /// record did up to it.
    ///
    /// ```no_run
    /// # fn demo(guest: &probes::Guest) -> probes::Result<()> {
    /// let began = guest.first_time(|guest| Ok(guest.tasks()?.iter().any(|task| task.comm == "sleep")))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Absent, when it does not hold where the record ends; those of [`Self::seek`]; those of `holds`, where the
    /// moments behind have them too: the kernel may be in the middle of changing what is read.
    pub fn first_time(&self, mut holds: impl FnMut(&Self) -> Result<bool>) -> Result<Moment> {
        let record = Moment::of(self.machine()?.end_record()?);
        let (mut before, mut since) = (record.first, record.last);
        // Where it was asked, and whether it holds there.
        let mut at = |mut instruction: u64, limit: u64| -> Result<(u64, bool)> {
            let mut tries = RETRIES;
            loop {
                self.seek(instruction)?;
                match holds(self) {
                    Ok(held) => return Ok((instruction, held)),
                    Err(error)
                        if error.kind().is_of_the_moment() && tries > 0 && instruction < limit =>
                    {
                        instruction = limit.min(instruction + STEP);
                        tries -= 1;
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        if !at(since, since)?.1 {
            return Err(Error::Absent(format!(
                "it does not hold at the end of the record (instruction {since})"
            )));
        }
        while since - before > 1 {
            let middle = before + (since - before) / 2;
            match at(middle, since)? {
                // From the middle on it cannot be read, until it holds.
                (there, true) if there == since => break,
                (there, true) => since = there,
                (there, false) => before = there,
            }
        }
        if before == record.first && at(before, since)?.1 {
            since = before;
        }
        self.seek(since)
    }

    /// The last write to an object before the moment at which the guest stands, and where it stands again afterwards:
    /// function, offset and instruction, task, stack, old and new value. Takes about as long as the record did.
    ///
    /// # Errors
    /// Absent, when nothing has written to it since the record began; Invalid, for what cannot be [watched](Self::watch); those
    /// of [`Self::seek`].
    pub fn last_write(&self, object: &Object) -> Result<PastWrite> {
        let mut last = None;
        let between = self.replayed(object, |write| last = Some(write))?;
        last.ok_or_else(|| {
            Error::Absent(format!(
                "nothing wrote to the `{}` between the instructions {} and {}: what it holds is older than the record, which begins when the guest was ready",
                object.type_name(), between.0, between.1
            ))
        })
    }

    /// All that wrote to an object, from the beginning of the record to the moment at which the guest stands.
    ///
    /// # Errors
    /// As [`Self::last_write`].
    pub fn history(&self, object: &Object) -> Result<History> {
        let (mut writes, mut total) = (Vec::new(), 0);
        let between = self.replayed(object, |write| {
            total += 1;
            if writes.len() < MOST {
                writes.push(write);
            }
        })?;
        let at = object.address().map(|at| format!(" at {at}"));
        Ok(History {
            object: object.type_name() + &at.unwrap_or_default(),
            writes,
            total,
            between,
        })
    }

    /// Replays the record up to here, and hands each write to `on`. Gives between which moments.
    fn replayed(&self, object: &Object, mut on: impl FnMut(PastWrite)) -> Result<(u64, u64)> {
        let (watch, machine, kernel) = (self.watch(object)?, self.machine()?, self.kernel()?);
        let ranges = watch.ranges(&kernel)?;
        let task = Plan::<Current>::new(&kernel)?;
        // A record that goes on ends here; its end is not gone to twice.
        let (first, here) = match machine.replays() {
            true => machine
                .position()
                .map(|here| (here.first, here.instruction))?,
            false => machine.end_record().map(|here| (here.first, here.last))?,
        };
        let mut replay = machine.replay(here)?;
        let _still = Pause::of_debugger(self);
        for range in &ranges {
            replay
                .debugger
                .watch(range.start, range.end - range.start)?;
        }
        let mut old = (watch.bytes()?, object.to_value()?);
        let mut stop = None;
        while let Some((next, instruction)) = replay.next(stop.take(), &check_interrupt)? {
            stop = Some(next);
            let registers = replay.debugger.registers(next.cpu)?;
            let new = (watch.bytes()?, object.to_value()?);
            let writer = ranges
                .iter()
                .find_map(|range| writer::find(self, &registers, range));
            let current = task.load(sched::current(&kernel, next.cpu)?)?;
            let write = watch.write(&registers, &current, (old.1, new.1.clone()), writer)?;
            old = new;
            on(PastWrite { instruction, write });
        }
        Ok((first, here))
    }
}

impl Moment {
    const fn of(position: vm::Position) -> Self {
        Self {
            instruction: position.instruction,
            first: position.first,
            last: position.last,
        }
    }
}

/// Leaves a long way by the interrupt of a cell.
#[derive(Debug)]
struct Interrupts;

impl Progress for Interrupts {
    fn step(&mut self, _: &str) {}

    fn stopped(&self) -> bool {
        check_interrupt();
        false
    }
}
