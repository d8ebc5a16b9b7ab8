//! The record of the processes that keep a guest's CPUs from running, in its run folder, and the undoing when one is
//! gone.
//!
//! Standard library alone: the keeper (`keeper/main.rs`), which waits for a holder's end, is compiled from this file too.
//!
//! ```text
//! qemu      PID START                            the QEMU that this is about; of another it says nothing
//! ran                                            it runs on after the last hold
//! paused    PID START ID SINCE STUB PROGRAM      a user's wish: stays until `resume`
//! hold      ..                                   a reading's: ends with its process
//! debugger  ..                                   has the gdbstub, and perhaps breakpoints; with the ID 1 it keeps the guest at one
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The record; absent where nobody holds the guest.
const NAME: &str = "holds";
/// More CPUs than any guest has.
const CPUS: u32 = 4096;
/// Letters that are kept of a program's arguments.
const LONGEST: usize = 120;
/// Id of a debugger that keeps the guest where it stopped, until its user lets it go on.
pub(crate) const STAYS: u32 = 1;

/// A process that cannot be mistaken for a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Clock ticks from boot to its start (field 22 of `/proc/PID/stat`, proc(5)).
    pub(crate) start: u64,
}

impl Process {
    pub(crate) fn lives(self) -> bool {
        start_of(self.pid) == Some(self.start)
    }
}

/// Start time of a process, in clock ticks after boot; `None` for one that is gone or a zombie.
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name is in brackets and may hold anything, brackets and blanks too.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A process that keeps the guest from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) process: Process,
    /// Tells apart what one process holds.
    pub(crate) id: u32,
    /// Seconds since 1970.
    pub(crate) since: u64,
    /// The gdbstub that it is connected to, or nothing.
    pub(crate) stub: String,
    /// Program that the process runs.
    pub(crate) program: String,
}

impl Entry {
    /// One of this process, from now on.
    pub(crate) fn ours(id: u32, stub: &str) -> Self {
        let pid = std::process::id();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            process: Process {
                pid,
                start: start_of(pid).unwrap_or(0),
            },
            id,
            since: now.map_or(0, |now| now.as_secs()),
            stub: plain(stub),
            program: program(),
        }
    }

    fn line(&self, kind: &str) -> String {
        let Process { pid, start } = self.process;
        let Self {
            id,
            since,
            stub,
            program,
            ..
        } = self;
        format!("{kind}\t{pid}\t{start}\t{id}\t{since}\t{stub}\t{program}\n")
    }

    fn parse(fields: &mut dyn Iterator<Item = &str>) -> Option<Self> {
        Some(Self {
            process: process(fields)?,
            id: fields.next()?.parse().ok()?,
            since: fields.next()?.parse().ok()?,
            stub: fields.next()?.to_owned(),
            program: fields.next()?.to_owned(),
        })
    }
}

fn process(fields: &mut dyn Iterator<Item = &str>) -> Option<Process> {
    Some(Process {
        pid: fields.next()?.parse().ok()?,
        start: fields.next()?.parse().ok()?,
    })
}

/// Command line of this process.
fn program() -> String {
    let mut args = std::env::args_os();
    let first = args.next().unwrap_or_default();
    let name = Path::new(&first).file_name().unwrap_or(&first);
    let rest = args.map(|arg| arg.to_string_lossy().into_owned());
    let words: Vec<String> = [name.to_string_lossy().into_owned()]
        .into_iter()
        .chain(rest)
        .collect();
    plain(&words.join(" "))
}

/// A text that fits into a field.
fn plain(text: &str) -> String {
    let mut plain: String = text
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        plain.push_str("..");
    }
    plain
}

/// The record of the processes that keep the guest's CPUs from running.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Book {
    pub(crate) qemu: Option<Process>,
    /// True if the guest runs on when nobody holds it any more.
    pub(crate) ran: bool,
    pub(crate) paused: Option<Entry>,
    pub(crate) holds: Vec<Entry>,
    pub(crate) debugger: Option<Entry>,
}

impl Book {
    /// The record in `folder`; what is no line of one is passed over.
    pub(crate) fn read(folder: &Path) -> Self {
        let mut book = Self::default();
        let bytes = fs::read(folder.join(NAME)).unwrap_or_default();
        for line in String::from_utf8_lossy(&bytes).lines() {
            let mut fields = line.split('\t');
            match fields.next() {
                Some("qemu") => book.qemu = process(&mut fields),
                Some("ran") => book.ran = true,
                Some("paused") => book.paused = Entry::parse(&mut fields),
                Some("hold") => book.holds.extend(Entry::parse(&mut fields)),
                Some("debugger") => book.debugger = Entry::parse(&mut fields),
                _ => {}
            }
        }
        book
    }

    /// Tells whether there is a record in `folder`.
    pub(crate) fn is_there(folder: &Path) -> bool {
        folder.join(NAME).exists()
    }

