//! Areas of the vmalloc space: `struct vmap_area` and `struct vm_struct` (`include/linux/vmalloc.h`, `mm/vmalloc.c`).

mod view;

use serde::Serialize;

use crate::kernel::{Kernel, ModuleSymbols, SymbolAt};
use crate::memory::{GuestPhys, GuestVirt};
use crate::object::{Mirror, Plan};
use crate::structures::{offset_of, settle_all, whole_list};
use crate::{Error, Listing, Of as _, Result, Span};

/// Areas that a kernel may have, as far as we read.
const AREA_BOUND: usize = 1 << 20;
/// Nodes that share the areas among them since 6.9: `nr_vmap_nodes` is at most 128.
const NODE_BOUND: u32 = 1024;

/// `VM_*` of `include/linux/vmalloc.h`, by the words of `/proc/vmallocinfo`.
const FLAGS: [(u64, &str); 6] = [
    (0x1, "ioremap"),
    (0x1000, "sparse"),
    (0x2, "vmalloc"),
    (0x4, "vmap"),
    (0x8, "user"),
    (0x10, "dma-coherent"),
];
/// `VM_UNINITIALIZED`
const UNINITIALIZED: u64 = 0x20;
/// `VMAP_RAM` of `vmap_area.flags`.
const VMAP_RAM: u64 = 0x1;

/// An area.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmallocArea {
    /// Address of its `struct vmap_area`.
    pub at: GuestVirt,
    /// First address.
    pub start: GuestVirt,
    /// Bytes, the guard page behind it included.
    pub size: u64,
    /// Its `vm_struct`; none for one of `vm_map_ram()`, and once it is freed.
    pub vm: Option<GuestVirt>,
    /// Function that asked for it: `vm_struct.caller`.
    pub caller: Option<SymbolAt>,
    /// Pages that were allocated for it.
    pub pages: u64,
    /// Physical address that it maps, if that is not the kernel's memory.
    pub phys: Option<GuestPhys>,
    /// Purpose: `vmalloc`, `vmap`, `ioremap`, `user`, `vm_map_ram`; or `unpurged`: freed, and still mapped.
    pub kinds: Vec<&'static str>,
}

impl VmallocArea {
    /// Purpose, and the function that asked for it.
    #[must_use]
    pub fn purpose(&self) -> String {
        let mut words: Vec<String> = self.kinds.iter().map(|kind| (*kind).to_owned()).collect();
        words.extend(self.phys.map(|phys| format!("of physical {:#x}", phys.0)));
        words.extend(self.caller.as_ref().map(|caller| format!("by {caller}")));
        words.join(" ")
    }
}

/// All areas, ascending.
pub type VmallocAreas = Listing<VmallocArea>;

impl Span for VmallocArea {
    fn start(&self) -> GuestVirt {
        self.start
    }

