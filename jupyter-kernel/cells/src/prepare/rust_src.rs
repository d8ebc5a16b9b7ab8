//! The sources of the standard library, without which evcxr cannot tell the type of a `let`.
//!
//! The toolchain's own are taken if it has them (rustup's component `rust-src`), else those that
//! `RUST_SRC_PATH` names, else Debian's package, unpacked into the cache: a somewhat newer library serves
//! type inference as well.
//!
//! A session gives rust-analyzer a folder of its own instead, with links to the crates whose types cells have. Without
//! the manifest beside them it does not look for their dependencies, nor for the intrinsics of all processors, which are
//! most of it: that is a quarter of a kernel's start. Until evcxr has run its own first cell, which has no types, the
//! folder is empty: everything would be read and resolved for it, and again for the first cell that has dependencies.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::RUST_SRC_PATH;
use super::session::SESSION;

/// Debian's packages that hold the sources, the newest compiler's first.
const PACKAGES: [&str; 2] = ["rust-web-src", "rust-src"];

/// Variable of a session's process with the former `RUST_SRC_PATH`.
pub(super) const NAMED: &str = "KLAB_RUST_SRC_PATH";

/// The crates that a session gives rust-analyzer.
const CRATES: [&str; 4] = ["core", "alloc", "std", "proc_macro"];

/// Folder of the sources, once [`prepare`] has run.
pub(super) fn expected() -> Result<PathBuf> {
    let toolchain = toolchain()?;
    if toolchain.is_dir() {
        return Ok(toolchain);
    }
    let named = std::env::var_os(NAMED).or_else(|| std::env::var_os(RUST_SRC_PATH));
    match named.map(PathBuf::from) {
        Some(path) if path.is_dir() => Ok(path),
        _ => Ok(super::cache()?.join("rust-library")),
    }
}

/// The folder that a session's rust-analyzer takes for the sources.
pub(super) fn given(session: &Path) -> PathBuf {
    session.join("library")
}

/// Sources of this session. By its own folder, not by `RUST_SRC_PATH`, which may name sources of the user's: it is
/// emptied.
fn own() -> Result<PathBuf> {
    let session = std::env::var_os(SESSION).context("this process is no session's")?;
    Ok(given(Path::new(&session)))
}

/// Empties the folder that is given to rust-analyzer.
pub(super) fn hide() -> Result<()> {
    let given = own()?;
    if given.exists() {
        fs::remove_dir_all(&given)?;
    }
    // Else rust-analyzer would look elsewhere.
    Ok(fs::create_dir_all(given.join("core"))?)
}

/// Puts the sources into the folder that is given to rust-analyzer.
pub(crate) fn show() -> Result<()> {
    let (given, library) = (own()?, expected()?);
    fs::remove_dir(given.join("core"))?;
    for name in CRATES {
        symlink(library.join(name), given.join(name))?;
    }
    Ok(())
}

/// Gets the sources if they are not there, and gives their folder.
pub(super) fn prepare(say: &dyn Fn(&str)) -> Result<PathBuf> {
    let library = expected()?;
    if library.is_dir() {
        return Ok(library);
    }
    say("getting the sources of the standard library from Debian, once\n");
    let unpacked = super::cache()?.join("rust-src");
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked)?;
    }
    fs::create_dir_all(&unpacked)?;
    let found = unpack(&unpacked).context(
        "the sources of the standard library cannot be had: `rustup component add rust-src` gets them too",
    )?;
    if library.is_symlink() {
        fs::remove_file(&library)?;
    }
    symlink(found, &library)?;
    Ok(library)
}

/// The folder of the toolchain's own sources, there or not.
fn toolchain() -> Result<PathBuf> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .context("rustc does not start: is Rust in PATH?")?;
    let sysroot = String::from_utf8(output.stdout)?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library"))
}

/// Downloads a package with the machine's own apt sources and unpacks it; returns its `library` folder.
fn unpack(into: &Path) -> Result<PathBuf> {
    // The machine's package lists may be absent, as in a fresh container, or out of date.
    let lists = into.join("lists");
    fs::create_dir_all(lists.join("partial"))?;
    fs::create_dir_all(into.join("cache/archives/partial"))?;
    let own = [
        format!("Dir::State::Lists={}", lists.display()),
        format!("Dir::Cache={}/cache", into.display()),
    ];
    let apt = |arguments: &[&str], own: &[String]| {
        let mut apt = Command::new("apt-get");
        apt.arg("-q").current_dir(into).args(arguments);
        for option in own {
            apt.args(["-o", option]);
        }
        run(&mut apt)
    };
    let download = |own: &[String]| {
        PACKAGES
            .iter()
            .find(|package| apt(&["download", package], own).is_ok())
    };
    if download(&[]).is_none() {
        apt(&["update"], &own)?;
        download(&own).with_context(|| format!("apt has none of the packages {PACKAGES:?}"))?;
    }
    let package = files(into)?
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt downloaded nothing")?;
    run(Command::new("dpkg-deb")
        .arg("-x")
        .arg(&package)
        .arg(into.join("root")))?;
    fs::remove_file(package)?;
    fs::remove_dir_all(lists)?;
    let library = files(&into.join("root/usr/src"))?
        .into_iter()
        .map(|path| path.join("library"))
        .find(|library| library.join("std").is_dir() && !library.is_symlink());
    library.context("the package has no library folder")
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .collect())
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("{name} does not start"))?;
    if !output.status.success() {
        bail!(
            "{name} fails: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
