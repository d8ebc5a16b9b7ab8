//! The kernel's end of the sockets that `probes::cell` opens: the stdout and stderr of the process of
//! the cells, and the way back to it.
//!
//! While a cell runs, its output is passed on as it comes. The lines that evcxr waits for go back to the
//! process, which writes them to the pipe that evcxr reads. A cell is over when both streams have said so,
//! so no output is late.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use klab_language::{Bundle, Shown, Stage};
use tempfile::TempDir;

use super::interrupt::Interrupter;
use super::stream::{Event, Piece, Says, Splitter};
use crate::prepare;

/// Time that text on stderr waits for more: the text of a `?` error is the last before the cell's end.
const STDERR_REST: Duration = Duration::from_millis(100);
/// Time that the ends of the streams may take after evcxr says that the cell is over.
const STREAM_END: Duration = Duration::from_secs(2);

/// A cell that has printed more than this, in bytes, may be one that prints without end.
const FLOOD: usize = 1 << 20;
/// Time after which a process that waits for its output to be read is found waiting.
const FULL: Duration = Duration::from_millis(200);

/// Messages of evcxr's child when a signal says that its code is at fault.
const FAULTS: [&str; 3] = ["Segmentation fault.", "Illegal instruction.", "Bus error."];

/// The process's report of the end of a cell.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// The value.
    pub(crate) result: Option<Bundle>,
    /// The value is an error.
    pub(crate) error: Option<String>,
    /// The last panic.
    pub(crate) panic: Option<Panic>,
    /// The panic ended the cell.
    pub(crate) panicked: bool,
    /// A `?` ended the cell.
    pub(crate) question_mark: bool,
    /// The process has died, and a copy of it from before the cell goes on.
    pub(crate) kept: bool,
    /// Its exit status or signal, where that is known.
    pub(crate) status: Option<String>,
    /// The fault that the process died of, as evcxr's handler of it says.
    pub(crate) fault: Option<&'static str>,
    /// Last text on stderr, not passed on.
    pub(crate) stderr: String,
}

/// Place and message of a panic in a cell.
#[derive(Debug)]
pub(crate) struct Panic {
    pub(crate) message: String,
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) interrupted: bool,
}

/// The state that the readers of both streams share.
struct Shared {
    stage: Stage,
    interrupter: Arc<Interrupter>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    cell: u64,
    said: Said,
    /// The way back to the process, while there is one.
    back: Option<UnixStream>,
    /// Number of times that evcxr ran something for this cell, and that stdout and stderr said that it ended.
    runs: usize,
    out_ends: usize,
    err_ends: usize,
    /// Number of the two streams that are open.
    open: usize,
    /// The cell's code has run: a read of stdin is evcxr's.
    over: bool,
    /// evcxr asks the user for the cell, by a way of its own.
    asking: bool,
    /// Number of bytes that the cell has printed.
    printed: usize,
}

/// The two sockets in their folder, and their readers.
pub(crate) struct Front {
    folder: TempDir,
    shared: Arc<Shared>,
}

impl Front {
    /// Makes the sockets. Output of cells goes to `stage`.
    pub(crate) fn new(stage: Stage, interrupter: Arc<Interrupter>) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("klab-cell-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .context("no folder for the sockets of the cells")?;
        prepare::owns(folder.path())?;
        let state = Mutex::default();
        let shared = Arc::new(Shared {
            stage,
            interrupter,
            state,
            changed: Condvar::new(),
        });
        listen(folder.path(), "out", Arc::clone(&shared), read_out)?;
        listen(folder.path(), "err", Arc::clone(&shared), read_err)?;
        Ok(Self { folder, shared })
    }

    /// Goes into the environment of the process as `KLAB_CELL`.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Begins a cell: the process forgets an interrupt that came too late for the last one.
    pub(crate) fn begin(&self) {
        let mut state = self.shared.lock();
        state.cell += 1;
        state.said = Said::default();
        (state.runs, state.out_ends, state.err_ends) = (0, 0, 0);
        (state.over, state.asking, state.printed) = (false, false, 0);
        state.tell("begin");
    }

    /// The user has answered what evcxr asked.
    pub(crate) fn answered(&self) {
        self.shared.lock().asking = false;
    }

    /// Waits until all output of the cell is here, and gives the report on it. `died` means that evcxr
    /// found its child dead.
    pub(crate) fn end(&self, died: bool) -> Said {
        let state = self.shared.lock();
        let (mut state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, STREAM_END, |state| {
                let ended = state.out_ends >= state.runs && state.err_ends >= state.runs;
                state.open > 0 && (died || !ended)
            })
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.said)
    }
}

