//! Starting QEMU for a guest: fresh, or from a ready state.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::agent;
use crate::error::{At, Error, Result};
use crate::machine::Recording;
use crate::paths;
use crate::process;
use crate::qcow2;
use crate::qemu::{self, Begin, LINE_IN, LINE_OUT, Qemu, STATES, Spec};
use crate::qmp::{Qmp, RunState};
use crate::snapshot::Ready;
use crate::sparse::{self, Zeros};

/// Lifetime of a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Owner {
    /// Until it is taken down.
    #[default]
    Detached,
    /// As long as the process that starts it, however that one ends.
    ThisProcess,
}

/// Settings that QEMU is started with.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) name: &'a str,
    pub(crate) folder: &'a Path,
    pub(crate) spec: &'a Spec,
    pub(crate) qemu: &'a Qemu,
    pub(crate) owner: Owner,
}

/// Makes the RAM file of the guest in `folder`, or opens the one that it has; `folder/ram` leads to it.
pub(crate) fn ram(folder: &Path, bytes: u64) -> Result<(PathBuf, File)> {
    let link = folder.join("ram");
    let path = match fs::canonicalize(&link) {
        Ok(path) => path,
        Err(_) => paths::ram_file(folder, bytes)?,
    };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .at("make", &path)?;
    file.set_len(bytes).at("size", &path)?;
    if path != link && !link.exists() {
        symlink(&path, &link).at("make", &link)?;
    }
    Ok((path, file))
}

impl Launch<'_> {
    fn start(&self, ram: &Path, begin: Begin) -> Result<()> {
        // A restored guest's console goes on where the saved one was.
        let boots = matches!(begin, Begin::Boot | Begin::Held);
        let console = boots.then_some("serial.log");
        for name in ["pid", "qmp", "qemu.log"].into_iter().chain(console) {
            match fs::remove_file(self.folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).at("remove", self.folder);
                }
                _ => {}
            }
        }
        if self.spec.recorded && begin != Begin::Replay {
            for name in [LINE_IN, LINE_OUT] {
                let path = self.folder.join(name);
                // Of a QEMU before: what it has not read is not for this one.
                let _ = fs::remove_file(&path);
                mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)
                    .map_err(io::Error::from)
                    .at("make", &path)?;
            }
        }
        let args = qemu::args(self.name, self.spec, self.folder, ram, begin);
        // Room for a dump of its memory, and as much as a console may print; for two states of a machine that is recorded,
        // and for that of its record.
        let dumps = if self.spec.recorded { 2 } else { 1 };
        let limit = self
            .spec
            .memory
            .saturating_mul(dumps)
            .saturating_add(64 << 20);
        let start = match self.owner {
            Owner::ThisProcess => process::start_owned,
            Owner::Detached => process::start_detached,
        };
        start(&self.qemu.program, args, self.folder, limit)
    }

    /// Boots the kernel and waits until the agent answers.
    pub(crate) fn boot(&self, patience: Duration) -> Result<()> {
        let (ram, _) = ram(self.folder, self.spec.memory)?;
        if self.spec.recorded {
            qcow2::create(&self.folder.join(STATES))?;
        }
        self.start(&ram, Begin::Boot)?;
        drop(connect(self.folder)?);
        answering(self.folder, patience)
    }

    /// Starts QEMU and holds it before the kernel's first instruction.
    pub(crate) fn hold(&self) -> Result<PathBuf> {
        let (ram, _) = ram(self.folder, self.spec.memory)?;
        self.start(&ram, Begin::Held)?;
        drop(connect(self.folder)?);
        Ok(ram)
    }

    /// Starts from a ready state and waits until the agent answers. RAM is replaced in its file. Gives that file, and the record
    /// that has begun.
    pub(crate) fn restore(&self, ready: &Ready) -> Result<(PathBuf, Option<Recording>)> {
        let (path, file) = ram(self.folder, self.spec.memory)?;
        let serial = self.folder.join("serial.log");
        fs::copy(ready.folder.join("serial.log"), &serial).at("write", &serial)?;
        let mut qmp = if self.spec.recorded {
            let states = self.folder.join(STATES);
            fs::copy(ready.folder.join("state"), &states).at("write", &states)?;
            self.start(&path, Begin::Incoming)?;
            connect(self.folder)?
        } else {
            self.incoming(ready, &path, &file)?
        };
        let recording = match self.spec.recorded {
            true => qmp
                .instruction()?
                .map(|first| Recording { first, last: None }),
            false => None,
        };
        qmp.cont()?;
        drop(qmp);
        answering(self.folder, Duration::from_secs(20))?;
        Ok((path, recording))
    }

    /// Starts QEMU at the beginning of the run that was recorded, where it stands.
    pub(crate) fn replay(&self) -> Result<()> {
        let (path, _) = ram(self.folder, self.spec.memory)?;
        self.start(&path, Begin::Replay)?;
        connect(self.folder).map(drop)
    }

    /// Starts QEMU and gives it the ready state, in which it stands.
    fn incoming(&self, ready: &Ready, path: &Path, file: &File) -> Result<Qmp> {
        let source = ready.folder.join("ram");
        let from = File::open(&source).at("open", &source)?;
        let mut state = File::open(ready.folder.join("state")).at("open", &ready.folder)?;
        // QEMU starts while RAM is copied; it reads RAM only when it gets the device state.
        let mut qmp = std::thread::scope(|scope| {
            let copy = scope.spawn(|| sparse::copy(&from, file, Zeros::Keep));
            let started = self.start(path, Begin::Incoming).and_then(|()| {
                let mut qmp = connect(self.folder)?;
                qmp.migrate_incoming(Path::new("incoming"))?;
                Ok(qmp)
            });
            let copied = copy
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the copy failed")));
            copied.at("write", path).and(started)
        })?;
        let socket = self.folder.join("incoming");
        let mut stream = UnixStream::connect(&socket).at("connect to", &socket)?;
        io::copy(&mut state, &mut stream).at("write to", &socket)?;
        drop(stream);
        qmp.migrated()?;
        let _ = fs::remove_file(&socket);
        Ok(qmp)
    }
}

