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

mod frame;
mod orc;

use serde::Serialize;

use self::frame::{Start, Step, Walker};
use crate::Listing;
use crate::guest::Guest;
use crate::kernel::{Kernel, ModuleSymbols, shown};
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::sched::{Task, TaskState};
use crate::structures::{offset_of, online_cpus, settle};
use crate::{Error, Result};

/// One frame: an address in the kernel or a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// Where the function goes on; of the first frame of a CPU, and of one that was interrupted, where it is.
    pub ip: GuestVirt,
    /// Its stack pointer there.
    pub sp: GuestVirt,
    /// The function; nothing for an address of no symbol.
    pub function: String,
    /// How far into the function, in bytes.
    pub offset: u64,
    /// The function's module.
    pub module: Option<String>,
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {}+{:#x}",
            self.ip,
            shown(&self.function),
            self.offset
        )?;
        match &self.module {
            Some(module) => write!(f, " [{module}]"),
            None => Ok(()),
        }
    }
}

/// Why a trace has no more frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum TraceEnd {
    /// Before it there was user space.
    User,
    /// It is where the task began.
    Start,
    /// It could not be followed: why.
    Lost(String),
}

/// The frames of a task, the innermost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StackTrace {
    /// The task.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Its state.
    pub state: TaskState,
    /// The CPU that runs it; `None` while it does not run.
    pub cpu: Option<u32>,
    /// Its frames.
    pub frames: Vec<Frame>,
    /// Why there are no more.
    pub end: TraceEnd,
}

/// The traces of many tasks.
pub type StackTraces = Listing<StackTrace>;

#[derive(Debug, Mirror)]
#[mirror(c = "struct inactive_task_frame")]
struct InactiveTaskFrame {
    bp: GuestVirt,
    ret_addr: GuestVirt,
}

impl Guest {
    /// The frames of the task `pid`, one that sleeps or, while the guest is paused, one that runs.
    pub fn stack_trace(&self, pid: i32) -> Result<StackTrace> {
        let kernel = self.kernel()?;
        let tracer = Tracer::new(&kernel)?;
        settle(&format!("the stack of task {pid}"), || {
            let task = self.task(pid)?;
            let start = if task.on_cpu {
                self.of_cpu(&task)?
            } else {
                tracer.saved(&task)?
            };
            tracer.trace(&task, start)
        })
    }

    /// The frames of all tasks, threads too: first what the CPUs run, idle tasks among it, which takes a paused guest;
    /// then all that sleep. One that was woken meanwhile is left out.
    pub fn stack_traces(&self) -> Result<StackTraces> {
        let kernel = self.kernel()?;
        let tracer = Tracer::new(&kernel)?;
        let mut traces = Vec::new();
        for cpu in online_cpus(&kernel)? {
            let task = self.current(cpu)?;
            if let Ok(start) = self.of_cpu(&task) {
                traces.extend(tracer.trace(&task, start)?);
            }
        }
        for process in self.tasks()? {
            // One that has exited since has no threads any more.
            for task in self.threads(process.pid).into_iter().flatten() {
                let gone = matches!(task.state, TaskState::Zombie | TaskState::Dead);
                if !gone && !task.on_cpu && !task.stack.is_null() {
                    traces.extend(tracer.trace(&task, tracer.saved(&task)?)?);
                }
            }
        }
        Ok(Listing::from(traces))
    }

    /// The frames of the task that a CPU runs, while the guest stands still.
    pub(crate) fn stack_of_cpu(&self, cpu: u32) -> Result<StackTrace> {
        let kernel = self.kernel()?;
        let tracer = Tracer::new(&kernel)?;
        settle(&format!("the stack of CPU {cpu}"), || {
            let task = self.current(cpu)?;
            tracer.trace(&task, self.of_cpu(&task)?)
        })
    }

    /// The registers of the CPU that runs a task.
    fn of_cpu(&self, task: &Task) -> Result<Start> {
        let all = self.registers().map_err(|error| {
            Error::machine(format!(
                "task {} ({}) runs on CPU {}, whose registers are wanted: {error}",
                task.pid, task.comm, task.cpu
            ))
        })?;
        let registers = all.iter().find(|registers| registers.cpu == task.cpu);
        let registers = registers
            .ok_or_else(|| Error::machine(format!("there are no registers of CPU {}", task.cpu)))?;
        Ok(Start {
            ip: GuestVirt(registers.rip),
            sp: GuestVirt(registers.rsp),
            bp: GuestVirt(registers.rbp),
            exact: true,
        })
    }
}

struct Tracer<'k> {
    kernel: &'k Kernel,
    walker: Walker<'k>,
    modules: Vec<ModuleSymbols>,
    sp: u64,
    fork: Option<GuestVirt>,
}

impl<'k> Tracer<'k> {
    fn new(kernel: &'k Kernel) -> Result<Self> {
        let symbols = kernel.symbols()?;
        Ok(Self {
            kernel,
            walker: Walker::new(kernel)?,
            modules: kernel.module_symbols()?,
            sp: offset_of(kernel, "struct task_struct", "thread.sp")?,
            fork: symbols
                .lookup("ret_from_fork_asm")
                .or_else(|| symbols.lookup("ret_from_fork")),
        })
    }

    /// The registers that a task saved when it left its CPU: `__unwind_start()`.
    fn saved(&self, task: &Task) -> Result<Start> {
        let at = GuestVirt(self.kernel.read_u64(task.at.offset(self.sp))?);
        let frame: InactiveTaskFrame = self.kernel.load(at)?;
        let (btf, id) = self.kernel.find_composite(InactiveTaskFrame::C)?;
        Ok(Start {
            ip: frame.ret_addr,
            sp: at.offset(btf.size_of(id)?.unwrap_or(0)),
            bp: frame.bp,
            // A task that never ran has called nothing.
            exact: Some(frame.ret_addr) == self.fork,
        })
    }

    /// `None` if the task left its stack meanwhile.
    fn trace(&self, task: &Task, start: Start) -> Result<Option<StackTrace>> {
        let user = start.ip.0 >> 63 == 0;
        let (steps, end) = match user {
            true => (Vec::new(), TraceEnd::User),
            false => self.walker.walk(start),
        };
        let frames = steps.iter().map(|step| self.frame(step));
        let trace = StackTrace {
            pid: task.pid,
            comm: task.name().to_owned(),
            state: task.state,
            cpu: task.on_cpu.then_some(task.cpu),
            frames: frames.collect::<Result<_>>()?,
            end,
        };
        let same = task.on_cpu || self.saved(task)? == start;
        Ok(same.then_some(trace))
    }

    /// As `%pB` prints an address: by the byte before it, since a call may be a function's last instruction.
    fn frame(&self, step: &Step) -> Result<Frame> {
        let back = u64::from(!step.exact);
        let at = step.ip.back(back);
        let known = self.kernel.symbols()?.at(at);
        let symbol = known.or_else(|| self.modules.iter().find_map(|module| module.at(at)));
        let (function, offset, module) = symbol.map_or_else(
            || (String::new(), 0, None),
            |symbol| (symbol.name.clone(), symbol.offset + back, symbol.module),
        );
        Ok(Frame {
            ip: step.ip,
            sp: step.sp,
            function,
            offset,
            module,
        })
    }
}
