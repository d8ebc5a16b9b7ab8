//! The way of a path through the dentry cache: `path_lookupat()` of `fs/namei.c`, as far as memory tells it.

use std::collections::VecDeque;

use serde::Serialize;

use super::d_path::{self, Dentry, Mount, Path, path_of};
use super::inode::{self, Inode};
use crate::base::check_interrupt;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Plan;
use crate::structures::{hlist_for_each_entry, list_for_each_entry, offset_of, twice};
use crate::{Error, ErrorKind, Of as _, Result};

/// Names of a path, at most, those of its symbolic links too: `PATH_MAX`, and `MAXSYMLINKS` times as many.
const STEPS: usize = 4096 * 40;
/// `MAXSYMLINKS` of `include/linux/namei.h`.
const MAXSYMLINKS: usize = 40;
/// Names in a directory and mounts on a mount that are looked at, at most.
const BOUND: usize = 1 << 22;
const S_IFLNK: u16 = 0xa000;

/// One name of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathStep {
    /// The name.
    pub name: String,
    /// Its dentry; where something is mounted on it, the root of that.
    pub dentry: GuestVirt,
    /// Its inode.
    pub inode: GuestVirt,
    /// The `struct mount` that it was found in.
    pub mount: GuestVirt,
    /// True if another mount begins here.
    pub mounted: bool,
    /// The inode's type, as `ls` has it.
    pub kind: char,
    /// Target of the symbolic link that was followed.
    pub link: Option<String>,
}

/// Result of looking a path up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathLookup {
    /// The path, from the root of the mount namespace and without links.
    pub path: String,
    /// The names on the way.
    pub steps: Vec<PathStep>,
    /// Its dentry.
    pub dentry: GuestVirt,
    /// The `struct mount` that it lies in.
    pub mount: GuestVirt,
    /// Its inode.
    pub inode: Inode,
}

/// Looks `path` up for the task `pid`: from its root, or from its working directory if it does not begin with `/`.
/// Symbolic links are followed, the last one too.
///
/// It is looked up in the kernel's cache of names alone: a name that nobody has used lately is not there, though the
/// file may be.
pub(crate) fn path_lookup(guest: &Guest, path: &str, pid: i32) -> Result<PathLookup> {
    let kernel = guest.kernel()?;
    twice(&format!("the way of {path}"), || {
        let task = guest.task(pid)?;
        let fs = guest.task_pointer(&task, "fs", "directories")?;
        let start = |member: &str| {
            let at = offset_of(&kernel, "struct fs_struct", member)?;
            let what = || format!("the {member} of the fs_struct {fs} of task {pid}");
            kernel.load::<Path>(fs.offset(at)).of(what)
        };
        let mut walk = Walk::new(&kernel, start("root")?)?;
        if !path.starts_with('/') {
            walk.at = start("pwd")?;
        }
        walk.run(path)
    })
}

struct Walk<'k> {
    kernel: &'k Kernel,
    dentry: Plan<Dentry>,
    root: Path,
    at: Path,
    steps: Vec<PathStep>,
    /// Offsets in `struct mount`, in bytes: its `vfsmount`, and its lists.
    embedded: u64,
    mounts: u64,
    child: u64,
}

impl<'k> Walk<'k> {
    fn new(kernel: &'k Kernel, root: Path) -> Result<Self> {
        let mount = |member| offset_of(kernel, "struct mount", member);
        Ok(Self {
            kernel,
            dentry: Plan::new(kernel)?,
            root,
            at: root,
            steps: Vec::new(),
            embedded: mount("mnt")?,
            mounts: mount("mnt_mounts")?,
            child: mount("mnt_child")?,
        })
    }

