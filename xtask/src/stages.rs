//! `cargo xtask test`: every test, a line a stage, and a closing line with the real totals.

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Result, bail};

use crate::board::Board;
use crate::guests::Guests;
use crate::lane::Lane;
use crate::paths::Paths;
use crate::program::{Kind, Program, check, pytest, tests};
use crate::wheel;

/// The crates that build in seconds, by exclusion so that a new one is not forgotten. `klab-cells` pulls in rust-analyzer:
/// it is built once, for release, and never together with others (their features would build it again). `klab` is tested
/// as it is run.
const LIGHT: &[&str] = &[
    "--workspace",
    "--exclude",
    "klab",
    "--exclude",
    "klab-cells",
    "--exclude",
    "klab-evcxr",
    "--exclude",
    "stock",
];
const KLAB: &[&str] = &["--release", "--package", "klab"];
const CELLS: &[&str] = &["--release", "--package", "klab-cells"];

/// The documentation of the libraries, in which a link that leads nowhere is an error.
const DOC: &[&str] = &[
    "--config",
    "build.rustdocflags=['-Dwarnings']",
    "doc",
    "--no-deps",
];

/// The stock REPL and the stock Jupyter kernel, on klab's build of rust-analyzer: with klab-cells among the packages the
/// features that its dependencies are built with stay the same.
const STOCK: &[&str] = &[
    "build",
    "--locked",
    "--release",
    "--package",
    "klab-cells",
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

/// drgn's own tests, on klab's program.
const SUITE: &str = "jupyter-kernel/drgn/suite";

/// The tests of the Jupyter kernel.
const TESTS: &str = "jupyter-kernel/tests";

/// A stage of the tests.
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    /// True if it uses what `cargo xtask lab` sets up.
    pub(crate) needs_lab: bool,
    /// True if it has the machine for itself: it keeps both cores busy. Of the others, two run at a time.
    pub(crate) alone: bool,
    /// True if it is run when none is named.
    pub(crate) always: bool,
    /// The kernel that its tests boot instead of the default one.
    pub(crate) kernel: Option<&'static str>,
    pub(crate) programs: fn(&Paths) -> Result<Vec<Program>>,
}

