//! A guest by its name: up, down, reset, its RAM and its sockets.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use qapi::qmp::RunState;

use crate::accel;
use crate::agent;
use crate::debugger::Debugger;
use crate::error::{At, Error, Result};
use crate::folder::{self, FORMAT, Meta, Record};
use crate::initramfs;
use crate::kernels::{Kernel, KernelChoice};
use crate::launch::{Launch, Owner};
use crate::lease;
use crate::memory::Memory;
use crate::nic::Cable;
use crate::process::{self, Identity};
use crate::progress::Progress;
use crate::qemu::{Accel, Qemu, Spec};
use crate::qmp::Qmp;
use crate::ram::RamFile;
use crate::snapshot::Ready;
use crate::status::{self, Status};

/// How long another command may hold a guest before we say so.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How long a reading waits for QEMU's socket where it can do without.
pub(crate) const BRIEF: Duration = Duration::from_millis(250);

/// What guest to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Its kernel.
    pub kernel: KernelChoice,
    /// RAM in bytes; rounded up to whole MiB.
    pub memory: u64,
    /// CPUs.
    pub cpus: u32,
    /// How long it lives.
    pub owner: Owner,
    /// From where it starts.
    pub start: Start,
}

/// From where a guest starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// From the ready state: its agent answers.
    #[default]
    Ready,
    /// Before the kernel's first instruction, held there until [`Machine::resume`].
    Held,
}

impl Default for Options {
    /// The default kernel, 512 MiB, two CPUs, until `down`.
    fn default() -> Self {
        Self {
            kernel: KernelChoice::Default,
            memory: 512 << 20,
            cpus: 2,
            owner: Owner::Detached,
            start: Start::Ready,
        }
    }
}

/// A guest that was started, or attached, and not taken down; it may have stopped since. Dropping this does nothing to
/// it.
#[derive(Debug, Clone)]
pub struct Machine {
    folder: PathBuf,
    record: Record,
}

