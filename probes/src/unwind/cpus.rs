//! The CPUs: their registers, and the tasks that they may be with.

use vm::Registers;

use super::frame::Start;
use super::tasks::{Raw, Thread};
use super::trace::{Frame, TraceEnd};
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Plan;
use crate::sched;
use crate::structures::{offset_of, online_cpus, per_cpu_ptr};
use crate::{Error, Result};

/// Advice if a task runs.
pub(super) const PAUSE: &str = "pause the guest to read the registers of its CPU";

/// A CPU.
pub(super) struct Cpu {
    pub(super) number: u32,
    /// Its registers, or why there are none.
    pub(super) registers: Result<Start, String>,
    /// The task that it calls `current`; `None` where that cannot be read.
    pub(super) current: Option<Thread>,
    /// Its idle task, and what its run queue has chosen to run: in the middle of a switch it may be with any of them.
    others: Vec<Thread>,
}

/// The task that a CPU runs.
pub(super) struct Running {
    /// The task whose stack it is on; `None` for one that is not among those that were asked for.
    pub(super) task: Option<GuestVirt>,
    pub(super) frames: Vec<Frame>,
    pub(super) end: TraceEnd,
}

impl Cpu {
    /// The CPUs that are online.
    pub(super) fn all(kernel: &Kernel, registers: &Result<Vec<Registers>>) -> Result<Vec<Self>> {
        let plan = Plan::<Raw>::new(kernel)?;
        let cpus = online_cpus(kernel)?.into_iter();
        Ok(cpus
            .map(|number| {
                let thread = |at: Result<GuestVirt>| Thread::load(&plan, at.ok()?).ok();
                Self {
                    number,
                    registers: of(registers, number),
                    current: thread(sched::current(kernel, number)),
                    others: ["idle", "curr"]
                        .into_iter()
                        .filter_map(|member| thread(queued(kernel, number, member)))
                        .collect(),
                }
            })
            .collect())
    }

    pub(super) fn numbers(cpus: &[Self]) -> Vec<u32> {
        cpus.iter().map(|cpu| cpu.number).collect()
    }

    /// The tasks that it may be with.
    pub(super) fn threads(&self) -> impl Iterator<Item = &Thread> {
        self.current.iter().chain(&self.others)
    }

    /// Its stack pointer is in no task's stack.
    pub(super) fn no_task(&self) -> Error {
        let at = match &self.registers {
            Ok(start) => format!("its stack pointer is {}", start.sp),
            Err(why) => why.clone(),
        };
        Error::Absent(format!("it is on the stack of no task that is known: {at}"))
    }
}

/// The registers of the CPUs that run this kernel. Whether one runs another, a kernel that was started by kexec after
/// this one died, is asked here and nowhere else.
pub(super) fn registers(guest: &Guest, _kernel: &Kernel) -> Result<Vec<Registers>> {
    guest.registers()
}

fn of(all: &Result<Vec<Registers>>, cpu: u32) -> Result<Start, String> {
    let all = all.as_ref().map_err(ToString::to_string)?;
    let registers = all.iter().find(|registers| registers.cpu == cpu);
    let registers = registers.ok_or_else(|| format!("there are no registers of CPU {cpu}"))?;
    Ok(Start {
        ip: GuestVirt(registers.rip),
        sp: GuestVirt(registers.rsp),
        bp: GuestVirt(registers.rbp),
        exact: true,
    })
}

/// A task that a CPU's run queue names.
fn queued(kernel: &Kernel, cpu: u32, member: &str) -> Result<GuestVirt> {
    let rq = per_cpu_ptr(kernel, "runqueues", cpu)?;
    let at = rq.offset(offset_of(kernel, "struct rq", member)?);
    kernel.read_u64(at).map(GuestVirt)
}
