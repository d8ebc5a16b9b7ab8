//! The buddy allocator: lists of free blocks by order and migrate type, and the migrate type of each pageblock.

use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;

use super::zone::name;
use super::{node_addresses, zone_addresses};
use crate::kernel::Kernel;
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::object::Mirror;
use crate::structures::{array, list_for_each, offset_of, settle};
use crate::{Error, Result};

/// `SECTION_SIZE_BITS` of x86-64: a section of the memory map is 128 MiB.
const SECTION_SIZE_BITS: u32 = 27;
/// Base pages of a section.
const PAGES_PER_SECTION: u64 = 1 << (SECTION_SIZE_BITS - PAGE_SIZE.ilog2());
/// `pageblock_order`: a pageblock is as large as a huge page.
const PAGEBLOCK_ORDER: u32 = 9;

/// The free blocks of one order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FreeArea {
    /// A block has `1 << order` pages.
    pub order: u32,
    /// `nr_free`: how many there are, as the kernel counts them.
    pub nr_free: u64,
    /// Number of blocks on the list of each migrate type, in the order of [`Buddy::types`].
    pub by_type: Vec<u64>,
}

/// The free blocks of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ZoneBuddy {
    /// Its node.
    pub node: u32,
    /// Its name.
    pub zone: String,
    /// Address of its `struct zone`.
    pub at: GuestVirt,
    /// One an order.
    pub areas: Vec<FreeArea>,
    /// Pageblocks by migrate type, in the order of [`Buddy::types`].
    pub blocks: Vec<u64>,
}

/// The free blocks of all zones that have memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Buddy {
    /// The migrate types: `Unmovable`, `Movable`, ..
    pub types: Vec<String>,
    /// The zones.
    pub zones: Vec<ZoneBuddy>,
}

impl Deref for Buddy {
    type Target = [ZoneBuddy];

    fn deref(&self) -> &[ZoneBuddy] {
        &self.zones
    }
}

impl ZoneBuddy {
    /// Free pages, by the counts.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.areas.iter().fold(0, |sum, area| {
            sum.saturating_add(area.nr_free.saturating_mul(1 << area.order.min(63)))
        })
    }
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct zone")]
struct Span {
    node: Option<u32>,
    zone_start_pfn: u64,
    spanned_pages: u64,
    present_pages: u64,
}

pub(super) fn read(kernel: &Kernel) -> Result<Buddy> {
    let areas = Areas::of(kernel)?;
    let text = kernel.symbol("migratetype_names")?;
    let types: Result<Vec<String>> = (0..areas.types as u64)
        .map(|i| kernel.read_cstr(GuestVirt(kernel.read_u64(text.offset(8 * i))?), 32))
        .collect();
    let blocks = Pageblocks::of(kernel)?;
    let mut zones = Vec::new();
    for node in node_addresses(kernel)? {
        for at in zone_addresses(kernel, node)? {
            let span: Span = kernel.load(at)?;
            if span.present_pages == 0 {
                continue;
            }
            let zone = name(kernel, at)?;
            let what = format!("the free lists of zone {zone}");
            zones.push(ZoneBuddy {
                node: span.node.unwrap_or(0),
                areas: settle(&what, || areas.read(at))?,
                blocks: blocks.count(&span, areas.types)?,
                zone,
                at,
            });
        }
    }
    Ok(Buddy {
        types: types?,
        zones,
    })
}

/// Place and layout of the free lists.
struct Areas<'k> {
    kernel: &'k Kernel,
    areas: u64,
    orders: usize,
    stride: u64,
    lists: u64,
    types: usize,
    nr_free: u64,
    /// Free blocks that there can be at most.
    bound: usize,
}

impl<'k> Areas<'k> {
    fn of(kernel: &'k Kernel) -> Result<Self> {
        let (areas, orders, stride) = array(kernel, "struct zone", "free_area")?;
        let (lists, types, _) = array(kernel, "struct free_area", "free_list")?;
        let ram = kernel.space().memory().ranges().iter();
        let ram = ram.fold(0_u64, |sum, range| sum.saturating_add(range.len));
        Ok(Self {
            kernel,
            areas,
            orders: orders.min(64),
            stride,
            lists,
            types: types.min(16),
            nr_free: offset_of(kernel, "struct free_area", "nr_free")?,
            bound: usize::try_from(ram / PAGE_SIZE).unwrap_or(usize::MAX),
        })
    }

    /// `None` if the lists do not have as many blocks as are counted: they change.
    fn read(&self, zone: GuestVirt) -> Result<Option<Vec<FreeArea>>> {
        let mut areas = Vec::with_capacity(self.orders);
        for order in 0..self.orders {
            let area = self
                .stride
                .wrapping_mul(order as u64)
                .wrapping_add(self.areas);
            let area = zone.offset(area);
            let nr_free = self.kernel.read_u64(area.offset(self.nr_free))?;
            let mut by_type = Vec::with_capacity(self.types);
            for ty in 0..self.types as u64 {
                // An array of list_head, two words each.
                let head = area.offset(self.lists.wrapping_add(16 * ty));
                let mut blocks = 0;
                for block in list_for_each(self.kernel, head).bound(self.bound) {
                    block?;
                    blocks += 1;
                }
                by_type.push(blocks);
            }
            if by_type.iter().sum::<u64>() != nr_free {
                return Ok(None);
            }
            areas.push(FreeArea {
                order: order as u32,
                nr_free,
                by_type,
            });
        }
        Ok(Some(areas))
    }
}

