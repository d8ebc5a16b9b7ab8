//! The open files of a task: `files_struct`, `fdtable` (`include/linux/fdtable.h`).

use serde::Serialize;

use super::kind::{self, FileKind};
use super::{d_path, kind::dev};
use crate::Listing;
use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{bitmap, offset_of, settle};

/// One descriptor of a task, and the `struct file` behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenFile {
    /// The descriptor.
    pub fd: u32,
    /// Where the `struct file` lies.
    pub at: GuestVirt,
    /// Its path, as `/proc/PID/fd` shows it: `/tmp/x (deleted)`, `pipe:[17]`, `socket:[18]`, `anon_inode:[eventpoll]`.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// `f_flags`: `O_*`; `O_CLOEXEC` is not among them.
    pub flags: u32,
    /// Whether `execve()` closes it.
    pub cloexec: bool,
    /// Where the next `read()` or `write()` begins.
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

/// The files of the `files_struct` at `files`.
pub(super) fn read(kernel: &Kernel, files: GuestVirt) -> Result<OpenFiles> {
    let reader = Reader {
        kernel,
        table: Plan::new(kernel)?,
        file: Plan::new(kernel)?,
        fdt: files.offset(offset_of(kernel, "struct files_struct", "fdt")?),
        f_path: offset_of(kernel, "struct file", "f_path")?,
    };
    settle(&format!("the file table at {files}"), || reader.all())
}

struct Reader<'k> {
    kernel: &'k Kernel,
    table: Plan<Fdtable>,
    file: Plan<File>,
    fdt: GuestVirt,
    f_path: u64,
}

impl Reader<'_> {
    /// `None` if the table or a file changed.
    fn all(&self) -> Result<Option<OpenFiles>> {
        let fdt = GuestVirt(self.kernel.read_u64(self.fdt)?);
        let table = self.table.load(fdt)?;
        let max = table.max_fds as usize;
        let open = bitmap(self.kernel, table.open_fds, max)?;
        let closed = bitmap(self.kernel, table.close_on_exec, max)?;
        let mut files = Vec::with_capacity(open.len());
        for fd in &open {
            let slot = table.fd.offset(8 * *fd as u64);
            let at = GuestVirt(self.kernel.read_u64(slot)?);
            // A descriptor that is taken and has no file yet: /proc does not show it either.
            if at.is_null() {
                continue;
            }
            let file = self.open_file(at, *fd as u32, closed.binary_search(fd).is_ok())?;
            if self.kernel.read_u64(slot)? != at.0 {
                return Ok(None);
            }
            match file {
                Some(file) => files.push(file),
                None => return Ok(None),
            }
        }
        let same = GuestVirt(self.kernel.read_u64(self.fdt)?) == fdt
            && self.table.load(fdt)? == table
            && bitmap(self.kernel, table.open_fds, max)? == open;
        Ok(same.then_some(Listing::from(files)))
    }

    fn open_file(&self, at: GuestVirt, fd: u32, cloexec: bool) -> Result<Option<OpenFile>> {
        let file = self.file.load(at)?;
        let inode: kind::Inode = self.kernel.load(file.f_inode)?;
        let sb: kind::SuperBlock = self.kernel.load(inode.i_sb)?;
        let open = OpenFile {
            fd,
            at,
            path: d_path(self.kernel, at.offset(self.f_path))?,
            kind: kind::of(self.kernel, &inode, &sb, file.private_data)?,
            flags: file.f_flags,
            cloexec,
            pos: file.f_pos,
            ino: inode.i_ino,
            dev: dev(sb.s_dev),
        };
        let after = self.file.load(at)?;
        let same = after.f_inode == file.f_inode && after.private_data == file.private_data;
        Ok(same.then_some(open))
    }
}
