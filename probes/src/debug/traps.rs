//! What a debugger stops the guest at: places with their conditions, and objects that are written to.

use std::ops::Range;

use super::breakpoint::meets;
use super::call::Call;
use super::function::Place;
use super::stop::{Session, Standing};
use super::watchpoint::Watchpoint;
use super::whereabouts::Reason;
use super::writer;
use crate::memory::GuestVirt;
use crate::object::Value;
use crate::{Of as _, Result};

/// One of them.
#[derive(Debug)]
pub(super) enum Trap {
    Call {
        place: Box<Place>,
        condition: Option<String>,
    },
    Write {
        watch: Box<Watchpoint>,
        /// The object's bytes and its value when it was last looked at.
        old: (Vec<u8>, Value),
        /// What QEMU watches.
        ranges: Vec<Range<u64>>,
    },
}

impl Trap {
    pub(super) fn of_call(place: Place, condition: Option<String>) -> Self {
        Self::Call {
            place: Box::new(place),
            condition,
        }
    }

    pub(super) fn of_write(watch: Watchpoint) -> Result<Self> {
        Ok(Self::Write {
            old: (watch.bytes()?, watch.object.to_value()?),
            ranges: watch.ranges(watch.object.kernel())?,
            watch: Box::new(watch),
        })
    }

    fn at(&self) -> Result<GuestVirt> {
        match self {
            Self::Call { place, .. } => Ok(place.at),
            Self::Write { watch, .. } => watch.start(),
        }
    }
}

/// All of a debugger's.
#[derive(Debug, Default)]
pub(super) struct Traps(Vec<Trap>);

impl Traps {
    /// Sets one, in a guest that stands.
    pub(super) fn add(&mut self, session: &mut Session, trap: Trap) -> Result<()> {
        match &trap {
            Trap::Call { place, .. } => session.debugger.set(place.at.0)?,
            Trap::Write { ranges, .. } => {
                for range in ranges {
                    let len = range.end - range.start;
                    session.debugger.watch(range.start, len)?;
                }
            }
        }
        self.0.push(trap);
        Ok(())
    }

    /// Takes those at an address away; tells whether there were any.
    pub(super) fn remove(&mut self, session: &mut Session, at: GuestVirt) -> Result<bool> {
        let of = |trap: &mut Trap| trap.at().is_ok_and(|own| own == at);
        let gone: Vec<Trap> = self.0.extract_if(.., of).collect();
        for trap in &gone {
            match trap {
                Trap::Call { place, .. } => session.debugger.unset(place.at.0)?,
                Trap::Write { ranges, .. } => {
                    for range in ranges {
                        let len = range.end - range.start;
                        session.debugger.unwatch(range.start, len)?;
                    }
                }
            }
        }
        Ok(!gone.is_empty())
    }

    /// Tells whether a breakpoint is at this address.
    pub(super) fn has_call_at(&self, at: u64) -> bool {
        self.0
            .iter()
            .any(|trap| matches!(trap, Trap::Call { place, .. } if place.at.0 == at))
    }

    /// Addresses and names.
    pub(super) fn named(&self) -> Vec<(GuestVirt, String)> {
        let each = self.0.iter().filter_map(|trap| {
            let name = match trap {
                Trap::Call { place, .. } => place.function(),
                Trap::Write { watch, .. } => watch.object.type_name(),
            };
            Some((trap.at().ok()?, name))
        });
        each.collect()
    }

    /// The reason to stop where the guest stands; `None` for a call whose condition is not met, and for a stop that is not theirs.
    pub(super) fn met(
        &mut self,
        session: &mut Session,
        standing: &Standing,
    ) -> Result<Option<Reason>> {
        match standing.watch {
            Some(at) => self.written(session, standing, at),
            None => self.called(session, standing),
        }
    }

    fn called(&self, session: &mut Session, standing: &Standing) -> Result<Option<Reason>> {
        for trap in &self.0 {
            let Trap::Call { place, condition } = trap else {
                continue;
            };
            if place.at.0 != standing.registers.rip {
                continue;
            }
            let call = Call::new(session, place, standing, 1);
            match meets(condition.as_deref(), &call) {
                Ok(true) => return Ok(Some(Reason::Breakpoint)),
                Ok(false) => {}
                // What this call leads to, not what was asked: the next call may have it.
                Err(error) if error.kind().is_of_the_moment() => {
                    return Ok(Some(Reason::Condition(error.to_string())));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn written(
        &mut self,
        session: &Session,
        standing: &Standing,
        at: u64,
    ) -> Result<Option<Reason>> {
        for trap in &mut self.0 {
            let Trap::Write { watch, old, ranges } = trap else {
                continue;
            };
            if !ranges.iter().any(|range| range.contains(&at)) {
                continue;
            }
            let new = (watch.bytes()?, watch.object.to_value()?);
            let registers = &standing.registers;
            let writer = ranges
                .iter()
                .find_map(|range| writer::find(&session.guest, registers, range));
            // If two CPUs write at once QEMU tells of one; of the other one later, whatever it does by then.
            if old.0 == new.0 && !writer.as_ref().is_some_and(|writer| writer.addresses) {
                continue;
            }
            let cpu = registers.cpu;
            let (_, current) = session
                .current(cpu)
                .of(|| format!("current of CPU {cpu}"))?;
            let values = (old.1.clone(), new.1.clone());
            let write = watch.write(registers, &current, values, writer)?;
            *old = new;
            return Ok(Some(Reason::Write(Box::new(write))));
        }
        Ok(None)
    }
}
