//! Modules that the list does not have: found by the other places that the kernel keeps modules in.

use super::MODULE_BOUND;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{offset_of, rbtree_for_each_entry, whole_list};
use crate::{Error, Listing, Result};

/// The modules of sysfs and of the tree of module memory that are not among these.
pub(super) fn find(kernel: &Kernel, listed: &[GuestVirt]) -> Listing<GuestVirt> {
    let mut found = Listing::new();
    for (what, modules) in [
        ("the modules of sysfs", of_sysfs(kernel)),
        ("the tree of module memory", of_tree(kernel)),
    ] {
        match modules {
            Ok(modules) => found.append(modules),
            Err(error) => found.miss(what, &error),
        }
    }
    found.items.sort_unstable();
    found.items.dedup();
    found.items.retain(|module| !listed.contains(module));
    found
}

/// Modules of `/sys/module`: the kset `module_kset`. Code that is built into the kernel has objects there without a
/// module.
fn of_sysfs(kernel: &Kernel) -> Result<Listing<GuestVirt>> {
    // A kernel without sysfs has none.
    let Some(kset) = kernel.symbols()?.lookup("module_kset") else {
        return Ok(Listing::new());
    };
    let kset = GuestVirt(kernel.read_u64(kset)?);
    let head = kset.offset(offset_of(kernel, "struct kset", "list")?);
    let of = |member| offset_of(kernel, "struct module_kobject", member);
    let (entry, module) = (of("kobj.entry")?, of("mod")?);
    let objects = whole_list(kernel, head, entry, MODULE_BOUND, "the list of module_kset");
    let mut modules = Listing::new();
    modules.missing = objects.missing;
    for at in objects.items {
        match kernel.read_u64(at.offset(module)) {
            Ok(0) => {}
            Ok(module) => modules.items.push(GuestVirt(module)),
            Err(error) => modules.miss(format!("the module_kobject at {at}"), &error),
        }
    }
    Ok(modules)
}

/// Modules whose memory is in the tree that the kernel looks addresses up in: `mod_tree`
/// (`kernel/module/tree_lookup.c`).
fn of_tree(kernel: &Kernel) -> Result<Listing<GuestVirt>> {
    // A kernel without CONFIG_MODULES_TREE_LOOKUP looks along the list.
    let Some(tree) = kernel.symbols()?.lookup("mod_tree") else {
        return Ok(Listing::new());
    };
    let root = match offset_of(kernel, "struct mod_tree_root", "root") {
        Ok(root) => tree.offset(root),
        Err(Error::NoMember { .. } | Error::NoType { .. }) => return Ok(Listing::new()),
        Err(error) => return Err(error),
    };
    let of = |member| offset_of(kernel, "struct latch_tree_root", member);
    // A latch: while one of the two trees is changed, readers take the other one, by the lowest bit of the counter.
    let seq = match of("seq.seqcount.sequence") {
        Err(Error::NoMember { .. }) => of("seq.sequence")?,
        found => found?,
    };
    let which = kernel.read_u32(root.offset(seq))? & 1;
    let tree = root.offset(of(&format!("tree[{which}]"))?);
    let c = "struct mod_tree_node";
    let node = offset_of(kernel, c, &format!("node.node[{which}]"))?;
    let module = offset_of(kernel, c, "mod")?;
    let walk = rbtree_for_each_entry(kernel, tree, node)
        .bound(MODULE_BOUND)
        .map(|at| kernel.read_u64(at?.offset(module)).map(GuestVirt));
    Ok(Listing::walk("the nodes", walk))
}
