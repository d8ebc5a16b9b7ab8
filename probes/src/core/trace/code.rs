//! Code that the kernel made while it ran: what ftrace calls its users by, the slots of kprobes, compiled BPF programs
//! (`ftrace_ops_trampoline()`, `kernel/kprobes.c`, `kernel/bpf/core.c`). `/proc/kallsyms` has it after the modules.

use super::BOUND;
use crate::kernel::{Kernel, SymbolAt};
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::{chain, enumerator, offset_of, settle_all, whole_list};
use crate::{Listing, Of as _, Result};

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

/// All code that the kernel made while it ran, by where it begins. A list that is damaged hides neither the others nor what
/// stands before the damage.
pub(crate) fn made_code(kernel: &Kernel) -> Listing<MadeCode> {
    type Made = fn(&Kernel) -> Result<Listing<MadeCode>>;
    let kinds: [(&str, Made); 3] = [
        ("the trampolines of ftrace", trampolines),
        ("the slots of kprobes", slots),
        ("the list of compiled BPF programs", programs),
    ];
    let mut all = Listing::new();
    for (what, read) in kinds {
        match settle_all(what, || read(kernel).map(Some)) {
            Ok(some) => all.append(some),
            Err(error) => all.miss(what, &error),
        }
    }
    all.sort_by_key(|code| code.start);
    all
}

/// The trampolines of ftrace's users: of those that hook functions, and of all that the kernel lists for `/proc/kallsyms`.
fn trampolines(kernel: &Kernel) -> Result<Listing<MadeCode>> {
    let symbols = kernel.symbols()?;
    let (Some(first), Some(end)) = (
        symbols.lookup("ftrace_ops_list"),
        symbols.lookup("ftrace_list_end"),
    ) else {
        return Ok(Listing::new());
    };
    let c = "struct ftrace_ops";
    // A kernel without CONFIG_DYNAMIC_FTRACE has no trampolines.
    let Ok(plan) = Plan::<Ops>::new(kernel) else {
        return Ok(Listing::new());
    };
    let next = offset_of(kernel, c, "next")?;
    let mut users = match kernel.read_u64(first) {
        Ok(first) => {
            let hooked = chain(kernel, GuestVirt(first), next).until(end);
            Listing::walk("ftrace_ops_list", hooked)
        }
        Err(error) => {
            let mut none = Listing::new();
            none.miss("ftrace_ops_list", &error);
            none
        }
    };
    if let Some(head) = symbols.lookup("ftrace_ops_trampoline_list") {
        let list = offset_of(kernel, c, "list")?;
        let what = "ftrace_ops_trampoline_list";
        users.append(whole_list(kernel, head, list, BOUND, what));
    }
    users.items.sort_unstable();
    users.items.dedup();
    // FTRACE_OPS_FL_SAVE_REGS of include/linux/ftrace.h, for kernels whose BTF lost the enumeration.
    let save = enumerator(kernel, "FTRACE_OPS_FL_SAVE_REGS")?.unwrap_or(1 << 2);
    let mut made = Listing::new();
    for at in users.into_items(&mut made.missing) {
        let ops = plan.load(at);
        let Some(ops) = ops.or_miss(&mut made.missing, || format!("the ftrace_ops at {at}")) else {
            continue;
        };
        // Users without one of their own are called by the kernel's.
        if !ops.trampoline.is_null() && ops.trampoline_size > 0 {
            let regs = ops.flags & save.cast_unsigned() != 0;
            made.items.push(MadeCode::new(
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
fn slots(kernel: &Kernel) -> Result<Listing<MadeCode>> {
    let mut made = Listing::new();
    for (cache, name, by) in [
        ("kprobe_insn_slots", "kprobe_insn_page", Maker::Slot),
        (
            "kprobe_optinsn_slots",
            "kprobe_optinsn_page",
            Maker::Optimized,
        ),
    ] {
        let Some(at) = kernel.symbols()?.lookup(cache) else {
            continue;
        };
        let head = at.offset(offset_of(kernel, "struct kprobe_insn_cache", "pages")?);
        let c = "struct kprobe_insn_page";
        let insns = offset_of(kernel, c, "insns")?;
        let pages = whole_list(kernel, head, offset_of(kernel, c, "list")?, BOUND, cache);
        for page in pages.into_items(&mut made.missing) {
            let code = kernel.read_u64(page.offset(insns));
            let code = code.map(|at| MadeCode::new(GuestVirt(at), PAGE_SIZE, name, by));
            made.take(code, || format!("the {name} at {page}"));
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
fn programs(kernel: &Kernel) -> Result<Listing<MadeCode>> {
    let Some(head) = kernel.symbols()?.lookup("bpf_kallsyms") else {
        return Ok(Listing::new());
    };
    let c = "struct bpf_ksym";
    let plan = Plan::<BpfKsym>::new(kernel)?;
    let mut made = Listing::new();
    let list = offset_of(kernel, c, "lnode")?;
    let symbols = whole_list(kernel, head, list, BOUND, "bpf_kallsyms");
    for at in symbols.into_items(&mut made.missing) {
        let code = plan.load(at).map(|ksym| {
            let len = ksym.end.saturating_sub(ksym.start);
            MadeCode::new(GuestVirt(ksym.start), len, &ksym.name.to_str(), Maker::Bpf)
        });
        made.take(code, || format!("the bpf_ksym at {at}"));
    }
    Ok(made)
}
