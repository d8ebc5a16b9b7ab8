//! The buddy allocator: lists of free blocks by order and migrate type, and the migrate type of each pageblock.

use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;

use super::zone::name;
use super::{node_addresses, zone_addresses};
use crate::kernel::Kernel;
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::object::Mirror;
use crate::structures::{array, list_for_each, offset_of, settle_all};
use crate::{Error, Missing, Of as _, Result};

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
    /// Number of blocks on the list of each migrate type, in the order of [`Buddy::types`]; `None` of a list that is broken.
    pub by_type: Vec<Option<u64>>,
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
    /// Pageblocks by migrate type, in the order of [`Buddy::types`]; `None` if the type of some could not be read.
    pub blocks: Option<Vec<u64>>,
}

/// The free blocks of all zones that have memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Buddy {
    /// The migrate types: `Unmovable`, `Movable`, ..
    pub types: Vec<String>,
    /// The zones.
    pub zones: Vec<ZoneBuddy>,
    /// Zones, lists and names that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
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
    let mut buddy = Buddy {
        types: Vec::with_capacity(areas.types),
        zones: Vec::new(),
        missing: Vec::new(),
    };
    let names = kernel.symbol("migratetype_names")?;
    for i in 0..areas.types as u64 {
        let name = kernel.read_u64(names.offset(8 * i));
        let name = name.and_then(|at| kernel.read_cstr(GuestVirt(at), 32));
        let name = name.or_miss(&mut buddy.missing, || {
            format!("the name of migrate type {i}")
        });
        buddy
            .types
            .push(name.unwrap_or_else(|| format!("type {i}")));
    }
    let blocks = Pageblocks::of(kernel).or_miss(&mut buddy.missing, || "the pageblocks");
    for node in node_addresses(kernel)? {
        let Some(node) = node.or_miss(&mut buddy.missing, || "") else {
            continue;
        };
        for at in zone_addresses(kernel, node)? {
            let mut missing = Vec::new();
            let zone = zone(kernel, at, &areas, blocks.as_ref(), &mut missing);
            let zone = zone.or_miss(&mut buddy.missing, || format!("the zone at {at}"));
            buddy.missing.append(&mut missing);
            buddy.zones.extend(zone.flatten());
        }
    }
    Ok(buddy)
}

/// `None` for a zone without memory.
fn zone(
    kernel: &Kernel,
    at: GuestVirt,
    areas: &Areas<'_>,
    blocks: Option<&Pageblocks<'_>>,
    missing: &mut Vec<Missing>,
) -> Result<Option<ZoneBuddy>> {
    let span: Span = kernel.load(at)?;
    if span.present_pages == 0 {
        return Ok(None);
    }
    let zone = name(kernel, at).of(|| "its name")?;
    let what = format!("the free lists of zone {zone}");
    let (areas_of, broken) = settle_all(&what, || areas.read(at)).of(|| "its free lists")?;
    missing.extend(broken.into_iter().map(|list| list.of(&what)));
    let blocks = blocks.and_then(|blocks| {
        let counts = blocks.count(&span, areas.types);
        counts.or_miss(missing, || format!("the pageblocks of zone {zone}"))
    });
    Ok(Some(ZoneBuddy {
        node: span.node.unwrap_or(0),
        areas: areas_of,
        blocks,
        zone,
        at,
    }))
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

    /// The areas, and what is wrong with them: a list that breaks, lists that do not have as many blocks as are counted.
    /// Both may come from a change while they are read.
    fn read(&self, zone: GuestVirt) -> Result<Option<(Vec<FreeArea>, Vec<Missing>)>> {
        let mut areas = Vec::with_capacity(self.orders);
        let mut missing = Vec::new();
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
                let what = || format!("order {order}, free_list[{ty}]");
                by_type.push(self.blocks(head).or_miss(&mut missing, what));
            }
            let counted: Option<u64> = by_type.iter().copied().sum();
            if let Some(counted) = counted.filter(|counted| *counted != nr_free) {
                let why = format!("nr_free is {nr_free}, and on its lists are {counted}");
                let error = Error::broken("free_area", area, why);
                missing.push(Missing::new(format!("order {order}"), &error));
            }
            areas.push(FreeArea {
                order: order as u32,
                nr_free,
                by_type,
            });
        }
        Ok(Some((areas, missing)))
    }

    /// Number of blocks on a list.
    fn blocks(&self, head: GuestVirt) -> Result<u64> {
        let mut blocks = 0;
        for block in list_for_each(self.kernel, head).bound(self.bound) {
            block?;
            blocks += 1;
        }
        Ok(blocks)
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
