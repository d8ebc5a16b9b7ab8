//! The keeper: waits for the end of the process that started it, however that comes, and then lets the guests run that it
//! held still.
//!
//! A pause that only a destructor undoes survives the first `kill -9`. So a process that holds a guest has this one
//! beside it: in a session of its own, nobody's child, at the other end of a socket that the kernel closes when its
//! holder ends. It is compiled by the build script of `vm` and carried by the library, which is used by programs of
//! others (evcxr, Python): there is no program of klab's to start.

#[allow(dead_code)] // The library has the rest.
#[path = "../src/lease/book.rs"]
mod book;

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use book::{Ask, Book, Control, Process, State};

/// Interval at which the holder is looked at besides: a child that it forked may have the socket, too.
const LOOK: Duration = Duration::from_millis(500);
/// Time that QEMU or another command may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for which it is tried.
const LAST: Duration = Duration::from_secs(600);

fn main() {
    let number = |index| std::env::args().nth(index)?.parse::<u64>().ok();
    let (Some(pid), Some(start)) = (number(1), number(2)) else {
        eprintln!("klab-keeper is started by klab, beside a process that holds a guest still");
        std::process::exit(2);
    };
    let holder = Process {
        pid: u32::try_from(pid).unwrap_or(0),
        start,
    };
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned() else {
        std::process::exit(2);
    };
    let folders = watch(UnixStream::from(socket), holder);
    let until = Instant::now() + LAST;
    for folder in folders {
        // A busy QEMU, or a debugger of another's: again, for as long as its record is there.
        while mend(&folder, holder).is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Returns when the holder has ended, with the guests' folders that it named.
fn watch(mut socket: UnixStream, holder: Process) -> Vec<PathBuf> {
    let mut said = Vec::new();
    let _ = std::env::set_current_dir("/");
    let _ = socket.set_read_timeout(Some(LOOK));
    let _ = socket.write_all(b"\n");
    let mut some = [0; 4096];
    loop {
        match socket.read(&mut some) {
            Ok(0) => break,
            Ok(len) => said.extend_from_slice(&some[..len]),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                if !holder.lives() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    use std::os::unix::ffi::OsStrExt;
    let folders = said.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    folders
        .map(|name| PathBuf::from(std::ffi::OsStr::from_bytes(name)))
        .collect()
}

/// Undoes what the holder has left in one guest.
fn mend(folder: &Path, holder: Process) -> io::Result<()> {
    if !Book::is_there(folder) {
        return Ok(());
    }
    let busy = || io::Error::from(ErrorKind::TimedOut);
    let _lock = book::lock_of(folder, PATIENCE)?.ok_or_else(busy)?;
    let mut book = Book::read(folder);
    if !book.qemu.is_some_and(Process::lives) {
        // It was reset or taken down.
        return Book::default().write(folder);
    }
    let mut qemu = Qemu { folder, qmp: None };
    if book.mend(&mut qemu, &|process| process == holder)? {
        book.write(folder)?;
    }
    Ok(())
}

/// The guest's QEMU.
struct Qemu<'a> {
    folder: &'a Path,
    qmp: Option<(BufReader<UnixStream>, std::fs::File)>,
}

impl Qemu<'_> {
    /// Runs a command without arguments, and gives the line of its answer.
    fn run(&mut self, command: &str) -> io::Result<String> {
        if self.qmp.is_none() {
            let lock = book::lock(&self.folder.join("qmp.lock"), PATIENCE)?;
            let lock = lock.ok_or_else(|| io::Error::from(ErrorKind::TimedOut))?;
            let stream = UnixStream::connect(self.folder.join("qmp"))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            self.qmp = Some((BufReader::new(stream), lock));
            self.line("\"QMP\"")?;
            self.run("qmp_capabilities")?;
        }
        if let Some((stream, _)) = &mut self.qmp {
            let line = format!("{{\"execute\": \"{command}\"}}\n");
            stream.get_mut().write_all(line.as_bytes())?;
        }
        self.line("\"return\"")
    }

    /// The next line with this in it; events are passed over.
    fn line(&mut self, with: &str) -> io::Result<String> {
        let (stream, _) = self.qmp.as_mut().ok_or(ErrorKind::NotConnected)?;
        loop {
            let mut line = String::new();
            if stream.take(1 << 20).read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if line.contains("\"error\"") {
                return Err(io::Error::other(line));
            }
            if line.contains(with) {
                return Ok(line);
            }
        }
    }
}

impl Control for Qemu<'_> {
    fn state(&mut self) -> io::Result<State> {
        let line = self.run("query-status")?;
        let name = line
            .split_once("\"status\": \"")
            .and_then(|(_, rest)| rest.split('"').next());
        Ok(match name.unwrap_or_default() {
            "running" => State::Running,
            "debug" => State::Debug,
            "guest-panicked" | "shutdown" | "internal-error" => State::Ended,
            _ => State::Still,
        })
    }

    fn cont(&mut self) -> io::Result<()> {
        self.run("cont").map(drop)
    }

    fn stub(
        &mut self,
        address: &str,
        talk: &mut dyn FnMut(&mut Ask<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let lock = book::lock(&self.folder.join("gdb.lock"), Duration::ZERO)?;
        let _lock = lock.ok_or_else(|| io::Error::from(ErrorKind::TimedOut))?;
        if address.contains('/') {
            let mut stream = UnixStream::connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            talk(&mut |packet, answer| ask(&mut stream, packet, answer))
        } else {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            talk(&mut |packet, answer| ask(&mut stream, packet, answer))
        }
    }
}

/// Sends a packet of gdb's remote protocol and gives its answer: the first one that begins so, or with `E`.
fn ask(stream: &mut (impl Read + Write), packet: &str, answer: &str) -> io::Result<String> {
    let sum = packet
        .bytes()
        .fold(0_u8, |sum, byte| sum.wrapping_add(byte));
    stream.write_all(format!("${packet}#{sum:02x}").as_bytes())?;
    let mut read = Vec::new();
    let mut some = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&read);
        let packets = text.split('$').skip(1).filter_map(|rest| {
            let (data, sum) = rest.split_once('#')?;
            (sum.len() >= 2).then_some(data)
        });
        let mut wanted = packets.filter(|data| data.starts_with(answer) || data.starts_with('E'));
        if let Some(data) = wanted.next() {
            let data = data.to_owned();
            stream.write_all(b"+")?;
            return Ok(data);
        }
        let len = stream.read(&mut some)?;
        if len == 0 || read.len() > 1 << 16 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        read.extend_from_slice(&some[..len]);
    }
}
