//! The kernel's containers, walked in guest memory.
//!
//! A walker takes the kernel, the address of the container and the offsets it needs, in bytes, and yields
//! `Result<GuestVirt>`. Every walk is bounded (each module's `*_BOUND` is the default, `.bound(n)` changes it) and
//! detects cycles; a walk that meets its bound is an error, never a silent end. After an error an iterator is over.
//!
//! A walk only needs the links that lead onwards. The `validate_*` twins check every invariant of the structure and
//! name the first node that breaks one.

mod bitmap;
mod chain;
mod guard;
mod hlist;
mod idr;
mod layout;
mod list;
mod llist;
mod maple;
mod object;
mod percpu;
mod plist;
mod rbtree;
mod sbitmap;
mod settle;
#[cfg(test)]
mod testing;
mod xarray;

pub use bitmap::{BITMAP_BOUND, bitmap, cpumask};
pub use chain::{CHAIN_BOUND, Chain, chain};
pub use hlist::{
    HLIST_BOUND, Hlist, HlistNulls, hlist_for_each, hlist_for_each_entry, hlist_nulls_for_each,
    hlist_nulls_for_each_entry, validate_hlist, validate_hlist_nulls,
};
pub use idr::{Idr, IdrLayout, idr_for_each, idr_load, validate_idr};
pub use layout::offset_of;
pub use layout::{array, enumerator};
pub use list::{LIST_BOUND, List, container_of, list_for_each, list_for_each_entry, validate_list};
pub use list::{checked_list, list_both_ways, whole_list};
pub use llist::{LLIST_BOUND, Llist, llist_for_each, llist_for_each_entry, validate_llist};
pub use maple::{
    MAPLE_BOUND, MAPLE_DEPTH, Maple, MapleEntry, MapleLayout, MapleNodeLayout, mt_for_each,
    mtree_load, validate_maple,
};
pub use percpu::cpumask_var;
pub use percpu::{online_cpus, per_cpu_ptr, possible_cpus};
pub use plist::{Plist, PlistLayout, plist_for_each, validate_plist};
pub use rbtree::{
    RBTREE_BOUND, RBTREE_DEPTH, Rbtree, rb_parent, rbtree_for_each, rbtree_for_each_entry,
    validate_rbtree,
};
pub use sbitmap::sbitmap;
pub use settle::{Lacks, lacks, settle, settle_all, twice};
pub use xarray::{
    XARRAY_BOUND, Xarray, XarrayEntry, XarrayLayout, validate_xarray, xa_for_each, xa_load,
};

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// `LIST_POISON1`: what a deleted node's `next` points to (`include/linux/poison.h`, x86-64's `POISON_POINTER_DELTA`).
pub const LIST_POISON1: u64 = 0xdead_0000_0000_0100;
/// `LIST_POISON2`: what a deleted node's `prev` or `pprev` points to.
pub const LIST_POISON2: u64 = 0xdead_0000_0000_0122;

/// Reads one pointer-sized word.
#[inline]
pub(crate) fn word(kernel: &Kernel, at: GuestVirt) -> Result<u64> {
    kernel.read_u64(at)
}

/// The error about a node that `holder` leads to and that cannot be read: damage of the structure, unless it is the source
/// of the memory that lacks it. `relation` is what `holder` says: `its next is 0x..`.
#[cold]
pub(crate) fn unreadable(
    what: &'static str,
    holder: GuestVirt,
    relation: &str,
    fault: Error,
) -> Error {
    if fault.kind().is_of_the_source() {
        return Error::In {
            what: format!("{what} at {holder}, {relation}"),
            error: Box::new(fault),
        };
    }
    Error::Broken {
        what,
        at: holder,
        why: format!("{relation}, which cannot be read: {fault}"),
    }
}

/// Reason why `value` cannot be a pointer to a node, or `None` if it may be one.
pub(crate) fn bad_pointer(value: u64) -> Option<String> {
    match value {
        0 => Some("NULL: never initialised, or zeroed".to_owned()),
        LIST_POISON1 => Some("LIST_POISON1: the node was deleted".to_owned()),
        LIST_POISON2 => Some("LIST_POISON2: the node was deleted".to_owned()),
        value if value % 8 != 0 => Some(format!("{value:#x}: not aligned, no pointer to a node")),
        _ => None,
    }
}
