//! The owner of the code at an address: the kernel, a module, a BPF program, ..

use serde::Serialize;

use crate::core::module::{self, Modules};
use crate::core::trace::{self, Maker};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::{Missing, Of as _, Result};

/// The owner of a piece of code.
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
    /// Nobody of those that could be read: others could not.
    Unknown,
}

/// All code that somebody has.
pub(super) struct Code {
    /// By their first addresses: first, end, whose.
    areas: Vec<(u64, u64, Owner)>,
    /// True if nothing that may have code could not be read.
    whole: bool,
}

impl Code {
    /// All code; what cannot be read of it is missing.
    pub(super) fn read(
        kernel: &Kernel,
        modules: &Modules,
        missing: &mut Vec<Missing>,
    ) -> Result<Self> {
        let known = missing.len();
        let mut areas = Vec::new();
        for (start, end, owner) in [
            ("_stext", "_etext", Owner::Image),
            ("_sinittext", "_einittext", Owner::Init),
        ] {
            areas.push((kernel.symbol(start)?.0, kernel.symbol(end)?.0, owner));
        }
        for module in modules.iter() {
            let text = module::text(kernel, module.at);
            let text = text.or_miss(missing, || format!("module {}, its code", module.name));
            for (base, size) in text.unwrap_or_default() {
                let name = module.name.clone();
                let owner = match module.listed {
                    true => Owner::Module(name),
                    false => Owner::Unlisted(name),
                };
                areas.push((base.0, base.0.saturating_add(size), owner));
            }
        }
        let made = trace::made_code(kernel).into_items(missing);
        areas.extend(made.into_iter().map(|code| {
            let owner = match code.by {
                Maker::Ftrace { .. } => Owner::Ftrace,
                Maker::Slot | Maker::Optimized => Owner::Kprobe,
                Maker::Bpf => Owner::Bpf(code.name),
            };
            (code.start.0, code.end.0, owner)
        }));
        areas.sort_by_key(|(start, ..)| *start);
        let whole = modules.is_whole() && missing.len() == known;
        Ok(Self { areas, whole })
    }

    pub(super) fn owner(&self, at: GuestVirt) -> Owner {
        let after = self.areas.partition_point(|(start, ..)| *start <= at.0);
        let area = after.checked_sub(1).and_then(|index| self.areas.get(index));
        match area {
            Some((_, end, owner)) if at.0 < *end => owner.clone(),
            _ if self.whole => Owner::Nobody,
            _ => Owner::Unknown,
        }
    }
}
