//! From a path to its dentry: `path_lookup()` over what the dentry cache has (`fs/namei.c`, `include/linux/dcache.h`).

use crate::cell::check_interrupt;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::sched::Task;
use crate::structures::{hlist_for_each_entry, list_for_each_entry, offset_of, settle};
use crate::{Error, Result};

/// Dentries of one directory that are looked at.
const CHILD_BOUND: usize = 1 << 22;
/// Symbolic links that are followed: `MAXSYMLINKS`.
const LINKS: usize = 40;
/// Names of a path, those of its links included.
const STEPS: usize = 4096;
/// `PATH_MAX`
const PATH_MAX: usize = 4096;

/// Where a path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The `struct mount` that it is seen through.
    pub mount: GuestVirt,
    /// Its dentry.
    pub dentry: GuestVirt,
    /// Its inode.
    pub inode: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct dentry")]
struct Dentry {
    d_parent: GuestVirt,
    #[mirror(member = "d_name.len")]
    len: u32,
    #[mirror(member = "d_name.name")]
    name: GuestVirt,
    d_inode: GuestVirt,
    /// NULL once its file was deleted.
    #[mirror(member = "d_hash.pprev")]
    pprev: GuestVirt,
}

#[derive(Debug, Clone, Mirror)]
#[mirror(c = "struct mount")]
struct Mount {
    mnt_parent: GuestVirt,
    mnt_mountpoint: GuestVirt,
    #[mirror(member = "mnt.mnt_root")]
    root: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct inode")]
struct Inode {
    i_mode: u16,
    /// Where a short link's target is; other links have something else here, or nothing.
    i_link: GuestVirt,
}

impl Guest {
    /// Where an absolute path leads in a task's eyes, symbolic links followed.
    ///
    /// Only the dentry cache is looked at: a name that nothing has used since it was dropped from there is not found.
    pub fn path_lookup(&self, task: &Task, path: &str) -> Result<Found> {
        let fs = self.task_pointer(task, "fs", "root directory")?;
        let kernel = self.kernel()?;
        let mounts = self.mounts(task.pid)?;
        settle(&format!("the path {path}"), || {
            Lookup::new(&kernel, fs, mounts.iter().map(|mount| mount.at))?
                .walk(path)
                .map(Some)
        })
    }
}

struct Lookup<'k> {
    kernel: &'k Kernel,
    dentry: Plan<Dentry>,
    mounts: Vec<(GuestVirt, Mount)>,
    root: (GuestVirt, GuestVirt),
    /// The members that link a directory's children: a list before 6.8.
    hlist: Option<(u64, u64)>,
    list: Option<(u64, u64)>,
}

impl<'k> Lookup<'k> {
    fn new(
        kernel: &'k Kernel,
        fs: GuestVirt,
        mounts: impl Iterator<Item = GuestVirt>,
    ) -> Result<Self> {
        let at = |c: &str, member: &str| offset_of(kernel, c, member);
        let child = |member: &str| at("struct dentry", member).ok();
        let word = |at: GuestVirt| kernel.read_u64(at).map(GuestVirt);
        let plan = Plan::<Mount>::new(kernel)?;
        let embedded = at("struct mount", "mnt")?;
        let vfsmount = word(fs.offset(at("struct fs_struct", "root.mnt")?))?;
        let dentry = word(fs.offset(at("struct fs_struct", "root.dentry")?))?;
        let mounts: Result<_> = mounts.map(|at| Ok((at, plan.load(at)?))).collect();
        Ok(Self {
            kernel,
            dentry: Plan::new(kernel)?,
            mounts: mounts?,
            root: (vfsmount.back(embedded), dentry),
            hlist: child("d_children").zip(child("d_sib")),
            list: child("d_subdirs").zip(child("d_child")),
        })
    }

    fn walk(&self, path: &str) -> Result<Found> {
        if !path.starts_with('/') {
            return Err(Error::Other(format!(
                "`{path}` is no absolute path: write it from the root on"
            )));
        }
        let mut names: Vec<String> = components(path);
        let mut at = self.root;
        let (mut links, mut done) = (0, String::new());
        for _ in 0..STEPS {
            let Some(name) = names.pop() else {
                let inode = self.dentry.load(at.1)?.d_inode;
                return Ok(Found {
                    mount: at.0,
                    dentry: at.1,
                    inode,
                });
            };
            if name == ".." {
                at = self.up(at)?;
                continue;
            }
            let child = self
                .child(at.1, &name)?
                .ok_or_else(|| absent(&done, &name))?;
            if let Some(target) = self.link(child)? {
                links += 1;
                if links > LINKS {
                    return Err(Error::Other(format!("{path} has too many symbolic links")));
                }
                if target.starts_with('/') {
                    (at, done) = (self.root, String::new());
                }
                names.extend(components(&target));
                continue;
            }
            done = format!("{done}/{name}");
            at = self.through((at.0, child));
        }
        Err(Error::Other(format!("{path} is too long a path")))
    }

