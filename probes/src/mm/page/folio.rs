//! A page frame as plain values: its kind, its references, its folio.

use serde::Serialize;

use super::flags::Names;
use super::mapping::{self, Mapping};
use super::memmap::{MemMap, Raw};
use crate::Result;
use crate::memory::{GuestPhys, GuestVirt, PAGE_SIZE};

/// Use of a page frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PageKind {
    /// Free, in the buddy allocator: part of a free block of this order that begins at this frame.
    Free {
        /// The block's first frame.
        head: u64,
        /// Its order.
        order: u32,
    },
    /// Part of a slab cache.
    Slab,
    /// Part of hugetlbfs.
    Hugetlb,
    /// Another `page_type`: `table` (a page table), `offline`, `guard`, `zsmalloc`, ..
    Typed(String),
    /// The kernel keeps it for itself since boot, or no memory is there (`PG_reserved`).
    Reserved,
    /// Anonymous memory of a process.
    Anon,
    /// Anonymous memory that KSM has merged.
    Ksm,
    /// Part of a file's page cache, shared memory and tmpfs included.
    File,
    /// Nothing of these: the kernel's own, or free and held back by a CPU.
    Other,
}

/// The folio that a page is part of, where it has more pages than one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Folio {
    /// Its first `struct page`.
    pub at: GuestVirt,
    /// The frame of that.
    pub pfn: u64,
    /// It has `1 << order` pages.
    pub order: u32,
    /// Number of this page among them, from 0.
    pub index: u64,
}

/// A page frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Page {
    /// Address of its `struct page`.
    pub at: GuestVirt,
    /// Its number.
    pub pfn: u64,
    /// Physical address of the frame.
    pub phys: GuestPhys,
    /// Its address in the kernel's direct map; `None` where there is no RAM.
    pub virt: Option<GuestVirt>,
    /// Its use.
    pub kind: PageKind,
    /// `page->flags` as it stands, node and zone included.
    pub raw_flags: u64,
    /// The flags that are set, as `enum pageflags` names them: those of the folio's first page, which speak for all of
    /// its pages, and what is said of each page for itself (`hwpoison`).
    pub flags: Vec<String>,
    /// References: those of its folio.
    pub refcount: i32,
    /// Number of page tables that map it, as in `/proc/kpagecount`.
    pub mapcount: i64,
    /// Its NUMA node.
    pub node: u32,
    /// Its zone: `DMA`, `DMA32`, `Normal`, ..
    pub zone: String,
    /// The folio, if it has more pages than one.
    pub folio: Option<Folio>,
    /// The file, process or cache that it holds a part of.
    pub mapping: Option<Mapping>,
    /// Number of the page in that, from 0.
    pub index: Option<u64>,
    /// `page->private`: a free block's order, a swap slot, a file system's own.
    pub private: u64,
}

impl Page {
    /// Describes its use in a few words.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.kind {
            PageKind::Free { head, order } if *head == self.pfn => {
                format!("free: a block of order {order}")
            }
            PageKind::Free { head, order } => {
                format!("free: in the block of order {order} that begins at pfn {head:#x}")
            }
            PageKind::Slab => "slab".to_owned(),
            PageKind::Hugetlb => "hugetlb".to_owned(),
            PageKind::Typed(name) if name == "table" => "page table".to_owned(),
            PageKind::Typed(name) => name.clone(),
            PageKind::Reserved => "reserved".to_owned(),
            PageKind::Anon => "anonymous memory".to_owned(),
            PageKind::Ksm => "anonymous memory, merged by KSM".to_owned(),
            PageKind::File => "page cache".to_owned(),
            PageKind::Other if self.refcount == 0 => {
                "free, kept by a CPU, or being freed".to_owned()
            }
            PageKind::Other => "the kernel's".to_owned(),
        }
    }
}

