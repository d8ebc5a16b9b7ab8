//! A file or folder that appears whole or not at all: made beside its place under a name of its own, then renamed.
//!
//! Not by the crate `tempfile`, which brings 19 MB of source for every architecture's system calls, and whatever `vm`
//! depends on, rust-analyzer reads at the start of every Jupyter kernel.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{At, Result};

/// Beginning of such names, by which the leftovers of an interrupted command are known.
pub(crate) const PREFIX: &str = ".new-";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A folder or a file that is removed when dropped, unless it was given its place.
#[derive(Debug)]
pub(crate) struct Temporary(PathBuf);

impl Temporary {
    /// An empty folder in `folder`.
    pub(crate) fn folder(folder: &Path) -> Result<Self> {
        let (path, ()) =
            unique(folder, |path| fs::create_dir(path)).at("make a folder in", folder)?;
        Ok(Self(path))
    }

    /// An empty file in `folder`, open.
    pub(crate) fn file(folder: &Path) -> Result<(Self, File)> {
        let (path, file) = unique(folder, |path| {
            let mut options = File::options();
            options.read(true).write(true).create_new(true).open(path)
        })
        .at("write in", folder)?;
        Ok((Self(path), file))
    }

    /// Path at which it is now.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Gives it its place, at once for everybody.
    pub(crate) fn place(self, to: &Path) -> Result<()> {
        fs::rename(&self.0, to).at("make", to)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing is there any more if it was placed.
        if self.0.is_dir() {
            let _ = fs::remove_dir_all(&self.0);
        } else {
            let _ = fs::remove_file(&self.0);
        }
    }
}

fn unique<T>(folder: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(PathBuf, T)> {
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{PREFIX}{}-{number}", std::process::id()));
        match make(&path) {
            // Another process of that number left it, or has it: in another container.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|made| (path, made)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_gone_unless_it_was_placed() {
        let folder = tempfile::tempdir().unwrap();
        let dropped = Temporary::folder(folder.path()).unwrap();
        fs::write(dropped.path().join("part"), "x").unwrap();
        drop(dropped);
        let (file, _) = Temporary::file(folder.path()).unwrap();
        file.place(&folder.path().join("whole")).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].file_name(), "whole");
    }
}
