//! The walk from frame to frame: `unwind_next_frame()` of `arch/x86/kernel/unwind_orc.c`.

use super::TraceEnd;
use super::orc::{Kind, Orc, Reg, Tables};
use super::returns::Returns;
use super::stacks::{StackKind, Stacks};
use crate::Result;
use crate::base::check_interrupt;
use crate::core::trace::Maker;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::offset_of;

/// Frames of the deepest stack that is followed.
const FRAME_BOUND: usize = 512;
/// Names of the code that indirect calls and jumps go through (`arch/x86/lib/retpoline.S`).
const THUNKS: &str = "__x86_indirect_";

/// Start of a walk: registers, saved or of a CPU that stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) ip: GuestVirt,
    pub(super) sp: GuestVirt,
    pub(super) bp: GuestVirt,
    /// True if `ip` is the instruction itself, not the one after a call.
    pub(super) exact: bool,
}

/// One address of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) ip: GuestVirt,
    pub(super) sp: GuestVirt,
    /// True if the function is at `ip`, not behind a call before it.
    pub(super) exact: bool,
    /// True if something broke into it, and saved all its registers.
    pub(super) interrupted: bool,
}

/// The stacks that a walk uses, and the task that runs there.
pub(super) struct Way<'w> {
    pub(super) stacks: &'w Stacks,
    /// The task that is `current` there, for what lies on no task's stack.
    pub(super) current: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct pt_regs")]
struct PtRegs {
    ip: u64,
    sp: u64,
    bp: u64,
}

/// Walks the kernel's and modules' frames.
pub(super) struct Walker<'k> {
    kernel: &'k Kernel,
    pub(super) orc: Tables<'k>,
    returns: Returns<'k>,
    regs: Plan<PtRegs>,
    /// Length of `pt_regs`, and the offset of the part that the CPU itself pushes.
    len: u64,
    iret: u64,
    cs: u64,
    handler: Option<GuestVirt>,
    forks: [Option<GuestVirt>; 2],
}

/// The registers of a frame, as far as they are known.
struct State {
    ip: GuestVirt,
    sp: GuestVirt,
    bp: GuestVirt,
    exact: bool,
    interrupted: bool,
    /// All registers of the frame, where an interrupt saved them.
    regs: Option<GuestVirt>,
}

impl State {
    /// A function that waits for what it called.
    const fn called(ip: GuestVirt, sp: GuestVirt, bp: GuestVirt) -> Self {
        Self {
            ip,
            sp,
            bp,
            exact: false,
            interrupted: false,
            regs: None,
        }
    }
}

fn lost<T>(why: String) -> Result<Result<T, TraceEnd>> {
    Ok(Err(TraceEnd::Lost(why)))
}

impl<'k> Walker<'k> {
    pub(super) fn new(kernel: &'k Kernel) -> Result<Self> {
        let (btf, id) = kernel.find_composite(PtRegs::C)?;
        let symbols = kernel.symbols()?;
        Ok(Self {
            kernel,
            orc: Tables::of(kernel)?,
            returns: Returns::of(kernel)?,
            regs: Plan::new(kernel)?,
            len: btf.size_of(id)?.unwrap_or(0),
            iret: offset_of(kernel, PtRegs::C, "ip")?,
            cs: offset_of(kernel, PtRegs::C, "cs")?,
            handler: symbols.lookup("return_to_handler"),
            forks: ["ret_from_fork_asm", "ret_from_fork"].map(|name| symbols.lookup(name)),
        })
    }

    /// Tells whether a task that never ran begins at an address.
    pub(super) fn is_fork(&self, ip: GuestVirt) -> bool {
        self.forks.contains(&Some(ip))
    }

