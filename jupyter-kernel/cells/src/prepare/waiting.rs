//! A rustc that is started before it is needed: its start and the loading of its libraries take a tenth of a cell's time.
//!
//! It waits for its arguments in a file of arguments (`rustc @FILE`) that is its stdin, a pipe from here. The pipe is the lease, too: when this
//! process ends, rustc reads no arguments, and ends.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The file of arguments.
const STDIN: &str = "@/dev/stdin";

static NEXT: Mutex<Option<Waiting>> = Mutex::new(None);

/// Everything of a call but its arguments.
#[derive(Debug, PartialEq, Eq)]
struct Like {
    program: OsString,
    folder: Option<PathBuf>,
    env: Vec<(OsString, Option<OsString>)>,
    /// What it has of this process.
    inherited: Vec<(OsString, OsString)>,
}

#[derive(Debug)]
struct Waiting {
    /// `None` once it has its arguments.
    child: Option<Child>,
    like: Like,
}

impl Like {
    fn of(command: &Command) -> Self {
        Self {
            program: command.get_program().to_owned(),
            folder: command.get_current_dir().map(Into::into),
            env: command
                .get_envs()
                .map(|(name, value)| (name.to_owned(), value.map(Into::into)))
                .collect(),
            inherited: std::env::vars_os().collect(),
        }
    }

    fn start(self) -> io::Result<Waiting> {
        let mut command = Command::new(&self.program);
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let child = command
            .arg(STDIN)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Waiting {
            child: Some(child),
            like: self,
        })
    }
}

impl Waiting {
    /// Gives it its arguments, a line for each; nothing if it is not there any more.
    fn go(mut self, args: &str) -> Option<Child> {
        let mut child = self.child.take()?;
        let given = child.stdin.take()?.write_all(args.as_bytes());
        if given.is_err() {
            let _ = child.wait();
            return None;
        }
        Some(child)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Tells whether a child of this process is the one that waits.
pub(crate) fn waits(pid: i32) -> bool {
    let next = next();
    let child = next.as_ref().and_then(|next| next.child.as_ref());
    child.is_some_and(|child| i32::try_from(child.id()) == Ok(pid))
}

/// Runs a call of rustc, by the one that waits if that was started for such a call, and starts the next one.
pub(super) fn run(mut command: Command) -> io::Result<Output> {
    let like = Like::of(&command);
    let args = command
        .get_args()
        .map(|arg| arg.to_str().filter(|arg| !arg.contains('\n')));
    let args: Option<Vec<_>> = args.collect();
    let args = args.map(|args| args.join("\n"));
    let waiting = next().take().filter(|waiting| waiting.like == like);
    let going = waiting
        .zip(args.as_ref())
        .and_then(|(waiting, args)| waiting.go(args));
    let output = match going.map(Child::wait_with_output) {
        Some(Ok(output)) if !is_none_of_rustcs(&output) => Ok(output),
        _ => command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .and_then(Child::wait_with_output),
    };
    if args.is_some() {
        // The cell does not wait for it; one that does not start is not missed.
        std::thread::spawn(move || {
            // Who asks which child waits is told of it as soon as there is one.
            let mut next = next();
            *next = like.start().ok();
        });
    }
    output
}

/// Tells whether an output is of a process that ended by itself without a word of the compiler's, which are JSON: it was no rustc that waited.
fn is_none_of_rustcs(output: &Output) -> bool {
    let words = output.stderr.split(|byte| *byte == b'\n');
    output.status.code().is_some_and(|code| code != 0)
        && !words.into_iter().any(|line| line.starts_with(b"{"))
}

fn next() -> MutexGuard<'static, Option<Waiting>> {
    NEXT.lock().unwrap_or_else(PoisonError::into_inner)
}
