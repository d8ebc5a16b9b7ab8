//! Running other programs: watched, logged, and ended with this one.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::board::Board;

/// Number of the last lines of a failed program that its reader sees.
const TAIL: usize = 15;

/// A program, without what `cargo run` put into the environment for this one: a library path with the target folder
/// in it makes cells load the `libprobes.so` that lies there instead of their own.
pub(crate) fn plain(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    if let Some(path) = env::var_os("LD_LIBRARY_PATH") {
        let kept = users_own(&path);
        if kept.is_empty() {
            command.env_remove("LD_LIBRARY_PATH");
        } else {
            command.env("LD_LIBRARY_PATH", kept);
        }
    }
    command
}

/// A program that dies with this one, so that nothing is left running when xtask is killed (`setpriv` is part of
/// util-linux, which every Debian has).
pub(crate) fn tied(program: &Path) -> Command {
    let mut command = plain("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// The library path without the folders of cargo and of the toolchain.
fn users_own(path: &OsStr) -> OsString {
    let target = env::current_exe().ok();
    let target = target
        .as_deref()
        .and_then(|program| program.ancestors().nth(2));
    let kept = env::split_paths(path).filter(|folder| {
        let cargos = target.is_some_and(|target| folder.starts_with(target));
        !cargos && !folder.join("rustlib").is_dir()
    });
    env::join_paths(kept).unwrap_or_default()
}

/// One step's program.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// Board on which it shows its state.
    pub(crate) board: &'a Board,
    /// The step's name on the board.
    pub(crate) name: &'static str,
    /// File that gets all that it prints.
    pub(crate) log: PathBuf,
    /// The cure when it fails.
    pub(crate) cure: &'a str,
}

impl Job<'_> {
    /// Runs it; `read` turns a line that it prints into a note for the board.
    pub(crate) fn run(
        &self,
        command: &mut Command,
        mut read: impl FnMut(&str) -> Option<String> + Send,
    ) -> Result<()> {
        if let Some(folder) = self.log.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let log = File::create(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let program = command.get_program().to_owned();
        let (output, input) = io::pipe()?;
        let mut child = command
            .stdin(std::process::Stdio::null())
            .stdout(input.try_clone()?)
            .stderr(input)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        // The command still holds the pipe's writing ends: without this the reader never sees the end.
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let (status, tail) = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                follow(output, log, |line| {
                    if let Some(note) = read(line) {
                        self.board.note(self.name, note);
                    }
                })
            });
            let status = loop {
                match child.try_wait() {
                    Ok(None) => thread::sleep(Duration::from_millis(50)),
                    Ok(Some(status)) => break Ok(status),
                    Err(error) => break Err(error),
                }
                self.board.tick();
            };
            (status, reader.join().unwrap_or_default())
        });
        if status?.success() {
            return Ok(());
        }
        self.board.end(self.name, "failed");
        for line in &tail {
            eprintln!("    {line}");
        }
        bail!(
            "{} failed: {} (all that it printed: {})",
            self.name,
            self.cure,
            self.log.display()
        )
    }
}

/// Copies the output to the log, hands on each line (a progress bar's `\r` ends one too), returns the last lines.
fn follow(output: impl Read, mut log: File, mut line: impl FnMut(&str)) -> Vec<String> {
    let mut reader = BufReader::new(output);
    let mut tail: Vec<String> = Vec::new();
    let mut rest = Vec::new();
    let mut chunk = [0; 8192];
    // A log on a full disk must not stop the step that may tell so itself.
    while let Ok(count @ 1..) = reader.read(&mut chunk) {
        let _ = log.write_all(&chunk[..count]);
        rest.extend_from_slice(&chunk[..count]);
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let text: Vec<u8> = rest.drain(..=end).collect();
            let text = String::from_utf8_lossy(&text);
            let text = text.trim_end();
            if !text.is_empty() {
                line(text);
                tail.push(text.to_owned());
                if tail.len() > TAIL {
                    tail.remove(0);
                }
            }
        }
    }
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_do_not_find_the_target_folder() {
        let program = env::current_exe().unwrap();
        let deps = program.parent().unwrap();
        let path = env::join_paths([deps, Path::new("/opt/lib"), &deps.join("x")]).unwrap();
        assert_eq!(users_own(&path), OsStr::new("/opt/lib"));
        assert_eq!(users_own(deps.as_os_str()), OsStr::new(""));
    }

    #[test]
    fn progress_bars_are_lines_and_the_tail_is_kept() {
        let path = std::env::temp_dir().join(format!("xtask-follow-{}", std::process::id()));
        let mut seen = Vec::new();
        let text = (0..40).map(|n| format!("{n}\r")).collect::<String>() + "end\n";
        let tail = follow(text.as_bytes(), File::create(&path).unwrap(), |line| {
            seen.push(line.to_owned());
        });
        assert_eq!(seen.len(), 41);
        assert_eq!(tail.len(), TAIL);
        assert_eq!(tail.last().map(String::as_str), Some("end"));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        fs::remove_file(path).unwrap();
    }
}
