//! Mounts: `mnt_namespace`, `mount` (`fs/mount.h`, `fs/proc_namespace.c`).

use serde::Serialize;

use super::d_path::{dentry_path, path_of};
use super::kind::dev;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{offset_of, rbtree_for_each_entry, settle_all, whole_list};
use crate::{Error, Listing, Of as _, Result};

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
/// `OVL_MAX_STACK` of `fs/overlayfs/params.h`
const OVL_MAX_STACK: u32 = 500;
/// `MNT_READONLY`
const READONLY: u32 = 0x40;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Address of the `struct mount`.
    pub at: GuestVirt,
    /// `mnt_id`
    pub id: i32,
    /// The `mnt_id` of the mount that it is mounted on; its own for the root.
    pub parent: i32,
    /// The file system's device: major and minor number.
    pub dev: (u32, u32),
    /// Directory of the file system that is mounted.
    pub root: String,
    /// Mount point, from the root of the namespace.
    pub path: String,
    /// Its options, as `mount` takes them: `rw,nosuid`.
    pub options: String,
    /// Propagation, as in `/proc/PID/mountinfo`: `shared:2 master:1`, `unbindable`.
    pub propagation: String,
    /// The options of the file system as a whole that the kernel keeps for all types: `ro`, `sync`, `dirsync`, `lazytime`;
    /// of an overlay also its directories. Those that other types print themselves are not among them.
    pub super_options: String,
    /// Level of freezing (`fsfreeze`, a snapshot below it): writers wait.
    pub frozen: Option<&'static str>,
    /// The file system's type.
    pub fs_type: String,
    /// Source of the mount: a device's path, or any name.
    pub source: String,
    /// Address of its `struct super_block`.
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
    /// `T_*`: what `MNT_SHARED` and `MNT_UNBINDABLE` were before.
    mnt_t_flags: Option<u32>,
    mnt_group_id: i32,
    mnt_master: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct super_block")]
struct SuperBlock {
    s_dev: u32,
    s_type: GuestVirt,
    s_subtype: GuestVirt,
    s_flags: u64,
    s_fs_info: GuestVirt,
    #[mirror(member = "s_writers.frozen")]
    frozen: u32,
}

/// The mounts of the `mnt_namespace` at `ns`. Their number is held against the namespace's own.
pub(super) fn read(kernel: &Kernel, ns: GuestVirt) -> Result<Mounts> {
    let plan = Plan::<Raw>::new(kernel)?;
    settle_all(&format!("the mount namespace at {ns}"), || {
        let before = addresses(kernel, ns)?;
        let whole = before.is_whole();
        let name = |at| format!("the mount at {at}");
        let mounts = Listing::each(before.clone(), name, |at| {
            let raw = plan.load(at)?;
            if raw.flags & MNT_CURSOR != 0 {
                return Ok(Some(None));
            }
            if raw.mnt_ns != ns {
                let why = format!("its mnt_ns is {}, but it is in that of {ns}", raw.mnt_ns);
                return Err(Error::broken("mount", at, why));
            }
            let mount = mount(kernel, &plan, at, &raw)?;
            Ok((plan.load(at)? == raw).then_some(Some(mount)))
        });
        let Some(mounts) = mounts else {
            return Ok(None);
        };
        let mut mounts = Listing {
            items: mounts.items.into_iter().flatten().collect(),
            missing: mounts.missing,
        };
        let counted = count(kernel, ns)?;
        if whole && mounts.is_whole() && mounts.len() != counted as usize {
            let why = format!("it has {} mounts, it counts {counted}", mounts.len());
            mounts.miss("", &Error::broken("mnt_namespace", ns, why));
        }
        Ok((addresses(kernel, ns)? == before).then_some(mounts))
    })
}

/// Number of mounts by the namespace's own count.
fn count(kernel: &Kernel, ns: GuestVirt) -> Result<u32> {
    let c = "struct mnt_namespace";
    let member = match offset_of(kernel, c, "nr_mounts") {
        Ok(member) => member,
        Err(Error::NoMember { .. }) => offset_of(kernel, c, "mounts")?,
        Err(error) => return Err(error),
    };
    kernel.read_u32(ns.offset(member))
}

/// The mounts in their order: a red-black tree since they have unique numbers, a list before.
fn addresses(kernel: &Kernel, ns: GuestVirt) -> Result<Listing<GuestVirt>> {
    let offset = |c: &str, path: &str| offset_of(kernel, c, path);
    // Not by `mounts`, which counted them when they were a list.
    match offset("struct mount", "mnt_node") {
        Ok(node) => {
            let root = ns.offset(offset("struct mnt_namespace", "mounts")?);
            let walk = rbtree_for_each_entry(kernel, root, node).bound(MOUNT_BOUND);
            Ok(Listing::walk("the tree of mounts", walk))
        }
        Err(Error::NoMember { .. }) => {
            let head = ns.offset(offset("struct mnt_namespace", "list")?);
            let member = offset("struct mount", "mnt_list")?;
            Ok(whole_list(
                kernel,
                head,
                member,
                MOUNT_BOUND,
                "the list of mounts",
            ))
        }
        Err(error) => Err(error),
    }
}

