//! The calls of a function as a table: arguments, return value and task of each.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::arguments::{Argument, read_out};
use super::breakpoint::{Breakpoint, Ended, meets};
use super::call::{Call, Frame, returned};
use super::stop::{Session, Standing};
use super::work::Work;
use crate::guest::Pause;
use crate::kernel::{Function, Functions};
use crate::object::Value;
use crate::{ErrorKind, Result};

/// Time of waiting for returns when no more calls are looked at.
const RETURNS: Duration = Duration::from_secs(2);

/// Knowledge of the end of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Return {
    /// It has returned this.
    Value(Value),
    /// It has returned; the function returns nothing.
    Void,
    /// It had not returned when the watch ended.
    Pending,
    /// Its return cannot be told: why.
    Unknown(String),
}

/// A call of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallRecord {
    /// The task that the CPU called `current`.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// The CPU.
    pub cpu: u32,
    /// Caller.
    pub caller: Option<Function>,
    /// Its arguments; none in the middle of a function, and where BTF has no prototype.
    pub args: Vec<Argument>,
    /// Return value.
    pub returned: Return,
}

/// The calls of a function while the guest was watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// The function, as views print it.
    pub function: String,
    /// The calls, in their order.
    pub calls: Vec<CallRecord>,
    /// Calls that did not meet the condition.
    pub passed: u64,
    /// Reason for the end.
    pub ended: Ended,
}

/// The calls that have not returned.
#[derive(Debug, Default)]
struct Open(Vec<(Frame, usize)>);

impl Open {
    /// Waits for the return of a call.
    fn add(&mut self, session: &mut Session, frame: Frame, index: usize) -> Result<()> {
        if !self.waits_at(frame.returns_to.0) {
            session.debugger.set(frame.returns_to.0)?;
        }
        self.0.push((frame, index));
        Ok(())
    }

    fn waits_at(&self, at: u64) -> bool {
        self.0.iter().any(|(frame, _)| frame.returns_to.0 == at)
    }

    /// The call that has returned to where a CPU stands, if one has.
    fn take(&mut self, session: &mut Session, standing: &Standing) -> Result<Option<usize>> {
        let registers = &standing.registers;
        // If an older call never returned, such as that of a task that died, the newest one has its place.
        let found = self
            .0
            .iter()
            .rposition(|(frame, _)| frame.is_left(session, registers));
        let Some(found) = found else {
            return Ok(None);
        };
        let (frame, index) = self.0.remove(found);
        if !self.waits_at(frame.returns_to.0) {
            session.debugger.unset(frame.returns_to.0)?;
        }
        Ok(Some(index))
    }
}

impl Breakpoint {
    /// Looks at each call, and at its return: of several at once each has its own. No call waits for another.
    ///
    /// # Errors
    /// Those of the condition; when the guest stands still already, is reset meanwhile, or another waits so.
    pub fn calls(self) -> Result<Calls> {
        let until = self.bounds.until();
        let mut work = Work::begin(&self.guest, &self.bounds)?;
        let mut session = Session::begin(&self.guest, &self.bounds)?;
        let entry = self.place.at.0;
        session.debugger.set(entry)?;
        work.start();
        let mut calls = Calls {
            function: self.place.function(),
            calls: Vec::new(),
            passed: 0,
            ended: Ended::Time,
        };
        let mut open = Open::default();
        let mut looks = true;
        while looks || !open.0.is_empty() {
            let Some(standing) = session.next()? else {
                break;
            };
            let _still = Pause::of_debugger(&self.guest);
            if let Some(index) = open.take(&mut session, &standing)? {
                calls.calls[index].returned = self.returned(&session, &standing);
            }
            if !looks || standing.registers.rip != entry {
                continue;
            }
            let number = calls.calls.len() as u64 + 1;
            let call = Call::new(&mut session, &self.place, &standing, number);
            if !meets(self.condition.as_deref(), &call)? {
                calls.passed += 1;
                continue;
            }
            let args = match call.args() {
                // Its return value is not known for the same reason, and says it.
                Err(error) if error.kind() == ErrorKind::Unsupported => Vec::new(),
                args => args?,
            };
            let record =
                self.record(&mut session, &standing, args, &mut open, calls.calls.len())?;
            calls.calls.push(record);
            if number >= self.most {
                calls.ended = Ended::Hits;
                looks = false;
                session.debugger.unset(entry)?;
                session.not_after(Instant::now() + RETURNS);
            }
        }
        if looks {
            calls.ended = self.bounds.ended();
        }
        drop(session);
        work.end(until, &self.bounds.stop)?;
        Ok(calls)
    }

    fn record(
        &self,
        session: &mut Session,
        standing: &Standing,
        args: Vec<Argument>,
        open: &mut Open,
        index: usize,
    ) -> Result<CallRecord> {
        let registers = &standing.registers;
        let (_, current) = session.current(registers.cpu)?;
        let frame = match self.place.entry {
            true => Frame::at_entry(session, registers).map_err(|error| error.to_string()),
            false => Err("the breakpoint is not at the function's entry".to_owned()),
        };
        let caller = frame.as_ref().ok().and_then(|frame| {
            let names = Functions::new(&session.kernel);
            names.at(frame.returns_to).ok()
        });
        let returned = match frame {
            Ok(frame) => {
                open.add(session, frame, index)?;
                Return::Pending
            }
            Err(why) => Return::Unknown(why),
        };
        Ok(CallRecord {
            pid: current.pid,
            comm: current.comm.to_str().into_owned(),
            cpu: registers.cpu,
            caller,
            args,
            returned,
        })
    }

    fn returned(&self, session: &Session, standing: &Standing) -> Return {
        let registers = &standing.registers;
        let value = self
            .place
            .prototype()
            .and_then(|prototype| returned(session, prototype, registers));
        match value {
            Ok(None) => Return::Void,
            Ok(Some(object)) => Return::Value(read_out(Ok(object))),
            Err(error) => Return::Unknown(error.to_string()),
        }
    }
}
