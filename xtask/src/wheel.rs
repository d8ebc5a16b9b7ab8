//! `cargo xtask wheel`: one file that pip installs, with the program, JupyterLab's kernel spec, the Python package `klab`, the
//! guest's agent, the lessons and the kernel module's sources. The machine that installs it needs no Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::board::Board;
use crate::drgn;
use crate::lab;
use crate::packages;
use crate::paths::Paths;
use crate::process::{Job, plain, tied};
use crate::python::own;

/// Folder that an installed klab finds by `vm::paths::shipped`.
const SHIPPED: &str = "share/klab";
/// `xtask` has the version of the workspace, as all of klab has.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `cargo xtask wheel`
pub(crate) fn run() -> Result<ExitCode> {
    let (board, paths) = (Board::new(), Paths::new()?);
    lab::set_up(&board, &paths, packages::LAB.iter())?;
    let wheel = build(&board, &paths)?;
    println!("{}", wheel.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds it from the results of [`lab::set_up`].
pub(crate) fn build(board: &Board, paths: &Paths) -> Result<PathBuf> {
    const NAME: &str = "wheel";
    board.begin(NAME);
    let made = paths.wheel();
    // Another version's would stay.
    if made.exists() {
        fs::remove_dir_all(&made).with_context(|| format!("cannot remove {}", made.display()))?;
    }
    let stage = made.join("stage");
    fill(&stage, paths)?;
    let job = Job {
        board,
        name: NAME,
        log: paths.logs().join("wheel.log"),
        cure: "see what it said above, then run this again",
    };
    let mut hatch = tied(&paths.venv_program("python"));
    hatch
        .args(["-m", "hatchling", "build", "-t", "wheel", "-d"])
        .arg(&made)
        .current_dir(&stage);
    job.run(own(&mut hatch), |_| None)?;
    let wheels = fs::read_dir(&made)?.filter_map(|entry| Some(entry.ok()?.path()));
    let wheel = wheels
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "whl"))
        .context("hatchling made no wheel")?;
    let size = wheel.metadata()?.len();
    board.end(NAME, &format!("{:.1} MB", size as f64 / 1e6));
    Ok(wheel)
}

/// Puts the content of the wheel into a folder, with the metadata for hatchling.
fn fill(stage: &Path, paths: &Paths) -> Result<()> {
    let copy = |from: &Path, to: &str| -> Result<()> {
        let to = stage.join(to);
        fs::create_dir_all(to.parent().unwrap_or(stage))
            .and_then(|()| fs::copy(from, &to))
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        Ok(())
    };
    copy(&paths.program("klab"), "bin/klab")?;
    drgn::install(paths, &stage.join("klab"))?;
    copy(&agent(paths)?, &format!("{SHIPPED}/klab-agent"))?;
    for (folder, to) in [("notebooks", "lessons"), ("kmod", "kmod")] {
        for entry in fs::read_dir(paths.root.join(folder))? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_file() {
                copy(
                    &entry.path(),
                    &format!("{SHIPPED}/{to}/{}", name.to_string_lossy()),
                )?;
            }
        }
    }
    // By the program in its place, whose spec is then true wherever it is installed.
    let mut spec = plain(stage.join("bin/klab"));
    spec.arg("kernelspec").arg("--prefix").arg(stage);
    if !spec.output()?.status.success() {
        bail!("`klab kernelspec` fails");
    }
    for name in ["README.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        copy(&paths.root.join(name), name)?;
    }
    for name in ["pyproject.toml", "tag.py"] {
        copy(&paths.python("wheel").join(name), name)?;
    }
    fs::write(stage.join("VERSION"), VERSION)?;
    Ok(())
}

/// The guest's agent, built as it is for a guest.
fn agent(paths: &Paths) -> Result<PathBuf> {
    let output = plain(paths.program("klab")).arg("agent").output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}