    fn run(mut self, path: &str) -> Result<PathLookup> {
        let names = |text: &str| -> Vec<String> {
            let parts = text
                .split('/')
                .filter(|name| !name.is_empty() && *name != ".");
            parts.map(str::to_owned).collect()
        };
        let mut left: VecDeque<String> = names(path).into();
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            check_interrupt();
            if self.steps.len() >= STEPS {
                return Err(Error::Invalid(format!("`{path}` has too many names")));
            }
            let before = self.at;
            let link = match self.step(&name) {
                Err(error) if error.kind() != ErrorKind::Absent => {
                    return Err(error).of(|| format!("the step to `{name}` of `{path}`"));
                }
                step => step?,
            };
            if let Some(link) = link {
                links += 1;
                if links > MAXSYMLINKS {
                    return Err(Error::Invalid(format!(
                        "`{path}` meets more than {MAXSYMLINKS} symbolic links"
                    )));
                }
                self.at = if link.starts_with('/') {
                    self.root
                } else {
                    before
                };
                for name in names(&link).into_iter().rev() {
                    left.push_front(name);
                }
            }
        }
        let of = || format!("`{path}`, the dentry {}", self.at.dentry);
        let dentry = self.dentry.load(self.at.dentry).of(of)?;
        Ok(PathLookup {
            path: path_of(self.kernel, self.at.mnt, self.at.dentry).of(of)?,
            inode: inode::read(self.kernel, dentry.d_inode).of(of)?,
            steps: self.steps,
            dentry: self.at.dentry,
            mount: self.at.mnt.back(self.embedded),
        })
    }

    /// Goes to `name`; the target if it is a symbolic link.
    fn step(&mut self, name: &str) -> Result<Option<String>> {
        let called = self.so_far(name);
        if name == ".." {
            self.up()?;
        } else {
            self.at.dentry = self.find(name)?;
        }
        let mounted = self.down()?;
        let at = self.dentry.load(self.at.dentry)?.d_inode;
        if at.is_null() {
            return Err(Error::Absent(format!(
                "there is no `{called}`: its dentry {} is negative",
                self.at.dentry
            )));
        }
        let mode = offset_of(self.kernel, "struct inode", "i_mode")?;
        let mode = self.kernel.read_u16(at.offset(mode))?;
        let link = match mode & 0xf000 == S_IFLNK {
            false => None,
            true => match inode::link(self.kernel, at)? {
                Some(link) => Some(link),
                None => {
                    return Err(Error::Absent(format!(
                        "`{called}` is a symbolic link that its file system makes up when it is followed: memory does not tell where it leads"
                    )));
                }
            },
        };
        self.steps.push(PathStep {
            name: name.to_owned(),
            dentry: self.at.dentry,
            inode: at,
            mount: self.at.mnt.back(self.embedded),
            mounted,
            kind: inode::type_letter(mode),
            link: link.clone(),
        });
        Ok(link)
    }

    /// `name` in the directory that the walk has come to.
    fn so_far(&self, name: &str) -> String {
        let directory = path_of(self.kernel, self.at.mnt, self.at.dentry);
        let directory = directory.unwrap_or_else(|_| "?".to_owned());
        format!("{}/{name}", directory.trim_end_matches('/'))
    }

    /// `..`: not beyond the root, and out of mounts.
    fn up(&mut self) -> Result<()> {
        for _ in 0..STEPS {
            if self.at == self.root {
                return Ok(());
            }
            let mount = self.at.mnt.back(self.embedded);
            let raw: Mount = self.kernel.load(mount)?;
            if self.at.dentry != raw.root {
                self.at.dentry = self.dentry.load(self.at.dentry)?.d_parent;
                return Ok(());
            }
            if raw.mnt_parent == mount {
                return Ok(());
            }
            self.at = Path {
                mnt: raw.mnt_parent.offset(self.embedded),
                dentry: raw.mnt_mountpoint,
            };
        }
        Err(Error::TooLong {
            what: "chain of mounts",
            at: self.at.mnt,
            bound: STEPS,
        })
    }

    /// Into what is mounted here, and on that, and so on; whether anything is.
    fn down(&mut self) -> Result<bool> {
        let mut mounted = false;
        for _ in 0..STEPS {
            let children = self.at.mnt.back(self.embedded).offset(self.mounts);
            let mut here = None;
            for child in list_for_each_entry(self.kernel, children, self.child).bound(BOUND) {
                let child = child.of(|| format!("mnt_mounts of {}", self.at.mnt))?;
                let raw: Mount = self
                    .kernel
                    .load(child)
                    .of(|| format!("the mount {child}"))?;
                if raw.mnt_mountpoint == self.at.dentry {
                    here = Some((child, raw.root));
                    break;
                }
            }
            let Some((child, dentry)) = here else {
                return Ok(mounted);
            };
            mounted = true;
            self.at = Path {
                mnt: child.offset(self.embedded),
                dentry,
            };
        }
        Err(Error::TooLong {
            what: "pile of mounts",
            at: self.at.mnt,
            bound: STEPS,
        })
    }

    /// The dentry of this name in the directory. One that was unhashed is a deleted file's.
    fn find(&self, name: &str) -> Result<GuestVirt> {
        let directory = self.at.dentry;
        let offset = |member| offset_of(self.kernel, "struct dentry", member);
        let test = |at: Result<GuestVirt>| -> Result<Option<GuestVirt>> {
            let at = at?;
            let dentry = self.dentry.load(at)?;
            let same = dentry.len as usize == name.len()
                && !dentry.pprev.is_null()
                && d_path::name(self.kernel, &dentry)? == name;
            Ok(same.then_some(at))
        };
        // Since 6.8 the children are on an hlist.
        // One that cannot be read is not looked for; only where no other has the name it may have been that one.
        let mut bad = None;
        let children = || format!("the children of the dentry {directory}, among them `{name}`");
        let mut is_it = |at| match test(at).of(children) {
            Ok(found) => found,
            Err(error) => {
                bad.get_or_insert(error);
                None
            }
        };
        let found = match offset("d_children") {
            Ok(children) => {
                hlist_for_each_entry(self.kernel, directory.offset(children), offset("d_sib")?)
                    .bound(BOUND)
                    .find_map(&mut is_it)
            }
            Err(_) => list_for_each_entry(
                self.kernel,
                directory.offset(offset("d_subdirs")?),
                offset("d_child")?,
            )
            .bound(BOUND)
            .find_map(&mut is_it),
        };
        found.ok_or_else(|| match bad {
            Some(error) => error,
            None => Error::Absent(format!(
                "`{}` is not in the dentry cache: it is not there, or nobody has looked it up lately",
                self.so_far(name)
            )),
        })
    }
}
