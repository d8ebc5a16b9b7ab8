//! What lets a guest that was stopped go on: one instruction, to the end of a call, to the next stop.

use std::sync::Arc;
use std::time::Duration;

use vm::Registers;

use super::arguments::read_out;
use super::breakpoint::Ended;
use super::call::{Frame, returned};
use super::calls::Return;
use super::stop::Standing;
use super::stopped::{Stopped, TIME};
use super::whereabouts::{Reason, Where};
use crate::guest::Pause;
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// Bytes of the longest instruction of x86-64.
const LONGEST: u64 = 15;

impl Stopped {
    /// Executes one instruction of this CPU, into a function that it calls. Interrupts and the other CPUs wait meanwhile.
    ///
    /// # Errors
    /// When the guest runs, or the gdbstub does not answer.
    pub fn step(&mut self) -> Result<Where> {
        self.standing()?;
        self.one()?;
        self.here()
    }

    /// Executes one instruction of this CPU; a function that it calls runs to its end, and all CPUs with it, for 10 seconds at most.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_over(&mut self) -> Result<Where> {
        self.standing()?;
        let before = self.registers;
        self.one()?;
        if let Some(frame) = self.called_from(&before)? {
            self.session.bound(TIME, &self.stop);
            self.leave(&frame)?;
        }
        self.here()
    }

    /// Runs until this very call has returned, for 10 seconds at most, and says what it gave. It ends earlier at another breakpoint.
    ///
    /// # Errors
    /// Unsupported, where the stack does not tell where the function returns to; as [`step`](Self::step).
    pub fn finish(&mut self) -> Result<Where> {
        self.standing()?;
        let (frame, place) = {
            let _still = Pause::of_debugger(self.guest());
            let known = self.invocation().cloned().ok();
            match known {
                Some(known) => (known.frame(), known.place),
                None => (
                    Frame::by_unwinding(&self.session, &self.registers)?,
                    self.place_here()?,
                ),
            }
        };
        self.session.bound(TIME, &self.stop);
        self.leave(&frame)?;
        if matches!(self.why, Reason::Step) {
            let value = place
                .prototype()
                .and_then(|prototype| returned(&self.session, prototype, &self.registers));
            let value = match value {
                Ok(None) => Return::Void,
                Ok(Some(object)) => Return::Value(read_out(Ok(object))),
                Err(error) => Return::Unknown(error.to_string()),
            };
            self.why = Reason::Returned(place.function(), value);
        }
        self.here()
    }

    /// Lets the guest run to its next stop, for 10 seconds at most.
    ///
    /// # Errors
    /// As [`go_on_for`](Self::go_on_for).
    pub fn go_on(&mut self) -> Result<Where> {
        self.go_on_for(TIME)
    }

    /// Lets the guest run to its next stop, for so long at most.
    ///
    /// # Errors
    /// Absent, when it has come to none by then: it runs on, and its breakpoints stay.
    pub fn go_on_for(&mut self, time: Duration) -> Result<Where> {
        self.session.bound(time, &self.stop);
        if self.run(None)? {
            return self.here();
        }
        let why = match self.session.ended() {
            Ended::Interrupted => return self.pause(),
            Ended::Command => "the command has ended".to_owned(),
            _ => format!("no stop came for {:.1} s", time.as_secs_f64()),
        };
        Err(Error::Absent(format!(
            "{why}: the guest runs, and stops at its next stop"
        )))
    }

    /// Stops the guest where it is.
    ///
    /// # Errors
    /// When it does not stop in 2 seconds.
    pub fn pause(&mut self) -> Result<Where> {
        if !self.is_standing() {
            self.halt()?;
        }
        self.here()
    }

    /// Lets the guest run with its breakpoints, and does not wait; [`poll`](Self::poll) tells when it has stopped.
    ///
    /// # Errors
    /// When the gdbstub does not answer.
    pub fn release(&mut self) -> Result<()> {
        self.session.bound(Duration::ZERO, &Arc::default());
        self.run(None).map(drop)
    }

    /// Tells whether a guest that runs has stopped by now.
    ///
    /// # Errors
    /// When QEMU has ended, or a condition fails.
    pub fn poll(&mut self) -> Result<bool> {
        if self.is_standing() {
            return Ok(true);
        }
        self.release()?;
        Ok(self.is_standing())
    }

    /// One instruction.
    fn one(&mut self) -> Result<()> {
        let standing = self.session.step(self.cpu)?;
        if self.traps.has_call_at(standing.registers.rip) {
            self.session.passes(self.cpu);
        }
        self.stands(standing, Reason::Step)
    }

    /// Runs to the return of `frame`, or to another stop that counts. When none is reached the guest is stopped where it is.
    fn leave(&mut self, frame: &Frame) -> Result<()> {
        let at = frame.returns_to.0;
        let own = !self.traps.has_call_at(at);
        if own {
            self.session.debugger.set(at)?;
        }
        if !self.run(Some(frame))? {
            self.halt()?;
        }
        match own {
            true => Ok(self.session.debugger.unset(at)?),
            false => Ok(()),
        }
    }

    /// Runs to a stop that counts: a breakpoint whose condition is met, a write, the return of `frame`. `false` when none was reached;
    /// then the guest runs.
    pub(super) fn run(&mut self, frame: Option<&Frame>) -> Result<bool> {
        if self.is_standing() {
            self.session.debugger.stays(false)?;
        }
        loop {
            let Some(standing) = self.session.next()? else {
                return Ok(false);
            };
            let registers = &standing.registers;
            if frame.is_some_and(|frame| frame.is_left(&self.session, registers)) {
                self.stands(standing, Reason::Step)?;
                return Ok(true);
            }
            let why = {
                let guest = self.session.guest.clone();
                let _still = Pause::of_debugger(&guest);
                self.traps.met(&mut self.session, &standing)?
            };
            if let Some(why) = why {
                self.stands(standing, why)?;
                return Ok(true);
            }
        }
    }

    /// The guest is stopped where it is.
    fn halt(&mut self) -> Result<()> {
        let standing = self.session.interrupt()?;
        let met = {
            let guest = self.session.guest.clone();
            let _still = Pause::of_debugger(&guest);
            self.traps.met(&mut self.session, &standing)?
        };
        self.stands(standing, met.unwrap_or(Reason::Interrupted))
    }

    pub(super) fn stands(&mut self, standing: Standing, why: Reason) -> Result<()> {
        self.session.debugger.stays(true)?;
        self.cpu = standing.registers.cpu;
        self.registers = standing.registers;
        self.why = why;
        let _still = Pause::of_debugger(&self.session.guest);
        self.invocations.note(&self.session, &self.registers);
        Ok(())
    }

    /// The frame of the call that the last instruction has made, if it was one.
    fn called_from(&self, before: &Registers) -> Result<Option<Frame>> {
        if self.registers.rsp != before.rsp.wrapping_sub(8) {
            return Ok(None);
        }
        let returns_to = self
            .session
            .kernel
            .read_u64(GuestVirt(self.registers.rsp))?;
        let behind = returns_to.wrapping_sub(before.rip);
        match (1..=LONGEST).contains(&behind) {
            true => Frame::at_entry(&self.session, &self.registers).map(Some),
            false => Ok(None),
        }
    }
}
