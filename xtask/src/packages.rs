//! The system packages: those that are needed, and how missing ones come.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::board::Board;
use crate::paths::Paths;
use crate::process::Job;

/// A system package, and a check that its content is there (from it or from elsewhere).
#[derive(Debug)]
pub(crate) struct Package {
    name: &'static str,
    why: &'static str,
    sign: Sign,
}

#[derive(Debug)]
enum Sign {
    /// A program on the PATH.
    Program(&'static str),
    /// Modules that `python3` can import.
    Modules(&'static str),
}

/// Packages that the lab needs. The guest's own are not here: klab fetches and unpacks them itself.
pub(crate) const LAB: &[Package] = &[
    Package {
        name: "qemu-system-x86",
        why: "runs the guest",
        sign: Sign::Program("qemu-system-x86_64"),
    },
    Package {
        name: "python3",
        why: "runs JupyterLab",
        sign: Sign::Program("python3"),
    },
    Package {
        name: "python3-venv",
        why: "keeps JupyterLab in a folder of its own",
        sign: Sign::Modules("venv, ensurepip"),
    },
];

/// Packages that only the tests need.
pub(crate) const TESTS: &[Package] = &[
    Package {
        name: "pahole",
        why: "reads BTF a second way",
        sign: Sign::Program("pahole"),
    },
    Package {
        name: "tcpdump",
        why: "filters packets a second way",
        sign: Sign::Program("tcpdump"),
    },
    Package {
        name: "makedumpfile",
        why: "reads and compresses klab's dumps",
        sign: Sign::Program("makedumpfile"),
    },
    Package {
        name: "gdb",
        why: "reads klab's dumps",
        sign: Sign::Program("gdb"),
    },
    Package {
        name: "chromium",
        why: "opens JupyterLab as a user does",
        sign: Sign::Program("chromium"),
    },
];

impl Package {
    fn is_there(&self) -> bool {
        match self.sign {
            Sign::Program(name) => on_path(name),
            Sign::Modules(names) => {
                on_path("python3") && quiet("python3", &["-c", &format!("import {names}")])
            }
        }
    }
}

const NAME: &str = "packages";

/// Packages that are to be installed, and the words before the command that does it.
#[derive(Debug)]
pub(crate) struct Missing {
    packages: Vec<&'static Package>,
    prefix: &'static [&'static str],
}

/// Finds those of these packages that are missing. Where they cannot be installed without a password, it fails with the
/// line to run.
pub(crate) fn missing(
    board: &Board,
    packages: impl Iterator<Item = &'static Package>,
) -> Result<Missing> {
    board.begin(NAME);
    let missing: Vec<&'static Package> = packages.filter(|package| !package.is_there()).collect();
    if missing.is_empty() {
        board.end(NAME, "all there");
        return Ok(Missing {
            packages: missing,
            prefix: &[],
        });
    }
    for package in &missing {
        eprintln!("  {:<16} {}", package.name, package.why);
    }
    let names = names(&missing);
    let line = line(&names);
    let prefix: &'static [&'static str] = if quiet("sh", &["-c", "test $(id -u) = 0"]) {
        &[]
    } else if quiet("sudo", &["-n", "true"]) {
        &["sudo", "-n"]
    } else {
        board.end(NAME, "missing");
        bail!(
            "these packages need root: run `sudo apt-get update && sudo {line}`, then this again"
        );
    };
    if !on_path("apt-get") {
        board.end(NAME, "missing");
        bail!(
            "this is no Debian: install what your system calls {}, then run this again",
            names.join(", ")
        );
    }
    Ok(Missing {
        packages: missing,
        prefix,
    })
}

fn names(packages: &[&Package]) -> Vec<&'static str> {
    packages.iter().map(|package| package.name).collect()
}

fn line(names: &[&str]) -> String {
    let names = names.join(" ");
    format!("apt-get install --no-install-recommends {names}")
}

/// Installs them.
pub(crate) fn install(board: &Board, paths: &Paths, missing: &Missing) -> Result<()> {
    if missing.packages.is_empty() {
        return Ok(());
    }
    let names = names(&missing.packages);
    let line = line(&names);
    let job = Job {
        board,
        name: NAME,
        log: paths.logs().join("packages.log"),
        cure: &format!(
            "see whether the network is there and `{line}` works by hand, then run this again"
        ),
    };
    for step in ["update", "install"] {
        let words = [
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-q",
            "-y",
        ];
        let mut words: Vec<&str> = missing.prefix.iter().copied().chain(words).collect();
        words.extend(["-o", "DPkg::Lock::Timeout=300", step]);
        if step == "install" {
            words.push("--no-install-recommends");
            words.extend(&names);
        }
        // Not tied to this program: dpkg killed half-way leaves the machine to be mended by hand.
        job.run(Command::new(words[0]).args(&words[1..]), |line| {
            let said = line.starts_with("Get:")
                || line.starts_with("Setting up")
                || line.starts_with("Unpacking");
            said.then(|| line.chars().take(60).collect())
        })?;
    }
    let absent = missing.packages.iter().find(|package| !package.is_there());
    if let Some(package) = absent {
        board.end(NAME, "missing");
        bail!(
            "apt-get installed {} but what it brings is not there: see PATH",
            package.name
        );
    }
    board.end(NAME, &format!("installed {}", names.join(" ")));
    Ok(())
}

/// Tells whether a program is on the PATH.
pub(crate) fn on_path(name: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| is_program(&folder.join(name)))
    })
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn quiet(program: &str, words: &[&str]) -> bool {
    Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_there_when_what_it_brings_is() {
        let there = |sign| {
            Package {
                name: "p",
                why: "w",
                sign,
            }
            .is_there()
        };
        assert!(there(Sign::Program("sh")));
        assert!(!there(Sign::Program("no-such-program-anywhere")));
        assert!(
            !there(Sign::Program("../../etc/passwd")),
            "a file is no program"
        );
        assert_eq!(there(Sign::Modules("sys, os")), on_path("python3"));
        assert!(!there(Sign::Modules("no_such_module")));
    }
}
