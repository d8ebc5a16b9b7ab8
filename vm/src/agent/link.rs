//! Frames over a port, and what is known of the guest while none come.

use std::{
    collections::VecDeque,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use klab_wire::{
    Answer, Ask, LINE_ROOM, Reply, Request,
    frame::{self, Decoder, FrameError},
};

use super::{Error, Result, input::either, wire::Wire};
use crate::lease;

/// The silence after which QEMU is asked whether the guest runs: longer than most answers take.
const FIRST_LOOK: Duration = Duration::from_millis(200);
/// Interval of the questions then.
const LOOK: Duration = Duration::from_secs(1);
/// Time limit for the agent to take off a serial line what it holds.
const TAKES: Duration = Duration::from_millis(500);

/// The port, what it has brought, and the ids that were used.
#[derive(Debug)]
pub(super) struct Link {
    wire: Wire,
    decoder: Decoder,
    /// Messages of the last read; bounded by its size.
    ready: VecDeque<Result<Reply, FrameError>>,
    last_id: u32,
    buf: Vec<u8>,
    watch: Watch,
    /// Number of bytes that are under way to the agent, over a serial line.
    line: Option<usize>,
}

/// State of the guest while its agent says nothing.
#[derive(Debug)]
struct Watch {
    /// The guest's run folder.
    folder: PathBuf,
    /// Time at which the agent was last heard, or asked something.
    heard: Instant,
    /// The same in seconds since 1970, as the record of the run folder counts.
    at: u64,
    /// Time since then for which somebody else has held the guest still.
    held: Duration,
    looked: Option<(Instant, bool)>,
}

impl Watch {
    fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            heard: Instant::now(),
            at: now(),
            held: Duration::ZERO,
            looked: None,
        }
    }

    fn restart(&mut self) {
        self.heard = Instant::now();
        self.at = now();
        self.held = Duration::ZERO;
        self.looked = None;
    }

    /// Time at which QEMU is to be asked next.
    fn next(&self) -> Instant {
        match self.looked {
            None => self.heard + FIRST_LOOK,
            Some((looked, _)) => looked + LOOK,
        }
    }

    /// Asks QEMU, if it is time: a guest that will not go on by itself is an error.
    fn look(&mut self) -> Result<()> {
        if Instant::now() < self.next() {
            return Ok(());
        }
        let halt = lease::halt(&self.folder);
        let now = Instant::now();
        if let Some((before, true)) = self.looked {
            self.held += now - before;
        }
        // A hold of this process's may be the very one that waits here.
        let held = halt
            .as_ref()
            .is_some_and(|halt| halt.is_waited_out(self.at) && !halt.is_ours());
        self.looked = Some((now, held));
        match halt {
            Some(halt) if !halt.is_waited_out(self.at) => Err(Error::Halted(halt)),
            _ => Ok(()),
        }
    }

    /// Time for which the agent has said nothing, though the guest could run.
    fn silence(&self) -> Duration {
        let now = Instant::now();
        let held = match self.looked {
            Some((looked, true)) => self.held + (now - looked),
            _ => self.held,
        };
        (now - self.heard).saturating_sub(held)
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

impl Link {
    /// Over a port, which may be a serial `line`.
    pub(super) fn new(wire: Wire, folder: &Path, line: bool) -> Self {
        Self {
            wire,
            decoder: Decoder::new(),
            ready: VecDeque::new(),
            last_id: 0,
            buf: vec![0; 64 * 1024],
            watch: Watch::new(folder),
            line: line.then_some(0),
        }
    }

    /// Tells whether it is a serial line.
    pub(super) fn is_line(&self) -> bool {
        self.line.is_some()
    }

    /// Number of bytes that may be sent now; over a serial line the agent has to take what was sent before.
    fn room(&mut self) -> Result<usize> {
        let Some(under_way) = self.line else {
            return Ok(usize::MAX);
        };
        let until = Instant::now() + TAKES;
        while self.line.is_some_and(|under_way| under_way > 0) && Instant::now() < until {
            self.pull(Duration::from_millis(20))?;
        }
        if self.line == Some(under_way) && under_way > 0 {
            // Nobody has told: they are lost, or were another client's.
            self.line = Some(0);
        }
        Ok(LINE_ROOM.saturating_sub(self.line.unwrap_or(0)).max(1))
    }

    /// Sends a request with a new id.
    pub(super) fn send(&mut self, ask: Ask, timeout: Duration) -> Result<u32> {
        self.watch.restart();
        self.send_besides(ask, timeout)
    }

    /// Sends a request while another waits for its answer, whose wait it does not make longer.
    pub(super) fn send_besides(&mut self, ask: Ask, timeout: Duration) -> Result<u32> {
        let id = self.last_id.wrapping_add(1).max(1);
        self.last_id = id;
        self.send_as(id, ask, timeout)?;
        Ok(id)
    }

    /// Sends a request that goes on with one that was sent before.
    pub(super) fn send_as(&mut self, id: u32, ask: Ask, timeout: Duration) -> Result<()> {
        let bytes = frame::encode(&Request { id, ask })?;
        self.write(&bytes, timeout)
    }

    /// Sends what ends a frame that an earlier client left open.
    pub(super) fn flush(&mut self, timeout: Duration) -> Result<()> {
        self.write(&frame::flush(), timeout)
    }

    /// Tells whether `other` can be read; waits at most `patience` until it can, or until something of the agent's is
    /// there.
    pub(super) fn readable_or(&self, other: BorrowedFd<'_>, patience: Duration) -> Result<bool> {
        let patience = if self.ready.is_empty() {
            patience
        } else {
            Duration::ZERO
        };
        either(&self.wire, other, patience)
    }

    /// Tells whether something of the agent's is there.
    pub(super) fn has_news(&self) -> Result<bool> {
        Ok(!self.ready.is_empty() || either(&self.wire, self.wire.as_fd(), Duration::ZERO)?)
    }

    /// Writes all; the guest may take nothing for as long as `timeout`, while it runs.
    fn write(&mut self, bytes: &[u8], timeout: Duration) -> Result<()> {
        let mut rest = bytes;
        let mut began = Instant::now();
        while !rest.is_empty() {
            let room = self.room()?.min(rest.len());
            match self.wire.write(&rest[..room], FIRST_LOOK)? {
                Some(len) => {
                    self.line = self.line.map(|under_way| under_way + len);
                    rest = &rest[len..];
                    began = Instant::now();
                }
                None => {
                    self.watch.look()?;
                    if self.watch.looked.is_some_and(|(_, held)| held) {
                        began = Instant::now();
                    }
                    if began.elapsed() >= timeout {
                        return Err(self.silent(timeout));
                    }
                }
            }
        }
        Ok(())
    }

    /// Time for which the agent has said nothing, though the guest could run.
    pub(super) fn silence(&self) -> Duration {
        self.watch.silence()
    }

    /// The error of a silence of this length: what QEMU says, if the guest does not run.
    pub(super) fn silent(&self, timeout: Duration) -> Error {
        lease::unanswering(&self.watch.folder).map_or(Error::Silent(timeout), Error::Halted)
    }

    /// The next answer to request `id`; `None` at the deadline. Answers to other requests (of a call that
    /// gave up) are dropped.
    pub(super) fn receive(&mut self, id: u32, deadline: Instant) -> Result<Option<Answer>> {
        Ok(self.receive_any(&[id], deadline)?.map(|reply| reply.answer))
    }

    /// The next answer to any of the requests `ids`.
    ///
    /// # Errors
    /// When the guest does not run, and will not by itself.
    pub(super) fn receive_any(&mut self, ids: &[u32], deadline: Instant) -> Result<Option<Reply>> {
        loop {
            while let Some(reply) = self.ready.pop_front() {
                let reply = reply?;
                if ids.contains(&reply.id) {
                    return Ok(Some(reply));
                }
            }
            self.watch.look()?;
            let now = Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            let left = deadline
                .min(self.watch.next())
                .saturating_duration_since(now);
            self.pull(left)?;
        }
    }

    /// Takes what comes within `left`.
    fn pull(&mut self, left: Duration) -> Result<()> {
        let Some(len) = self.wire.read(&mut self.buf, left)? else {
            return Ok(());
        };
        self.watch.restart();
        let (line, ready) = (&mut self.line, &mut self.ready);
        let mut on = |reply: Result<Reply, FrameError>| match (&reply, &mut *line) {
            (
                Ok(Reply {
                    answer: Answer::Taken(taken),
                    ..
                }),
                Some(under_way),
            ) => *under_way = under_way.saturating_sub(*taken as usize),
            _ => ready.push_back(reply),
        };
        self.decoder.feed(&self.buf[..len], &mut on);
        Ok(())
    }
}
