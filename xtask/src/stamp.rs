//! A stamp file with the hash of all that a step depends on, so that a finished step costs milliseconds.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A hash over what a step depends on. It need not be stable over Rust releases: a changed one redoes a step.
#[derive(Debug, Default)]
pub(crate) struct Key(DefaultHasher);

impl Key {
    /// Adds a value.
    pub(crate) fn value(mut self, value: impl Hash) -> Self {
        value.hash(&mut self.0);
        self
    }

    /// Adds a file by its bytes.
    pub(crate) fn file(self, path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(self.value(bytes))
    }

    /// The key.
    pub(crate) fn finish(self) -> u64 {
        self.0.finish()
    }
}

/// The stamp of one step.
#[derive(Debug)]
pub(crate) struct Stamp {
    path: PathBuf,
    key: u64,
}

impl Stamp {
    /// The stamp at `path` for a step that depends on `key`.
    pub(crate) fn new(path: PathBuf, key: Key) -> Self {
        Self {
            path,
            key: key.finish(),
        }
    }

    /// Tells whether the step was finished with this key.
    pub(crate) fn is_set(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|text| text == self.text())
    }

    /// Removes the stamp, before the step begins: a step that is half done is not done.
    pub(crate) fn clear(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Notes that the step is done.
    pub(crate) fn set(&self) -> Result<()> {
        fs::write(&self.path, self.text())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn text(&self) -> String {
        format!("{:016x}\n", self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_holds_for_its_key_alone() {
        let folder = std::env::temp_dir().join(format!("xtask-stamp-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let lock = folder.join("lock");
        fs::write(&lock, "one").unwrap();
        let stamp = || {
            let key = Key::default().value("python 3.11").file(&lock).unwrap();
            Stamp::new(folder.join("stamp"), key)
        };
        assert!(!stamp().is_set());
        stamp().set().unwrap();
        assert!(stamp().is_set());
        fs::write(&lock, "two").unwrap();
        assert!(!stamp().is_set(), "a changed input must redo the step");
        stamp().set().unwrap();
        stamp().clear().unwrap();
        stamp().clear().unwrap();
        assert!(!stamp().is_set());
        fs::write(folder.join("stamp"), "").unwrap();
        assert!(!stamp().is_set(), "a torn stamp is none");
        fs::remove_dir_all(&folder).unwrap();
    }
}