impl Said {
    /// Takes text from stderr. Behind a fault comes a backtrace of evcxr, which says nothing of the cell.
    fn write(&mut self, text: &str) {
        for line in text.split_inclusive('\n') {
            self.fault = self
                .fault
                .or_else(|| FAULTS.into_iter().find(|fault| *fault == line.trim_end()));
            if self.fault.is_none() {
                self.stderr.push_str(line);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on the text of stderr before that which comes on stdout now.
    fn pass_stderr(&self) {
        let text = std::mem::take(&mut self.lock().said.stderr);
        if !text.is_empty() {
            self.stage.show(Shown::Stderr(text));
        }
    }

    /// A cell that prints without end is stopped where it waits for its output to be read: it is left to wait.
    fn let_it_stop(&self) {
        if self.interrupter.requested() && self.lock().printed > FLOOD {
            self.lock().printed = 0;
            std::thread::sleep(FULL);
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

impl State {
    /// Says a line to the process. One that died is noticed by evcxr.
    fn tell(&mut self, line: &str) {
        if let Some(back) = &mut self.back {
            let _ = back.write_all(format!("{line}\n").as_bytes());
        }
    }
}

/// Serves each process that connects, one after the other: evcxr restarts a child that died.
fn listen(
    folder: &Path,
    name: &str,
    shared: Arc<Shared>,
    read: fn(UnixStream, &Arc<Shared>),
) -> Result<()> {
    let listener = UnixListener::bind(folder.join(name)).context("no socket for the cells")?;
    std::thread::Builder::new()
        .name(format!("cells' {name}"))
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                shared.change(|state| state.open += 1);
                read(stream, &shared);
                shared.change(|state| state.open = state.open.saturating_sub(1));
            }
        })?;
    Ok(())
}

fn read_out(mut stream: UnixStream, shared: &Arc<Shared>) {
    shared.lock().back = stream.try_clone().ok();
    let mut splitter = Splitter::default();
    let mut bytes = vec![0; 0x1_0000];
    while let Ok(length) = stream.read(&mut bytes)
        && length > 0
    {
        shared.lock().printed += length;
        for piece in splitter.push(&bytes[..length]) {
            match piece {
                Piece::Text(text) => {
                    shared.pass_stderr();
                    shared.stage.show(Shown::Stdout(text));
                }
                Piece::Event(Event::Input {}) => ask(shared),
                Piece::Event(Event::Display { id, update, data }) => {
                    shared.pass_stderr();
                    shared.stage.show(Shown::Display {
                        id: Some(id),
                        update,
                        data,
                    });
                }
                Piece::Event(Event::Copy { pid }) => shared.interrupter.copied(pid),
                Piece::Event(event) => {
                    if event == (Event::Kept {}) {
                        let status = shared.interrupter.moved();
                        shared.lock().said.status = status.map(|status| status.to_string());
                    }
                    shared.change(|state| note(state, event));
                }
                Piece::Evcxr { line, says } => {
                    if says == Says::Complete {
                        shared.interrupter.copied(0);
                    }
                    shared.change(|state| pass(state, &line, says));
                }
            }
        }
        shared.let_it_stop();
    }
    shared.interrupter.gone();
    shared.lock().back = None;
}

/// Answers a cell that reads its stdin: with the user's line, or with the end of the file where there is no user.
fn ask(shared: &Arc<Shared>) {
    let mut state = shared.lock();
    if state.over || state.asking {
        return state.tell("forget");
    }
    drop(state);
    let shared = Arc::clone(shared);
    // Text that the cell prints meanwhile is passed on.
    std::thread::spawn(move || {
        let answer = shared.stage.ask("", false);
        shared.lock().tell(&match &answer {
            Some(line) => format!("input {line}"),
            None => "eof".to_owned(),
        });
    });
}

fn note(state: &mut State, event: Event) {
    match event {
        Event::Result { data } => state.said.result = Some(data),
        Event::Error { evalue } => state.said.error = Some(evalue),
        Event::Panic {
            message,
            line,
            file,
            interrupted,
        } => {
            state.said.panic = Some(Panic {
                message,
                file,
                line,
                interrupted,
            });
        }
        Event::Kept {} => state.said.kept = true,
        Event::End { cell } if cell == state.cell => state.out_ends += 1,
        Event::End { .. } | Event::Display { .. } | Event::Input {} | Event::Copy { .. } => {}
    }
}

fn pass(state: &mut State, line: &str, says: Says) {
    match says {
        Says::Panicked => state.said.panicked = true,
        Says::QuestionMark => state.said.question_mark = true,
        Says::Complete => {
            state.runs += 1;
            state.over = true;
            let end = format!("end {}", state.cell);
            state.tell(&end);
        }
        Says::Asks => state.asking = true,
        Says::Else => {}
    }
    state.tell(&format!("pass {line}"));
}

fn read_err(mut stream: UnixStream, shared: &Arc<Shared>) {
    if stream.set_read_timeout(Some(STDERR_REST)).is_err() {
        return;
    }
    let mut splitter = Splitter::default();
    let mut bytes = vec![0; 0x1_0000];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(length) => {
                for piece in splitter.push(&bytes[..length]) {
                    shared.change(|state| match piece {
                        Piece::Text(text) => state.said.write(&text),
                        Piece::Event(Event::End { cell }) if cell == state.cell => {
                            state.err_ends += 1
                        }
                        Piece::Event(_) => {}
                        Piece::Evcxr { line, .. } => state.said.stderr.push_str(&line),
                    });
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                shared.pass_stderr();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
