//! A program that a stage runs, and what its end means.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::Path;
use std::process::Stdio;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::guests::Guests;
use crate::paths::Paths;
use crate::process::tied;
use crate::stages::Stage;
use crate::tally::Tally;

/// Lines of a failed program that are said again at the end of all.
const LAST_WORDS: usize = 60;
/// After how many seconds a program of a stage is ended, and counts as failed.
const LIMIT: &str = "2700";
/// The same of a stage that is named to be run: a soak of an hour is one of them.
const LIMIT_OF_NAMED: &str = "5400";

/// A program, and how its tests are counted.
pub(crate) struct Program {
    pub(crate) words: Vec<OsString>,
    /// Whether its closing line says how many tests it ran; else it is one test itself.
    pub(crate) counts: bool,
}

impl Program {
    /// Run it, show what it prints, and count. The lines are its last.
    pub(crate) fn run(
        &self,
        paths: &Paths,
        guests: &Guests,
        stage: &Stage,
    ) -> Result<(Tally, VecDeque<String>)> {
        let words: Vec<_> = self
            .words
            .iter()
            .map(|word| word.to_string_lossy())
            .collect();
        println!("$ {}", words.join(" "));
        let (output, input) = io::pipe()?;
        let colours = if io::stdout().is_terminal() {
            "always"
        } else {
            "never"
        };
        let limit = if stage.always { LIMIT } else { LIMIT_OF_NAMED };
        let mut command = tied(Path::new("timeout"));
        command
            .args(["--kill-after=10", limit])
            .args(&self.words)
            .current_dir(&paths.root)
            .env("CARGO_TARGET_DIR", &paths.target)
            .env("CARGO_TERM_COLOR", colours)
            .env("KLAB", paths.program("klab"))
            .env("KLAB_RUN", &guests.run)
            .env("EVCXR", paths.program("evcxr"))
            .env("EVCXR_JUPYTER", paths.program("evcxr_jupyter"))
            .envs(stage.kernel.map(|kernel| ("KLAB_TEST_KERNEL", kernel)))
            .stdin(Stdio::null())
            .stdout(input.try_clone()?)
            .stderr(input);
        if !stage.alone {
            command.env("RUST_TEST_THREADS", "1");
        }
        let mut child = command
            .spawn()
            .context("cannot start `setpriv` and `timeout`")?;
        drop(command);
        let mut counted = Tally::default();
        let mut last = VecDeque::new();
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            match stage.alone {
                true => println!("{line}"),
                // Another stage's lines stand between.
                false => println!("{:<10} {line}", stage.name),
            }
            if self.counts
                && let Some(tally) = Tally::parse(&line)
            {
                counted += tally;
            }
            if last.len() == LAST_WORDS {
                last.pop_front();
            }
            last.push_back(line);
        }
        let status = child.wait()?;
        if status.code() == Some(124) {
            println!("ended after {limit} s");
        }
        Ok((verdict(self.counts, counted, status.success()), last))
    }
}

/// Judges a program's end: one that fails without a failed test, or runs no test, failed.
fn verdict(counts: bool, counted: Tally, success: bool) -> Tally {
    let mut tally = if counts { counted } else { Tally::one(success) };
    if tally.failed == 0 && (!success || tally.passed == 0) {
        tally.failed = 1;
    }
    tally
}

pub(crate) fn check(words: &[&str]) -> Program {
    cargo(words, false)
}

pub(crate) fn tests(words: &[&str]) -> Program {
    cargo(words, true)
}

fn cargo(words: &[&str], counts: bool) -> Program {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let words = std::iter::once(program)
        .chain(words.iter().map(OsString::from))
        .collect();
    Program { words, counts }
}

/// The Python tests in a folder whose file names are `wanted`.
pub(crate) fn pytest(
    paths: &Paths,
    folder: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Program> {
    let folder = paths.root.join(folder);
    let mut files: Vec<OsString> = fs::read_dir(&folder)
        .with_context(|| format!("no tests in {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            name.starts_with("test_") && name.ends_with(".py") && wanted(name)
        })
        .map(OsString::from)
        .collect();
    if files.is_empty() {
        bail!("no such tests in {}", folder.display());
    }
    files.sort();
    let mut words: Vec<OsString> = vec![paths.venv_program("python").into()];
    words.extend(["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"].map(OsString::from));
    words.append(&mut files);
    Ok(Program {
        words,
        counts: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_run_failed() {
        let counted = |passed, failed| Tally {
            passed,
            failed,
            skipped: 0,
        };
        assert_eq!(verdict(true, counted(3, 0), true), counted(3, 0));
        assert_eq!(verdict(true, counted(3, 1), false), counted(3, 1));
        assert_eq!(
            verdict(true, counted(3, 0), false),
            counted(3, 1),
            "a crash after its tests"
        );
        assert_eq!(
            verdict(true, counted(0, 0), true),
            counted(0, 1),
            "no test ran"
        );
        assert_eq!(verdict(false, counted(0, 0), true), counted(1, 0));
        assert_eq!(verdict(false, counted(0, 0), false), counted(0, 1));
    }
}
