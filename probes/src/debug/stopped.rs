//! The guest kept where it has stopped, for as long as the user looks at it, and what lets it go on from there: one instruction,
//! to the end of a call, to the next stop.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use vm::Registers;

use super::breakpoint::Breakpoint;
use super::function::Place;
use super::invocation::{Invocation, Invocations, unseen};
use super::stop::{Bounds, Session};
use super::traps::{Trap, Traps};
use super::watchpoint::Watchpoint;
use super::whereabouts::{AFTER, Args, BEFORE, Reason, Where};
use super::work::Work;
use crate::guest::{Guest, Pause};
use crate::kernel::{Function, Functions};
use crate::memory::GuestVirt;
use crate::object::Object;
use crate::sched::Task;
use crate::text::Instruction;
use crate::unwind::StackTrace;
use crate::{Error, Of as _, Result};

/// Time for which a stop, or the return of a call, is waited for.
pub(super) const TIME: Duration = Duration::from_secs(10);
/// Time that a command that runs in the guest has to end when the guest is let go.
const ENDS: Duration = Duration::from_secs(2);

/// A guest that is kept where it has stopped, until this is dropped: then it runs, and no breakpoint stays. Every reader works on it,
/// in other programs too; what needs the guest to run says that it stands.
#[derive(Debug)]
pub struct Stopped {
    pub(super) session: Session,
    pub(super) traps: Traps,
    pub(super) work: Option<Work>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) cpu: u32,
    pub(super) registers: Registers,
    pub(super) why: Reason,
    pub(super) invocations: Invocations,
}

impl Guest {
    /// Waits for a call of a function, for 10 seconds at most, and keeps the guest there. See [`breakpoint`](Self::breakpoint) for a
    /// condition, and for what is to run meanwhile.
    ///
    /// # Errors
    /// Absent, when nobody calls it in time; those of [`breakpoint`](Self::breakpoint), and of the machine.
    pub fn stay_at(&self, place: &str) -> Result<Stopped> {
        self.breakpoint(place)?.stay()
    }

    /// Stops the guest where it is, and keeps it there.
    ///
    /// # Errors
    /// When it stands still already, or another debugger has it.
    pub fn stop(&self) -> Result<Stopped> {
        let mut session = Session::begin(self, &Bounds::of(TIME))?;
        // Connecting has stopped it.
        let standing = session.here(0)?;
        let mut stopped = Stopped::new(session, None, Arc::default());
        stopped.stands(standing, Reason::Interrupted)?;
        Ok(stopped)
    }
}

impl Breakpoint {
    /// Waits for the first call, and keeps the guest there.
    ///
    /// # Errors
    /// Absent, when none comes in time, or before the command has ended; those of the condition, and of the machine.
    pub fn stay(self) -> Result<Stopped> {
        let name = self.place.function();
        let trap = Trap::of_call(self.place, self.condition);
        let bounds = self.bounds;
        begin(&self.guest, &bounds, trap)?.ok_or_else(|| {
            let time = bounds.time().as_secs_f64();
            Error::Absent(format!(
                "no call of {name} came while the guest was watched (at most {time:.1} s): a command behind it may make one, `.within(..)` gives it longer"
            ))
        })
    }
}

impl Watchpoint {
    /// Waits for the next write, and keeps the guest behind it.
    ///
    /// # Errors
    /// Absent, when none comes in time, or before the command has ended; those of the machine.
    pub fn stay(self) -> Result<Stopped> {
        let (at, ty) = (self.start()?, self.object.type_name());
        let (guest, bounds) = (self.guest.clone(), self.bounds.clone());
        let trap = Trap::of_write(self)?;
        begin(&guest, &bounds, trap)?.ok_or_else(|| {
            let time = bounds.time().as_secs_f64();
            Error::Absent(format!(
                "nothing wrote to the `{ty}` at {at} while it was watched (at most {time:.1} s): a command behind it may do so, `.within(..)` gives it longer"
            ))
        })
    }
}

/// Runs the guest to the first stop; `None` when it is not reached.
fn begin(guest: &Guest, bounds: &Bounds, trap: Trap) -> Result<Option<Stopped>> {
    let mut work = Work::begin(guest, bounds)?;
    let session = Session::begin(guest, bounds)?;
    let mut stopped = Stopped::new(session, None, Arc::clone(&bounds.stop));
    stopped.traps.add(&mut stopped.session, trap)?;
    work.start();
    stopped.work = Some(work);
    Ok(stopped.run(None)?.then_some(stopped))
}

