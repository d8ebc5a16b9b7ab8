//! `cargo xtask clean`: the way back to nothing.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::guests::Guests;
use crate::paths::Paths;
use crate::process::plain;

/// Stops the guests, removes the run folder, the cache folder (with the Python environment) and the target folder.
pub(crate) fn run() -> Result<ExitCode> {
    let paths = Paths::new()?;
    let klab = paths.program("klab");
    if klab.exists() {
        println!("stopping all guests");
        let status = plain(&klab).args(["down", "--all"]).status()?;
        if !status.success() {
            bail!("the guests did not stop: see `{} status`", klab.display());
        }
    } else if paths.run.exists() {
        bail!(
            "guests may run, and the program that stops them is not built: `cargo build --release -p klab` first"
        );
    }
    for stale in Guests::stale() {
        stale.end(&paths);
    }
    // Only if it is empty: guests of another run folder have their RAM there too.
    if fs::remove_dir(&paths.shm).is_ok() {
        println!("removing {} (the guests' RAM)", paths.shm.display());
    }
    for (path, what) in [
        (&paths.run, "the guests' sockets"),
        (
            &paths.cache,
            "kernels, packages, ready guests, the Python environment",
        ),
        (&paths.target, "what was built"),
    ] {
        remove(path, what)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(path: &Path, what: &str) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    if std::env::var_os("HOME").is_some_and(|home| Path::new(&home).starts_with(path)) {
        bail!(
            "{} holds more than klab's files: remove them yourself",
            path.display()
        );
    }
    println!("removing {} ({what})", path.display());
    if let Err(error) = fs::remove_dir_all(path) {
        bail!("cannot remove {}: {error}", path.display());
    }
    Ok(())
}
