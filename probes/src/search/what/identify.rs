//! Looking addresses up: the chain of each.

use std::cell::RefCell;

use super::known::{Known, Stack};
use super::number;
use super::region::{self, Region};
use super::{Thing, What, about};
use crate::guest::Guest;
use crate::kernel::SymbolAt;
use crate::memory::{EntryKind, GuestPhys, GuestVirt, PAGE_SIZE, PageWalk};
use crate::mm::Vmas;
use crate::mm::page::{MemMap, PageKind};
use crate::mm::swap;
use crate::sched::Task;
use crate::view::bytes;
use crate::{ErrorKind, Missing, Of as _, Result};

/// Looks addresses up. What it has read of the kernel at the first look (modules, areas, stacks) it keeps: make a new one
/// for a guest that went on meanwhile.
#[derive(Debug)]
pub struct Identifier {
    guest: Guest,
    memmap: MemMap,
    known: Known,
    /// The process that was asked for last.
    process: RefCell<Option<Process>>,
}

#[derive(Debug)]
struct Process {
    task: Task,
    vmas: Vmas,
}

impl Identifier {
    /// For the kernel that runs in the guest now.
    ///
    /// # Errors
    /// As [`Guest::kernel`] and [`MemMap::of`].
    pub fn new(guest: &Guest) -> Result<Self> {
        let known = Known::new(guest)?;
        Ok(Self {
            guest: guest.clone(),
            memmap: MemMap::of(&known.kernel)?,
            known,
            process: RefCell::default(),
        })
    }

    fn region(&self, at: GuestVirt) -> Region {
        let bits = self
            .known
            .kernel
            .space()
            .paging()
            .map_or(48, |paging| paging.virt_bits());
        region::of(&self.known.regions, at, bits)
    }

    /// Finds what is at an address of the kernel.
    ///
    /// # Errors
    /// As [`AddressSpace::walk`](crate::memory::AddressSpace::walk). Other parts that cannot be read are missing of the
    /// answer.
    pub fn what(&self, at: GuestVirt) -> Result<What> {
        let region = self.region(at);
        if region.name == region::NON_CANONICAL {
            return Ok(nothing(at, None, region, String::new()));
        }
        if region.start.is_null() {
            let how = "an address of a process: `--pid PID` says whose".to_owned();
            return Ok(nothing(at, None, region, how));
        }
        let walk = self.known.kernel.space().walk(at)?;
        let mut what = What {
            mapped: mapped(&walk),
            phys: walk.phys,
            ..nothing(at, None, region, String::new())
        };
        // Memory of the image that was given back after the boot is another's, also where it is still mapped.
        let given_back = region.name == region::IMAGE
            && walk.phys.is_some_and(|phys| {
                let page = self.memmap.page(phys.0 / PAGE_SIZE);
                page.is_ok_and(|page| page.kind != PageKind::Reserved)
            });
        if !given_back {
            self.virtual_things(&mut what, at);
        }
        if let Some(phys) = walk.phys {
            self.physical_things(&mut what, phys);
        }
        Ok(what)
    }

    /// Finds what is at a physical address, by its address in the direct map.
    pub(crate) fn what_phys(&self, at: GuestPhys) -> Result<What> {
        self.what(self.known.kernel.phys_to_virt(at)?)
    }

    /// Finds what is at an address of a process, and keeps the process's mappings for the next address.
    ///
    /// # Errors
    /// As [`Guest::user_space`] and [`what`](Self::what).
    pub fn what_of(&self, pid: i32, at: GuestVirt) -> Result<What> {
        let region = self.region(at);
        let space = self.guest.user_space(pid)?;
        if region.name == region::NON_CANONICAL {
            return Ok(nothing(at, Some(pid), region, String::new()));
        }
        let walk = space.walk(at)?;
        let mut what = What {
            mapped: mapped(&walk),
            phys: walk.phys,
            ..nothing(at, Some(pid), region, String::new())
        };
        let vma = self.vma(pid, at);
        let vma = vma.or_miss(&mut what.missing, || format!("the mappings of {pid}"));
        what.things.extend(vma.flatten());
        match (walk.phys, walk.steps.last().map(|step| step.kind)) {
            (Some(phys), _) => self.physical_things(&mut what, phys),
            (None, Some(EntryKind::Swap { ty, offset })) => {
                let swapped = self.swapped(ty, offset);
                let swapped = swapped.or_miss(&mut what.missing, || "the swap areas");
                what.things.extend(swapped.flatten());
            }
            _ => {}
        }
        Ok(what)
    }

    /// The mapping of a process that holds an address.
    fn vma(&self, pid: i32, at: GuestVirt) -> Result<Option<Thing>> {
        let known = self
            .process
            .take()
            .filter(|process| process.task.pid == pid);
        let process = match known {
            Some(process) => process,
            None => {
                let task = self.guest.task(pid)?;
                let vmas = self.guest.vmas_of(&task)?;
                Process { task, vmas }
            }
        };
        let thing = process.vmas.at(at).map(|vma| Thing::Vma {
            pid,
            comm: process.task.comm.clone(),
            start: vma.start,
            end: vma.end,
            perms: vma.perms(),
            name: vma.name.clone(),
            offset: vma
                .file
                .map(|_| vma.offset.wrapping_add(at.0 - vma.start.0)),
        });
        self.process.replace(Some(process));
        Ok(thing)
    }

