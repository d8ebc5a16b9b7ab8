//! What is mounted: `mnt_namespace`, `mount` (`fs/mount.h`, `fs/proc_namespace.c`).

use serde::Serialize;

use super::d_path::{dentry_path, path_of};
use super::kind::dev;
use crate::Listing;
use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{list_for_each_entry, offset_of, rbtree_for_each_entry, settle};

/// Mounts that a namespace may have, as far as we read: `fs.mount-max` is 100000 by default.
const MOUNT_BOUND: usize = 1 << 20;
/// `MNT_CURSOR`: no mount, but a reader's place in the list of older kernels (`include/linux/mount.h`).
const MNT_CURSOR: u32 = 0x1000_0000;
/// `MNT_*` of `include/linux/mount.h`, by the names of `show_mnt_opts()`.
const OPTIONS: [(u32, &str); 7] = [
    (0x01, "nosuid"),
    (0x02, "nodev"),
    (0x04, "noexec"),
    (0x08, "noatime"),
    (0x10, "nodiratime"),
    (0x20, "relatime"),
    (0x80, "nosymfollow"),
];
/// `MNT_READONLY`
const READONLY: u32 = 0x40;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where the `struct mount` lies.
    pub at: GuestVirt,
    /// `mnt_id`
    pub id: i32,
    /// The `mnt_id` of the mount that it is mounted on; its own for the root.
    pub parent: i32,
    /// The file system's device: major and minor number.
    pub dev: (u32, u32),
    /// Which directory of the file system is mounted.
    pub root: String,
    /// Where, from the root of the namespace.
    pub path: String,
    /// Its options, as `mount` takes them: `rw,nosuid`.
    pub options: String,
    /// The file system's type.
    pub fs_type: String,
    /// What was mounted: a device's path, or any name.
    pub source: String,
    /// Where its `super_block` lies.
    pub sb: GuestVirt,
}

/// The mounts of a namespace.
pub type Mounts = Listing<Mount>;

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct mount")]
struct Raw {
    mnt_id: i32,
    mnt_parent: GuestVirt,
    mnt_ns: GuestVirt,
    mnt_devname: GuestVirt,
    #[mirror(member = "mnt.mnt_root")]
    root: GuestVirt,
    #[mirror(member = "mnt.mnt_sb")]
    sb: GuestVirt,
    #[mirror(member = "mnt.mnt_flags")]
    flags: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct super_block")]
struct SuperBlock {
    s_dev: u32,
    s_type: GuestVirt,
    s_subtype: GuestVirt,
}

/// The mounts of the `mnt_namespace` at `ns`.
pub(super) fn read(kernel: &Kernel, ns: GuestVirt) -> Result<Mounts> {
    let plan = Plan::<Raw>::new(kernel)?;
    settle(&format!("the mount namespace at {ns}"), || {
        let before = addresses(kernel, ns)?;
        let mut mounts = Vec::with_capacity(before.len());
        for at in &before {
            let raw = plan.load(*at)?;
            if raw.flags & MNT_CURSOR != 0 {
                continue;
            }
            if raw.mnt_ns != ns {
                return Ok(None);
            }
            mounts.push(mount(kernel, &plan, *at, &raw)?);
        }
        Ok((addresses(kernel, ns)? == before).then_some(Listing::from(mounts)))
    })
}

/// The mounts in their order: a red-black tree since they have unique numbers, a list before.
fn addresses(kernel: &Kernel, ns: GuestVirt) -> Result<Vec<GuestVirt>> {
    let offset = |c: &str, path: &str| offset_of(kernel, c, path);
    // Not by `mounts`, which counted them when they were a list.
    match offset("struct mount", "mnt_node") {
        Ok(node) => {
            let root = offset("struct mnt_namespace", "mounts")?;
            rbtree_for_each_entry(kernel, ns.offset(root), node)
                .bound(MOUNT_BOUND)
                .collect()
        }
        Err(_) => {
            let head = ns.offset(offset("struct mnt_namespace", "list")?);
            list_for_each_entry(kernel, head, offset("struct mount", "mnt_list")?)
                .bound(MOUNT_BOUND)
                .collect()
        }
    }
}

fn mount(kernel: &Kernel, plan: &Plan<Raw>, at: GuestVirt, raw: &Raw) -> Result<Mount> {
    let sb: SuperBlock = kernel.load(raw.sb)?;
    let name = sb
        .s_type
        .offset(offset_of(kernel, "struct file_system_type", "name")?);
    let mut fs_type = kernel.read_cstr(GuestVirt(kernel.read_u64(name)?), 64)?;
    if !sb.s_subtype.is_null() {
        fs_type = format!("{fs_type}.{}", kernel.read_cstr(sb.s_subtype, 64)?);
    }
    let source = match raw.mnt_devname.is_null() {
        true => "none".to_owned(),
        false => kernel.read_cstr(raw.mnt_devname, 4096)?,
    };
    let vfsmount = at.offset(offset_of(kernel, "struct mount", "mnt")?);
    Ok(Mount {
        at,
        id: raw.mnt_id,
        parent: plan.load(raw.mnt_parent)?.mnt_id,
        dev: dev(sb.s_dev),
        root: dentry_path(kernel, raw.root)?,
        path: path_of(kernel, vfsmount, raw.root)?,
        options: options(raw.flags),
        fs_type,
        source,
        sb: raw.sb,
    })
}

fn options(flags: u32) -> String {
    let first = if flags & READONLY != 0 { "ro" } else { "rw" };
    let set = OPTIONS.iter().filter(|(bit, _)| flags & bit != 0);
    std::iter::once(first)
        .chain(set.map(|(_, name)| *name))
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_of_mountinfo() {
        assert_eq!(options(0), "rw");
        assert_eq!(options(0x27), "rw,nosuid,nodev,noexec,relatime");
        assert_eq!(options(0x41), "ro,nosuid");
    }
}
