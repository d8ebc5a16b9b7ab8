//! The ORC tables, in the kernel's own memory: how each instruction's frame is left (`arch/x86/kernel/unwind_orc.c`,
//! `arch/x86/include/asm/orc_types.h`, `Documentation/arch/x86/orc-unwinder.rst`).

use crate::core::trace::{self, MadeCode, Maker};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{list_for_each_entry, offset_of};
use crate::{Error, Missing, Result};

/// Entries of one table that are believed: vmlinux has about a million.
const ENTRY_BOUND: u64 = 1 << 24;
/// Modules that are looked at.
const MODULE_BOUND: usize = 1 << 16;

/// Kind of what lies where the frame before this one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing is known of this code.
    Undefined,
    /// The first frame of a stack.
    End,
    /// A return address.
    Call,
    /// All registers: a `pt_regs`.
    Regs,
    /// The part of a `pt_regs` that the CPU pushed.
    RegsPartial,
}

/// Base from which a frame's end, or its caller's `bp`, is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reg {
    /// Nothing: it is as it was, or not known.
    Undefined,
    /// The frame's end.
    PrevSp,
    Sp,
    Bp,
    /// The word that the stack pointer leads to.
    SpIndirect,
    /// The word that `bp` leads to.
    BpIndirect,
    /// A register that only an interrupt saves: its member of `pt_regs`.
    Saved(&'static str),
}

/// The numbers of the registers, [`ORC_REG_*`](Reg) from 0 on: they were given anew after 6.12.
type Numbers = [Reg; 11];

const OLD: Numbers = [
    Reg::Undefined,
    Reg::PrevSp,
    Reg::Saved("dx"),
    Reg::Saved("di"),
    Reg::Bp,
    Reg::Sp,
    Reg::Saved("r10"),
    Reg::Saved("r13"),
    Reg::BpIndirect,
    Reg::SpIndirect,
    Reg::Undefined,
];

const NEW: Numbers = [
    Reg::Undefined,
    Reg::Saved("ax"),
    Reg::Saved("dx"),
    Reg::Sp,
    Reg::Bp,
    Reg::Saved("di"),
    Reg::Saved("r10"),
    Reg::Saved("r13"),
    Reg::PrevSp,
    Reg::SpIndirect,
    Reg::BpIndirect,
];

/// An `orc_entry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orc {
    pub(super) sp_offset: i16,
    pub(super) bp_offset: i16,
    pub(super) sp_reg: Reg,
    pub(super) bp_reg: Reg,
    pub(super) kind: Kind,
    pub(super) signal: bool,
}

impl Orc {
    /// State at the first instruction of any function that was called: nothing lies on the stack yet but the return
    /// address.
    pub(super) const CALLED: Self = Self {
        sp_offset: 8,
        bp_offset: 0,
        sp_reg: Reg::Sp,
        bp_reg: Reg::Undefined,
        kind: Kind::Call,
        signal: false,
    };
    /// State in code that keeps a frame pointer: `orc_fp_entry`.
    const FRAME_POINTER: Self = Self {
        sp_offset: 16,
        bp_offset: -16,
        sp_reg: Reg::Bp,
        bp_reg: Reg::PrevSp,
        kind: Kind::Call,
        signal: false,
    };
    /// State when the caller's frame pointer was pushed, and nothing else yet.
    const PUSHED: Self = Self {
        sp_reg: Reg::Sp,
        ..Self::FRAME_POINTER
    };
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct orc_entry")]
struct Raw {
    sp_offset: i16,
    bp_offset: i16,
    sp_reg: u8,
    bp_reg: u8,
    #[mirror(member = "type")]
    kind: u8,
    signal: Option<u8>,
    /// Older kernels have this bit, and no types for what it says.
    end: Option<u8>,
}

impl Raw {
    fn decode(&self, numbers: &Numbers) -> Orc {
        let reg = |number: u8| {
            let reg = numbers.get(usize::from(number));
            reg.copied().unwrap_or(Reg::Undefined)
        };
        let kind = match (self.end, self.kind) {
            (Some(0), 0) | (None, 2) => Kind::Call,
            (Some(0), 1) | (None, 3) => Kind::Regs,
            (Some(0), 2) | (None, 4) => Kind::RegsPartial,
            (Some(1), _) | (None, 1) => Kind::End,
            _ => Kind::Undefined,
        };
        // ORC_REG_UNDEFINED of code that nobody annotated.
        let kind = if self.sp_reg == 0 && kind != Kind::End {
            Kind::Undefined
        } else {
            kind
        };
        Orc {
            sp_offset: self.sp_offset,
            bp_offset: self.bp_offset,
            sp_reg: reg(self.sp_reg),
            bp_reg: reg(self.bp_reg),
            kind,
            signal: self.signal.unwrap_or(0) != 0,
        }
    }
}

/// One table: addresses that ascend, as distances from where they lie, and an entry for each.
#[derive(Debug, Clone, Copy)]
struct Table {
    ips: GuestVirt,
    entries: GuestVirt,
    count: u64,
    first: GuestVirt,
    last: GuestVirt,
}

impl Table {
    fn new(
        kernel: &Kernel,
        ips: GuestVirt,
        entries: GuestVirt,
        count: u64,
    ) -> Result<Option<Self>> {
        if count == 0 || ips.is_null() {
            return Ok(None);
        }
        if count > ENTRY_BOUND {
            return Err(Error::Broken {
                what: "ORC table",
                at: ips,
                why: format!("it has {count} entries"),
            });
        }
        let (first, last) = (ip(kernel, ips, 0)?, ip(kernel, ips, count - 1)?);
        Ok(Some(Self {
            ips,
            entries,
            count,
            first,
            last,
        }))
    }
}

/// `orc_ip()`
fn ip(kernel: &Kernel, ips: GuestVirt, index: u64) -> Result<GuestVirt> {
    let at = ips.offset(4 * index);
    let distance = i64::from(kernel.read_u32(at)?.cast_signed());
    Ok(GuestVirt(at.0.wrapping_add_signed(distance)))
}

/// All ORC tables of a kernel: its own and its modules', and the code that it made while it ran.
pub(super) struct Tables<'k> {
    kernel: &'k Kernel,
    tables: Vec<Table>,
    made: Vec<MadeCode>,
    /// `ftrace_caller` and `ftrace_regs_caller`, of which trampolines are copies.
    callers: [Option<GuestVirt>; 2],
    entry: Plan<Raw>,
    numbers: &'static Numbers,
    /// Tables that could not be read: frames there end a trace.
    pub(super) missing: Vec<Missing>,
}

