//! An audit of the places where code is hooked into the kernel.
//!
//! Each pointer to a function there must lead into the text of the kernel's image or of a module that is on the list of
//! modules, or into code that the kernel itself made and knows of (trampolines of ftrace, slots of kprobes, BPF programs).
//! The function must not begin with a detour to anywhere else, and the places that ftrace patches must hold what ftrace
//! says of them. What breaks a rule is a finding; an honest kernel has none.

mod code;
mod entry;
mod points;
mod sites;
mod view;

use code::Code;
pub use code::Owner;
pub use entry::Detour;
use serde::Serialize;

use crate::core::module::Modules;
use crate::guest::Guest;
use crate::kernel::{Function, Functions, Kernel};
use crate::memory::GuestVirt;
use crate::structures::{lacks, settle_all};
use crate::{Error, Missing, Result};

/// A kind of place where code is hooked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum HookPoint {
    /// The interrupt descriptor table.
    Idt,
    /// The table of system calls. Newer kernels call them by a `switch`, and keep the table for tracers.
    Syscall,
    /// Netfilter's hooks, of all protocols, network namespaces and devices.
    Netfilter,
    /// Users of ftrace.
    Ftrace,
    /// Handlers of kprobes.
    Kprobe,
    /// Functions that are called at tracepoints.
    Tracepoint,
    /// Chains of notifiers: for modules, network devices, oopses, panics, reboots, keys.
    Notifier,
    /// Operations by which `/proc` lists processes and sockets.
    Operations,
}

/// A function that is hooked in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hook {
    /// The kind of place.
    pub point: HookPoint,
    /// Name of the place: `vector 14`, `sys_call_table[39]`.
    pub place: String,
    /// The function.
    pub function: Function,
    /// Owner of the code.
    pub owner: Owner,
    /// Target of its first instruction, if that leads away.
    pub detour: Option<Detour>,
}

/// Something that should not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the place.
    pub place: String,
    /// The address that it is about.
    pub at: GuestVirt,
    /// The fault.
    pub why: String,
}

/// Result of an audit: what was checked, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// The functions that are hooked in.
    pub hooks: Vec<Hook>,
    /// Number of ftrace's patch sites that were compared with ftrace's own record of them.
    pub sites: usize,
    /// Number of those that are hooked.
    pub hooked_sites: usize,
    /// Modules that were looked at.
    pub modules: usize,
    /// The faults.
    pub findings: Vec<Finding>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

lacks!(Audit);

/// Checks the places where code is hooked into the kernel: see [`audit`](self). It changes while modules are loaded or
/// tracing is switched: pause the guest for one instant.
pub(crate) fn audit(guest: &Guest) -> Result<Audit> {
    let kernel = guest.kernel()?;
    let modules = guest.modules()?;
    settle_all("the hooks", || read(&kernel, &modules).map(Some))
}

fn read(kernel: &Kernel, modules: &Modules) -> Result<Audit> {
    let functions = Functions::new(kernel);
    let mut missing = modules.missing.clone();
    let code = Code::read(kernel, modules, &mut missing)?;
    let auditor = Auditor {
        kernel,
        functions,
        code,
    };
    let mut audit = Audit {
        hooks: Vec::new(),
        sites: 0,
        hooked_sites: 0,
        modules: modules.len(),
        findings: Vec::new(),
        missing,
    };
    for module in modules.iter().filter(|module| !module.listed) {
        audit.findings.push(Finding {
            place: format!("module {}", module.name),
            at: module.at,
            why: "is loaded, but not on the list of modules".to_owned(),
        });
    }
    for (point, place, at) in points::all(kernel).into_items(&mut audit.missing) {
        let what = format!("{point:?} {place}, which leads to {at}");
        if let Err(error) = auditor.check(&mut audit, point, place, at) {
            audit.missing.push(Missing::new(what, &error));
        }
    }
    sites::check(&auditor, &mut audit)?;
    Ok(audit)
}

/// Tells whose code an address is, and names it.
struct Auditor<'k> {
    kernel: &'k Kernel,
    functions: Functions<'k>,
    code: Code,
}

impl Auditor<'_> {
    /// Notes a hook, and what is wrong with it.
    fn check(
        &self,
        audit: &mut Audit,
        point: HookPoint,
        place: String,
        at: GuestVirt,
    ) -> Result<()> {
        let function = self.functions.at(at)?;
        let owner = self.code.owner(at);
        // Code that lies nowhere, or was freed, has no instructions to look at.
        let detour = match owner {
            Owner::Nobody | Owner::Unknown | Owner::Init => None,
            _ => entry::detour(self, at)?,
        };
        let whose = detour.as_ref().map_or(&owner, |detour| &detour.owner);
        if owner == Owner::Unknown || *whose == Owner::Unknown {
            let what = format!("{point:?} {place}, whose code it leads to");
            audit.missing.push(Missing::new(what, &unknown(&function)));
        }
        if let Some(why) = wrong(point, &function, &owner, detour.as_ref()) {
            let place = place.clone();
            audit.findings.push(Finding { place, at, why });
        }
        audit.hooks.push(Hook {
            point,
            place,
            function,
            owner,
            detour,
        });
        Ok(())
    }
}

/// The error about code whose owner may be among those that could not be read: no verdict.
fn unknown(function: &Function) -> Error {
    Error::Absent(format!(
        "{function} is code of none of those that could be read"
    ))
}

/// A fault of a hook.
fn wrong(
    point: HookPoint,
    function: &Function,
    owner: &Owner,
    detour: Option<&Detour>,
) -> Option<String> {
    match owner {
        Owner::Nobody => {
            return Some(format!(
                "leads to {function}, which is code of nobody that the kernel knows"
            ));
        }
        Owner::Unlisted(module) => {
            return Some(format!(
                "leads to {function}, in the module {module}, which is not on the list of modules"
            ));
        }
        // The kernel fills the table before it frees that code, and vectors that cannot come keep what they had then.
        Owner::Init if point != HookPoint::Idt => {
            return Some(format!(
                "leads to {function}, code that was freed after the boot"
            ));
        }
        _ => {}
    }
    let name = function.name.as_deref().unwrap_or_default();
    if point == HookPoint::Syscall && (function.offset != 0 || !name.contains("sys_")) {
        return Some(format!("leads to {function}, which is no system call"));
    }
    let detour = detour.filter(|detour| detour.owner == Owner::Nobody)?;
    Some(match &detour.target {
        Some(target) => format!(
            "leads to {function}, which begins with a {} to {target}",
            detour.how
        ),
        None => format!(
            "leads to {function}, which begins with a {} that nobody has set",
            detour.how
        ),
    })
}
