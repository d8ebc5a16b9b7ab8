//! A cell's crate compiled without cargo.
//!
//! cargo takes as long to see that nothing has changed as rustc takes for a cell. So the call of rustc that cargo makes for
//! the cell's crate is written down ([`hook`]), and made again for the next cell ([`again`]) while the manifest and the flags
//! are the same.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::cargo::{self, BIN, TOOLS};
use super::compiled::Cell;

/// The name in a session's `bin` by which cargo calls this program for rustc.
pub(super) const NAME: &str = "rustc-of-cells";
/// The file that the call is written to, in the folder of the manifest.
const CALL: &str = "rustc.json";
/// Variable with the words of the call of cargo, in the environment of rustc.
const KEY: &str = "KLAB_RUSTC_KEY";
/// evcxr's variable for the file that names the compiled cell.
pub(super) const PLACE: &str = "EVCXR_EXECUTION_SO_PATH";
/// The loader's variable, which cargo sets for procedural macros.
const LIBRARIES: &str = "LD_LIBRARY_PATH";
/// Variable with the pipe by which cargo counts parallel processes: it ends with that cargo.
const JOBS: &str = "CARGO_MAKEFLAGS";
/// The target of the cells.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Stands for evcxr's folder in a call: a session's is a copy of the template's.
const FOLDER: &str = "\u{1}";

