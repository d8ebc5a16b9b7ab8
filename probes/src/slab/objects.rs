//! The objects of slabs: which are in use, and which one an address lies in.

use serde::Serialize;

use super::cache::{Raw, Reader, SlabCache};
use super::free::{self, CpuSlab, NodeSlab};
use super::types;
use crate::cell::check_interrupt;
use crate::kernel::Kernel;
use crate::memory::{GuestPhys, GuestVirt, PAGE_SIZE};
use crate::object::{Mirror, Plan};
use crate::page::MemMap;
use crate::structures::settle;
use crate::{Error, Result};

/// `MAX_OBJS_PER_PAGE`: the counter has 15 bits.
const MAX_OBJECTS: u32 = 32767;

/// A cache with the objects of it that are in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlabObjects {
    /// The cache.
    pub cache: SlabCache,
    /// What each CPU that is online keeps of it.
    pub cpus: Vec<CpuSlab>,
    /// What each node has of it.
    pub nodes: Vec<NodeSlab>,
    /// Where the objects in use lie, ascending.
    pub objects: Vec<GuestVirt>,
}

/// An object of a slab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlabObject {
    /// Where it begins.
    pub at: GuestVirt,
    /// How far into it the address is that was asked for, in bytes.
    pub offset: u64,
    /// Its cache's name.
    pub cache: String,
    /// Where the cache's `kmem_cache` lies.
    pub cache_at: GuestVirt,
    /// Its `struct slab`.
    pub slab: GuestVirt,
    /// Which object of the slab it is, from 0.
    pub index: u64,
    /// Bytes of it.
    pub size: u32,
    /// Whether it is in use.
    pub in_use: bool,
    /// Its C type, where the cache's name tells it; of a merged cache it may be another's object.
    pub c_type: Option<String>,
    /// Whether other caches of its size were merged with the cache.
    pub merged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Mirror)]
#[mirror(c = "struct slab")]
pub(super) struct RawSlab {
    slab_cache: GuestVirt,
    freelist: GuestVirt,
    inuse: u32,
    objects: u32,
}

impl RawSlab {
    /// Objects that are on its own list.
    pub(super) fn free(&self) -> u64 {
        self.objects.saturating_sub(self.inuse).into()
    }
}

/// Where the objects of a slab lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlabAt {
    /// Its `struct slab`.
    pub(super) at: GuestVirt,
    /// How many objects it has.
    pub(super) objects: u64,
    first: GuestVirt,
    size: u64,
    raw: RawSlab,
}

impl SlabAt {
    /// The slab at `at`, which must be one of the cache at `cache`.
    pub(super) fn of(memmap: &MemMap, at: GuestVirt, cache: GuestVirt, raw: &Raw) -> Result<Self> {
        let kernel = memmap.kernel();
        let slab = Plan::<RawSlab>::new(kernel)?.load(at)?;
        let broken = |why: String| Error::Broken {
            what: "slab",
            at,
            why,
        };
        if slab.slab_cache != cache {
            return Err(broken(format!(
                "it is of {}, not of {cache}",
                slab.slab_cache
            )));
        }
        let bytes = u64::from(slab.objects).saturating_mul(raw.size.into());
        if slab.objects > MAX_OBJECTS || bytes > PAGE_SIZE << raw.order() {
            return Err(broken(format!("it has {} objects", slab.objects)));
        }
        let pfn = memmap
            .page_to_pfn(at)
            .ok_or_else(|| broken("it is no page".to_owned()))?;
        let first = kernel.phys_to_virt(GuestPhys(pfn * PAGE_SIZE))?;
        Ok(Self {
            at,
            objects: slab.objects.into(),
            // fixup_red_left()
            first: first.offset(raw.red_left_pad.unwrap_or(0).into()),
            size: raw.size.into(),
            raw: slab,
        })
    }

    /// Which object holds an address.
    fn index(&self, at: GuestVirt) -> Option<u64> {
        let offset = at.0.checked_sub(self.first.0)?;
        let index = offset.checked_div(self.size)?;
        (index < self.objects).then_some(index)
    }

    fn object(&self, index: u64) -> GuestVirt {
        self.first.offset(index.wrapping_mul(self.size))
    }

    /// Whether an object begins at an address.
    pub(super) fn begins(&self, at: GuestVirt) -> bool {
        self.index(at).is_some_and(|index| self.object(index) == at)
    }
}