/// A folio as the page cache has it.
pub(crate) struct Cached {
    /// `folio->mapping`
    pub(crate) mapping: GuestVirt,
    pub(crate) order: u32,
    /// Without node and zone.
    pub(crate) flags: u64,
    /// `_mapcount` of its first page.
    pub(crate) mapcount: i64,
}

/// The folio that begins at a frame.
pub(super) fn cached(memmap: &MemMap, pfn: u64) -> Result<Cached> {
    let head = memmap.raw(pfn)?;
    let order = memmap.order(pfn, &head)?;
    Ok(Cached {
        mapping: GuestVirt(head.mapping),
        order,
        flags: head.flags & memmap.layout.names.all(),
        mapcount: mapcount(memmap, &head, (pfn, &head, order))?,
    })
}

pub(super) fn is_slab(names: &Names, raw: &Raw) -> bool {
    if names.has_type("slab") {
        names.page_type(raw.mapcount) == Some("slab")
    } else {
        names.is_set(raw.flags, "slab")
    }
}

/// `None` if the page or its head changed.
pub(super) fn read(memmap: &MemMap, pfn: u64) -> Result<Option<Page>> {
    let raw = memmap.raw(pfn)?;
    let head_pfn = memmap.head(pfn, &raw)?;
    let head = if head_pfn == pfn {
        raw
    } else {
        memmap.raw(head_pfn)?
    };
    let order = memmap.order(head_pfn, &head)?;
    if (pfn - head_pfn) >> order != 0 {
        // Split since the first look.
        return Ok(None);
    }
    let page = make(memmap, (pfn, raw), (head_pfn, head, order))?;
    let same = memmap.raw(pfn)? == raw && memmap.raw(head_pfn)? == head;
    Ok(same.then_some(page))
}

fn make(
    memmap: &MemMap,
    (pfn, raw): (u64, Raw),
    (head_pfn, head, order): (u64, Raw, u32),
) -> Result<Page> {
    let names = &memmap.layout.names;
    let kind = kind(memmap, (pfn, &raw), (head_pfn, &head, order))?;
    let mapping = match kind {
        PageKind::Anon | PageKind::Ksm | PageKind::File | PageKind::Hugetlb => {
            mapping::of(&memmap.kernel, head.mapping)?
        }
        _ => None,
    };
    let (nodes, _) = memmap.layout.shifts;
    Ok(Page {
        at: memmap.pfn_to_page(pfn),
        pfn,
        phys: GuestPhys(pfn * PAGE_SIZE),
        virt: memmap.kernel.phys_to_virt(GuestPhys(pfn * PAGE_SIZE)).ok(),
        raw_flags: raw.flags,
        flags: names.names(head.flags | raw.flags & names.mask("hwpoison")),
        refcount: head.refcount,
        mapcount: mapcount(memmap, &raw, (head_pfn, &head, order))?,
        // A shift by 64 is a kernel without nodes.
        node: raw.flags.checked_shr(nodes).unwrap_or(0) as u32,
        zone: memmap.zone(&raw),
        folio: (order > 0).then(|| Folio {
            at: memmap.pfn_to_page(head_pfn),
            pfn: head_pfn,
            order,
            index: pfn - head_pfn,
        }),
        index: mapping
            .is_some()
            .then(|| head.index.wrapping_add(pfn - head_pfn)),
        mapping,
        kind,
        private: raw.private,
    })
}

fn kind(
    memmap: &MemMap,
    (pfn, raw): (u64, &Raw),
    (head_pfn, head, order): (u64, &Raw, u32),
) -> Result<PageKind> {
    let names = &memmap.layout.names;
    if is_slab(names, head) {
        return Ok(PageKind::Slab);
    }
    if is_hugetlb(memmap, head_pfn, head, order)? {
        return Ok(PageKind::Hugetlb);
    }
    if let Some((head, order)) = free_block(memmap, pfn, raw)? {
        return Ok(PageKind::Free { head, order });
    }
    // Only a slab's and a huge page's type speaks for all of its pages.
    if let Some(name) = names.page_type(raw.mapcount) {
        return Ok(PageKind::Typed(name.to_owned()));
    }
    if names.is_set(raw.flags, "reserved") {
        return Ok(PageKind::Reserved);
    }
    // PAGE_MAPPING_ANON and PAGE_MAPPING_KSM of include/linux/page-flags.h.
    Ok(match (head.refcount, head.mapping, head.mapping & 3) {
        (0, ..) | (_, 0, _) => PageKind::Other,
        (.., 1) => PageKind::Anon,
        (.., 3) => PageKind::Ksm,
        (.., 0) if GuestVirt(head.mapping) > GuestVirt(1 << 63) => PageKind::File,
        _ => PageKind::Other,
    })
}

