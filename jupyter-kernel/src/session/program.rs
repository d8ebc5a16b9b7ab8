//! The program `klab-cells`: its path, and its work for others than the kernel.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// Its name, beside the program that runs.
const NAME: &str = "klab-cells";
/// Variable with its path, if it is elsewhere.
const VARIABLE: &str = "KLAB_CELLS";

/// Its message about what Rust cells need: where that is, or how to get it.
#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) rust_src: Result<String, String>,
    pub(crate) library: Result<String, String>,
}

/// Path of the program.
///
/// # Errors
/// If it is not there; the error says how to get it.
pub(crate) fn path() -> Result<PathBuf> {
    let path = match std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => path.into(),
        None => std::env::current_exe()?.with_file_name(NAME),
    };
    if path.is_file() {
        return Ok(path);
    }
    let cure = match vm::paths::installed() {
        None => {
            "`cargo xtask lab` in klab's repository builds it, and so does `cargo build --release -p klab-cells`"
        }
        Some(_) => {
            "klab's wheel does not bring it, so install Rust 1.95 (rustup), run `cargo build --release -p klab-cells` in a clone of \
             klab's repository, and set KLAB_CELLS to its target/release/klab-cells"
        }
    };
    bail!(
        "Rust cells need the program klab-cells, and there is no {}: {cure}",
        path.display()
    )
}

/// The program, in the environment that it wants.
pub(super) fn command() -> Result<Command> {
    let mut command = Command::new(path()?);
    command.env("KLAB_CACHE", vm::paths::cache()?);
    Ok(command)
}

/// Makes the needs of Rust cells, once; it tells its steps on stderr.
pub(crate) fn prepare() -> Result<()> {
    let status = command()?.arg("prepare").status().context(NAME)?;
    if !status.success() {
        bail!("what Rust cells need is not there: see above");
    }
    Ok(())
}

/// Asks it for its [`Status`].
pub(crate) fn status() -> Result<Status> {
    let output = command()?.arg("status").output().context(NAME)?;
    serde_json::from_slice(&output.stdout).context("klab-cells does not say what there is")
}