/// All stages, the quick ones first.
const STAGES: &[Stage] = &[
    Stage {
        name: "fmt",
        needs_lab: false,
        alone: true,
        always: true,
        kernel: None,
        programs: |_| Ok(vec![check(&["fmt", "--all", "--check"])]),
    },
    Stage {
        name: "unit",
        needs_lab: false,
        alone: true,
        always: true,
        kernel: None,
        programs: |_| {
            Ok(vec![
                tests(&[&["test", "--no-fail-fast", "--lib", "--bins"], LIGHT].concat()),
                tests(&[&["test", "--no-fail-fast", "--doc"], LIGHT].concat()),
                tests(&[&["test", "--no-fail-fast", "--bins"], KLAB].concat()),
                tests(&[&["test", "--no-fail-fast", "--bins"], CELLS].concat()),
            ])
        },
    },
    Stage {
        name: "clippy",
        needs_lab: false,
        alone: true,
        always: true,
        kernel: None,
        programs: |_| {
            let strict = &["--all-targets", "--", "-D", "warnings"];
            Ok(vec![
                check(&[&["clippy"], LIGHT, strict].concat()),
                check(&[&["clippy"], KLAB, strict].concat()),
                check(&[&["clippy"], CELLS, strict].concat()),
            ])
        },
    },
    Stage {
        name: "doc",
        needs_lab: false,
        alone: true,
        always: true,
        kernel: None,
        programs: |_| Ok(vec![check(&[DOC, LIGHT].concat())]),
    },
    Stage {
        name: "live",
        needs_lab: true,
        alone: true,
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
        alone: false,
        always: true,
        kernel: None,
        programs: |paths| Ok(vec![pytest(paths, "jupyter-kernel/drgn/tests", |_| true)?]),
    },
    Stage {
        name: "layouts",
        needs_lab: true,
        alone: false,
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
        name: "drgn-suite",
        needs_lab: true,
        alone: false,
        always: true,
        kernel: None,
        programs: |paths| Ok(vec![pytest(paths, SUITE, |name| name == "test_suite.py")?]),
    },
    Stage {
        name: "drgn-dump",
        needs_lab: true,
        alone: false,
        // As `layouts`.
        always: false,
        kernel: None,
        programs: |paths| {
            Ok(vec![pytest(paths, SUITE, |name| {
                name == "test_beside_dump.py"
            })?])
        },
    },
    Stage {
        name: "soak",
        needs_lab: true,
        alone: true,
        // As long as KLAB_TEST_SOAK says.
        always: false,
        kernel: None,
        programs: |paths| Ok(vec![pytest(paths, "jupyter-kernel/soak", |_| true)?]),
    },
    Stage {
        name: "kernel",
        needs_lab: true,
        alone: false,
        always: true,
        kernel: None,
        programs: |paths| {
            Ok(vec![pytest(paths, TESTS, |name| {
                !name.starts_with("test_stock")
            })?])
        },
    },
    Stage {
        name: "browser",
        needs_lab: true,
        alone: false,
        always: true,
        kernel: None,
        programs: |paths| {
            // The lab itself needs no driver of browsers: its first start is quicker without.
            let driver = Program {
                words: vec![
                    paths.venv_program("python").into(),
                    "-m".into(),
                    "pip".into(),
                    "install".into(),
                    "--quiet".into(),
                    "--disable-pip-version-check".into(),
                    "--require-hashes".into(),
                    "--no-deps".into(),
                    "-r".into(),
                    paths.python("browser.txt").into(),
                ],
                kind: Kind::Check,
            };
            Ok(vec![
                driver,
                pytest(paths, "jupyter-kernel/browser", |_| true)?,
            ])
        },
    },
    Stage {
        name: "stock",
        needs_lab: true,
        alone: false,
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
        name: "wheel",
        needs_lab: true,
        alone: false,
        always: true,
        kernel: None,
        programs: |paths| {
            wheel::build(&Board::new(), paths)?;
            Ok(vec![pytest(paths, "jupyter-kernel/tests/wheel", |_| true)?])
        },
    },
    Stage {
        name: "notebooks",
        needs_lab: true,
        alone: false,
        always: true,
        kernel: None,
        programs: |paths| {
            let words = vec![
                paths.venv_program("python").into(),
                paths.python("run.py").into(),
                "--save".into(),
                paths.target.join("notebooks").into(),
            ];
            let kind = Kind::Files(words.len());
            Ok(vec![Program { words, kind }])
        },
    },
];

/// The kernels, a stage each: a name, and perhaps when it is run.
const MATRIX: &str = include_str!("../../vm/src/kernels/matrix.txt");

/// The name for all of them.
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
            alone: false,
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

/// Runs the stages of these names, or all that are always run.
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
    let (alone, beside): (Vec<&Stage>, Vec<&Stage>) = all
        .clone()
        .filter(|stage| match names {
            [] => stage.always,
            names => names.iter().any(|name| stage.is(name)),
        })
        .partition(|stage| stage.alone);
    for stale in Guests::stale() {
        stale.end(&paths);
    }
    let report = Mutex::default();
    let first = Lane::new(&paths, &report, 0)?;
    let mut lab = None;
    for stage in alone {
        let lab = !stage.needs_lab || *lab.get_or_insert_with(|| first.set_up());
        first.run(stage, lab);
    }
    if !beside.is_empty() {
        let lab = lab.unwrap_or_else(|| first.set_up());
        let second = match beside.len() {
            2.. => Some(Lane::new(&paths, &report, 1)?),
            _ => None,
        };
        let queue = Mutex::new(beside.into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = |lane: &Lane| {
            while let Some(stage) = next() {
                lane.run(stage, lab);
            }
        };
        thread::scope(|scope| {
            if let Some(second) = &second {
                scope.spawn(|| work(second));
            }
            work(&first);
        });
        second.into_iter().for_each(Lane::end);
    }
    first.end();
    let report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!();
    // A reader of the end of a log sees why.
    for line in report.last_words.iter().chain(&report.lines) {
        println!("{line}");
    }
    println!("\n{}", report.total);
    Ok(if report.total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
