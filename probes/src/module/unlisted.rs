//! Modules that the list does not have: found by the other places that the kernel keeps modules in.

use super::MODULE_BOUND;
use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{checked_list, offset_of, rbtree_for_each_entry};

/// The modules of sysfs and of the tree of module memory that are not among these.
pub(super) fn find(kernel: &Kernel, listed: &[GuestVirt]) -> Result<Vec<GuestVirt>> {
    let mut found = of_sysfs(kernel)?;
    found.extend(of_tree(kernel)?);
    found.sort_unstable();
    found.dedup();
    found.retain(|module| !listed.contains(module));
    Ok(found)
}

/// Those of `/sys/module`: the kset `module_kset`. Code that is built into the kernel has objects there without a module.
fn of_sysfs(kernel: &Kernel) -> Result<Vec<GuestVirt>> {
    // A kernel without sysfs has none.
    let Some(kset) = kernel.symbols()?.lookup("module_kset") else {
        return Ok(Vec::new());
    };
    let kset = GuestVirt(kernel.read_u64(kset)?);
    let head = kset.offset(offset_of(kernel, "struct kset", "list")?);
    let of = |member| offset_of(kernel, "struct module_kobject", member);
    let (entry, module) = (of("kobj.entry")?, of("mod")?);
    let mut modules = Vec::new();
    for at in checked_list(kernel, head, entry, MODULE_BOUND)? {
        let module = GuestVirt(kernel.read_u64(at.offset(module))?);
        if !module.is_null() {
            modules.push(module);
        }
    }
    Ok(modules)
}

/// Those whose memory is in the tree that the kernel looks addresses up in: `mod_tree` (`kernel/module/tree_lookup.c`).
fn of_tree(kernel: &Kernel) -> Result<Vec<GuestVirt>> {
    // A kernel without CONFIG_MODULES_TREE_LOOKUP looks along the list.
    let (Some(tree), Ok(root)) = (
        kernel.symbols()?.lookup("mod_tree"),
        offset_of(kernel, "struct mod_tree_root", "root"),
    ) else {
        return Ok(Vec::new());
    };
    let root = tree.offset(root);
    let of = |member| offset_of(kernel, "struct latch_tree_root", member);
    // A latch: while one of the two trees is changed, readers take the other one, by the lowest bit of the counter.
    let seq = of("seq.seqcount.sequence").or_else(|_| of("seq.sequence"))?;
    let which = kernel.read_u32(root.offset(seq))? & 1;
    let tree = root.offset(of(&format!("tree[{which}]"))?);
    let c = "struct mod_tree_node";
    let node = offset_of(kernel, c, &format!("node.node[{which}]"))?;
    let module = offset_of(kernel, c, "mod")?;
    rbtree_for_each_entry(kernel, tree, node)
        .bound(MODULE_BOUND)
        .map(|at| kernel.read_u64(at?.offset(module)).map(GuestVirt))
        .collect()
}
