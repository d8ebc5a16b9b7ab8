//! The calls whose beginning a debugger has seen: their arguments stay known while they last.

use vm::Registers;

use super::arguments::{Argument, Arguments};
use super::call::Frame;
use super::function::Place;
use super::stop::Session;
use crate::memory::GuestVirt;
use crate::object::Object;
use crate::{Error, Result};

/// Invocations that are kept: more than any stack has frames.
const MOST: usize = 128;

/// A call that has been seen at its entry.
#[derive(Debug, Clone)]
pub(super) struct Invocation {
    pub(super) place: Place,
    frame: Frame,
    arguments: Result<Arguments>,
}

/// The invocations that were seen, the newest last.
#[derive(Debug, Default)]
pub(super) struct Invocations(Vec<Invocation>);

impl Invocations {
    /// Notes the call at whose beginning a CPU stands, if it does.
    pub(super) fn note(&mut self, session: &Session, registers: &Registers) {
        let at = GuestVirt(registers.rip).to_string();
        let Ok(place) = Place::find(&session.guest, &at) else {
            return;
        };
        if !place.entry {
            return;
        }
        let Ok(frame) = Frame::at_entry(session, registers) else {
            return;
        };
        let arguments = place
            .arguments()
            .and_then(|prototype| Arguments::of(&session.kernel, prototype, registers));
        // What was called from the same place of the stack before has returned.
        self.0
            .retain(|old| old.frame.task != frame.task || old.frame.sp != frame.sp);
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push(Invocation {
            place,
            frame,
            arguments,
        });
    }

    /// The invocation of a task that returns with this stack pointer, if the address that it goes on at is in its function.
    pub(super) fn find(
        &self,
        session: &Session,
        (task, sp): (GuestVirt, GuestVirt),
        ip: GuestVirt,
    ) -> Option<&Invocation> {
        let mut same = self.0.iter().rev();
        let found = same.find(|one| one.frame.task == task && one.frame.sp == sp)?;
        let symbol = session.kernel.symbol_at(ip).ok().flatten()?;
        (symbol.name == found.place.name && symbol.module == found.place.module).then_some(found)
    }
}

impl Invocation {
    /// Its frame, by which its return is known.
    pub(super) const fn frame(&self) -> Frame {
        self.frame
    }

    /// The argument of a name.
    pub(super) fn arg(&self, name: &str) -> Result<Object> {
        self.given()?.named(&self.place.function(), name)
    }

    /// All of them, read out.
    pub(super) fn values(&self) -> Result<Vec<Argument>> {
        Ok(self.given()?.values(self.place.arguments()?))
    }

    /// The names with their values, as an expression may use them.
    pub(super) fn locals(&self) -> Vec<(String, Object)> {
        self.given().map(Arguments::locals).unwrap_or_default()
    }

    fn given(&self) -> Result<&Arguments> {
        self.arguments.as_ref().map_err(Clone::clone)
    }
}

/// The error of a call whose beginning nobody has seen.
pub(super) fn unseen(function: &str) -> Error {
    Error::Unsupported(format!(
        "the arguments of this call of {function} are not known: it was not seen when it began, at its entry"
    ))
}