    /// All frames from `start` on, and why there are no more.
    pub(super) fn walk(&self, start: Start, way: &Way<'_>) -> (Vec<Step>, TraceEnd) {
        let mut state = State {
            exact: start.exact,
            ..State::called(start.ip, start.sp, start.bp)
        };
        let mut steps = Vec::new();
        while steps.len() < FRAME_BOUND {
            check_interrupt();
            steps.push(Step {
                ip: state.ip,
                sp: state.sp,
                // A trampoline in the place of a return address was called by nobody.
                exact: state.exact || self.returns.is_trampoline(state.ip),
                interrupted: state.interrupted,
            });
            match self.next(&state, way) {
                Ok(Ok(next)) => state = next,
                Ok(Err(end)) => return (steps, end),
                Err(error) => return (steps, TraceEnd::Lost(error.to_string())),
            }
        }
        let why = format!("more than {FRAME_BOUND} frames");
        (steps, TraceEnd::Lost(why))
    }

    /// The frame that called this one, or why there is none.
    fn next(&self, state: &State, way: &Way<'_>) -> Result<Result<State, TraceEnd>> {
        if let Some(next) = self.trampoline(state, way)? {
            return Ok(Ok(next));
        }
        if self.returns.is_trampoline(state.ip) && !state.exact {
            return lost(format!(
                "a tracer has replaced the return address by {}, and the task does not keep it",
                state.ip
            ));
        }
        if let Some(next) = self.thunk(state, way)? {
            return Ok(Ok(next));
        }
        // After a call the address may be the next function's.
        let at = match state.exact {
            true => state.ip,
            false => state.ip.back(1),
        };
        let Some(mut orc) = self.orc.find(at)? else {
            return self.without_orc(state, at);
        };
        // ORC does not say which of the thunks of indirect calls is jumped to or called.
        if orc.kind == Kind::Undefined && state.exact && self.begins_here(at)? {
            orc = Orc::CALLED;
        }
        match orc.kind {
            Kind::Undefined => return lost(format!("the ORC entry of {at} says nothing")),
            Kind::End => return self.end(state, at, way),
            Kind::Call | Kind::Regs | Kind::RegsPartial => {}
        }
        let Some(sp) = self.stack_pointer(state, &orc)? else {
            return lost(format!(
                "the ORC entry of {at} needs a register that is not known"
            ));
        };
        let next = match orc.kind {
            Kind::Regs => self.interrupted(state, sp, true)?,
            Kind::RegsPartial => self.interrupted(state, sp.back(self.iret), false)?,
            _ => {
                let slot = sp.back(8);
                let ip = GuestVirt(self.kernel.read_u64(slot)?);
                if ip.is_null() {
                    return match way.stacks.place(sp).first {
                        true => Ok(Err(TraceEnd::Start)),
                        false => lost(format!("the return address at {slot} is 0")),
                    };
                }
                // From the stack of interrupts back to the task's, whose address was kept on the former, it may go down.
                let elsewhere = matches!(orc.sp_reg, Reg::SpIndirect | Reg::BpIndirect);
                if sp <= state.sp && !elsewhere {
                    return lost(format!("the stack does not go on at {sp}"));
                }
                let ip = self.returned(ip, slot, way)?;
                Ok(State {
                    // Beginning of a task that has just been switched to for the first time: nobody called it.
                    exact: self.is_fork(ip),
                    ..State::called(ip, sp, state.bp)
                })
            }
        };
        let mut next = match next {
            Ok(next) => next,
            Err(end) => return Ok(Err(end)),
        };
        match orc.bp_reg {
            Reg::PrevSp => next.bp = self.word(sp, orc.bp_offset)?,
            Reg::Bp => next.bp = self.word(state.bp, orc.bp_offset)?,
            _ => {}
        }
        Ok(Ok(next))
    }

