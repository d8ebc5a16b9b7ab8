//! The keeper of this process: started at its first hold of a guest, there until this process ends.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use sha2::Digest;

use super::book::start_of;
use crate::error::{At, Error, Result};
use crate::paths;
use crate::temporary::Temporary;

/// The program (`build.rs`).
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/klab-keeper"));
/// Time limit for its start.
const PATIENCE: Duration = Duration::from_secs(10);

static KEEPER: Mutex<Option<Keeper>> = Mutex::new(None);

struct Keeper {
    /// Process that holds it: a child that was forked has a copy of this.
    holder: u32,
    socket: UnixStream,
    /// The guests that it knows of.
    folders: BTreeSet<PathBuf>,
}

/// Makes sure that the guest in `folder` is let go when this process ends.
pub(super) fn watches(folder: &Path) -> Result<()> {
    let mut keeper = KEEPER.lock().unwrap_or_else(PoisonError::into_inner);
    let failed = |error: io::Error| Error::Keeper(error.to_string());
    if !keeper.as_ref().is_some_and(Keeper::is_there) {
        *keeper = Some(start()?);
    }
    if let Some(keeper) = keeper.as_mut()
        && !keeper.folders.contains(folder)
    {
        let name = [folder.as_os_str().as_bytes(), b"\0"].concat();
        (&keeper.socket).write_all(&name).map_err(failed)?;
        keeper.folders.insert(folder.to_owned());
    }
    Ok(())
}

impl Keeper {
    fn is_there(&self) -> bool {
        use std::os::fd::AsRawFd;
        let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        self.holder == std::process::id()
            && recv(self.socket.as_raw_fd(), &mut [0], peek) == Err(Errno::EAGAIN)
    }
}

fn start() -> Result<Keeper> {
    let failed = |error: io::Error| Error::Keeper(error.to_string());
    let program = program()?;
    let silent = || Error::Keeper(format!("{} cannot be run", program.display()));
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let holder = std::process::id();
    // Nobody's child: what ends the children of its holder does not end it, and nobody has to wait for it.
    let started = Command::new("setsid")
        .arg("--fork")
        .arg(&program)
        .args([
            holder.to_string(),
            start_of(holder).unwrap_or(0).to_string(),
        ])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .status();
    if started.is_err() {
        return Err(Error::NoTool {
            tool: "setsid",
            package: "util-linux",
        });
    }
    ours.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    ours.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    // It is at its place.
    (&ours).read_exact(&mut [0]).map_err(|_| silent())?;
    Ok(Keeper {
        holder,
        socket: ours,
        folders: BTreeSet::new(),
    })
}

/// The program's file in the cache, one for each version of it.
fn program() -> Result<PathBuf> {
    let hash = sha2::Sha256::digest(PROGRAM);
    let hash: String = hash
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let folder = paths::cache()?;
    let path = folder.join(format!("keeper-{hash}"));
    if fs::metadata(&path).is_ok_and(|meta| meta.len() == PROGRAM.len() as u64) {
        return Ok(path);
    }
    let (temporary, mut file) = Temporary::file(&folder)?;
    file.write_all(PROGRAM).at("write", &path)?;
    file.set_permissions(fs::Permissions::from_mode(0o700))
        .at("write", &path)?;
    // A program that is open for writing cannot be started.
    drop(file);
    temporary.place(&path)?;
    Ok(path)
}
