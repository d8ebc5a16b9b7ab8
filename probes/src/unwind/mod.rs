//! Stack traces: every frame of a task in the kernel, by the ORC tables in the kernel's own memory
//! (`arch/x86/kernel/unwind_orc.c`).
//!
//! ```no_run
//! # use probes::Guest;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! for frame in guest.stack_trace(1)?.frames {
//!     println!("{frame}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A task that sleeps has saved its registers on its stack. What a CPU runs is in the CPU's registers, which QEMU tells
//! while the guest is paused: `guest.paused(|guest| guest.stack_traces())` has all of one instant.
//!
//! The stack pointer says which task a CPU runs: `current` and `on_cpu` are written before or after the stack is changed.

mod cpus;
mod frame;
mod names;
mod orc;
mod returns;
mod stacks;
mod tasks;
pub mod text;
mod trace;
mod view;

pub use stacks::StackKind;
pub use trace::{Frame, Name, StackTrace, StackTraces, TraceEnd};

use std::collections::HashSet;

use self::cpus::{Cpu, Running};
use self::frame::{Start, Step, Walker, Way};
use self::names::Names;
use self::stacks::Stacks;
use self::tasks::{Raw, Thread};
use crate::base::Of as _;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::sched::{KthreadNames, find_task_by_pid};
use crate::structures::settle;
use crate::{Error, Listing, Result};

#[derive(Debug, Mirror)]
#[mirror(c = "struct inactive_task_frame")]
struct InactiveTaskFrame {
    bp: GuestVirt,
    ret_addr: GuestVirt,
}

impl Guest {
    /// The frames of the task that a CPU runs, while the guest stands still.
    pub(crate) fn stack_of_cpu(&self, number: u32) -> Result<StackTrace> {
        let kernel = self.kernel()?;
        let tracer = Tracer::new(&kernel)?;
        let cpus = Cpu::all(&kernel, &cpus::registers(self, &kernel))?;
        let none = || Error::Absent(format!("CPU {number} is not online"));
        let cpu = cpus.iter().find(|cpu| cpu.number == number);
        let cpu = cpu.ok_or_else(none)?;
        let mut stacks = Stacks::new(&kernel, self.thread_size()?, &[number]);
        stacks.add(cpu.threads());
        let running = tracer.running(&stacks, cpu)?;
        let mut known = cpu.threads();
        let thread = known.find(|thread| Some(thread.at) == running.task);
        let thread = thread.ok_or_else(|| cpu.no_task())?;
        Ok(tracer.on_cpu(thread, cpu, running))
    }
}

/// The frames of the task `pid`, one that sleeps or, while the guest is paused, one that runs.
pub(crate) fn stack_trace(guest: &Guest, pid: i32) -> Result<StackTrace> {
    let kernel = guest.kernel()?;
    let tracer = Tracer::new(&kernel)?;
    let mut registers = None;
    settle(&format!("the stack of task {pid}"), || {
        // The stack may be whole though the task's credentials cannot be read.
        let at = match find_task_by_pid(&kernel, pid)? {
            Some(at) => at,
            None => guest.task(pid)?.at,
        };
        let thread = Thread::load(&tracer.plan, at)?;
        let cpus = Cpu::all(&kernel, &Err(Error::Absent(cpus::PAUSE.to_owned())))?;
        let mut runs = thread.on_cpu();
        runs |= cpus
            .iter()
            .flat_map(Cpu::threads)
            .any(|of| of.at == thread.at);
        // The machine is asked for them only where that helps.
        let cpus = match runs {
            true => Cpu::all(
                &kernel,
                registers.get_or_insert_with(|| cpus::registers(guest, &kernel)),
            )?,
            false => cpus,
        };
        let mut stacks = Stacks::new(&kernel, guest.thread_size()?, &Cpu::numbers(&cpus));
        stacks.add(std::iter::once(&thread));
        for cpu in cpus.iter().filter(|_| runs) {
            let running = tracer.running(&stacks, cpu)?;
            if running.task == Some(thread.at) {
                return Ok(Some(tracer.on_cpu(&thread, cpu, running)));
            }
        }
        let known = registers.as_ref().is_some_and(Result::is_ok);
        tracer.asleep(&stacks, &thread, known).of(|| thread.who())
    })
}

