//! The slab allocator: caches of objects of one size, the slabs that they are cut from, and which objects are in use
//! (`include/linux/slub_def.h`, `mm/slab.h`, `mm/slub.c`).
//!
//! ```no_run
//! # use probes::Guest;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! let tasks = guest.slab_objects("task_struct")?;
//! println!("{} of {:?} objects are in use", tasks.objects.len(), tasks.cache.objects);
//! # Ok(())
//! # }
//! ```
//!
//! A free object is on the list of its slab or, to be used again soon, in the hands of a CPU: on the list of the slab that
//! the CPU allocates from and on slabs that it keeps, or in its sheaves since 6.18; full sheaves wait in a node's barn. The
//! links of a list are stored XORed with a secret of the cache and their own address (`CONFIG_SLAB_FREELIST_HARDENED`). A
//! running guest allocates and frees all the time: each slab is read whole, all of them are those of one instant only
//! while the guest is paused.

mod cache;
mod free;
mod objects;
mod types;
mod view;

pub use cache::{FreeObjects, SlabCache, SlabCaches};
pub use free::{CpuSlab, NodeSlab};
pub use objects::{SlabObject, SlabObjects};

use cache::Reader;

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::{Error, Of as _, Result};

impl Guest {
    /// The slab object that holds a kernel address, and its cache; `None` for an address that no slab has.
    ///
    /// # Errors
    /// `Unmapped` or `Broken` if the slab or its cache is damaged; `Torn` if it keeps changing.
    pub fn slab_object(&self, at: GuestVirt) -> Result<Option<SlabObject>> {
        objects::at(&self.kernel()?, at)
    }
}

/// A cache by its name, what CPUs and nodes keep of it, and the objects of it that are in use.
pub(crate) fn slab_objects(kernel: &Kernel, name: &str) -> Result<SlabObjects> {
    objects::of_cache(kernel, find(kernel, name)?)
}

/// All slab caches, the last made first: `/proc/slabinfo`.
pub(crate) fn slab_caches(kernel: &Kernel) -> Result<SlabCaches> {
    cache::all(kernel)
}

/// Finds the address of the `kmem_cache` of this name.
fn find(kernel: &Kernel, name: &str) -> Result<GuestVirt> {
    let reader = Reader::new(kernel)?;
    let (mut nearest, mut unnamed) = (None, None);
    let caches = cache::addresses(kernel)?;
    for at in &caches {
        let known = match reader.name(*at) {
            Ok(known) => known,
            // It may be the one.
            Err(error) => {
                unnamed.get_or_insert((*at, error));
                continue;
            }
        };
        if known == name {
            return Ok(*at);
        }
        if known.contains(name) || name.contains(&known) {
            nearest.get_or_insert(known);
        }
    }
    if let Some(missing) = caches.missing.first() {
        return Err(Error::Broken {
            what: "list of slab caches",
            at: missing.at.unwrap_or_default(),
            why: format!("`{name}` is not before the damage: {missing}"),
        });
    }
    if let Some((at, error)) = unnamed {
        return Err(error).of(|| {
            format!("no cache whose name can be read is called `{name}`; the name of the kmem_cache {at}")
        });
    }
    let hint = nearest.map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    Err(Error::Absent(format!(
        "there is no slab cache `{name}`: `klab slab` lists those there are, and one that was merged with another of its size goes by that one's name{hint}"
    )))
}
