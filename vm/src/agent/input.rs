//! The standard input of a run, from a file of this process.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use klab_wire::{Answer, Ask, CHUNK, MAX_FEEDS};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{getpgrp, isatty, read, tcgetpgrp},
};

use super::{Client, Error, Result};

/// Bytes that are read and on their way.
#[derive(Debug)]
pub(super) struct Feeder<'f> {
    /// None at its end, and when the command reads no more.
    from: Option<BorrowedFd<'f>>,
    terminal: bool,
    /// The requests that have no answer yet.
    sent: Vec<u32>,
    buf: Vec<u8>,
}

impl<'f> Feeder<'f> {
    pub(super) fn new(from: Option<BorrowedFd<'f>>) -> Self {
        Self {
            from,
            terminal: from.is_some_and(|fd| isatty(fd).unwrap_or(false)),
            sent: Vec::new(),
            buf: vec![0; CHUNK],
        }
    }

    /// Reads no more.
    pub(super) fn end(&mut self) {
        self.from = None;
    }

    /// The requests that have no answer yet.
    pub(super) fn sent(&self) -> &[u32] {
        &self.sent
    }

    /// Takes the answer to one of them.
    pub(super) fn answered(&mut self, id: u32, answer: &Answer) {
        self.sent.retain(|sent| *sent != id);
        if !matches!(answer, Answer::Fed { open: true }) {
            self.end();
        }
    }

    /// Descriptor that may be read now.
    fn ready(&self) -> Option<BorrowedFd<'f>> {
        let from = self.from.filter(|_| self.sent.len() < MAX_FEEDS)?;
        // The kernel stops a process that reads its own terminal in the background, but not one that reads another.
        let elsewhere = || match tcgetpgrp(from) {
            Ok(group) => group != getpgrp(),
            Err(errno) => errno != Errno::ENOTTY,
        };
        let mine = !self.terminal || !elsewhere();
        mine.then_some(from)
    }
}

impl Client {
    /// Sends a piece of the input to the run, if one is there; waits at most `patience` for one, or for anything of the
    /// agent's.
    pub(super) fn feed(
        &mut self,
        run: u32,
        feeder: &mut Feeder<'_>,
        patience: Duration,
    ) -> Result<()> {
        let Some(from) = feeder.ready() else {
            return Ok(());
        };
        if !self.link.readable_or(from.as_fd(), patience)? {
            return Ok(());
        }
        let n = match read(from, &mut feeder.buf) {
            Ok(n) => n,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Err(e) => return Err(Error::io("cannot read the command's input")(e.into())),
        };
        let ask = Ask::Stdin {
            run,
            data: feeder.buf[..n].to_vec(),
            last: n == 0,
        };
        feeder.sent.push(self.link.send(ask, self.timeout)?);
        if n == 0 {
            feeder.end();
        }
        Ok(())
    }
}

/// Waits until `ours` or `other` can be read, at most `patience`; whether `other` can.
pub(super) fn either(ours: impl AsFd, other: BorrowedFd<'_>, patience: Duration) -> Result<bool> {
    let mut fds = [
        PollFd::new(other, PollFlags::POLLIN),
        PollFd::new(ours.as_fd(), PollFlags::POLLIN),
    ];
    let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
    match poll(&mut fds, patience) {
        // A file that ended, or never can be read: the read says so.
        Ok(_) | Err(Errno::EINTR) => Ok(fds[0].any().unwrap_or(false)),
        Err(e) => Err(Error::io("cannot wait for the command's input")(e.into())),
    }
}
