//! Loadable modules (`include/linux/module.h`).

mod details;
mod unlisted;
mod users;
mod view;

pub(crate) use details::module;

pub(crate) use details::text;
pub use details::{ModuleArea, ModuleDetails, ModuleParameter, ModuleSection};
pub use users::ModuleUser;

use std::collections::HashSet;

use serde::Serialize;

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::{array, offset_of, settle_all, whole_list};
use crate::{Error, Listing, Of as _, Result};

/// Modules that a kernel may have loaded, as far as we read.
const MODULE_BOUND: usize = 1 << 16;

/// The letters of `taint_flags[]` in `kernel/panic.c`, from bit 0.
const TAINTS: &str = "PFSRMBUDAWCIOELKXTNJ";

/// State of a module: `enum module_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ModuleState {
    /// Works.
    Live,
    /// Initialises itself.
    Coming,
    /// Is being removed.
    Going,
    /// Is being set up by the loader; `/proc/modules` hides it.
    Unformed,
}

/// A loaded module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Module {
    /// Address of its `struct module`.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: ModuleState,
    /// Address of its code.
    pub base: GuestVirt,
    /// Bytes of all its memory.
    pub size: u64,
    /// Number of references to it, the module's own not counted.
    pub refcnt: i32,
    /// Taints that it brings, in the kernel's letters.
    pub taints: String,
    /// True if it is on the list of modules. One that is not, but is among the module objects of sysfs or in the tree
    /// of module memory, was hidden by somebody, or is being loaded or removed just now.
    pub listed: bool,
}

/// Modules, the last loaded first, those that are not on the list last.
pub type Modules = Listing<Module>;

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct module")]
struct Raw {
    state: u32,
    name: FixedStr<56>,
    taints: u64,
    /// Absent without CONFIG_MODULE_UNLOAD.
    #[mirror(member = "refcnt.counter")]
    refcnt: Option<i32>,
    /// Kernels before 6.4: one layout for all but the parts that only initialisation needs.
    #[mirror(member = "core_layout.base")]
    core_base: Option<GuestVirt>,
    #[mirror(member = "core_layout.size")]
    core_size: Option<u32>,
    #[mirror(member = "init_layout.size")]
    init_size: Option<u32>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct module_memory")]
struct Memory {
    base: GuestVirt,
    size: u32,
}

/// The modules that are loaded: those of `/proc/modules`, and those that are hidden from it.
pub(crate) fn modules(kernel: &Kernel) -> Result<Modules> {
    settle_all("the module list", || read(kernel))
}

/// `None` if a module changed under the walk.
fn read(kernel: &Kernel) -> Result<Option<Modules>> {
    let head = kernel.symbol("modules")?;
    let list = offset_of(kernel, "struct module", "list")?;
    let plan = Plan::<Raw>::new(kernel)?;
    let mut nodes = whole_list(kernel, head, list, MODULE_BOUND, "the list of modules");
    let count = nodes.len();
    // Modules behind a broken link are found by the other places, and are not hidden then.
    let whole = nodes.is_whole();
    nodes.append(unlisted::find(kernel, &nodes));
    let listed: HashSet<GuestVirt> = nodes.iter().take(count).copied().collect();
    let name = |at| format!("the module at {at}");
    Ok(Listing::each(nodes, name, |at| {
        let raw = plan.load(at)?;
        let listed = listed.contains(&at) || !whole;
        let module = one(kernel, at, &raw, listed).of(|| raw.name.to_str().into_owned())?;
        Ok((plan.load(at)? == raw).then_some(module))
    }))
}

fn one(kernel: &Kernel, at: GuestVirt, raw: &Raw, listed: bool) -> Result<Module> {
    let (base, size) = memory(kernel, at, raw)?;
    let state = match raw.state {
        0 => ModuleState::Live,
        1 => ModuleState::Coming,
        2 => ModuleState::Going,
        3 => ModuleState::Unformed,
        other => {
            let why = format!("its state is {other}");
            return Err(Error::Broken {
                what: "module",
                at,
                why,
            });
        }
    };
    Ok(Module {
        at,
        name: raw.name.to_str().into_owned(),
        state,
        base,
        size,
        // MODULE_REF_BASE is 1.
        refcnt: raw.refcnt.unwrap_or(1).wrapping_sub(1),
        taints: TAINTS
            .chars()
            .enumerate()
            .filter(|(bit, _)| raw.taints >> bit & 1 == 1)
            .map(|(_, c)| c)
            .collect(),
        listed,
    })
}

/// Reads the start of the module's code, and the size of all its memory in bytes: `module_total_size()`.
fn memory(kernel: &Kernel, at: GuestVirt, raw: &Raw) -> Result<(GuestVirt, u64)> {
    if let (Some(base), Some(core)) = (raw.core_base, raw.core_size) {
        return Ok((
            base,
            u64::from(core) + u64::from(raw.init_size.unwrap_or(0)),
        ));
    }
    // MOD_TEXT is 0, the first of the regions.
    let (mem, count, stride) = array(kernel, "struct module", "mem")?;
    let plan = Plan::<Memory>::new(kernel)?;
    let mut total = 0u64;
    let mut base = GuestVirt(0);
    for i in 0..count as u64 {
        let memory = plan.load(at.offset(mem + stride * i))?;
        total += u64::from(memory.size);
        if i == 0 {
            base = memory.base;
        }
    }
    Ok((base, total))
}
