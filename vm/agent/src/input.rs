//! The standard input of a run, which comes in pieces: each is answered once the command's pipe has taken it, so
//! that the host sends no faster than the command reads.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write as _},
    os::fd::AsFd as _,
    process::ChildStdin,
    sync::{Mutex, PoisonError},
};

use klab_wire::{Answer, MAX_FEEDS};
use nix::{
    poll::{PollFd, PollFlags},
    sys::eventfd::{EfdFlags, EventFd},
};

use crate::{
    error::{Error, Result},
    session::Responder,
};

/// A piece of it.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) data: Vec<u8>,
    /// True if the input ends with it.
    pub(crate) last: bool,
    /// Client that hears that it was taken; the piece that came with the run itself has none.
    pub(crate) to: Option<Responder>,
}

/// The pieces that the pipe has not taken yet.
#[derive(Debug)]
pub(crate) struct Input {
    pieces: Mutex<VecDeque<Piece>>,
    news: EventFd,
}

impl Input {
    pub(crate) fn new() -> nix::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self {
            pieces: Mutex::default(),
            news: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    /// Takes a piece; the thread that feeds the pipe hears of it.
    pub(crate) fn push(&self, piece: Piece) -> Result<()> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        // The one that came with the run is among them.
        if pieces.len() > MAX_FEEDS {
            return Err(Error(format!(
                "more than {MAX_FEEDS} pieces of input were sent before the command took one"
            )));
        }
        pieces.push_back(piece);
        self.news.write(1)?;
        Ok(())
    }

    /// Events that the pipe is to be polled for.
    pub(crate) fn wants(&self) -> PollFlags {
        let pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        if pieces.is_empty() {
            PollFlags::empty()
        } else {
            PollFlags::POLLOUT
        }
    }

    /// Descriptor that says that a piece has come.
    pub(crate) fn news(&self) -> PollFd<'_> {
        PollFd::new(self.news.as_fd(), PollFlags::POLLIN)
    }

    fn first(&self) -> Option<Piece> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.pop_front()
    }

    fn back(&self, piece: Piece) {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.push_front(piece);
    }
}

/// Writes what the command's standard input takes; closes it at the input's end, or when nobody reads it. What comes
/// after that is dropped, and said to be.
pub(crate) fn feed(
    stdin: &mut Option<(ChildStdin, &Input)>,
    input: Option<&Input>,
) -> io::Result<()> {
    let Some(input) = input else { return Ok(()) };
    // Only whether it is readable counts, not how often it was written.
    let _ = input.news.read();
    while let Some(mut piece) = input.first() {
        if let Some((pipe, _)) = stdin {
            match write(pipe, &mut piece.data) {
                Ok(true) if piece.last => *stdin = None,
                Ok(true) => {}
                Ok(false) => {
                    input.back(piece);
                    return Ok(());
                }
                Err(_) => *stdin = None,
            }
        }
        if let Some(to) = piece.to {
            to.send(Answer::Fed {
                open: stdin.is_some(),
            })?;
        }
    }
    Ok(())
}

/// Writes from the front of `data`, which keeps the rest; whether all of it is written.
fn write(pipe: &mut ChildStdin, data: &mut Vec<u8>) -> io::Result<bool> {
    let mut done = 0;
    let result = loop {
        if done == data.len() {
            break Ok(true);
        }
        match pipe.write(&data[done..]) {
            Ok(n) => done += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => break Err(e),
        }
    };
    data.drain(..done);
    result
}
