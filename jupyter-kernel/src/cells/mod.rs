//! The language of klab's cells: `%` lines and `%%` cells are commands, the rest is Rust.

mod advice;
mod code;
mod followed;
mod line;
mod outlet;
mod reader;
mod record;
mod refused;
mod scan;
mod wait;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use klab_protocol::{
    Bundle, Cell, CellError, CodeMirrorMode, Completeness, Completion, Events, Info, Language,
    LanguageInfo, Match, Outcome, Shown, Sink, Stop,
};

use serde_json::{Map, Value};

use crate::commands;
use crate::debugger::{adapter::Adapter, kept};
use crate::session::Session;
use line::{Measure, Parts};
use outlet::Outlets;
use probes::cell::Timing;
use record::Read;

/// First word of a cell of Python.
const PYTHON: &str = "%%drgn";
/// First word of a cell of the guest's shell.
const SHELL: &str = "%%sh";
/// Time that drgn's process may take to describe what is at the cursor.
const PATIENCE: Duration = Duration::from_secs(2);

/// The cells of one kernel.
#[derive(Debug)]
pub(crate) struct Cells {
    session: Session,
    outlets: Outlets,
    guest: reader::Own,
    views: record::Views,
    debugger: Adapter,
}

impl Cells {
    /// Starts to get the session ready. Its messages before the first cell go to `background`.
    ///
    /// # Errors
    ///
    /// If the machine refuses a thread or a socket.
    pub(crate) fn start(background: Sink) -> Result<Self> {
        let session = Session::start(background)?;
        let outlets = Outlets::start(vm::paths::cache()?.join("outputs"))?;
        Ok(Self {
            session,
            outlets,
            guest: reader::Own::default(),
            views: record::Views::default(),
            debugger: Adapter::new(|| commands::attached(&commands::default_guest())),
        })
    }
}

impl Cells {
    fn run(&self, cell: Cell) -> Outcome {
        let parts = Parts::of(&cell.code);
        let mut value = None;
        let show = |value: Option<Bundle>| {
            if let Some(data) = value {
                (cell.show)(Shown::value(data));
            }
        };
        for (line, body) in &parts.commands {
            show(value.take());
            if commands::is_variables(line) {
                value = self.variables(&cell.show, &cell.stop)?;
                continue;
            }
            let read = Read::Line(line.clone());
            let begun = (!cell.quiet).then(|| read.begin()).flatten();
            let data = line::run(line, body, &cell.stop, &cell.show)?;
            value = Some(data).filter(|data| !data.is_empty());
            if let Some(begun) = begun
                && let Some(data) = value.take()
            {
                self.views.keep(begun, read, data, &cell.show);
            }
        }
        let Some(rust) = parts.rust else {
            return Ok(value);
        };
        show(value);
        if let Some((what, at)) = code::fault(&rust) {
            return Err(advice::with(refused::refused(&what, &rust, at), &rust));
        }
        let foot = |outcome: Outcome| {
            if let Ok(Some(_)) = &outcome
                && let Some(foot) = commands::foot(&commands::default_guest())
            {
                (cell.show)(Shown::Stderr(foot));
            }
            outcome
        };
        let read = Read::Reader(rust.clone());
        let begun = (!cell.quiet).then(|| read.begin()).flatten();
        if let Some(value) = self.guest.answer(&rust) {
            let Some(begun) = begun else {
                return foot(Ok(Some(value)));
            };
            self.views.keep(begun, read, value, &cell.show);
            return Ok(None);
        }
        if let Some(note) = code::begins_anew(&rust) {
            (cell.show)(Shown::Stderr(note));
        }
        let rust = code::ended(rust);
        let waiting = wait::blocking(&rust);
        let text = rust.clone();
        let show = Arc::clone(&cell.show);
        let outcome = self
            .session
            .execute(rust, waiting, show, cell.input, &cell.stop);
        foot(outcome).map_err(|error| advice::with(error.in_words(commands::in_a_cell), &text))
    }

