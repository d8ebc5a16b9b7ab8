//! The `cargo` that evcxr calls: this program, by that name in a session's `bin`.
//!
//! evcxr has one manifest for the library and for the crates of `:dep`. Were they resolved together, a crate that asks for
//! one more feature of something that the library uses too would have the library compiled anew, minutes for which the user
//! waits, under the name of the one that the process of the cells has loaded, which then dies. So this `cargo` builds the
//! cell's crate by a manifest of its own ([`manifest`]), of which the library is no dependency, and hands the library to
//! rustc as it lies there. evcxr's manifest stays what rust-analyzer reads.
//!
//! Once a call of rustc is known for a manifest ([`rustc`]), the next cell needs no cargo, nor this program's copy of it: evcxr asks [`without`] first.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::link::{self, Link};
use super::{EVCXR_TMPDIR, answers, compiled, manifest, rustc, text};

/// The folder of the true cargo and rustc, in the environment of a session.
pub(super) const TOOLS: &str = "KLAB_RUST";
/// The session's `bin`.
pub(super) const BIN: &str = "KLAB_BIN";
/// Variable with the `PATH` from before the session's `bin` came first.
const PATH: &str = "KLAB_PATH";
/// Link in evcxr's folder, once the library is compiled, to the folder of [`manifest::shared`].
pub(super) const SHARED: &str = "shared";
/// Folder in evcxr's, of the manifest that is used for builds.
const BUILD: &str = "build";
/// Text of the cell's crate, in both folders.
const TEXT: &str = "src/lib.rs";
/// File in evcxr's folder, as long as rust-analyzer is to know of no other crate.
const ALONE: &str = "alone";
/// cargo's own folder, in whose `bin` rust-analyzer looks for cargo first; and what it was before.
const HOME: [&str; 2] = ["CARGO_HOME", "KLAB_CARGO_HOME"];
/// Variable with evcxr's and the user's flags for rustc.
const FLAGS: &str = "RUSTFLAGS";
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
        ("rustup", own.clone()),
        (rustc::NAME, own),
        ("rustc", tools.join("rustc")),
    ] {
        let link = bin.join(name);
        if link.is_symlink() {
            fs::remove_file(&link)?;
        }
        symlink(program, link)?;
    }
    let paths = std::iter::once(bin.clone()).chain(env::split_paths(&path));
    command
        .env("PATH", env::join_paths(paths)?)
        .env(PATH, &path)
        .env(BIN, bin)
        .env(TOOLS, tools);
    let [home, before] = HOME;
    if let Some(named) = env::var_os(home) {
        command.env(before, named);
    }
    command.env(home, folder);
    Ok(())
}

/// cargo's own folder, as it is outside of a session.
pub(super) fn home() -> Option<PathBuf> {
    let of_user = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    env::var_os(HOME[1]).map(PathBuf::from).or_else(of_user)
}

/// Gives a process that is not one of evcxr's tools the environment that this program was started in.
pub(super) fn take(command: &mut Command) {
    let [home, before] = HOME;
    match env::var_os(before) {
        Some(named) => command.env(home, named),
        None if env::var_os(BIN).is_some() => command.env_remove(home),
        None => command,
    };
    if let Some(path) = env::var_os(PATH) {
        command.env("PATH", path);
    }
}

