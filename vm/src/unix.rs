//! Connecting to a Unix socket with a bound on the wait.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect as call, socket};

/// Connects to the socket at `path`, waiting at most `patience` for a place in its queue: a server that serves one
/// client at a time leaves the others there, and a plain `connect` waits for it without an end.
pub(crate) fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let until = Instant::now() + patience;
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let ours = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    loop {
        match call(ours.as_raw_fd(), &address) {
            Ok(()) => break,
            Err(Errno::EAGAIN | Errno::EINTR) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        }
    }
    let stream = UnixStream::from(ours);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        // As QEMU listens: for one.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
        let patience = Duration::from_millis(50);
        let mut waiting = Vec::new();
        let error = loop {
            match connect(&path, patience) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
            assert!(waiting.len() < 10, "the queue has no end");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let (_served, _) = listener.accept().unwrap();
        assert!(connect(&path, patience).is_ok());
        let gone = connect(&folder.path().join("none"), patience).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
