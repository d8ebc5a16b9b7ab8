//! The folders: the cache (kernels, packages, ready states), the run folder (guests), guest RAM.
//!
//! Every folder is the user's own and 0700: the sockets in the run folder are full control over a guest.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::TMPFS_MAGIC;

use crate::error::{At, Error, Result};
use crate::temporary::{self, Temporary};

/// The longest run folder that leaves room for `/NAME/agent.N` in `sockaddr_un.sun_path` (108 bytes).
const LONGEST_RUN: usize = 60;

/// Folder of an environment with what klab's wheel brings besides programs and packages.
const SHIPPED: &str = "share/klab";

/// The cache folder: `$KLAB_CACHE`, else `$XDG_CACHE_HOME/klab`, else `~/.cache/klab`. Made if absent, 0700.
///
/// # Errors
/// [`Error::NotOurs`] if it is another user's; [`Error::Io`] if it cannot be made.
pub fn cache() -> Result<PathBuf> {
    let path = match (env("KLAB_CACHE"), env("XDG_CACHE_HOME"), env("HOME")) {
        (Some(path), ..) => path,
        (_, Some(base), _) => base.join("klab"),
        (_, _, Some(home)) => home.join(".cache/klab"),
        _ => PathBuf::from(format!("/tmp/klab-cache-{}", nix::unistd::getuid())),
    };
    private(&path, "KLAB_CACHE")
}

/// The run folder: `$KLAB_RUN`, else `$XDG_RUNTIME_DIR/klab`, else `/tmp/klab-UID`. Made if absent, 0700.
///
/// # Errors
/// As [`cache`]; [`Error::PathTooLong`] if it leaves no room for the name of a socket.
pub fn run() -> Result<PathBuf> {
    let path = match (
        env("KLAB_RUN"),
        env("XDG_RUNTIME_DIR").filter(|path| path.is_dir()),
    ) {
        (Some(path), _) => path,
        (_, Some(base)) => base.join("klab"),
        _ => PathBuf::from(format!("/tmp/klab-{}", nix::unistd::getuid())),
    };
    if path.as_os_str().len() > LONGEST_RUN {
        return Err(Error::PathTooLong(path));
    }
    private(&path, "KLAB_RUN")
}

/// The environment of Python that the running program was installed into, by klab's wheel.
pub fn installed() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let prefix = program.ancestors().nth(2)?;
    prefix.join(SHIPPED).is_dir().then(|| prefix.to_owned())
}

/// File or folder of this name that came with an installed klab.
pub fn shipped(name: &str) -> Option<PathBuf> {
    Some(installed()?.join(SHIPPED).join(name))
}

/// Chooses the place of the RAM file of guest `name`: shared memory if it has room for `bytes` twice over (the page
/// cache of a disk file is written back again and again), else the guest's run folder.
pub(crate) fn ram_file(guest: &Path, bytes: u64) -> Result<PathBuf> {
    let here = guest.join("ram");
    let shm = Path::new("/dev/shm");
    if free(guest)?.0 && free(guest)?.1 >= bytes.saturating_mul(2) {
        return Ok(here);
    }
    if available() >= bytes.saturating_mul(2)
        && free(shm).is_ok_and(|(memory, free)| memory && free >= bytes.saturating_mul(2))
    {
        return Ok(shm_file(guest)?.unwrap_or(here));
    }
    let room = free(guest)?.1;
    if room < bytes {
        return Err(Error::DiskFull {
            path: guest.to_owned(),
            need: format!("{} MiB", bytes >> 20),
            variable: "KLAB_RUN",
        });
    }
    Ok(here)
}

/// The one path in shared memory that the guest in this folder may use, so that it can be found and removed
/// with no record of it. `None` where there is no private folder to be had.
pub(crate) fn shm_file(guest: &Path) -> Result<Option<PathBuf>> {
    use sha2::Digest;
    let folder = PathBuf::from(format!("/dev/shm/klab-{}", nix::unistd::getuid()));
    let Ok(folder) = private(&folder, "KLAB_RUN") else {
        return Ok(None);
    };
    let hash = sha2::Sha256::digest(guest.as_os_str().as_encoded_bytes());
    let hash: String = hash
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(Some(folder.join(format!("{hash}.ram"))))
}

