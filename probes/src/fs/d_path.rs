//! Paths of dentries: `d_path()`, `dentry_path()` (`fs/d_path.c`).

use crate::base::check_interrupt;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::structures::offset_of;
use crate::{Error, Of as _, Result};

/// Names and mounts on the way to the root, at most: `PATH_MAX` leaves room for fewer names.
const STEPS: usize = 4096;
/// The longest name: `NAME_MAX`.
const NAME_MAX: u32 = 255;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Mirror)]
#[mirror(c = "struct path")]
pub(super) struct Path {
    pub(super) mnt: GuestVirt,
    pub(super) dentry: GuestVirt,
}

/// The path of a dentry within its own file system, from that file system's root: `dentry_path()`.
///
/// # Errors
/// `Unmapped` if a dentry or its name is not in RAM; `Broken` if a name is damaged, or the parents do not end.
pub fn dentry_path(kernel: &Kernel, dentry: GuestVirt) -> Result<String> {
    let mut names = Vec::new();
    let mut at = dentry;
    for _ in 0..STEPS {
        check_interrupt();
        let dentry: Dentry = kernel.load(at).of(|| format!("the dentry {at}"))?;
        if dentry.d_parent == at {
            return Ok(join(&names, false));
        }
        names.push(name(kernel, &dentry)?);
        at = dentry.d_parent;
    }
    Err(too_long(dentry))
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct dentry")]
pub(super) struct Dentry {
    pub(super) d_parent: GuestVirt,
    #[mirror(member = "d_name.len")]
    pub(super) len: u32,
    #[mirror(member = "d_name.name")]
    pub(super) name: GuestVirt,
    /// NULL once the dentry is no longer hashed: its file was deleted.
    #[mirror(member = "d_hash.pprev")]
    pub(super) pprev: GuestVirt,
    d_op: GuestVirt,
    pub(super) d_inode: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct mount")]
pub(super) struct Mount {
    pub(super) mnt_parent: GuestVirt,
    pub(super) mnt_mountpoint: GuestVirt,
    #[mirror(member = "mnt.mnt_root")]
    pub(super) root: GuestVirt,
}

/// The path of the `struct path` at `path`, from the root of its mount namespace, as the kernel prints it: a deleted
/// file ends in ` (deleted)`, and files of pseudo file systems have names such as `socket:[17]`.
///
/// # Errors
/// As [`dentry_path`]; the same for the mounts above it.
pub fn d_path(kernel: &Kernel, path: GuestVirt) -> Result<String> {
    let path: Path = kernel.load(path)?;
    path_of(kernel, path.mnt, path.dentry)
}

/// The path of a dentry that is seen through the `struct vfsmount` at `mnt`.
pub(super) fn path_of(kernel: &Kernel, mnt: GuestVirt, at: GuestVirt) -> Result<String> {
    let path = Path { mnt, dentry: at };
    let dentry: Dentry = kernel.load(path.dentry)?;
    let embedded = offset_of(kernel, "struct mount", "mnt")?;
    // The root of a mount lies where it is mounted, whatever its file system makes up.
    let mounted = kernel.load::<Mount>(path.mnt.back(embedded))?.root == path.dentry;
    if let (false, Some(name)) = (mounted, dname(kernel, &dentry)?) {
        return Ok(name);
    }
    let deleted = dentry.pprev.is_null() && dentry.d_parent != path.dentry;
    let mut names = Vec::new();
    let (mut at, mut mnt) = (path.dentry, path.mnt.back(embedded));
    for _ in 0..STEPS {
        check_interrupt();
        let mount: Mount = kernel.load(mnt).of(|| format!("the mount {mnt}"))?;
        let dentry: Dentry = kernel.load(at).of(|| format!("the dentry {at}"))?;
        if at == mount.root {
            if mount.mnt_parent == mnt {
                return Ok(join(&names, deleted));
            }
            (at, mnt) = (mount.mnt_mountpoint, mount.mnt_parent);
        } else if dentry.d_parent == at {
            // The root of a file system that is not where its mount begins: detached from the tree.
            return Ok(join(&names, deleted));
        } else {
            names.push(name(kernel, &dentry)?);
            at = dentry.d_parent;
        }
    }
    Err(too_long(path.dentry))
}

const fn too_long(at: GuestVirt) -> Error {
    Error::TooLong {
        what: "path",
        at,
        bound: STEPS,
    }
}

/// Text that the kernel puts after the path of a deleted file.
const DELETED: &str = " (deleted)";

fn join(names: &[String], deleted: bool) -> String {
    let mut path = String::new();
    for name in names.iter().rev() {
        path.push('/');
        path.push_str(name);
    }
    if path.is_empty() {
        path.push('/');
    }
    match (deleted, path.strip_suffix(DELETED)) {
        (true, _) => path.push_str(DELETED),
        // A name may end as the kernel marks deleted files: the blank as a byte tells it apart.
        (false, Some(name)) => path = format!("{name}\\x20(deleted)"),
        (false, None) => {}
    }
    path
}

pub(super) fn name(kernel: &Kernel, dentry: &Dentry) -> Result<String> {
    if dentry.len > NAME_MAX {
        let why = format!("it has {} bytes, a name has at most {NAME_MAX}", dentry.len);
        return Err(Error::broken("dentry's name", dentry.name, why));
    }
    let mut bytes = vec![0; dentry.len as usize];
    kernel
        .read(dentry.name, &mut bytes)
        .of(|| format!("a dentry's d_name.name {}", dentry.name))?;
    Ok(crate::text_of(&bytes))
}

/// The name that a pseudo file system makes up: `d_op->d_dname`, told by the function it points to.
fn dname(kernel: &Kernel, dentry: &Dentry) -> Result<Option<String>> {
    if dentry.d_op.is_null() {
        return Ok(None);
    }
    let function = kernel.read_u64(dentry.d_op.offset(offset_of(
        kernel,
        "struct dentry_operations",
        "d_dname",
    )?))?;
    if function == 0 {
        return Ok(None);
    }
    let is = |symbol: &str| {
        kernel
            .symbols()
            .map(|symbols| symbols.lookup(symbol) == Some(GuestVirt(function)))
    };
    let numbered = |kind: &str| -> Result<String> {
        let ino = kernel.read_u64(dentry.d_inode.offset(offset_of(
            kernel,
            "struct inode",
            "i_ino",
        )?))?;
        Ok(format!("{kind}:[{ino}]"))
    };
    Ok(Some(if is("simple_dname")? {
        format!("/{} (deleted)", name(kernel, dentry)?)
    } else if is("anon_inodefs_dname")? {
        format!("anon_inode:{}", name(kernel, dentry)?)
    } else if is("sockfs_dname")? {
        numbered("socket")?
    } else if is("pipefs_dname")? {
        numbered("pipe")?
    } else if is("ns_dname")? {
        // The inode's i_private is the namespace's ns_common, whose operations have the name.
        let read = |at: GuestVirt, c: &str, path: &str| {
            let at = at.offset(offset_of(kernel, c, path)?);
            kernel.read_u64(at).map(GuestVirt)
        };
        let ns = read(dentry.d_inode, "struct inode", "i_private")?;
        let ops = read(ns, "struct ns_common", "ops")?;
        let kind = read(ops, "struct proc_ns_operations", "name")?;
        numbered(&kernel.read_cstr(kind, 32)?)?
    } else if is("pidfs_dname")? {
        "anon_inode:[pidfd]".to_owned()
    } else {
        name(kernel, dentry)?
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_joined_from_the_root() {
        let names = ["busybox", "bin"].map(str::to_owned);
        assert_eq!(join(&names, false), "/bin/busybox");
        assert_eq!(join(&names, true), "/bin/busybox (deleted)");
        assert_eq!(join(&[], false), "/");
        let odd = ["x (deleted)".to_owned()];
        assert_eq!(join(&odd, true), "/x (deleted) (deleted)");
        assert_eq!(crate::bytes_of(&join(&odd, false)), b"/x (deleted)");
        assert_ne!(join(&odd, false), join(&["x".to_owned()], true));
    }
}
