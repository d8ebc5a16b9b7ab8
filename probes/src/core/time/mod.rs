//! Time: timers, clocks, what makes them tick (`kernel/time`).

mod clock;
mod hrtimer;
mod timer;
mod view;

pub(crate) use clock::clocks;

pub(crate) use clock::realtime_offset;
pub use clock::{ClockEvent, ClockSource, Clocks};
pub use hrtimer::HrTimer;
use serde::Serialize;
pub use timer::WheelTimer;

use crate::kernel::{Function, Functions, Kernel};
use crate::memory::GuestVirt;
use crate::structures::{offset_of, online_cpus};
use crate::{Listing, Missing, Result};

/// Timers of one list or tree that are read at most.
const BOUND: usize = 1 << 16;

/// Task or work that a timer is for, if its function is one that many use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Serves {
    /// A task that sleeps, by its pid.
    Task(i32),
    /// Work that will be put on a workqueue.
    Work(Function),
}

/// The timers of all CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Timers {
    /// The kernel's clock of ticks, when they were read.
    pub jiffies: u64,
    /// The monotonic clock at the last tick, in nanoseconds.
    pub monotonic: u64,
    /// Timers of the timer wheel, which expire at a tick.
    pub wheel: Vec<WheelTimer>,
    /// The high-resolution ones.
    pub hrtimers: Vec<HrTimer>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// The timers of each CPU: those of the timer wheel, and the high-resolution ones, which are those of
/// `/proc/timer_list`. They come and go: pause the guest for those of one instant.
pub(crate) fn timers(kernel: &Kernel) -> Result<Timers> {
    let namer = Namer::new(kernel);
    let (mut wheel, mut hrtimers) = (Listing::new(), Listing::new());
    for cpu in online_cpus(kernel)? {
        if let Err(error) = timer::read(kernel, &namer, cpu, &mut wheel) {
            wheel.miss(format!("the timer wheels of CPU {cpu}"), &error);
        }
        if let Err(error) = hrtimer::read(kernel, &namer, cpu, &mut hrtimers) {
            hrtimers.miss(format!("the high-resolution timers of CPU {cpu}"), &error);
        }
    }
    let mut missing = wheel.missing;
    missing.extend(hrtimers.missing);
    Ok(Timers {
        jiffies: kernel.read_u64(kernel.symbol("jiffies_64")?)?,
        monotonic: clock::coarse(kernel)?.monotonic,
        wheel: wheel.items,
        hrtimers: hrtimers.items,
        missing,
    })
}

/// Names functions, and finds the task or work behind those that many timers share.
struct Namer<'k> {
    kernel: &'k Kernel,
    functions: Functions<'k>,
}

/// Functions of timers that stand for a task: the structure around the timer, its timer, its task.
const TASKS: &[(&str, &str, &str, &str)] = &[
    ("process_timeout", "struct process_timer", "timer", "task"),
    ("hrtimer_wakeup", "struct hrtimer_sleeper", "timer", "task"),
];
/// Timers that stand for work: the structure around the timer, its timer, the work's function.
const WORKS: &[(&str, &str, &str, &str)] = &[
    (
        "delayed_work_timer_fn",
        "struct delayed_work",
        "timer",
        "work.func",
    ),
    (
        "kthread_delayed_work_timer_fn",
        "struct kthread_delayed_work",
        "timer",
        "work.func",
    ),
];

impl<'k> Namer<'k> {
    fn new(kernel: &'k Kernel) -> Self {
        Self {
            kernel,
            functions: Functions::new(kernel),
        }
    }

    /// The function of the timer at `timer`, and the task or work that it is for.
    fn name(&self, timer: GuestVirt, function: GuestVirt) -> Result<(Function, Option<Serves>)> {
        let kernel = self.kernel;
        let function = self.functions.at(function)?;
        let named = |(name, ..): &&(&str, &str, &str, &str)| {
            function.name.as_deref() == Some(*name) && function.offset == 0
        };
        let member = |(_, c, own, wanted): &(&str, &str, &str, &str)| -> Result<GuestVirt> {
            let owner = timer.back(offset_of(kernel, c, own)?);
            kernel
                .read_u64(owner.offset(offset_of(kernel, c, wanted)?))
                .map(GuestVirt)
        };
        let serves = if let Some(found) = TASKS.iter().find(named) {
            let task = member(found)?;
            let pid = offset_of(kernel, "struct task_struct", "pid")?;
            // A sleeper is woken by its task's being taken out.
            match task.is_null() {
                true => None,
                false => Some(Serves::Task(kernel.read_u32(task.offset(pid))? as i32)),
            }
        } else if let Some(found) = WORKS.iter().find(named) {
            Some(Serves::Work(self.functions.at(member(found)?)?))
        } else {
            None
        };
        Ok((function, serves))
    }
}