/// Tells whether the file system is in memory, and the bytes free for us.
fn free(path: &Path) -> Result<(bool, u64)> {
    let stat = nix::sys::statfs::statfs(path).at("look at the disk of", path)?;
    Ok((
        stat.filesystem_type() == TMPFS_MAGIC,
        stat.blocks_available()
            .saturating_mul(u64::try_from(stat.block_size()).unwrap_or(0)),
    ))
}

/// Fails where the file system of `path` has less than `bytes` free.
pub(crate) fn need_room(path: &Path, bytes: u64, variable: &'static str) -> Result<()> {
    if free(path)?.1 >= bytes {
        return Ok(());
    }
    Err(Error::DiskFull {
        path: path.to_owned(),
        need: format!("{} MiB", bytes >> 20),
        variable,
    })
}

/// `MemAvailable` in bytes; 0 where it is not known.
fn available() -> u64 {
    let Ok(text) = fs::read_to_string("/proc/meminfo") else {
        return 0;
    };
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .unwrap_or(0)
        .saturating_mul(1024)
}

fn env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// Makes `path` a folder of ours that no one else can enter; refuses another user's, and another user's link in a folder
/// that all may write to.
pub(crate) fn private(path: &Path, variable: &'static str) -> Result<PathBuf> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).at("make", parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).at("make", path);
        }
        _ => {}
    }
    let us = nix::unistd::geteuid().as_raw();
    let not_ours = |path: PathBuf, uid| Error::NotOurs {
        path,
        uid,
        variable,
    };
    // Where anyone may make a link, only our own is followed.
    let shared = path.starts_with("/tmp") || path.starts_with("/dev/shm");
    let link = fs::symlink_metadata(path).at("look at", path)?;
    if shared && link.uid() != us {
        return Err(not_ours(path.to_owned(), link.uid()));
    }
    let real = match shared && !link.is_symlink() {
        true => path.to_owned(),
        false => fs::canonicalize(path).at("find", path)?,
    };
    let meta = fs::symlink_metadata(&real).at("look at", &real)?;
    if meta.uid() != us {
        return Err(not_ours(real, meta.uid()));
    }
    if !meta.is_dir() {
        return Err(Error::NoFolder {
            path: real,
            variable,
        });
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(&real, fs::Permissions::from_mode(0o700)).at("close", &real)?;
    }
    Ok(real)
}

/// Takes the lock file `path`, waiting at most `patience`; `None` where another holds it for longer.
pub(crate) fn lock(path: &Path, patience: Duration) -> Result<Option<Flock<File>>> {
    let end = Instant::now() + patience;
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .at("open", path)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((_, errno)) if errno != nix::errno::Errno::EWOULDBLOCK => {
                return Err(errno).at("lock", path);
            }
            Err(_) if Instant::now() >= end => return Ok(None),
            Err((back, _)) => file = back,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Writes a file in one step: a reader sees the old text or the new one.
pub(crate) fn write_whole(path: &Path, text: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let (temporary, mut file) = Temporary::file(folder)?;
    io::Write::write_all(&mut file, text).at("write", path)?;
    temporary.place(path)
}

/// Removes what interrupted commands left in a cache folder: temporary folders and files of an hour ago.
pub(crate) fn tidy(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.filter_map(io::Result::ok) {
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|then| then.elapsed().ok());
        let ours = entry
            .file_name()
            .to_string_lossy()
            .starts_with(temporary::PREFIX);
        if ours && old.is_some_and(|age| age > Duration::from_secs(3600)) {
            // Someone else may be at the same; what stays is removed next time.
            let _ = if entry.path().is_dir() {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_of_our_own_is_followed_and_what_is_no_folder_is_called_that() {
        let folder = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        let [real, link, file] = ["real", "link", "file"].map(|name| folder.path().join(name));
        fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        fs::write(&file, "").unwrap();
        assert_eq!(private(&link, "KLAB_CACHE").unwrap(), real);
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o700);
        let said = private(&file, "KLAB_CACHE").unwrap_err().to_string();
        assert!(said.contains("is no folder"), "{said}");
    }
}
