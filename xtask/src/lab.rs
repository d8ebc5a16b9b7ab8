//! `cargo xtask lab`: each step is small, tells its progress, and is skipped when done.

use std::fs::{self, File, TryLockError};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Instant, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};

use crate::board::{Board, time};
use crate::cells;
use crate::drgn;
use crate::packages::{self, Package};
use crate::paths::Paths;
use crate::process::{Job, plain, tied};
use crate::python;
use crate::stamp::{Key, Stamp};

/// Number of lessons that `--headless` executes.
const FIRST: &str = "2";

/// `cargo xtask lab`
#[derive(Debug, Default)]
pub(crate) struct Lab {
    /// Execute lessons instead of opening them.
    pub(crate) headless: bool,
    /// Open no browser.
    pub(crate) no_browser: bool,
}

impl Lab {
    /// Runs the steps.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let began = Instant::now();
        let paths = Paths::new()?;
        let board = Board::new();
        set_up(&board, &paths, packages::LAB.iter())?;
        if self.headless {
            cells::ensure(&board, &paths)?;
            guest(&board, &paths, None)?;
            eprintln!("ready after {}", time(began.elapsed()));
            let status = tied(&paths.venv_program("python"))
                .env("KLAB", paths.program("klab"))
                .arg(paths.python("run.py"))
                .args(["--show", "--first", FIRST, "--save"])
                .arg(paths.target.join("notebooks"))
                .status()?;
            return Ok(if status.success() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        guest(&board, &paths, None)?;
        eprintln!("ready after {}", time(began.elapsed()));
        cells::begin(&paths)?;
        module(&paths);
        let mut klab = plain(paths.program("klab"));
        klab.arg("lab").arg(paths.notebooks());
        if self.no_browser {
            klab.arg("--no-browser");
        }
        Err(anyhow!(klab.exec()).context("cannot start klab"))
    }
}

/// Everything short of a running guest and of what Rust cells need.
pub(crate) fn set_up(
    board: &Board,
    paths: &Paths,
    packages: impl Iterator<Item = &'static Package>,
) -> Result<()> {
    fs::create_dir_all(paths.logs())
        .with_context(|| format!("cannot make {}", paths.logs().display()))?;
    let lock = File::create(paths.logs().join("lock"))?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => {
            bail!("another `cargo xtask` sets things up here: wait for it to end");
        }
        other => other.context("cannot lock the target folder")?,
    }
    let missing = packages::missing(board, packages)?;
    // The build takes both cores for minutes, the downloads take the network: side by side.
    thread::scope(|scope| {
        let fetched = scope.spawn(|| {
            packages::install(board, paths, &missing)?;
            python::ensure(board, paths)
        });
        let built = build(board, paths);
        let fetched = fetched
            .join()
            .unwrap_or_else(|_| bail!("a step of the set-up panicked"));
        built.and(fetched)
    })?;
    drgn::ensure(board, paths)?;
    const NAME: &str = "kernelspec";
    board.begin(NAME);
    let job = Job {
        board,
        name: NAME,
        log: paths.logs().join("kernelspec.log"),
        cure: "see what it said above, then run this again: it carries on",
    };
    let mut kernelspec = tied(&paths.program("klab"));
    kernelspec.arg(NAME).arg("--prefix").arg(paths.venv());
    job.run(&mut kernelspec, |_| None)?;
    board.end(NAME, "done");
    Ok(())
}

