//! The open files of a task: `files_struct`, `fdtable` (`include/linux/fdtable.h`).

use serde::Serialize;

use super::kind::{self, FileKind};
use super::{d_path, kind::dev};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{bitmap, offset_of, settle_all};
use crate::{Error, Listing, Of as _, Result};

/// One descriptor of a task, and the `struct file` behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenFile {
    /// The descriptor.
    pub fd: u32,
    /// Address of the `struct file`.
    pub at: GuestVirt,
    /// Its path, as `/proc/PID/fd` shows it: `/tmp/x (deleted)`, `pipe:[17]`, `socket:[18]`, `anon_inode:[eventpoll]`.
    pub path: String,
    /// Kind of the file.
    pub kind: FileKind,
    /// `f_flags`: `O_*`; `O_CLOEXEC` is not among them.
    pub flags: u32,
    /// True if `execve()` closes it.
    pub cloexec: bool,
    /// Offset of the next `read()` or `write()`, in bytes (`f_pos`).
    pub pos: u64,
    /// The inode's number.
    pub ino: u64,
    /// The file system's device: major and minor number.
    pub dev: (u32, u32),
}

/// The open files of a task, ascending by descriptor.
pub type OpenFiles = Listing<OpenFile>;

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct fdtable")]
struct Fdtable {
    max_fds: u32,
    fd: GuestVirt,
    close_on_exec: GuestVirt,
    open_fds: GuestVirt,
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct file")]
struct File {
    f_inode: GuestVirt,
    private_data: GuestVirt,
    f_flags: u32,
    f_pos: u64,
}

/// Descriptors that a table may have: `NR_OPEN` is what `sysctl_nr_open` begins with, this is its highest value.
const FDS: u32 = 1 << 30;

/// The files of the `files_struct` at `files`.
pub(super) fn read(kernel: &Kernel, files: GuestVirt) -> Result<OpenFiles> {
    let reader = Reader::new(kernel, files)?;
    settle_all(&format!("the file table at {files}"), || {
        reader.all(|fd, at, cloexec| reader.open_file(fd, at, cloexec))
    })
}

/// Its sockets alone: the descriptors, and each one's `struct sock`.
pub(super) fn sockets(kernel: &Kernel, files: GuestVirt) -> Result<Listing<(u32, GuestVirt)>> {
    let reader = Reader::new(kernel, files)?;
    let found = settle_all(&format!("the file table at {files}"), || {
        reader.all(|fd, at, _| {
            let file = reader.file.load(at)?;
            let sk = match reader.kind(&file)? {
                FileKind::Socket(socket) => Some((fd, socket.sk)),
                _ => None,
            };
            Ok(reader.is_still(at, &file)?.then_some(sk))
        })
    })?;
    Ok(Listing {
        items: found.items.into_iter().flatten().collect(),
        missing: found.missing,
    })
}

struct Reader<'k> {
    kernel: &'k Kernel,
    table: Plan<Fdtable>,
    file: Plan<File>,
    inode: Plan<kind::Inode>,
    sb: Plan<kind::SuperBlock>,
    fdt: GuestVirt,
    f_path: u64,
}

impl<'k> Reader<'k> {
    fn new(kernel: &'k Kernel, files: GuestVirt) -> Result<Self> {
        Ok(Self {
            kernel,
            table: Plan::new(kernel)?,
            file: Plan::new(kernel)?,
            inode: Plan::new(kernel)?,
            sb: Plan::new(kernel)?,
            fdt: files.offset(offset_of(kernel, "struct files_struct", "fdt")?),
            f_path: offset_of(kernel, "struct file", "f_path")?,
        })
    }

    /// Reads each descriptor by `read`. `None` if the table or a file changed.
    fn all<T>(
        &self,
        mut read: impl FnMut(u32, GuestVirt, bool) -> Result<Option<T>>,
    ) -> Result<Option<Listing<T>>> {
        let fdt = GuestVirt(self.kernel.read_u64(self.fdt)?);
        let table = self.table.load(fdt).of(|| format!("its fdt {fdt}"))?;
        // alloc_fdtable() gives whole words of bits.
        if table.max_fds > FDS || !table.max_fds.is_multiple_of(64) {
            let why = format!("its max_fds is {}", table.max_fds);
            return Err(Error::broken("fdtable", fdt, why));
        }
        let max = table.max_fds as usize;
        let open = bitmap(self.kernel, table.open_fds, max).of(|| "its open_fds")?;
        let closed = bitmap(self.kernel, table.close_on_exec, max).of(|| "its close_on_exec")?;
        let mut files = Listing::new();
        for fd in &open {
            let slot = table.fd.offset(8 * *fd as u64);
            let at = match self.kernel.read_u64(slot) {
                Ok(at) => GuestVirt(at),
                Err(error) => {
                    files.miss(format!("fd {fd}, its slot {slot}"), &error);
                    continue;
                }
            };
            // A descriptor that is taken and has no file yet: /proc does not show it either.
            if at.is_null() {
                continue;
            }
            match read(*fd as u32, at, closed.binary_search(fd).is_ok()) {
                Ok(Some(file)) => files.items.push(file),
                Ok(None) => return Ok(None),
                Err(error) => files.miss(format!("fd {fd}, its file {at}"), &error),
            }
            if self.kernel.read_u64(slot)? != at.0 {
                return Ok(None);
            }
        }
        let same = GuestVirt(self.kernel.read_u64(self.fdt)?) == fdt
            && self.table.load(fdt)? == table
            && bitmap(self.kernel, table.open_fds, max)? == open;
        Ok(same.then_some(files))
    }

    fn inode(&self, file: &File) -> Result<(kind::Inode, kind::SuperBlock)> {
        let inode = self.inode.load(file.f_inode);
        let inode = inode.of(|| format!("its f_inode {}", file.f_inode))?;
        let sb = self.sb.load(inode.i_sb);
        let sb = sb.of(|| format!("its inode's i_sb {}", inode.i_sb))?;
        Ok((inode, sb))
    }

    fn kind(&self, file: &File) -> Result<FileKind> {
        let (inode, sb) = self.inode(file)?;
        kind::of(self.kernel, &inode, &sb, file.private_data)
            .of(|| format!("its private_data {}", file.private_data))
    }

    fn is_still(&self, at: GuestVirt, file: &File) -> Result<bool> {
        let after = self.file.load(at)?;
        Ok(after.f_inode == file.f_inode && after.private_data == file.private_data)
    }

    fn open_file(&self, fd: u32, at: GuestVirt, cloexec: bool) -> Result<Option<OpenFile>> {
        let file = self.file.load(at)?;
        let (inode, sb) = self.inode(&file)?;
        let path = at.offset(self.f_path);
        let open = OpenFile {
            fd,
            at,
            path: d_path(self.kernel, path).of(|| format!("its f_path at {path}"))?,
            kind: self.kind(&file)?,
            flags: file.f_flags,
            cloexec,
            pos: file.f_pos,
            ino: inode.i_ino,
            dev: dev(sb.s_dev),
        };
        Ok(self.is_still(at, &file)?.then_some(open))
    }
}
