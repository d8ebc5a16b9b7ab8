//! QEMU's gdbstub: guest-physical memory by the remote protocol of gdb, with a bound on every wait and every answer.
//!
//! The guest's CPUs stand still for as long as it is connected: it has a hold of them. What is asked is sent
//! ahead of the answers: QEMU takes the start of a packet for the acknowledgement of its last one (`gdb_read_byte()` in its
//! gdbstub), and answers in order.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use nix::fcntl::Flock;

use crate::error::{Error, Result};
use crate::lease::{self, Hold};
use crate::machine::Machine;
use crate::paths;
use crate::rsp::{Rsp, Stream, packet};
use klab_facts::Memory;

/// Time limit for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that one packet asks for; an answer has two digits a byte, and QEMU's packets at most 4096.
const CHUNK: usize = 2048;
/// Packets that are sent ahead of their answers.
const AHEAD: usize = 32;
/// All that may come unasked, and the answers to what was sent ahead.
const LONGEST: usize = (64 << 10) + AHEAD * 2 * CHUNK;

/// A client of a machine's gdbstub, which serves one at a time.
#[derive(Debug)]
pub struct Gdb {
    rsp: Rsp,
    address: String,
    hold: Option<Hold>,
    _lock: Option<Flock<File>>,
}

impl Machine {
    /// A connection to its gdbstub. Its CPUs stand still until that ends.
    ///
    /// # Errors
    /// When nobody listens there, another client has it, or what answers is no gdbstub of QEMU's.
    pub fn gdb(&self) -> Result<Gdb> {
        let address = match self.memory() {
            Memory::Gdb { address, .. } => address.clone(),
            _ => self.gdb_socket().to_string_lossy().into_owned(),
        };
        let lock = paths::lock(
            &lease::home(self.run_dir()).join("gdb.lock"),
            Duration::from_secs(10),
        )?
        .ok_or_else(|| Error::Busy {
            path: address.clone().into(),
            holders: Vec::new(),
            cure: "another command of klab's reads this guest: try again when it has ended"
                .to_owned(),
        })?;
        let hold = self.hold_by(&address)?;
        let mut gdb = Gdb::connect(&address, Some(lock))?;
        gdb.hold = Some(hold);
        Ok(gdb)
    }
}

impl Gdb {
    /// Connects to a gdbstub, a Unix socket or `host:port`, and makes it give physical memory.
    fn connect(address: &str, lock: Option<Flock<File>>) -> Result<Self> {
        let stream = Stream::connect(address).map_err(|error| fault(address, &error))?;
        let mut gdb = Self {
            rsp: Rsp::new(stream, LONGEST),
            address: address.to_owned(),
            hold: None,
            _lock: lock,
        };
        match gdb.ask("Qqemu.PhyMemMode:1")?.as_slice() {
            b"OK" => Ok(gdb),
            other => Err(Error::Gdb {
                address: address.to_owned(),
                why: format!(
                    "it gives no physical memory (it says {:?}): QEMU 4.1 or later does",
                    String::from_utf8_lossy(&other[..other.len().min(32)])
                ),
            }),
        }
    }

    /// Fills `buf` from the guest-physical address `at`; `false` where that is no RAM.
    ///
    /// # Errors
    /// When QEMU does not answer, or answers nonsense.
    pub fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<bool> {
        let mut whole = true;
        let mut done = 0;
        for many in buf.chunks_mut(CHUNK * AHEAD) {
            let mut packets = String::new();
            for (index, part) in many.chunks(CHUNK).enumerate() {
                let from = at.wrapping_add((done + index * CHUNK) as u64);
                packets.push_str(&packet(&format!("m{from:x},{:x}", part.len())));
            }
            done += many.len();
            self.send(packets.as_bytes())?;
            for part in many.chunks_mut(CHUNK) {
                whole &= unhex(&self.answer()?, part);
            }
        }
        Ok(whole)
    }

