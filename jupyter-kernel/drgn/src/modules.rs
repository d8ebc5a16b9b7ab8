//! The kernel's modules, for what drgn keeps of them.

use probes::Guest;
use probes::kernel::Kernel;
use probes::memory::GuestVirt;
use probes::object::Mirror;

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

/// The modules that are loaded, hidden ones too.
pub(crate) fn loaded(guest: &Guest, kernel: &Kernel) -> probes::Result<Vec<Loaded>> {
    let mut all = Vec::new();
    for module in guest.modules()? {
        let Sysfs { folder } = kernel.load(module.at)?;
        let id = if folder.is_null() {
            0
        } else {
            kernel.load::<Folder>(folder)?.id
        };
        all.push((module.name, module.at.0, id));
    }
    Ok(all)
}
