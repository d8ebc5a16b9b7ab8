//! `struct kmem_cache`, and how many objects it has.

use serde::Serialize;

use super::free::{self, CpuSlab, NodeSlab};
use super::types;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{list_for_each_entry, offset_of, settle_all};
use crate::{Error, Listing, Missing, Of as _, Result};

/// Caches that a kernel may have, as far as we read.
const CACHE_BOUND: usize = 1 << 16;
/// `OO_SHIFT`: the order of a slab is above, the objects of one are below.
const OO_SHIFT: u32 = 16;

/// Objects that are free, by where they wait. `None`: a part of it could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FreeObjects {
    /// On slabs of the nodes' partial lists.
    pub partial: Option<u64>,
    /// On the lists that CPUs allocate from.
    pub cpu: Option<u64>,
    /// Freed by other CPUs, of the slabs that CPUs allocate from.
    pub remote: Option<u64>,
    /// On partial slabs that CPUs keep.
    pub cpu_partial: Option<u64>,
    /// In the sheaves of CPUs.
    pub sheaves: Option<u64>,
    /// In the full sheaves of the nodes' barns.
    pub barns: Option<u64>,
}

impl FreeObjects {
    /// Number of all of them.
    #[must_use]
    pub fn sum(&self) -> Option<u64> {
        sum([self.partial, self.on_cpus(), self.barns])
    }

    /// Objects that CPUs keep.
    #[must_use]
    pub fn on_cpus(&self) -> Option<u64> {
        sum([self.cpu, self.remote, self.cpu_partial, self.sheaves])
    }
}

/// The sum, if all are known.
fn sum(numbers: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    numbers
        .into_iter()
        .try_fold(0u64, |sum, number| Some(sum.saturating_add(number?)))
}

/// A slab cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlabCache {
    /// Address of its `struct kmem_cache`.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
    /// The C type of its objects, where that is known; of a merged cache only what the name says.
    pub c_type: Option<String>,
    /// Bytes that were asked for.
    pub object_size: u32,
    /// Bytes from one object to the next.
    pub size: u32,
    /// Alignment of an object, in bytes.
    pub align: u32,
    /// Objects of a slab.
    pub objects_per_slab: u32,
    /// A slab has `1 << order` pages.
    pub order: u32,
    /// Number of caches that share it: more than one where others of its size were merged with it.
    pub refcount: i32,
    /// Slabs. `None`, as the next two: it could not be read of a node, or this kernel does not count it.
    pub slabs: Option<u64>,
    /// Objects that the slabs have, in use or free.
    pub objects: Option<u64>,
    /// Slabs on the nodes' partial lists.
    pub partial_slabs: Option<u64>,
    /// The free ones among the objects.
    pub free: FreeObjects,
}

impl SlabCache {
    /// Objects that are not on a node's partial slab: `active_objs` of `/proc/slabinfo`, which counts what CPUs keep.
    #[must_use]
    pub fn active(&self) -> Option<u64> {
        Some(self.objects?.saturating_sub(self.free.partial?))
    }

    /// Objects that are in use.
    #[must_use]
    pub fn in_use(&self) -> Option<u64> {
        Some(self.objects?.saturating_sub(self.free.sum()?))
    }

    /// Bytes of all its slabs.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        Some(
            self.slabs?
                .saturating_mul(crate::memory::PAGE_SIZE << self.order),
        )
    }
}

/// Slab caches.
pub type SlabCaches = Listing<SlabCache>;

#[derive(Debug, Clone, PartialEq, Eq, Mirror)]
#[mirror(c = "struct kmem_cache")]
pub(super) struct Raw {
    pub(super) size: u32,
    pub(super) object_size: u32,
    /// Offset in a free object of the link to the next one, in bytes.
    pub(super) offset: u32,
    #[mirror(member = "oo.x")]
    oo: u32,
    refcount: i32,
    align: u32,
    /// Kernels since 6.18.
    pub(super) sheaf_capacity: Option<u32>,
    pub(super) red_left_pad: Option<u32>,
    name: GuestVirt,
    /// Absent without CONFIG_SLAB_FREELIST_HARDENED.
    pub(super) random: Option<u64>,
    /// Kernels before 7.0.
    pub(super) cpu_slab: Option<GuestVirt>,
    /// Kernels since 6.18.
    pub(super) cpu_sheaves: Option<GuestVirt>,
}

impl Raw {
    /// Checked: no size of a hostile guest divides by zero or makes a slab larger than RAM can hold.
    fn check(self, at: GuestVirt) -> Result<Self> {
        let sound = self.size > 0 && self.offset < self.size && self.order() <= 10;
        if sound && self.objects_per_slab() > 0 {
            return Ok(self);
        }
        let why = format!(
            "its objects have {} bytes, their link at {}, and its slabs order {}",
            self.size,
            self.offset,
            self.order()
        );
        Err(Error::Broken {
            what: "slab cache",
            at,
            why,
        })
    }

