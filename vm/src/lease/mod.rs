//! Holding a guest still for a time: a lease, which ends with the process that has it, also if that is killed.
//!
//! The run folder says who holds the guest ([`book`]), and a small process beside the holder ([`keeper`]) waits for its
//! end. When the last hold ends the guest runs on, unless it stood still before or a user has paused it meanwhile. A process that
//! finds the record of a holder that is gone undoes it, so that a keeper that was killed too leaves nothing for long.

pub(crate) mod book;
mod keeper;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use self::book::{Ask, Book, Control, Entry, Process, STAYS, State};
use crate::error::{At, Error, Result};
use crate::folder::Record;
use crate::halt::{Halt, Pauser, Why};
use crate::machine::Machine;
use crate::process;
use crate::qmp::{Qmp, RunState};
use crate::rsp::Rsp;
use crate::{paths, status};

/// Time limit for another command at a guest's record.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time that a debugger waits for others to let the guest go on.
const OTHERS: Duration = Duration::from_secs(60);

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A guest's record under its lock, brought up to date.
pub(crate) struct Open<'a> {
    pub(crate) book: Book,
    folder: &'a Path,
    /// Folder of the record.
    home: PathBuf,
    qemu: Qemu<'a>,
    _lock: File,
}

impl<'a> Open<'a> {
    /// Takes the record, and undoes what processes that are gone have left.
    pub(crate) fn of(folder: &'a Path) -> Result<Self> {
        let home = home(folder);
        let path = home.join("holds.lock");
        let lock = book::lock_of(&home, PATIENCE).at("lock", &path)?;
        let lock = lock.ok_or_else(|| Error::Locked(halted_name(folder)))?;
        let present = qemu_of(folder);
        let mut book = Book::read(&home);
        if book.qemu != present {
            // It was reset, or another one has its name: its former holders hold nothing.
            book = Book {
                qemu: present,
                ..Book::default()
            };
            book.write(&home).at("write", &path)?;
        }
        let mut open = Self {
            book,
            folder,
            home,
            qemu: Qemu::new(folder),
            _lock: lock,
        };
        let mended = open.book.mend(&mut open.qemu, &|_| false);
        if mended.map_err(|error| open.qemu.fault(error))? {
            open.write()?;
        }
        Ok(open)
    }

    pub(crate) fn write(&self) -> Result<()> {
        self.book
            .write(&self.home)
            .at("write", &self.home.join("holds"))
    }

    /// QEMU's own word.
    pub(crate) fn state(&mut self) -> Result<RunState> {
        self.qemu.qmp()?.status()
    }

    fn go_on(&mut self) -> Result<()> {
        let gone_on = self.book.go_on(&mut self.qemu);
        gone_on.map_err(|error| self.qemu.fault(error))
    }

    /// Reason why the guest does not run; `None` if it does.
    pub(crate) fn halt(&mut self) -> Result<Option<Halt>> {
        Ok(self.standing()?.1)
    }

    /// QEMU's word, and why the guest does not run, if it does not.
    pub(crate) fn standing(&mut self) -> Result<(RunState, Option<Halt>)> {
        let state = self.state()?;
        if state == RunState::Running {
            return Ok((state, None));
        }
        let why = status::ended(self.folder, state).unwrap_or_else(|| {
            let book = &self.book;
            let debugger = book.debugger.as_ref().filter(|_| state == RunState::Debug);
            match (
                &book.paused,
                book.stopper(),
                book.holds.first().or(debugger),
            ) {
                (Some(entry), ..) => Why::Paused(Some(Pauser::of(entry))),
                (None, Some(entry), _) => Why::Stopped(Pauser::of(entry)),
                (None, None, Some(entry)) => Why::Held(Pauser::of(entry)),
                (None, None, None) => Why::Paused(None),
            }
        });
        let halt = Halt {
            guest: halted_name(self.folder),
            own: self.folder.join("meta.json").exists(),
            why,
        };
        Ok((state, Some(halt)))
    }
}

/// A guest's name is its folder's.
fn halted_name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The QEMU of the guest in `folder`.
pub(crate) fn qemu_of(folder: &Path) -> Option<Process> {
    let identity = match Record::read(folder) {
        Ok(Some(Record::Adopted(adopted))) => Some(adopted.qemu),
        _ => process::recorded(folder).and_then(process::Identity::of),
    };
    identity.map(Into::into)
}

/// The folder that has the record of the guest in `folder`: one QEMU has one, under all of its names. That
/// of the name that it had first, as long as that is there.
pub(crate) fn home(folder: &Path) -> PathBuf {
    let first = match Record::read(folder) {
        Ok(Some(Record::Adopted(own))) => own.first.clone().and_then(|first| {
            let home = folder.with_file_name(first);
            let is_first = match Record::read(&home) {
                Ok(Some(Record::Adopted(other))) => other.since <= own.since,
                _ => true,
            };
            (is_first && qemu_of(&home) == Some(own.qemu.into())).then_some(home)
        }),
        _ => None,
    };
    first.unwrap_or_else(|| folder.to_owned())
}