fn mount(kernel: &Kernel, plan: &Plan<Raw>, at: GuestVirt, raw: &Raw) -> Result<Mount> {
    let sb: SuperBlock = kernel
        .load(raw.sb)
        .of(|| format!("its mnt_sb {}", raw.sb))?;
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
    let super_options = match fs_type.as_str() {
        "overlay" => {
            let of = || format!("its ovl_fs {}", sb.s_fs_info);
            format!(
                "{}{}",
                super_options(sb.s_flags),
                overlay(kernel, sb.s_fs_info).of(of)?
            )
        }
        _ => super_options(sb.s_flags),
    };
    let vfsmount = at.offset(offset_of(kernel, "struct mount", "mnt")?);
    Ok(Mount {
        at,
        id: raw.mnt_id,
        parent: plan
            .load(raw.mnt_parent)
            .of(|| format!("its mnt_parent {}", raw.mnt_parent))?
            .mnt_id,
        dev: dev(sb.s_dev),
        root: dentry_path(kernel, raw.root).of(|| format!("its mnt_root {}", raw.root))?,
        path: path_of(kernel, vfsmount, raw.root).of(|| "its path")?,
        options: options(raw.flags),
        propagation: propagation(plan, raw)?,
        super_options,
        frozen: frozen(sb.frozen),
        fs_type,
        source,
        sb: raw.sb,
    })
}

/// `show_mountinfo()` of `fs/proc_namespace.c`, without `propagate_from`.
fn propagation(plan: &Plan<Raw>, raw: &Raw) -> Result<String> {
    let (shared, unbindable) = match raw.mnt_t_flags {
        // T_SHARED, T_UNBINDABLE of fs/mount.h
        Some(flags) => (flags & 1 != 0, flags & 2 != 0),
        // MNT_SHARED, MNT_UNBINDABLE
        None => (raw.flags & 0x1000 != 0, raw.flags & 0x2000 != 0),
    };
    let mut said = Vec::new();
    if shared {
        said.push(format!("shared:{}", raw.mnt_group_id));
    }
    if !raw.mnt_master.is_null() {
        let master = plan.load(raw.mnt_master);
        let master = master.of(|| format!("its mnt_master {}", raw.mnt_master))?;
        said.push(format!("master:{}", master.mnt_group_id));
    }
    if unbindable {
        said.push("unbindable".to_owned());
    }
    Ok(said.join(" "))
}

/// `show_sb_opts()` of `fs/proc_namespace.c`.
fn super_options(flags: u64) -> String {
    // SB_RDONLY, then SB_SYNCHRONOUS, SB_DIRSYNC, SB_MANDLOCK, SB_LAZYTIME of include/linux/fs.h
    let mut said = if flags & 1 != 0 { "ro" } else { "rw" }.to_owned();
    for (bit, name) in [
        (4, ",sync"),
        (7, ",dirsync"),
        (6, ",mand"),
        (25, ",lazytime"),
    ] {
        if flags >> bit & 1 != 0 {
            said.push_str(name);
        }
    }
    said
}

/// The directories of an overlay: `ovl_show_options()`. Nothing where its module brings no types.
fn overlay(kernel: &Kernel, at: GuestVirt) -> Result<String> {
    let offset = |member: &str| match offset_of(kernel, "struct ovl_fs", member) {
        Ok(offset) => Ok(Some(offset)),
        Err(Error::NoMember { .. } | Error::NoType { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    let text = |at: GuestVirt| -> Result<String> {
        let text = GuestVirt(kernel.read_u64(at)?);
        match text.is_null() {
            true => Ok(String::new()),
            false => kernel.read_cstr(text, 4096),
        }
    };
    let mut said = String::new();
    // An array since 6.5, whose first is for the upper one; one text before.
    if let (Some(lower), Some(layers)) = (offset("config.lowerdirs")?, offset("numlayer")?) {
        let first = GuestVirt(kernel.read_u64(at.offset(lower))?);
        let layers = kernel.read_u32(at.offset(layers))?;
        if layers > OVL_MAX_STACK + 1 {
            let why = format!("it has {layers} layers");
            return Err(Error::broken("ovl_fs", at, why));
        }
        let lower = (1..u64::from(layers)).map(|layer| text(first.offset(8 * layer)));
        said = format!(",lowerdir={}", lower.collect::<Result<Vec<_>>>()?.join(":"));
    } else if let Some(lower) = offset("config.lowerdir")? {
        said = format!(",lowerdir={}", text(at.offset(lower))?);
    }
    for (member, name) in [
        ("config.upperdir", "upperdir"),
        ("config.workdir", "workdir"),
    ] {
        if let Some(member) = offset(member)? {
            let directory = text(at.offset(member))?;
            if !directory.is_empty() {
                said = format!("{said},{name}={directory}");
            }
        }
    }
    Ok(said)
}

/// `s_writers.frozen`: `SB_FREEZE_*` of `include/linux/fs/super_types.h`, by who waits.
pub(super) const fn frozen(level: u32) -> Option<&'static str> {
    match level {
        0 => None,
        1 => Some("writers wait"),
        2 => Some("writers and page faults wait"),
        3 => Some("the file system's own threads wait too"),
        _ => Some("complete"),
    }
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
        assert_eq!(super_options(0), "rw");
        assert_eq!(super_options(0x0200_0091), "ro,sync,dirsync,lazytime");
    }
}