/// Does the work of `cargo`, if this program was called by a name of a session's `bin`.
pub(crate) fn hook() -> Option<ExitCode> {
    let name = env::args_os().next()?;
    let name = Path::new(&name).file_name()?.to_str()?.to_owned();
    let error = match name.as_str() {
        "cargo" => cargo(),
        "rustup" => rustup(),
        rustc::NAME => rustc::hook(),
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
    let mut rustup = Command::new("rustup");
    take(&mut rustup);
    Err(rustup.args(words).exec().into())
}

/// Runs one call of evcxr's, which goes on as one of the true cargo.
fn cargo() -> Result<ExitCode> {
    let words: Vec<_> = env::args_os().skip(1).collect();
    let tools = env::var_os(TOOLS).context("called outside of a session")?;
    let mut cargo = Command::new(Path::new(&tools).join("cargo"));
    take(&mut cargo);
    let folder = env::var_os(EVCXR_TMPDIR).map(PathBuf::from);
    let here = env::current_dir()?;
    let folder = folder.filter(|folder| folder.canonicalize().is_ok_and(|folder| folder == here));
    let (Some(folder), Some(at)) = (folder, words.iter().position(|word| !is_option(word))) else {
        return Err(cargo.args(words).exec().into());
    };
    if let Some(answered) = answers::answer(&mut cargo, &words, &folder) {
        return answered;
    }
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
        Some("metadata") if folder.join(ALONE).exists() => return alone(cargo.args(&words)),
        Some(word @ ("build" | "check")) => match shared {
            Ok(shared) => {
                build(&mut cargo, word == "check", options, rest, &folder, &shared)?;
            }
            // The library itself is built: the template is made.
            Err(_) => return template(cargo.args(&words), &folder),
        },
        // A library that cannot be compiled again in the time of a cell is not removed.
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

/// A cell's crate in the folder that it is built in.
struct Cell {
    folder: PathBuf,
    build: PathBuf,
    text: String,
    key: String,
    /// True if it depends on no crate of the user's.
    is_plain: bool,
    /// The library that it links.
    library: PathBuf,
}

impl Cell {
    /// Writes the crate of evcxr's `folder`; `words` are those behind the command, `flags` the user's and evcxr's for rustc.
    fn write(folder: &Path, shared: &Path, words: &[OsString], flags: &OsStr) -> Result<Self> {
        let build = folder.join(BUILD);
        if !build.is_dir() {
            fs::create_dir_all(build.join("src"))?;
            fs::copy(folder.join("Cargo.lock"), build.join("Cargo.lock"))?;
        }
        let text = text::of_cell(&fs::read_to_string(folder.join(TEXT))?);
        fs::write(build.join(TEXT), &text)?;
        let manifest = manifest::of_cells(&fs::read_to_string(folder.join("Cargo.toml"))?, shared)?;
        let is_plain = manifest::is_plain(&manifest);
        let key = rustc::key(&manifest, words, flags);
        let path = build.join("Cargo.toml");
        if fs::read_to_string(&path).ok().as_deref() != Some(manifest.as_str()) {
            fs::write(&path, manifest)?;
        }
        let target = words.iter().skip_while(|word| *word != "--target").nth(1);
        let target = target.context("evcxr names no target")?;
        let library = folder
            .join("target")
            .join(target)
            .join("debug/deps/libprobes.so");
        if !library.exists() {
            bail!("the library of the cells is gone: restart the kernel");
        }
        Ok(Self {
            folder: folder.to_owned(),
            build,
            text,
            key,
            is_plain,
            library,
        })
    }

    /// Compiles it by a call of rustc that is known, without cargo; `place` is where evcxr looks for the path of what it makes.
    fn compile(&self, shared: &Path, place: &Path, evcxr: &Command) -> Option<Output> {
        let mut compile = rustc::again(&self.folder, &self.build, &self.key, place, evcxr)?;
        if text::is_done_once(&self.text) {
            compile.hurry();
        }
        // Crates of the user's may change under the same name.
        let root = shared
            .parent()
            .filter(|_| self.is_plain && !compiled::reads_files(&self.text));
        let kept = root.map(compiled::folder);
        let link = root.filter(|_| link::knows(&self.text)).and_then(|root| {
            let libraries = rustc::libraries()?;
            Link::of(&root.join("stubs"), &libraries)
        });
        compile
            .make(&self.text, kept.as_deref(), link.as_ref())
            .ok()
    }
}

/// Does the work of evcxr's call of cargo for a cell, if that needs no cargo.
pub(crate) fn without(call: &Command) -> Option<Output> {
    let of_call = |name: &str| call.get_envs().find(|(known, _)| *known == name)?.1;
    let words: Vec<_> = call.get_args().map(OsStr::to_owned).collect();
    // Behind `mold -run cargo`, where evcxr has found that.
    let at = words.iter().position(|word| word == "build")?;
    let folder = PathBuf::from(env::var_os(EVCXR_TMPDIR)?);
    let is_here = call.get_current_dir()?.canonicalize().ok()? == folder.canonicalize().ok()?;
    if !is_here {
        return None;
    }
    let shared = fs::read_link(folder.join(SHARED)).ok()?;
    let flags = of_call(FLAGS).unwrap_or_default();
    let place = of_call(rustc::PLACE)?;
    let cell = Cell::write(&folder, &shared, &words[at + 1..], flags).ok()?;
    cell.compile(&shared, Path::new(place), call)
}

/// Makes `cargo` the call that builds the cell's crate.
fn build(
    cargo: &mut Command,
    check: bool,
    options: &[OsString],
    rest: &[OsString],
    folder: &Path,
    shared: &Path,
) -> Result<()> {
    let flags = env::var_os(FLAGS).unwrap_or_default();
    let cell = Cell::write(folder, shared, rest, &flags)?;
    rustc::note(cargo, &cell.key)?;
    let mut external = OsString::from("probes=");
    external.push(&cell.library);
    cargo
        .args(options)
        .args(["rustc", "--lib", "--manifest-path"])
        .arg(cell.build.join("Cargo.toml"));
    if check {
        cargo.args(["--profile", "check"]);
    }
    cargo
        .args(rest)
        .args([OsStr::new("--"), OsStr::new("--extern"), &external])
        // A cell is compiled with all that was defined before it: a warning about that would head its own error.
        .arg("--cap-lints=allow");
    Ok(())
}

/// Says of the cell's crate that it has no dependencies.
fn alone(cargo: &mut Command) -> Result<ExitCode> {
    let output = cargo.arg("--no-deps").stderr(Stdio::inherit()).output()?;
    let mut said: Value = serde_json::from_slice(&output.stdout)?;
    let package = said.pointer_mut("/packages/0");
    let package = package.context("cargo knows no package")?;
    package["dependencies"] = json!([]);
    let id = package["id"].clone();
    let node = json!({"id": id, "dependencies": [], "deps": [], "features": []});
    said["resolve"] = json!({"nodes": [node], "root": id});
    println!("{said}");
    Ok(ExitCode::SUCCESS)
}

/// Has rust-analyzer know of no crate but the cell's, in the folder of this session, or of all that there are.
pub(super) fn hide(folder: &Path, hidden: bool) -> Result<()> {
    let alone = folder.join(ALONE);
    match hidden {
        true => Ok(fs::write(alone, "")?),
        false => Ok(fs::remove_file(alone)?),
    }
}

/// A build that compiles the library; its messages about each crate are kept for [`manifest::shared`].
fn template(cargo: &mut Command, folder: &Path) -> Result<ExitCode> {
    let output = cargo.stderr(Stdio::inherit()).output()?;
    fs::write(folder.join(manifest::ARTIFACTS), &output.stdout)?;
    std::io::Write::write_all(&mut std::io::stdout(), &output.stdout)?;
    Ok(match output.status.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