/// Bytes at a function's beginning in which it sets up its frame pointer: `push %rbp; mov %rsp, %rbp`.
const PROLOGUE: ([u8; 4], usize) = ([0x55, 0x48, 0x89, 0xe5], 48);
/// `leave`, behind which the frame pointer is the caller's again.
const LEAVE: u8 = 0xc9;

impl<'k> Tables<'k> {
    /// # Errors
    /// When the kernel was built without CONFIG_UNWINDER_ORC.
    pub(super) fn of(kernel: &'k Kernel) -> Result<Self> {
        let symbol = |name| kernel.symbol(name);
        let start = symbol("__start_orc_unwind_ip")?;
        let bytes = symbol("__stop_orc_unwind_ip")?.0.wrapping_sub(start.0);
        let entries = symbol("__start_orc_unwind")?;
        let mut tables = Vec::from_iter(Table::new(kernel, start, entries, bytes / 4)?);
        let mut missing = Vec::new();
        modules(kernel, &mut tables, &mut missing);
        let made = trace::made_code(kernel).into_items(&mut missing);
        let symbols = kernel.symbols()?;
        let mut this = Self {
            kernel,
            tables,
            made,
            callers: ["ftrace_caller", "ftrace_regs_caller"].map(|name| symbols.lookup(name)),
            entry: Plan::new(kernel)?,
            numbers: &OLD,
            missing,
        };
        // Where a function begins, the return address is all of its frame.
        let begin = symbol("schedule")?;
        this.numbers = match this.raw(begin)? {
            Some(raw) if raw.sp_offset == 8 && raw.sp_reg == 3 => &NEW,
            Some(raw) if raw.sp_offset == 8 && raw.sp_reg == 5 => &OLD,
            raw => {
                return Err(Error::Broken {
                    what: "ORC table",
                    at: begin,
                    why: format!("its entry where `schedule` begins is {raw:?}"),
                });
            }
        };
        Ok(this)
    }

    /// `orc_find()`: the entry at or before an address; `None` for code without ORC.
    pub(super) fn find(&self, at: GuestVirt) -> Result<Option<Orc>> {
        if let Some(raw) = self.raw(at)? {
            return Ok(Some(raw.decode(self.numbers)));
        }
        let Some(code) = self.made(at) else {
            return Ok(None);
        };
        let into = at.0 - code.start.0;
        match code.by {
            // orc_ftrace_find(): a copy has the entries of what it was copied from.
            Maker::Ftrace { regs } => {
                let Some(caller) = self.callers[usize::from(regs)] else {
                    return Ok(None);
                };
                let raw = self.raw(caller.offset(into))?;
                Ok(raw.map(|raw| raw.decode(self.numbers)))
            }
            Maker::Bpf => self.compiled(code, into).map(Some),
            Maker::Slot | Maker::Optimized => Ok(None),
        }
    }

