//! Whose code an address is.

use serde::Serialize;

use crate::Result;
use crate::kernel::{Functions, Kernel};
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::module::{self, Modules};
use crate::object::{Mirror, Object};
use crate::structures::{checked_list, offset_of};
use crate::trace;

/// Pieces of code that are read at most, of each kind.
const BOUND: usize = 1 << 16;

/// Whose code something is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum Owner {
    /// The kernel's image.
    Image,
    /// The part of the image that is freed after the boot.
    Init,
    /// A module.
    Module(String),
    /// A module that is not on the list of modules.
    Unlisted(String),
    /// ftrace: code that calls a user of it.
    Ftrace,
    /// Kprobes: instructions that a probe has displaced.
    Kprobe,
    /// A BPF program, or code around one, by name.
    Bpf(String),
    /// Nobody that the kernel knows of.
    Nobody,
}

/// All code that somebody has.
pub(super) struct Code {
    /// By their first addresses: first, end, whose.
    areas: Vec<(u64, u64, Owner)>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct bpf_ksym")]
struct BpfKsym {
    start: u64,
    end: u64,
}

impl Code {
    pub(super) fn read(kernel: &Kernel, modules: &Modules) -> Result<Self> {
        let mut areas = Vec::new();
        for (start, end, owner) in [
            ("_stext", "_etext", Owner::Image),
            ("_sinittext", "_einittext", Owner::Init),
        ] {
            areas.push((kernel.symbol(start)?.0, kernel.symbol(end)?.0, owner));
        }
        for module in modules.iter() {
            for (base, size) in module::text(kernel, module.at)? {
                let name = module.name.clone();
                let owner = match module.listed {
                    true => Owner::Module(name),
                    false => Owner::Unlisted(name),
                };
                areas.push((base.0, base.0.saturating_add(size), owner));
            }
        }
        areas.extend(trampolines(kernel)?);
        areas.extend(slots(kernel)?);
        areas.extend(programs(kernel)?);
        areas.sort_by_key(|(start, ..)| *start);
        Ok(Self { areas })
    }

    pub(super) fn owner(&self, at: GuestVirt) -> Owner {
        let after = self.areas.partition_point(|(start, ..)| *start <= at.0);
        let area = after.checked_sub(1).and_then(|index| self.areas.get(index));
        match area {
            Some((_, end, owner)) if at.0 < *end => owner.clone(),
            _ => Owner::Nobody,
        }
    }
}

/// The trampolines of ftrace's users: of those that hook functions, and of all that the kernel lists for `/proc/kallsyms`.
fn trampolines(kernel: &Kernel) -> Result<Vec<(u64, u64, Owner)>> {
    let mut areas = Vec::new();
    let mut add = |at: GuestVirt, size: u64| {
        areas.push((at.0, at.0.saturating_add(size), Owner::Ftrace));
    };
    for ops in trace::ops(kernel, &Functions::new(kernel))? {
        if let Some(at) = ops.trampoline {
            add(at, ops.trampoline_size);
        }
    }
    if let Some(head) = kernel.symbols()?.lookup("ftrace_ops_trampoline_list") {
        let c = "struct ftrace_ops";
        for at in checked_list(kernel, head, offset_of(kernel, c, "list")?, BOUND)? {
            let ops = Object::at(kernel, c, at)?;
            let size = ops.member("trampoline_size")?.u64()?;
            add(ops.member("trampoline")?.pointer()?, size);
        }
    }
    Ok(areas)
}

/// The pages that probes keep displaced instructions in, and what a jump to a probe leads to.
fn slots(kernel: &Kernel) -> Result<Vec<(u64, u64, Owner)>> {
    let mut areas = Vec::new();
    for cache in ["kprobe_insn_slots", "kprobe_optinsn_slots"] {
        let Some(cache) = kernel.symbols()?.lookup(cache) else {
            continue;
        };
        let head = cache.offset(offset_of(kernel, "struct kprobe_insn_cache", "pages")?);
        let c = "struct kprobe_insn_page";
        let insns = offset_of(kernel, c, "insns")?;
        for page in checked_list(kernel, head, offset_of(kernel, c, "list")?, BOUND)? {
            let at = kernel.read_u64(page.offset(insns))?;
            areas.push((at, at.saturating_add(PAGE_SIZE), Owner::Kprobe));
        }
    }
    Ok(areas)
}

/// BPF programs, trampolines and dispatchers.
fn programs(kernel: &Kernel) -> Result<Vec<(u64, u64, Owner)>> {
    let mut areas = Vec::new();
    let Some(head) = kernel.symbols()?.lookup("bpf_kallsyms") else {
        return Ok(areas);
    };
    let c = "struct bpf_ksym";
    for at in checked_list(kernel, head, offset_of(kernel, c, "lnode")?, BOUND)? {
        let ksym: BpfKsym = kernel.load(at)?;
        let name = Object::at(kernel, c, at)?.member("name")?.string()?;
        areas.push((ksym.start, ksym.end, Owner::Bpf(name)));
    }
    Ok(areas)
}
