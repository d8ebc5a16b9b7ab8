//! A guest's folder in the run folder: its lock, its record, its removal.
//!
//! ```text
//! meta.json     what the guest is (`Meta`); absent until it is whole
//! adopted.json  instead of it: a machine that klab did not start (`Adopted`); `qmp` is a link then
//! generation    even; odd while a reset is under way
//! pid           QEMU's process
//! qmp qmp2      QEMU's control sockets: ours, and one for other tools
//! gdb serial    gdbstub and console; serial.log and qemu.log say what went over them
//! holds         processes that keep it from running (`lease::book`); of a QEMU with several names in the folder of the first
//! agent.0-7     the agent's ports, each with a lock; the FIFOs line.in and line.out of a recorded guest
//! ram           guest RAM, or a link to it
//! states events where the record of a recorded guest begins, and what came from outside since
//! ```

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg, OFlag};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::adopt::Adopted;
use crate::error::{At, Error, Result};
use crate::kernels::Kernel;
use crate::machine::Recording;
use crate::paths;
use crate::process::{self, Identity};
use crate::qemu::Spec;
use klab_facts::RamFile;

/// Changes when `Meta` or the devices of a guest change.
pub(crate) const FORMAT: u32 = 3;
const LONGEST_META: u64 = 1 << 20;

/// Description of a guest; written once it is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) format: u32,
    pub(crate) name: String,
    pub(crate) kernel: Kernel,
    pub(crate) spec: Spec,
    pub(crate) qemu: String,
    /// Seconds since 1970 at which it was started or reset.
    pub(crate) since: u64,
    /// `None`: it lives until `down`.
    pub(crate) owner: Option<Identity>,
    pub(crate) ram: RamFile,
    /// The ready state that it came from.
    pub(crate) ready: String,
    /// Its record, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) recording: Option<Recording>,
}

/// Content of a guest's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// A guest that klab started.
    Own(Meta),
    /// One that it did not.
    Adopted(Adopted),
}

impl Record {
    /// The record in `folder`; `None` where there is none yet.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        if let Some(meta) = Meta::read(folder)? {
            return Ok(Some(Self::Own(meta)));
        }
        let cure = "remove that file";
        let adopted: Option<Adopted> = parse(&folder.join("adopted.json"), cure)?;
        Ok(adopted.map(Self::Adopted))
    }
}

impl Meta {
    /// The record in `folder`; `None` where there is none yet.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        parse(
            &folder.join("meta.json"),
            "`klab up` of that name replaces the guest",
        )
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        paths::write_whole(&folder.join("meta.json"), &text)
    }
}

/// A record of this klab's format.
fn parse<T: DeserializeOwned>(path: &Path, cure: &str) -> Result<Option<T>> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let bad = |why: String| Error::Damaged {
        path: path.to_owned(),
        why,
        cure: cure.to_owned(),
    };
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => io::Read::read_to_end(&mut io::Read::take(file, LONGEST_META), &mut text)
            .at("read", path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).at("open", path),
    };
    let Format { format } =
        serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    if format != FORMAT {
        return Err(bad(format!(
            "it is of format {format}, this klab writes {FORMAT}"
        )));
    }
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| bad(error.to_string()))
}

/// The folder of the guest `name`, there or not.
pub(crate) fn of(name: &str) -> Result<PathBuf> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.len() > 32
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !name.chars().all(good)
    {
        return Err(Error::BadName(name.to_owned()));
    }
    Ok(paths::run()?.join(name))
}

/// Locks a guest's folder: the holder of the lock may make, reset or remove the guest. With `create` the folder
/// is made if absent. `Ok(None)`: another has held it for longer than `patience`.
///
/// The lock is on the folder itself, so that nothing is left of it when the guest is gone.
pub(crate) fn lock(folder: &Path, create: bool, patience: Duration) -> Result<Option<Flock<File>>> {
    let until = Instant::now() + patience;
    loop {
        if create {
            match DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).at("make", folder);
                }
                _ => {}
            }
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        match File::options()
            .read(true)
            .custom_flags(flags.bits())
            .open(folder)
        {
            // It was removed between the two steps.
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("open", folder),
            Ok(file) => {
                let inode = file.metadata().at("look at", folder)?.ino();
                if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock)
                    && fs::symlink_metadata(folder).is_ok_and(|meta| meta.ino() == inode)
                {
                    return Ok(Some(lock));
                }
            }
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends the guest in `folder` and removes all that it has. The caller holds the folder's lock.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    // Without its record it is stale: the next command goes on where a killed `down` left off.
    let meta = folder.join("meta.json");
    gone(fs::remove_file(&meta)).at("remove", &meta)?;
    // Only what klab started: its command line names a pid file in this folder.
    process::end(folder)?;
    if let Some(ram) = paths::shm_file(folder)? {
        gone(fs::remove_file(&ram)).at("remove", &ram)?;
    }
    // One step for other commands; what a kill leaves of the rest is swept later.
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.with_file_name(format!(".gone-{}-{name}", std::process::id()));
    gone(fs::remove_dir_all(&aside)).at("remove", &aside)?;
    fs::rename(folder, &aside).at("remove", folder)?;
    gone(fs::remove_dir_all(&aside)).at("remove", &aside)
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Tells whether what is in `folder` (whose lock the caller holds, so nobody is at work on it) has no right to be
/// there: it was never finished, or its owner is gone.
pub(crate) fn stale(folder: &Path) -> bool {
    match Record::read(folder) {
        Ok(Some(Record::Own(meta))) => meta.owner.is_some_and(|owner| !owner.lives()),
        Ok(Some(Record::Adopted(_))) => false,
        // One of another klab's format is of no use to this one either.
        Ok(None) | Err(Error::Damaged { .. }) => true,
        Err(_) => false,
    }
}

/// The folders of all guests, after those were removed that dead processes left.
pub(crate) fn sweep() -> Result<Vec<PathBuf>> {
    let run = paths::run()?;
    let mut kept = Vec::new();
    for entry in fs::read_dir(&run).at("list", &run)? {
        let folder = entry.at("list", &run)?.path();
        if !fs::symlink_metadata(&folder).is_ok_and(|meta| meta.is_dir()) {
            continue;
        }
        // A folder that cannot be locked is being worked on. The lock is held until the folder is gone.
        if let Ok(Some(_lock)) = lock(&folder, false, Duration::ZERO)
            && stale(&folder)
        {
            remove(&folder)?;
        } else if Record::read(&folder).is_ok_and(|record| record.is_some()) {
            kept.push(folder);
        }
    }
    kept.sort();
    Ok(kept)
}

/// The generation of the guest's RAM: even, and another number after each reset; odd while one is under way.
pub(crate) fn generation(folder: &Path) -> u64 {
    let text = fs::read_to_string(folder.join("generation")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

pub(crate) fn set_generation(folder: &Path, generation: u64) -> Result<()> {
    paths::write_whole(
        &folder.join("generation"),
        generation.to_string().as_bytes(),
    )
}

/// The names of the guests there are.
pub(crate) fn names() -> Vec<String> {
    let folders = sweep().unwrap_or_default();
    folders
        .iter()
        .filter_map(|folder| Some(folder.file_name()?.to_str()?.to_owned()))
        .collect()
}
