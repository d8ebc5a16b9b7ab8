//! The bytes of a port: over its socket, or over the two FIFOs of a serial line.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::OpenOptionsExt as _, net::UnixStream},
    },
    path::Path,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc::O_NONBLOCK,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{Error, Result};
use crate::qemu::{LINE_IN, LINE_OUT};

/// Room for what the guest has sent and nobody has read. QEMU tries again later when there is none, at a time that is in no record:
/// a replay would end there. A socket has room for some 270 single bytes, as QEMU sends them; a FIFO for as many as this.
const ROOM: i32 = 1 << 20;

/// Both directions; neither blocks.
#[derive(Debug)]
pub(super) struct Wire {
    from: File,
    to: File,
}

impl Wire {
    /// Connects to a port's socket.
    pub(super) fn socket(path: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        let to = File::from(OwnedFd::from(stream.try_clone()?));
        let from = File::from(OwnedFd::from(stream));
        Ok(Self { from, to })
    }

    /// Opens the FIFOs of a serial line, and drops what an earlier client has not read.
    pub(super) fn line(run_dir: &Path) -> std::io::Result<Self> {
        let open = |name: &str, reads: bool| {
            OpenOptions::new()
                .read(reads)
                .write(!reads)
                .custom_flags(O_NONBLOCK)
                .open(run_dir.join(name))
        };
        let mut wire = Self {
            from: open(LINE_OUT, true)?,
            to: open(LINE_IN, false)?,
        };
        // A user who has many may be refused: the line works with less.
        let _ = fcntl(&wire.from, FcntlArg::F_SETPIPE_SZ(ROOM));
        let mut old = vec![0; 1 << 16];
        let mut left = ROOM;
        while left > 0
            && let Ok(len) = wire.from.read(&mut old)
            && len > 0
        {
            left = left.saturating_sub(i32::try_from(len).unwrap_or(ROOM));
        }
        Ok(wire)
    }

    /// Writes a part of `bytes`; `None` where the guest takes nothing within `patience`.
    pub(super) fn write(&mut self, bytes: &[u8], patience: Duration) -> Result<Option<usize>> {
        // Not asked before: a socket is called ready when three quarters of its room are free, and takes bytes long before.
        if let Some(len) = self.write_now(bytes)? {
            return Ok(Some(len));
        }
        match ready(self.to.as_fd(), PollFlags::POLLOUT, patience)? {
            true => self.write_now(bytes),
            false => Ok(None),
        }
    }

    fn write_now(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        match self.to.write(bytes) {
            Ok(0) => Err(Error::Gone),
            Ok(len) => Ok(Some(len)),
            Err(why) => match why.kind() {
                ErrorKind::Interrupted | ErrorKind::WouldBlock => Ok(None),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Err(Error::Gone),
                _ => Err(Error::Io {
                    what: "cannot write to the agent".to_owned(),
                    why,
                }),
            },
        }
    }

    /// Reads what is there; `None` where nothing comes within `patience`.
    pub(super) fn read(&mut self, buf: &mut [u8], patience: Duration) -> Result<Option<usize>> {
        if !ready(self.from.as_fd(), PollFlags::POLLIN, patience)? {
            return Ok(None);
        }
        match self.from.read(buf) {
            Ok(0) => Err(Error::Gone),
            Ok(len) => Ok(Some(len)),
            Err(why) => match why.kind() {
                ErrorKind::Interrupted | ErrorKind::WouldBlock => Ok(None),
                ErrorKind::ConnectionReset => Err(Error::Gone),
                _ => Err(Error::Io {
                    what: "cannot read what the agent sends".to_owned(),
                    why,
                }),
            },
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

/// Tells whether a descriptor is ready, or its other end gone, within `patience`; a signal ends the wait.
fn ready(fd: BorrowedFd<'_>, flags: PollFlags, patience: Duration) -> Result<bool> {
    let millis = patience.as_millis().max(1);
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(fd, flags)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(Error::io("cannot wait for the agent")(errno.into())),
    }
}
