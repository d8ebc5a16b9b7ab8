//! Free objects: the lists of slabs, and what CPUs and nodes keep at hand.

use std::sync::Arc;

use serde::Serialize;

use super::cache::Raw;
use super::objects::{RawSlab, SlabAt};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::mmzone;
use crate::object::{Mirror, Plan};
use crate::page::MemMap;
use crate::structures::{array, list_for_each_entry, offset_of, online_cpus};
use crate::{Error, Result};

/// Slabs of one partial list that are read at most.
const SLAB_BOUND: usize = 1 << 22;
/// Objects that a sheaf may have, as far as we read: the kernel makes them of some dozens.
const SHEAF_BOUND: u32 = 1 << 12;

/// What a CPU keeps of a cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CpuSlab {
    /// The CPU.
    pub cpu: u32,
    /// The slab that it allocates from; kernels since 7.0 have none.
    pub slab: Option<GuestVirt>,
    /// Objects on the list that it allocates from.
    pub free: u64,
    /// Objects of that slab that other CPUs have freed.
    pub remote_free: u64,
    /// Partial slabs that it keeps.
    pub partial_slabs: u64,
    /// Free objects of these.
    pub partial_free: u64,
    /// Objects in its main sheaf.
    pub main: u64,
    /// Objects in its spare sheaf.
    pub spare: u64,
    /// Objects in the sheaf that waits for the end of an RCU grace period: freed, and in use until then.
    pub rcu: u64,
}

/// What a node has of a cache: its `kmem_cache_node`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NodeSlab {
    /// The node.
    pub node: u32,
    /// Where its `kmem_cache_node` lies.
    pub at: GuestVirt,
    /// Slabs.
    pub slabs: u64,
    /// Objects of all slabs.
    pub objects: u64,
    /// Slabs on its partial list.
    pub partial_slabs: u64,
    /// Free objects of these.
    pub partial_free: u64,
    /// Full sheaves in its barn.
    pub barn_full: u64,
    /// Empty sheaves in its barn.
    pub barn_empty: u64,
    /// Objects in the full ones.
    pub barn_objects: u64,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct kmem_cache_cpu")]
struct Cpu {
    freelist: GuestVirt,
    slab: GuestVirt,
    /// Not there without CONFIG_SLUB_CPU_PARTIAL.
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

/// Where the members lie, worked out once for a kernel.
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

/// Where a cache has its node structures and barns.
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

/// What the CPUs keep of the cache at `at`.
pub(super) fn cpus(kernel: &Kernel, at: GuestVirt, cache: &Raw) -> Result<Vec<CpuSlab>> {
    let mut all = Vec::new();
    for cpu in online_cpus(kernel)? {
        let mut kept = CpuSlab {
            cpu,
            ..CpuSlab::default()
        };
        if let Some(slabs) = cache.cpu_slab.filter(|at| !at.is_null()) {
            let raw: Cpu = kernel.load(kernel.per_cpu(slabs, cpu)?)?;
            kept.slab = (!raw.slab.is_null()).then_some(raw.slab);
            if !raw.slab.is_null() {
                kept.free = on_cpu(kernel, at, cache, &raw)?.len() as u64;
                kept.remote_free = Plan::<RawSlab>::new(kernel)?.load(raw.slab)?.free();
            }
            for (slab, _) in partial(kernel, raw.partial.unwrap_or_default())? {
                kept.partial_slabs += 1;
                kept.partial_free += slab.free();
            }
        }
        if let Some(sheaves) = cache.cpu_sheaves.filter(|at| !at.is_null()) {
            let raw: Sheaves = kernel.load(kernel.per_cpu(sheaves, cpu)?)?;
            let size = |at| sheaf(kernel, at).map(|objects| objects.len() as u64);
            (kept.main, kept.spare) = (size(raw.main)?, size(raw.spare)?);
            kept.rcu = size(raw.rcu_free)?;
        }
        all.push(kept);
    }
    Ok(all)
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

/// The objects in a sheaf.
fn sheaf(kernel: &Kernel, at: GuestVirt) -> Result<Vec<u64>> {
    let layout = Layout::of(kernel)?;
    let Some(layout) = layout.sheaf.filter(|_| !at.is_null()) else {
        return Ok(Vec::new());
    };
    let size = kernel.read_u32(at.offset(layout.size))?;
    if size > SHEAF_BOUND {
        return Err(Error::Broken {
            what: "sheaf",
            at,
            why: format!("it has {size} objects"),
        });
    }
    let mut bytes = vec![0; size as usize * 8];
    kernel.read(at.offset(layout.objects), &mut bytes)?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

/// Where the cache's node structures and barns lie, by node.
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

/// What the nodes have of the cache at `cache`.
pub(super) fn nodes(kernel: &Kernel, cache: GuestVirt) -> Result<Vec<NodeSlab>> {
    let plan = Plan::<RawSlab>::new(kernel)?;
    let layout = Layout::of(kernel)?;
    let mut nodes = Vec::new();
    for (node, at, barn) in node_pointers(kernel, cache)? {
        let raw: Node = kernel.load(at)?;
        let mut had = NodeSlab {
            node,
            at,
            slabs: raw.nr_slabs.unwrap_or(0),
            objects: raw.total_objects.unwrap_or(0),
            partial_slabs: raw.nr_partial,
            ..NodeSlab::default()
        };
        let (head, member) = layout.partial;
        for slab in list_for_each_entry(kernel, at.offset(head), member).bound(SLAB_BOUND) {
            had.partial_free += plan.load(slab?)?.free();
        }
        if let Some(sheaf) = layout.sheaf.filter(|_| !barn.is_null()) {
            let count = |member| kernel.read_u32(barn.offset(member)).map(u64::from);
            (had.barn_full, had.barn_empty) = (count(sheaf.barn.1)?, count(sheaf.barn.2)?);
            had.barn_objects = in_barn(kernel, barn)?.len() as u64;
        }
        nodes.push(had);
    }
    Ok(nodes)
}

/// The objects in the full sheaves of a barn.
fn in_barn(kernel: &Kernel, barn: GuestVirt) -> Result<Vec<u64>> {
    let mut objects = Vec::new();
    if let Some(layout) = Layout::of(kernel)?.sheaf.filter(|_| !barn.is_null()) {
        let head = barn.offset(layout.barn.0);
        for at in list_for_each_entry(kernel, head, layout.barn_list).bound(SHEAF_BOUND as usize) {
            objects.extend(sheaf(kernel, at?)?);
        }
    }
    Ok(objects)
}

/// The free objects of a cache that no slab's own list has: those that CPUs and barns hold. An object that waits for the
/// end of a grace period is not free yet.
pub(super) fn held(kernel: &Kernel, at: GuestVirt, cache: &Raw) -> Result<Vec<u64>> {
    let mut objects = Vec::new();
    for cpu in online_cpus(kernel)? {
        if let Some(slabs) = cache.cpu_slab.filter(|at| !at.is_null()) {
            let raw: Cpu = kernel.load(kernel.per_cpu(slabs, cpu)?)?;
            objects.extend(on_cpu(kernel, at, cache, &raw)?);
        }
        if let Some(sheaves) = cache.cpu_sheaves.filter(|at| !at.is_null()) {
            let raw: Sheaves = kernel.load(kernel.per_cpu(sheaves, cpu)?)?;
            objects.extend(sheaf(kernel, raw.main)?);
            objects.extend(sheaf(kernel, raw.spare)?);
        }
    }
    for (_, _, barn) in node_pointers(kernel, at)? {
        objects.extend(in_barn(kernel, barn)?);
    }
    objects.sort_unstable();
    Ok(objects)
}