    /// The slot of a swap entry; `None` for the kernel's special types, which are above those of all areas.
    fn swapped(&self, ty: u8, slot: u64) -> Result<Option<Thing>> {
        let areas = swap::areas(&self.known.kernel)?;
        let area = areas.iter().flat_map(|areas| areas.iter());
        let area = area.into_iter().find(|area| area.number == u32::from(ty));
        Ok(area.map(|area| Thing::Swapped {
            path: area.path.clone(),
            slot,
        }))
    }

    /// Identifies the address itself.
    fn virtual_things(&self, what: &mut What, at: GuestVirt) {
        let missing = &mut what.missing;
        let areas = self.known.areas().or_miss(missing, || "the vmalloc areas");
        if let Some(area) = areas.and_then(|areas| areas.at(at)) {
            what.things.push(Thing::Vmalloc(area.clone()));
        }
        let stacks = self.known.stacks().or_miss(missing, || "the tasks' stacks");
        let holds = |stack: &&Stack| stack.start <= at && at < stack.end;
        let found = stacks.and_then(|stacks| stacks.iter().find(holds));
        if let (Some(stacks), None) = (stacks, found)
            && self.region(at).name.starts_with("vmalloc")
        {
            // It may be the stack of one of those that could not be read.
            missing.extend(stacks.missing.iter().cloned());
        }
        if let Some(stack) = found {
            what.things.push(Thing::Stack {
                pid: stack.pid,
                comm: stack.comm.clone(),
                start: stack.start,
                end: stack.end,
            });
        }
        let symbol = self.symbol(at, missing);
        let symbol = symbol.or_miss(missing, || "the symbols");
        if let Some(symbol) = symbol.flatten() {
            let member = self.member_of_variable(&symbol, at.back(symbol.offset));
            what.things.push(Thing::Symbol { symbol, member });
        } else if self.region(at).name.starts_with("modules")
            && let Some(modules) = self.known.modules().or_miss(missing, || "the modules")
        {
            // It may be in one of those that could not be read.
            missing.extend(modules.missing.iter().cloned());
            if let Some(module) = modules.iter().find(|module| module.holds(at)) {
                what.things.push(Thing::Module(module.module.clone()));
            }
        }
        if let Some(pfn) = self.memmap.page_to_pfn(at)
            && self.region(at).name.starts_with("vmemmap")
        {
            let into = at.0 - self.memmap.pfn_to_page(pfn).0;
            let member = self.member("struct page", into);
            what.things.push(Thing::StructPage { pfn, member });
        }
    }

    /// Identifies the memory behind it.
    fn physical_things(&self, what: &mut What, phys: GuestPhys) {
        let page = match self.memmap.page(phys.0 / PAGE_SIZE) {
            Ok(page) => page,
            // A device's memory, or what the firmware kept, has no `struct page`.
            Err(error) if matches!(error.kind(), ErrorKind::Absent) => return,
            Err(error) => {
                what.missing.push(Missing::new("its struct page", &error));
                return;
            }
        };
        let kind = page.kind.clone();
        what.things.push(Thing::Page(Box::new(page)));
        let direct = self.known.kernel.phys_to_virt(phys);
        let Some(direct) = direct.or_miss(&mut what.missing, || "its address in the direct map")
        else {
            return;
        };
        // The first chunk of per-CPU memory is there since boot; what it had too much of was given back.
        let missing = &mut what.missing;
        if kind == PageKind::Reserved {
            let per_cpu = self
                .per_cpu(direct)
                .or_miss(missing, || "the per-CPU areas");
            what.things.extend(per_cpu.flatten());
        }
        let alias = match kind {
            PageKind::Reserved => self.in_image(phys),
            PageKind::Other => self.in_vmalloc(phys, missing),
            _ => Ok(None),
        };
        let alias = alias
            .or_miss(missing, || "where else it is mapped")
            .flatten();
        if direct == what.at
            && let Some(alias) = alias
        {
            what.things.push(Thing::Alias(alias));
            self.virtual_things(what, alias);
        }
        let object = match kind {
            PageKind::Slab => self.guest.slab_object(direct),
            _ => Ok(None),
        };
        let object = object.or_miss(&mut what.missing, || "the object of its slab");
        if let Some(object) = object.flatten() {
            let ty = object.c_type.as_deref();
            let member = ty.and_then(|ty| self.member(ty, object.offset));
            let about = ty.filter(|_| object.in_use == Some(true));
            let about = about.and_then(|ty| {
                let about = about::of(&self.known.kernel, ty, object.at);
                // In a merged cache it may be another's object.
                if object.merged {
                    return about.ok().flatten();
                }
                let about = about.or_miss(&mut what.missing, || format!("which {ty} it is"));
                about.flatten()
            });
            what.things.push(Thing::Slab {
                member,
                about,
                object,
            });
        }
    }

