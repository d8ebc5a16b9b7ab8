//! Snapshots of a guest, in its run folder: states that it can be put back into, and whose RAM can be read meanwhile.
//!
//! One is what a ready state is, of a guest that was at work: the devices as QEMU saves them, and a sparse copy of the RAM file.
//! They go when the guest is taken down; a reset leaves them.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use klab_facts::RamFile;
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};

use super::{Machine, now, up};
use crate::error::{At as _, Error, Result};
use crate::folder::Record;
use crate::launch::{Launch, Owner};
use crate::process::Identity;
use crate::qemu::Qemu;
use crate::snapshot::{self, Ready};
use crate::{folder, paths, written};

/// What klab lacks of a machine that it did not start.
const UNKNOWN: &str = "so klab does not know how to start it anew: QEMU's own `savevm` may do";
const FOLDER: &str = "snapshots";
const NOTE: &str = "snapshot.json";

/// A snapshot of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Time at which it was taken, in seconds since 1970.
    pub taken: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// The guest's RAM as it was.
    pub ram: RamFile,
}

#[derive(Serialize, Deserialize)]
struct Note {
    taken: u64,
    /// Writes to the guest by klab, which going back does not undo.
    writes: Vec<String>,
}

impl Machine {
    /// Saves the guest as it is now, under a name; one of that name is replaced. It stands still meanwhile, and goes on if it
    /// ran.
    ///
    /// # Errors
    /// [`Error::Foreign`], [`Error::Locked`], [`Error::Dead`], [`Error::BadName`]; [`Error::NoSnapshot`] for a guest whose run is
    /// recorded; when the disk is full or QEMU does not give its state.
    pub fn snapshot(&self, name: &str) -> Result<Snapshot> {
        let to = self.folder_of(name)?;
        let all = self.folder.join(FOLDER);
        // A guest that is gone has no folder.
        self.alive()?;
        if !all.is_dir() {
            DirBuilder::new()
                .mode(0o700)
                .create(&all)
                .at("make", &all)?;
        }
        let temporary = all.join(format!(".new-{name}"));
        let _lock = self.save(&temporary)?;
        let note = Note {
            taken: now(),
            writes: self.writes(),
        };
        let text = serde_json::to_vec_pretty(&note).unwrap_or_default();
        paths::write_whole(&temporary.join(NOTE), &text)?;
        if to.exists() {
            fs::remove_dir_all(&to).at("remove", &to)?;
        }
        fs::rename(&temporary, &to).at("make", &to)?;
        self.find_snapshot(name)
    }

