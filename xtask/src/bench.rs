//! `cargo xtask bench`: klab's figures beside its peers'.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::board::Board;
use crate::cells;
use crate::lab::cargo;
use crate::paths::Paths;
use crate::process::tied;

/// The program that measures is built with klab, whose build of `probes` it shares then.
const BUILT: &[&str] = &[
    "build",
    "--locked",
    "--release",
    "--package",
    "klab",
    "--package",
    "klab-bench",
    // The loops that are timed are in it, with what they inline of the library.
    "--config",
    "profile.release.package.klab-bench.opt-level=3",
];

/// Build it and run it with these words.
pub(crate) fn run(words: &[&str]) -> Result<ExitCode> {
    let paths = Paths::new()?;
    if !cargo(&paths).args(BUILT).status()?.success() {
        bail!("the bench does not compile");
    }
    cells::ensure(&Board::new(), &paths)?;
    let status = tied(&paths.program("klab-bench"))
        .env("KLAB", paths.program("klab"))
        .args(words)
        .status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
