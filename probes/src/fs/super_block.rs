//! File system types and the file systems of each (`fs/filesystems.c`, `fs/super.c`).

use serde::Serialize;

use super::kind::dev;
use super::namespace::frozen;
use crate::base::check_interrupt;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::{hlist_for_each_entry, list_for_each_entry, offset_of, twice, whole_list};
use crate::{Error, Listing, Of as _, Result};

/// Types and file systems that are read at most.
const BOUND: usize = 1 << 16;
/// Inodes of one file system that are counted at most.
const INODES: usize = 1 << 26;
/// `FS_REQUIRES_DEV` of `include/linux/fs.h`.
const FS_REQUIRES_DEV: u32 = 1;
/// `SB_RDONLY` of `include/linux/fs.h`.
const SB_RDONLY: u64 = 1;

/// A file system that is there: its `super_block`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SuperBlock {
    /// Address.
    pub at: GuestVirt,
    /// Its device: major and minor number.
    pub dev: (u32, u32),
    /// `s_id`: its device's name, or its type's.
    pub id: String,
    /// `s_magic`
    pub magic: u64,
    /// Bytes of a block.
    pub block_size: u64,
    /// True if it is read-only as a whole.
    pub read_only: bool,
    /// The dentry of its root.
    pub root: GuestVirt,
    /// Its inodes in memory; `None` if their list cannot be read.
    pub inodes: Option<usize>,
    /// Level of freezing (`fsfreeze`, a snapshot below it): writers wait.
    pub frozen: Option<&'static str>,
}

/// A file system whose writers wait (`fsfreeze`, a snapshot below it).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Frozen {
    /// Address of its `super_block`.
    pub at: GuestVirt,
    /// `s_id`: its device's name, or its type's.
    pub id: String,
    /// The name of its type.
    pub fs_type: String,
    /// Who waits: `s_writers.frozen` in words.
    pub level: &'static str,
}

/// A type of file systems.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileSystemType {
    /// Address of its `struct file_system_type`.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
    /// True if it lies on a block device.
    pub requires_dev: bool,
    /// True if `/proc/filesystems` lists it: of those that the kernel keeps to itself no more can be mounted.
    pub registered: bool,
    /// The module that it comes from.
    pub module: Option<String>,
    /// Super blocks that are there.
    pub supers: Vec<SuperBlock>,
}

/// The registered types, in the order of `/proc/filesystems`, and those of other file systems that are there.
pub type FileSystems = Listing<FileSystemType>;