/// `folio_test_hugetlb()`: by the type, else by the destructor or by a flag of the second page.
fn is_hugetlb(memmap: &MemMap, head_pfn: u64, head: &Raw, order: u32) -> Result<bool> {
    let names = &memmap.layout.names;
    if names.has_type("hugetlb") {
        return Ok(names.page_type(head.mapcount) == Some("hugetlb"));
    }
    if order == 0 {
        return Ok(false);
    }
    let at = memmap.pfn_to_page(head_pfn);
    match memmap.layout.second.destructor {
        Some((offset, hugetlb)) => Ok(memmap.kernel.read_u8(at.offset(offset))? == hugetlb),
        None => {
            let second = memmap
                .kernel
                .read_u64(at.offset(memmap.layout.second.flags))?;
            Ok(names.is_set(second, "hugetlb"))
        }
    }
}

/// `is_free_buddy_page()`: the first page of a block is marked, the others are told by where they lie.
fn free_block(memmap: &MemMap, pfn: u64, raw: &Raw) -> Result<Option<(u64, u32)>> {
    let names = &memmap.layout.names;
    let is_free = |raw: &Raw| names.page_type(raw.mapcount) == Some("buddy");
    if is_free(raw) {
        return Ok(Some((pfn, raw.private.min(63) as u32)));
    }
    if raw.refcount != 0 {
        return Ok(None);
    }
    for order in 1..memmap.layout.orders {
        let head = pfn & !((1 << order) - 1);
        let Ok(raw) = memmap.raw(head) else {
            return Ok(None);
        };
        // The order of a free block is in `private`: buddy_order().
        if is_free(&raw) {
            let holds = head != pfn && raw.private >= u64::from(order) && raw.private < 64;
            return Ok(holds.then_some((head, raw.private as u32)));
        }
    }
    Ok(None)
}

/// `folio_precise_page_mapcount()`; in older kernels `page_mapcount()`, of nothing that has a type.
fn mapcount(memmap: &MemMap, raw: &Raw, (head_pfn, head, order): (u64, &Raw, u32)) -> Result<i64> {
    let names = &memmap.layout.names;
    let own = match names.is_type(raw.mapcount) {
        true => 0,
        false => i64::from(raw.mapcount) + 1,
    };
    let second = &memmap.layout.second;
    let entire = || -> Result<i64> {
        if order == 0 {
            return Ok(0);
        }
        let at = memmap.pfn_to_page(head_pfn).offset(second.entire_mapcount);
        Ok(i64::from(memmap.kernel.read_u32(at)?.cast_signed()) + 1)
    };
    if second.destructor.is_none() {
        return Ok(own + entire()?);
    }
    if is_slab(names, head) || names.is_type(raw.mapcount) {
        return Ok(0);
    }
    // In a file's large folio the page's own count has all of its mappings.
    let anon = head.mapping & 1 == 1;
    if order == 0 || !anon && !is_hugetlb(memmap, head_pfn, head, order)? {
        return Ok(own);
    }
    // PG_double_map is PG_workingset of the second page.
    let flags = memmap
        .kernel
        .read_u64(memmap.pfn_to_page(head_pfn).offset(second.flags))?;
    let twice = i64::from(names.is_set(flags, "workingset"));
    Ok(own + entire()? - twice)
}
