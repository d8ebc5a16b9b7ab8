//! The remote serial protocol of gdb, as far as its packets: `$DATA#SUM`, where `SUM` is the sum of the bytes of `DATA`
//! modulo 256. Every wait and every answer is bounded.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::unix;

/// Time limit for the other end to take what is sent.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that may come before an answer that is waited for.
const LONGEST: usize = 64 << 10;

/// Stream of a connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// A connection to a gdbstub: a Unix socket's path, or `host:port`.
    pub(crate) fn connect(address: &str) -> io::Result<Self> {
        if address.contains('/') {
            return Ok(Self::Unix(unix::connect(Path::new(address), PATIENCE)?));
        }
        let known = address.to_socket_addrs()?.next();
        let to = known.ok_or(ErrorKind::NotFound)?;
        Ok(Self::Tcp(TcpStream::connect_timeout(&to, PATIENCE)?))
    }
}

/// A connection to a gdbstub.
#[derive(Debug)]
pub(crate) struct Rsp {
    stream: Stream,
    /// Bytes that may come without being a packet.
    longest: usize,
    /// Bytes that came and were not looked at, from `at` on.
    read: Vec<u8>,
    at: usize,
}

impl Rsp {
    /// Over `stream`; more than `longest` bytes that are no packet are an error.
    pub(crate) fn new(stream: Stream, longest: usize) -> Self {
        Self {
            stream,
            longest,
            read: Vec::new(),
            at: 0,
        }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Unix(stream) => stream
                .set_write_timeout(Some(PATIENCE))
                .and_then(|()| stream.write_all(bytes)),
            Stream::Tcp(stream) => stream
                .set_write_timeout(Some(PATIENCE))
                .and_then(|()| stream.write_all(bytes)),
        }
    }

    /// Over a connection to the gdbstub at `address`.
    pub(crate) fn connect(address: &str) -> io::Result<Self> {
        Ok(Self::new(Stream::connect(address)?, LONGEST))
    }

    /// Sends a packet and gives its answer: the first one that begins so, or with `E`.
    pub(crate) fn ask(&mut self, data: &str, answer: &str) -> io::Result<String> {
        self.send(packet(data).as_bytes())?;
        let until = Instant::now() + PATIENCE;
        loop {
            let got = self.packet(until)?.ok_or(ErrorKind::TimedOut)?;
            let got = String::from_utf8_lossy(&got).into_owned();
            if got.starts_with(answer) || got.starts_with('E') {
                self.send(b"+")?;
                return Ok(got);
            }
        }
    }

    /// Receives the next packet; `None` if none has come by then. What is there already is taken also when that time is over.
    pub(crate) fn packet(&mut self, until: Instant) -> io::Result<Option<Vec<u8>>> {
        let bad = |why: &'static str| io::Error::new(ErrorKind::InvalidData, why);
        let mut looked = false;
        loop {
            let seen = &self.read[self.at..];
            let find = |byte, from: usize| {
                let found = seen.get(from..)?.iter().position(|other| *other == byte);
                found.map(|at| from + at)
            };
            let start = find(b'$', 0);
            let end = start.and_then(|start| find(b'#', start));
            if let (Some(start), Some(end)) = (start, end)
                && let Some(sum) = seen.get(end + 1..end + 3)
            {
                let data = &seen[start + 1..end];
                let told = std::str::from_utf8(sum)
                    .ok()
                    .and_then(|sum| u8::from_str_radix(sum, 16).ok());
                if told != Some(checksum(data)) {
                    return Err(bad("a packet has a wrong check sum"));
                }
                let data = data.to_vec();
                self.at += end + 3;
                return Ok(Some(data));
            }
            if seen.len() > self.longest {
                return Err(bad("what it says are no packets"));
            }
            self.read.drain(..self.at);
            self.at = 0;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() && looked {
                return Ok(None);
            }
            looked = true;
            let left = left.max(Duration::from_millis(1));
            let mut some = [0; 16 << 10];
            let got = match &mut self.stream {
                Stream::Unix(stream) => stream
                    .set_read_timeout(Some(left))
                    .and_then(|()| stream.read(&mut some)),
                Stream::Tcp(stream) => stream
                    .set_read_timeout(Some(left))
                    .and_then(|()| stream.read(&mut some)),
            };
            match got {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.read.extend_from_slice(&some[..len]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn checksum(data: &[u8]) -> u8 {
    data.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The packet that holds this.
pub(crate) fn packet(data: &str) -> String {
    format!("${data}#{:02x}", checksum(data.as_bytes()))
}