impl Stopped {
    fn new(session: Session, work: Option<Work>, stop: Arc<AtomicBool>) -> Self {
        Self {
            session,
            traps: Traps::default(),
            work,
            stop,
            cpu: 0,
            registers: Registers::default(),
            why: Reason::Interrupted,
            invocations: Invocations::default(),
        }
    }

    /// Sets what ends a wait early, when another thread sets it: the guest is stopped where it is then.
    pub fn until(&mut self, stop: Arc<AtomicBool>) {
        self.stop = stop;
    }

    /// The guest.
    #[must_use]
    pub const fn guest(&self) -> &Guest {
        &self.session.guest
    }

    /// Tells whether the guest stands; it does not when it was let go on, and has not come to a stop yet.
    #[must_use]
    pub const fn is_standing(&self) -> bool {
        !self.session.runs()
    }

    /// Tells whether a guest that stands is still the one that was stopped.
    ///
    /// # Errors
    /// `Machine` when its QEMU has ended: it was reset, or taken down.
    pub fn check(&mut self) -> Result<()> {
        match self.is_standing() {
            true => Ok(self.session.debugger.check()?),
            false => Ok(()),
        }
    }

    /// The CPU that has stopped.
    #[must_use]
    pub const fn cpu(&self) -> u32 {
        self.cpu
    }

    /// Its registers.
    #[must_use]
    pub const fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Why the guest stands.
    #[must_use]
    pub const fn why(&self) -> &Reason {
        &self.why
    }

    /// Stops the guest at a place, too, and gives its address: as [`Guest::breakpoint`] takes it, with a condition in C or without.
    /// One that is there already gets the new condition.
    ///
    /// # Errors
    /// Those of [`Guest::breakpoint`]; when the guest runs.
    pub fn add(&mut self, place: &str, condition: Option<&str>) -> Result<GuestVirt> {
        self.standing()?;
        let place = Place::find(&self.session.guest, place)?;
        let at = place.at;
        self.traps.remove(&mut self.session, at)?;
        let trap = Trap::of_call(place, condition.map(str::to_owned));
        self.traps.add(&mut self.session, trap)?;
        Ok(at)
    }

    /// Takes the breakpoint at an address, or the watchpoint on one, away.
    ///
    /// # Errors
    /// When the guest runs.
    pub fn remove(&mut self, at: GuestVirt) -> Result<bool> {
        self.standing()?;
        self.traps.remove(&mut self.session, at)
    }

    /// Places at which the guest stops, each with its address.
    #[must_use]
    pub fn breakpoints(&self) -> Vec<(GuestVirt, String)> {
        self.traps.named()
    }

    /// Place at which the CPU stands: function, offset, the instructions around, arguments.
    ///
    /// # Errors
    /// When the guest runs; `Unmapped` or `Broken` if the kernel's tables cannot be read.
    pub fn here(&self) -> Result<Where> {
        self.standing()?;
        let _still = Pause::of_debugger(self.guest());
        let (_, current) = self.session.current(self.cpu)?;
        let at = GuestVirt(self.registers.rip);
        let mut missing = Vec::new();
        let code = self
            .code()
            .or_miss(&mut missing, || "the instructions here")
            .unwrap_or_default();
        let args = match self.entered(at) {
            Some(invocation) => invocation
                .values()
                .or_miss(&mut missing, || "the arguments"),
            None => None,
        };
        Ok(Where {
            why: self.why.clone(),
            at: Functions::new(&self.session.kernel).at(at)?,
            cpu: self.cpu,
            pid: current.pid,
            comm: current.comm.to_str().into_owned(),
            args,
            code,
            stack: None,
            missing,
        })
    }

    /// The same with the frames that led here.
    ///
    /// # Errors
    /// As [`here`](Self::here), and [`stack`](Self::stack).
    pub fn here_with_stack(&self) -> Result<Where> {
        Ok(Where {
            stack: Some(self.stack()?),
            ..self.here()?
        })
    }

    /// The frames that led here.
    ///
    /// # Errors
    /// When the guest runs; `Absent` if no task is known that runs on the CPU; `Broken` if the kernel's tables for unwinding are
    /// damaged.
    pub fn stack(&self) -> Result<StackTrace> {
        self.stack_of(self.cpu)
    }

    /// The frames of another CPU.
    ///
    /// # Errors
    /// As [`stack`](Self::stack).
    pub fn stack_of(&self, cpu: u32) -> Result<StackTrace> {
        self.standing()?;
        let _still = Pause::of_debugger(self.guest());
        self.guest().stack_of_cpu(cpu)
    }

    /// The task that the CPU calls `current`. In an interrupt that is the one that was interrupted.
    ///
    /// # Errors
    /// As [`Guest::current`]; when the guest runs.
    pub fn task(&self) -> Result<Task> {
        self.standing()?;
        self.guest().current(self.cpu)
    }

