//! One debugger at work: lets the guest run to the next stop, within a time, and sees when the user has enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vm::{Debugger, Registers};

use super::breakpoint::Ended;
use crate::Result;
use crate::cell::check_interrupt;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::sched;

/// Time of a wait before an interrupt is looked for.
const SLICE: Duration = Duration::from_millis(20);

/// The longest watch: the clock has no time that is later than any.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Bounds of a watch: its time, the command that runs meanwhile, and what ends it early.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    time: Duration,
    /// The command to run in the guest meanwhile.
    pub(crate) command: Option<Vec<String>>,
    /// Set when the command has ended that was to be watched.
    pub(crate) done: Arc<AtomicBool>,
    /// Set when the user has seen enough.
    pub(crate) stop: Arc<AtomicBool>,
}

impl Bounds {
    /// Until so much time is over.
    pub(crate) fn of(time: Duration) -> Self {
        Self {
            time,
            command: None,
            done: Arc::default(),
            stop: Arc::default(),
        }
    }

    pub(crate) fn set_time(&mut self, time: Duration) {
        self.time = time.min(LONGEST);
    }

    pub(crate) const fn time(&self) -> Duration {
        self.time
    }

    /// End of a watch that begins now.
    pub(crate) fn until(&self) -> Instant {
        Instant::now() + self.time
    }

    /// Reason for the end of a watch that nothing ended at a stop.
    pub(crate) fn ended(&self) -> Ended {
        if self.stop.load(Ordering::Acquire) {
            Ended::Interrupted
        } else if self.done.load(Ordering::Acquire) {
            Ended::Command
        } else {
            Ended::Time
        }
    }
}

/// Gives a watch, which has `bounds`, what says for how long it is and what ends it.
macro_rules! bounded {
    ($watch:ty) => {
        impl $watch {
            /// Sets the time for which the guest is watched at most.
            #[must_use]
            pub fn within(mut self, time: Duration) -> Self {
                self.bounds.set_time(time);
                self
            }

            /// Runs a shell line in the guest meanwhile; its end ends the watch.
            #[must_use]
            pub fn shell(self, line: &str) -> Self {
                self.run(&["sh", "-c", line])
            }

            /// Runs a command in the guest meanwhile; its end ends the watch.
            #[must_use]
            pub fn run<S: AsRef<str>>(mut self, command: &[S]) -> Self {
                let words = command.iter().map(|word| word.as_ref().to_owned());
                self.bounds.command = Some(words.collect());
                self
            }

            /// Ends the watch when another thread sets this.
            #[must_use]
            pub fn until(mut self, stop: Arc<AtomicBool>) -> Self {
                self.bounds.stop = stop;
                self
            }
        }
    };
}
pub(crate) use bounded;

/// A guest under a debugger. Dropped, it runs and has no breakpoints.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) guest: Guest,
    pub(crate) kernel: Kernel,
    pub(crate) debugger: Debugger,
    bounds: Bounds,
    until: Instant,
    /// Stop at which it stands; `None` before the first run, and while it runs.
    at: Option<vm::Stop>,
    runs: bool,
    task: Plan<Current>,
}

/// The guest stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) registers: Registers,
    /// The address that was written to, of a watchpoint.
    pub(crate) watch: Option<u64>,
}

/// Members that tell a task from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Mirror)]
#[mirror(c = "struct task_struct")]
pub(crate) struct Current {
    pub(crate) pid: i32,
    pub(crate) comm: FixedStr<16>,
}

impl Session {
    /// Stops the guest, to set what it is to stop at.
    pub(crate) fn begin(guest: &Guest, bounds: &Bounds) -> Result<Self> {
        let kernel = guest.kernel()?;
        let task = Plan::new(&kernel)?;
        Ok(Self {
            guest: guest.clone(),
            debugger: guest.machine()?.debugger()?,
            kernel,
            bounds: bounds.clone(),
            until: bounds.until(),
            at: None,
            runs: false,
            task,
        })
    }

    /// Lets the guest run to its next stop; `None` when the watch is over: then it runs.
    pub(crate) fn next(&mut self) -> Result<Option<Standing>> {
        if !self.runs {
            self.debugger.run(self.at.take())?;
            self.runs = true;
        }
        loop {
            check_interrupt();
            let left = self.until.saturating_duration_since(Instant::now());
            let enough = self.bounds.ended() != Ended::Time;
            // A CPU that has stopped already is taken first.
            let patience = if enough {
                Duration::ZERO
            } else {
                left.min(SLICE)
            };
            match self.debugger.wait(patience)? {
                Some(stop) if stop.breakpoint => {
                    self.runs = false;
                    self.at = Some(stop);
                    let standing = Standing {
                        registers: self.debugger.registers(stop.cpu)?,
                        watch: stop.watch,
                    };
                    return Ok(Some(standing));
                }
                // Another's pause: it will let the guest go on.
                Some(_) => {}
                None if enough || left.is_zero() => return Ok(None),
                None => {}
            }
        }
    }

    /// Bounds of the next run: so much time, and the wish of the user that `stop` is. A command that has ended already ends nothing
    /// more.
    pub(crate) fn bound(&mut self, time: Duration, stop: &Arc<AtomicBool>) {
        self.bounds.set_time(time);
        self.bounds.stop = Arc::clone(stop);
        if self.bounds.done.load(Ordering::Acquire) {
            self.bounds.done = Arc::default();
        }
        self.until = self.bounds.until();
    }

    /// Reason why [`next`](Self::next) gave nothing.
    pub(crate) fn ended(&self) -> Ended {
        self.bounds.ended()
    }

    /// A CPU as it stands before the guest was ever let go.
    pub(crate) fn here(&mut self, cpu: u32) -> Result<Standing> {
        Ok(Standing {
            registers: self.debugger.registers(cpu)?,
            watch: None,
        })
    }

    /// Tells whether the guest runs.
    pub(crate) const fn runs(&self) -> bool {
        self.runs
    }

    /// Stops the guest where it is, or at what it reaches at that moment.
    pub(crate) fn interrupt(&mut self) -> Result<Standing> {
        let stop = self.debugger.interrupt()?;
        self.runs = false;
        self.at = stop.breakpoint.then_some(stop);
        Ok(Standing {
            registers: self.debugger.registers(stop.cpu)?,
            watch: stop.watch,
        })
    }

    /// A CPU has come to a breakpoint by a step: it passes that when the guest goes on.
    pub(crate) fn passes(&mut self, cpu: u32) {
        self.at = Some(vm::Stop {
            cpu,
            breakpoint: true,
            watch: None,
        });
    }

    /// Executes one instruction of the CPU that has stopped.
    pub(crate) fn step(&mut self, cpu: u32) -> Result<Standing> {
        check_interrupt();
        let stop = self.debugger.step(cpu)?;
        // It has left its breakpoint.
        self.at = None;
        Ok(Standing {
            registers: self.debugger.registers(cpu)?,
            watch: stop.watch,
        })
    }

    /// Ends the watch at this time at the latest.
    pub(crate) fn not_after(&mut self, until: Instant) {
        self.until = self.until.min(until);
    }

    /// The task that the CPU calls `current`, and its address.
    pub(crate) fn current(&self, cpu: u32) -> Result<(GuestVirt, Current)> {
        let at = sched::current(&self.kernel, cpu)?;
        Ok((at, self.task.load(at)?))
    }
}
