//! Inodes in detail (`include/linux/fs.h`).

use serde::Serialize;

use super::kind::dev;
use crate::kernel::Kernel;
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::object::Mirror;
use crate::structures::{offset_of, twice};
use crate::{Error, Missing, Of as _, Result};

/// Mask of a time's nanoseconds: the upper bits of a change time say whether somebody has asked for it
/// (`I_CTIME_QUERIED`).
const NSEC: u32 = (1 << 30) - 1;

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Time {
    /// Seconds since 1970.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: u32,
}

/// An inode: a file, under all of its names. A member that is `None` could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inode {
    /// Address.
    pub at: GuestVirt,
    /// Its number.
    pub ino: u64,
    /// The file system's device: major and minor number.
    pub dev: Option<(u32, u32)>,
    /// The file system's type.
    pub fs_type: Option<String>,
    /// Its `super_block`.
    pub sb: GuestVirt,
    /// `i_mode`: its type and permissions.
    pub mode: u16,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Number of its names: `i_nlink`.
    pub nlink: u32,
    /// Its device, if it stands for one: major and minor number.
    pub rdev: (u32, u32),
    /// Its size in bytes.
    pub size: u64,
    /// Space that it takes in its file system, in units of 512 bytes (`i_blocks`).
    pub blocks: u64,
    /// Number of references: `i_count`.
    pub count: u32,
    /// Its pages in the page cache; some that were evicted are counted too, where their shadows are.
    pub cached_pages: Option<u64>,
    /// Time at which it was last read.
    pub atime: Time,
    /// Time at which its content last changed.
    pub mtime: Time,
    /// Time at which the inode itself last changed.
    pub ctime: Time,
    /// Name of its `inode_operations`, which tell what it does.
    pub i_op: Option<String>,
    /// Name of its files' `file_operations`; nothing for pipes, which have none of their own.
    pub i_fop: Option<String>,
    /// Parts that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

impl Inode {
    /// Size of the part of it that is in the page cache, in bytes.
    #[must_use]
    pub fn cached_bytes(&self) -> Option<u64> {
        self.cached_pages
            .map(|pages| pages.saturating_mul(PAGE_SIZE))
    }
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct inode")]
struct Raw {
    i_mode: u16,
    #[mirror(member = "i_uid.val")]
    i_uid: u32,
    #[mirror(member = "i_gid.val")]
    i_gid: u32,
    #[mirror(member = "__i_nlink")]
    i_nlink: u32,
    i_ino: u64,
    i_sb: GuestVirt,
    i_rdev: u32,
    i_size: u64,
    i_blocks: u64,
    #[mirror(member = "i_count.counter")]
    i_count: u32,
    i_mapping: GuestVirt,
    i_op: GuestVirt,
    i_fop: GuestVirt,
    /// Each a member of its own since 6.11, before it one of a `timespec64`, whose name changed on the way.
    #[mirror(member = "i_atime_sec", or = "i_atime.tv_sec", or = "__i_atime.tv_sec")]
    atime: i64,
    #[mirror(member = "i_mtime_sec", or = "i_mtime.tv_sec", or = "__i_mtime.tv_sec")]
    mtime: i64,
    #[mirror(member = "i_ctime_sec", or = "i_ctime.tv_sec", or = "__i_ctime.tv_sec")]
    ctime: i64,
    #[mirror(
        member = "i_atime_nsec",
        or = "i_atime.tv_nsec",
        or = "__i_atime.tv_nsec"
    )]
    atime_nsec: i64,
    #[mirror(
        member = "i_mtime_nsec",
        or = "i_mtime.tv_nsec",
        or = "__i_mtime.tv_nsec"
    )]
    mtime_nsec: i64,
    #[mirror(
        member = "i_ctime_nsec",
        or = "i_ctime.tv_nsec",
        or = "__i_ctime.tv_nsec"
    )]
    ctime_nsec: i64,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct super_block")]
struct SuperBlock {
    s_dev: u32,
    #[mirror(member = "s_type")]
    kind: GuestVirt,
}

/// The `struct inode` at an address.
pub(crate) fn inode(kernel: &Kernel, at: GuestVirt) -> Result<Inode> {
    twice(&format!("the inode at {at}"), || read(kernel, at))
}

pub(super) fn read(kernel: &Kernel, at: GuestVirt) -> Result<Inode> {
    let raw: Raw = kernel.load(at)?;
    let mut missing = Vec::new();
    let sb = kernel.load::<SuperBlock>(raw.i_sb);
    let sb = sb.or_miss(&mut missing, || format!("its super_block {}", raw.i_sb));
    let name = offset_of(kernel, "struct file_system_type", "name")?;
    let fs_type = sb.as_ref().and_then(|sb| {
        let name = kernel.read_u64(sb.kind.offset(name));
        name.and_then(|name| kernel.read_cstr(GuestVirt(name), 64))
            .or_miss(&mut missing, || {
                format!("its file system's type {}", sb.kind)
            })
    });
    let pages = raw
        .i_mapping
        .offset(offset_of(kernel, "struct address_space", "nrpages")?);
    let time = |sec: i64, nsec: i64| Time {
        sec,
        nsec: nsec as u32 & NSEC,
    };
    let symbol = |at: GuestVirt| -> Result<String> {
        if at.is_null() {
            return Ok(String::new());
        }
        let symbol = kernel.symbol_at(at)?.filter(|symbol| symbol.offset == 0);
        Ok(symbol.map_or_else(|| at.to_string(), |symbol| symbol.name))
    };
    Ok(Inode {
        at,
        ino: raw.i_ino,
        dev: sb.map(|sb| dev(sb.s_dev)),
        fs_type,
        sb: raw.i_sb,
        mode: raw.i_mode,
        uid: raw.i_uid,
        gid: raw.i_gid,
        nlink: raw.i_nlink,
        rdev: dev(raw.i_rdev),
        size: raw.i_size,
        blocks: raw.i_blocks,
        count: raw.i_count,
        cached_pages: kernel.read_u64(pages).or_miss(&mut missing, || {
            format!("its address_space {}", raw.i_mapping)
        }),
        atime: time(raw.atime, raw.atime_nsec),
        mtime: time(raw.mtime, raw.mtime_nsec),
        ctime: time(raw.ctime, raw.ctime_nsec),
        i_op: symbol(raw.i_op).or_miss(&mut missing, || "its i_op"),
        // A pipe's is a union with another member.
        i_fop: symbol(raw.i_fop).or_miss(&mut missing, || "its i_fop"),
        missing,
    })
}

/// The letter of a file's type, as `ls` has it.
pub(crate) const fn type_letter(mode: u16) -> char {
    // S_IFMT of include/uapi/linux/stat.h
    match mode & 0xf000 {
        0x1000 => 'p',
        0x2000 => 'c',
        0x4000 => 'd',
        0x6000 => 'b',
        0x8000 => '-',
        0xa000 => 'l',
        0xc000 => 's',
        _ => '?',
    }
}

/// The target of the symbolic link at `at`; `None` of one that the file system makes up or keeps elsewhere.
pub(super) fn link(kernel: &Kernel, at: GuestVirt) -> Result<Option<String>> {
    let link = match offset_of(kernel, "struct inode", "i_link") {
        Ok(offset) => GuestVirt(kernel.read_u64(at.offset(offset))?),
        Err(Error::NoMember { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    match link.is_null() {
        true => Ok(None),
        false => kernel.read_cstr(link, 4096).map(Some),
    }
}