    /// The symbol of the image, of a module, or of code that the kernel made while it ran. Code that could not be read may
    /// have it as well: that is missing then.
    fn symbol(&self, at: GuestVirt, missing: &mut Vec<Missing>) -> Result<Option<SymbolAt>> {
        let symbols = self.known.kernel.symbols()?;
        let bound = |name: &str| symbols.lookup(name).map_or(0, |at| at.0);
        let start = bound("_text").min(bound("_stext"));
        let inside = (start..bound("_end")).contains(&at.0);
        let own = symbols.at(at).filter(|_| inside);
        let of_module = || {
            let modules = self.known.modules().ok()?;
            modules.iter().find_map(|module| module.at(at))
        };
        let symbol = own.or_else(of_module);
        // It lies where modules do.
        if symbol.is_some() || !self.region(at).name.starts_with("modules") {
            return Ok(symbol);
        }
        let made = self.known.made();
        let code = made.iter().find(|code| code.holds(at));
        if code.is_none() {
            missing.extend(made.missing.iter().cloned());
        }
        Ok(code.map(|code| code.symbol(at)))
    }

    /// The member of a variable whose type is known.
    fn member_of_variable(&self, symbol: &SymbolAt, at: GuestVirt) -> Option<String> {
        let module = symbol.module.as_deref().unwrap_or("vmlinux");
        let spelling = format!("{module}:{}@{at:?}", symbol.name);
        let ty = self.known.kernel.object(&spelling).ok()?.type_name();
        self.member(&ty, symbol.offset)
    }

    /// Finds a page's address in the kernel's image, if it is a part of that.
    fn in_image(&self, phys: GuestPhys) -> Result<Option<GuestVirt>> {
        let kernel = &self.known.kernel;
        let symbols = kernel.symbols()?;
        let (Some(start), Some(end)) = (symbols.lookup("_text"), symbols.lookup("_end")) else {
            return Ok(None);
        };
        let into = phys.0.wrapping_sub(kernel.virt_to_phys(start)?.0);
        let image = start.offset(into);
        let is =
            into < end.0.wrapping_sub(start.0) && kernel.virt_to_phys(image).ok() == Some(phys);
        Ok(is.then_some(image))
    }

    /// Finds a page's address in the vmalloc space or among the modules, if they map it.
    fn in_vmalloc(&self, phys: GuestPhys, missing: &mut Vec<Missing>) -> Result<Option<GuestVirt>> {
        let mapped = self.known.mapped()?;
        let found = mapped.frames.get(&(phys.0 / PAGE_SIZE));
        if found.is_none() {
            // What maps it may be in a table that could not be read.
            missing.extend(mapped.missing.clone());
        }
        Ok(found.map(|page| page.offset(phys.page_offset())))
    }

    /// The member of a structure; `None` beyond its end, and for a type that is none.
    fn member(&self, c: &str, offset: u64) -> Option<String> {
        let (member, rest) = self.known.kernel.member_at(c, offset).ok()??;
        Some(match rest {
            0 => member,
            rest => format!("{member}+{rest:#x}"),
        })
    }

    /// The per-CPU variable at an address of the direct map.
    fn per_cpu(&self, at: GuestVirt) -> Result<Option<Thing>> {
        let Some(areas) = self.known.areas_per_cpu()? else {
            return Ok(None);
        };
        for (cpu, offset) in &areas.offsets {
            let variable = at.0.wrapping_sub(*offset);
            let into = variable.wrapping_sub(areas.start);
            if into >= areas.unit {
                continue;
            }
            let inside = variable < areas.end;
            let symbol = self
                .known
                .kernel
                .symbols()?
                .at(GuestVirt(variable))
                .filter(|_| inside);
            return Ok(Some(Thing::PerCpu {
                cpu: *cpu,
                member: symbol.as_ref().and_then(|symbol| {
                    let at = GuestVirt(variable).back(symbol.offset);
                    self.member_of_variable(symbol, at)
                }),
                symbol,
                offset: into,
            }));
        }
        Ok(None)
    }
}

fn nothing(at: GuestVirt, pid: Option<i32>, region: Region, mapped: String) -> What {
    What {
        at,
        pid,
        region,
        phys: None,
        mapped,
        things: number::known(at).map(Thing::Number).into_iter().collect(),
        missing: Vec::new(),
    }
}

fn mapped(walk: &PageWalk) -> String {
    let Some(last) = walk.steps.last() else {
        return String::new();
    };
    let (level, entry) = (last.level.name(), last.entry);
    match (last.kind, walk.phys) {
        (EntryKind::Page { size, .. }, Some(phys)) => format!(
            "physical {:#x}, by a page of {} in the {level}: {}",
            phys.0,
            bytes(size),
            entry.flags().join(" ")
        ),
        (EntryKind::ProtNone(phys), _) => {
            format!(
                "PROT_NONE: the page at physical {:#x}, but no access",
                phys.0
            )
        }
        (EntryKind::Swap { ty, offset }, _) => {
            format!("not present: swap type {ty}, offset {offset:#x}")
        }
        _ => format!("not mapped: the {level} entry is {:#x}", entry.0),
    }
}
