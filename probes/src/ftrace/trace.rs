//! A trace that is not armed yet: which functions, which of their calls, while what runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::calls::{self, Asked, Traced};
use super::condition::Pushed;
use super::function::{self, Function};
use super::record::{Recording, push};
use crate::cell::check_interrupt;
use crate::debug::Ended;
use crate::debug::stop::{Bounds, bounded};
use crate::debug::work::Work;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::{Error, Result};

/// Time for which calls are traced, if none is given.
const TIME: Duration = Duration::from_secs(10);
/// Interval at which the rings are read.
const EVERY: Duration = Duration::from_millis(4);

/// A trace that is not armed yet. It is by [`calls`](Self::calls) and [`during`](Self::during), for as long as they run.
#[derive(Debug, Clone)]
pub struct Trace {
    guest: Guest,
    kernel: Kernel,
    functions: Vec<Function>,
    bounds: Bounds,
    condition: Option<String>,
}

impl Guest {
    /// A trace of functions of the kernel or of modules, by name: `vfs_read`, `veth:veth_open`, `vfs_*` (of the kernel alone).
    ///
    /// # Errors
    /// Absent, where there is no such function, or the compiler has put it into its callers; unsupported, where ftrace cannot
    /// hook it.
    pub fn trace<S: AsRef<str>>(&self, functions: impl IntoIterator<Item = S>) -> Result<Trace> {
        let kernel = self.kernel()?;
        let names = functions.into_iter().map(|name| name.as_ref().to_owned());
        let names: Vec<String> = names.collect();
        Ok(Trace {
            guest: self.clone(),
            functions: function::find(&kernel, &names)?,
            kernel,
            bounds: Bounds::of(TIME),
            condition: None,
        })
    }
}

bounded!(Trace);

impl Trace {
    /// Only calls for which a C expression is not 0, in which the arguments have their names, `pid`, `tgid` and `comm` are the
    /// task's, and `retval` is what was returned: `when("count > 4096 && comm == \"dd\"")`. Comparisons of arguments with numbers, with `&&` between them, are made
    /// in the guest.
    #[must_use]
    pub fn when(mut self, expression: &str) -> Self {
        self.condition = Some(expression.to_owned());
        self
    }

    /// The functions that are traced, as views print them.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.functions.iter().map(|function| function.name.as_str())
    }

    /// Traces until the command has ended, or the time is over.
    ///
    /// # Errors
    /// When klab's module cannot be had for this kernel, or another recording is under way; those of the condition.
    pub fn calls(self) -> Result<Traced> {
        let mut pushed = push(&self.functions, self.condition.as_deref());
        self.check()?;
        let mut work = Work::begin(&self.guest, &self.bounds)?;
        let mut recording =
            Recording::begin(&self.guest, &self.kernel, &self.functions, &mut pushed)?;
        let until = self.bounds.until();
        work.start();
        let (done, stop) = (&self.bounds.done, &self.bounds.stop);
        while Instant::now() < until
            && !done.load(Ordering::Acquire)
            && !stop.load(Ordering::Acquire)
        {
            check_interrupt();
            recording.drain()?;
            thread::sleep(EVERY);
        }
        let ended = self.bounds.ended();
        let (events, tally) = recording.end()?;
        work.end(until, stop)?;
        self.asked(&pushed).traced(events, tally, ended)
    }

    /// Traces while `work` runs here.
    ///
    /// # Errors
    /// As [`calls`](Self::calls); those of `work`.
    pub fn during<T>(self, work: impl FnOnce() -> Result<T>) -> Result<Traced> {
        let mut pushed = push(&self.functions, self.condition.as_deref());
        self.check()?;
        let mut recording =
            Recording::begin(&self.guest, &self.kernel, &self.functions, &mut pushed)?;
        let over = AtomicBool::new(false);
        let (worked, drained) = thread::scope(|scope| {
            let drains = scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    recording.drain()?;
                    thread::sleep(EVERY);
                }
                Ok::<_, Error>(())
            });
            // An interrupt leaves `work` by a panic.
            let is_over = Over(&over);
            let worked = work();
            drop(is_over);
            (worked, drains.join())
        });
        worked?;
        drained.map_err(|_| Error::machine("the thread that read the rings died".to_owned()))??;
        let (events, tally) = recording.end()?;
        self.asked(&pushed).traced(events, tally, Ended::Look)
    }

    fn asked<'a>(&'a self, pushed: &'a [Pushed]) -> Asked<'a> {
        Asked {
            kernel: &self.kernel,
            functions: &self.functions,
            condition: self.condition.as_deref(),
            pushed,
        }
    }

    /// Checks, before anything is armed, that the condition can be meant.
    fn check(&self) -> Result<()> {
        let Some(condition) = &self.condition else {
            return Ok(());
        };
        for function in &self.functions {
            calls::check(&self.kernel, function, condition)?;
        }
        Ok(())
    }
}

/// Says that the work is over when dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