    /// The code that an address is in, of what the kernel made while it ran.
    pub(super) fn made(&self, at: GuestVirt) -> Option<&MadeCode> {
        let after = self.made.partition_point(|code| code.start <= at);
        let code = self.made.get(after.checked_sub(1)?)?;
        code.holds(at).then_some(code)
    }

    /// The frame of a compiled program, so many bytes into it.
    fn compiled(&self, code: &MadeCode, into: u64) -> Result<Orc> {
        let (prologue, most) = PROLOGUE;
        let len = (code.end.0 - code.start.0).min(most as u64) as usize;
        let mut bytes = [0; PROLOGUE.1];
        let head = &mut bytes[..len];
        self.kernel.read(code.start, head)?;
        let set = head.windows(4).position(|window| window == prologue);
        let orc = match set.map(|at| at as u64) {
            Some(push) if into <= push => Orc::CALLED,
            Some(push) if into < push + 4 => Orc::PUSHED,
            _ if into > 0 && self.kernel.read_u8(code.start.offset(into - 1))? == LEAVE => {
                match self.kernel.read_u8(code.start.offset(into))? {
                    // A return, or a jump to what returns.
                    0xc3 | 0xe9 => Orc::CALLED,
                    _ => Orc::FRAME_POINTER,
                }
            }
            _ => Orc::FRAME_POINTER,
        };
        Ok(orc)
    }

    fn raw(&self, at: GuestVirt) -> Result<Option<Raw>> {
        // A module's table spans what lies between its parts: of several tables, the one with the nearest address is meant.
        let mut nearest: Option<(GuestVirt, GuestVirt)> = None;
        for table in self.tables.iter().filter(|t| t.first <= at && at <= t.last) {
            let (mut low, mut high) = (0, table.count);
            // Its first address is at or before `at`.
            while high - low > 1 {
                let middle = low.midpoint(high);
                if ip(self.kernel, table.ips, middle)? <= at {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            let from = ip(self.kernel, table.ips, low)?;
            if nearest.is_none_or(|(other, _)| other < from) {
                nearest = Some((from, table.entries.offset(low * self.entry.size())));
            }
        }
        match nearest {
            Some((_, entry)) => self.entry.load(entry).map(Some),
            None => Ok(None),
        }
    }
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct module")]
struct Module {
    #[mirror(member = "arch.num_orcs")]
    num_orcs: u32,
    #[mirror(member = "arch.orc_unwind_ip")]
    ips: GuestVirt,
    #[mirror(member = "arch.orc_unwind")]
    entries: GuestVirt,
}

/// Adds the tables of the modules. A module whose table cannot be read is missing alone.
fn modules(kernel: &Kernel, tables: &mut Vec<Table>, missing: &mut Vec<Missing>) {
    let Ok(Some(head)) = kernel.symbols().map(|symbols| symbols.lookup("modules")) else {
        return;
    };
    let mut add = || -> Result<()> {
        let list = offset_of(kernel, "struct module", "list")?;
        for at in list_for_each_entry(kernel, head, list).bound(MODULE_BOUND) {
            let at = at?;
            let table = kernel
                .load::<Module>(at)
                .and_then(|raw| Table::new(kernel, raw.ips, raw.entries, raw.num_orcs.into()));
            match table {
                Ok(table) => tables.extend(table),
                Err(error) => {
                    let what = format!("the ORC table of the module at {at}");
                    missing.push(Missing::new(what, &error));
                }
            }
        }
        Ok(())
    };
    if let Err(error) = add() {
        missing.push(Missing::new("the ORC tables of modules", &error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(kind: u8, end: Option<u8>, sp_reg: u8) -> Kind {
        let raw = Raw {
            sp_offset: 8,
            bp_offset: 0,
            sp_reg,
            bp_reg: 0,
            kind,
            signal: None,
            end,
        };
        raw.decode(&OLD).kind
    }

    #[test]
    fn both_encodings_of_the_type_are_known() {
        use Kind::{Call, End, Regs, RegsPartial, Undefined};
        assert_eq!(
            [0, 1, 2].map(|k| kind(k, Some(0), 5)),
            [Call, Regs, RegsPartial]
        );
        assert_eq!(kind(0, Some(1), 5), End);
        let new = [0, 1, 2, 3, 4].map(|k| kind(k, None, 5));
        assert_eq!(new, [Undefined, End, Call, Regs, RegsPartial]);
        assert_eq!(kind(2, None, 0), Undefined);
    }

    #[test]
    fn both_numberings_of_the_registers_have_each_once() {
        for (numbers, sp, prev_sp) in [(OLD, 5, 1), (NEW, 3, 8)] {
            assert_eq!((numbers[sp], numbers[prev_sp]), (Reg::Sp, Reg::PrevSp));
            for reg in [Reg::Bp, Reg::SpIndirect, Reg::BpIndirect] {
                assert_eq!(numbers.iter().filter(|&&r| r == reg).count(), 1);
            }
        }
    }
}
