//! Making the template: one run of evcxr with the imports of every session.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use evcxr::{CommandContext, EvalContext};

use super::{EVCXR_TMPDIR, RUST_SRC_PATH, cargo, imports, manifest, rust_src, source};

/// Number of templates that are kept; sessions of older sources may still run.
const KEPT: usize = 3;

/// The template of the present sources, which may not be there yet.
pub(super) fn folder() -> Result<PathBuf> {
    Ok(source::root()?.join("template"))
}

/// The folder of [`manifest::shared`].
fn shared() -> Result<PathBuf> {
    Ok(source::root()?.join("shared"))
}

/// Makes the missing parts, and says so. Returns at once if none is missing.
///
/// # Errors
///
/// If the library does not compile, or the sources of std cannot be had.
pub(crate) fn prepare(say: &dyn Fn(&str)) -> Result<()> {
    let library = rust_src::prepare(say)?;
    let root = source::root()?;
    let template = folder()?;
    if template.is_dir() {
        return Ok(());
    }
    let cells = root.parent().context("the cache has no folder")?;
    fs::create_dir_all(cells)?;
    let lock = File::create(cells.join("lock"))?;
    lock.lock()?;
    if template.is_dir() {
        return Ok(());
    }
    say("compiling the library of the cells, once (a minute or two)\n");
    let unfinished = root.join("unfinished");
    for folder in [&root.join("source"), &shared()?, &unfinished] {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
    }
    fs::create_dir_all(&unfinished)?;
    source::copy(&root.join("source"))?;
    let mut build = Command::new(std::env::current_exe()?);
    cargo::give(&mut build, &root)?;
    build
        .arg("prepare")
        .arg("--template")
        .env(EVCXR_TMPDIR, &unfinished)
        .env(RUST_SRC_PATH, library)
        .current_dir(&unfinished);
    let output = build.output()?;
    if !output.status.success() {
        bail!(
            "the library of the cells does not compile:\n{}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    drop_incremental(&unfinished.join("target"))?;
    fs::rename(&unfinished, &template)?;
    keep_newest(cells)
}

/// Runs evcxr in the folder that `EVCXR_TMPDIR` names.
pub(crate) fn build() -> Result<()> {
    let folder = PathBuf::from(std::env::var_os(EVCXR_TMPDIR).context("EVCXR_TMPDIR is not set")?);
    let failed = |error: evcxr::Error| anyhow!("{error}");
    let child = super::cell_process()?;
    let (context, _outputs) = EvalContext::with_subprocess_command(child).map_err(failed)?;
    let mut context = CommandContext::with_eval_context(context);
    // evcxr has just run a cell without dependencies, for which cargo emptied the lock file.
    fs::copy(
        source::folder()?.join("Cargo.lock"),
        folder.join("Cargo.lock"),
    )?;
    context.execute(&imports()?).map_err(failed)?;
    manifest::shared(&shared()?, &folder, &source::folder()?.join("probes"))?;
    symlink(shared()?, folder.join(cargo::SHARED))?;
    context.execute("1 + 1").map_err(failed)?;
    // A `let` whose type is not found makes evcxr ask `cargo check`, which has its own artefacts.
    context.check("1 + 1").map_err(failed)?;
    Ok(())
}

/// Gives this session the versions of the template: cargo emptied its lock file as above.
pub(crate) fn lock() -> Result<()> {
    let folder_of_session = std::env::var_os(EVCXR_TMPDIR).context("EVCXR_TMPDIR is not set")?;
    let from = folder()?.join("Cargo.lock");
    fs::copy(from, PathBuf::from(folder_of_session).join("Cargo.lock"))?;
    Ok(())
}

/// Removes the files with which rustc compiles a dependency again, which no session does.
fn drop_incremental(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let of_cells = name.as_encoded_bytes().starts_with(b"ctx-");
        if !entry.file_type()?.is_dir() {
            continue;
        } else if folder.ends_with("incremental") && !of_cells {
            fs::remove_dir_all(entry.path())?;
        } else if !of_cells {
            drop_incremental(&entry.path())?;
        }
    }
    Ok(())
}

fn keep_newest(cells: &Path) -> Result<()> {
    let mut all: Vec<_> = fs::read_dir(cells)?
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    all.sort();
    let old = all.len().saturating_sub(KEPT);
    for (_, folder) in &all[..old] {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}