/// The frames of all tasks, threads too: first what the CPUs run, idle tasks among it, which takes a paused guest;
/// then all others.
pub(crate) fn stack_traces(guest: &Guest) -> Result<StackTraces> {
    let kernel = guest.kernel()?;
    let tracer = Tracer::new(&kernel)?;
    let mut traces = Listing::new();
    let tables = &tracer.walker.orc.missing;
    traces.missing.extend(tables.iter().cloned());
    let mut threads = tasks::all(&kernel, &tracer.plan)?;
    traces.missing.append(&mut threads.missing);
    let registers = cpus::registers(guest, &kernel);
    let cpus = Cpu::all(&kernel, &registers)?;
    let of_cpus = || cpus.iter().flat_map(Cpu::threads);
    let mut stacks = Stacks::new(&kernel, guest.thread_size()?, &Cpu::numbers(&cpus));
    stacks.add(threads.iter().chain(of_cpus()));
    let mut done = HashSet::new();
    for cpu in &cpus {
        let trace = tracer.running(&stacks, cpu).and_then(|running| {
            let mut known = threads.iter().chain(of_cpus());
            let thread = known.find(|thread| Some(thread.at) == running.task);
            let thread = thread.ok_or_else(|| cpu.no_task())?;
            if !done.insert(thread.at) {
                let who = thread.who();
                let why = format!("its stack is that of {who}, which another CPU is on, too");
                return Err(Error::Broken {
                    what: "stack",
                    at: thread.at,
                    why,
                });
            }
            Ok(tracer.on_cpu(thread, cpu, running))
        });
        traces.take(trace, || format!("what CPU {} runs", cpu.number));
    }
    // A task that has left the lists, but not yet its CPU, is `current`.
    let currents = cpus.iter().filter_map(|cpu| cpu.current.as_ref());
    for thread in threads.iter().chain(currents) {
        if !done.insert(thread.at) {
            continue;
        }
        let trace = settle(&format!("the stack of {}", thread.who()), || {
            let now = Thread::load(&tracer.plan, thread.at)?;
            match now.is(thread) {
                true => Ok(tracer.asleep(&stacks, &now, registers.is_ok())?.map(Some)),
                false => Ok(Some(None)),
            }
        });
        match trace {
            // One that is gone.
            Ok(None) => {}
            Ok(Some(trace)) => traces.items.push(trace),
            Err(error) => traces.miss(thread.who(), &error),
        }
    }
    let mut frames = traces.iter().flat_map(|trace| &trace.frames);
    if frames.any(|frame| frame.function.is_empty()) {
        let unread = &tracer.names.modules.missing;
        traces.missing.extend(unread.iter().cloned());
    }
    Ok(traces)
}

struct Tracer<'k> {
    walker: Walker<'k>,
    names: Names<'k>,
    plan: Plan<Raw>,
    frame: Plan<InactiveTaskFrame>,
    /// The whole names of kernel threads, where this kernel has them.
    kthreads: Option<KthreadNames>,
}

impl<'k> Tracer<'k> {
    fn new(kernel: &'k Kernel) -> Result<Self> {
        Ok(Self {
            walker: Walker::new(kernel)?,
            names: Names::of(kernel)?,
            plan: Plan::new(kernel)?,
            frame: Plan::new(kernel)?,
            kthreads: KthreadNames::new(kernel).ok(),
        })
    }

    /// The task whose stack a CPU's frames lie on, and the frames.
    fn running(&self, stacks: &Stacks, cpu: &Cpu) -> Result<Running> {
        let current = cpu.current.as_ref().map(|thread| thread.at);
        let of_current = |end| Running {
            task: current,
            frames: Vec::new(),
            end,
        };
        let registers = match &cpu.registers {
            Ok(registers) => *registers,
            Err(why) => return Ok(of_current(TraceEnd::Lost(why.clone()))),
        };
        // A program runs: no switch of tasks is under way.
        if registers.ip.0 >> 63 == 0 {
            return Ok(of_current(TraceEnd::User));
        }
        let way = Way {
            stacks,
            current: current.unwrap_or(GuestVirt(0)),
        };
        let (steps, end) = self.walker.walk(registers, &way);
        // Interrupts and entries have stacks of their own, below which lies the task's.
        let mut task = current;
        for step in &steps {
            let place = stacks.place(step.sp);
            if place.task.is_some() {
                task = place.task;
                break;
            }
            // Another task's, of those that were not asked for. A program's own says nothing.
            if place.kind == StackKind::Unknown && step.sp.0 >> 63 != 0 {
                task = None;
                break;
            }
        }
        Ok(Running {
            task,
            frames: self.frames(stacks, &steps)?,
            end,
        })
    }