/// A cache with its objects: all slabs are found by their pages, since full ones are on no list.
pub(super) fn of_cache(kernel: &Kernel, at: GuestVirt) -> Result<SlabObjects> {
    let reader = Reader::new(kernel)?;
    let (cache, cpus, nodes) = reader.cache(at)?;
    let raw = reader.raw(at)?;
    let what = format!("what CPUs hold of the slab cache {}", cache.name);
    let held = settle(&what, || free::held(kernel, at, &raw).map(Some))?;
    let memmap = MemMap::of(kernel)?;
    let mut objects = Vec::new();
    let ram = kernel.space().memory().ranges().iter();
    let ram = ram.fold(0_u64, |sum, range| sum.saturating_add(range.len));
    let bound = usize::try_from(ram / u64::from(raw.size)).unwrap_or(usize::MAX);
    for range in kernel.space().memory().ranges() {
        let end = range.start.0.saturating_add(range.len) / PAGE_SIZE;
        let mut pfn = range.start.0 / PAGE_SIZE;
        while pfn < end {
            check_interrupt();
            let (cache_of, order) = memmap.slab_of(pfn)?;
            if cache_of == Some(at) {
                objects.extend(in_use(&memmap, memmap.pfn_to_page(pfn), at, &raw, &held)?);
            }
            if objects.len() > bound {
                return Err(Error::TooLong {
                    what: "slab cache",
                    at,
                    bound,
                });
            }
            pfn += 1 << order;
        }
    }
    Ok(SlabObjects {
        cache,
        cpus,
        nodes,
        objects,
    })
}

/// The objects of a slab that are in use; none if it is no slab of this cache any more.
fn in_use(
    memmap: &MemMap,
    slab: GuestVirt,
    at: GuestVirt,
    cache: &Raw,
    held: &[u64],
) -> Result<Vec<GuestVirt>> {
    settle(&format!("the slab at {slab}"), || {
        let Ok(slab) = SlabAt::of(memmap, slab, at, cache) else {
            return Ok(Some(Vec::new()));
        };
        let mut free = free::follow(memmap.kernel(), cache, &slab, slab.raw.freelist)?;
        free.sort_unstable();
        let is_free = |object: &GuestVirt| {
            free.binary_search(&object.0).is_ok() || held.binary_search(&object.0).is_ok()
        };
        let all = (0..slab.objects).map(|index| slab.object(index));
        Ok(Some(all.filter(|object| !is_free(object)).collect()))
    })
}

/// The object that holds an address.
pub(super) fn at(kernel: &Kernel, at: GuestVirt) -> Result<Option<SlabObject>> {
    let memmap = MemMap::of(kernel)?;
    let phys = kernel.virt_to_phys(at)?;
    // Objects are used by their addresses in the direct map.
    if kernel.phys_to_virt(phys)? != at {
        return Ok(None);
    }
    settle(&format!("the slab of {at}"), || {
        let Some(head) = memmap.slab(phys.0 / PAGE_SIZE)? else {
            return Ok(Some(None));
        };
        object(&memmap, memmap.pfn_to_page(head), at).map(Some)
    })
}

fn object(memmap: &MemMap, slab_at: GuestVirt, at: GuestVirt) -> Result<Option<SlabObject>> {
    let kernel = memmap.kernel();
    let reader = Reader::new(kernel)?;
    let cache_at = Plan::<RawSlab>::new(kernel)?.load(slab_at)?.slab_cache;
    let raw = reader.raw(cache_at)?;
    let slab = SlabAt::of(memmap, slab_at, cache_at, &raw)?;
    // Behind the last object there may be a rest.
    let Some(index) = slab.index(at) else {
        return Ok(None);
    };
    let object = slab.object(index);
    let free = free::follow(kernel, &raw, &slab, slab.raw.freelist)?;
    let held = free::held(kernel, cache_at, &raw)?;
    let cache = reader.name(cache_at)?;
    Ok(Some(SlabObject {
        at: object,
        offset: at.0 - object.0,
        c_type: types::of_cache(kernel, &cache, raw.object_size),
        merged: raw.merged(),
        cache,
        cache_at,
        slab: slab_at,
        index,
        size: raw.object_size,
        in_use: !free.contains(&object.0) && held.binary_search(&object.0).is_err(),
    }))
}
