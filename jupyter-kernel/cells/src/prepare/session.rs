//! The folder of one running kernel: its copy of the template.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{EVCXR_TMPDIR, RUST_SRC_PATH, cargo, compiled, rust_src, source, template};

/// Names the folder of this session, in the kernel's environment.
pub(super) const SESSION: &str = "KLAB_SESSION";

/// Time that a session may take to lock its new folder.
const MAKING: Duration = Duration::from_secs(60);
/// Link in it to the folder of its sockets.
const SOCKETS: &str = "sockets";

/// The folder of this session, removed when dropped. A folder whose kernel was killed is removed by the
/// next kernel that starts: nobody holds its lock.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Takes the folder that this process was started with.
    ///
    /// evcxr and rust-analyzer take their folders from the environment only, which a program cannot
    /// change safely for itself; so a process without a folder starts itself again with one.
    ///
    /// # Errors
    ///
    /// If the cache cannot be written.
    pub(crate) fn take() -> Result<Self> {
        let Some(path) = std::env::var_os(SESSION).map(PathBuf::from) else {
            let path = super::cache()?
                .join("sessions")
                .join(uuid::Uuid::new_v4().to_string());
            let named = std::env::var_os(RUST_SRC_PATH).unwrap_or_default();
            let mut again = Command::new(std::env::current_exe()?);
            cargo::give(&mut again, &path)?;
            again
                .args(std::env::args_os().skip(1))
                .env(EVCXR_TMPDIR, path.join("evcxr"))
                .env(rust_src::NAMED, named)
                .env(RUST_SRC_PATH, rust_src::given(&path))
                .env(SESSION, path);
            return Err(again.exec()).context("klab does not start again");
        };
        if let Some(sessions) = path.parent() {
            fs::create_dir_all(sessions)?;
            remove_left(sessions);
        }
        let lock = File::create(path.join("lock"))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A compiler that was just stopped may still write. What stays, the next kernel removes.
        for _ in 0..20 {
            if remove(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Fills this session's folder from the template, making that first if need be.
pub(crate) fn session(say: &dyn Fn(&str)) -> Result<()> {
    template::prepare(say)?;
    compiled::trim(&compiled::folder(&source::root()?));
    rust_src::hide()?;
    let folder = PathBuf::from(std::env::var_os(EVCXR_TMPDIR).context("EVCXR_TMPDIR is not set")?);
    if folder.exists() {
        return Ok(());
    }
    clone_tree(&template::folder()?, &folder).with_context(|| {
        format!(
            "the library of the cells cannot be copied to {}",
            folder.display()
        )
    })?;
    cargo::hide(&folder, true)
}

/// Copies a target directory with the times that cargo goes by. The compiled dependencies, to which no
/// session writes again, are linked: they are most of it.
fn clone_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            clone_tree(&from, &to)?;
        } else if entry.file_type()?.is_symlink() {
            symlink(fs::read_link(from)?, to)?;
        } else if !is_dependency(&from) || fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to)?;
            let times = FileTimes::new().set_modified(entry.metadata()?.modified()?);
            File::options().write(true).open(&to)?.set_times(times)?;
        }
    }
    Ok(())
}

/// Tells whether this is a compiled crate other than evcxr's own, which every cell writes.
fn is_dependency(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    ["rlib", "rmeta", "so"].contains(&extension)
        && !["libctx", "libcode_"]
            .iter()
            .any(|own| name.starts_with(own))
}

/// Notes a folder outside that this session has for its sockets, whose paths must be short: it goes with the session.
///
/// # Errors
///
/// If the session's folder cannot be written.
pub(crate) fn owns(folder: &Path) -> Result<()> {
    let Some(session) = std::env::var_os(SESSION) else {
        return Ok(());
    };
    let link = PathBuf::from(session).join(SOCKETS);
    // A session whose worker was made anew has one already.
    if let Err(error) = fs::remove_file(&link)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error.into());
    }
    Ok(symlink(folder, link)?)
}

/// Removes the folder of a session, and that of its sockets.
fn remove(folder: &Path) -> std::io::Result<()> {
    if let Ok(sockets) = fs::read_link(folder.join(SOCKETS)) {
        let _ = fs::remove_dir_all(sockets);
    }
    fs::remove_dir_all(folder)
}

/// Removes the folders of kernels that were killed.
fn remove_left(sessions: &Path) {
    let Ok(entries) = fs::read_dir(sessions) else {
        return;
    };
    for folder in entries.flatten().map(|entry| entry.path()) {
        let Ok(lock) = File::open(folder.join("lock")) else {
            // One that is just being made, or what a compiler wrote when its folder was gone.
            let made = fs::metadata(&folder).and_then(|folder| folder.modified());
            if made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > MAKING)) {
                let _ = fs::remove_dir_all(folder);
            }
            continue;
        };
        if !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            let _ = remove(&folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_clone_shares_dependencies_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fs::create_dir_all(from.join("deps")).unwrap();
        for name in ["libprobes.so", "libctx.so", "ctx.d"] {
            fs::write(from.join("deps").join(name), "old").unwrap();
        }
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let times = FileTimes::new().set_modified(old);
        let options = File::options().write(true).open(from.join("deps/ctx.d"));
        options.unwrap().set_times(times).unwrap();
        clone_tree(&from, &to).unwrap();
        let modified = fs::metadata(to.join("deps/ctx.d")).unwrap().modified();
        assert_eq!(modified.unwrap(), old);
        for (name, shared) in [
            ("libprobes.so", true),
            ("libctx.so", false),
            ("ctx.d", false),
        ] {
            let inode = |root: &Path| fs::metadata(root.join("deps").join(name)).unwrap().ino();
            assert_eq!(inode(&from) == inode(&to), shared, "{name}");
        }
    }

    #[test]
    fn only_folders_without_a_kernel_are_removed() {
        let sessions = tempfile::tempdir().unwrap();
        let [used, left] = ["used", "left"].map(|name| sessions.path().join(name));
        for folder in [&used, &left] {
            fs::create_dir(folder).unwrap();
            File::create(folder.join("lock")).unwrap();
        }
        let sockets = tempfile::tempdir().unwrap().keep();
        symlink(&sockets, left.join(SOCKETS)).unwrap();
        let lock = File::open(used.join("lock")).unwrap();
        lock.lock().unwrap();
        remove_left(sessions.path());
        assert!(used.exists());
        assert!(!left.exists() && !sockets.exists());
    }
}
