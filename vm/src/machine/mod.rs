//! A guest by its name: what it is, where its RAM lies, its end. [`up`] starts it, [`reach`] connects to it.

mod reach;
mod replay;
mod snapshots;
mod up;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{At, Error, Result};
use crate::folder::{self, Meta, Record};
use crate::kernels::Kernel;
use crate::lease;
use crate::process::{self, Identity};
use crate::status::{self, Status};
use klab_facts::Memory;
use klab_facts::RamFile;

pub(crate) use reach::BRIEF;
pub use replay::{Position, Recording, Replay};
pub use snapshots::Snapshot;
pub use up::{Options, Start};

/// Time for which another command may hold a guest before we say so.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// A guest that was started, or attached, and not taken down; it may have stopped since. Dropping this does nothing to
/// it.
#[derive(Debug, Clone)]
pub struct Machine {
    folder: PathBuf,
    record: Record,
}

impl Machine {
    pub(crate) fn of(folder: PathBuf, record: Record) -> Self {
        Self { folder, record }
    }

    /// The guest `name`, in any state: a dead one's RAM can still be read.
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

    /// Tells whether klab did not start it.
    #[must_use]
    pub const fn is_attached(&self) -> bool {
        matches!(self.record, Record::Adopted(_))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match &self.record {
            Record::Own(meta) => &meta.name,
            Record::Adopted(adopted) => &adopted.name,
        }
    }

    /// Tells whether klab started it; else it was attached, and nothing here stops it.
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

    /// State of the machine now. Greets the agent, for which a hung guest takes some seconds.
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

    /// The one file that is its RAM.
    ///
    /// # Errors
    /// [`Error::Foreign`]: see [`Self::memory`] for one that was attached.
    pub fn ram(&self) -> Result<&RamFile> {
        Ok(&self.own("so its RAM is in no file of klab's")?.ram)
    }

    /// Way in which its RAM is reached.
    pub fn memory(&self) -> Memory {
        match &self.record {
            Record::Own(meta) => Memory::Files(vec![meta.ram.clone()]),
            Record::Adopted(adopted) => adopted.shape.memory.clone(),
        }
    }

    /// Asks QEMU where the RAM of a machine that klab did not start is now: it may have been added, moved or taken away.
    /// Tells whether that is another way to it, or other ranges, than were known. Where another client has QEMU's
    /// socket, what was known is taken if the mappings of QEMU's process still agree with it.
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

    /// Tells whether its QEMU lives.
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

pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
