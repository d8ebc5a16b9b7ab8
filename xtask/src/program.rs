//! A program that a stage runs, the meaning of its end, and its second run.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::Path;
use std::process::Stdio;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::failures::Failures;
use crate::guests::Guests;
use crate::paths::Paths;
use crate::process::tied;
use crate::stages::Stage;
use crate::tally::Tally;

/// Lines of a program that failed without a failed test that are said again at the end of all.
const LAST_WORDS: usize = 60;
/// Most failed tests that are run again: more are no chance.
const MOST_AGAIN: u64 = 3;
/// Seconds after which a program of a stage is ended, and counts as failed.
const LIMIT: &str = "2700";
/// The same, in seconds, for a stage that is named to be run: a soak of an hour is one of them.
const LIMIT_OF_NAMED: &str = "5400";

/// A program, and how its tests are counted.
pub(crate) struct Program {
    pub(crate) words: Vec<OsString>,
    pub(crate) kind: Kind,
}

/// Way in which a program counts its tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing: it is one test itself.
    Check,
    /// As cargo prints it.
    Cargo,
    /// As pytest and `run.py` print it. The words behind the first so many are the files.
    Files(usize),
}

/// One run of a program.
struct Ran {
    tally: Tally,
    /// Count of the runner itself.
    counted: Tally,
    failures: Failures,
    last: VecDeque<String>,
}

impl Program {
    /// Runs it, shows its output, and counts. If few of its tests fail, those are run once more by themselves; the ones that
    /// pass then are counted as such. The lines name what failed.
    pub(crate) fn run(
        &self,
        paths: &Paths,
        guests: &Guests,
        stage: &Stage,
    ) -> Result<(Tally, Vec<String>)> {
        let first = self.once(paths, guests, stage)?;
        let (tally, names) = (first.tally, &first.failures.names);
        if tally.failed == 0 {
            return Ok((tally, Vec::new()));
        }
        let mut said = first.failures.said(stage.name);
        if names.is_empty() {
            said.push(format!("==> {}: the last that was said", stage.name));
            said.extend(first.last);
        }
        // A program that died, or was ended, does not say what else would have failed.
        let whole = first.failures.open == 0 && first.counted.failed == names.len() as u64;
        if !whole || tally.failed > MOST_AGAIN {
            return Ok((tally, said));
        }
        println!("==> {}: {} again", stage.name, tally.failed);
        let second = Self {
            words: self.only(names.iter().map(String::as_str)),
            kind: self.kind,
        };
        let second = second.once(paths, guests, stage)?;
        said.extend(second.failures.said(&format!("{}, again", stage.name)));
        let passed = second.tally.passed.min(tally.failed);
        said.push(format!(
            "{}: {passed} of {} passed when run again",
            stage.name, tally.failed
        ));
        Ok((
            tally.passed_again(if second.tally.failed == 0 { passed } else { 0 }),
            said,
        ))
    }

    /// Its arguments to run these tests only.
    fn only<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<OsString> {
        let (words, between): (&[OsString], &[&str]) = match self.kind {
            Kind::Check => (&self.words, &[]),
            Kind::Cargo => (&self.words, &["--", "--exact"]),
            Kind::Files(before) => (&self.words[..before], &[]),
        };
        let mut words = words.to_vec();
        words.extend(between.iter().map(OsString::from));
        words.extend(names.map(|name| match name.ends_with(".md") {
            true => OsString::from(format!("notebooks/{name}")),
            false => name.into(),
        }));
        words
    }

    fn once(&self, paths: &Paths, guests: &Guests, stage: &Stage) -> Result<Ran> {
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
            .env("KLAB_WHEEL", paths.wheel())
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
        let mut failures = Failures::default();
        let mut last = VecDeque::new();
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            match stage.alone {
                true => println!("{line}"),
                // Another stage's lines stand between.
                false => println!("{:<10} {line}", stage.name),
            }
            if self.kind != Kind::Check {
                failures.line(&line);
                counted += Tally::parse(&line).unwrap_or_default();
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
        Ok(Ran {
            tally: verdict(self.kind, counted, status.success()),
            counted,
            failures,
            last,
        })
    }
}

/// Judges a program's end: one that fails without a failed test, or runs no test, failed.
fn verdict(kind: Kind, counted: Tally, success: bool) -> Tally {
    let mut tally = match kind {
        Kind::Check => Tally::one(success),
        Kind::Cargo | Kind::Files(_) => counted,
    };
    if tally.failed == 0 && (!success || tally.passed == 0) {
        tally.failed = 1;
    }
    tally
}

pub(crate) fn check(words: &[&str]) -> Program {
    cargo(words, Kind::Check)
}

pub(crate) fn tests(words: &[&str]) -> Program {
    cargo(words, Kind::Cargo)
}

fn cargo(words: &[&str], kind: Kind) -> Program {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let words = std::iter::once(program)
        .chain(words.iter().map(OsString::from))
        .collect();
    Program { words, kind }
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
    words.extend(["-m", "pytest", "-q", "-rsfE", "-p", "no:cacheprovider"].map(OsString::from));
    let kind = Kind::Files(words.len());
    words.append(&mut files);
    Ok(Program { words, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_of_the_failed_alone() {
        let of = |program: &Program, name| -> Vec<String> {
            let words = program.only(std::iter::once(name)).into_iter();
            words
                .skip(1)
                .map(|word| word.into_string().unwrap())
                .collect()
        };
        let cargo = tests(&["test", "--test", "live"]);
        assert_eq!(
            of(&cargo, "a::b"),
            ["test", "--test", "live", "--", "--exact", "a::b"]
        );
        let files = Program {
            words: ["python", "-q", "a.py", "b.py"].map(OsString::from).into(),
            kind: Kind::Files(2),
        };
        assert_eq!(of(&files, "a.py::x"), ["-q", "a.py::x"]);
        assert_eq!(of(&files, "01-a.md"), ["-q", "notebooks/01-a.md"]);
    }

    #[test]
    fn what_did_not_run_failed() {
        let counted = |passed, failed| Tally {
            passed,
            failed,
            ..Tally::default()
        };
        assert_eq!(verdict(Kind::Cargo, counted(3, 0), true), counted(3, 0));
        assert_eq!(verdict(Kind::Cargo, counted(3, 1), false), counted(3, 1));
        assert_eq!(
            verdict(Kind::Cargo, counted(3, 0), false),
            counted(3, 1),
            "a crash after its tests"
        );
        assert_eq!(
            verdict(Kind::Cargo, counted(0, 0), true),
            counted(0, 1),
            "no test ran"
        );
        assert_eq!(verdict(Kind::Check, counted(0, 0), true), counted(1, 0));
        assert_eq!(verdict(Kind::Check, counted(0, 0), false), counted(0, 1));
    }
}
