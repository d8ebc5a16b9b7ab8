//! The way from a cell's process to its front end, and back.
//!
//! klab's kernel gives the process two Unix sockets: one becomes its stdout, one its stderr. Events
//! travel inside the output stream, so they keep their place among what the cell prints. The stdout
//! socket is also the way back: the kernel says through it what evcxr, at the process's first
//! stdout, is to read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, ThreadId};

use serde::Serialize;

use super::Bundle;
use super::keep;
use super::streams::Streams;
use crate::base::{self, Interrupted};

/// Begins an event in the output stream. No text that people print holds this control character.
const MARK: &str = "\u{1e}klab:";

/// Names the folder of the two sockets `out` and `err`, in the environment of the cell's process.
const CELL: &str = "KLAB_CELL";

/// The thread that runs the cells, once [`start`] reached klab's kernel.
static CELL_THREAD: OnceLock<ThreadId> = OnceLock::new();

/// The ways to the kernel, for a process that goes on with them.
static WAYS: OnceLock<Ways> = OnceLock::new();

#[derive(Debug)]
struct Ways {
    /// Pipe that evcxr writes, and reads.
    commands: File,
    evcxr: File,
    out: UnixStream,
    err: UnixStream,
}

/// Messages from a cell to its front end.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    /// The value of the cell.
    Result { data: &'a Bundle },
    /// Something shown while the cell runs.
    Display {
        id: &'a str,
        update: bool,
        data: &'a Bundle,
    },
    /// The value of the cell is an error.
    Error { evalue: &'a str },
    /// The thread of the cells panics; whether the cell dies of it, evcxr says.
    Panic {
        message: &'a str,
        line: u32,
        file: &'a str,
        interrupted: bool,
    },
    /// The cell reads its stdin.
    Input {},
    /// This process is there if the cell ends the one that runs it.
    Copy { pid: i32 },
    /// It goes on instead.
    Kept {},
    /// All output up to here belongs to cell `cell`.
    End { cell: u64 },
}

/// Tells whether klab's kernel is there to show what is sent.
pub fn has_front() -> bool {
    CELL_THREAD.get().is_some()
}

/// Joins the front end of klab's kernel, if that is what started this process. Called once, by the
/// prelude; without klab's kernel it does nothing.
///
/// # Errors
///
/// If the kernel's sockets cannot be reached.
pub fn start() -> io::Result<()> {
    let Some(folder) = std::env::var_os(CELL).map(PathBuf::from) else {
        return Ok(());
    };
    if CELL_THREAD.set(thread::current().id()).is_err() {
        return Ok(());
    }
    let ways = Ways {
        commands: File::from(io::stdin().as_fd().try_clone_to_owned()?),
        evcxr: File::from(io::stdout().as_fd().try_clone_to_owned()?),
        out: connect(&folder, "out")?,
        err: connect(&folder, "err")?,
    };
    nix::unistd::dup2_stdout(&ways.out)?;
    nix::unistd::dup2_stderr(&ways.err)?;
    base::install()?;
    serve(WAYS.get_or_init(|| ways))
}

/// Goes on as the process of the cells, in a copy of it.
pub(super) fn go_on() -> io::Result<()> {
    base::clear();
    serve(WAYS.get().ok_or(io::ErrorKind::NotConnected)?)
}

/// Begins the threads that listen to the kernel.
fn serve(ways: &'static Ways) -> io::Result<()> {
    let streams = Streams::start(ways.commands.try_clone()?, ways.out.try_clone()?)?;
    let at_panic = Arc::clone(&streams);
    std::panic::set_hook(Box::new(move |info| report_panic(info, &at_panic)));
    thread::Builder::new()
        .name(keep::FRONT_END.to_owned())
        .spawn(move || {
            // The kernel is gone, or broken: nobody would end a cell that runs for ever.
            let _ = obey(ways, &streams);
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        })?;
    Ok(())
}

fn connect(folder: &Path, name: &str) -> io::Result<UnixStream> {
    UnixStream::connect(folder.join(name))
}

/// Does what the kernel says, line by line, until it hangs up.
fn obey(ways: &Ways, streams: &Streams) -> io::Result<()> {
    let (mut evcxr, mut err) = (&ways.evcxr, &ways.err);
    for line in BufReader::new(&ways.out).lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("begin", _) => base::clear(),
            ("pass", text) => writeln!(evcxr, "{text}")?,
            ("input", text) => streams.answer(Some(text)),
            ("eof", _) => streams.answer(None),
            ("forget", _) => streams.forget(),
            ("end", cell) => {
                streams.end();
                keep::end();
                let cell = cell.parse().map_err(|_| io::ErrorKind::InvalidData)?;
                send(&Event::End { cell });
                writeln!(
                    err,
                    "{MARK}{}",
                    serde_json::to_string(&Event::End { cell })?
                )?;
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(())
}

fn report_panic(info: &std::panic::PanicHookInfo<'_>, streams: &Streams) {
    // A write to a closed stdout panics too.
    let interrupted = streams.open() || info.payload().is::<Interrupted>();
    if interrupted {
        base::clear();
        streams.end();
    }
    let message = info.payload_as_str().unwrap_or("(a value that is no text)");
    let (file, line) = info.location().map_or(("", 0), |at| (at.file(), at.line()));
    if CELL_THREAD.get() == Some(&thread::current().id()) {
        send(&Event::Panic {
            message,
            line,
            file,
            interrupted,
        });
    } else {
        let thread = thread::current();
        eprintln!(
            "thread '{}' panicked at {file}:{line}: {message}",
            thread.name().unwrap_or("?")
        );
    }
}

/// A number that no other display of this session has: the kernel outlives this process.
pub(super) fn next_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "klab-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Sends an event. There is nobody to tell if the front end is gone.
pub(super) fn send(event: &Event<'_>) {
    let _ = try_send(event);
}

fn try_send(event: &Event<'_>) -> io::Result<()> {
    let cell = CELL_THREAD.get().is_some();
    let evcxr = std::env::var_os("EVCXR_IS_RUNTIME").is_some();
    // The stdout of a program that only uses this library is that program's: no step and no bar may stand between what it
    // prints itself.
    if !cell && !evcxr && !matches!(event, Event::Result { .. }) {
        let mut stderr = io::stderr().lock();
        return match event {
            Event::Display { data, .. } => writeln!(stderr, "{}", data.plain()),
            Event::Error { evalue } => writeln!(stderr, "error: {evalue}"),
            _ => Ok(()),
        };
    }
    let mut stdout = io::stdout().lock();
    if cell {
        writeln!(stdout, "{MARK}{}", serde_json::to_string(event)?)?;
        return stdout.flush();
    }
    let error;
    let data = match event {
        Event::Result { data } | Event::Display { data, .. } => *data,
        Event::Error { evalue } => {
            error = Bundle::text(format!("error: {evalue}"));
            &error
        }
        Event::Panic { .. }
        | Event::Input {}
        | Event::Copy { .. }
        | Event::Kept {}
        | Event::End { .. } => return Ok(()),
    };
    if evcxr {
        for (mime, data) in data.iter() {
            writeln!(
                stdout,
                "EVCXR_BEGIN_CONTENT {mime}\n{data}\nEVCXR_END_CONTENT"
            )?;
        }
    } else {
        writeln!(stdout, "{}", data.plain())?;
    }
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::{Progress, display};

    /// Set in the process whose streams are looked at: those of this one are the test runner's.
    const ALONE: &str = "KLAB_TEST_STREAMS";

    #[test]
    fn what_a_program_shows_is_not_among_what_it_prints() {
        if std::env::var_os(ALONE).is_some() {
            let shown = display(Bundle::text("a step"));
            shown.update(Bundle::text("another step"));
            Progress::new("a bar", 2).set(1);
            send(&Event::Error { evalue: "a fault" });
            send(&Event::Result {
                data: &Bundle::text("a value"),
            });
            return;
        }
        let name = "cell::front::tests::what_a_program_shows_is_not_among_what_it_prints";
        let test = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(ALONE, "1")
            .env_remove("EVCXR_IS_RUNTIME")
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&test.stdout),
            String::from_utf8_lossy(&test.stderr),
        );
        assert!(test.status.success() && out.contains("a value"), "{out}");
        for text in ["a step", "another step", "a bar", "a fault"] {
            assert!(err.contains(text) && !out.contains(text), "{text}: {out}");
        }
    }
}