impl Machine {
    /// Starts the guest `name` from the ready state of its kernel, RAM size and CPUs, made first if there is
    /// none. Returns when its agent answers, or with [`Start::Held`] at once. What dead processes left under this name is removed.
    ///
    /// # Errors
    /// [`Error::AlreadyUp`], [`Error::Locked`]; whatever keeps the kernel, the ready state or QEMU from being
    /// had. Nothing is left behind then.
    pub fn up(name: &str, options: &Options, progress: &mut dyn Progress) -> Result<Self> {
        let folder = folder::of(name)?;
        let memory = check(options)?;
        folder::sweep()?;
        let lock =
            folder::lock(&folder, true, PATIENCE)?.ok_or_else(|| Error::Locked(name.to_owned()))?;
        if let Some(pid) = process::recorded(&folder).filter(|_| !folder::stale(&folder)) {
            return Err(Error::AlreadyUp {
                name: name.to_owned(),
                pid,
            });
        }
        if let Ok(Some(Record::Adopted(_))) = Record::read(&folder) {
            return Err(Error::NameTaken {
                name: name.to_owned(),
                adopted: true,
            });
        }
        let lock = if folder.join("meta.json").exists() {
            // Its QEMU is gone.
            folder::remove(&folder)?;
            drop(lock);
            folder::lock(&folder, true, PATIENCE)?.ok_or_else(|| Error::Locked(name.to_owned()))?
        } else {
            lock
        };
        let made = make(name, &folder, options, memory, progress);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = folder::remove(&folder);
        }
        drop(lock);
        let machine = Self::of(folder, Record::Own(made?));
        if options.start == Start::Held {
            machine.pause()?;
        }
        Ok(machine)
    }

    pub(crate) fn of(folder: PathBuf, record: Record) -> Self {
        Self { folder, record }
    }

    /// Makes what [`Self::up`] with these options needs and starts nothing: the kernel, its initramfs with the agent,
    /// the ready state. Returns at once when all is there; gives the kernel.
    ///
    /// # Errors
    /// As [`Self::up`], but for a guest's own.
    pub fn prepare(options: &Options, progress: &mut dyn Progress) -> Result<Kernel> {
        let memory = check(options)?;
        folder::sweep()?;
        let qemu = Qemu::find()?;
        let (mut spec, kernel) = spec(options, memory, progress)?;
        accel::ready(&mut spec, &qemu, &kernel.release, progress)?;
        Ok(kernel)
    }

    /// The guest `name`, in whatever state: a dead one's RAM can still be read.
    ///
    /// # Errors
    /// [`Error::UnknownGuest`] with the names of those there are.
    pub fn attach(name: &str) -> Result<Self> {
        let folder = folder::of(name)?;
        match Record::read(&folder)? {
            Some(Record::Own(meta)) if !meta.owner.is_none_or(Identity::lives) => {
                Err(Error::UnknownGuest {
                    name: name.to_owned(),
                    known: folder::names(),
                })
            }
            Some(record) => {
                lease::mend(&folder);
                Ok(Self { folder, record })
            }
            None => Err(Error::UnknownGuest {
                name: name.to_owned(),
                known: folder::names(),
            }),
        }
    }

    /// Every guest and its state, by name.
    ///
    /// # Errors
    /// When the run folder cannot be read.
    pub fn list() -> Result<Vec<Status>> {
        let folders = folder::sweep()?;
        Ok(folders
            .iter()
            .filter_map(|folder| Some(status::of(folder, &Record::read(folder).ok()??)))
            .collect())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match &self.record {
            Record::Own(meta) => &meta.name,
            Record::Adopted(adopted) => &adopted.name,
        }
    }

    /// Whether klab started it; else it was attached, and nothing here stops it.
    pub fn is_own(&self) -> bool {
        matches!(self.record, Record::Own(_))
    }

    /// Its record, or the sentence that says what one that klab did not start lacks.
    fn own(&self, why: &'static str) -> Result<&Meta> {
        match &self.record {
            Record::Own(meta) => Ok(meta),
            Record::Adopted(adopted) => Err(Error::Foreign {
                name: adopted.name.clone(),
                why,
            }),
        }
    }

    /// The kernel that it was started with.
    ///
    /// # Errors
    /// [`Error::Foreign`].
    pub fn kernel(&self) -> Result<&Kernel> {
        let meta = self.own("so it knows no package of its kernel: `klab up` starts one")?;
        Ok(&meta.kernel)
    }

    /// What it does now. Greets the agent, for which a hung guest takes some seconds.
    pub fn status(&self) -> Status {
        status::of(&self.folder, &self.record)
    }

    /// Ends the guest and removes all that it has; one that was attached is forgotten and goes on.
    ///
    /// # Errors
    /// [`Error::Locked`] while another command is at work on it.
    pub fn down(self) -> Result<()> {
        let _lock = self.lock()?;
        if !self.is_own() {
            let record = self.folder.join("adopted.json");
            std::fs::remove_file(&record).at("remove", &record)?;
        }
        folder::remove(&self.folder)
    }

    /// Forgets a guest that was attached; it goes on as it is.
    ///
    /// # Errors
    /// [`Error::Own`] for one that klab started.
    pub fn detach(self) -> Result<()> {
        if self.is_own() {
            return Err(Error::Own(self.name().to_owned()));
        }
        self.down()
    }

    /// Puts the guest back into its ready state, whatever became of it. The RAM file stays the same file and is
    /// refilled, so that whoever has it mapped reads the fresh guest; [`Self::generation`] tells them.
    ///
    /// # Errors
    /// [`Error::NotReady`] when its ready state is gone from the cache, [`Error::Locked`], [`Error::Foreign`].
    pub fn reset(&mut self) -> Result<()> {
        let mut meta = self
            .own("so there is no ready state to put it back into")?
            .clone();
        let _lock = self.lock()?;
        let ready = Ready::find(&meta.ready)?.ok_or_else(|| Error::NotReady(meta.name.clone()))?;
        let qemu = Qemu::find()?;
        let generation = folder::generation(&self.folder) | 1;
        folder::set_generation(&self.folder, generation)?;
        process::end(&self.folder)?;
        // An owner's own reset binds the new QEMU to it again; after another's, the next command ends a guest
        // whose owner is gone.
        let owner = if meta.owner == Some(Identity::ours()) {
            Owner::ThisProcess
        } else {
            Owner::Detached
        };
        let launch = Launch {
            name: &meta.name,
            folder: &self.folder,
            spec: &meta.spec,
            qemu: &qemu,
            owner,
        };
        launch.restore(&ready)?;
        meta.since = now();
        meta.write(&self.folder)?;
        self.record = Record::Own(meta);
        folder::set_generation(&self.folder, generation.wrapping_add(1))
    }

    /// Whether its CPUs run: they do not when it is paused, panicked or powered off.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn runs(&self) -> Result<bool> {
        Ok(self.qmp()?.status()? == RunState::running)
    }

    /// Stops the guest, to be stopped again where its CPUs reach or write to certain addresses; for one holder at a time. It runs
    /// when it is told to, and when this is dropped. A machine that was attached needs a gdbstub (`-s`, `-gdb ..`), which is
    /// found by QEMU's control socket.
    ///
    /// # Errors
    /// [`Error::Halted`] when it stands still already, [`Error::DebuggerTaken`], [`Error::NoGdbstub`], [`Error::Dead`].
    pub fn debugger(&self) -> Result<Debugger> {
        self.alive()?;
        let address = match &self.record {
            Record::Own(_) => self.gdb_socket().to_string_lossy().into_owned(),
            Record::Adopted(adopted) => adopted.gdbstub(&self.folder)?,
        };
        if let Some(halt) = lease::Open::of(&self.folder)?.halt()? {
            return Err(Error::Halted(halt));
        }
        Debugger::attach(&self.folder, self.name(), &address)
    }

    /// The one file that is its RAM.
    ///
    /// # Errors
    /// [`Error::Foreign`]: see [`Self::memory`] for one that was attached.
    pub fn ram(&self) -> Result<&RamFile> {
        Ok(&self.own("so its RAM is in no file of klab's")?.ram)
    }

    /// How its RAM is reached.
    pub fn memory(&self) -> Memory {
        match &self.record {
            Record::Own(meta) => Memory::Files(vec![meta.ram.clone()]),
            Record::Adopted(adopted) => adopted.shape.memory.clone(),
        }
    }

    /// Asks QEMU where the RAM of a machine that klab did not start is now: it may have been added, moved or taken away.
    /// Whether that is another way to it, or other ranges, than were known. Where another client has QEMU's socket, what
    /// was known is taken if the mappings of QEMU's process still agree with it.
    ///
    /// # Errors
    /// When they do not, QEMU cannot say, or it has ended and its memory with it.
    pub fn survey(&mut self) -> Result<bool> {
        let Record::Adopted(adopted) = &mut self.record else {
            return Ok(false);
        };
        if !adopted.qemu.lives() {
            // A file of its RAM stays readable. Its process's id may be another's by now.
            return match &adopted.shape.memory {
                Memory::Files(files)
                    if !files.iter().any(|file| file.path.starts_with("/proc")) =>
                {
                    Ok(false)
                }
                _ => Err(Error::Ended(adopted.qemu.pid())),
            };
        }
        let shape = adopted.ask(&self.folder)?;
        let other = shape.memory != adopted.shape.memory;
        if shape != adopted.shape {
            adopted.note(&self.folder, shape);
        }
        Ok(other)
    }

    /// Whether its QEMU lives.
    pub fn lives(&self) -> bool {
        match &self.record {
            Record::Own(_) => process::recorded(&self.folder).is_some(),
            Record::Adopted(adopted) => adopted.qemu.lives(),
        }
    }

    /// Even; another number after each reset, odd while one is under way. What was read under one number does
    /// not hold under another.
    pub fn generation(&self) -> u64 {
        folder::generation(&self.folder)
    }

    /// The folder of its sockets.
    pub fn run_dir(&self) -> &Path {
        &self.folder
    }

    /// All that its console printed, from its kernel's first line.
    pub fn serial_log(&self) -> PathBuf {
        self.folder.join("serial.log")
    }

    /// Its console, a Unix socket for one client.
    pub fn serial_socket(&self) -> PathBuf {
        self.folder.join("serial")
    }

    /// A QMP socket that klab leaves to other tools; for one client.
    pub fn qmp_socket(&self) -> PathBuf {
        self.folder.join("qmp2")
    }

    /// Its gdbstub, a Unix socket for one client (`target remote PATH`).
    pub fn gdb_socket(&self) -> PathBuf {
        self.folder.join("gdb")
    }

    /// A connection to its agent; several at once are fine.
    ///
    /// # Errors
    /// [`Error::Dead`], [`agent::Error`] when it does not answer.
    pub fn agent(&self) -> Result<agent::Client> {
        self.own("so no agent of klab's runs in it: `klab up` starts one that has it")?;
        self.alive()?;
        // One that somebody only reads goes on in a moment.
        if let Some(halt) = lease::halt(&self.folder).filter(|halt| !halt.passes()) {
            return Err(Error::Halted(halt));
        }
        Ok(agent::Client::connect(
            &self.folder,
            Duration::from_secs(10),
        )?)
    }

    /// The other end of its network card's cable, for one holder at a time.
    ///
    /// # Errors
    /// [`Error::Dead`], [`Error::CableTaken`].
    pub fn cable(&self) -> Result<Cable> {
        let meta = self.own("so klab has no end of its network cable: `klab up` starts one")?;
        self.alive()?;
        Cable::connect(&self.folder, &meta.name)
    }

    pub(crate) fn qmp(&self) -> Result<Qmp> {
        self.alive()?;
        Qmp::connect(&self.folder)
    }

    pub(crate) fn qmp_at_once(&self) -> Result<Qmp> {
        self.alive()?;
        Qmp::connect_within(&self.folder, BRIEF)
    }

    pub(crate) fn alive(&self) -> Result<()> {
        if self.lives() {
            return Ok(());
        }
        if !self.folder.exists() {
            return Err(self.unknown());
        }
        Err(match &self.record {
            Record::Own(meta) => Error::Dead {
                name: meta.name.clone(),
                why: crate::launch::last_words(&self.folder),
            },
            Record::Adopted(adopted) => Error::Ended(adopted.qemu.pid()),
        })
    }

    fn unknown(&self) -> Error {
        Error::UnknownGuest {
            name: self.name().to_owned(),
            known: folder::names(),
        }
    }

    fn lock(&self) -> Result<nix::fcntl::Flock<std::fs::File>> {
        match folder::lock(&self.folder, false, PATIENCE) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(Error::Locked(self.name().to_owned())),
            Err(_) => Err(self.unknown()),
        }
    }
}