/// Waits for a QEMU that was just started to take commands.
fn connect(folder: &Path) -> Result<Qmp> {
    let until = Instant::now() + Duration::from_secs(20);
    let mut turn = 0u32;
    loop {
        if folder.join("qmp").exists() {
            match Qmp::connect(folder) {
                Ok(qmp) => return Ok(qmp),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => {}
            }
        }
        turn = turn.wrapping_add(1);
        // Looking at all processes is dear, and QEMU seldom ends here.
        if turn.is_multiple_of(16) && !process::any(folder) {
            return Err(Error::QemuEnded(last_words(folder)));
        }
        if Instant::now() > until {
            return Err(Error::QemuEnded(
                "it does not open its control socket".to_owned(),
            ));
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Waits until the agent answers, as long as QEMU and the guest live.
fn answering(folder: &Path, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    loop {
        match agent::Client::connect(folder, Duration::from_secs(2)) {
            Ok(_) => return Ok(()),
            Err(
                agent::Error::Silent(_)
                | agent::Error::Halted(_)
                | agent::Error::Gone
                | agent::Error::NoGuest { .. },
            ) => {}
            Err(error) => return Err(error.into()),
        }
        if !process::any(folder) {
            return Err(Error::QemuEnded(last_words(folder)));
        }
        let state = Qmp::connect(folder)?.status()?;
        if state != RunState::Running {
            return Err(Error::Stopped {
                state: state.name().to_owned(),
                console: cause(folder).unwrap_or_else(|| console(folder)),
            });
        }
        if Instant::now() > until {
            return Err(Error::NotAnswering {
                seconds: patience.as_secs(),
                console: console(folder),
            });
        }
    }
}

/// The last line of qemu.log that is not a trace.
pub(crate) fn last_words(folder: &Path) -> String {
    let text = tail(&folder.join("qemu.log"));
    let line = text
        .lines()
        .rev()
        .find(|line| !line.contains("qemu_system_shutdown_request") && !line.trim().is_empty());
    line.map_or_else(
        || "it said nothing".to_owned(),
        |line| line.trim_start_matches("qemu-system-x86_64: ").to_owned(),
    )
}

/// The console's last line.
pub(crate) fn console(folder: &Path) -> String {
    let text = tail(&folder.join("serial.log"));
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    line.map_or_else(|| "(nothing)".to_owned(), |line| line.trim().to_owned())
}

/// Reason why the kernel died: the first line of its console that says so.
fn cause(folder: &Path) -> Option<String> {
    let text = tail(&folder.join("serial.log"));
    let words = [
        "Oops: ",
        "BUG: ",
        "kernel BUG at ",
        "Kernel panic - not syncing",
    ];
    let line = text
        .lines()
        .find(|line| words.iter().any(|word| line.contains(word)))?;
    Some(line.trim().to_owned())
}

/// The last 64 KiB of a log. The guest writes it, so nothing but printable text and ends of lines is kept.
pub(crate) fn tail(path: &Path) -> String {
    const LEN: u64 = 64 << 10;
    let Ok(mut file) = File::open(path) else {
        return String::new();
    };
    let len = file.metadata().map_or(0, |meta| meta.len());
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(len.saturating_sub(LEN))).is_err()
        || file.take(LEN).read_to_end(&mut bytes).is_err()
    {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    text.chars()
        .filter(|&c| c == '\n' || !c.is_control())
        .collect()
}
