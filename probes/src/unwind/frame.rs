//! The walk from frame to frame: `unwind_next_frame()` of `arch/x86/kernel/unwind_orc.c`.

use super::TraceEnd;
use super::orc::{Kind, Orc, Reg, Tables};
use crate::Result;
use crate::cell::check_interrupt;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::offset_of;

/// Frames of the deepest stack that is followed.
const FRAME_BOUND: usize = 512;

/// Where a walk begins: registers, saved or of a CPU that stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) ip: GuestVirt,
    pub(super) sp: GuestVirt,
    pub(super) bp: GuestVirt,
    /// Whether `ip` is the instruction itself, not the one after a call.
    pub(super) exact: bool,
}

/// One address of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) ip: GuestVirt,
    pub(super) sp: GuestVirt,
    pub(super) exact: bool,
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
    orc: Tables<'k>,
    regs: Plan<PtRegs>,
    /// Of `pt_regs`: what the CPU itself pushes begins here.
    iret: u64,
    cs: u64,
}

/// The registers of a frame, as far as they are known.
struct State {
    ip: GuestVirt,
    sp: GuestVirt,
    bp: GuestVirt,
    exact: bool,
    /// All registers of the frame, where an interrupt saved them.
    regs: Option<GuestVirt>,
}

impl<'k> Walker<'k> {
    pub(super) fn new(kernel: &'k Kernel) -> Result<Self> {
        Ok(Self {
            kernel,
            orc: Tables::of(kernel)?,
            regs: Plan::new(kernel)?,
            iret: offset_of(kernel, "struct pt_regs", "ip")?,
            cs: offset_of(kernel, "struct pt_regs", "cs")?,
        })
    }

    /// All frames from `start` on, and why there are no more.
    pub(super) fn walk(&self, start: Start) -> (Vec<Step>, TraceEnd) {
        let mut state = State {
            ip: start.ip,
            sp: start.sp,
            bp: start.bp,
            exact: start.exact,
            regs: None,
        };
        let mut steps = Vec::new();
        while steps.len() < FRAME_BOUND {
            check_interrupt();
            steps.push(Step {
                ip: state.ip,
                sp: state.sp,
                exact: state.exact,
            });
            match self.next(&state) {
                Ok(Ok(next)) => state = next,
                Ok(Err(end)) => return (steps, end),
                Err(error) => return (steps, TraceEnd::Lost(error.to_string())),
            }
        }
        let why = format!("more than {FRAME_BOUND} frames");
        (steps, TraceEnd::Lost(why))
    }

    /// The frame that called this one, or why there is none.
    fn next(&self, state: &State) -> Result<Result<State, TraceEnd>> {
        let lost = |why: String| Ok(Err(TraceEnd::Lost(why)));
        // After a call the address may be the next function's.
        let at = if state.exact {
            state.ip
        } else {
            state.ip.back(1)
        };
        let Some(mut orc) = self.orc.find(at)? else {
            return lost(format!("{at} has no ORC entry"));
        };
        // Of the thunks of indirect calls, which one is jumped to or called, ORC says nothing.
        if orc.kind == Kind::Undefined && state.exact && self.begins_here(at)? {
            orc = Orc::CALLED;
        }
        match orc.kind {
            Kind::Undefined => return lost(format!("the ORC entry of {at} says nothing")),
            Kind::End => return Ok(Err(TraceEnd::Start)),
            Kind::Call | Kind::Regs | Kind::RegsPartial => {}
        }
        let Some(sp) = self.stack_pointer(state, &orc)? else {
            return lost(format!(
                "the ORC entry of {at} needs a register that is not known"
            ));
        };
        let mut next = State {
            ip: state.ip,
            sp,
            bp: state.bp,
            exact: orc.signal,
            regs: None,
        };
        match orc.kind {
            Kind::Regs | Kind::RegsPartial => {
                let partial = orc.kind == Kind::RegsPartial;
                let at = if partial { sp.back(self.iret) } else { sp };
                let regs = self.regs.load(at)?;
                let cs = self.kernel.read_u16(at.offset(self.cs))?;
                // Where an entry from user space has just moved them, ORC cannot say where the registers are.
                if cs & 3 == 0 && regs.ip >> 63 == 0 {
                    return lost(format!("there are no registers at {at}"));
                }
                // user_mode(): what the CPU ran was a program. The selector is 16 bits wide, its member was not.
                if cs & 3 != 0 {
                    return Ok(Err(TraceEnd::User));
                }
                (next.ip, next.sp, next.exact) = (GuestVirt(regs.ip), GuestVirt(regs.sp), true);
                if !partial {
                    next.regs = Some(at);
                    next.bp = GuestVirt(regs.bp);
                }
            }
            _ => {
                next.ip = GuestVirt(self.kernel.read_u64(sp.back(8))?);
                if next.ip.is_null() {
                    return Ok(Err(TraceEnd::Start));
                }
                // From the stack of interrupts back to the task's, whose address was kept on the former, it may go down.
                let elsewhere = matches!(orc.sp_reg, Reg::SpIndirect | Reg::BpIndirect);
                if sp <= state.sp && !elsewhere {
                    return lost(format!("the stack does not go on at {sp}"));
                }
            }
        }
        match orc.bp_reg {
            Reg::PrevSp => next.bp = self.word(sp, orc.bp_offset)?,
            Reg::Bp => next.bp = self.word(state.bp, orc.bp_offset)?,
            _ => {}
        }
        Ok(Ok(next))
    }

    /// Whether a function of the kernel begins at an address.
    fn begins_here(&self, at: GuestVirt) -> Result<bool> {
        let symbol = self.kernel.symbols()?.at(at);
        Ok(symbol.is_some_and(|symbol| symbol.offset == 0))
    }

    fn word(&self, base: GuestVirt, offset: i16) -> Result<GuestVirt> {
        let at = GuestVirt(base.0.wrapping_add_signed(offset.into()));
        self.kernel.read_u64(at).map(GuestVirt)
    }

    /// Where the frame ends; `None` if that needs a register that nobody saved.
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