/// Place of the bits of each pageblock, in the section's `mem_section_usage`. Worked out once for a kernel.
#[derive(Debug)]
struct Bits {
    per_root: u64,
    section: u64,
    usage: u64,
    flags: u64,
    /// Bits of a pageblock.
    bits: u64,
    /// The bit that says MIGRATE_ISOLATE, in kernels where it is not a type of its own.
    isolate: Option<(u64, usize)>,
}

impl Bits {
    fn of(kernel: &Kernel) -> Result<Arc<Self>> {
        kernel.once(|| {
            let btf = kernel.btf()?;
            let section = kernel.c_type("struct mem_section")?.size()?.max(1);
            let value = |name: &str| {
                let found = btf.find_enumerator(name)?;
                u64::try_from(found.1).ok()
            };
            let bits = value("__NR_PAGEBLOCK_BITS")
                .or_else(|| value("NR_PAGEBLOCK_BITS"))
                .ok_or_else(|| {
                    Error::Unsupported(format!("{} has no NR_PAGEBLOCK_BITS", kernel.release()))
                })?;
            let isolate = value("PB_migrate_isolate").zip(value("MIGRATE_ISOLATE"));
            Ok(Self {
                per_root: (PAGE_SIZE / section).max(1),
                section,
                usage: offset_of(kernel, "struct mem_section", "usage")?,
                flags: offset_of(kernel, "struct mem_section_usage", "pageblock_flags")?,
                bits: bits.clamp(1, 64).next_power_of_two(),
                isolate: isolate.map(|(bit, ty)| (bit.min(63), ty as usize)),
            })
        })
    }
}

struct Pageblocks<'k> {
    kernel: &'k Kernel,
    roots: GuestVirt,
    at: Arc<Bits>,
}

impl<'k> Pageblocks<'k> {
    fn of(kernel: &'k Kernel) -> Result<Self> {
        Ok(Self {
            kernel,
            // With CONFIG_SPARSEMEM_EXTREME a pointer to pointers to pages of sections.
            roots: GuestVirt(kernel.read_u64(kernel.symbol("mem_section")?)?),
            at: Bits::of(kernel)?,
        })
    }

    /// The bitmap of a frame's section; `None` where no memory is.
    fn bitmap(&self, pfn: u64) -> Result<Option<GuestVirt>> {
        let number = pfn / PAGES_PER_SECTION;
        let root = self
            .kernel
            .read_u64(self.roots.offset(8 * (number / self.at.per_root)))?;
        if root == 0 {
            return Ok(None);
        }
        let into = (number % self.at.per_root).wrapping_mul(self.at.section);
        let at = GuestVirt(root).offset(into);
        let usage = self.kernel.read_u64(at.offset(self.at.usage))?;
        Ok((usage != 0).then(|| GuestVirt(usage).offset(self.at.flags)))
    }

    /// Pageblocks of a zone by type, one in two zones with the later one: `pagetypeinfo_showblockcount_print()`.
    fn count(&self, span: &Span, types: usize) -> Result<Vec<u64>> {
        let mut counts = vec![0; types];
        let end = span.zone_start_pfn.saturating_add(span.spanned_pages);
        let ram = self.kernel.space().memory().ranges().last();
        // A span that a hostile guest makes up ends with its memory.
        let end = end.min(ram.map_or(0, |r| {
            r.start.0.saturating_add(r.len) / PAGE_SIZE + PAGES_PER_SECTION
        }));
        let mut pfn = span.zone_start_pfn;
        let mut bitmap = None;
        while pfn < end {
            crate::base::check_interrupt();
            let in_section = pfn % PAGES_PER_SECTION;
            if bitmap.is_none() || in_section < 1 << PAGEBLOCK_ORDER {
                bitmap = self.bitmap(pfn)?;
            }
            if let Some(bitmap) = bitmap {
                let bit = (in_section >> PAGEBLOCK_ORDER) * self.at.bits;
                let word = self.kernel.read_u64(bitmap.offset(bit / 64 * 8))? >> (bit % 64);
                // Three bits of type.
                let ty = match self.at.isolate {
                    Some((isolate, ty)) if word >> isolate & 1 == 1 => ty,
                    _ => (word & 7) as usize,
                };
                if let Some(count) = counts.get_mut(ty) {
                    *count += 1;
                }
            }
            pfn = pfn.saturating_add(1 << PAGEBLOCK_ORDER);
        }
        Ok(counts)
    }
}
