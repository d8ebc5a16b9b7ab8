//! The `cargo` that evcxr calls: this program, by that name in a session's `bin`.
//!
//! evcxr has one manifest for the library and for the crates of `:dep`. Were they resolved together, a crate that asks for
//! one more feature of something that the library uses too would have the library compiled anew, minutes for which the user
//! waits, under the name of the one that the process of the cells has loaded, which then dies. So this `cargo` builds the
//! cell's crate by a manifest of its own ([`manifest`]), of which the library is no dependency, and hands the library to
//! rustc as it lies there. evcxr's manifest stays what rust-analyzer reads.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use super::{EVCXR_TMPDIR, manifest};

/// The true cargo, in the environment of a session.
const CARGO: &str = "KLAB_CARGO";
/// What `PATH` was before the session's `bin` came first.
const PATH: &str = "KLAB_PATH";
/// In evcxr's folder, once the library is compiled, a link to the folder of [`manifest::shared`].
pub(super) const SHARED: &str = "shared";
/// In evcxr's folder, the folder of the manifest that is built by.
const BUILD: &str = "build";
/// The name of the crate by which evcxr asks whether a `:dep` can be had.
const VALIDATE: &str = "evcxr_dummy_validate_dep";

/// Gives `command`, which runs evcxr, a `bin` of its own in `folder`.
pub(super) fn give(command: &mut Command, folder: &Path) -> Result<()> {
    let path = env::var_os(PATH)
        .or_else(|| env::var_os("PATH"))
        .unwrap_or_default();
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .env("PATH", &path)
        .output()
        .context("rustc does not start: is Rust in PATH?")?;
    let tools = PathBuf::from(String::from_utf8(output.stdout)?.trim()).join("bin");
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    let own = env::current_exe()?;
    for (name, program) in [
        ("cargo", own.clone()),
        // evcxr asks rustup first, which does not know of this `cargo`.
        ("rustup", own),
        ("rustc", tools.join("rustc")),
    ] {
        let link = bin.join(name);
        if link.is_symlink() {
            fs::remove_file(&link)?;
        }
        symlink(program, link)?;
    }
    let paths = std::iter::once(bin).chain(env::split_paths(&path));
    command
        .env("PATH", env::join_paths(paths)?)
        .env(PATH, &path)
        .env(CARGO, tools.join("cargo"));
    Ok(())
}

/// Does the work of `cargo`, if this program was called by a name of a session's `bin`.
pub(crate) fn hook() -> Option<ExitCode> {
    let name = env::args_os().next()?;
    let name = Path::new(&name).file_name()?.to_str()?.to_owned();
    let error = match name.as_str() {
        "cargo" => cargo(),
        "rustup" => rustup(),
        _ => return None,
    };
    Some(error.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    }))
}

fn rustup() -> Result<ExitCode> {
    let words: Vec<_> = env::args_os().skip(1).collect();
    if words.iter().any(|word| word == "which") {
        return Ok(ExitCode::FAILURE);
    }
    let path = env::var_os(PATH).context("called outside of a session")?;
    Err(Command::new("rustup")
        .args(words)
        .env("PATH", path)
        .exec()
        .into())
}

/// One call of evcxr's, which goes on as one of the true cargo.
fn cargo() -> Result<ExitCode> {
    let words: Vec<_> = env::args_os().skip(1).collect();
    let mut cargo = Command::new(env::var_os(CARGO).context("called outside of a session")?);
    if let Some(path) = env::var_os(PATH) {
        cargo.env("PATH", path);
    }
    let folder = env::var_os(EVCXR_TMPDIR).map(PathBuf::from);
    let here = env::current_dir()?;
    let folder = folder.filter(|folder| folder.canonicalize().is_ok_and(|folder| folder == here));
    let (Some(folder), Some(at)) = (folder, words.iter().position(|word| !is_option(word))) else {
        return Err(cargo.args(words).exec().into());
    };
    let (options, rest) = (&words[..at], &words[at + 1..]);
    let shared = fs::read_link(folder.join(SHARED));
    match words[at].to_str() {
        Some("metadata") if is_validation(&folder) => {
            // With the versions of the session, but not in its folder: cargo would leave no others in its lock.
            let validate = folder.join("validate");
            fs::create_dir_all(&validate)?;
            fs::copy(folder.join("Cargo.toml"), validate.join("Cargo.toml"))?;
            let lock = folder.join(BUILD).join("Cargo.lock");
            if lock.exists() {
                fs::copy(lock, validate.join("Cargo.lock"))?;
            }
            cargo.args(options).arg("metadata").args(rest);
            cargo
                .arg("--manifest-path")
                .arg(validate.join("Cargo.toml"));
        }
        Some(word @ ("build" | "check")) => match shared {
            Ok(shared) => build(&mut cargo, word == "check", options, rest, &folder, &shared)?,
            // The library itself is built: the template is made.
            Err(_) => return template(cargo.args(&words), &folder),
        },
        // What cannot be compiled again in the time of a cell is not removed.
        Some("clean") => return Ok(ExitCode::SUCCESS),
        _ => {
            cargo.args(&words);
        }
    }
    Err(cargo.exec().into())
}

fn is_option(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(b"-")
}

fn is_validation(folder: &Path) -> bool {
    fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|manifest| manifest.contains(VALIDATE))
}

/// The call that builds the cell's crate.
fn build(
    cargo: &mut Command,
    check: bool,
    options: &[OsString],
    rest: &[OsString],
    folder: &Path,
    shared: &Path,
) -> Result<()> {
    let build = folder.join(BUILD);
    if !build.is_dir() {
        fs::create_dir(&build)?;
        symlink("../src", build.join("src"))?;
        fs::copy(folder.join("Cargo.lock"), build.join("Cargo.lock"))?;
    }
    let manifest = manifest::of_cells(&fs::read_to_string(folder.join("Cargo.toml"))?, shared)?;
    let path = build.join("Cargo.toml");
    if fs::read_to_string(&path).ok().as_deref() != Some(manifest.as_str()) {
        fs::write(&path, manifest)?;
    }
    let target = rest.iter().skip_while(|word| *word != "--target").nth(1);
    let target = target.context("evcxr names no target")?;
    let library = folder
        .join("target")
        .join(target)
        .join("debug/deps/libprobes.so");
    if !library.exists() {
        bail!("the library of the cells is gone: restart the kernel");
    }
    let mut external = OsString::from("probes=");
    external.push(&library);
    cargo
        .args(options)
        .args(["rustc", "--lib", "--manifest-path"])
        .arg(path);
    if check {
        cargo.args(["--profile", "check"]);
    }
    cargo
        .args(rest)
        .args([OsStr::new("--"), OsStr::new("--extern"), &external]);
    Ok(())
}

/// A build that compiles the library; what it says of each crate is kept for [`manifest::shared`].
fn template(cargo: &mut Command, folder: &Path) -> Result<ExitCode> {
    let output = cargo.stderr(Stdio::inherit()).output()?;
    fs::write(folder.join(manifest::ARTIFACTS), &output.stdout)?;
    std::io::Write::write_all(&mut std::io::stdout(), &output.stdout)?;
    Ok(match output.status.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
