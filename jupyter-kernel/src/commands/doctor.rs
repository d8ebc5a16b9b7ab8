//! `klab doctor`: the parts that are there, the missing ones, and how to get them. It changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use nix::sys::statvfs::statvfs;
use probes::view::{Align::Left, Table, View};
use serde::Serialize;

use super::output::Output;
use super::progress::mib;
use crate::session::{build, program};

/// Cure that brings JupyterLab and drgn.
const SET_UP: &str = "`cargo xtask lab` sets it up; so does klab's wheel";

/// One thing that klab needs or can use.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    cure: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// klab works without it, less well.
    Absent,
    Missing,
}

/// A finding, or what is missing and its cure.
type Found = Result<String, (String, String)>;

/// Checks everything; exit code 1 if something needed is missing.
pub(crate) fn run() -> Result<Output> {
    let cache = vm::paths::cache();
    let under = |path: &str| {
        cache
            .as_ref()
            .map(|cache| cache.join(path))
            .unwrap_or_default()
    };
    let [program, rust_src, library] = cells();
    // All but Rust cells works without what the wheel does not bring.
    let installed = vm::paths::installed().is_some();
    let for_cells = if installed { wanted } else { needed };
    let checks = [
        needed("QEMU", qemu()),
        wanted("KVM", kvm(&under("accel.json"))),
        needed("tools", tools()),
        for_cells("Rust", rust()),
        for_cells("C compiler", cc()),
        needed(
            "guest kernel",
            folders(&under("kernels"), "`klab prepare` fetches it (some 60 MB)"),
        ),
        needed("initramfs", initramfs(&under("initramfs"))),
        needed(
            "ready state",
            folders(
                &under("ready"),
                "`klab prepare` boots a guest once and saves it",
            ),
        ),
        for_cells("klab-cells", program),
        for_cells("rust-src", rust_src),
        for_cells("cell library", library),
        needed("JupyterLab", in_python("bin/jupyter-lab")),
        needed(
            "kernel spec",
            in_python("share/jupyter/kernels/klab/kernel.json"),
        ),
        wanted("drgn", drgn()),
        needed("run folder", room(vm::paths::run(), "KLAB_RUN", 1 << 30)),
        needed(
            "cache folder",
            room(vm::paths::cache(), "KLAB_CACHE", 2 << 30),
        ),
        wanted("guests", guests()),
    ];
    let mut table = Table::new(["", "WHAT", "FOUND", "CURE"].map(|name| (name, Left)));
    for check in &checks {
        let sign = match check.state {
            State::Ok => "ok",
            State::Absent => "-",
            State::Missing => "MISSING",
        };
        table.row([sign, check.name, &check.found, &check.cure]);
    }
    let missing = checks
        .iter()
        .filter(|check| check.state == State::Missing)
        .count();
    table.note(match missing {
        0 => "nothing is missing".to_owned(),
        n if installed => format!("missing: {n}"),
        1 => "1 thing is missing; `cargo xtask lab` gets everything".to_owned(),
        n => format!("{n} things are missing; `cargo xtask lab` gets everything"),
    });
    Ok(Output {
        code: u8::from(missing > 0),
        html: table.html(),
        ..Output::new(table.text(), &checks)?
    })
}

fn needed(name: &'static str, found: Found) -> Check {
    check(name, found, State::Missing)
}

fn wanted(name: &'static str, found: Found) -> Check {
    check(name, found, State::Absent)
}

fn check(name: &'static str, found: Found, otherwise: State) -> Check {
    match found {
        Ok(found) => Check {
            name,
            state: State::Ok,
            found,
            cure: String::new(),
        },
        Err((found, cure)) => Check {
            name,
            state: otherwise,
            found,
            cure,
        },
    }
}

/// The first line that a program prints.
fn first_line(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned(),
    )
}

fn qemu() -> Found {
    const CURE: &str = "sudo apt install qemu-system-x86";
    let line = first_line("qemu-system-x86_64", "--version")
        .ok_or_else(|| ("not installed".to_owned(), CURE.to_owned()))?;
    let version = line
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let mut parts = version
        .unwrap_or_default()
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if number < (7, 2) {
        return Err((
            line,
            format!("7.2 or later is needed: {CURE} on Debian 12 or later"),
        ));
    }
    Ok(line)
}

/// KVM's state: by the trial boots that were made, else by the device.
fn kvm(remembered: &Path) -> Found {
    let without = || "none needed: klab emulates (TCG)".to_owned();
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
        return Err((format!("/dev/kvm: {error}"), without()));
    }
    let trials = fs::read_to_string(remembered).unwrap_or_default();
    match (trials.contains("\"kvm\""), trials.contains("\"tcg\"")) {
        (true, _) => Ok("a guest booted with it".to_owned()),
        (false, true) => Err((
            "/dev/kvm is there, but a guest did not boot with it".to_owned(),
            without(),
        )),
        (false, false) => Ok("/dev/kvm is there; the first boot tries it".to_owned()),
    }
}