#[derive(Debug, Mirror)]
#[mirror(c = "struct file_system_type")]
struct RawType {
    name: GuestVirt,
    fs_flags: u32,
    owner: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct super_block")]
struct Raw {
    s_dev: u32,
    s_id: FixedStr<32>,
    s_magic: u64,
    s_blocksize: u64,
    s_flags: u64,
    s_root: GuestVirt,
    #[mirror(member = "s_type")]
    kind: GuestVirt,
    #[mirror(member = "s_writers.frozen")]
    frozen: u32,
}

/// The types of file systems that the kernel knows, and the file systems of each, mounted or not.
pub(crate) fn filesystems(kernel: &Kernel) -> Result<FileSystems> {
    twice("the types of file systems", || read(kernel))
}

/// The file systems that are frozen.
pub(crate) fn frozen_filesystems(kernel: &Kernel) -> Result<Listing<Frozen>> {
    let plan = Plan::<Raw>::new(kernel)?;
    twice("the file systems that are frozen", || {
        let supers = super_blocks(kernel)?;
        let mut all = Listing {
            items: Vec::new(),
            missing: supers.missing,
        };
        for at in supers.items {
            let one = || -> Result<Option<Frozen>> {
                let raw = plan.load(at)?;
                let Some(level) = frozen(raw.frozen) else {
                    return Ok(None);
                };
                Ok(Some(Frozen {
                    at,
                    id: raw.s_id.to_str().into_owned(),
                    fs_type: file_system_type(kernel, raw.kind, true)?.name,
                    level,
                }))
            };
            match one() {
                Ok(one) => all.items.extend(one),
                Err(error) => all.miss(format!("the super_block at {at}"), &error),
            }
        }
        Ok(all)
    })
}

/// The addresses of all file systems.
fn super_blocks(kernel: &Kernel) -> Result<Listing<GuestVirt>> {
    let head = kernel.symbol("super_blocks")?;
    let list = offset_of(kernel, "struct super_block", "s_list")?;
    let what = "the list of super_blocks";
    Ok(whole_list(kernel, head, list, BOUND, what))
}

fn read(kernel: &Kernel) -> Result<FileSystems> {
    let plan = Plan::<Raw>::new(kernel)?;
    let mut all = FileSystems::new();
    let registered = types(kernel)?;
    all.missing = registered.missing;
    for at in registered.items {
        all.take(file_system_type(kernel, at, true), || {
            format!("the file_system_type at {at}")
        });
    }
    let supers = super_blocks(kernel)?;
    all.missing.extend(supers.missing);
    for at in supers.items {
        if let Err(error) = add(kernel, &plan, at, &mut all) {
            all.miss(format!("the super_block at {at}"), &error);
        }
    }
    Ok(all)
}

/// Adds a file system to those of its type.
fn add(kernel: &Kernel, plan: &Plan<Raw>, at: GuestVirt, all: &mut FileSystems) -> Result<()> {
    let raw = plan.load(at)?;
    let known = all.iter().position(|one| one.at == raw.kind);
    let index = match known {
        Some(index) => index,
        None => {
            let of = || format!("its s_type {}", raw.kind);
            let kind = file_system_type(kernel, raw.kind, false).of(of)?;
            all.items.push(kind);
            all.len() - 1
        }
    };
    let inodes = match inodes(kernel, at) {
        Ok(inodes) => Some(inodes),
        Err(error) => {
            all.miss(format!("inodes of the super_block at {at}"), &error);
            None
        }
    };
    all[index].supers.push(SuperBlock {
        at,
        dev: dev(raw.s_dev),
        id: raw.s_id.to_str().into_owned(),
        magic: raw.s_magic,
        block_size: raw.s_blocksize,
        read_only: raw.s_flags & SB_RDONLY != 0,
        root: raw.s_root,
        inodes,
        frozen: frozen(raw.frozen),
    });
    Ok(())
}

fn file_system_type(kernel: &Kernel, at: GuestVirt, registered: bool) -> Result<FileSystemType> {
    let raw: RawType = kernel.load(at)?;
    Ok(FileSystemType {
        at,
        name: kernel.read_cstr(raw.name, 64)?,
        requires_dev: raw.fs_flags & FS_REQUIRES_DEV != 0,
        registered,
        module: module(kernel, raw.owner)?,
        supers: Vec::new(),
    })
}

/// The types: on an hlist since 7.0, before it one pointing to the next.
fn types(kernel: &Kernel) -> Result<Listing<GuestVirt>> {
    let (c, what) = ("struct file_system_type", "the list of file system types");
    let head = kernel.symbol("file_systems")?;
    match offset_of(kernel, c, "list") {
        Ok(list) => {
            let walk = hlist_for_each_entry(kernel, head, list).bound(BOUND);
            return Ok(Listing::walk(what, walk));
        }
        Err(Error::NoMember { .. }) => {}
        Err(error) => return Err(error),
    }
    let next = offset_of(kernel, c, "next")?;
    let mut all = Listing::new();
    let mut link = head;
    loop {
        check_interrupt();
        let at = match kernel.read_u64(link) {
            Ok(at) => GuestVirt(at),
            Err(error) => {
                all.miss_behind(what, &error);
                return Ok(all);
            }
        };
        if at.is_null() {
            return Ok(all);
        }
        if all.len() == BOUND {
            let error = Error::TooLong {
                what: "list of file system types",
                at: head,
                bound: BOUND,
            };
            all.miss_behind(what, &error);
            return Ok(all);
        }
        all.items.push(at);
        link = at.offset(next);
    }
}

fn module(kernel: &Kernel, at: GuestVirt) -> Result<Option<String>> {
    if at.is_null() {
        return Ok(None);
    }
    let name = at.offset(offset_of(kernel, "struct module", "name")?);
    kernel.read_cstr(name, 64).map(Some)
}

/// Number of inodes on its list.
fn inodes(kernel: &Kernel, at: GuestVirt) -> Result<usize> {
    let inodes = at.offset(offset_of(kernel, "struct super_block", "s_inodes")?);
    let member = offset_of(kernel, "struct inode", "i_sb_list")?;
    let mut count = 0;
    for inode in list_for_each_entry(kernel, inodes, member).bound(INODES) {
        inode?;
        count += 1;
    }
    Ok(count)
}
