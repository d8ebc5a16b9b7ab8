//! `vmemmap`: the array of all `struct page` (`include/asm-generic/memory_model.h`), and one of them as it stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::flags::Names;
use super::folio::{self, Page};
use crate::kernel::Kernel;
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::mm::mmzone;
use crate::object::{Mirror, Plan};
use crate::structures::{array, offset_of, settle};
use crate::{Error, Result};

/// Bits of a physical address that x86-64 has at most: `MAX_PHYSMEM_BITS`.
const MAX_PHYSMEM_BITS: u32 = 52;

/// A `struct page`, without what its kind overlays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Mirror)]
#[mirror(c = "struct page")]
pub(super) struct Raw {
    #[mirror(member = "flags.f", or = "flags")]
    pub(super) flags: u64,
    #[mirror(member = "compound_info", or = "compound_head")]
    pub(super) compound: u64,
    pub(super) mapping: u64,
    #[mirror(member = "index", or = "__folio_index")]
    pub(super) index: u64,
    pub(super) private: u64,
    #[mirror(member = "_mapcount.counter")]
    pub(super) mapcount: i32,
    #[mirror(member = "_refcount.counter")]
    pub(super) refcount: i32,
}

/// Offsets of the members that a large folio keeps in its second `struct page`, from the first one on.
#[derive(Debug)]
pub(super) struct Second {
    /// The order, one byte.
    pub(super) order: u64,
    /// `folio_entire_mapcount()` less one, 32 bits.
    pub(super) entire_mapcount: u64,
    /// The destructor's number, one byte, and the number of hugetlb's: kernels before 6.6.
    pub(super) destructor: Option<(u64, u8)>,
    /// The flags.
    pub(super) flags: u64,
}

/// Layouts, worked out once for a kernel.
#[derive(Debug)]
pub(super) struct Layout {
    base: GuestVirt,
    size: u64,
    pub(super) names: Names,
    pub(super) second: Second,
    /// `NODES_PGSHIFT` and `ZONES_PGSHIFT`: the node and the zone are the topmost bits of the flags.
    pub(super) shifts: (u32, u32),
    /// The names of the zones, as far as they can be read.
    zones: Vec<Option<String>>,
    /// `NR_PAGE_ORDERS`.
    pub(super) orders: u32,
}

impl Layout {
    fn new(kernel: &Kernel) -> Result<Self> {
        let btf = kernel.btf()?;
        let size = Plan::<Raw>::new(kernel)?.size();
        let page = |path: &str| offset_of(kernel, "struct page", path);
        let folio = |path: &str| offset_of(kernel, "struct folio", path);
        let hugetlb = btf.find_enumerator("HUGETLB_PAGE_DTOR");
        let second = Second {
            order: page("compound_order")
                .map(|at| size + at)
                .or_else(|_| folio("_folio_order"))
                .or_else(|_| folio("_flags_1"))?,
            entire_mapcount: page("compound_mapcount")
                .map(|at| size + at)
                .or_else(|_| folio("_entire_mapcount"))?,
            destructor: match (page("compound_dtor"), hugetlb) {
                (Ok(at), Some((_, number))) => Some((size + at, u8::try_from(number).unwrap_or(0))),
                _ => None,
            },
            flags: size,
        };
        let (zones, count, stride) = array(kernel, "struct pglist_data", "node_zones")?;
        // An array of MAX_NUMNODES; without CONFIG_NUMA that is 1.
        let (_, nodes, _) = array(kernel, "struct kmem_cache", "per_node")
            .or_else(|_| array(kernel, "struct kmem_cache", "node"))?;
        let width = |count: usize| count.max(1).next_power_of_two().ilog2().min(16);
        let nodes = 64 - width(nodes);
        let first = mmzone::node_addresses(kernel)?
            .into_iter()
            .find_map(Result::ok);
        let name = offset_of(kernel, "struct zone", "name")?;
        let name = |zone: u64| {
            let zone = first?.offset(zones.wrapping_add(stride.wrapping_mul(zone)));
            let name = kernel.read_u64(zone.offset(name)).ok()?;
            kernel.read_cstr(GuestVirt(name), 16).ok()
        };
        Ok(Self {
            zones: (0..count.min(8) as u64).map(name).collect(),
            base: kernel.vmemmap_base()?,
            size,
            names: Names::of(kernel)?,
            second,
            shifts: (nodes, nodes - width(count)),
            orders: array(kernel, "struct zone", "free_area")?.1.min(64) as u32,
        })
    }
}

/// The `struct page`s of a kernel.
#[derive(Debug, Clone)]
pub struct MemMap {
    pub(super) kernel: Kernel,
    pub(super) layout: Arc<Layout>,
    raw: Plan<Raw>,
}

impl MemMap {
    /// Pages of this kernel; where they lie is worked out at the first call.
    ///
    /// # Errors
    /// `Absent` or `Unsupported` if BTF or the symbols do not say where they are.
    pub fn of(kernel: &Kernel) -> Result<Self> {
        Ok(Self {
            kernel: kernel.clone(),
            layout: kernel.once(|| Layout::new(kernel))?,
            raw: Plan::new(kernel)?,
        })
    }

    /// `sizeof(struct page)`.
    #[must_use]
    pub fn page_size(&self) -> u64 {
        self.layout.size
    }