    /// Arguments of the function, as it got them: known when its call was seen at its beginning.
    ///
    /// # Errors
    /// Unsupported, when the beginning was not seen, or BTF has no prototype.
    pub fn args(&self) -> Result<Args> {
        let invocation = self.invocation()?;
        Ok(Args {
            function: invocation.place.function(),
            args: invocation.values()?,
        })
    }

    /// The argument of a name, typed.
    ///
    /// # Errors
    /// As [`args`](Self::args); absent, with the names that there are.
    pub fn arg(&self, name: &str) -> Result<Object> {
        self.invocation()?.arg(name)
    }

    /// Arguments of the call that is so many frames above the innermost one.
    ///
    /// # Errors
    /// As [`args`](Self::args).
    pub fn args_of_frame(&self, frame: usize) -> Result<Vec<(String, Object)>> {
        Ok(self.invocation_of(frame)?.locals())
    }

    /// The value of a C expression in which the arguments, where they are known, have their names, and `current` is the task.
    ///
    /// # Errors
    /// As [`Kernel::eval`](crate::kernel::Kernel::eval); when the guest runs.
    pub fn eval(&self, expression: &str) -> Result<Object> {
        self.standing()?;
        let invocation = self.invocation();
        let mut locals = invocation.map(Invocation::locals).unwrap_or_default();
        let (task, _) = self.session.current(self.cpu)?;
        let current = Object::pointer_to(&self.session.kernel, "struct task_struct", task)?;
        locals.push(("current".to_owned(), current));
        self.session.kernel.eval_with(expression, &locals)
    }

    /// Lets the guest run without breakpoints. A command that was given with the first stop has 2 seconds to end.
    ///
    /// # Errors
    /// When that command could not be run.
    pub fn end(mut self) -> Result<()> {
        let work = self.work.take();
        let stop = Arc::clone(&self.stop);
        drop(self);
        work.map_or(Ok(()), |work| work.end(Instant::now() + ENDS, &stop))
    }

    pub(super) fn standing(&self) -> Result<()> {
        match self.is_standing() {
            true => Ok(()),
            false => Err(Error::Unsupported(
                "the guest runs: it has not come to its next stop yet".to_owned(),
            )),
        }
    }

    fn code(&self) -> Result<Vec<Instruction>> {
        let at = GuestVirt(self.registers.rip);
        let all = self.guest().disassembly(at)?.instructions;
        let next = all.iter().position(|one| one.at == at).ok_or_else(|| {
            Error::Absent(format!("no instruction of its function begins at {at}"))
        })?;
        let shown = all.into_iter().skip(next.saturating_sub(BEFORE));
        Ok(shown.take(next.min(BEFORE) + AFTER).collect())
    }

    pub(super) fn place_here(&self) -> Result<Place> {
        let at = Functions::new(&self.session.kernel).at(GuestVirt(self.registers.rip))?;
        let Function { name, module, .. } = at;
        let name = name.ok_or_else(|| Error::Absent("there is no function here".to_owned()))?;
        let start = self.registers.rip.wrapping_sub(at.offset);
        let found = Place::find(&self.session.guest, &GuestVirt(start).to_string());
        found.map(|place| Place {
            name,
            module,
            ..place
        })
    }

    /// The invocation at whose entry the CPU stands.
    fn entered(&self, at: GuestVirt) -> Option<&Invocation> {
        let (task, _) = self.session.current(self.cpu).ok()?;
        let sp = GuestVirt(self.registers.rsp).offset(8);
        self.invocations
            .find(&self.session, (task, sp), at)
            .filter(|one| one.place.at == at)
    }

    pub(super) fn invocation(&self) -> Result<&Invocation> {
        match self.entered(GuestVirt(self.registers.rip)) {
            Some(found) => Ok(found),
            None => self.invocation_of(0),
        }
    }

    /// The invocation of a frame, which its caller's stack pointer tells.
    fn invocation_of(&self, frame: usize) -> Result<&Invocation> {
        let trace = self.stack()?;
        let (own, caller) = (trace.frames.get(frame), trace.frames.get(frame + 1));
        let own = own.ok_or_else(|| Error::Absent("there is no such frame".to_owned()))?;
        let unseen = || unseen(&own.function);
        let caller = caller.ok_or_else(unseen)?;
        let (task, _) = self.session.current(self.cpu)?;
        let mut found = self
            .invocations
            .find(&self.session, (task, caller.sp), own.ip);
        if frame == 0 && found.is_none() {
            found = self.entered(own.ip);
        }
        found.ok_or_else(unseen)
    }
}
