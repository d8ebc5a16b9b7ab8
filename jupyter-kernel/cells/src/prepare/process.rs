//! The process that runs the cells.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::cargo;

/// Folders in which the loader looks for shared libraries first.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// This program again, able to load the cells: they link the toolchain's own libstd.so. The run path that rustc writes
/// into them is relative to `deps/`, and evcxr moves them out of it, so it leads nowhere if the cache and the toolchain are
/// below the same home folder.
pub(crate) fn cell_process() -> Result<Command> {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir"])
        .output()
        .context("rustc does not start: is Rust in PATH?")?;
    let libraries = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    let others = env::var_os(LIBRARIES).unwrap_or_default();
    let paths = std::iter::once(libraries)
        .chain(env::split_paths(&others).filter(|path| !path.as_os_str().is_empty()));
    let mut process = Command::new(env::current_exe()?);
    cargo::take(&mut process);
    process.env(LIBRARIES, env::join_paths(paths)?);
    Ok(process)
}