    /// Runs a cell many times, and shows its time instead of its output.
    fn run_often(&self, cell: Cell) -> Outcome {
        let parts = Parts::of(&cell.code);
        if let Some((what, at)) = parts.rust.as_deref().and_then(code::fault) {
            return Err(refused::refused(&what, &cell.code, at));
        }
        match (parts.commands.as_slice(), parts.rust) {
            ([], Some(rust)) => self.run(Cell {
                code: line::often(&rust),
                ..cell
            }),
            (lines @ [_, ..], None) => {
                let mut timing = Timing::default();
                let nowhere: Sink = Arc::new(|_| {});
                while let Some(runs) = timing.round() {
                    for (line, body) in (0..runs).flat_map(|_| lines) {
                        line::run(line, body, &cell.stop, &nowhere)?;
                        if cell.stop.load(Ordering::Relaxed) {
                            return Err(CellError::new("Interrupted", "the cell was stopped"));
                        }
                    }
                }
                (cell.show)(Shown::Stdout(format!("{timing}\n")));
                Ok(None)
            }
            _ => Err(CellError::new(
                "Error",
                "`%timeit` takes `%` lines or Rust: `%timeit %ps`, `%timeit guest.tasks()?`",
            )),
        }
    }

    /// The variables of the cells, with their types.
    fn variables(&self, show: &Sink, stop: &Stop) -> Outcome {
        let nobody = Box::new(|_: &str, _| None);
        let listed = ":vars".to_owned();
        let found = self
            .session
            .execute(listed, None, Arc::clone(show), nobody, stop)?;
        let is_empty = |data: &Bundle| data.get("text/plain").is_none_or(|text| text == "");
        if found.as_ref().is_none_or(is_empty) {
            (show)(Shown::Stdout("there are no variables\n".to_owned()));
            return Ok(None);
        }
        Ok(found)
    }
}

impl Language for Cells {
    fn info(&self) -> Info {
        let version = env!("CARGO_PKG_VERSION");
        Info {
            implementation: "klab",
            implementation_version: version,
            language: LanguageInfo {
                name: "rust".to_owned(),
                version: env!("CARGO_PKG_RUST_VERSION").to_owned(),
                mimetype: Some("text/rust".to_owned()),
                file_extension: Some(".rs".to_owned()),
                pygments_lexer: Some("rust".to_owned()),
                codemirror_mode: Some(CodeMirrorMode::Simple("rust".to_owned())),
                nbconvert_exporter: Some("script".to_owned()),
            },
            comm: followed::TARGET,
            debugger: true,
            banner: format!(
                "klab {version}: Rust cells that look into a live Linux kernel. `%help` lists the commands."
            ),
        }
    }

    fn execute(&self, mut cell: Cell) -> Outcome {
        let outlet = self.outlets.of(cell.show);
        cell.show = outlet.sink();
        let ask = cell.input;
        let asked = outlet.clone();
        cell.input = Box::new(move |prompt, password| {
            asked.flush();
            ask(prompt, password)
        });
        let stop = Arc::clone(&cell.stop);
        let begun = Instant::now();
        let outcome = match Measure::of(&cell.code) {
            None => self.run(cell),
            Some((Measure::Often, code)) => self.run_often(Cell { code, ..cell }),
            Some((Measure::Once, code)) => {
                let outcome = self.run(Cell { code, ..cell });
                let took = begun.elapsed().as_secs_f64() * 1e3;
                outlet.sink()(Shown::Stdout(format!("wall time: {took:.1} ms\n")));
                outcome
            }
        };
        outlet.end();
        self.views.follow(&outlet.sink(), &stop);
        outcome
    }

    fn complete(&self, code: &str, at: usize) -> Completion {
        if let Some((start, line)) = command_line(code, at) {
            // Behind the line's end is what ends it.
            let before = line.get(..at - start).unwrap_or(line);
            return command(before, start);
        }
        match code.trim_start() {
            body if body.starts_with(PYTHON) => python(code, at),
            // Another body is not Rust either: the guest's shell reads it.
            body if body.starts_with(SHELL) => {
                let before = code.get(..at).unwrap_or_default();
                let found = commands::complete::shell_cell(before, &commands::default_guest());
                completion(found.unwrap_or_default(), 0, at)
            }
            _ => c_of(code, at).unwrap_or_else(|| self.session.complete(code.to_owned(), at)),
        }
    }

