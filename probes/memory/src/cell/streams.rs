//! The standard streams of the process of the cells while a cell runs.
//!
//! evcxr says at the process's first stdin what is to be run, so a cell that reads its stdin would eat that. [`Streams`]
//! hands evcxr's lines on one by one, by a socket that keeps them apart. A thread that reads there while a cell runs is
//! the cell's: the kernel is asked for a line, and says whether there is one. A message without bytes is the end of the file.
//!
//! A cell that prints without end is stopped at its next line: what it prints to is closed, `println!` panics, and the
//! panic's hook opens it again.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::libc;

use super::front::{Event, send};
use super::keep;
use crate::base;

/// First word of evcxr's message that a cell is to run.
const RUN: &str = "LOAD_AND_RUN ";
/// Interval at which the threads of a cell that runs are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of an answer that fit in one message; a program that reads less than a line at a time loses the rest of it.
const MESSAGE: usize = 4096;

#[derive(Debug)]
pub(super) struct Streams {
    /// The far end of stdin.
    feed: UnixDatagram,
    out: UnixStream,
    /// Stdout was closed to stop the cell.
    closed: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    asked: bool,
}

impl Streams {
    /// Takes over stdin, and stdout for as long as a cell that prints is stopped; `out` is what stdout is else, and `commands` is
    /// where evcxr writes.
    pub(super) fn start(commands: File, out: UnixStream) -> io::Result<Arc<Self>> {
        let (stdin, feed) = UnixDatagram::pair()?;
        nix::unistd::dup2_stdin(&stdin)?;
        let streams = Arc::new(Self {
            feed,
            out,
            closed: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let pump = Arc::clone(&streams);
        spawn(keep::STDIN, move || pump.pump(commands))?;
        let watch = Arc::clone(&streams);
        spawn(keep::STREAMS, move || watch.watch())?;
        Ok(streams)
    }

    /// Gives the cell that asked what it reads, or the end of the file.
    pub(super) fn answer(&self, line: Option<&str>) {
        self.lock().asked = false;
        match line {
            Some(line) => {
                let line = format!("{line}\n");
                for part in line.as_bytes().chunks(MESSAGE) {
                    let _ = self.feed.send(part);
                }
            }
            None => drop(self.feed.send(&[])),
        }
    }

    /// Nobody asks any more: what was asked was not the cell's.
    pub(super) fn forget(&self) {
        self.lock().asked = false;
    }

    /// The cell is over.
    pub(super) fn end(&self) {
        *self.lock() = State::default();
    }

    /// Opens stdout again, and says whether it was closed.
    pub(super) fn open(&self) -> bool {
        let closed = self.closed.swap(false, Ordering::SeqCst);
        if closed {
            let _ = nix::unistd::dup2_stdout(&self.out);
        }
        closed
    }

    /// Hands evcxr's lines on; at their end the process ends.
    fn pump(&self, commands: File) {
        for line in BufReader::new(commands).lines().map_while(Result::ok) {
            let run = line.starts_with(RUN);
            // Not before it is known to run: it may end at once.
            if run {
                self.lock().running = true;
                self.changed.notify_all();
            }
            let _ = self.feed.send(format!("{line}\n").as_bytes());
        }
        let _ = self.feed.send(&[]);
    }

    fn watch(&self) {
        loop {
            let waiting = self.lock();
            let waiting = self
                .changed
                .wait_while(waiting, |state| !state.running)
                .unwrap_or_else(PoisonError::into_inner);
            drop(waiting);
            thread::sleep(LOOK);
            let (mut reads, mut writes) = (false, false);
            for call in calls() {
                reads |= call == (libc::SYS_read, 0);
                writes |= call == (libc::SYS_write, 1);
            }
            let mut state = self.lock();
            if !state.running {
                continue;
            }
            if writes && base::interrupt_flag().load(Ordering::Relaxed) {
                self.close();
            }
            if reads && !std::mem::replace(&mut state.asked, true) {
                drop(state);
                send(&Event::Input {});
            }
        }
    }

    /// Makes each write to stdout fail.
    fn close(&self) {
        if let Ok((broken, _)) = UnixStream::pair()
            && !self.closed.swap(true, Ordering::SeqCst)
        {
            let _ = nix::unistd::dup2_stdout(&broken);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map(drop)
}

/// The system calls that this process's threads wait in, with their first argument.
fn calls() -> Vec<(i64, u64)> {
    let tasks = fs::read_dir("/proc/self/task");
    let tasks = tasks.into_iter().flatten().flatten();
    tasks
        .filter_map(|task| parse(&fs::read_to_string(task.path().join("syscall")).ok()?))
        .collect()
}

/// `NUMBER 0xARGUMENT ..`; a thread that runs has `running`.
fn parse(call: &str) -> Option<(i64, u64)> {
    let mut words = call.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let first = words.next()?.strip_prefix("0x")?;
    Some((number, u64::from_str_radix(first, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn a_call_is_its_number_and_its_first_argument() {
        let read = "0 0x3 0x7fba 0x20000 0x0 0x0 0x0 0x7ff 0x7fb\n";
        assert_eq!(parse(read), Some((0, 3)));
        assert_eq!(parse("running\n"), None);
    }

    #[test]
    fn a_thread_that_reads_is_seen() {
        let (mut own, far) = io::pipe().unwrap();
        let read = (libc::SYS_read, u64::try_from(own.as_raw_fd()).unwrap());
        let reader = thread::spawn(move || own.read(&mut [0]).unwrap());
        let seen = (0..500).any(|_| {
            thread::sleep(LOOK);
            calls().contains(&read)
        });
        assert!(seen);
        drop(far);
        assert_eq!(reader.join().unwrap(), 0);
        assert!(!calls().contains(&read));
    }
}
