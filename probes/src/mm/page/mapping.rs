//! The owner of a page's content: `page->mapping`.

use std::fmt;

use serde::Serialize;

use crate::Result;
use crate::fs::dentry_path;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::structures::{container_of, offset_of};

/// Target of `page->mapping`, by its two lowest bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mapping {
    /// Anonymous memory: its `anon_vma`.
    Anon(GuestVirt),
    /// Anonymous memory that KSM has merged: its `stable_node`.
    Ksm(GuestVirt),
    /// A file.
    File(MappedFile),
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anon(at) => write!(f, "anon_vma {at}"),
            Self::Ksm(at) => write!(f, "stable_node {at}"),
            Self::File(file) if file.inode.is_null() => {
                write!(f, "address_space {} of no inode", file.at)
            }
            Self::File(file) => {
                let (major, minor) = file.dev;
                let path = file.path.as_deref().unwrap_or("no name any more");
                write!(f, "inode {} of {major}:{minor}: {path}", file.ino)
            }
        }
    }
}

/// The file whose page cache a page is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MappedFile {
    /// Its `address_space`.
    pub at: GuestVirt,
    /// Its inode; NULL for the swap cache.
    pub inode: GuestVirt,
    /// The inode's number.
    pub ino: u64,
    /// The file system's device: major and minor number.
    pub dev: (u32, u32),
    /// The path within the file system; `None` where no dentry names the inode any more.
    pub path: Option<String>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct inode")]
struct Inode {
    i_ino: u64,
    i_sb: GuestVirt,
    #[mirror(member = "i_dentry.first")]
    alias: GuestVirt,
}

/// `None` for a mapping of another kind.
pub(super) fn of(kernel: &Kernel, mapping: u64) -> Result<Option<Mapping>> {
    let at = GuestVirt(mapping & !3);
    Ok(match mapping & 3 {
        _ if at.is_null() => None,
        0 => Some(Mapping::File(file(kernel, at)?)),
        1 => Some(Mapping::Anon(at)),
        3 => Some(Mapping::Ksm(at)),
        _ => None,
    })
}

/// The file of the `address_space` at `at`.
pub(crate) fn file(kernel: &Kernel, at: GuestVirt) -> Result<MappedFile> {
    let host = offset_of(kernel, "struct address_space", "host")?;
    let inode = GuestVirt(kernel.read_u64(at.offset(host))?);
    if inode.is_null() {
        return Ok(MappedFile {
            at,
            inode,
            ino: 0,
            dev: (0, 0),
            path: None,
        });
    }
    let raw: Inode = kernel.load(inode)?;
    let dev = offset_of(kernel, "struct super_block", "s_dev")?;
    let dev = kernel.read_u32(raw.i_sb.offset(dev))?;
    let path = match raw.alias.is_null() {
        true => None,
        false => {
            let member = offset_of(kernel, "struct dentry", "d_u.d_alias")
                .or_else(|_| offset_of(kernel, "struct dentry", "d_alias"))?;
            Some(dentry_path(kernel, container_of(raw.alias, member))?)
        }
    };
    Ok(MappedFile {
        at,
        inode,
        ino: raw.i_ino,
        // MAJOR() and MINOR() of include/linux/kdev_t.h.
        dev: (dev >> 20, dev & 0xf_ffff),
        path,
    })
}
