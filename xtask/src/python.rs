//! The Python environment: JupyterLab and the packages of the tests, at the versions of `xtask/python/requirements.txt`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::board::Board;
use crate::paths::Paths;
use crate::process::{Job, tied};
use crate::stamp::{Key, Stamp};

/// Variables that pip takes from the environment and must not take here: other packages, other places.
const FOREIGN: &[&str] = &[
    "PIP_CONSTRAINT",
    "PIP_FIND_LINKS",
    "PIP_PREFIX",
    "PIP_REQUIREMENT",
    "PIP_TARGET",
    "PIP_USER",
    "PYTHONHOME",
    "PYTHONPATH",
];

/// Makes the environment.
pub(crate) fn ensure(board: &Board, paths: &Paths) -> Result<()> {
    const NAME: &str = "Python";
    board.begin(NAME);
    let venv = paths.venv();
    let lock = paths.python("requirements.txt");
    let python = Command::new("python3")
        .arg("--version")
        .output()
        .context("cannot start python3")?;
    let key = Key::default()
        .value(&python.stdout)
        .value(&venv)
        .file(&lock)?;
    let stamp = Stamp::new(venv.join("klab-stamp"), key);
    if stamp.is_set() {
        board.end(NAME, "present");
        return Ok(());
    }
    // A half-filled environment is not mended but made anew: pip has kept what it downloaded.
    if venv.exists() {
        fs::remove_dir_all(&venv).with_context(|| format!("cannot remove {}", venv.display()))?;
    }
    fs::create_dir_all(&paths.cache)
        .with_context(|| format!("cannot make {}", paths.cache.display()))?;
    let job = Job {
        board,
        name: NAME,
        log: paths.logs().join("python.log"),
        cure: "see whether the network and the disk space are there, then run this again",
    };
    job.run(
        own(tied(Path::new("python3")).args(["-m", "venv"]).arg(&venv)),
        |_| Some("making the environment".to_owned()),
    )?;
    let wanted = fs::read_to_string(&lock)?.matches("==").count();
    let mut progress = Progress::default();
    job.run(
        own(tied(&paths.venv_program("python"))
            .args([
                "-m",
                "pip",
                "install",
                "--require-hashes",
                "--no-deps",
                "--progress-bar",
                "off",
            ])
            .args([
                "--disable-pip-version-check",
                "--retries",
                "10",
                "--cache-dir",
            ])
            .arg(paths.cache.join("pip"))
            .arg("-r")
            .arg(&lock)),
        |line| progress.line(line, wanted),
    )?;
    stamp.set()?;
    board.end(
        NAME,
        &format!("{wanted} packages, {:.0} MB", progress.bytes / 1e6),
    );
    Ok(())
}

/// Removes the variables that would lead pip or Python elsewhere.
pub(crate) fn own(command: &mut Command) -> &mut Command {
    for name in FOREIGN {
        command.env_remove(name);
    }
    command
}

/// Progress of pip, from what it prints.
#[derive(Debug, Default)]
struct Progress {
    packages: usize,
    bytes: f64,
}

impl Progress {
    fn line(&mut self, line: &str, wanted: usize) -> Option<String> {
        let line = line.trim();
        if line.starts_with("Collecting ") {
            self.packages += 1;
        } else if line.starts_with("Downloading ") || line.starts_with("Using cached ") {
            self.bytes += size(line).unwrap_or(0.0);
        } else if line.starts_with("Installing ") {
            return Some(format!("installing {wanted} packages"));
        } else {
            return None;
        }
        Some(format!(
            "{}/{wanted} packages, {:.0} MB",
            self.packages,
            self.bytes / 1e6
        ))
    }
}

/// The bytes in `Downloading x.whl (1.2 MB)`.
fn size(line: &str) -> Option<f64> {
    let (number, unit) = line
        .rsplit_once('(')?
        .1
        .strip_suffix(')')?
        .split_once(' ')?;
    let unit = match unit {
        "bytes" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_tells_how_far_it_is() {
        let mut progress = Progress::default();
        assert_eq!(progress.line("Looking in indexes", 3), None);
        progress.line("Collecting anyio==4.16.0 (from -r r.txt (line 3))", 3);
        let note = progress.line("  Downloading anyio-4.16.0-py3-none-any.whl (134 kB)", 3);
        assert_eq!(note.as_deref(), Some("1/3 packages, 0 MB"));
        let note = progress.line(
            "  Using cached jupyterlab-4.6.6-py3-none-any.whl (12.4 MB)",
            3,
        );
        assert_eq!(note.as_deref(), Some("1/3 packages, 13 MB"));
    }
}