    /// All snapshots of the guest by their names, each or why it cannot be had; the oldest first.
    ///
    /// # Errors
    /// When the run folder cannot be read.
    pub fn snapshots(&self) -> Result<Vec<(String, Result<Snapshot>)>> {
        let all = self.folder.join(FOLDER);
        let entries = match fs::read_dir(&all) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).at("list", &all),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.at("list", &all)?.file_name();
            if let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) {
                found.push((name.to_owned(), self.find_snapshot(name)));
            }
        }
        found.sort_by_cached_key(|(name, one)| {
            (one.as_ref().map_or(0, |one| one.taken), name.clone())
        });
        Ok(found)
    }

    /// A snapshot of the guest.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`] where there is none of this name, with those that there are.
    pub fn find_snapshot(&self, name: &str) -> Result<Snapshot> {
        let (ready, note) = self.saved(name)?;
        let path = ready.folder.join("ram");
        let meta = fs::metadata(&path).at("look at", &path)?;
        Ok(Snapshot {
            name: name.to_owned(),
            taken: note.taken,
            bytes: meta.blocks().saturating_mul(512),
            ram: RamFile {
                path,
                ranges: ready.ranges,
            },
        })
    }

    /// Puts the guest back into a snapshot, from any state, as [`reset`](Self::reset) does into its ready state.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], [`Error::Locked`]; when QEMU does not start from it.
    pub fn restore(&mut self, name: &str) -> Result<()> {
        let meta = self.own("so there is no snapshot of it")?.clone();
        let _lock = self.lock()?;
        let (ready, note) = self.saved(name)?;
        self.put_back(meta, &ready)?;
        note.writes
            .iter()
            .try_for_each(|write| written::note(&self.folder, write))
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], [`Error::Locked`].
    pub fn forget_snapshot(&self, name: &str) -> Result<()> {
        let _lock = self.lock()?;
        // One that is damaged goes, too.
        let folder = self.folder_of(name)?;
        if !folder.exists() {
            return Err(self.no_snapshot(name));
        }
        fs::remove_dir_all(&folder).at("remove", &folder)
    }

    /// Starts another guest that is what this one is now: it has its own RAM, and may go another way. This one stands still
    /// meanwhile.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot); [`Error::AlreadyUp`] and [`Error::NameTaken`] where there is a guest of that name.
    pub fn fork(&self, name: &str, owner: Owner) -> Result<Self> {
        let mut meta = self.own(UNKNOWN)?.clone();
        let (folder, _lock) = up::claim(name)?;
        let made = (|| {
            let state = folder.join(".fork");
            drop(self.save(&state)?);
            let ready = Ready::open(name, state.clone())?;
            let ready = ready.ok_or_else(|| Error::NotReady(name.to_owned()))?;
            let qemu = Qemu::find()?;
            let launch = Launch {
                name,
                folder: &folder,
                spec: &meta.spec,
                qemu: &qemu,
                owner,
            };
            let (ram, recording) = launch.restore(&ready)?;
            fs::remove_dir_all(&state).at("remove", &state)?;
            folder::set_generation(&folder, 0)?;
            name.clone_into(&mut meta.name);
            meta.qemu = qemu.version;
            meta.since = now();
            meta.owner = (owner == Owner::ThisProcess).then(Identity::ours);
            meta.ram = RamFile {
                path: ram,
                ranges: ready.ranges,
            };
            meta.recording = recording;
            meta.write(&folder)?;
            self.writes()
                .iter()
                .try_for_each(|write| written::note(&folder, write))
        })();
        if let Err(error) = made {
            // That is the error to tell.
            let _ = folder::remove(&folder);
            return Err(error);
        }
        Ok(Self::of(folder, Record::Own(meta)))
    }

    /// Saves it as it is now in the folder `to`; gives the lock under which that was done.
    fn save(&self, to: &Path) -> Result<Flock<File>> {
        let meta = self.own(UNKNOWN)?;
        if meta.spec.recorded {
            return Err(Error::NoSnapshot(format!(
                "the run of the guest `{}` is recorded: `klab replay` goes to any moment of it",
                meta.name
            )));
        }
        self.alive()?;
        let lock = self.lock()?;
        // Nobody else saves here now: what is unfinished is of one that was killed.
        let all = to.parent().and_then(|all| fs::read_dir(all).ok());
        for entry in all.into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b".new-") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let hold = self.hold()?;
        let saved = snapshot::save(&mut self.qmp()?, &self.folder, &meta.spec, to, "KLAB_RUN");
        hold.end()?;
        saved.map(|()| lock)
    }

    fn folder_of(&self, name: &str) -> Result<PathBuf> {
        // The rule of guests' names.
        folder::of(name)?;
        Ok(self.folder.join(FOLDER).join(name))
    }

    fn saved(&self, name: &str) -> Result<(Ready, Note)> {
        let folder = self.folder_of(name)?;
        let note = fs::read(folder.join(NOTE)).ok();
        let note = note.and_then(|text| serde_json::from_slice(&text).ok());
        let there = folder.exists();
        match (Ready::open(name, folder)?, note) {
            (Some(ready), Some(note)) => Ok((ready, note)),
            _ if there => Err(Error::NoSnapshot(format!(
                "the snapshot `{name}` of the guest `{0}` is not whole: `klab snapshot {name} --forget --guest {0}` removes it",
                self.name()
            ))),
            _ => Err(self.no_snapshot(name)),
        }
    }

    fn no_snapshot(&self, name: &str) -> Error {
        let entries = fs::read_dir(self.folder.join(FOLDER));
        let mut names: Vec<String> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        let guest = self.name();
        Error::NoSnapshot(match names.is_empty() {
            true => format!(
                "the guest `{guest}` has no snapshot `{name}`, and no other: `klab snapshot {name} --guest {guest}` takes one"
            ),
            false => format!(
                "the guest `{guest}` has no snapshot `{name}`: there are {}",
                names.join(", ")
            ),
        })
    }
}
