//! File locks: `flock()`, `fcntl()`, leases (`fs/locks.c`).

use serde::Serialize;

use super::kind::dev;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{
    hlist_for_each_entry, offset_of, per_cpu_ptr, possible_cpus, twice, whole_list,
};
use crate::{Error, Listing, Missing, Of as _, Result};

/// Locks that are read at most, those that wait too.
const BOUND: usize = 1 << 20;
/// Most steps along a chain of lock waiters.
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
// include/linux/filelock.h
const FL_UNLOCK_PENDING: u32 = 0x40;
const FL_DOWNGRADE_PENDING: u32 = 0x100;
/// `OFFSET_MAX`: a range that has no end.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// A lock on a file, or one that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileLock {
    /// Address of its `struct file_lock`.
    pub at: GuestVirt,
    /// Kind of lock: `POSIX`, `FLOCK`, `OFDLCK`, `LEASE`, ..
    pub kind: &'static str,
    /// True if it is for writing, so that nobody else can have it.
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
    /// Breaking of a lease by somebody else's `open()`: what the holder may keep, and until when.
    pub breaking: Option<LeaseBreak>,
    /// Waiters.
    pub waiters: Vec<Self>,
}

/// A lease that is being broken: its holder has been told to give it up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaseBreak {
    /// The rights that it may keep: `none`, or `reading`.
    pub to: &'static str,
    /// Seconds until the kernel takes it away; negative once it could. `None` without a limit (`fs.lease-break-time` is 0).
    pub left: Option<i64>,
}

/// The locks that are held.
pub type FileLocks = Listing<FileLock>;

/// The locks on files, each with those that wait for it: `/proc/locks`.
pub(crate) fn file_locks(kernel: &Kernel) -> Result<FileLocks> {
    let reader = Reader::new(kernel)?;
    let list = offset_of(kernel, "struct file_lock_list_struct", "hlist")?;
    twice("the file locks", || {
        let mut all = FileLocks::new();
        for cpu in possible_cpus(kernel)? {
            let what = format!("the file locks of CPU {cpu}");
            let head = match per_cpu_ptr(kernel, "file_lock_list", cpu) {
                Ok(head) => head.offset(list),
                Err(error) => {
                    all.miss(what, &error);
                    continue;
                }
            };
            let walk = hlist_for_each_entry(kernel, head, reader.link).bound(BOUND);
            let cores = Listing::walk(&what, walk);
            all.missing.extend(cores.missing);
            for core in cores.items {
                let lock = reader.lock(core, 0, &mut all.missing);
                all.take(lock, || {
                    format!("the file_lock at {}", core.back(reader.core))
                });
            }
        }
        Ok(all)
    })
}

/// Nanoseconds of a tick: what the clock of ticks counts by.
fn tick(kernel: &Kernel) -> Result<i64> {
    let at = kernel.symbol("clocksource_jiffies")?;
    let member = |name| offset_of(kernel, "struct clocksource", name);
    let mult = kernel.read_u32(at.offset(member("mult")?))?;
    let shift = kernel.read_u32(at.offset(member("shift")?))?;
    mult.checked_shr(shift)
        .map(i64::from)
        .ok_or_else(|| Error::broken("clocksource", at, format!("its shift is {shift}")))
}

/// Offsets of the members: in the `file_lock` itself, since 6.9 in the `file_lock_core` that it begins with.
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

    /// One lock; what cannot be read of those that wait for it is noted.
    fn lock(&self, core: GuestVirt, depth: usize, missing: &mut Vec<Missing>) -> Result<FileLock> {
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
        let file = GuestVirt(kernel.read_u64(core.offset(self.file))?);
        let (dev, ino) = self.inode(file).of(|| format!("its file {file}"))?;
        let end = kernel.read_u64(at.offset(self.end))?;
        let head = core.offset(self.blocked);
        let what = format!("those that wait for the file_lock at {at}");
        let cores = whole_list(kernel, head, self.member, BOUND, &what);
        missing.extend(cores.missing);
        let mut waiters = Listing::new();
        for core in cores.items {
            let lock = self.lock(core, depth + 1, missing);
            waiters.take(lock, || {
                format!("the file_lock at {}", core.back(self.core))
            });
        }
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
            breaking: match (kind, file.is_null()) {
                ("LEASE" | "DELEG", false) => self.breaking(at, flags)?,
                // The task that breaks it waits with a lease of no file.
                _ => None,
            },
            waiters: waiters.into_items(missing),
        })
    }

    /// `lease_breaking()` of `fs/locks.c`, and until when.
    fn breaking(&self, at: GuestVirt, flags: u32) -> Result<Option<LeaseBreak>> {
        let (to, member) = match () {
            () if flags & FL_UNLOCK_PENDING != 0 => ("none", "fl_break_time"),
            () if flags & FL_DOWNGRADE_PENDING != 0 => ("reading", "fl_downgrade_time"),
            () => return Ok(None),
        };
        // A structure of its own since 6.9.
        let member = match offset_of(self.kernel, "struct file_lease", member) {
            Ok(member) => member,
            Err(Error::NoType { .. }) => offset_of(self.kernel, "struct file_lock", member)?,
            Err(error) => return Err(error),
        };
        let until = self.kernel.read_u64(at.offset(member))?;
        let now = self.kernel.read_u64(self.kernel.symbol("jiffies_64")?)?;
        let ticks = until.wrapping_sub(now).cast_signed();
        Ok(Some(LeaseBreak {
            to,
            left: match until {
                0 => None,
                _ => Some(ticks.saturating_mul(tick(self.kernel)?) / 1_000_000_000),
            },
        }))
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
