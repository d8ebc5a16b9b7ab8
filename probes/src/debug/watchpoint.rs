//! Watchpoints: the instruction that writes to a word.
//!
//! QEMU compares virtual addresses, so what is watched is the object's address, and the address of the same memory in the direct map.
//! A write by a user's mapping of the memory, or by a device, is not seen.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Serialize;
use vm::Registers;

use super::breakpoint::Ended;
use super::stop::{Bounds, Current, Session, bounded};
use super::work::Work;
use super::writer::{self, Written};
use crate::guest::{Guest, Pause};
use crate::kernel::{Function, Functions, Kernel};
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::object::{Object, Value};
use crate::unwind::StackTrace;
use crate::{Error, Missing, Of as _, Result};

/// Time for which a write is waited for, if none is given.
const TIME: Duration = Duration::from_secs(30);
/// Bytes of the largest object that is watched.
const MOST: u64 = 256;

/// A write to a watched object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Write {
    /// Address of the object.
    pub at: GuestVirt,
    /// Its type in C.
    #[serde(rename = "type")]
    pub ty: String,
    /// Its value before.
    pub old: Value,
    /// Its value after; the same where that was written again.
    pub new: Value,
    /// The instruction that wrote, and how it was found; `None` where it is not known.
    pub writer: Option<Written>,
    /// Place of the writer: that instruction, or where the CPU stood after it.
    pub place: Function,
    /// The CPU.
    pub cpu: u32,
    /// The task that the CPU called `current`. In an interrupt that is the one that was interrupted.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// The frames that led to the write.
    pub stack: Option<StackTrace>,
    /// Parts of it that could not be read.
    pub missing: Vec<Missing>,
}

/// A watchpoint that is not set yet.
#[derive(Debug, Clone)]
pub struct Watchpoint {
    pub(super) guest: Guest,
    pub(super) object: Object,
    pub(super) bounds: Bounds,
}

impl Guest {
    /// Runs the guest until something writes to an object, for 30 seconds at most, and says what: function, offset and
    /// instruction, task, stack, old and new value. See [`watch`](Self::watch) for another time, and for what is to run meanwhile.
    ///
    /// # Errors
    /// Absent, when nothing writes to it in time; those of [`watch`](Self::watch).
    pub fn who_writes(&self, object: &Object) -> Result<Write> {
        self.watch(object)?.next()
    }

    /// A watchpoint on an object of the kernel's: `guest.watch(&task.member("comm")?)?.shell("..").next()?`. Of a structure every
    /// member is watched.
    ///
    /// # Errors
    /// Invalid, for a computed value, an object of user space, and one of more than 256 bytes.
    pub fn watch(&self, object: &Object) -> Result<Watchpoint> {
        let at = object.address().ok_or_else(|| {
            Error::Invalid(
                "a computed value lies nowhere, so nothing writes to it: watch the object that it was read from"
                    .to_owned(),
            )
        })?;
        if at.0 >> 63 == 0 {
            return Err(Error::Invalid(format!(
                "{at} is an address of user space, which each process has for itself: the kernel's own memory is watched"
            )));
        }
        let size = object.size()?;
        if !(1..=MOST).contains(&size) {
            let ty = object.type_name();
            return Err(Error::Invalid(format!(
                "`{ty}` has {size} bytes, and at most {MOST} are watched: watch a member of it"
            )));
        }
        self.kernel()?.space().translate(at)?;
        Ok(Watchpoint {
            guest: self.clone(),
            object: object.clone(),
            bounds: Bounds::of(TIME),
        })
    }
}

bounded!(Watchpoint);

impl Watchpoint {
    /// The next write.
    ///
    /// # Errors
    /// Absent, when nothing writes in time, or before the command has ended.
    pub fn next(self) -> Result<Write> {
        let mut found = None;
        let bounds = self.bounds.clone();
        let (at, ty) = (self.start()?, self.object.type_name());
        self.each(|write| {
            found = Some(write.clone());
            Ok(false)
        })?;
        if found.is_none() && bounds.ended() == Ended::Interrupted {
            let said = format!("interrupted: nothing wrote to the `{ty}` at {at} until then");
            return Err(vm::Error::Interrupted(said).into());
        }
        found.ok_or_else(|| {
            Error::Absent(format!(
                "nothing wrote to the `{ty}` at {at} while it was watched (at most {:.1} s): `.within(..)` gives it longer, `.shell(..)` runs what may write",
                bounds.time().as_secs_f64()
            ))
        })
    }