    /// What is mounted on a dentry, the topmost of it; the dentry itself where nothing is.
    fn through(&self, mut at: (GuestVirt, GuestVirt)) -> (GuestVirt, GuestVirt) {
        for _ in 0..self.mounts.len() {
            let on =
                |(_, mount): &&(GuestVirt, Mount)| (mount.mnt_parent, mount.mnt_mountpoint) == at;
            match self.mounts.iter().find(on) {
                Some((mount, raw)) if *mount != at.0 => at = (*mount, raw.root),
                _ => break,
            }
        }
        at
    }

    /// The directory above.
    fn up(&self, mut at: (GuestVirt, GuestVirt)) -> Result<(GuestVirt, GuestVirt)> {
        for _ in 0..self.mounts.len() {
            if at == self.root {
                return Ok(at);
            }
            match self.mounts.iter().find(|(mount, _)| *mount == at.0) {
                Some((mount, raw)) if raw.root == at.1 && raw.mnt_parent != *mount => {
                    at = (raw.mnt_parent, raw.mnt_mountpoint);
                }
                _ => break,
            }
        }
        Ok((at.0, self.dentry.load(at.1)?.d_parent))
    }

    fn child(&self, directory: GuestVirt, name: &str) -> Result<Option<GuestVirt>> {
        let is = |at: Result<GuestVirt>| -> Result<Option<GuestVirt>> {
            let at = at?;
            Ok(self.is(at, name)?.then_some(at))
        };
        let kernel = self.kernel;
        let found = match (self.hlist, self.list) {
            (Some((head, member)), _) => {
                hlist_for_each_entry(kernel, directory.offset(head), member)
                    .bound(CHILD_BOUND)
                    .find_map(|at| is(at).transpose())
            }
            (None, Some((head, member))) => {
                list_for_each_entry(kernel, directory.offset(head), member)
                    .bound(CHILD_BOUND)
                    .find_map(|at| is(at).transpose())
            }
            (None, None) => None,
        };
        found.transpose()
    }

    /// Whether the dentry at `at` has this name and a file.
    fn is(&self, at: GuestVirt, name: &str) -> Result<bool> {
        check_interrupt();
        let dentry = self.dentry.load(at)?;
        if dentry.len as usize != name.len() || dentry.d_inode.is_null() || dentry.pprev.is_null() {
            return Ok(false);
        }
        let mut bytes = vec![0; name.len()];
        self.kernel.read(dentry.name, &mut bytes)?;
        Ok(bytes == name.as_bytes())
    }

    /// The target, if the dentry is a symbolic link's.
    fn link(&self, dentry: GuestVirt) -> Result<Option<String>> {
        let inode = self.dentry.load(dentry)?.d_inode;
        let raw: Inode = self.kernel.load(inode)?;
        // S_IFLNK of include/uapi/linux/stat.h
        if raw.i_mode & 0xf000 != 0xa000 {
            return Ok(None);
        }
        if raw.i_link.is_null() {
            return Err(Error::Other(
                "the path has a symbolic link whose target the kernel works out when it is asked for: name the file itself".to_owned(),
            ));
        }
        Ok(Some(self.kernel.read_cstr(raw.i_link, PATH_MAX)?))
    }
}

fn absent(directory: &str, name: &str) -> Error {
    let directory = if directory.is_empty() { "/" } else { directory };
    Error::Other(format!(
        "the dentry cache has no `{name}` in {directory}: it does not exist, or nothing has used it lately"
    ))
}

/// The names of a path, the last first.
fn components(path: &str) -> Vec<String> {
    let names = path
        .split('/')
        .filter(|name| !name.is_empty() && *name != ".");
    names.rev().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_off_the_end() {
        assert_eq!(components("//a/./b/../c/"), ["c", "..", "b", "a"]);
        assert!(components("/").is_empty());
    }
}
