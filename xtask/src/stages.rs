//! `cargo xtask test`: every test, a line a stage, and a closing line with the real totals.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::board::{Board, time};
use crate::guests::Guests;
use crate::lab;
use crate::packages;
use crate::paths::Paths;
use crate::process::tied;
use crate::tally::Tally;

/// Lines of a failed program that are said again at the end of all.
const LAST_WORDS: usize = 60;
/// After how many seconds a program of a stage is ended, and counts as failed.
const LIMIT: &str = "2700";

/// The crates that build in seconds, by exclusion so that a new one is not forgotten. `klab` pulls in rust-analyzer:
/// it is built once, for release, and never together with these (their features would build it again).
const LIGHT: &[&str] = &["--workspace", "--exclude", "klab", "--exclude", "stock"];
const KLAB: &[&str] = &["--release", "--package", "klab"];

/// The stock REPL and the stock Jupyter kernel, on klab's build of rust-analyzer: with klab among the packages the
/// features that its dependencies are built with stay the same.
const STOCK: &[&str] = &[
    "build",
    "--locked",
    "--release",
    "--package",
    "klab",
    "--package",
    "stock",
    "--package",
    "evcxr_repl",
    "--package",
    "evcxr_jupyter",
    "--bin",
    "evcxr",
    "--bin",
    "evcxr_jupyter",
];

/// The tests of the Jupyter kernel.
const TESTS: &str = "jupyter-kernel/tests";

struct Stage {
    name: &'static str,
    /// Whether it uses what `cargo xtask lab` sets up.
    needs_lab: bool,
    /// Whether it is run where none is named.
    always: bool,
    /// The kernel that its tests boot instead of the default one.
    kernel: Option<&'static str>,
    programs: fn(&Paths) -> Result<Vec<Program>>,
}

struct Program {
    words: Vec<OsString>,
    /// Whether its closing line says how many tests it ran; else it is one test itself.
    counts: bool,
}

/// All stages, the quick ones first.
const STAGES: &[Stage] = &[
    Stage {
        name: "fmt",
        needs_lab: false,
        always: true,
        kernel: None,
        programs: |_| Ok(vec![check(&["fmt", "--all", "--check"])]),
    },
    Stage {
        name: "unit",
        needs_lab: false,
        always: true,
        kernel: None,
        programs: |_| {
            Ok(vec![
                tests(&[&["test", "--no-fail-fast", "--lib", "--bins"], LIGHT].concat()),
                tests(&[&["test", "--no-fail-fast", "--doc"], LIGHT].concat()),
                tests(&[&["test", "--no-fail-fast", "--bins"], KLAB].concat()),
            ])
        },
    },
    Stage {
        name: "clippy",
        needs_lab: false,
        always: true,
        kernel: None,
        programs: |_| {
            let strict = &["--all-targets", "--", "-D", "warnings"];
            Ok(vec![
                check(&[&["clippy"], LIGHT, strict].concat()),
                check(&[&["clippy"], KLAB, strict].concat()),
            ])
        },
    },
    Stage {
        name: "live",
        needs_lab: true,
        always: true,
        kernel: None,
        programs: |_| {
            Ok(vec![tests(
                &[&["test", "--no-fail-fast", "--test", "*"], LIGHT].concat(),
            )])
        },
    },
    Stage {
        name: "drgn",
        needs_lab: true,
        always: true,
        kernel: None,
        programs: |paths| Ok(vec![pytest(paths, "jupyter-kernel/drgn/tests", |_| true)?]),
    },
    Stage {
        name: "layouts",
        needs_lab: true,
        // It fetches a vmlinux with DWARF: some 350 MB.
        always: false,
        kernel: None,
        programs: |paths| {
            Ok(vec![pytest(paths, "jupyter-kernel/drgn/layouts", |_| {
                true
            })?])
        },
    },
    Stage {
        name: "kernel",
        needs_lab: true,
        always: true,
        kernel: None,
        programs: |paths| {
            Ok(vec![pytest(paths, TESTS, |name| {
                !name.starts_with("test_stock")
            })?])
        },
    },
    Stage {
        name: "stock",
        needs_lab: true,
        always: true,
        kernel: None,
        programs: |paths| {
            Ok(vec![
                check(STOCK),
                pytest(paths, TESTS, |name| name.starts_with("test_stock"))?,
            ])
        },
    },
    Stage {
        name: "notebooks",
        needs_lab: true,
        always: true,
        kernel: None,
        programs: |paths| {
            Ok(vec![Program {
                words: vec![
                    paths.venv_program("python").into(),
                    paths.python("run.py").into(),
                    "--save".into(),
                    paths.target.join("notebooks").into(),
                ],
                counts: true,
            }])
        },
    },
];

/// The kernels, a stage each: a name, and perhaps when it is run.
const MATRIX: &str = include_str!("../../vm/src/kernels/matrix.txt");

/// The name of all of them.
const ALL: &str = "matrix";

/// The tests of the readers.
const READERS: &[&str] = &[
    "test",
    "--no-fail-fast",
    "--package",
    "probes",
    "--test",
    "live",
    "default::",
];

/// The tests of the readers on each kernel of the list.
fn matrix() -> impl Iterator<Item = Stage> {
    let lines = MATRIX.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        let kernel = words.next()?;
        Some(Stage {
            name: kernel,
            needs_lab: true,
            always: words.next() == Some("ci"),
            kernel: Some(kernel),
            programs: |_| Ok(vec![tests(READERS)]),
        })
    })
}

impl Stage {
    fn is(&self, name: &str) -> bool {
        self.name == name || (name == ALL && self.kernel.is_some())
    }
}

