//! A kernel's vmlinux with DWARF, of Debian's `-dbg` package: for other tools and for comparisons. klab itself needs none.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Kernel;
use super::apt::{Apt, Suite};
use crate::error::{At, Error, Result};
use crate::paths;
use crate::progress::Progress;
use crate::temporary::Temporary;

/// Least room for the package and what is kept of it, in bytes.
const ROOM: u64 = 3 << 30;

impl Kernel {
    /// Its vmlinux with DWARF, fetched at the first call: some 300 to 1000 MB, of which 600 MB are kept.
    ///
    /// # Errors
    /// When Debian has none of exactly this kernel, or it cannot be fetched.
    pub fn vmlinux(&self, progress: &mut dyn Progress) -> Result<PathBuf> {
        let all = paths::private(&paths::cache()?.join("vmlinux"), "KLAB_CACHE")?;
        let to = all.join(&self.release);
        let file = to.join("vmlinux");
        if file.is_file() {
            return Ok(file);
        }
        let lock = paths::lock(&all.join("lock"), Duration::from_secs(1800))?;
        let _lock = lock.ok_or_else(|| Error::Locked("(vmlinux)".to_owned()))?;
        if file.is_file() {
            return Ok(file);
        }
        let package = format!("linux-image-{}-dbg", self.release);
        for suite in [Suite::Trixie, Suite::Bookworm] {
            let apt = Apt::open(suite)?;
            apt.refresh(progress)?;
            if apt.versions(std::slice::from_ref(&package))?.is_empty() {
                continue;
            }
            paths::need_room(&all, ROOM, "KLAB_CACHE")?;
            progress.step(&format!("fetching {package}"));
            paths::tidy(&all);
            let temporary = Temporary::folder(&all)?;
            apt.unpack_some(&package, "*vmlinux*", temporary.path(), progress)?;
            let found = largest(temporary.path(), 8).ok_or_else(|| missing(&package))?;
            let made = Temporary::folder(&all)?;
            let place = made.path().join("vmlinux");
            fs::rename(&found, &place).at("move", &found)?;
            made.place(&to)?;
            return Ok(file);
        }
        Err(missing(&package))
    }
}

fn missing(package: &str) -> Error {
    Error::UnknownKernel {
        asked: package.to_owned(),
        known: "Debian has debug information for its current kernels alone".to_owned(),
    }
}

/// The largest file below a folder: the others are links to it.
fn largest(folder: &Path, depth: u32) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let files = paths.filter_map(|path| {
        let meta = fs::symlink_metadata(&path).ok()?;
        if meta.is_dir() {
            return largest(&path, depth.checked_sub(1)?);
        }
        meta.is_file().then_some(path)
    });
    files.max_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len()))
}
