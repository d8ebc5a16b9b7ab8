//! The folders that the steps work in.

use std::env;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folders that the steps work in.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    /// The work tree.
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
    /// klab's cache folder, by the same rule as `vm::paths::cache`.
    pub(crate) cache: PathBuf,
    /// klab's run folder, by the same rule as `vm::paths::run`.
    pub(crate) run: PathBuf,
    /// Folder of the guests' RAM if the run folder is not in memory, as `vm::paths` has it.
    pub(crate) shm: PathBuf,
}

impl Paths {
    /// The folders of this work tree and this user.
    pub(crate) fn new() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask lies in no work tree")?;
        // TARGET/release/xtask
        let program = env::current_exe().context("this program's own path")?;
        let target = program
            .ancestors()
            .nth(2)
            .context("run this as `cargo xtask`")?;
        Ok(Self {
            root: root.to_owned(),
            target: target.to_owned(),
            cache: cache(variable)?,
            run: run(variable)?,
            shm: format!("/dev/shm/klab-{}", user()?).into(),
        })
    }

    /// The release build of a program.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// The Python environment.
    pub(crate) fn venv(&self) -> PathBuf {
        self.cache.join("venv")
    }

    /// A program of the Python environment.
    pub(crate) fn venv_program(&self, name: &str) -> PathBuf {
        self.venv().join("bin").join(name)
    }

    /// Folder of the wheel, and of what it was made from.
    pub(crate) fn wheel(&self) -> PathBuf {
        self.target.join("wheel")
    }

    /// The lessons.
    pub(crate) fn notebooks(&self) -> PathBuf {
        self.root.join("notebooks")
    }

    /// A file of `xtask/python`.
    pub(crate) fn python(&self, name: &str) -> PathBuf {
        self.root.join("xtask/python").join(name)
    }

    /// Folder of all that the steps print.
    pub(crate) fn logs(&self) -> PathBuf {
        self.target.join("xtask")
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn run(env: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    let base = env("XDG_RUNTIME_DIR").filter(|path| path.is_dir());
    match (env("KLAB_RUN"), base) {
        (Some(path), _) => Ok(path),
        (None, Some(base)) => Ok(base.join("klab")),
        (None, None) => Ok(format!("/tmp/klab-{}", user()?).into()),
    }
}

/// This user's number.
fn user() -> Result<u32> {
    Ok(Path::new("/proc/self")
        .metadata()
        .context("no /proc")?
        .uid())
}

fn cache(env: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    env("KLAB_CACHE")
        .or_else(|| env("XDG_CACHE_HOME").map(|base| base.join("klab")))
        .or_else(|| env("HOME").map(|home| home.join(".cache/klab")))
        .context("no folder to keep things in: set HOME or KLAB_CACHE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_where_the_user_says() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                pairs
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| PathBuf::from(value))
            }
        };
        assert_eq!(
            cache(env(&[("KLAB_CACHE", "/k"), ("HOME", "/h")])).unwrap(),
            Path::new("/k")
        );
        assert_eq!(
            cache(env(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")])).unwrap(),
            Path::new("/x/klab")
        );
        assert_eq!(
            cache(env(&[("HOME", "/h")])).unwrap(),
            Path::new("/h/.cache/klab")
        );
        assert!(cache(env(&[])).is_err());
        assert_eq!(run(env(&[("KLAB_RUN", "/r")])).unwrap(), Path::new("/r"));
        let base = env(&[("XDG_RUNTIME_DIR", "/proc")]);
        assert_eq!(run(base).unwrap(), Path::new("/proc/klab"));
        let absent = env(&[("XDG_RUNTIME_DIR", "/no/such/folder")]);
        assert!(run(absent).unwrap().starts_with("/tmp"));
    }
}
