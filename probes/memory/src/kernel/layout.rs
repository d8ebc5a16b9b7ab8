//! Finds a kernel: from VMCOREINFO to its address space, with the linear stretches read off its page tables.

use std::sync::Arc;

use super::vmcoreinfo::VmcoreInfo;
use crate::base::Of as _;
use crate::memory::{AddressSpace, GuestPhys, GuestVirt, Linear, Paging, PhysMemory};
use crate::{Error, Result};

/// Address that the kernel image is linked at, KASLR aside (`__START_KERNEL_map`).
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// The lowest address of the direct map (`__PAGE_OFFSET_BASE_L4`, `__PAGE_OFFSET_BASE_L5`); KASLR moves it up.
const PAGE_OFFSET_L4: u64 = 0xffff_8880_0000_0000;
const PAGE_OFFSET_L5: u64 = 0xff11_0000_0000_0000;
/// `struct new_utsname`: fields of 65 bytes, `release` the third (`include/uapi/linux/utsname.h`).
const UTS_RELEASE: u64 = 2 * 65;
/// KASLR moves the direct map by multiples of this (`PUD_SIZE`).
const GIB: u64 = 1 << 30;

/// A kernel's place in memory.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) info: VmcoreInfo,
    pub(super) space: AddressSpace,
    pub(super) phys_base: u64,
    pub(super) direct_map: Linear,
}

impl Layout {
    /// The layout that `info` describes, if the memory agrees with it.
    pub(super) fn of(memory: &Arc<dyn PhysMemory>, info: VmcoreInfo) -> Result<Self> {
        let absent =
            |what: &str| Error::NoKernel(format!("VMCOREINFO {} has no {what}", info.place()));
        let phys_base = info
            .number("phys_base")
            .ok_or_else(|| absent("phys_base"))?
            .cast_unsigned();
        let top = info
            .symbol("swapper_pg_dir")
            .ok_or_else(|| absent("swapper_pg_dir"))?;
        let root = GuestPhys(top.0.wrapping_sub(START_KERNEL_MAP).wrapping_add(phys_base));
        let (paging, floor) = match info.number("pgtable_l5_enabled") {
            Some(1) => (Paging::FiveLevel, PAGE_OFFSET_L5),
            _ => (Paging::FourLevel, PAGE_OFFSET_L4),
        };
        let space = AddressSpace::paged(Arc::clone(memory), root, paging);

        // A page left over from an earlier boot, or a file that looks like one, fails here.
        match space.translate(top) {
            Ok(at) if at == root => {}
            // Nothing follows from what the source does not have.
            Err(fault) if fault.kind().is_of_the_source() => {
                let place = info.place();
                return Err(fault).of(|| format!("the page tables that VMCOREINFO {place} names"));
            }
            Ok(_) | Err(_) => {
                let place = info.place();
                return Err(Error::NoKernel(format!(
                    "VMCOREINFO {place} names page tables that do not map themselves: it is of another boot"
                )));
            }
        }
        if let (Some(uts), Some(name)) = (
            info.symbol("init_uts_ns"),
            info.offset("uts_namespace.name"),
        ) {
            let release = space
                .read_cstr(uts.offset(name).offset(UTS_RELEASE), 65)
                .of(|| format!("init_uts_ns, which VMCOREINFO {} names", info.place()))?;
            if release != info.release().as_bytes() {
                let (place, named, found) =
                    (info.place(), info.release(), crate::text_of(&release));
                return Err(Error::NoKernel(format!(
                    "VMCOREINFO {place} is of {named} but the kernel there is {found:?}"
                )));
            }
        }

        let direct_map = direct_map(&space, GuestVirt(floor))
            .of(|| format!("the page tables that VMCOREINFO {} names", info.place()))?;
        let [text, data] = image(&space, phys_base);
        let space = space.with_linear([direct_map, text, data]);
        Ok(Self {
            info,
            space,
            phys_base,
            direct_map,
        })
    }
}

/// The direct map: it begins where the first page at or above its floor is mapped, less that page's own address.
fn direct_map(space: &AddressSpace, floor: GuestVirt) -> Result<Linear> {
    let last = GuestVirt(START_KERNEL_MAP - 1);
    let first = space.present_pages(floor, last)?.next().transpose()?;
    let base = first
        .map(|page| page.at.0.wrapping_sub(page.phys.0))
        .filter(|base| base % GIB == 0 && *base >= floor.0);
    let base = base.ok_or_else(|| {
        Error::NoKernel(format!("its page tables have no direct map above {floor}"))
    })?;
    let len = space
        .memory()
        .ranges()
        .last()
        .map_or(0, |r| r.start.0.saturating_add(r.len));
    Ok(Linear {
        virt: GuestVirt(base),
        len,
        phys: GuestPhys(0),
    })
}

/// The two longest stretches of the kernel image that are mapped by its linear rule. There is a gap between them when
/// the kernel unmapped its init sections. A table that cannot be read is a gap too: what lies there is translated by the
/// tables, and a reader is told why it cannot be read.
fn image(space: &AddressSpace, phys_base: u64) -> [Linear; 2] {
    let mut runs: Vec<Linear> = Vec::new();
    let last = GuestVirt(START_KERNEL_MAP + GIB - 1);
    let pages = space.present_pages(GuestVirt(START_KERNEL_MAP), last);
    for page in pages.into_iter().flatten().filter_map(Result::ok) {
        if page.phys.0
            != page
                .at
                .0
                .wrapping_sub(START_KERNEL_MAP)
                .wrapping_add(phys_base)
        {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.virt.0 + run.len == page.at.0 => run.len += page.size,
            _ => runs.push(Linear {
                virt: page.at,
                len: page.size,
                phys: page.phys,
            }),
        }
    }
    runs.sort_by_key(|run| std::cmp::Reverse(run.len));
    runs.resize(2, Linear::default());
    [runs[0], runs[1]]
}