    /// The first of `count` addresses, `step` bytes apart from `first` on, at which these bytes are.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn find(&mut self, bytes: &[u8], first: u64, step: u64, count: u64) -> Result<Option<u64>> {
        let all: Vec<u64> = (0..count)
            .map(|index| first.wrapping_add(index.wrapping_mul(step)))
            .collect();
        let mut found = None;
        for some in all.chunks(AHEAD) {
            let packets: String = some
                .iter()
                .map(|at| packet(&format!("m{at:x},{:x}", bytes.len())))
                .collect();
            self.send(packets.as_bytes())?;
            for &at in some {
                let mut there = vec![0; bytes.len()];
                if unhex(&self.answer()?, &mut there) && there == bytes {
                    found = found.or(Some(at));
                }
            }
            if found.is_some() {
                break;
            }
        }
        Ok(found)
    }

    /// Ends the connection; the guest goes on, if nobody else holds it.
    ///
    /// # Errors
    /// When QEMU does not answer, or the guest did not stand still.
    pub fn end(mut self) -> Result<()> {
        // The mode is the stub's, not the connection's. No detaching, which would let the guest go on under others.
        self.ask("Qqemu.PhyMemMode:0")?;
        let Self { rsp, hold, .. } = self;
        drop(rsp);
        hold.map_or(Ok(()), Hold::end)
    }

    fn ask(&mut self, what: &str) -> Result<Vec<u8>> {
        self.send(packet(what).as_bytes())?;
        self.answer()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.rsp
            .send(bytes)
            .map_err(|error| fault(&self.address, &error))
    }

    /// Receives the next packet; skips notices that a CPU has stopped.
    fn answer(&mut self) -> Result<Vec<u8>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let got = self
                .rsp
                .packet(until)
                .and_then(|got| got.ok_or_else(|| io::ErrorKind::TimedOut.into()))
                .map_err(|error| fault(&self.address, &error))?;
            if !matches!(got.first(), Some(b'T' | b'S' | b'W' | b'X')) {
                return Ok(got);
            }
        }
    }
}

fn fault(address: &str, error: &io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!(
            "no answer in {} s: another debugger has it, or it is no gdbstub",
            PATIENCE.as_secs()
        ),
        io::ErrorKind::UnexpectedEof => {
            "it hung up: QEMU has ended, or it is no gdbstub".to_owned()
        }
        _ => error.to_string(),
    };
    Error::Gdb {
        address: address.to_owned(),
        why,
    }
}

/// Hexadecimal digits into exactly `to`; `false` where they are something else.
fn unhex(digits: &[u8], to: &mut [u8]) -> bool {
    if digits.len() != to.len() * 2 {
        return false;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    for (pair, byte) in digits.chunks_exact(2).zip(to) {
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
            return false;
        };
        *byte = (high << 4 | low) as u8;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A stub that answers each packet with the next of these, and hangs up after the last.
    fn stub(answers: &[&str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answers: Vec<String> = answers.iter().map(|text| (*text).to_owned()).collect();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut some = [0; 4096];
            let mut answers = answers.iter().peekable();
            while answers.peek().is_some() {
                let len = stream.read(&mut some).unwrap();
                let packets = some[..len].iter().filter(|byte| **byte == b'$').count();
                for answer in answers.by_ref().take(packets) {
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        address
    }

    #[test]
    fn memory_is_read_and_what_is_none_is_told() {
        let answers = ["OK", "T02thread:01;", "0102ff", "E14"].map(packet);
        let answers = [
            format!("+{}", answers[0]),
            format!("+{}+{}", answers[1], answers[2]),
            answers[3].clone(),
        ];
        let mut gdb = Gdb::connect(&stub(&answers.each_ref().map(String::as_str)), None).unwrap();
        let mut bytes = [0; 3];
        assert!(gdb.read(0x1000, &mut bytes).unwrap());
        assert_eq!(bytes, [1, 2, 0xff]);
        assert!(!gdb.read(0x1000, &mut bytes).unwrap());
        // The stub is gone.
        assert!(gdb.read(0x1000, &mut bytes).is_err());
    }

    #[test]
    fn what_is_no_gdbstub_is_one_sentence() {
        for (answer, says) in [
            ("HTTP/1.1 400 Bad Request\r\n\r\n", "hung up"),
            ("$OK#00", "check sum"),
            ("$#00", "no physical memory"),
            ("\r\n\r\nlogin: ", "hung up"),
        ] {
            let said = Gdb::connect(&stub(&[answer]), None)
                .unwrap_err()
                .to_string();
            assert!(said.contains(says) && said.lines().count() == 1, "{said}");
        }
        let said = Gdb::connect("/no/such/socket", None)
            .unwrap_err()
            .to_string();
        assert!(said.contains("/no/such/socket"), "{said}");
        assert!(Gdb::connect("nonsense", None).is_err());
    }

    #[test]
    fn one_that_hangs_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gdb");
        let _listener = UnixListener::bind(&path).unwrap();
        let began = Instant::now();
        let said = Gdb::connect(&path.to_string_lossy(), None)
            .unwrap_err()
            .to_string();
        assert!(said.contains("no answer in 5 s"), "{said}");
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_flood_is_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        });
        let said = Gdb::connect(&address, None).unwrap_err().to_string();
        assert!(said.contains("no packets"), "{said}");
    }
}