/// The first of the names that the QEMU with this process already has among the guests in these folders.
pub(crate) fn first_name(folders: &[PathBuf], qemu: process::Identity) -> Option<String> {
    let mut same = folders
        .iter()
        .filter(|folder| qemu_of(folder) == Some(qemu.into()));
    same.next().map(|folder| halted_name(&home(folder)))
}

/// Reason why the guest in `folder` does not run; `None` if it does, or if QEMU cannot be asked now.
pub(crate) fn halt(folder: &Path) -> Option<Halt> {
    Open::of(folder).and_then(|mut open| open.halt()).ok()?
}

/// Reason why the agent of the guest in `folder` does not answer, as far as it is known: also that its kernel, which
/// was told not to reboot, spins after a panic.
pub(crate) fn unanswering(folder: &Path) -> Option<Halt> {
    halt(folder).or_else(|| {
        Some(Halt {
            guest: halted_name(folder),
            own: true,
            why: Why::Panicked(Some(status::panic_line(folder)?)),
        })
    })
}

/// Undoes what processes that are gone have left of holding the guest in `folder`; costs nothing where there is no record.
pub(crate) fn mend(folder: &Path) {
    if Book::is_there(&home(folder)) {
        // Whatever keeps it from being done, the next command does it, and the one at hand says what it finds.
        let _ = Open::of(folder);
    }
}

impl Machine {
    /// Holds its CPUs still until the hold ends: with [`Hold::end`], when it is dropped, or with this process, also if
    /// a signal ends that. Holds of one process or of several overlap as they like: the guest runs on after the last
    /// one, if it ran before the first.
    ///
    /// # Errors
    /// When QEMU does not answer, or the process cannot be started that ends the hold where this one cannot.
    pub fn hold(&self) -> Result<Hold> {
        self.hold_by("")
    }

    /// The same by a client of the gdbstub at `stub`.
    pub(crate) fn hold_by(&self, stub: &str) -> Result<Hold> {
        self.alive()?;
        let mut open = Open::of(self.run_dir())?;
        let state = open.state()?;
        keeper::watches(&open.home)?;
        let book = &mut open.book;
        if state == RunState::Running {
            // Somebody else has let it go on.
            book.paused = None;
            book.ran = true;
        } else if book.holds.is_empty() {
            let stays = book.stopper().is_some();
            book.ran = stays || (state == RunState::Debug && book.debugger.is_some());
        }
        let hold = Hold {
            folder: self.run_dir().to_owned(),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            open: true,
        };
        book.holds.push(Entry::ours(hold.id, stub));
        open.write()?;
        if state == RunState::Running {
            open.qemu.qmp()?.stop()?;
        }
        Ok(hold)
    }

    /// Stops its CPUs, until [`Self::resume`]: also when this process has ended.
    ///
    /// # Errors
    /// When QEMU does not answer, or the guest has ended.
    pub fn pause(&self) -> Result<()> {
        self.alive()?;
        self.not_replayed()?;
        let mut open = Open::of(self.run_dir())?;
        match open.halt()? {
            None => open.qemu.qmp()?.stop()?,
            Some(halt) if halt.why.is_end() => return Err(Error::Halted(halt)),
            Some(_) => {}
        }
        if open.book.paused.is_none() {
            open.book.paused = Some(Entry::ours(0, ""));
        }
        open.write()
    }

    /// Lets its CPUs go on after a [`Self::pause`], or any other stop.
    ///
    /// # Errors
    /// [`Error::Halted`] for one that panicked or powered off, and while somebody holds it: then it goes on when that ends.
    pub fn resume(&self) -> Result<()> {
        self.alive()?;
        self.not_replayed()?;
        let mut open = Open::of(self.run_dir())?;
        open.book.paused = None;
        open.book.ran = true;
        open.write()?;
        open.go_on()?;
        match open.halt()? {
            Some(halt) => Err(Error::Halted(halt)),
            None => Ok(()),
        }
    }
}

/// A guest that is held still. Dropped, it runs on.
#[derive(Debug)]
pub struct Hold {
    folder: PathBuf,
    id: u32,
    open: bool,
}

impl Hold {
    /// Ends the hold.
    ///
    /// # Errors
    /// [`Error::Moved`] when the guest did not stand still all the while: it was reset, or somebody let it go on.
    pub fn end(mut self) -> Result<()> {
        self.leave()
    }

