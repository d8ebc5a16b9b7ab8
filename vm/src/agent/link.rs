//! Frames over the port's socket.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use klab_wire::{
    Answer, Ask, Reply, Request,
    frame::{self, Decoder, FrameError},
};

use super::{Error, Result};

/// The socket, what it has brought, and the ids that were used.
#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
    decoder: Decoder,
    /// Messages of the last read; bounded by its size.
    ready: VecDeque<Result<Reply, FrameError>>,
    last_id: u32,
    buf: Vec<u8>,
}

impl Link {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: Decoder::new(),
            ready: VecDeque::new(),
            last_id: 0,
            buf: vec![0; 64 * 1024],
        }
    }

    /// Sends a request with a new id.
    pub(super) fn send(&mut self, ask: Ask, timeout: Duration) -> Result<u32> {
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

    fn write(&mut self, bytes: &[u8], timeout: Duration) -> Result<()> {
        let result = self
            .stream
            .set_write_timeout(Some(timeout.max(Duration::from_millis(1))))
            .and_then(|()| self.stream.write_all(bytes));
        result.map_err(|e| match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Silent(timeout),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Error::Gone,
            _ => Error::Io {
                what: "cannot write to the agent's socket".to_owned(),
                why: e,
            },
        })
    }

    /// The next answer to request `id`; `None` at the deadline. Answers to other requests (of a call that
    /// gave up) are dropped.
    pub(super) fn receive(&mut self, id: u32, deadline: Instant) -> Result<Option<Answer>> {
        Ok(self.receive_any(&[id], deadline)?.map(|reply| reply.answer))
    }

    /// The next answer to any of the requests `ids`.
    pub(super) fn receive_any(&mut self, ids: &[u32], deadline: Instant) -> Result<Option<Reply>> {
        loop {
            while let Some(reply) = self.ready.pop_front() {
                let reply = reply?;
                if ids.contains(&reply.id) {
                    return Ok(Some(reply));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream
                .set_read_timeout(Some(left))
                .map_err(Error::io("cannot set a time-out"))?;
            match self.stream.read(&mut self.buf) {
                Ok(0) => return Err(Error::Gone),
                Ok(n) => self
                    .decoder
                    .feed(&self.buf[..n], |reply| self.ready.push_back(reply)),
                Err(e) => match e.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset => return Err(Error::Gone),
                    _ => {
                        return Err(Error::Io {
                            what: "cannot read the agent's socket".to_owned(),
                            why: e,
                        });
                    }
                },
            }
        }
    }
}