fn tools() -> Found {
    let all = [("apt-get", "apt"), ("dpkg-deb", "dpkg")];
    let absent: Vec<_> = all
        .iter()
        .filter(|(tool, _)| first_line(tool, "--version").is_none())
        .collect();
    if absent.is_empty() {
        return Ok(all.map(|(tool, _)| tool).join(", "));
    }
    let names: Vec<&str> = absent.iter().map(|(tool, _)| *tool).collect();
    let packages: Vec<&str> = absent.iter().map(|(_, package)| *package).collect();
    Err((
        format!("no {}", names.join(", ")),
        format!("sudo apt install {}", packages.join(" ")),
    ))
}

fn rust() -> Found {
    first_line("rustc", "--version").ok_or_else(|| {
        (
            "no rustc in PATH".to_owned(),
            "install Rust 1.95 by rustup".to_owned(),
        )
    })
}

fn cc() -> Found {
    first_line("cc", "--version")
        .ok_or_else(|| ("no cc".to_owned(), "sudo apt install gcc".to_owned()))
}

/// The program of the Rust cells, and its report on what it needs.
fn cells() -> [Found; 3] {
    let unknown = || Err(("klab-cells knows".to_owned(), String::new()));
    let path = match program::path() {
        Ok(path) => path.display().to_string(),
        Err(error) => {
            let absent = match build::under_way() {
                Some(far) => (format!("being built: {}", far.trim()), "wait".to_owned()),
                None => ("not built".to_owned(), error.to_string()),
            };
            return [Err(absent), unknown(), unknown()];
        }
    };
    match program::status() {
        Ok(status) => [
            Ok(path),
            status
                .rust_src
                .map_err(|cure| ("not there".to_owned(), cure)),
            status
                .library
                .map_err(|cure| ("not compiled".to_owned(), cure)),
        ],
        Err(error) => [
            Err((format!("{path}: {error:#}"), "build it anew".to_owned())),
            unknown(),
            unknown(),
        ],
    }
}

/// The names of the folders in `path`.
fn folders(path: &Path, cure: &str) -> Found {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    match names.len() {
        0 => Err(("none".to_owned(), cure.to_owned())),
        1..=3 => Ok(names.join(", ")),
        n => Ok(format!(
            "{n}, {} the last",
            names.last().map_or("", String::as_str)
        )),
    }
}

/// The agent, which an initramfs holds.
fn initramfs(path: &Path) -> Found {
    let newest = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let meta = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((meta.modified().ok()?, meta.len()))
        });
    newest
        .max()
        .map(|(_, len)| format!("with the agent, {}", mib(len)))
        .ok_or_else(|| ("none".to_owned(), "`klab prepare` makes it".to_owned()))
}

/// A file of the environment of the Python that has the package `klab`.
fn in_python(file: &str) -> Found {
    let python = python()?;
    // The links to Python's program that make an environment are not followed.
    let path = python.ancestors().nth(2).map(|prefix| prefix.join(file));
    let path = path.unwrap_or_default();
    if path.exists() {
        return Ok(path.display().to_string());
    }
    Err((format!("no {}", path.display()), SET_UP.to_owned()))
}

fn drgn() -> Found {
    let python = python()?;
    let imported = Command::new(&python)
        .args(["-c", "import klab, drgn; print(drgn.__version__)"])
        .output();
    match imported {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout);
            Ok(format!("{} in {}", version.trim(), python.display()))
        }
        _ => Err((
            format!("{} has no package klab", python.display()),
            SET_UP.to_owned(),
        )),
    }
}

fn python() -> Result<PathBuf, (String, String)> {
    probes::drgn::python().map_err(|error| (error.to_string(), SET_UP.to_owned()))
}

fn room(folder: vm::Result<PathBuf>, variable: &str, need: u64) -> Found {
    let folder = folder.map_err(|error| {
        (
            error.to_string(),
            format!("set {variable} to a folder of yours"),
        )
    })?;
    let stat = statvfs(&folder).map_err(|error| {
        (
            format!("{}: {error}", folder.display()),
            format!("set {variable}"),
        )
    })?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    let text = format!("{}, {} GiB free", folder.display(), free >> 30);
    if free < need {
        return Err((
            text,
            format!(
                "free {} there, or set {variable} to a folder with room",
                mib(need)
            ),
        ));
    }
    Ok(text)
}

fn guests() -> Found {
    let all = vm::Machine::list().map_err(|error| (error.to_string(), String::new()))?;
    let names: Vec<String> = all
        .iter()
        .map(|guest| format!("{} ({})", guest.name, guest.state))
        .collect();
    if names.is_empty() {
        Err(("none is up".to_owned(), "`klab up` starts one".to_owned()))
    } else {
        Ok(names.join(", "))
    }
}
