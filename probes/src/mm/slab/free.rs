//! Free objects: the lists of slabs, and what CPUs and nodes keep at hand.

use std::sync::Arc;

use serde::Serialize;

use super::cache::Raw;
use super::objects::{RawSlab, SlabAt};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::mm::mmzone;
use crate::mm::page::MemMap;
use crate::object::{Mirror, Plan};
use crate::structures::{array, list_for_each_entry, offset_of, online_cpus};
use crate::{Error, Missing, Of as _, Result};

/// Slabs of one partial list that are read at most.
const SLAB_BOUND: usize = 1 << 22;
/// Objects that a sheaf may have, as far as we read: the kernel makes them of some dozens.
const SHEAF_BOUND: u32 = 1 << 12;

/// Objects of a cache that a CPU keeps. A count is `None` if it could not be read, and 0 if this kernel has no such thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CpuSlab {
    /// The CPU.
    pub cpu: u32,
    /// The slab that it allocates from; kernels since 7.0 have none.
    pub slab: Option<GuestVirt>,
    /// Objects on the list that it allocates from.
    pub free: Option<u64>,
    /// Objects of that slab that other CPUs have freed.
    pub remote_free: Option<u64>,
    /// Number of partial slabs that it keeps.
    pub partial_slabs: Option<u64>,
    /// Free objects of these.
    pub partial_free: Option<u64>,
    /// Objects in its main sheaf.
    pub main: Option<u64>,
    /// Objects in its spare sheaf.
    pub spare: Option<u64>,
    /// Objects in the sheaf that waits for the end of an RCU grace period: freed, and in use until then.
    pub rcu: Option<u64>,
}

/// Slabs of a cache that a node has: its `kmem_cache_node`. A count is `None` if it could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeSlab {
    /// The node.
    pub node: u32,
    /// Address of its `struct kmem_cache_node`.
    pub at: GuestVirt,
    /// Number of slabs; `None` also without `CONFIG_SLUB_DEBUG`.
    pub slabs: Option<u64>,
    /// Objects of all slabs; `None` also without `CONFIG_SLUB_DEBUG`.
    pub objects: Option<u64>,
    /// Number of slabs on its partial list.
    pub partial_slabs: Option<u64>,
    /// Free objects of these.
    pub partial_free: Option<u64>,
    /// Number of full sheaves in its barn; 0, as the next two, if this kernel has none.
    pub barn_full: Option<u64>,
    /// Number of empty sheaves in its barn.
    pub barn_empty: Option<u64>,
    /// Objects in the full ones.
    pub barn_objects: Option<u64>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct kmem_cache_cpu")]
