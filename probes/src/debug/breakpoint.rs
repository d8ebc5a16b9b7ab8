//! Breakpoints: a function, for how long and for what the guest is watched, and what is done at each call.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Serialize;

use super::call::Call;
use super::function::Place;
use super::stop::{Bounds, Session, bounded};
use super::work::Work;
use crate::Result;
use crate::guest::{Guest, Pause};

/// Time for which the guest is watched, if none is given.
const TIME: Duration = Duration::from_secs(10);
/// Calls that are looked at, where nothing is said.
const HITS: u64 = 1000;

/// A breakpoint that is not set yet. It is by [`each`](Self::each) and [`calls`](Self::calls), for as long as they run.
#[derive(Debug, Clone)]
pub struct Breakpoint {
    pub(super) guest: Guest,
    pub(super) place: Place,
    pub(super) bounds: Bounds,
    pub(super) most: u64,
    pub(super) condition: Option<String>,
}

/// Answer of a look at a call: whether to go on.
pub trait Onward {
    /// Tells whether to go on.
    fn goes_on(self) -> bool;
}

impl Onward for () {
    fn goes_on(self) -> bool {
        true
    }
}

impl Onward for bool {
    fn goes_on(self) -> bool {
        self
    }
}

impl<B> Onward for ControlFlow<B> {
    fn goes_on(self) -> bool {
        self.is_continue()
    }
}

/// Reasons why the guest is watched no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The look at a call said so.
    Look,
    /// As many calls have come as were asked for.
    Hits,
    /// The time is over.
    Time,
    /// The command that ran meanwhile has ended.
    Command,
    /// The user has seen enough.
    Interrupted,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Look => "ended by the look at the last one",
            Self::Hits => "as many as were asked for",
            Self::Time => "then the time was over",
            Self::Command => "then the command had ended",
            Self::Interrupted => "then it was interrupted",
        })
    }
}

/// Results of a breakpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hits {
    /// The function, as views print it.
    pub function: String,
    /// Calls that were looked at.
    pub hits: u64,
    /// Calls that came by and were not looked at: another one was waited for, or the condition was not met.
    pub passed: u64,
    /// Reason for its end.
    pub ended: Ended,
}

impl Guest {
    /// Stops the guest at each call of a function, and runs `look` while it stands there; with 10 seconds and 1000 calls at most.
    /// `look` says whether to go on: by `Ok(())`, a `bool`, or a [`ControlFlow`]. See [`breakpoint`](Self::breakpoint) for other
    /// bounds.
    ///
    /// # Errors
    /// Those of [`breakpoint`](Self::breakpoint), of `look`, and of the machine.
    pub fn break_at<W: Onward>(
        &self,
        place: &str,
        look: impl FnMut(&mut Call<'_>) -> Result<W>,
    ) -> Result<Hits> {
        self.breakpoint(place)?.each(look)
    }

    /// A breakpoint at a function of the kernel or a module, at a place in one (`vfs_read+0x25d`), or at an address.
    ///
    /// # Errors
    /// Absent, where there is no such function, or the compiler has put it into its callers; invalid, for what is no code.
    pub fn breakpoint(&self, place: &str) -> Result<Breakpoint> {
        Ok(Breakpoint {
            guest: self.clone(),
            place: Place::find(self, place)?,
            bounds: Bounds::of(TIME),
            most: HITS,
            condition: None,
        })
    }
}

bounded!(Breakpoint);

impl Breakpoint {
    /// Number of calls that are looked at.
    #[must_use]
    pub const fn at_most(mut self, hits: u64) -> Self {
        self.most = hits;
        self
    }

    /// Only calls for which a C expression is not 0, in which the arguments have their names, and `current` is the task:
    /// `when("count > 4096 && current->pid != 1")`.
    #[must_use]
    pub fn when(mut self, expression: &str) -> Self {
        self.condition = Some(expression.to_owned());
        self
    }

    /// Stops the guest at each call, and runs `look` while it stands there.
    ///
    /// # Errors
    /// Those of `look` and of the condition; when the guest stands still already, is reset meanwhile, or another waits so.
    pub fn each<W: Onward>(self, mut look: impl FnMut(&mut Call<'_>) -> Result<W>) -> Result<Hits> {
        let until = self.bounds.until();
        let mut work = Work::begin(&self.guest, &self.bounds)?;
        let mut session = Session::begin(&self.guest, &self.bounds)?;
        session.debugger.set(self.place.at.0)?;
        work.start();
        let (mut hits, mut passed) = (0, 0);
        let ended = loop {
            let Some(standing) = session.next()? else {
                break self.bounds.ended();
            };
            if standing.registers.rip != self.place.at.0 {
                continue;
            }
            let guest = self.guest.clone();
            let _still = Pause::of_debugger(&guest);
            let mut call = Call::new(&mut session, &self.place, &standing, hits + 1);
            if !meets(self.condition.as_deref(), &call)? {
                passed += 1;
                continue;
            }
            hits += 1;
            let goes_on = look(&mut call)?.goes_on();
            passed += call.passed;
            if !goes_on {
                break Ended::Look;
            }
            if hits >= self.most {
                break Ended::Hits;
            }
        };
        drop(session);
        work.end(until, &self.bounds.stop)?;
        Ok(Hits {
            function: self.place.function(),
            hits,
            passed,
            ended,
        })
    }
}

/// Tells whether a call is one of those that are wanted.
pub(super) fn meets(condition: Option<&str>, call: &Call<'_>) -> Result<bool> {
    condition.map_or(Ok(true), |text| Ok(call.eval(text)?.u64()? != 0))
}
