//! The Python process: where its socket is, and how it starts.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{Error, Result};

/// Names the socket, so that the process of the Rust cells finds the same drgn as their kernel.
const SOCKET: &str = "KLAB_DRGN";

/// The socket of the drgn process that belongs to this process: the one that the environment names, else its own in
/// klab's private run folder.
///
/// # Errors
/// When there is no such folder.
pub fn socket() -> Result<PathBuf> {
    match std::env::var_os(SOCKET).filter(|path| !path.is_empty()) {
        Some(path) => Ok(path.into()),
        None => Ok(vm::paths::run()?.join(format!("drgn.{}", std::process::id()))),
    }
}

/// The Python that has the package `klab`, JupyterLab too: `$KLAB_PYTHON`, else that of the environment which the running
/// program was installed into, else that of `cargo xtask lab`.
///
/// # Errors
/// When there is none.
pub fn python() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KLAB_PYTHON").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let path = match vm::paths::installed() {
        Some(prefix) => prefix.join("bin/python3"),
        None => vm::paths::cache()?.join("venv/bin/python"),
    };
    if path.exists() {
        return Ok(path);
    }
    Err(Error::machine(format!(
        "Python is not set up: there is no {}; `cargo xtask lab` makes it, and klab's wheel is for an environment that has one",
        path.display()
    )))
}

/// A connection to the process, which is started if it does not run.
pub(super) fn connect() -> Result<UnixStream> {
    let socket = socket()?;
    if let Ok(stream) = UnixStream::connect(&socket) {
        return Ok(stream);
    }
    let python = python()?;
    // It returns when the socket is there: the process that serves it is then a daemon, and not our child.
    let started = Command::new(&python)
        .args(["-m", "klab.worker"])
        .arg(&socket)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::machine(format!("{} does not start: {error}", python.display())))?;
    if !started.status.success() {
        let text = String::from_utf8_lossy(&started.stderr);
        let last = text.trim_end().lines().last().unwrap_or("it says nothing");
        return Err(Error::machine(format!(
            "drgn does not start ({last}); `cargo xtask lab` installs what it needs"
        )));
    }
    UnixStream::connect(&socket).map_err(|error| {
        Error::machine(format!(
            "drgn started and does not listen at {}: {error}",
            socket.display()
        ))
    })
}

/// Last words of a process that died: the first line of Python's report of a fault.
pub(super) fn last_words() -> Option<String> {
    let mut log = socket().ok()?.into_os_string();
    log.push(".log");
    let text = std::fs::read_to_string(log).ok()?;
    text.lines()
        .find(|line| line.starts_with("Fatal Python error"))
        .map(str::to_owned)
}