    fn end(&self) -> GuestVirt {
        GuestVirt(self.start.0.saturating_add(self.size))
    }
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct vmap_area")]
struct Area {
    va_start: u64,
    va_end: u64,
    vm: GuestVirt,
    /// Kernels before 6.3 have none.
    flags: Option<u64>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct vm_struct")]
struct Vm {
    addr: GuestVirt,
    size: u64,
    flags: u64,
    nr_pages: u64,
    phys_addr: u64,
    caller: GuestVirt,
}

/// The areas of the vmalloc space: `/proc/vmallocinfo`, in ascending order.
pub(crate) fn vmalloc_areas(kernel: &Kernel) -> Result<VmallocAreas> {
    let modules = kernel.module_symbols()?;
    let mut areas = areas(kernel, &modules)?;
    // Areas that functions of these modules have made have no caller.
    areas.missing.extend(modules.missing);
    Ok(areas)
}

/// The areas; `modules` are what their callers are looked up in.
pub(crate) fn areas(kernel: &Kernel, modules: &[ModuleSymbols]) -> Result<VmallocAreas> {
    let plan = Plan::<Area>::new(kernel)?;
    let vms = Plan::<Vm>::new(kernel)?;
    settle_all("the vmalloc areas", || {
        let before = addresses(kernel)?;
        let mut areas = VmallocAreas::new();
        for (at, lazy) in &before.items {
            let found = plan.load(*at).and_then(|raw| {
                if raw.va_start >= raw.va_end {
                    let why = format!("it is {:#x} to {:#x}", raw.va_start, raw.va_end);
                    return Err(Error::broken("vmap_area", *at, why));
                }
                area(kernel, (*at, *lazy), &raw, &vms, modules)
            });
            match found {
                Ok(found) => areas.items.extend(found),
                Err(error) => areas.miss(format!("the vmap_area at {at}"), &error),
            }
        }
        areas.sort_by_key(|area| area.start);
        areas.missing.extend(before.missing.iter().cloned());
        Ok((addresses(kernel)? == before).then_some(areas))
    })
}

/// Lists the addresses of the areas, each with whether it is freed but not unmapped yet.
fn addresses(kernel: &Kernel) -> Result<Listing<(GuestVirt, bool)>> {
    let member = offset_of(kernel, "struct vmap_area", "list")?;
    let mut all = Listing::new();
    let mut take = |head: GuestVirt, lazy: bool| {
        let what = format!("the list of vmap_areas at {head}");
        let found = whole_list(kernel, head, member, AREA_BOUND, &what);
        all.append(found.map(|at| (at, lazy)));
    };
    let symbols = kernel.symbols()?;
    if let Some(head) = symbols.lookup("vmap_area_list") {
        take(head, false);
        if let Some(head) = symbols.lookup("purge_vmap_area_list") {
            take(head, true);
        }
        return Ok(all);
    }
    let nodes = GuestVirt(kernel.read_u64(kernel.symbol("vmap_nodes")?)?);
    let count = kernel.read_u32(kernel.symbol("nr_vmap_nodes")?)?;
    if count > NODE_BOUND {
        let why = format!("it is {count}");
        return Err(Error::Malformed {
            what: "nr_vmap_nodes",
            why,
        });
    }
    let stride = kernel.c_type("struct vmap_node")?.size()?;
    let head = |list: &str| offset_of(kernel, "struct vmap_node", list);
    let (busy, lazy) = (head("busy.head")?, head("lazy.head")?);
    for i in 0..u64::from(count) {
        let node = nodes.offset(i.wrapping_mul(stride));
        take(node.offset(busy), false);
        take(node.offset(lazy), true);
    }
    Ok(all)
}

/// `None` for an area that `/proc/vmallocinfo` does not show either: it is being made or taken apart.
fn area(
    kernel: &Kernel,
    (at, lazy): (GuestVirt, bool),
    raw: &Area,
    vms: &Plan<Vm>,
    modules: &[ModuleSymbols],
) -> Result<Option<VmallocArea>> {
    let mut area = VmallocArea {
        at,
        start: GuestVirt(raw.va_start),
        size: raw.va_end - raw.va_start,
        vm: None,
        caller: None,
        pages: 0,
        phys: None,
        kinds: Vec::new(),
    };
    if lazy {
        area.kinds.push("unpurged");
        return Ok(Some(area));
    }
    if raw.vm.is_null() {
        area.kinds.push("vm_map_ram");
        return Ok(raw
            .flags
            .is_none_or(|flags| flags & VMAP_RAM != 0)
            .then_some(area));
    }
    let vm = vms.load(raw.vm).of(|| format!("its vm {}", raw.vm))?;
    if vm.flags & UNINITIALIZED != 0 {
        return Ok(None);
    }
    if vm.addr.0 != raw.va_start {
        let why = format!(
            "its addr is {}, its area begins at {:#x}",
            vm.addr, raw.va_start
        );
        return Err(Error::broken("vm_struct", raw.vm, why));
    }
    // A part that begins where the area does is also as long, but for an area that is used in parts.
    (area.start, area.size) = (vm.addr, vm.size);
    area.vm = Some(raw.vm);
    area.pages = vm.nr_pages;
    area.phys = (vm.phys_addr != 0).then_some(GuestPhys(vm.phys_addr));
    area.caller = symbol(kernel, vm.caller, modules)?;
    let set = FLAGS.iter().filter(|(bit, _)| vm.flags & bit != 0);
    area.kinds.extend(set.map(|(_, name)| *name));
    Ok(Some(area))
}

/// The symbol that holds an address, the kernel's own or a module's.
pub(crate) fn symbol(
    kernel: &Kernel,
    at: GuestVirt,
    modules: &[ModuleSymbols],
) -> Result<Option<SymbolAt>> {
    if at.is_null() {
        return Ok(None);
    }
    let own = kernel.symbols()?.at(at);
    Ok(own.or_else(|| modules.iter().find_map(|module| module.at(at))))
}
