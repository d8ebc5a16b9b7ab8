//! A trace that is not armed yet: which functions and tracepoints, which of their calls, while what runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::calls::Traced;
use super::condition::Pushed;
use super::decode::{self, Asked};
use super::function::{self, Function};
use super::member;
use super::record::{Recording, push};
use crate::cell::check_interrupt;
use crate::debug::Ended;
use crate::debug::stop::{Bounds, bounded};
use crate::debug::work::Work;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::kmod::call::FRAMES;
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
    /// Members that are copied at each call.
    members: Vec<String>,
    /// Return addresses that are recorded of each call; 0: none.
    frames: u8,
}

impl Guest {
    /// A trace of functions and tracepoints of the kernel or of modules, by name: `vfs_read`, `veth:veth_open`, `vfs_*` (functions of
    /// the kernel alone); `sched_switch`, `sched:sched_switch`, `sched:*`, and `tracepoint:pelt_cfs_tp` for one of no system.
    /// A name that means both needs `function:` or `tracepoint:` before it.
    ///
    /// # Errors
    /// Absent, where there is no such function or tracepoint, or the compiler has put the function into its callers; unsupported, where
    /// ftrace cannot hook it; invalid, where a name means a function and a tracepoint.
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
            members: Vec::new(),
            frames: 0,
        })
    }
}

bounded!(Trace);

impl Trace {
    /// Only calls for which a C expression is not 0, in which the arguments have their names, `pid`, `tgid` and `comm` are the
    /// task's, and `retval` is what was returned: `when("count > 4096 && comm == \"dd\"")`. Comparisons of arguments, or of members
    /// of what they point to (`next->pid == 1`), with numbers, with `&&` between them, are made in the guest.
    #[must_use]
    pub fn when(mut self, expression: &str) -> Self {
        self.condition = Some(expression.to_owned());
        self
    }

    /// Members of what arguments point to, copied at each call of a function that has such an argument: numbers, pointers and
    /// texts, 80 bytes and 8 members of a call at most. Those of the condition and a task's `comm` and `pid` are copied anyway.
    #[must_use]
    pub fn reading<S: AsRef<str>>(mut self, members: impl IntoIterator<Item = S>) -> Self {
        let members = members.into_iter().map(|path| path.as_ref().to_owned());
        self.members.extend(members);
        self
    }

    /// The kernel stack of each call, too: 20 frames at most. Each is a record more.
    #[must_use]
    pub const fn stacks(mut self) -> Self {
        self.frames = FRAMES as u8;
        self
    }

    /// The functions and tracepoints that are traced, as views print them.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.functions.iter().map(|function| function.name.as_str())
    }

    /// Traces until the command has ended, or the time is over.
    ///
    /// # Errors
    /// When klab's module cannot be had for this kernel, or another recording is under way; those of the condition.
    pub fn calls(mut self) -> Result<Traced> {
        let mut pushed = self.prepare()?;
        let mut work = Work::begin(&self.guest, &self.bounds)?;
        let mut recording = self.begin(&mut pushed)?;
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
        let recorded = recording.end()?;
        work.end(until, stop)?;
        self.asked(&pushed).traced(recorded, ended)
    }

    /// Traces while `work` runs here.
    ///
    /// # Errors
    /// As [`calls`](Self::calls); those of `work`.
    pub fn during<T>(mut self, work: impl FnOnce() -> Result<T>) -> Result<Traced> {
        let mut pushed = self.prepare()?;
        let mut recording = self.begin(&mut pushed)?;
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
        let recorded = recording.end()?;
        self.asked(&pushed).traced(recorded, Ended::Look)
    }

    fn begin(&mut self, pushed: &mut [Pushed]) -> Result<Recording> {
        let (guest, kernel) = (&self.guest, &self.kernel);
        Recording::begin(guest, kernel, &mut self.functions, pushed, self.frames)
    }

    fn asked<'a>(&'a self, pushed: &'a [Pushed]) -> Asked<'a> {
        Asked {
            kernel: &self.kernel,
            functions: &self.functions,
            condition: self.condition.as_deref(),
            pushed,
        }
    }

    /// Decides what is copied at each call and what of the condition the guest sees to; checks, before anything is armed, that
    /// both can be meant.
    fn prepare(&mut self) -> Result<Vec<Pushed>> {
        for path in &self.members {
            let mut functions = self.functions.iter();
            if !functions.any(|function| member::is_of(function, path)) {
                return Err(Error::Invalid(format!(
                    "nothing that is traced has the argument of `{path}`"
                )));
            }
        }
        let condition = self.condition.as_deref();
        for function in &mut self.functions {
            function.members = member::plan(function, &self.members, condition)?;
            if let Some(condition) = condition {
                decode::check(&self.kernel, function, condition)?;
            }
        }
        Ok(push(&self.functions, condition))
    }
}

/// Says that the work is over when dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