    /// Tells whether other caches were merged with it.
    pub(super) const fn merged(&self) -> bool {
        self.refcount > 1
    }

    pub(super) const fn order(&self) -> u32 {
        self.oo >> OO_SHIFT
    }

    const fn objects_per_slab(&self) -> u32 {
        self.oo & ((1 << OO_SHIFT) - 1)
    }
}

/// Reads caches of one kernel.
pub(super) struct Reader<'k> {
    pub(super) kernel: &'k Kernel,
    raw: Plan<Raw>,
}

impl<'k> Reader<'k> {
    pub(super) fn new(kernel: &'k Kernel) -> Result<Self> {
        Ok(Self {
            kernel,
            raw: Plan::new(kernel)?,
        })
    }

    pub(super) fn raw(&self, at: GuestVirt) -> Result<Raw> {
        self.raw.load(at)?.check(at)
    }

    pub(super) fn name(&self, at: GuestVirt) -> Result<String> {
        let name = self.raw.load(at)?.name;
        self.kernel
            .read_cstr(name, 128)
            .of(|| format!("its name at {name}"))
    }

    /// The cache with what its CPUs and nodes keep, and what of that cannot be read.
    pub(super) fn cache(&self, at: GuestVirt) -> Result<(Kept, Vec<Missing>)> {
        let (name, mut unnamed) = match self.name(at) {
            Ok(name) => (name, Vec::new()),
            // The rest of it may be whole.
            Err(error) => (format!("?{at}"), vec![Missing::new("", &error)]),
        };
        let (kept, missing) = settle_all(&format!("the slab cache {name}"), || {
            self.read(at, &name).map(Some)
        })?;
        unnamed.extend(missing);
        Ok((kept, unnamed))
    }

    fn read(&self, at: GuestVirt, name: &str) -> Result<(Kept, Vec<Missing>)> {
        let raw = self.raw(at)?;
        let mut missing = Vec::new();
        let cpus = free::cpus(self.kernel, at, &raw, &mut missing)?;
        let nodes = free::nodes(self.kernel, at, &raw, &mut missing)?;
        let of_nodes = |of: fn(&NodeSlab) -> Option<u64>| sum(nodes.iter().map(of));
        let of_cpus = |of: fn(&CpuSlab) -> Option<u64>| sum(cpus.iter().map(of));
        let cache = SlabCache {
            at,
            c_type: types::of_cache(self.kernel, name, raw.object_size),
            name: name.to_owned(),
            object_size: raw.object_size,
            size: raw.size,
            align: raw.align,
            objects_per_slab: raw.objects_per_slab(),
            order: raw.order(),
            refcount: raw.refcount,
            slabs: of_nodes(|node| node.slabs),
            objects: of_nodes(|node| node.objects),
            partial_slabs: of_nodes(|node| node.partial_slabs),
            free: FreeObjects {
                partial: of_nodes(|node| node.partial_free),
                cpu: of_cpus(|cpu| cpu.free),
                remote: of_cpus(|cpu| cpu.remote_free),
                cpu_partial: of_cpus(|cpu| cpu.partial_free),
                sheaves: of_cpus(|cpu| Some(cpu.main?.saturating_add(cpu.spare?))),
                barns: of_nodes(|node| node.barn_objects),
            },
        };
        let kept = Kept { cache, cpus, nodes };
        Ok((kept, missing))
    }
}

/// A cache, and what its CPUs and nodes keep.
pub(super) struct Kept {
    pub(super) cache: SlabCache,
    pub(super) cpus: Vec<CpuSlab>,
    pub(super) nodes: Vec<NodeSlab>,
}

/// Lists the addresses of the caches.
pub(super) fn addresses(kernel: &Kernel) -> Result<Listing<GuestVirt>> {
    let head = kernel.symbol("slab_caches")?;
    let member = offset_of(kernel, "struct kmem_cache", "list")?;
    settle_all("the list of slab caches", || {
        let mut all = Listing::new();
        for at in list_for_each_entry(kernel, head, member).bound(CACHE_BOUND) {
            all.take(at, || "the rest of slab_caches");
        }
        Ok(Some(all))
    })
}

pub(super) fn all(kernel: &Kernel) -> Result<SlabCaches> {
    let reader = Reader::new(kernel)?;
    let addresses = addresses(kernel)?;
    let mut all = Listing {
        items: Vec::with_capacity(addresses.len()),
        missing: addresses.missing,
    };
    for at in addresses.items {
        let name = || match reader.name(at) {
            Ok(name) => format!("the slab cache {name} at {at}"),
            Err(_) => format!("the slab cache at {at}"),
        };
        match reader.cache(at) {
            Ok((kept, missing)) => {
                all.items.push(kept.cache);
                let of_it = missing.into_iter().map(|part| part.of(&name()));
                all.missing.extend(of_it);
            }
            Err(error) => all.miss(name(), &error),
        }
    }
    Ok(all)
}