    fn on_cpu(&self, thread: &Thread, cpu: &Cpu, running: Running) -> StackTrace {
        StackTrace {
            cpu: Some(cpu.number),
            frames: running.frames,
            ..self.bare(thread, running.end)
        }
    }

    /// A task that no CPU's stack pointer is with; `None` if it left its stack meanwhile. `known` says whether those are
    /// known.
    fn asleep(&self, stacks: &Stacks, thread: &Thread, known: bool) -> Result<Option<StackTrace>> {
        let Some(stack) = thread.stack() else {
            return Ok(Some(self.bare(thread, TraceEnd::Freed)));
        };
        if thread.on_cpu() && !known {
            let why = format!("it runs: {}", cpus::PAUSE);
            return Ok(Some(self.bare(thread, TraceEnd::Lost(why))));
        }
        let start = self.saved(stacks, thread, stack)?;
        let way = Way {
            stacks,
            current: thread.at,
        };
        let (steps, end) = self.walker.walk(start, &way);
        let trace = StackTrace {
            frames: self.frames(stacks, &steps)?,
            ..self.bare(thread, end)
        };
        let after = Thread::load(&self.plan, thread.at)?;
        let of = |thread: &Thread| (thread.raw.sp, thread.stack(), thread.on_cpu());
        let same = after.is(thread) && of(&after) == of(thread);
        Ok(same.then_some(trace))
    }

    /// The registers that a task saved when it left its CPU: `__unwind_start()`.
    fn saved(&self, stacks: &Stacks, thread: &Thread, stack: GuestVirt) -> Result<Start> {
        let at = thread.raw.sp;
        if !stacks.holds(stack, at) {
            let end = stack.offset(stacks.size);
            let why = format!("its saved stack pointer {at} is not in {stack}..{end}");
            return Err(Error::Broken {
                what: "kernel stack",
                at: thread.at,
                why,
            });
        }
        let frame = self.frame.load(at).of(|| "its kernel stack")?;
        Ok(Start {
            ip: frame.ret_addr,
            sp: at.offset(self.frame.size()),
            bp: frame.bp,
            // A task that never ran has called nothing.
            exact: self.walker.is_fork(frame.ret_addr),
        })
    }

    fn frames(&self, stacks: &Stacks, steps: &[Step]) -> Result<Vec<Frame>> {
        let mut frames = Vec::with_capacity(steps.len());
        for step in steps {
            frames.push(self.frame(stacks, step)?);
        }
        Ok(frames)
    }

    /// As `%pB` prints an address: by the byte before it, since a call may be a function's last instruction.
    fn frame(&self, stacks: &Stacks, step: &Step) -> Result<Frame> {
        let back = u64::from(!step.exact);
        let at = step.ip.back(back);
        let (function, offset, module) = self.names.at(at, &self.walker.orc)?;
        let offset = match function.is_empty() {
            true => 0,
            false => offset + back,
        };
        Ok(Frame {
            ip: step.ip,
            sp: step.sp,
            function,
            offset,
            module,
            stack: stacks.place(step.sp).kind,
            interrupted: step.interrupted,
        })
    }

    /// A trace without frames.
    fn bare(&self, thread: &Thread, end: TraceEnd) -> StackTrace {
        let comm = thread.comm();
        let whole = self
            .kthreads
            .as_ref()
            .and_then(|names| names.of(thread.at, thread.flags(), &comm));
        StackTrace {
            pid: thread.raw.pid,
            comm: whole.unwrap_or(comm),
            state: thread.state(),
            cpu: None,
            frames: Vec::new(),
            end,
        }
    }
}