/// Run the stages of these names, or all that are always run.
pub(crate) fn run(names: &[&str]) -> Result<ExitCode> {
    let kernels: Vec<Stage> = matrix().collect();
    let all = STAGES.iter().chain(&kernels);
    if let Some(name) = names
        .iter()
        .find(|name| !all.clone().any(|stage| stage.is(name)))
    {
        let mut known: Vec<&str> = all.map(|stage| stage.name).collect();
        known.push(ALL);
        bail!("there is no stage {name}: there are {}", known.join(", "));
    }
    let paths = Paths::new()?;
    let stages = all.filter(|stage| match names {
        [] => stage.always,
        names => names.iter().any(|name| stage.is(name)),
    });
    let mut lines = Vec::new();
    let mut last_words = Vec::new();
    let mut total = Tally::default();
    for stale in Guests::stale() {
        stale.end(&paths);
    }
    let guests = Guests::new()?;
    let mut lab = None;
    let mut note = |name: &str, began: Instant, tally: Tally| {
        let line = format!(
            "{name:<20} {:<40} {}",
            tally.to_string(),
            time(began.elapsed())
        );
        println!("==> {line}");
        lines.push(line);
        total += tally;
    };
    for stage in stages {
        if stage.needs_lab && lab.is_none() {
            let began = Instant::now();
            println!("==> set-up");
            let done = set_up(&paths, &guests);
            if let Err(error) = &done {
                println!("set-up failed: {error:#}");
            }
            note("set-up", began, Tally::one(done.is_ok()));
            lab = Some(done.is_ok());
        }
        println!("==> {}", stage.name);
        let began = Instant::now();
        let tally = if stage.needs_lab && lab == Some(false) {
            println!("{} CANNOT RUN: the set-up failed", stage.name);
            Tally::one(false)
        } else {
            let run = stage.run(&paths, &guests, &mut last_words);
            run.unwrap_or_else(|error| {
                println!("{} CANNOT RUN: {error:#}", stage.name);
                Tally::one(false)
            })
        };
        note(stage.name, began, tally);
    }
    let began = Instant::now();
    note("leftovers", began, guests.end(&paths));
    println!();
    // Who sees only the end of a log sees why.
    for line in last_words.iter().chain(&lines) {
        println!("{line}");
    }
    println!("\n{total}");
    Ok(if total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn set_up(paths: &Paths, guests: &Guests) -> Result<()> {
    let board = Board::new();
    let packages = packages::LAB.iter().chain(packages::TESTS);
    lab::set_up(&board, paths, packages)?;
    lab::guest(&board, paths, Some(&guests.run))
}

impl Stage {
    /// `last_words` gets the end of what its failed programs said.
    fn run(&self, paths: &Paths, guests: &Guests, last_words: &mut Vec<String>) -> Result<Tally> {
        let mut tally = Tally::default();
        for program in (self.programs)(paths)? {
            let (counted, said) = program.run(paths, guests, self.kernel)?;
            if counted.failed > 0 {
                last_words.push(format!("==> {}: the last that was said", self.name));
                last_words.extend(said);
                last_words.push(String::new());
            }
            tally += counted;
        }
        Ok(tally)
    }
}

impl Program {
    /// Run it, show what it prints, and count. The lines are its last.
    fn run(
        &self,
        paths: &Paths,
        guests: &Guests,
        kernel: Option<&str>,
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
        let mut command = tied(Path::new("timeout"));
        command
            .args(["--kill-after=10", LIMIT])
            .args(&self.words)
            .current_dir(&paths.root)
            .env("CARGO_TARGET_DIR", &paths.target)
            .env("CARGO_TERM_COLOR", colours)
            .env("KLAB", paths.program("klab"))
            .env("KLAB_RUN", &guests.run)
            .env("EVCXR", paths.program("evcxr"))
            .env("EVCXR_JUPYTER", paths.program("evcxr_jupyter"))
            .envs(kernel.map(|kernel| ("KLAB_TEST_KERNEL", kernel)))
            .stdin(Stdio::null())
            .stdout(input.try_clone()?)
            .stderr(input);
        let mut child = command
            .spawn()
            .context("cannot start `setpriv` and `timeout`")?;
        drop(command);
        let mut counted = Tally::default();
        let mut last = VecDeque::new();
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            io::stdout().write_all(&line)?;
            println!();
            let line = String::from_utf8_lossy(&line).into_owned();
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
            println!("ended after {LIMIT} s");
        }
        Ok((verdict(self.counts, counted, status.success()), last))
    }
}

/// What a program's end means: one that fails without a failed test, or runs no test, failed.
fn verdict(counts: bool, counted: Tally, success: bool) -> Tally {
    let mut tally = if counts { counted } else { Tally::one(success) };
    if tally.failed == 0 && (!success || tally.passed == 0) {
        tally.failed = 1;
    }
    tally
}

fn check(words: &[&str]) -> Program {
    cargo(words, false)
}

fn tests(words: &[&str]) -> Program {
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
fn pytest(paths: &Paths, folder: &str, wanted: impl Fn(&str) -> bool) -> Result<Program> {
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

    #[test]
    fn the_list_of_kernels_has_each_once() {
        let mut names: Vec<&str> = matrix().map(|stage| stage.name).collect();
        assert!(names.len() >= 12 && names.contains(&"6.1-rt"), "{names:?}");
        assert!(matrix().any(|stage| stage.always));
        assert!(matrix().all(|stage| stage.is(ALL)));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn stages_are_known_by_name() {
        assert!(run(&["no-such-stage"]).is_err());
    }
}
