//! The Python package `klab`, drgn on klab's reader: built by maturin, installed into the Python environment.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::board::Board;
use crate::lab::{sources, units};
use crate::paths::Paths;
use crate::process::{Job, tied};
use crate::python::own;
use crate::stamp::Stamp;

/// Have the package. The environment must be there.
pub(crate) fn ensure(board: &Board, paths: &Paths) -> Result<()> {
    const NAME: &str = "drgn";
    board.begin(NAME);
    // In the environment, so that it goes with it.
    let stamp = Stamp::new(paths.venv().join("klab-drgn-stamp"), sources(&paths.root)?);
    if stamp.is_set() {
        board.end(NAME, "present");
        return Ok(());
    }
    stamp.clear()?;
    let wheels = paths.target.join("wheels");
    if wheels.exists() {
        fs::remove_dir_all(&wheels)
            .with_context(|| format!("cannot remove {}", wheels.display()))?;
    }
    let python = paths.venv_program("python");
    let job = |step: &str| Job {
        board,
        name: NAME,
        log: paths.logs().join(format!("drgn-{step}.log")),
        cure: "see what it said above, then run this again: it carries on",
    };
    job("build").run(
        own(tied(&paths.venv_program("maturin"))
            .args(["build", "--release", "--locked", "--manifest-path"])
            .arg(paths.root.join("jupyter-kernel/drgn/Cargo.toml"))
            .arg("--interpreter")
            .arg(&python)
            .arg("--out")
            .arg(&wheels)
            .env("CARGO_TARGET_DIR", &paths.target)
            .env("CARGO_TERM_PROGRESS_WHEN", "always")
            .env("CARGO_TERM_PROGRESS_WIDTH", "80")),
        units,
    )?;
    job("install").run(
        own(tied(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--no-deps",
                "--no-index",
                "--force-reinstall",
            ])
            .arg("--disable-pip-version-check")
            .arg(wheel(&wheels)?)),
        |_| Some("installing".to_owned()),
    )?;
    stamp.set()?;
    board.end(NAME, "installed");
    Ok(())
}

fn wheel(folder: &Path) -> Result<std::path::PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    let mut wheels = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "whl"));
    wheels.next().context("maturin made no wheel")
}
