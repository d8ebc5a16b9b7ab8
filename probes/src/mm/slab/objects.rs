//! The objects of slabs: which are in use, and which one an address lies in.

use serde::Serialize;

use super::cache::{Raw, Reader, SlabCache};
use super::free::{self, CpuSlab, NodeSlab};
use super::types;
use crate::base::check_interrupt;
use crate::kernel::Kernel;
use crate::memory::{GuestPhys, GuestVirt, PAGE_SIZE};
use crate::mm::page::MemMap;
use crate::object::{Mirror, Plan};
use crate::structures::{settle, settle_all};
use crate::{Error, Missing, Of as _, Result};

/// `MAX_OBJS_PER_PAGE`: the counter has 15 bits.
const MAX_OBJECTS: u32 = 32767;

/// A cache with the objects of it that are in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlabObjects {
    /// The cache.
    pub cache: SlabCache,
    /// Objects that each online CPU keeps.
    pub cpus: Vec<CpuSlab>,
    /// Slabs that each node has.
    pub nodes: Vec<NodeSlab>,
    /// Addresses of the objects in use, ascending.
    pub objects: Vec<GuestVirt>,
    /// Parts that could not be read: objects of slabs that are named here are not among the objects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// An object of a slab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlabObject {
    /// Address of its first byte.
    pub at: GuestVirt,
    /// Offset in it of the address that was asked for, in bytes.
    pub offset: u64,
    /// Its cache's name.
    pub cache: String,
    /// Address of the cache's `struct kmem_cache`.
    pub cache_at: GuestVirt,
    /// Its `struct slab`.
    pub slab: GuestVirt,
    /// Number of the object in its slab, from 0.
    pub index: u64,
    /// Bytes of it.
    pub size: u32,
    /// True if it is in use; `None` where a list that would tell is broken.
    pub in_use: Option<bool>,
    /// Its C type, where the cache's name tells it; of a merged cache it may be another's object.
    pub c_type: Option<String>,
    /// True if other caches of its size were merged with the cache.
    pub merged: bool,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
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

/// Place and layout of a slab's objects.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlabAt {
    /// Its `struct slab`.
    pub(super) at: GuestVirt,
    /// Number of its objects.
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

    /// Finds the object that holds an address.
    fn index(&self, at: GuestVirt) -> Option<u64> {
        let offset = at.0.checked_sub(self.first.0)?;
        let index = offset.checked_div(self.size)?;
        (index < self.objects).then_some(index)
    }

    fn object(&self, index: u64) -> GuestVirt {
        self.first.offset(index.wrapping_mul(self.size))
    }

    /// Checks that its list of free objects is as long as its counters say: `objects - inuse`. The list of a slab that
    /// a CPU allocates from is the CPU's, and `inuse` counts all its objects then.
    fn counts(&self, free: usize) -> Result<()> {
        let counted = self.raw.free();
        if free as u64 == counted {
            return Ok(());
        }
        Err(Error::Broken {
            what: "slab",
            at: self.at,
            why: format!("{free} objects are on its freelist, its counters say {counted}"),
        })
    }

    /// Tells whether an object begins at an address.
    pub(super) fn begins(&self, at: GuestVirt) -> bool {
        self.index(at).is_some_and(|index| self.object(index) == at)
    }
}

/// A cache with its objects: all slabs are found by their pages, since full ones are on no list. A slab that cannot be
/// read is named, and hides no other.
pub(super) fn of_cache(kernel: &Kernel, at: GuestVirt) -> Result<SlabObjects> {
    let reader = Reader::new(kernel)?;
    let what = format!("the objects of the slab cache at {at}");
    let (mut all, missing) = settle_all(&what, || whole(&reader, at).map(Some))?;
    all.missing = missing;
    Ok(all)
}

/// One look at all of it.
fn whole(reader: &Reader<'_>, at: GuestVirt) -> Result<(SlabObjects, Vec<Missing>)> {
    let kernel = reader.kernel;
    let (kept, mut missing) = reader.cache(at)?;
    let raw = reader.raw(at)?;
    // Objects of CPUs that cannot be read were named with the cache.
    let held = free::held(kernel, at, &raw, &mut Vec::new())?;
    let memmap = MemMap::of(kernel)?;
    let (mut objects, mut slabs) = (Vec::new(), 0);
    let ram = kernel.space().memory().ranges().iter();
    let ram = ram.fold(0_u64, |sum, range| sum.saturating_add(range.len));
    let bound = usize::try_from(ram / u64::from(raw.size)).unwrap_or(usize::MAX);
    for range in kernel.space().memory().ranges() {
        let end = range.start.0.saturating_add(range.len) / PAGE_SIZE;
        let mut pfn = range.start.0 / PAGE_SIZE;
        while pfn < end {
            check_interrupt();
            let Some((cache_of, order)) = memmap
                .slab_of(pfn)
                .or_miss(&mut missing, || format!("the page {pfn:#x}"))
            else {
                pfn += 1;
                continue;
            };
            if cache_of == Some(at) {
                slabs += 1;
                let slab = memmap.pfn_to_page(pfn);
                let found = in_use(&memmap, slab, at, &raw, &held);
                let found = found.or_miss(&mut missing, || format!("the slab at {slab}"));
                objects.extend(found.unwrap_or_default());
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
    // inc_slabs_node() counts each slab that has pages.
    if let Some(counted) = kept.cache.slabs
        && slabs != counted
    {
        let why = format!("{slabs} slabs were found by their pages, its nr_slabs says {counted}");
        let what = "slab cache";
        let broken: Result<()> = Err(Error::Broken { what, at, why });
        broken.or_miss(&mut missing, || "its slabs");
    }
    let all = SlabObjects {
        cache: kept.cache,
        cpus: kept.cpus,
        nodes: kept.nodes,
        objects,
        missing: Vec::new(),
    };
    Ok((all, missing))
}

/// The objects of a slab that are in use; none if it became a slab of another cache, or none at all, meanwhile.
fn in_use(
    memmap: &MemMap,
    slab: GuestVirt,
    at: GuestVirt,
    cache: &Raw,
    held: &[u64],
) -> Result<Vec<GuestVirt>> {
    settle(&format!("the slab at {slab}"), || {
        let pfn = memmap.page_to_pfn(slab);
        let still = pfn.map(|pfn| memmap.slab_of(pfn)).transpose()?;
        if still.is_some_and(|(cache_of, _)| cache_of != Some(at)) {
            return Ok(Some(Vec::new()));
        }
        let slab = SlabAt::of(memmap, slab, at, cache)?;
        let mut free = free::follow(memmap.kernel(), cache, &slab, slab.raw.freelist)?;
        slab.counts(free.len())?;
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
    let mut missing = Vec::new();
    let free = free::follow(kernel, &raw, &slab, slab.raw.freelist)
        .or_miss(&mut missing, || "the freelist of its slab");
    let held = free::held(kernel, cache_at, &raw, &mut missing)?;
    let cache = reader
        .name(cache_at)
        .or_miss(&mut missing, || format!("its cache {cache_at}"))
        .unwrap_or_default();
    // On the part of a broken list that could be followed it is free for sure; else nobody knows.
    let is_free = held.binary_search(&object.0).is_ok()
        || free.as_ref().is_some_and(|free| free.contains(&object.0));
    let in_use = match is_free {
        true => Some(false),
        false => missing.is_empty().then_some(true),
    };
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
        in_use,
        missing,
    }))
}