struct Cpu {
    freelist: GuestVirt,
    slab: GuestVirt,
    /// Absent without CONFIG_SLUB_CPU_PARTIAL.
    partial: Option<GuestVirt>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct slub_percpu_sheaves")]
struct Sheaves {
    main: GuestVirt,
    spare: GuestVirt,
    rcu_free: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct kmem_cache_node")]
struct Node {
    nr_partial: u64,
    /// These two are not there without CONFIG_SLUB_DEBUG.
    #[mirror(member = "nr_slabs.counter")]
    nr_slabs: Option<u64>,
    #[mirror(member = "total_objects.counter")]
    total_objects: Option<u64>,
}

/// Offsets of the members, worked out once for a kernel.
#[derive(Debug)]
struct Layout {
    nodes: Nodes,
    /// `kmem_cache_node.partial`, `slab.slab_list`.
    partial: (u64, u64),
    /// `slab.next`, `slab.slabs`: kernels before 7.0, whose CPUs keep partial slabs.
    kept: Option<(u64, u64)>,
    /// Kernels since 6.18.
    sheaf: Option<SheafLayout>,
}

/// Offsets of a cache's node structures and barns.
#[derive(Debug, Clone, Copy)]
enum Nodes {
    /// An array of pairs of pointers since 7.1: where it begins, its stride, where the node and the barn are in a pair.
    Pairs(u64, u64, u64, u64),
    /// An array of pointers to nodes, which may have a pointer to a barn.
    Pointers(u64, Option<u64>),
}

#[derive(Debug, Clone, Copy)]
struct SheafLayout {
    size: u64,
    /// Offset of the pointer to its cache, in bytes.
    cache: Option<u64>,
    objects: u64,
    barn_list: u64,
    /// `node_barn.sheaves_full`, `nr_full`, `nr_empty`.
    barn: (u64, u64, u64),
}

impl Layout {
    fn of(kernel: &Kernel) -> Result<Arc<Self>> {
        kernel.once(|| {
            let at = |c: &str, member: &str| offset_of(kernel, c, member);
            let nodes = match array(kernel, "struct kmem_cache", "per_node") {
                Ok((first, _, stride)) => {
                    let pair = "struct kmem_cache_per_node_ptrs";
                    Nodes::Pairs(first, stride, at(pair, "node")?, at(pair, "barn")?)
                }
                Err(_) => {
                    let (first, _, _) = array(kernel, "struct kmem_cache", "node")?;
                    Nodes::Pointers(first, at("struct kmem_cache_node", "barn").ok())
                }
            };
            let sheaf = |member| at("struct slab_sheaf", member);
            let barn = |member| at("struct node_barn", member);
            let sheaf = match sheaf("size") {
                Ok(size) => Some(SheafLayout {
                    size,
                    cache: sheaf("cache").ok(),
                    objects: sheaf("objects")?,
                    barn_list: sheaf("barn_list")?,
                    barn: (barn("sheaves_full")?, barn("nr_full")?, barn("nr_empty")?),
                }),
                Err(_) => None,
            };
            let slab = |member| at("struct slab", member);
            Ok(Self {
                nodes,
                partial: (at("struct kmem_cache_node", "partial")?, slab("slab_list")?),
                kept: slab("next").ok().zip(slab("slabs").ok()),
                sheaf,
            })
        })
    }
}

/// Follows a list of free objects: each must lie in its slab, where an object begins. Gives their addresses.
pub(super) fn follow(
    kernel: &Kernel,
    cache: &Raw,
    slab: &SlabAt,
    first: GuestVirt,
) -> Result<Vec<u64>> {
    let mut free = Vec::new();
    let mut at = first;
    while !at.is_null() {
        let broken = |why: String| Error::Broken {
            what: "list of free objects",
            at: slab.at,
            why,
        };
        if !slab.begins(at) {
            return Err(broken(format!("{at} is none of its objects")));
        }
        if free.len() as u64 >= slab.objects {
            return Err(broken(
                "it has more than the slab has objects: a loop".to_owned(),
            ));
        }
        free.push(at.0);
        let link = at.offset(cache.offset.into());
        // freelist_ptr_decode()
        let secret = cache
            .random
            .map_or(0, |random| random ^ link.0.swap_bytes());
        at = GuestVirt(kernel.read_u64(link)? ^ secret);
    }
    Ok(free)
}

/// Lists what the CPUs keep of the cache at `at`. Parts that cannot be read are noted in `missing`.
pub(super) fn cpus(
    kernel: &Kernel,
    at: GuestVirt,
    cache: &Raw,
    missing: &mut Vec<Missing>,
) -> Result<Vec<CpuSlab>> {
    let mut all = Vec::new();
    for cpu in online_cpus(kernel)? {
        let on_slabs = match cache.cpu_slab.filter(|at| !at.is_null()) {
            Some(slabs) => {
                let name = || format!("the kmem_cache_cpu of CPU {cpu} at {slabs} (per CPU)");
                on_slabs(kernel, at, cache, (slabs, cpu), missing, &name)
            }
            None => OnSlabs::none(),
        };
        let mut kept = CpuSlab {
            cpu,
            slab: on_slabs.slab,
            free: on_slabs.free,
            remote_free: on_slabs.remote_free,
            partial_slabs: on_slabs.partial.map(|(slabs, _)| slabs),
            partial_free: on_slabs.partial.map(|(_, free)| free),
            main: Some(0),
            spare: Some(0),
            rcu: Some(0),
        };
        if let Some(sheaves) = cache.cpu_sheaves.filter(|at| !at.is_null()) {
            let name = |what: &str| format!("the {what} sheaf of CPU {cpu}");
            let raw = kernel
                .per_cpu(sheaves, cpu)
                .and_then(|at| kernel.load::<Sheaves>(at));
            let raw = raw.or_miss(missing, || {
                format!("the cpu_sheaves of CPU {cpu} at {sheaves} (per CPU)")
            });
            let mut size = |sheaf_at: Option<GuestVirt>, what| {
                let objects = sheaf(kernel, at, cache, sheaf_at?);
                let objects = objects.or_miss(missing, || name(what));
                objects.map(|objects| objects.len() as u64)
            };
            let raw = raw.as_ref();
            kept.main = size(raw.map(|raw| raw.main), "main");
            kept.spare = size(raw.map(|raw| raw.spare), "spare");
            kept.rcu = size(raw.map(|raw| raw.rcu_free), "rcu_free");
        }
        all.push(kept);
    }
    Ok(all)
}

/// Slabs that a CPU keeps: the one that it allocates from, and partial ones.
struct OnSlabs {
    slab: Option<GuestVirt>,
    free: Option<u64>,
    remote_free: Option<u64>,
    /// Number of partial slabs, and of their free objects.
    partial: Option<(u64, u64)>,
}

impl OnSlabs {
    const fn none() -> Self {
        Self {
            slab: None,
            free: Some(0),
            remote_free: Some(0),
            partial: Some((0, 0)),
        }
    }
}

fn on_slabs(
    kernel: &Kernel,
    at: GuestVirt,
    cache: &Raw,
    (slabs, cpu): (GuestVirt, u32),
    missing: &mut Vec<Missing>,
    name: &dyn Fn() -> String,
) -> OnSlabs {
    let mut kept = OnSlabs::none();
    let raw = kernel
        .per_cpu(slabs, cpu)
        .and_then(|at| kernel.load::<Cpu>(at))
        .or_miss(missing, name);
    let Some(raw) = raw else {
        (kept.free, kept.remote_free, kept.partial) = (None, None, None);
        return kept;
    };
    if !raw.slab.is_null() {
        kept.slab = Some(raw.slab);
        let free = on_cpu(kernel, at, cache, &raw);
        kept.free = free.or_miss(missing, name).map(|free| free.len() as u64);
        let own = Plan::<RawSlab>::new(kernel).and_then(|plan| plan.load(raw.slab));
        kept.remote_free = own.or_miss(missing, name).map(|slab| slab.free());
    }
    let of_slabs = partial(kernel, raw.partial.unwrap_or_default()).or_miss(missing, name);
    kept.partial = of_slabs.map(|slabs| {
        let free = slabs.iter().map(|(slab, _)| slab.free());
        (slabs.len() as u64, free.fold(0, u64::saturating_add))
    });
    kept
}

/// The free objects on the list that a CPU allocates from.
fn on_cpu(kernel: &Kernel, at: GuestVirt, cache: &Raw, cpu: &Cpu) -> Result<Vec<u64>> {
    if cpu.slab.is_null() {
        return Ok(Vec::new());
    }
    let slab = SlabAt::of(&MemMap::of(kernel)?, cpu.slab, at, cache)?;
    follow(kernel, cache, &slab, cpu.freelist)
}

/// The partial slabs that a CPU keeps, from the first on.
fn partial(kernel: &Kernel, first: GuestVirt) -> Result<Vec<(RawSlab, GuestVirt)>> {
    let mut slabs = Vec::new();
    if first.is_null() {
        return Ok(slabs);
    }
    let plan = Plan::<RawSlab>::new(kernel)?;
    let Some((next, left)) = Layout::of(kernel)?.kept else {
        return Ok(slabs);
    };
    let mut at = first;
    let mut last = u32::MAX;
    while !at.is_null() {
        // Each says how many there are from it on: what does not fall is a loop.
        let count = kernel.read_u32(at.offset(left))?;
        if count >= last {
            let why = format!("it counts {count} slabs, the one before it {last}");
            return Err(Error::Broken {
                what: "list of a CPU's partial slabs",
                at,
                why,
            });
        }
        last = count;
        slabs.push((plan.load(at)?, at));
        at = GuestVirt(kernel.read_u64(at.offset(next))?);
    }
    Ok(slabs)
}

/// The objects in a sheaf of the cache at `cache`. It must name that cache, and have no more objects than the cache's
/// sheaves can, none of them twice.
fn sheaf(kernel: &Kernel, cache: GuestVirt, raw: &Raw, at: GuestVirt) -> Result<Vec<u64>> {
    let layout = Layout::of(kernel)?;
    let Some(layout) = layout.sheaf.filter(|_| !at.is_null()) else {
        return Ok(Vec::new());
    };
    let broken = |why: String| Error::Broken {
        what: "sheaf",
        at,
        why,
    };
    let size = kernel.read_u32(at.offset(layout.size))?;
    let most = raw.sheaf_capacity.unwrap_or(SHEAF_BOUND).min(SHEAF_BOUND);
    if size > most {
        return Err(broken(format!(
            "it has {size} objects, and a sheaf of this cache holds {most}"
        )));
    }
    if let Some(member) = layout.cache {
        let of = kernel.read_u64(at.offset(member))?;
        // `bootstrap_sheaf`, of caches without sheaves, is of none and always empty.
        if of != cache.0 && (of, size) != (0, 0) {
            return Err(broken(format!("its cache is {of:#x}, not {cache}")));
        }
    }
    let mut bytes = vec![0; size as usize * 8];
    kernel.read(at.offset(layout.objects), &mut bytes)?;
    let (words, _) = bytes.as_chunks::<8>();
    let objects: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    match twice_in(&objects) {
        Some(object) => Err(broken(format!("it has the object {object:#x} twice"))),
        None => Ok(objects),
    }
}

/// An address that is in there twice.
fn twice_in(objects: &[u64]) -> Option<u64> {
    let mut sorted = objects.to_vec();
    sorted.sort_unstable();
    let pair = sorted.windows(2).find(|pair| pair[0] == pair[1]);
    pair.map(|pair| pair[0])
}

/// Addresses of the cache's node structures and barns, by node.
fn node_pointers(kernel: &Kernel, cache: GuestVirt) -> Result<Vec<(u32, GuestVirt, GuestVirt)>> {
    let layout = Layout::of(kernel)?;
    let word = |at: GuestVirt| kernel.read_u64(at).map(GuestVirt);
    let mut all = Vec::new();
    for id in mmzone::online_nodes(kernel)? {
        let (node, barn) = match layout.nodes {
            Nodes::Pairs(first, stride, node, barn) => {
                let pair = cache.offset(first.wrapping_add(stride.wrapping_mul(id.into())));
                (word(pair.offset(node))?, word(pair.offset(barn))?)
            }
            Nodes::Pointers(first, barn) => {
                let node = word(cache.offset(first.wrapping_add(8 * u64::from(id))))?;
                match barn.filter(|_| !node.is_null()) {
                    Some(member) => (node, word(node.offset(member))?),
                    None => (node, GuestVirt(0)),
                }
            }
        };
        if !node.is_null() {
            all.push((id, node, barn));
        }
    }
    Ok(all)
}

/// Lists what the nodes have of the cache at `cache`. Parts that cannot be read are noted in `missing`.
pub(super) fn nodes(
    kernel: &Kernel,
    cache: GuestVirt,
    cache_raw: &Raw,
    missing: &mut Vec<Missing>,
) -> Result<Vec<NodeSlab>> {
    let plan = Plan::<RawSlab>::new(kernel)?;
    let layout = Layout::of(kernel)?;
    let mut nodes = Vec::new();
    for (node, at, barn) in node_pointers(kernel, cache)? {
        let name = |what: &str| format!("{what} of node {node}, kmem_cache_node at {at}");
        let raw = kernel.load::<Node>(at).or_miss(missing, || name("what"));
        let raw = raw.as_ref();
        let mut had = NodeSlab {
            node,
            at,
            slabs: raw.and_then(|raw| raw.nr_slabs),
            objects: raw.and_then(|raw| raw.total_objects),
            partial_slabs: raw.map(|raw| raw.nr_partial),
            partial_free: None,
            barn_full: Some(0),
            barn_empty: Some(0),
            barn_objects: Some(0),
        };
        let (head, member) = layout.partial;
        let walk = |nr_partial| {
            let (mut free, mut count) = (0_u64, 0_u64);
            for slab in list_for_each_entry(kernel, at.offset(head), member).bound(SLAB_BOUND) {
                free = free.saturating_add(plan.load(slab?)?.free());
                count += 1;
            }
            // add_partial() and remove_partial() change both.
            match count == nr_partial {
                true => Ok(free),
                false => Err(Error::Broken {
                    what: "partial list",
                    at: at.offset(head),
                    why: format!("it has {count} slabs, its nr_partial says {nr_partial}"),
                }),
            }
        };
        had.partial_free = had
            .partial_slabs
            .and_then(|count| walk(count).or_miss(missing, || name("the partial list")));
        if let Some(sheaf) = layout.sheaf.filter(|_| !barn.is_null()) {
            let count = |member| kernel.read_u32(barn.offset(member)).map(u64::from);
            had.barn_full = count(sheaf.barn.1).or_miss(missing, || name("the barn"));
            had.barn_empty = count(sheaf.barn.2).or_miss(missing, || name("the barn"));
            let objects = in_barn(kernel, cache, cache_raw, barn);
            let objects = objects.or_miss(missing, || name("the full sheaves"));
            had.barn_objects = objects.map(|objects| objects.len() as u64);
        }
        nodes.push(had);
    }
    Ok(nodes)
}

/// The objects in the full sheaves of a barn.
fn in_barn(kernel: &Kernel, cache: GuestVirt, raw: &Raw, barn: GuestVirt) -> Result<Vec<u64>> {
    let mut objects = Vec::new();
    if let Some(layout) = Layout::of(kernel)?.sheaf.filter(|_| !barn.is_null()) {
        let head = barn.offset(layout.barn.0);
        for at in list_for_each_entry(kernel, head, layout.barn_list).bound(SHEAF_BOUND as usize) {
            objects.extend(sheaf(kernel, cache, raw, at?)?);
        }
    }
    Ok(objects)
}

/// The free objects of a cache that no slab's own list has: those that CPUs and barns hold. An object that waits for the
/// end of a grace period is not free yet. What of them cannot be read is noted in `missing`: objects of it count as in use.
pub(super) fn held(
    kernel: &Kernel,
    at: GuestVirt,
    cache: &Raw,
    missing: &mut Vec<Missing>,
) -> Result<Vec<u64>> {
    let mut objects = Vec::new();
    for cpu in online_cpus(kernel)? {
        if let Some(slabs) = cache.cpu_slab.filter(|at| !at.is_null()) {
            let kept = kernel
                .per_cpu(slabs, cpu)
                .and_then(|slab| on_cpu(kernel, at, cache, &kernel.load(slab)?));
            let kept = kept.or_miss(missing, || format!("the slab of CPU {cpu}"));
            objects.extend(kept.unwrap_or_default());
        }
        if let Some(sheaves) = cache.cpu_sheaves.filter(|at| !at.is_null()) {
            let raw = kernel
                .per_cpu(sheaves, cpu)
                .and_then(|at| kernel.load::<Sheaves>(at));
            if let Some(raw) = raw.or_miss(missing, || format!("the cpu_sheaves of CPU {cpu}")) {
                for (what, sheaf_at) in [("main", raw.main), ("spare", raw.spare)] {
                    let kept = sheaf(kernel, at, cache, sheaf_at);
                    let kept = kept.or_miss(missing, || format!("the {what} sheaf of CPU {cpu}"));
                    objects.extend(kept.unwrap_or_default());
                }
            }
        }
    }
    for (node, _, barn) in node_pointers(kernel, at)? {
        let kept = in_barn(kernel, at, cache, barn);
        let kept = kept.or_miss(missing, || format!("the full sheaves of node {node}"));
        objects.extend(kept.unwrap_or_default());
    }
    if let Some(object) = twice_in(&objects) {
        let why = format!("CPUs and nodes hold the object {object:#x} twice");
        let what = "slab cache";
        let broken: Result<()> = Err(Error::Broken { what, at, why });
        broken.or_miss(missing, || "free objects");
    }
    objects.sort_unstable();
    Ok(objects)
}