/// A call of rustc for the cell's crate.
#[derive(Serialize, Deserialize)]
struct Call {
    key: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

/// Everything that a call depends on: the manifest, the words of evcxr's call of cargo, the flags in the environment,
/// and what the user's configuration of cargo says now.
pub(super) fn key(manifest: &str, words: &[OsString], flags: &OsStr) -> String {
    let configuration = cargo::home().map(|home| configuration(&home));
    format!("{manifest}\n{words:?}\n{flags:?}\n{configuration:?}")
}

/// The texts of cargo's files, of which as a rule there is none.
fn configuration(home: &Path) -> [Option<String>; 2] {
    ["config.toml", "config"].map(|name| fs::read_to_string(home.join(name)).ok())
}

/// Has `cargo` call rustc by [`NAME`], which writes the call down.
pub(super) fn note(cargo: &mut Command, key: &str) -> Result<()> {
    let bin = env::var_os(BIN).context("called outside of a session")?;
    cargo.env("RUSTC", Path::new(&bin).join(NAME)).env(KEY, key);
    Ok(())
}

/// Writes a call for a cell's crate down, and goes on as rustc.
pub(super) fn hook() -> Result<ExitCode> {
    use std::os::unix::process::CommandExt as _;

    let args: Vec<_> = env::args_os().skip(1).collect();
    // Without it the next cell is compiled by way of cargo.
    let _ = write(&args);
    let tools = env::var_os(TOOLS).context("called outside of a session")?;
    let rustc = Path::new(&tools).join("rustc");
    Err(Command::new(rustc).args(args).exec().into())
}

fn write(args: &[OsString]) -> Option<()> {
    let key = env::var(KEY).ok()?;
    let args: Option<Vec<_>> = args.iter().map(|arg| arg.to_str()).collect();
    let args = args?;
    let has = |first: &str, second: &str| args.windows(2).any(|pair| pair == [first, second]);
    // A check has no place for what it compiles.
    let links = args
        .iter()
        .any(|arg| arg.starts_with("--emit=") && arg.contains("link"));
    if !has("--crate-name", "ctx") || !links {
        return None;
    }
    // Here is the folder of the manifest, in evcxr's.
    let build = env::current_dir().ok()?;
    let folder = build.parent()?.to_str()?;
    let of_folder = |text: &str| text.replace(folder, FOLDER);
    let of_cargo = |name: &str| name.starts_with("CARGO") && name != JOBS || name == LIBRARIES;
    let call = Call {
        key,
        args: args.iter().map(|arg| of_folder(arg)).collect(),
        env: env::vars()
            .filter(|(name, _)| of_cargo(name))
            .map(|(name, value)| (name, of_folder(&value)))
            .collect(),
    };
    let new = build.join(format!("{CALL}.{}", std::process::id()));
    fs::write(&new, serde_json::to_vec(&call).ok()?).ok()?;
    fs::rename(new, build.join(CALL)).ok()
}

/// The call that compiles the cell in `folder`, if it is known; `place` is the file in which evcxr looks for the path of what it makes, `evcxr` its call of
/// cargo, whose environment is the compiler's. It says on
/// stderr what cargo would say on stdout, which evcxr reads alike.
pub(super) fn again(
    folder: &Path,
    build: &Path,
    key: &str,
    place: &Path,
    evcxr: &Command,
) -> Option<Cell> {
    let call: Call = serde_json::from_slice(&fs::read(build.join(CALL)).ok()?).ok()?;
    if call.key != key {
        return None;
    }
    let folder = folder.to_str()?;
    let here = |text: &str| text.replace(FOLDER, folder);
    let args: Vec<_> = call.args.iter().map(|arg| here(arg)).collect();
    let to = args.iter().skip_while(|arg| *arg != "--out-dir").nth(1)?;
    let library = format!("{to}/libctx.so");
    fs::write(place, &library).ok()?;
    let rustc = PathBuf::from(env::var_os(TOOLS)?).join("rustc");
    let linker = linker(&args);
    let command = |args: &[String]| {
        let mut command = Command::new(&rustc);
        for (name, value) in evcxr.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
            .args(args)
            .envs(call.env.iter().map(|(name, value)| (name, here(value))))
            .current_dir(build);
        command
    };
    let object = linker.as_ref().and_then(|_| object(&args));
    let mut whole = command(&args);
    whole.args(linker);
    Some(Cell {
        rustc: whole,
        object: object.map(|object| (command(&object), format!("{to}/ctx.o").into())),
        call: format!("{:?}\n{:?}", call.args, call.env),
        library: library.into(),
    })
}

/// The arguments of a call that makes one object instead of a library; `None` where they are not as they were when [`super::link`] was written.
fn object(args: &[String]) -> Option<Vec<String>> {
    const EMIT: &str = "--emit=dep-info,link";
    let has = |wanted: &str| args.iter().any(|arg| arg == wanted);
    let known = [EMIT, "codegen-units=1", TARGET, "-Cprefer-dynamic"];
    let object = |arg: &String| match arg == EMIT {
        true => "--emit=obj".to_owned(),
        false => arg.clone(),
    };
    known
        .iter()
        .all(|word| has(word))
        .then(|| args.iter().map(object).collect())
}

/// The libraries of Rust.
pub(super) fn libraries() -> Option<PathBuf> {
    let bin = PathBuf::from(env::var_os(TOOLS)?);
    Some(bin.parent()?.join("lib/rustlib").join(TARGET).join("lib"))
}

/// The argument that names the linker by its path, where the user's configuration names none: rustc tries `cc` in each folder of `PATH`, by
/// starting it, which takes 1 to 3 ms.
fn linker(args: &[String]) -> Option<String> {
    let is_told = args.iter().any(|arg| {
        let option = ["-C", "--codegen="]
            .iter()
            .find_map(|flag| arg.strip_prefix(flag));
        option.unwrap_or(arg).starts_with("linker")
    });
    let path = env::var_os("PATH")?;
    let mut cc = env::split_paths(&path).map(|folder| folder.join("cc"));
    let runs = |file: &PathBuf| {
        let mode = fs::metadata(file).map(|facts| facts.permissions().mode());
        file.is_file() && mode.is_ok_and(|mode| mode & 0o111 != 0)
    };
    let cc = cc.find(|cc| cc.is_absolute() && runs(cc))?;
    (!is_told).then(|| format!("-Clinker={}", cc.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linker_that_the_user_chose_stays() {
        let args = |told: &[&str]| told.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
        for told in [
            &["-C", "linker=clang"][..],
            &["-Clinker=clang"],
            &["--codegen=linker=clang"],
            &["-C", "linker-flavor=ld"],
        ] {
            assert_eq!(linker(&args(told)), None, "{told:?}");
        }
        let found = linker(&args(&["-C", "opt-level=2"]));
        assert!(found.is_some_and(|found| found.ends_with("/cc")));
    }

    #[test]
    fn what_the_user_configures_is_seen_at_the_next_cell() {
        let home = tempfile::tempdir().unwrap();
        let before = configuration(home.path());
        fs::write(home.path().join("config.toml"), "[build]\n").unwrap();
        assert_ne!(configuration(home.path()), before);
    }
}
