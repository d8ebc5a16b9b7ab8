//! Files: what a task has open, what is mounted, and the paths of both (`fs/file.c`, `fs/namespace.c`, `fs/d_path.c`).
//!
//! ```no_run
//! # use probes::Guest;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! for file in guest.files(1)? {
//!     println!("{} {}", file.fd, file.path);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A descriptor may be closed and its `struct file` be used again while it is read: the table is compared with itself
//! after the rest was read, and read again where it changed.

mod d_path;
mod fdtable;
mod inode;
mod kind;
mod lock;
mod lookup;
mod namespace;
mod socket;
mod super_block;
#[cfg(test)]
mod tests;
mod view;

pub(crate) use lock::file_locks;

pub(crate) use super_block::{filesystems, frozen_filesystems};

pub(crate) use inode::inode;

pub(crate) use lookup::path_lookup;

pub use d_path::{d_path, dentry_path};
pub use fdtable::{OpenFile, OpenFiles};
pub(crate) use inode::type_letter;
pub use inode::{Inode, Time};
pub use kind::{FileKind, Pipe, SocketFile};
pub use lock::{FileLock, FileLocks, LeaseBreak};
pub use lookup::{PathLookup, PathStep};
pub use namespace::{Mount, Mounts};
pub use socket::{family, socket_type};
pub use super_block::{FileSystemType, FileSystems, Frozen, SuperBlock};

use crate::guest::Guest;
use crate::memory::GuestVirt;
use crate::sched::Task;
use crate::structures::offset_of;
use crate::{Error, Listing, Of as _, Result};

impl Guest {
    /// The open files of a task.
    ///
    /// # Errors
    /// `Absent` if the task has exited; `Torn` if its table keeps changing; `Unmapped` or `Broken` if the table is
    /// damaged.
    pub fn files_of(&self, task: &Task) -> Result<OpenFiles> {
        let files = self.task_pointer(task, "files", "open files")?;
        fdtable::read(&self.kernel()?, files)
    }

    /// The descriptors of a task that are sockets, and each one's `struct sock`.
    pub(crate) fn sockets_of(&self, task: &Task) -> Result<Listing<(u32, GuestVirt)>> {
        let files = self.task_pointer(task, "files", "open files")?;
        fdtable::sockets(&self.kernel()?, files)
    }

    /// A pointer of a `task_struct` that is NULL once the task has exited.
    pub(crate) fn task_pointer(&self, task: &Task, member: &str, what: &str) -> Result<GuestVirt> {
        let kernel = self.kernel()?;
        let at = offset_of(&kernel, "struct task_struct", member)?;
        let pointer = GuestVirt(kernel.read_u64(task.at.offset(at))?);
        if pointer.is_null() {
            return Err(Error::Absent(format!(
                "task {} ({}) has exited: it has no {what} any more",
                task.pid, task.comm
            )));
        }
        Ok(pointer)
    }
}

/// Lists the mounts of the mount namespace of the task `pid`, in the order of `/proc/PID/mountinfo`, with those mounts
/// too that the task's root hides.
pub(crate) fn mounts(guest: &Guest, pid: i32) -> Result<Mounts> {
    let task = guest.task(pid)?;
    let nsproxy = guest.task_pointer(&task, "nsproxy", "namespaces")?;
    let kernel = guest.kernel()?;
    let member = nsproxy.offset(offset_of(&kernel, "struct nsproxy", "mnt_ns")?);
    let ns = kernel.read_u64(member).map(GuestVirt);
    let ns = ns.of(|| format!("the nsproxy {nsproxy} of task {pid}"))?;
    namespace::read(&kernel, ns).of(|| format!("the mnt_namespace {ns} of task {pid}"))
}

/// The open files of the task `pid`, ascending by descriptor: `/proc/PID/fd`.
pub(crate) fn files(guest: &Guest, pid: i32) -> Result<OpenFiles> {
    guest.files_of(&guest.task(pid)?)
}
