//! File locks: `flock()`, `fcntl()`, leases (`fs/locks.c`).

use serde::Serialize;

use super::kind::dev;
use crate::Listing;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{
    hlist_for_each_entry, list_for_each_entry, offset_of, per_cpu_ptr, possible_cpus, twice,
};
use crate::{Error, Result};

/// Locks that are read at most, those that wait too.
const BOUND: usize = 1 << 20;
/// How long a chain of who waits for whom is followed.
const DEPTH: usize = 256;
/// `FL_*` of `include/linux/filelock.h`, by what `/proc/locks` calls them; those that say more come first.
const KINDS: [(u32, &str); 6] = [
    (0x408, "OFDLCK"),
    (0x8, "ACCESS"),
    (0x1, "POSIX"),
    (0x2, "FLOCK"),
    (0x4, "DELEG"),
    (0x20, "LEASE"),
];
/// `OFFSET_MAX`: a range that has no end.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// A lock on a file, or one that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileLock {
    /// Where its `file_lock` lies.
    pub at: GuestVirt,
    /// What made it: `POSIX`, `FLOCK`, `OFDLCK`, `LEASE`, ..
    pub kind: &'static str,
    /// Whether it is for writing, so that nobody else can have it.
    pub write: bool,
    /// The process that took it; -1 for one that belongs to an open file.
    pub pid: i32,
    /// The file system's device: major and minor number.
    pub dev: (u32, u32),
    /// The file's inode number.
    pub ino: u64,
    /// Its first byte.
    pub start: u64,
    /// Its last byte; `None` without end.
    pub end: Option<u64>,
    /// Who waits for it.
    pub waiters: Vec<Self>,
}

/// The locks that are held.
pub type FileLocks = Listing<FileLock>;

impl Guest {
    /// The locks on files, each with those that wait for it: `/proc/locks`.
    pub fn file_locks(&self) -> Result<FileLocks> {
        let kernel = self.kernel()?;
        twice("the file locks", || {
            let reader = Reader::new(&kernel)?;
            let list = offset_of(&kernel, "struct file_lock_list_struct", "hlist")?;
            let mut all = Vec::new();
            for cpu in possible_cpus(&kernel)? {
                let head = per_cpu_ptr(&kernel, "file_lock_list", cpu)?.offset(list);
                for core in hlist_for_each_entry(&kernel, head, reader.link).bound(BOUND) {
                    all.push(reader.lock(core?, 0)?);
                }
            }
            Ok(Listing::from(all))
        })
    }
}

/// Where the members lie: in the `file_lock` itself, since 6.9 in the `file_lock_core` that it begins with.
struct Reader<'k> {
    kernel: &'k Kernel,
    core: u64,
    link: u64,
    flags: u64,
    kind: u64,
    pid: u64,
    file: u64,
    blocked: u64,
    member: u64,
    start: u64,
    end: u64,
}

impl<'k> Reader<'k> {
    fn new(kernel: &'k Kernel) -> Result<Self> {
        let core = match offset_of(kernel, "struct file_lock", "c") {
            Ok(core) => Some(core),
            Err(Error::NoMember { .. }) => None,
            Err(error) => return Err(error),
        };
        let member = |name: &str| match core {
            Some(_) => offset_of(kernel, "struct file_lock_core", &format!("flc_{name}")),
            None => offset_of(kernel, "struct file_lock", &format!("fl_{name}")),
        };
        Ok(Self {
            kernel,
            core: core.unwrap_or(0),
            link: member("link")?,
            flags: member("flags")?,
            kind: member("type")?,
            pid: member("pid")?,
            file: member("file")?,
            blocked: member("blocked_requests")?,
            member: member("blocked_member")?,
            start: offset_of(kernel, "struct file_lock", "fl_start")?,
            end: offset_of(kernel, "struct file_lock", "fl_end")?,
        })
    }

    fn lock(&self, core: GuestVirt, depth: usize) -> Result<FileLock> {
        let kernel = self.kernel;
        let at = core.back(self.core);
        if depth > DEPTH {
            return Err(Error::TooLong {
                what: "chain of waiting locks",
                at,
                bound: DEPTH,
            });
        }
        let flags = kernel.read_u32(core.offset(self.flags))?;
        let known = KINDS.iter().find(|(bits, _)| flags & bits == *bits);
        let kind = known.map_or("UNKNOWN", |(_, name)| name);
        let ranged = flags & 1 != 0;
        let (dev, ino) = self.inode(GuestVirt(kernel.read_u64(core.offset(self.file))?))?;
        let end = kernel.read_u64(at.offset(self.end))?;
        let head = core.offset(self.blocked);
        let waiters = list_for_each_entry(kernel, head, self.member).bound(BOUND);
        Ok(FileLock {
            at,
            kind,
            // F_WRLCK of include/uapi/asm-generic/fcntl.h
            write: kernel.read_u8(core.offset(self.kind))? == 1,
            pid: match kind {
                "OFDLCK" => -1,
                _ => kernel.read_u32(core.offset(self.pid))?.cast_signed(),
            },
            dev,
            ino,
            start: if ranged {
                kernel.read_u64(at.offset(self.start))?
            } else {
                0
            },
            end: Some(end).filter(|end| ranged && *end != OFFSET_MAX),
            waiters: waiters
                .map(|core| self.lock(core?, depth + 1))
                .collect::<Result<_>>()?,
        })
    }

    fn inode(&self, file: GuestVirt) -> Result<((u32, u32), u64)> {
        let kernel = self.kernel;
        if file.is_null() {
            return Ok(((0, 0), 0));
        }
        let pointer = |at: GuestVirt, c: &str, member: &str| -> Result<GuestVirt> {
            let at = at.offset(offset_of(kernel, c, member)?);
            kernel.read_u64(at).map(GuestVirt)
        };
        let inode = pointer(file, "struct file", "f_inode")?;
        let sb = pointer(inode, "struct inode", "i_sb")?;
        let number = sb.offset(offset_of(kernel, "struct super_block", "s_dev")?);
        let ino = pointer(inode, "struct inode", "i_ino")?.0;
        Ok((dev(kernel.read_u32(number)?), ino))
    }
}