    /// Looks at each write while the guest stands behind it; `look` says whether to go on. Gives how many there were.
    ///
    /// # Errors
    /// Those of `look`; when the guest stands still already, is reset meanwhile, or another waits so.
    pub fn each(self, mut look: impl FnMut(&Write) -> Result<bool>) -> Result<u64> {
        let until = self.bounds.until();
        let mut work = Work::begin(&self.guest, &self.bounds)?;
        let mut session = Session::begin(&self.guest, &self.bounds)?;
        let ranges = self.ranges(&session.kernel)?;
        for range in &ranges {
            session
                .debugger
                .watch(range.start, range.end - range.start)?;
        }
        let mut old = (self.bytes()?, self.object.to_value()?);
        work.start();
        let mut writes = 0;
        while let Some(standing) = session.next()? {
            if standing.watch.is_none() {
                continue;
            }
            let _still = Pause::of_debugger(&self.guest);
            let new = (self.bytes()?, self.object.to_value()?);
            let writer = ranges
                .iter()
                .find_map(|range| writer::find(&self.guest, &standing.registers, range));
            // If two CPUs write at once QEMU tells of one; of the other one later, whatever it does by then.
            let is_one = old.0 != new.0 || writer.as_ref().is_some_and(|writer| writer.addresses);
            if !is_one {
                continue;
            }
            writes += 1;
            let cpu = standing.registers.cpu;
            let (_, current) = session
                .current(cpu)
                .of(|| format!("current of CPU {cpu}"))?;
            let write = self.write(
                &standing.registers,
                &current,
                (old.1, new.1.clone()),
                writer,
            )?;
            old = new;
            if !look(&write)? {
                break;
            }
        }
        drop(session);
        work.end(until, &self.bounds.stop)?;
        Ok(writes)
    }

    /// Ranges to watch: the object's bytes, and the same memory in the direct map, page by page.
    pub(super) fn ranges(&self, kernel: &Kernel) -> Result<Vec<Range<u64>>> {
        let start = self.start()?.0;
        let end = start.checked_add(self.object.size()?).ok_or_else(|| {
            Error::Invalid(format!(
                "what is at {start:#x} ends behind the last address"
            ))
        })?;
        let mut ranges = vec![Range { start, end }];
        let mut at = start;
        while at < end {
            let next = (at / PAGE_SIZE + 1).saturating_mul(PAGE_SIZE).min(end);
            let also = kernel
                .phys_to_virt(kernel.space().translate(GuestVirt(at))?)?
                .0;
            if also != at {
                ranges.push(also..also + (next - at));
            }
            at = next;
        }
        Ok(ranges)
    }

    pub(super) fn start(&self) -> Result<GuestVirt> {
        let gone = || Error::Invalid("a computed value lies nowhere".to_owned());
        self.object.address().ok_or_else(gone)
    }

    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.object.size()? as usize];
        self.object.kernel().read(self.start()?, &mut bytes)?;
        Ok(bytes)
    }

    /// Description of a write, with the registers that the CPU has behind it.
    pub(super) fn write(
        &self,
        registers: &Registers,
        current: &Current,
        (old, new): (Value, Value),
        writer: Option<Written>,
    ) -> Result<Write> {
        let cpu = registers.cpu;
        let mut missing = Vec::new();
        let stack = self
            .guest
            .stack_of_cpu(cpu)
            .or_miss(&mut missing, || "the stack of the writer");
        let at = writer
            .as_ref()
            .map_or(GuestVirt(registers.rip), |one| one.instruction.at);
        Ok(Write {
            at: self.start()?,
            ty: self.object.type_name(),
            old,
            new,
            place: Functions::new(self.object.kernel()).at(at)?,
            writer,
            cpu,
            pid: current.pid,
            comm: current.comm.to_str().into_owned(),
            stack,
            missing,
        })
    }
}