/// The memory to give, in bytes.
fn check(options: &Options) -> Result<u64> {
    const MIB: u64 = 1 << 20;
    if options.memory < 128 * MIB || options.memory > 1 << 40 {
        return Err(Error::BadOption(
            "a guest needs 128 MiB to 1 TiB of memory: 512M is a good start".to_owned(),
        ));
    }
    if !(1..=64).contains(&options.cpus) {
        return Err(Error::BadOption(
            "a guest has 1 to 64 CPUs: 2 is a good start".to_owned(),
        ));
    }
    Ok(options.memory.div_ceil(MIB) * MIB)
}

/// What to start, with the kernel that it boots.
fn spec(options: &Options, memory: u64, progress: &mut dyn Progress) -> Result<(Spec, Kernel)> {
    let kernel = Kernel::resolve(&options.kernel, progress)?;
    let spec = Spec {
        vmlinuz: kernel.vmlinuz.clone(),
        initramfs: initramfs::build(&kernel, progress)?,
        memory,
        cpus: options.cpus,
        accel: Accel::Tcg,
    };
    Ok((spec, kernel))
}

fn make(
    name: &str,
    folder: &Path,
    options: &Options,
    memory: u64,
    progress: &mut dyn Progress,
) -> Result<Meta> {
    let qemu = Qemu::find()?;
    let (mut spec, kernel) = spec(options, memory, progress)?;
    let mut ready = accel::ready(&mut spec, &qemu, &kernel.release, progress)?;
    progress.step(&format!("starting the guest `{name}`"));
    let restore = |spec: &Spec, ready: &Ready| {
        let launch = Launch {
            name,
            folder,
            spec,
            qemu: &qemu,
            owner: options.owner,
        };
        match options.start {
            Start::Ready => launch.restore(ready),
            Start::Held => launch.hold(),
        }
    };
    let ram = match restore(&spec, &ready) {
        Err(error) if spec.accel == Accel::Kvm => {
            // It booted with KVM and does not run with it: as good as no KVM.
            progress.step(&format!(
                "KVM does not work here ({error}), going on without it"
            ));
            accel::remember(&qemu, &kernel.release, Accel::Tcg)?;
            process::end(folder)?;
            ready = accel::ready(&mut spec, &qemu, &kernel.release, progress)?;
            restore(&spec, &ready)?
        }
        // Its translator crashes now and then on a busy host.
        Err(error @ Error::QemuEnded(_)) => {
            progress.step(&format!("{error}; starting it once more"));
            process::end(folder)?;
            restore(&spec, &ready)?
        }
        other => other?,
    };
    let owner = (options.owner == Owner::ThisProcess).then(Identity::ours);
    let ram = RamFile {
        path: ram,
        ranges: ready.ranges,
    };
    folder::set_generation(folder, 0)?;
    let meta = Meta {
        format: FORMAT,
        name: name.to_owned(),
        kernel,
        spec,
        qemu: qemu.version,
        since: now(),
        owner,
        ram,
        ready: ready.key,
    };
    meta.write(folder)?;
    Ok(meta)
}

pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_options_are_checked() {
        for name in ["", ".x", "a/b", "..", "a b", &"x".repeat(33)] {
            assert!(matches!(folder::of(name), Err(Error::BadName(_))), "{name}");
        }
        assert!(
            check(&Options {
                memory: 1 << 20,
                ..Options::default()
            })
            .is_err()
        );
        assert!(
            check(&Options {
                cpus: 0,
                ..Options::default()
            })
            .is_err()
        );
        assert_eq!(
            check(&Options {
                memory: (256 << 20) + 1,
                ..Options::default()
            })
            .unwrap(),
            257 << 20
        );
    }
}