    /// The code that an interrupt, an exception or a probe broke into, whose registers lie at `at`.
    fn interrupted(
        &self,
        state: &State,
        at: GuestVirt,
        full: bool,
    ) -> Result<Result<State, TraceEnd>> {
        let regs = self.regs.load(at)?;
        // user_mode(): what the CPU ran was a program. The selector is 16 bits wide, its member was not.
        if self.is_user(at)? {
            return Ok(Err(TraceEnd::User));
        }
        if regs.ip >> 63 == 0 || self.kernel.read_u16(at.offset(self.cs))? & 3 != 0 {
            // Behind the call of error_entry(), which has pushed all registers (`arch/x86/entry/entry_64.S`), ORC does not
            // know of them: they lie at the stack pointer.
            if self.is_user(state.sp)? {
                return Ok(Err(TraceEnd::User));
            }
            return match self.pushed(state.sp)? {
                Some(regs) => Ok(Ok(State {
                    ip: GuestVirt(regs.ip),
                    sp: GuestVirt(regs.sp),
                    bp: GuestVirt(regs.bp),
                    exact: true,
                    interrupted: true,
                    regs: Some(state.sp),
                })),
                None => lost(format!("there are no registers at {at}")),
            };
        }
        Ok(Ok(State {
            ip: GuestVirt(regs.ip),
            sp: GuestVirt(regs.sp),
            bp: if full { GuestVirt(regs.bp) } else { state.bp },
            exact: true,
            interrupted: true,
            regs: full.then_some(at),
        }))
    }

    /// The kernel's own registers at `at`, if the CPU pushed some of them there: it aligns the stack pointer to 16 bytes, and
    /// pushes what that was (Intel SDM, volume 3, 6.14.2).
    fn pushed(&self, at: GuestVirt) -> Result<Option<PtRegs>> {
        let regs = self.regs.load(at)?;
        let behind = at.offset(self.len).0;
        let cs = self.kernel.read_u16(at.offset(self.cs))?;
        let whole = cs != 0 && cs & 3 == 0 && regs.ip >> 63 == 1;
        Ok((whole && regs.sp.wrapping_sub(behind) < 16).then_some(regs))
    }

    /// Tells whether the registers at `at` are a program's: its selectors of code and stack.
    fn is_user(&self, at: GuestVirt) -> Result<bool> {
        // `ip`, `cs`, `flags`, `sp`, `ss` are what the CPU pushed.
        let cs = self.kernel.read_u16(at.offset(self.cs))?;
        let ss = self
            .kernel
            .read_u16(at.offset(self.len.saturating_sub(8)))?;
        Ok(cs & 3 == 3 && ss & 3 == 3)
    }

    /// Finds the return address that the kernel has replaced and keeps in a table of its own.
    fn returned(&self, ip: GuestVirt, slot: GuestVirt, way: &Way<'_>) -> Result<GuestVirt> {
        let owner = way.stacks.place(slot).task.unwrap_or(way.current);
        let kept = self.returns.recover(&[owner, way.current], ip, slot)?;
        Ok(kept.unwrap_or(ip))
    }

    /// The caller of a function that has returned to a trampoline, which is at work: `None` if that is not so.
    fn trampoline(&self, state: &State, way: &Way<'_>) -> Result<Option<State>> {
        let ip = state.ip;
        let first = state.exact && self.returns.is_trampoline(ip);
        let within = || -> Result<bool> {
            let symbol = self.kernel.symbols()?.at(ip);
            Ok(symbol.is_some_and(|at| Some(ip.back(at.offset)) == self.handler && at.offset > 0))
        };
        let trampoline = match (first, self.handler) {
            (true, _) => ip,
            // return_to_handler() takes the return address's place back, and keeps two registers.
            (false, Some(handler)) if within()? => handler,
            _ => return Ok(None),
        };
        let owner = way.stacks.place(state.sp).task.unwrap_or(way.current);
        let places: &[u64] = if first { &[0] } else { &[8, 16, 0] };
        for more in places {
            let sp = state.sp.offset(*more);
            let kept = self
                .returns
                .recover(&[owner, way.current], trampoline, sp.back(8))?;
            if let Some(kept) = kept {
                return Ok(Some(State::called(kept, sp, state.bp)));
            }
        }
        Ok(None)
    }