    /// Writes the record in one step; none is kept of nothing.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let path = folder.join(NAME);
        if self.holds.is_empty() && self.paused.is_none() && self.debugger.is_none() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let mut text = String::new();
        if let Some(Process { pid, start }) = self.qemu {
            text.push_str(&format!("qemu\t{pid}\t{start}\n"));
        }
        if self.ran {
            text.push_str("ran\n");
        }
        let kinds = [
            ("paused", self.paused.as_slice()),
            ("hold", &self.holds),
            ("debugger", self.debugger.as_slice()),
        ];
        for (kind, entries) in kinds {
            text.extend(entries.iter().map(|entry| entry.line(kind)));
        }
        // Under the lock: nobody else writes it.
        let new = folder.join("holds.new");
        fs::write(&new, text)?;
        fs::rename(new, path)
    }

    /// Tells whether anybody wants the guest to stand still.
    pub(crate) fn is_held(&self) -> bool {
        self.paused.is_some() || !self.holds.is_empty()
    }

    /// The debugger that keeps the guest where it stopped.
    pub(crate) fn stopper(&self) -> Option<&Entry> {
        self.debugger.as_ref().filter(|entry| entry.id == STAYS)
    }

    /// Tells whether the guest is to run now.
    pub(crate) fn is_free(&self) -> bool {
        self.ran && !self.is_held()
    }

    /// Undoes what processes that are gone have left, and those that `is_gone` names besides: the modes and breakpoints
    /// of their gdbstubs, and the standing still. Whether anything was to undo.
    pub(crate) fn mend(
        &mut self,
        control: &mut dyn Control,
        is_gone: &dyn Fn(Process) -> bool,
    ) -> io::Result<bool> {
        let gone = |entry: &Entry| is_gone(entry.process) || !entry.process.lives();
        let (dead, alive): (Vec<_>, Vec<_>) = self.holds.drain(..).partition(|entry| gone(entry));
        self.holds = alive;
        let debugger = self.debugger.take_if(|entry| gone(entry));
        if dead.is_empty() && debugger.is_none() {
            return Ok(false);
        }
        for entry in dead.iter().filter(|entry| !entry.stub.is_empty()) {
            // The mode is the stub's, not the connection's.
            control.stub(&entry.stub, &mut |ask| {
                ask("Qqemu.PhyMemMode:0", "OK").map(drop)
            })?;
        }
        if let Some(entry) = &debugger {
            control.stub(&entry.stub, &mut |ask| clear(ask))?;
        }
        self.go_on(control)?;
        Ok(true)
    }

    /// Lets the guest run, if nobody wants it to stand still.
    pub(crate) fn go_on(&self, control: &mut dyn Control) -> io::Result<()> {
        if !self.is_free() || self.stopper().is_some() {
            return Ok(());
        }
        match control.state()? {
            // A guest that stands at a breakpoint is its debugger's to let go.
            State::Running | State::Ended => Ok(()),
            State::Debug if self.debugger.is_some() => Ok(()),
            State::Debug | State::Still => control.cont(),
        }
    }
}

/// State of the guest's CPUs by QEMU, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    /// They stand at a breakpoint.
    Debug,
    /// They stand.
    Still,
    /// They cannot go on: a panic, a power-off.
    Ended,
}

/// The ways to a QEMU.
pub(crate) trait Control {
    fn state(&mut self) -> io::Result<State>;
    fn cont(&mut self) -> io::Result<()>;
    /// Connects to a gdbstub, and closes the connection after `talk`; the guest stands still then.
    fn stub(
        &mut self,
        address: &str,
        talk: &mut dyn FnMut(&mut Ask<'_>) -> io::Result<()>,
    ) -> io::Result<()>;
}

/// Sends a packet to a gdbstub and gives its answer: the first one that begins so, or with `E`.
pub(crate) type Ask<'a> = dyn FnMut(&str, &str) -> io::Result<String> + 'a;

/// Takes all breakpoints away: QEMU does so when it is asked why the guest stands, but only those of the CPU that it is asked of
/// (`gdb_breakpoint_remove_all`, gdbstub/gdbstub.c@v7.2.0). Detaching takes all, and lets the guest run.
pub(crate) fn clear(ask: &mut Ask<'_>) -> io::Result<()> {
    for cpu in 1..=CPUS {
        if ask(&format!("Hc{cpu:x}"), "OK")?.starts_with('E') {
            break;
        }
        ask("?", "T05")?;
    }
    Ok(())
}

/// Takes a lock file (flock(2)), waiting at most `patience`; `None` where another holds it for longer, or the folder is gone.
pub(crate) fn lock(path: &Path, patience: Duration) -> io::Result<Option<File>> {
    let until = Instant::now() + patience;
    let mut options = File::options();
    let file = match options.create(true).truncate(false).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= until => return Ok(None),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// The lock of a guest's record.
pub(crate) fn lock_of(folder: &Path, patience: Duration) -> io::Result<Option<File>> {
    lock(&folder.join("holds.lock"), patience)
}
