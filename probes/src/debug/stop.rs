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

/// How long is waited before an interrupt is looked for.
const SLICE: Duration = Duration::from_millis(20);

/// How long the guest is watched, and what ends that early.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    pub(super) time: Duration,
    /// Set when the command has ended that was to be watched.
    pub(super) done: Arc<AtomicBool>,
    /// Set when the user has seen enough.
    pub(super) stop: Arc<AtomicBool>,
}

impl Bounds {
    /// Until so much time is over.
    pub(super) fn of(time: Duration) -> Self {
        Self {
            time,
            done: Arc::default(),
            stop: Arc::default(),
        }
    }

    /// What has ended a watch that nothing ended at a stop.
    pub(super) fn ended(&self) -> Ended {
        if self.stop.load(Ordering::Acquire) {
            Ended::Interrupted
        } else if self.done.load(Ordering::Acquire) {
            Ended::Command
        } else {
            Ended::Time
        }
    }
}

/// A guest under a debugger. Dropped, it runs and has no breakpoints.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) guest: Guest,
    pub(super) kernel: Kernel,
    pub(super) debugger: Debugger,
    bounds: Bounds,
    until: Instant,
    /// Where it stands; `None` before the first run, and while it runs.
    at: Option<vm::Stop>,
    runs: bool,
    task: Plan<Current>,
}

/// The guest stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) registers: Registers,
    /// The address that was written to, of a watchpoint.
    pub(super) watch: Option<u64>,
}

/// What tells a task from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Mirror)]
#[mirror(c = "struct task_struct")]
pub(super) struct Current {
    pub(super) pid: i32,
    pub(super) comm: FixedStr<16>,
}

impl Session {
    /// Stops the guest, to set what it is to stop at.
    pub(super) fn begin(guest: &Guest, bounds: &Bounds) -> Result<Self> {
        let kernel = guest.kernel()?;
        let task = Plan::new(&kernel)?;
        Ok(Self {
            guest: guest.clone(),
            debugger: guest.machine()?.debugger()?,
            kernel,
            bounds: bounds.clone(),
            until: Instant::now() + bounds.time,
            at: None,
            runs: false,
            task,
        })
    }

    /// Lets the guest run to its next stop; `None` when the watch is over: then it runs.
    pub(super) fn next(&mut self) -> Result<Option<Standing>> {
        if !self.runs {
            self.debugger.run(self.at.take())?;
            self.runs = true;
        }
        loop {
            check_interrupt();
            let left = self.until.saturating_duration_since(Instant::now());
            let enough = self.bounds.ended() != Ended::Time;
            // What has stopped already is taken first.
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

    /// Executes one instruction of the CPU that has stopped.
    pub(super) fn step(&mut self, cpu: u32) -> Result<Standing> {
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
    pub(super) fn not_after(&mut self, until: Instant) {
        self.until = self.until.min(until);
    }

    /// What the CPU calls `current`, and its address.
    pub(super) fn current(&self, cpu: u32) -> Result<(GuestVirt, Current)> {
        let at = sched::current(&self.kernel, cpu)?;
        Ok((at, self.task.load(at)?))
    }
}
