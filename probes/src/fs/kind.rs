//! The kind of an open file, by its inode's mode and its file system's magic number.

use serde::Serialize;

use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::structures::offset_of;

// include/uapi/linux/magic.h
const PIPEFS_MAGIC: u64 = 0x5049_5045;
const SOCKFS_MAGIC: u64 = 0x534f_434b;
const ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;

/// The kind of an open file, with the values that only this kind has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// `S_IFREG`
    Regular,
    /// `S_IFDIR`
    Directory,
    /// `S_IFLNK`, opened with `O_PATH`.
    Symlink,
    /// `S_IFCHR`: the device's major and minor number.
    Char(u32, u32),
    /// `S_IFBLK`: the device's major and minor number.
    Block(u32, u32),
    /// A pipe without a name, of `pipe(2)`.
    Pipe(Pipe),
    /// A pipe that has a name in a file system.
    Fifo(Pipe),
    /// A socket.
    Socket(SocketFile),
    /// A pipe or socket that was only named, by `O_PATH`: nothing is behind it.
    PathOnly,
    /// No file of a file system: an eventfd, an epoll, ..
    Anonymous,
}

/// A pipe: its `pipe_inode_info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pipe {
    /// Address of the `struct pipe_inode_info`.
    pub at: GuestVirt,
    /// Open ends that read.
    pub readers: u32,
    /// Open ends that write.
    pub writers: u32,
    /// Buffers in use: `head - tail`.
    pub used: u32,
    /// Buffers that there are: `ring_size`.
    pub ring_size: u32,
    /// Bytes that wait to be read.
    pub bytes: u64,
}

/// A socket as a file: its `socket`, and the `sock` behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SocketFile {
    /// Address of the `struct socket`.
    pub at: GuestVirt,
    /// Address of the `struct sock`; NULL once the protocol has let go of it.
    pub sk: GuestVirt,
    /// `AF_*`; 0 without a `sock`.
    pub family: u16,
    /// `SOCK_*`
    #[serde(rename = "type")]
    pub type_: u16,
    /// `IPPROTO_*`, or what else the family has for protocols.
    pub protocol: u16,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct inode")]
pub(super) struct Inode {
    pub(super) i_mode: u16,
    pub(super) i_ino: u64,
    i_rdev: u32,
    pub(super) i_sb: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct super_block")]
pub(super) struct SuperBlock {
    pub(super) s_dev: u32,
    s_magic: u64,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct pipe_inode_info")]
struct PipeInodeInfo {
    head: u32,
    tail: u32,
    ring_size: u32,
    readers: u32,
    writers: u32,
    bufs: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct socket")]
struct Socket {
    #[mirror(member = "type")]
    type_: u16,
    sk: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct sock")]
struct Sock {
    #[mirror(member = "__sk_common.skc_family")]
    family: u16,
    sk_protocol: u16,
}

/// Finds the kind of a file of this inode; `private` is its `private_data`.
pub(super) fn of(
    kernel: &Kernel,
    inode: &Inode,
    sb: &SuperBlock,
    private: GuestVirt,
) -> Result<FileKind> {
    let device = dev(inode.i_rdev);
    // S_IFMT of include/uapi/linux/stat.h
    Ok(match inode.i_mode & 0xf000 {
        0x1000 | 0xc000 if private.is_null() => FileKind::PathOnly,
        0x1000 if sb.s_magic == PIPEFS_MAGIC => FileKind::Pipe(pipe(kernel, private)?),
        0x1000 => FileKind::Fifo(pipe(kernel, private)?),
        0x2000 => FileKind::Char(device.0, device.1),
        0x4000 => FileKind::Directory,
        0x6000 => FileKind::Block(device.0, device.1),
        0x8000 if sb.s_magic != ANON_INODE_FS_MAGIC => FileKind::Regular,
        0xa000 => FileKind::Symlink,
        0xc000 if sb.s_magic == SOCKFS_MAGIC => FileKind::Socket(socket(kernel, private)?),
        _ => FileKind::Anonymous,
    })
}

/// `MAJOR()` and `MINOR()` of `include/linux/kdev_t.h`.
pub(super) const fn dev(dev: u32) -> (u32, u32) {
    (dev >> 20, dev & 0xf_ffff)
}

fn pipe(kernel: &Kernel, at: GuestVirt) -> Result<Pipe> {
    let raw: PipeInodeInfo = kernel.load(at)?;
    // Both wrap: pipe_occupancy() of include/linux/pipe_fs_i.h; the counters may have 16 bits only.
    let used = raw.head.wrapping_sub(raw.tail) & 0xffff;
    let mask = raw.ring_size.wrapping_sub(1);
    let size = kernel.c_type("struct pipe_buffer")?.size()?;
    let len = offset_of(kernel, "struct pipe_buffer", "len")?;
    let mut bytes = 0;
    for slot in 0..used.min(raw.ring_size) {
        let slot = u64::from(raw.tail.wrapping_add(slot) & mask);
        bytes += u64::from(kernel.read_u32(raw.bufs.offset(slot * size + len))?);
    }
    Ok(Pipe {
        at,
        readers: raw.readers,
        writers: raw.writers,
        used,
        ring_size: raw.ring_size,
        bytes,
    })
}

fn socket(kernel: &Kernel, at: GuestVirt) -> Result<SocketFile> {
    let raw: Socket = kernel.load(at)?;
    let (family, protocol) = match raw.sk.is_null() {
        true => (0, 0),
        false => {
            let sk: Sock = kernel.load(raw.sk)?;
            (sk.family, sk.sk_protocol)
        }
    };
    Ok(SocketFile {
        at,
        sk: raw.sk,
        family,
        type_: raw.type_,
        protocol,
    })
}