    /// Address of a frame's `struct page`: `pfn_to_page()`.
    #[must_use]
    pub fn pfn_to_page(&self, pfn: u64) -> GuestVirt {
        self.layout.base.offset(pfn.wrapping_mul(self.layout.size))
    }

    /// The frame whose `struct page` holds an address: `page_to_pfn()`; `None` for an address that is not in the array.
    #[must_use]
    pub fn page_to_pfn(&self, at: GuestVirt) -> Option<u64> {
        let offset = at.0.checked_sub(self.layout.base.0)?;
        let pfn = offset.checked_div(self.layout.size)?;
        (pfn >> (MAX_PHYSMEM_BITS - PAGE_SIZE.ilog2()) == 0).then_some(pfn)
    }

    /// The page of a frame.
    ///
    /// # Errors
    /// When the frame has no `struct page`, or it changes each time that it is read.
    pub fn page(&self, pfn: u64) -> Result<Page> {
        self.check(pfn)?;
        settle(&format!("page {pfn}"), || folio::read(self, pfn))
    }

    fn check(&self, pfn: u64) -> Result<()> {
        let at = self.pfn_to_page(pfn);
        if self.page_to_pfn(at) == Some(pfn) && self.kernel.space().translate(at).is_ok() {
            return Ok(());
        }
        Err(Error::Absent(format!(
            "page frame {pfn} has no struct page: no memory is there"
        )))
    }

    /// The `struct page` of a frame as it stands.
    #[inline]
    pub(super) fn raw(&self, pfn: u64) -> Result<Raw> {
        self.raw.load(self.pfn_to_page(pfn))
    }

    /// The frame of the folio's first page: `compound_head()`.
    pub(super) fn head(&self, pfn: u64, raw: &Raw) -> Result<u64> {
        if raw.compound & 1 == 0 {
            return Ok(pfn);
        }
        let at = self.pfn_to_page(pfn);
        let info = raw.compound & !1;
        // A mask, where the kernel keeps one instead of a pointer (`set_compound_head()`): bits from the order's on.
        let head = if raw.compound.leading_ones() >= 32 {
            GuestVirt(at.0 & info)
        } else {
            GuestVirt(info)
        };
        let head = self.page_to_pfn(head).filter(|head| *head < pfn);
        head.ok_or_else(|| Error::Broken {
            what: "compound page",
            at,
            why: format!("its head would be {info:#x}"),
        })
    }

    /// The order of the folio that begins at a frame, whose head has these flags.
    pub(super) fn order(&self, head: u64, raw: &Raw) -> Result<u32> {
        if !self.layout.names.is_set(raw.flags, "head") {
            return Ok(0);
        }
        let at = self.pfn_to_page(head);
        let order = self.kernel.read_u8(at.offset(self.layout.second.order))?;
        // 1 GiB of base pages is order 18.
        if order > 30 {
            return Err(Error::Broken {
                what: "compound page",
                at,
                why: format!("its order is {order}"),
            });
        }
        Ok(u32::from(order))
    }

    /// The name of the zone that a page's flags say; its number, where the name is not known.
    pub(super) fn zone(&self, raw: &Raw) -> String {
        let (nodes, zones) = self.layout.shifts;
        let zone = raw.flags.checked_shr(zones).unwrap_or(0) & ((1 << (nodes - zones)) - 1);
        let name = self.layout.zones.get(zone as usize);
        let name = name.and_then(Option::clone);
        name.unwrap_or_else(|| zone.to_string())
    }

    /// The kernel whose pages they are.
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The names of the flags of `enum pageflags`, by their bits.
    pub(crate) fn flag_names(&self) -> BTreeMap<u32, String> {
        self.layout.names.by_bit()
    }

    /// The folio of a page cache that begins at a frame.
    pub(crate) fn cached(&self, pfn: u64) -> Result<folio::Cached> {
        folio::cached(self, pfn)
    }

    /// The slab that holds a frame: the frame of its first page; `None` if the frame is of no slab.
    pub(crate) fn slab(&self, pfn: u64) -> Result<Option<u64>> {
        let raw = self.raw(pfn)?;
        let head = self.head(pfn, &raw)?;
        let raw = if head == pfn { raw } else { self.raw(head)? };
        Ok(folio::is_slab(&self.layout.names, &raw).then_some(head))
    }

    /// Reads the cache and the order of the slab that begins at a frame; `None` and 0 for all other frames.
    pub(crate) fn slab_of(&self, pfn: u64) -> Result<(Option<GuestVirt>, u32)> {
        // Memory of which nothing is known.
        let Ok(raw) = self.raw(pfn) else {
            return Ok((None, 0));
        };
        if raw.compound & 1 == 1 || !folio::is_slab(&self.layout.names, &raw) {
            return Ok((None, 0));
        }
        let cache = offset_of(&self.kernel, "struct slab", "slab_cache")?;
        let cache = self.kernel.read_u64(self.pfn_to_page(pfn).offset(cache))?;
        // A slab that is just being freed may have lost its order; the next frames are then looked at one by one.
        let order = self.order(pfn, &raw).unwrap_or(0);
        Ok((Some(GuestVirt(cache)), order))
    }
}
