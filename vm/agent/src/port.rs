//! One virtio-serial port, or a serial line: bytes in, frames out, and whether the host is there.
//!
//! Semantics rest on `port_fops_read`, `port_fops_write` and `port_fops_poll` of `drivers/char/virtio_console.c`:
//! without a host, reads give 0 and poll says `POLLHUP`, always; a blocking write waits for a host for ever. So
//! the port is non-blocking, and what waits for a host is an edge-triggered epoll: it wakes when the driver
//! wakes the port's queue (a host came or went, data came) and never else, so an idle guest has no timer.
//!
//! A serial line says nothing of hosts: what one has begun goes on until the next one's greeting. What was taken off it is told,
//! since a host that sends faster would lose bytes.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, IsTerminal as _, Read as _, Write as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use klab_wire::{Answer, LINE_QUIET, Reply, frame};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        termios::{ControlFlags, SetArg, cfmakeraw, tcgetattr, tcsetattr},
    },
};

/// Bytes and the news of hosts come by different queues: a host's first bytes may be here before the driver
/// knows of it, even before it knows that the one before has gone. So no host is gone before this is over.
const ARRIVAL: Duration = Duration::from_millis(500);

/// Result of a read of a port.
#[derive(Debug)]
pub(crate) enum Input<'a> {
    /// Bytes of the host.
    Bytes(&'a [u8]),
    /// The host has gone.
    Gone,
    /// A serial line was quiet: a frame that was begun before has no end.
    Quiet,
}

/// An open port.
#[derive(Debug)]
pub(crate) struct Port {
    file: File,
    epoll: Epoll,
    write: Mutex<()>,
    /// Grows with every host that comes or goes; what was begun in an earlier one has no reader.
    epoch: AtomicU64,
    /// True if it is a serial line.
    line: bool,
}

impl Port {
    pub(crate) fn open(device: &str) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(device)?;
        let line = file.is_terminal();
        if line {
            let mut settings = tcgetattr(&file)?;
            cfmakeraw(&mut settings);
            settings.control_flags |= ControlFlags::CLOCAL | ControlFlags::CREAD;
            tcsetattr(&file, SetArg::TCSANOW, &settings)?;
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(
            &file,
            EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0),
        )?;
        Ok(Self {
            file,
            epoll,
            write: Mutex::new(()),
            epoch: AtomicU64::new(0),
            line,
        })
    }

    /// The present host's number.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Ends what the present host has begun.
    pub(crate) fn next_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Hands everything that comes to `on`, until reading fails. A host that has gone is told some time later, or
    /// not at all when another follows at once: its greeting tells.
    pub(crate) fn read(&self, mut on: impl FnMut(Input<'_>)) -> io::Result<()> {
        let mut buf = vec![0; 64 * 1024];
        // Since when no host has been there, while that is not yet told.
        let mut alone = Some(Instant::now());
        let mut heard = Instant::now();
        loop {
            let n = match (&self.file).read(&mut buf) {
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    alone = None;
                    self.wait()?;
                    continue;
                }
                // The driver's word for a host that went while it read.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => 0,
                Err(e) => return Err(e),
            };
            if n > 0 {
                alone = None;
                if self.line {
                    if heard.elapsed() > LINE_QUIET {
                        on(Input::Quiet);
                    }
                    heard = Instant::now();
                    let taken = u32::try_from(n).unwrap_or(u32::MAX);
                    self.send(self.epoch(), 0, Answer::Taken(taken))?;
                }
                on(Input::Bytes(&buf[..n]));
            } else if alone.get_or_insert_with(Instant::now).elapsed() < ARRIVAL {
                std::thread::sleep(Duration::from_millis(5));
            } else {
                on(Input::Gone);
                // A port without a host reads as empty for ever: from here on only an edge counts.
                self.wait()?;
                alone = None;
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut events = [EpollEvent::empty()];
        match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Sends a reply to the host of `epoch`; fails once that one has gone. Waits while the host does not read.
    pub(crate) fn send(&self, epoch: u64, id: u32, answer: Answer) -> io::Result<()> {
        let bytes = frame::encode(&Reply { id, answer }).or_else(|too_long| {
            // The host must not wait for an answer that does not fit.
            let answer = Answer::Error(format!("the answer does not fit: {too_long}"));
            frame::encode(&Reply { id, answer }).map_err(io::Error::other)
        })?;
        let _one_at_a_time = self.write.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = bytes.as_slice();
        let mut alone = None;
        while !rest.is_empty() {
            if self.epoch() != epoch {
                return Err(ErrorKind::BrokenPipe.into());
            }
            match (&self.file).write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if !self.wait_writable()? {
                        alone = None;
                    } else if alone.get_or_insert_with(Instant::now).elapsed() > ARRIVAL {
                        return Err(ErrorKind::BrokenPipe.into());
                    } else {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Waits until a write may do something; whether the driver says that no host is there.
    fn wait_writable(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        // The limit is there to look at the epoch again.
        match poll(&mut fds, PollTimeout::from(1000_u16)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(fds[0]
            .revents()
            .is_some_and(|r| r.contains(PollFlags::POLLHUP)))
    }
}
