//! Finds the process that is connected to a Unix socket that serves one client at a time, as the kernel says it
//! (`sock_diag(7)`, `struct unix_diag_req` and `unix_diag_msg` of `include/uapi/linux/unix_diag.h`).

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `UDIAG_SHOW_NAME`, `UDIAG_SHOW_VFS`, `UDIAG_SHOW_PEER`.
const SHOW: u32 = 1 | 2 | 4;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_VFS: u16 = 1;
const UNIX_DIAG_PEER: u16 = 2;
/// `1 << TCP_ESTABLISHED`.
const ESTABLISHED: u32 = 2;
/// Bytes of `struct nlmsghdr` and of `struct unix_diag_msg`.
const HEADER: usize = 16;
const MESSAGE: usize = 16;
/// More answers than a host's sockets take.
const MOST: usize = 1 << 16;

/// The clients that the server at `path` has taken, as the inodes of their ends; `None` where the kernel does not say.
/// A client that waits in its queue is not among them.
pub(crate) fn clients(path: &Path) -> Option<Vec<u32>> {
    let inode = fs::metadata(path).ok()?.ino() as u32;
    let ours = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )
    .ok()?;
    setsockopt(&ours, ReceiveTimeout, &TimeVal::milliseconds(500)).ok()?;
    send(ours.as_raw_fd(), &request(), MsgFlags::empty()).ok()?;
    let (mut found, mut buf) = (Vec::new(), vec![0; 64 << 10]);
    for _ in 0..MOST {
        let len = recv(ours.as_raw_fd(), &mut buf, MsgFlags::empty()).ok()?;
        let mut rest = buf.get(..len)?;
        while let Some((kind, message, after)) = message(rest) {
            match kind {
                NLMSG_DONE => return Some(found),
                NLMSG_ERROR => return None,
                _ => found.extend(client(message, inode, path)),
            }
            rest = after;
        }
    }
    None
}

/// `cat (process 111)`, where this user may see whose socket it is.
pub(crate) fn process_of(client: u32) -> Option<String> {
    let wanted = format!("socket:[{client}]");
    let entries = fs::read_dir("/proc").ok()?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        let has = |path: &Path| fs::read_link(path).is_ok_and(|to| to.as_os_str() == &*wanted);
        if open.flatten().any(|entry| has(&entry.path())) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some(format!("{} (process {pid})", name.trim().escape_debug()));
        }
    }
    None
}

/// `struct nlmsghdr`, `struct unix_diag_req`.
fn request() -> Vec<u8> {
    let mut bytes = Vec::new();
    let len = (HEADER + 24) as u32;
    bytes.extend(len.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([AddressFamily::Unix as u8, 0, 0, 0]);
    for word in [ESTABLISHED, 0, SHOW, u32::MAX, u32::MAX] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

/// The type of the first message, what it holds, and what comes after it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = word(bytes, 0)? as usize;
    let kind = half(bytes, 4)?;
    let content = bytes.get(HEADER..len)?;
    let rest = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, content, rest))
}

/// The other end of a socket, if that is the server's end of the socket at `path`, whose inode is `inode`.
fn client(message: &[u8], inode: u32, path: &Path) -> Option<u32> {
    let (mut named, mut file, mut peer) = (false, None, None);
    let mut rest = message.get(MESSAGE..)?;
    // struct nlattr: length with this head, type.
    while let (Some(len), Some(kind)) = (half(rest, 0), half(rest, 2)) {
        let content = rest.get(4..usize::from(len))?;
        match kind {
            UNIX_DIAG_NAME => {
                let name = content.strip_suffix(b"\0").unwrap_or(content);
                let last = path.file_name()?.as_encoded_bytes();
                // As it was named in bind(2): perhaps from another folder.
                named = name.rsplit(|byte| *byte == b'/').next() == Some(last);
            }
            UNIX_DIAG_VFS => file = word(content, 0),
            UNIX_DIAG_PEER => peer = word(content, 0),
            _ => {}
        }
        rest = rest
            .get(usize::from(len).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    peer.filter(|_| named && file == Some(inode))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn who_was_taken_is_known_and_who_waits_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let Some(none) = clients(&path) else {
            eprintln!("NOT RUN: this host's kernel does not say who is connected (unix_diag)");
            return;
        };
        assert!(none.is_empty(), "{none:?}");
        let held = UnixStream::connect(&path).unwrap();
        assert!(clients(&path).unwrap().is_empty());
        let (_served, _) = listener.accept().unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        let found = clients(&path).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        let process = process_of(found[0]).unwrap();
        assert!(
            process.ends_with(&format!("(process {})", std::process::id())),
            "{process}"
        );
        drop(held);
        assert_eq!(process_of(found[0]), None);
    }

    #[test]
    fn what_is_cut_is_no_message() {
        for len in 0..40 {
            let bytes = vec![0xff; len];
            assert!(message(&bytes).is_none());
            assert_eq!(client(&bytes, 1, Path::new("x")), None);
        }
        // A length of 0 must not be walked for ever.
        assert!(message(&[0; 64]).is_none());
    }
}
