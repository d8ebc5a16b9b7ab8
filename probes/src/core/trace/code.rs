//! Code that the kernel made while it ran: what ftrace calls its users by, the slots of kprobes, compiled BPF programs
//! (`ftrace_ops_trampoline()`, `kernel/kprobes.c`, `kernel/bpf/core.c`). `/proc/kallsyms` has it after the modules.

use super::BOUND;
use crate::Result;
use crate::kernel::{Kernel, SymbolAt};
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::{chain, checked_list, enumerator, offset_of};

/// Origin of a piece of code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    /// ftrace: a copy of `ftrace_regs_caller` or of `ftrace_caller` that calls one user.
    Ftrace { regs: bool },
    /// Kprobes: instructions that a probe has displaced.
    Slot,
    /// Kprobes: what the jump of an optimized probe leads to.
    Optimized,
    /// BPF: a program, a trampoline, a dispatcher.
    Bpf,
}

/// A piece of code that was made while the kernel ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MadeCode {
    /// Its first byte.
    pub(crate) start: GuestVirt,
    /// The byte after its last.
    pub(crate) end: GuestVirt,
    /// As `/proc/kallsyms` names it.
    pub(crate) name: String,
    /// Its origin.
    pub(crate) by: Maker,
}

impl MadeCode {
    fn new(start: GuestVirt, len: u64, name: &str, by: Maker) -> Self {
        Self {
            start,
            end: GuestVirt(start.0.saturating_add(len)),
            name: name.to_owned(),
            by,
        }
    }

    /// Tells whether an address is in it.
    pub(crate) fn holds(&self, at: GuestVirt) -> bool {
        self.start <= at && at < self.end
    }

    /// An address in it, as that of a symbol.
    pub(crate) fn symbol(&self, at: GuestVirt) -> SymbolAt {
        SymbolAt {
            name: self.name.clone(),
            offset: at.0.wrapping_sub(self.start.0),
            module: Some(self.group().to_owned()),
        }
    }

    /// Name in `/proc/kallsyms` in place of a module's.
    pub(crate) const fn group(&self) -> &'static str {
        match self.by {
            Maker::Ftrace { .. } => "__builtin__ftrace",
            Maker::Slot | Maker::Optimized => "__builtin__kprobes",
            Maker::Bpf => "bpf",
        }
    }
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct ftrace_ops")]
struct Ops {
    flags: u64,
    trampoline: GuestVirt,
    trampoline_size: u64,
}

/// The trampolines of ftrace's users: of those that hook functions, and of all that the kernel lists for `/proc/kallsyms`.
pub(crate) fn trampolines(kernel: &Kernel) -> Result<Vec<MadeCode>> {
    let symbols = kernel.symbols()?;
    let (Some(first), Some(end)) = (
        symbols.lookup("ftrace_ops_list"),
        symbols.lookup("ftrace_list_end"),
    ) else {
        return Ok(Vec::new());
    };
    let c = "struct ftrace_ops";
    // A kernel without CONFIG_DYNAMIC_FTRACE has no trampolines.
    let Ok(plan) = Plan::<Ops>::new(kernel) else {
        return Ok(Vec::new());
    };
    let first = GuestVirt(kernel.read_u64(first)?);
    let hooked = chain(kernel, first, offset_of(kernel, c, "next")?).until(end);
    let mut all = hooked.collect::<Result<Vec<_>>>()?;
    if let Some(head) = symbols.lookup("ftrace_ops_trampoline_list") {
        all.extend(checked_list(
            kernel,
            head,
            offset_of(kernel, c, "list")?,
            BOUND,
        )?);
    }
    all.sort_unstable();
    all.dedup();
    // FTRACE_OPS_FL_SAVE_REGS of include/linux/ftrace.h, for kernels whose BTF lost the enumeration.
    let save = enumerator(kernel, "FTRACE_OPS_FL_SAVE_REGS")?.unwrap_or(1 << 2);
    let mut made = Vec::new();
    for at in all {
        let ops = plan.load(at)?;
        // Users without one of their own are called by the kernel's.
        if !ops.trampoline.is_null() && ops.trampoline_size > 0 {
            let regs = ops.flags & save.cast_unsigned() != 0;
            made.push(MadeCode::new(
                ops.trampoline,
                ops.trampoline_size,
                "ftrace_trampoline",
                Maker::Ftrace { regs },
            ));
        }
    }
    Ok(made)
}

/// The pages that probes keep displaced instructions in, and what a jump to a probe leads to.
pub(crate) fn slots(kernel: &Kernel) -> Result<Vec<MadeCode>> {
    let mut made = Vec::new();
    for (cache, name, by) in [
        ("kprobe_insn_slots", "kprobe_insn_page", Maker::Slot),
        (
            "kprobe_optinsn_slots",
            "kprobe_optinsn_page",
            Maker::Optimized,
        ),
    ] {
        let Some(cache) = kernel.symbols()?.lookup(cache) else {
            continue;
        };
        let head = cache.offset(offset_of(kernel, "struct kprobe_insn_cache", "pages")?);
        let c = "struct kprobe_insn_page";
        let insns = offset_of(kernel, c, "insns")?;
        for page in checked_list(kernel, head, offset_of(kernel, c, "list")?, BOUND)? {
            let at = GuestVirt(kernel.read_u64(page.offset(insns))?);
            made.push(MadeCode::new(at, PAGE_SIZE, name, by));
        }
    }
    Ok(made)
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct bpf_ksym")]
struct BpfKsym {
    start: u64,
    end: u64,
    name: FixedStr<512>,
}

/// BPF programs, trampolines and dispatchers.
pub(crate) fn programs(kernel: &Kernel) -> Result<Vec<MadeCode>> {
    let Some(head) = kernel.symbols()?.lookup("bpf_kallsyms") else {
        return Ok(Vec::new());
    };
    let c = "struct bpf_ksym";
    let plan = Plan::<BpfKsym>::new(kernel)?;
    let mut made = Vec::new();
    for at in checked_list(kernel, head, offset_of(kernel, c, "lnode")?, BOUND)? {
        let ksym = plan.load(at)?;
        let len = ksym.end.saturating_sub(ksym.start);
        let name = ksym.name.to_str();
        made.push(MadeCode::new(GuestVirt(ksym.start), len, &name, Maker::Bpf));
    }
    Ok(made)
}
