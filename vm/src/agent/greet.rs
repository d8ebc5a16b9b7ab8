//! Finding a port of the guest's agent that answers.
//!
//! A port whose lock is free may still be in the agent's hands: with the last request of a client that has gone. So a client
//! whose port does not greet takes others besides, one after the other, and has the first that does.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use klab_wire::{Answer, Ask, Hello, HelloReply, LINE_QUIET, PORTS};

use super::{Error, Result, link::Link, wire::Wire};
use crate::qemu::LINE_IN;

/// Time that a port is waited for before the next one is tried besides; longer with each round of all.
const TURN: Duration = Duration::from_millis(300);
/// Time until a greeting is sent once more on the first port, after what ends a frame that an earlier client left open.
const SECOND_HELLO: Duration = Duration::from_millis(250);
/// Time limit for what ends such a frame.
const FLUSH: Duration = Duration::from_millis(200);
/// Time that one of two ports is listened to before the other one is.
const SLICE: Duration = Duration::from_millis(10);

/// A port that is this client's.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: usize,
    pub(super) link: Link,
    /// Lock of the port, held for the client's life.
    pub(super) lock: File,
    nonce: u64,
    hello: u32,
}

/// Takes a free port whose agent greets.
pub(super) fn find(run_dir: &Path, timeout: Duration) -> Result<(Port, HelloReply)> {
    let began = Instant::now();
    let until = began + timeout;
    let mut first = Port::take(run_dir, 0..PORTS)?.ok_or(Error::Busy)?;
    first.greet(timeout)?;
    let line = first.link.is_line();
    // A line has to be quiet, to end such a frame.
    let mut again = Some(
        began
            + if line {
                LINE_QUIET * 3 / 2
            } else {
                SECOND_HELLO
            },
    );
    // Another port besides, and until when.
    let mut other: Option<(Port, Instant)> = None;
    let (mut last, mut turn, mut next) = (first.number, TURN, began + TURN);
    loop {
        let now = Instant::now();
        let slice = if other.is_some() {
            now + SLICE
        } else {
            next.min(again.unwrap_or(until))
        };
        if let Some(reply) = first.answer(slice.min(until))? {
            return Ok((first, reply));
        }
        if let Some((port, _)) = &mut other
            && let Some(reply) = port.answer(Instant::now() + SLICE)?
        {
            return other.map(|(port, _)| (port, reply)).ok_or(Error::Busy);
        }
        let now = Instant::now();
        if now >= until {
            return Err(first.link.silent(timeout));
        }
        if again.is_some_and(|again| now >= again) {
            again = None;
            let flushed = if line {
                Ok(())
            } else {
                first.link.flush(FLUSH)
            };
            match flushed {
                Ok(()) => first.greet(FLUSH)?,
                // It takes nothing.
                Err(Error::Silent(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if now >= next && other.as_ref().is_none_or(|(_, until)| now >= *until) {
            // Its lock first: the next one may be the only one that is free.
            drop(other.take());
            other = Port::take(run_dir, last + 1..PORTS)?.map(|port| (port, now + turn));
            match &mut other {
                Some((port, _)) => {
                    last = port.number;
                    port.greet(FLUSH)?;
                }
                None => {
                    (last, turn) = (first.number, turn * 2);
                    next = now + TURN;
                }
            }
        }
    }
}

impl Port {
    /// The first of these ports whose lock is free, connected to.
    fn take(run_dir: &Path, ports: std::ops::Range<usize>) -> Result<Option<Self>> {
        // A guest that is recorded has one alone, a serial line.
        let line = run_dir.join(LINE_IN).exists();
        for number in ports {
            let socket = match line {
                true => run_dir.join(LINE_IN),
                false => run_dir.join(format!("agent.{number}")),
            };
            if number > 0 && (line || !socket.exists()) {
                continue;
            }
            let path = run_dir.join(format!("agent.{number}.lock"));
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)
                .map_err(|why| Error::NoGuest { socket: path, why })?;
            if lock.try_lock().is_err() {
                continue;
            }
            let wire = match line {
                true => Wire::line(run_dir),
                false => Wire::socket(&socket),
            };
            let wire = wire.map_err(|why| Error::NoGuest { socket, why })?;
            return Ok(Some(Self {
                number,
                link: Link::new(wire, run_dir, line),
                lock,
                nonce: nonce(),
                hello: 0,
            }));
        }
        Ok(None)
    }

    fn greet(&mut self, timeout: Duration) -> Result<()> {
        let hello = Ask::Hello(Hello {
            time_ns: now_ns(),
            nonce: self.nonce,
        });
        self.hello = self.link.send(hello, timeout)?;
        Ok(())
    }

    /// The answer to the greeting, if it comes by then; what an earlier client's requests left on the way is passed over.
    fn answer(&mut self, until: Instant) -> Result<Option<HelloReply>> {
        loop {
            match self.link.receive(self.hello, until)? {
                Some(Answer::Hello(reply)) if reply.nonce == self.nonce => return Ok(Some(reply)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

fn nonce() -> u64 {
    now_ns().rotate_left(17) ^ u64::from(std::process::id())
}
