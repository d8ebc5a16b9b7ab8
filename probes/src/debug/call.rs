//! One call of a function, at which the guest stands.

use vm::Registers;

use super::arguments::{Argument, Arguments, is_composite};
use super::function::{Place, Prototype};
use super::stop::{Session, Standing};
use crate::guest::Guest;
use crate::kernel::btf::TypeId;
use crate::kernel::{Function, Functions};
use crate::memory::GuestVirt;
use crate::object::Object;
use crate::sched::Task;
use crate::text::Instruction;
use crate::unwind::StackTrace;
use crate::{Error, Result};

/// One call of a function: the guest stands where it begins, or wherever the breakpoint is. Every reader works on the guest.
#[derive(Debug)]
pub struct Call<'a> {
    pub(super) session: &'a mut Session,
    pub(super) place: &'a Place,
    cpu: u32,
    registers: Registers,
    arguments: Result<Arguments>,
    frame: Option<Frame>,
    hits: u64,
    /// Calls that came by while this one was waited for.
    pub(super) passed: u64,
}

/// An invocation: where it returns to, its caller's stack pointer then, and the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) returns_to: GuestVirt,
    pub(super) sp: GuestVirt,
    pub(super) task: GuestVirt,
}

impl Frame {
    /// Frame of a function at whose entry a CPU stands: the return address is the stack's last word.
    pub(super) fn at_entry(session: &Session, registers: &Registers) -> Result<Self> {
        let sp = GuestVirt(registers.rsp);
        let (task, _) = session.current(registers.cpu)?;
        Self {
            returns_to: GuestVirt(session.kernel.read_u64(sp)?),
            sp: sp.offset(8),
            task,
        }
        .checked()
    }

    /// Frame of a function in the middle of which a CPU stands.
    pub(super) fn by_unwinding(session: &Session, registers: &Registers) -> Result<Self> {
        let trace = session.guest.stack_of_cpu(registers.cpu)?;
        let (task, _) = session.current(registers.cpu)?;
        let caller = trace.frames.get(1).filter(|_| {
            let here = trace.frames.first();
            here.is_some_and(|frame| frame.ip.0 == registers.rip)
        });
        let caller = caller.ok_or_else(|| {
            Error::Unsupported("its stack does not tell where this function returns to".to_owned())
        })?;
        Self {
            returns_to: caller.ip,
            sp: caller.sp,
            task,
        }
        .checked()
    }

    fn checked(self) -> Result<Self> {
        match self.returns_to.0 >> 63 {
            0 => Err(Error::Unsupported(format!(
                "this function does not return to the kernel: its return address is {}",
                self.returns_to
            ))),
            _ => Ok(self),
        }
    }

    /// Tells whether a CPU stands where the invocation has returned to.
    pub(super) fn is_left(&self, session: &Session, registers: &Registers) -> bool {
        registers.rip == self.returns_to.0
            && registers.rsp == self.sp.0
            && session
                .current(registers.cpu)
                .is_ok_and(|(task, _)| task == self.task)
    }
}

/// The value that a function returns, by its prototype; `None` for one that returns nothing.
pub(super) fn returned(
    session: &Session,
    prototype: &Prototype,
    registers: &Registers,
) -> Result<Option<Object>> {
    let ty = prototype.returns;
    if prototype.btf.resolve(ty)?.id == TypeId::VOID {
        return Ok(None);
    }
    if is_composite(prototype, ty)? && prototype.btf.size_of(ty)?.is_none_or(|size| size > 8) {
        return Err(Error::Unsupported(
            "it returns a structure of several words: `call.registers()` has rax and rdx"
                .to_owned(),
        ));
    }
    Object::of_register(&session.kernel, &prototype.btf, ty, registers.rax).map(Some)
}

impl<'a> Call<'a> {
    pub(super) fn new(
        session: &'a mut Session,
        place: &'a Place,
        standing: &Standing,
        hits: u64,
    ) -> Self {
        let registers = standing.registers;
        let arguments = place
            .arguments()
            .and_then(|prototype| Arguments::of(&session.kernel, prototype, &registers));
        Self {
            session,
            place,
            cpu: registers.cpu,
            registers,
            arguments,
            frame: None,
            hits,
            passed: 0,
        }
    }

    /// Number of calls that have come by, this one among them.
    #[must_use]
    pub const fn hits(&self) -> u64 {
        self.hits
    }

    /// The CPU that makes the call.
    #[must_use]
    pub const fn cpu(&self) -> u32 {
        self.cpu
    }

    /// The registers of that CPU now.
    #[must_use]
    pub const fn registers(&self) -> &Registers {
        &self.registers
    }

    /// The guest, which stands still.
    #[must_use]
    pub const fn guest(&self) -> &Guest {
        &self.session.guest
    }

