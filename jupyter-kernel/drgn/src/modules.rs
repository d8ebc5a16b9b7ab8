//! The kernel's modules, as drgn keeps them.

use probes::kernel::Kernel;
use probes::memory::GuestVirt;
use probes::object::Mirror;
use probes::{Guest, Listing};

/// Name of a module, address of its `struct module`, and a number that no other module has had since the boot, nor the
/// same one when it was loaded before: that of its folder in sysfs. 0 for a module that has none.
pub(crate) type Loaded = (String, u64, u64);

#[derive(Debug, Mirror)]
#[mirror(c = "struct module")]
struct Sysfs {
    #[mirror(member = "mkobj.kobj.sd")]
    folder: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct kernfs_node")]
struct Folder {
    id: u64,
}

/// The modules that are loaded, hidden ones too; those that cannot be read are missing.
pub(crate) fn loaded(guest: &Guest, kernel: &Kernel) -> probes::Result<Listing<Loaded>> {
    let modules = guest.modules()?;
    let mut all = Listing::new();
    all.missing.extend(modules.missing);
    for module in modules.items {
        let id = folder(kernel, module.at).map(|id| (module.name.clone(), module.at.0, id));
        all.take(id, || {
            format!("module {}, its folder in sysfs", module.name)
        });
    }
    Ok(all)
}

fn folder(kernel: &Kernel, module: GuestVirt) -> probes::Result<u64> {
    let Sysfs { folder } = kernel.load(module)?;
    if folder.is_null() {
        return Ok(0);
    }
    Ok(kernel.load::<Folder>(folder)?.id)
}