    fn leave(&mut self) -> Result<()> {
        self.open = false;
        let moved = || Error::Moved(halted_name(&self.folder));
        if !self.folder.exists() {
            return Err(moved());
        }
        let mut open = Open::of(&self.folder)?;
        let pid = std::process::id();
        let ours = |entry: &mut Entry| entry.process.pid == pid && entry.id == self.id;
        if open.book.holds.extract_if(.., ours).count() == 0 {
            return Err(moved());
        }
        let still = open.state().map(|state| state != RunState::Running);
        let gone_on = open.go_on();
        open.write()?;
        gone_on?;
        if still? { Ok(()) } else { Err(moved()) }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.open {
            // The error that brought us here is told; the keeper does what could not be done.
            let _ = self.leave();
        }
    }
}

/// The record of a debugger: one that lets the guest run, and stops it for a moment now and then.
#[derive(Debug)]
pub(crate) struct Stopper {
    folder: PathBuf,
}

impl Stopper {
    /// Before the gdbstub at `stub` is connected to, whose lock the caller has.
    ///
    /// # Errors
    /// [`Error::Halted`] when somebody keeps the guest from running, if it is to run (`runs`) when nobody does.
    pub(crate) fn begin(folder: &Path, stub: &str, runs: bool) -> Result<Self> {
        let mut open = Open::of(folder)?;
        if runs
            && open.book.is_held()
            && let Some(halt) = open.halt()?
        {
            return Err(Error::Halted(halt));
        }
        keeper::watches(&open.home)?;
        open.book.ran = runs;
        open.book.debugger = Some(Entry::ours(0, stub));
        open.write()?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Does `run`, which lets the guest run, once nobody else holds it.
    pub(crate) fn run<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let until = Instant::now() + OTHERS;
        loop {
            let mut open = Open::of(&self.folder)?;
            if !open.book.is_held() {
                return run();
            }
            if Instant::now() >= until
                && let Some(halt) = open.halt()?
            {
                return Err(Error::Halted(halt));
            }
            drop(open);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Notes whether the guest is to stay where it stopped, also when nobody else holds it.
    pub(crate) fn stays(&self, stays: bool) -> Result<()> {
        let mut open = Open::of(&self.folder)?;
        if let Some(entry) = &mut open.book.debugger {
            *entry = Entry::ours(if stays { STAYS } else { 0 }, &entry.stub);
        }
        open.write()
    }

    /// Ends it: with `detach`, which lets the guest run, where nobody else holds it, else with `leave`.
    pub(crate) fn end(&self, end: impl FnOnce(bool) -> Result<()>) -> Result<()> {
        let mut open = Open::of(&self.folder)?;
        end(!open.book.is_held())?;
        open.book.debugger = None;
        open.write()
    }
}

/// The QEMU of a guest, connected to when it is needed.
struct Qemu<'a> {
    folder: &'a Path,
    qmp: Option<Qmp>,
    /// Last error.
    failed: Option<Error>,
}

impl<'a> Qemu<'a> {
    fn new(folder: &'a Path) -> Self {
        Self {
            folder,
            qmp: None,
            failed: None,
        }
    }

    fn qmp(&mut self) -> Result<&mut Qmp> {
        let qmp = match self.qmp.take() {
            Some(qmp) => qmp,
            None => Qmp::connect(self.folder)?,
        };
        Ok(self.qmp.insert(qmp))
    }

    /// Does something with QEMU, and keeps its error.
    fn with<T>(&mut self, work: impl FnOnce(&mut Qmp) -> Result<T>) -> io::Result<T> {
        self.qmp().and_then(work).map_err(|error| {
            self.failed = Some(error);
            io::Error::other("QEMU")
        })
    }

    /// The error behind `error`.
    fn fault(&mut self, error: io::Error) -> Error {
        self.failed.take().unwrap_or_else(|| Error::Io {
            what: "undo what a process that is gone has left of",
            path: self.folder.to_owned(),
            why: error,
        })
    }
}

impl Control for Qemu<'_> {
    fn state(&mut self) -> io::Result<State> {
        let state = self.with(Qmp::status)?;
        Ok(match state {
            RunState::Running => State::Running,
            RunState::Debug => State::Debug,
            RunState::GuestPanicked | RunState::Shutdown | RunState::InternalError => State::Ended,
            _ => State::Still,
        })
    }

    fn cont(&mut self) -> io::Result<()> {
        self.with(Qmp::cont)
    }

    fn stub(
        &mut self,
        address: &str,
        talk: &mut dyn FnMut(&mut Ask<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let lock = paths::lock(&home(self.folder).join("gdb.lock"), Duration::ZERO);
        let Ok(Some(_lock)) = lock else {
            return Err(io::ErrorKind::ResourceBusy.into());
        };
        let mut rsp = Rsp::connect(address)?;
        talk(&mut |packet, answer| rsp.ask(packet, answer))
    }
}