    /// The argument of a name, typed: `call.arg("file")?.member("f_mode")?`. As the function got it, also after
    /// [`finish`](Self::finish).
    ///
    /// # Errors
    /// Absent, with the names that there are; unsupported where BTF has no prototype, and in the middle of a function.
    pub fn arg(&self, name: &str) -> Result<Object> {
        self.given()?.named(&self.place.function(), name)
    }

    /// All arguments, read out.
    ///
    /// # Errors
    /// As [`arg`](Self::arg).
    pub fn args(&self) -> Result<Vec<Argument>> {
        Ok(self.given()?.values(self.place.arguments()?))
    }

    fn given(&self) -> Result<&Arguments> {
        self.arguments.as_ref().map_err(Clone::clone)
    }

    /// The value of a C expression in which the arguments have their names, and `current` is the task that runs:
    /// `call.eval("count > 4096 && current->pid != 1")`.
    ///
    /// # Errors
    /// As [`Kernel::eval`](crate::kernel::Kernel::eval).
    pub fn eval(&self, expression: &str) -> Result<Object> {
        let mut locals = self.given().map(Arguments::locals).unwrap_or_default();
        let (task, _) = self.session.current(self.cpu)?;
        let current = Object::pointer_to(&self.session.kernel, "struct task_struct", task)?;
        locals.push(("current".to_owned(), current));
        self.session.kernel.eval_with(expression, &locals)
    }

    /// The task that the CPU calls `current`. In an interrupt that is the one that was interrupted.
    ///
    /// # Errors
    /// As [`Guest::current`].
    pub fn task(&self) -> Result<Task> {
        self.session.guest.current(self.cpu)
    }

    /// The frames that led here.
    ///
    /// # Errors
    /// `Absent` if no task is known that runs on the CPU; `Broken` if the kernel's tables for unwinding are damaged.
    pub fn stack(&self) -> Result<StackTrace> {
        self.session.guest.stack_of_cpu(self.cpu)
    }

    /// Place at which the CPU stands now: function and offset.
    ///
    /// # Errors
    /// `Unmapped` or `Broken` if the table of symbols, the kernel's or a module's, cannot be read.
    pub fn place(&self) -> Result<Function> {
        Functions::new(&self.session.kernel).at(GuestVirt(self.registers.rip))
    }

    /// The instruction that comes next.
    ///
    /// # Errors
    /// `Absent` if the CPU stands in no function, or between two instructions of it; `Unmapped` if its code cannot be
    /// read.
    pub fn instruction(&self) -> Result<Instruction> {
        let at = GuestVirt(self.registers.rip);
        let all = self.session.guest.disassembly(at)?.instructions;
        let next = all.into_iter().find(|one| one.at == at);
        next.ok_or_else(|| Error::Absent(format!("no instruction of its function begins at {at}")))
    }

    /// Executes one instruction of this CPU, and gives where it stands then. Interrupts and the other CPUs wait meanwhile.
    ///
    /// # Errors
    /// `Machine` if the gdbstub does not answer; as [`place`](Self::place).
    pub fn step(&mut self) -> Result<Function> {
        self.frame()?;
        self.registers = self.session.step(self.cpu)?.registers;
        self.place()
    }

    /// Runs until this very call has returned, and gives its return value; `None` for a function that returns nothing. Other calls
    /// of the function pass meanwhile, those that it makes itself among them: a return counts when the stack pointer and the task are this
    /// call's.
    ///
    /// # Errors
    /// Absent, when it does not return while the guest is watched; unsupported, for a structure of several words.
    pub fn finish(&mut self) -> Result<Option<Object>> {
        let frame = self.frame()?;
        if !frame.is_left(self.session, &self.registers) {
            self.run_to(&frame)?;
        }
        returned(self.session, self.place.prototype()?, &self.registers)
    }

    fn run_to(&mut self, frame: &Frame) -> Result<()> {
        self.session.debugger.set(frame.returns_to.0)?;
        loop {
            let standing = self.session.next()?.ok_or_else(|| {
                let name = self.place.function();
                Error::Absent(format!(
                    "this call of {name} did not return while the guest was watched: `.within(..)` gives it longer"
                ))
            })?;
            if frame.is_left(self.session, &standing.registers) {
                self.session.debugger.unset(frame.returns_to.0)?;
                self.registers = standing.registers;
                self.cpu = standing.registers.cpu;
                return Ok(());
            }
            self.passed += u64::from(standing.registers.rip == self.place.at.0);
        }
    }

    /// The invocation, which must be told before anything of it has run.
    fn frame(&mut self) -> Result<Frame> {
        if let Some(frame) = self.frame {
            return Ok(frame);
        }
        let frame = match self.place.entry {
            true => Frame::at_entry(self.session, &self.registers)?,
            false => Frame::by_unwinding(self.session, &self.registers)?,
        };
        self.frame = Some(frame);
        Ok(frame)
    }
}