    fn inspect(&self, code: &str, at: usize) -> Option<Bundle> {
        if let Some((start, line)) = command_line(code, at) {
            let guest = commands::default_guest();
            let at = (at - start).min(line.len());
            let text = commands::complete::inspect(line, at, &guest)?;
            return Some(Bundle::from_iter([("text/plain".to_owned(), text.into())]));
        }
        if let Some((before, begin)) = c_string(code, at) {
            let text = code[begin..].split('"').next().unwrap_or_default();
            let guest = commands::default_guest();
            let text = commands::complete::inspect_string(before, text, at - begin, &guest)?;
            return Some(Bundle::from_iter([("text/plain".to_owned(), text.into())]));
        }
        self.session
            .inspect(code.to_owned(), code::end_of_name(code, at))
    }

    fn is_complete(&self, code: &str) -> Completeness {
        code::is_complete(code)
    }

    fn debug(&self, request: &Value, events: &Events) -> Option<Value> {
        Some(self.debugger.answer(request, events))
    }

    fn comm(&self, data: &Map<String, Value>, show: &Sink) -> Map<String, Value> {
        followed::answer(data, &self.views, show)
    }

    fn interrupt(&self) {
        self.views.interrupt();
        self.session.interrupt();
    }

    fn shutdown(&self) {
        self.session.end();
        // Where that fails the lease ends with this process.
        let _ = kept::end();
    }
}

/// The `%` line that a place in a cell is on, and where it begins.
fn command_line(code: &str, at: usize) -> Option<(usize, &str)> {
    let start = code.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
    let line = code[start..].lines().next().unwrap_or_default();
    let is_rust = || Parts::of(code).commands.is_empty();
    (line.trim_start().starts_with('%') && !is_rust()).then_some((start, line))
}

/// Completions of the words of a command.
fn command(before: &str, start: usize) -> Completion {
    let found = commands::complete::complete(before, &commands::default_guest());
    completion(found, start, start + before.len())
}

/// The string of C that byte `at` of a cell is in: the text before it, and its first byte.
fn c_string(code: &str, at: usize) -> Option<(&str, usize)> {
    let begin = code::string_at(code, at)?;
    let before = code[..begin].strip_suffix('"')?;
    commands::complete::is_c(before).then_some((before, begin))
}

/// Completions of C in a string of Rust; `None` if the cursor is in none.
fn c_of(code: &str, at: usize) -> Option<Completion> {
    let (before, begin) = c_string(code, at)?;
    let begun = code.get(begin..at)?;
    let found = commands::complete::in_string(before, begun, &commands::default_guest());
    Some(completion(found, begin, at))
}

/// Completions that were found in a part of a cell that begins at byte `begin`; the cursor is at `at`.
fn completion(found: commands::complete::Completed, begin: usize, at: usize) -> Completion {
    let as_match = |(text, kind): (String, String)| Match {
        text,
        kind: Some(kind).filter(|kind| !kind.is_empty()),
    };
    let start = match found.matches.is_empty() {
        true => at,
        false => begin + found.start,
    };
    Completion {
        matches: found.matches.into_iter().map(as_match).collect(),
        replaced: start..at,
    }
}

/// Completions from drgn's Python, once it runs.
fn python(code: &str, at: usize) -> Completion {
    let before = code.get(..at).unwrap_or_default().to_owned();
    let (answer, answered) = std::sync::mpsc::channel();
    std::thread::spawn(move || answer.send(probes::drgn::complete(&before)));
    let found = answered.recv_timeout(PATIENCE).ok();
    let (matches, replaced) = found.flatten().unwrap_or_default();
    Completion {
        matches: matches
            .into_iter()
            .map(|text| Match { text, kind: None })
            .collect(),
        replaced: at.saturating_sub(replaced)..at,
    }
}
