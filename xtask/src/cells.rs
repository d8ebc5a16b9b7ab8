//! The program of the Rust cells and the library that they link: minutes of compiling, which `%` lines do not need.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::board::Board;
use crate::lab::{cargo, sources, units};
use crate::paths::Paths;
use crate::process::{Job, plain, tied};
use crate::stamp::Stamp;

/// File in klab's cache: locked while somebody builds; its text is the progress, for a cell that waits.
const BUILD: &str = "cells-build";
/// A build by itself: together with the program `klab` its dependencies would have other features, and be built once more.
const BUILT: &[&str] = &["build", "--locked", "--release", "--package", "klab-cells"];

/// `cargo xtask cells`
pub(crate) fn run() -> Result<ExitCode> {
    ensure(&Board::new(), &Paths::new()?)?;
    Ok(ExitCode::SUCCESS)
}

/// Begins the build behind the lessons, at a lower priority. It can be interrupted, and goes on where it was.
pub(crate) fn begin(paths: &Paths) -> Result<()> {
    let path = paths.logs().join("cells.log");
    let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    plain("nice")
        .args(["-n", "10"])
        .arg(std::env::current_exe()?)
        .arg("cells")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start `nice`")?;
    eprintln!(
        "what Rust cells need is built behind the lessons ({})",
        path.display()
    );
    Ok(())
}

/// Makes the program, and the library that it makes. The program `klab` must be there.
pub(crate) fn ensure(board: &Board, paths: &Paths) -> Result<()> {
    let mut progress = Progress::take(paths)?;
    let cure = "see what it said above, then run this again: it carries on";
    const NAME: &str = "klab-cells";
    board.begin(NAME);
    let stamp = Stamp::new(paths.logs().join("klab-cells.stamp"), sources(&paths.root)?);
    if !stamp.is_set() || !paths.program(NAME).exists() {
        stamp.clear()?;
        let job = Job {
            board,
            name: NAME,
            log: paths.logs().join("klab-cells.log"),
            cure,
        };
        job.run(cargo(paths).args(BUILT), |line| progress.say(units(line)?))?;
        stamp.set()?;
    }
    board.end(NAME, "built");
    const PREPARE: &str = "prepare";
    board.begin(PREPARE);
    let job = Job {
        board,
        name: PREPARE,
        log: paths.logs().join("prepare.log"),
        cure,
    };
    job.run(tied(&paths.program("klab")).arg(PREPARE), |line| {
        progress.say(line.chars().take(70).collect())
    })?;
    board.end(PREPARE, "done");
    Ok(())
}

/// State of the build as a cell that waits can see it. Only one build is under way at a time.
struct Progress(File);

impl Progress {
    fn take(paths: &Paths) -> Result<Self> {
        fs::create_dir_all(&paths.cache)
            .with_context(|| format!("cannot make {}", paths.cache.display()))?;
        let path = paths.cache.join(BUILD);
        let open = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = open.with_context(|| format!("cannot write {}", path.display()))?;
        file.lock()?;
        let mut progress = Self(file);
        progress.say("it begins".to_owned());
        Ok(progress)
    }

    /// Notes the progress; a disk that is full must not stop the build, which may tell so itself.
    fn say(&mut self, text: String) -> Option<String> {
        let written = self.0.set_len(0).and_then(|()| self.0.rewind());
        let _ = written.and_then(|()| writeln!(self.0, "{text}"));
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use super::*;

    #[test]
    fn the_progress_is_there_while_its_builder_is() {
        let mut paths = Paths::new().unwrap();
        paths.cache = std::env::temp_dir().join(format!("xtask-cells-{}", std::process::id()));
        let mut progress = Progress::take(&paths).unwrap();
        progress.say("100/206 crates (salsa)".to_owned());
        progress.say("9/206".to_owned());
        let path = paths.cache.join(BUILD);
        assert_eq!(fs::read_to_string(&path).unwrap(), "9/206\n");
        let reader = File::open(&path).unwrap();
        assert!(matches!(
            reader.try_lock_shared(),
            Err(TryLockError::WouldBlock)
        ));
        drop(progress);
        reader.try_lock_shared().unwrap();
        fs::remove_dir_all(&paths.cache).unwrap();
    }
}