/// Begins to build the kernel module behind the first lessons, which do not need it. It can be interrupted, and goes on
/// where it was; if it fails, `klab kmod load` says why when it is wanted.
fn module(paths: &Paths) {
    let Ok(log) = File::create(paths.logs().join("module.log")) else {
        return;
    };
    let Ok(errors) = log.try_clone() else {
        return;
    };
    let klab = paths.program("klab");
    let began = plain("nice")
        .args(["-n", "19"])
        .arg(klab)
        .args(["kmod", "build"])
        .stdin(std::process::Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn();
    if began.is_ok() {
        eprintln!(
            "the kernel module's compilers are made behind the lessons (target/xtask/module.log)"
        );
    }
}

/// The guest that lessons look into, in the user's run folder or in another.
pub(crate) fn guest(board: &Board, paths: &Paths, run: Option<&Path>) -> Result<()> {
    const NAME: &str = "guest";
    board.begin(NAME);
    let klab = || {
        let mut command = plain(paths.program("klab"));
        command.envs(run.map(|run| ("KLAB_RUN", run)));
        command
    };
    let status = klab().args(["status", "default", "--json"]).output()?;
    if status.status.success() {
        board.end(NAME, "already up");
        return Ok(());
    }
    let job = Job {
        board,
        name: NAME,
        log: paths.logs().join("guest.log"),
        cure: "`klab doctor` says what is missing",
    };
    job.run(klab().arg("up"), |line| {
        Some(line.chars().take(70).collect())
    })?;
    board.end(NAME, "up");
    Ok(())
}

/// The program and the native half of the Python package: they share one build of `probes`, so one call of cargo builds
/// them, else each would want other features of its dependencies. The program's are not changed by the package's.
const BUILT: &[&str] = &[
    "build",
    "--locked",
    "--release",
    "--package",
    "klab",
    "--package",
    "klab-drgn",
];

/// Builds the klab program, if a source changed since it was built.
fn build(board: &Board, paths: &Paths) -> Result<()> {
    const NAME: &str = "klab";
    board.begin(NAME);
    let stamp = Stamp::new(paths.logs().join("klab.stamp"), sources(&paths.root)?);
    if stamp.is_set() && paths.program("klab").exists() {
        board.end(NAME, "built");
        return Ok(());
    }
    stamp.clear()?;
    let job = Job {
        board,
        name: NAME,
        log: paths.logs().join("klab.log"),
        cure: "see the compiler's words above; Rust 1.95, a C compiler and about 3 GB of disk are needed",
    };
    job.run(cargo(paths).args(BUILT), units)?;
    stamp.set()?;
    board.end(NAME, "built");
    Ok(())
}

/// A cargo that dies with this program, builds where this program was built, and tells its progress.
pub(crate) fn cargo(paths: &Paths) -> Command {
    let mut command = tied(Path::new(option_env!("CARGO").unwrap_or("cargo")));
    command
        .current_dir(&paths.root)
        .env("CARGO_TARGET_DIR", &paths.target)
        .env("CARGO_TERM_PROGRESS_WHEN", "always")
        .env("CARGO_TERM_PROGRESS_WIDTH", "80");
    command
}

/// `214/361 crates` from cargo's `Building [====> ] 214/361: a, b`.
pub(crate) fn units(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some((_, rest)) = line.strip_prefix("Building [")?.split_once(']') {
        let (count, crates) = rest.trim().split_once(':')?;
        let crates: String = crates.trim().chars().take(30).collect();
        return Some(format!("{count} crates ({crates})"));
    }
    None
}

/// All that the build of klab depends on, by path, size and time. Its tests do not count: they gather byte code.
pub(crate) fn sources(root: &Path) -> Result<Key> {
    let mut files = Vec::new();
    for name in [
        "Cargo.toml",
        "Cargo.lock",
        ".cargo",
        "jupyter-kernel",
        "probes",
        "vm",
        "kmod/bytes.rs",
        "kmod/call.rs",
        "kmod/filter.rs",
        "kmod/ring.rs",
    ] {
        list(&root.join(name), &mut files)?;
    }
    files.sort();
    Ok(Key::default().value(files))
}

fn list(path: &Path, files: &mut Vec<(std::path::PathBuf, u64, u128)>) -> Result<()> {
    let meta = path
        .symlink_metadata()
        .with_context(|| format!("cannot see {}", path.display()))?;
    if path.ends_with("tests") || path.ends_with("fuzz") {
        return Ok(());
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            list(&entry?.path(), files)?;
        }
    } else {
        let time = meta
            .modified()?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        files.push((path.to_owned(), meta.len(), time.as_nanos()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_tells_how_far_it_is() {
        let note = units("    Building [=====>        ] 214/361: ra_ap_hir, klab(bin)");
        assert_eq!(
            note.as_deref(),
            Some("214/361 crates (ra_ap_hir, klab(bin))")
        );
        assert_eq!(units("   Compiling libc v0.2.189"), None);
    }

    #[test]
    fn a_touched_source_changes_the_key() {
        let paths = Paths::new().unwrap();
        let before = sources(&paths.root).unwrap().finish();
        assert_eq!(before, sources(&paths.root).unwrap().finish());
        let mut files = Vec::new();
        list(&paths.root.join("probes"), &mut files).unwrap();
        assert!(
            files
                .iter()
                .any(|(path, size, _)| path.ends_with("src/lib.rs") && *size > 0)
        );
    }
}