    /// The caller of a thunk of indirect calls, of which ORC says nothing, or that it is the stack's end.
    fn thunk(&self, state: &State, way: &Way<'_>) -> Result<Option<State>> {
        let symbols = self.kernel.symbols()?;
        let is_thunk = |ip: GuestVirt| {
            let symbol = symbols.at(ip);
            symbol.is_some_and(|symbol| symbol.name.starts_with(THUNKS))
        };
        if !state.exact || !is_thunk(state.ip) {
            return Ok(None);
        }
        let (mut sp, mut word) = (state.sp, GuestVirt(self.kernel.read_u64(state.sp)?));
        // The thunk calls itself, puts its target in the place of that return address, and returns there.
        if is_thunk(word) {
            sp = sp.offset(8);
            word = GuestVirt(self.kernel.read_u64(sp)?);
        } else if self.begins_here(word)? && !self.returns.is_trampoline(word) {
            return Ok(Some(State {
                exact: true,
                ..State::called(word, sp.offset(8), state.bp)
            }));
        }
        let ip = self.returned(word, sp, way)?;
        Ok(Some(State::called(ip, sp.offset(8), state.bp)))
    }

    /// Checks what ORC calls the end of the stack; believed where a stack ends.
    fn end(&self, state: &State, at: GuestVirt, way: &Way<'_>) -> Result<Result<State, TraceEnd>> {
        let place = way.stacks.place(state.sp);
        // The registers were, or will be, a program's: it enters or leaves the kernel.
        let user = state.sp.0 >> 63 == 0 || place.kind == StackKind::Entry;
        let moves = state.exact && !place.kthread && !self.is_fork(state.ip);
        if user || place.first && moves {
            return Ok(Err(TraceEnd::User));
        }
        if place.first {
            return Ok(Err(TraceEnd::Start));
        }
        lost(format!(
            "the ORC entry of {at} ends the stack, which goes on above {}",
            state.sp
        ))
    }

    /// The frame before one in code that has no ORC.
    fn without_orc(&self, state: &State, at: GuestVirt) -> Result<Result<State, TraceEnd>> {
        let Some(code) = self.orc.made(at) else {
            return lost(format!("{at} has no ORC entry"));
        };
        // An optimized probe has pushed the registers of what it broke into, and called its handler with their address.
        if code.by == Maker::Optimized && !state.exact {
            let regs = self.regs.load(state.sp)?;
            let whole = regs.sp == state.sp.offset(self.len).0;
            if whole && let Ok(next) = self.interrupted(state, state.sp, true)? {
                return Ok(Ok(next));
            }
        }
        lost(format!("{at} has no ORC entry: it is in {}", code.name))
    }

    /// Tells whether a function of the kernel begins at an address.
    fn begins_here(&self, at: GuestVirt) -> Result<bool> {
        let symbol = self.kernel.symbols()?.at(at);
        Ok(symbol.is_some_and(|symbol| symbol.offset == 0))
    }

    fn word(&self, base: GuestVirt, offset: i16) -> Result<GuestVirt> {
        let at = GuestVirt(base.0.wrapping_add_signed(offset.into()));
        self.kernel.read_u64(at).map(GuestVirt)
    }

    /// End of the frame; `None` if it needs a register that nobody saved.
    fn stack_pointer(&self, state: &State, orc: &Orc) -> Result<Option<GuestVirt>> {
        let plus = |base: GuestVirt| GuestVirt(base.0.wrapping_add_signed(orc.sp_offset.into()));
        match orc.sp_reg {
            Reg::Sp => Ok(Some(plus(state.sp))),
            Reg::Bp => Ok(Some(plus(state.bp))),
            Reg::SpIndirect => self.word(state.sp, 0).map(|sp| Some(plus(sp))),
            Reg::BpIndirect => self.word(state.bp, orc.sp_offset).map(Some),
            Reg::Saved(name) => {
                let Some(regs) = state.regs else {
                    return Ok(None);
                };
                let at = regs.offset(offset_of(self.kernel, "struct pt_regs", name)?);
                Ok(Some(plus(GuestVirt(self.kernel.read_u64(at)?))))
            }
            Reg::PrevSp | Reg::Undefined => Ok(None),
        }
    }
}
