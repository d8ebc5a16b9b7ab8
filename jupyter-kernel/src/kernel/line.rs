//! The part of a cell that needs no compiler: its `%` lines, run in this process.
//!
//! Lines that begin with `%` at the top of a cell are commands; what follows them is Rust. A cell that
//! begins with `%%` is one command, and the rest of it is that command's text.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use probes::drgn::Raised;
use serde_json::{Map, Value};

use crate::commands::{self, Context, Output, Stream};
use crate::session::{CellError, Shown, Sink};

/// A cell, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// The command lines; the body is what a `%%` line is followed by.
    pub(super) commands: Vec<(String, String)>,
    /// The rest, on the lines where it stood; `None` if there is nothing to compile.
    pub(super) rust: Option<String>,
}

impl Parts {
    pub(super) fn of(code: &str) -> Self {
        if code.trim_start().starts_with("%%") {
            let (line, body) = code
                .trim_start()
                .split_once('\n')
                .unwrap_or((code.trim_start(), ""));
            return Self {
                commands: vec![(line.trim().to_owned(), body.to_owned())],
                rust: None,
            };
        }
        let is_command = |line: &&str| line.starts_with('%') || line.trim().is_empty();
        let top = code.lines().take_while(is_command).count();
        let commands: Vec<_> = code
            .lines()
            .take(top)
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        if commands.is_empty() {
            let rust = Some(code.to_owned()).filter(|code| !code.trim().is_empty());
            return Self {
                commands: Vec::new(),
                rust,
            };
        }
        let rest: Vec<_> = code.lines().skip(top).collect();
        let rust = (!rest.is_empty()).then(|| "\n".repeat(top) + &rest.join("\n"));
        Self {
            commands: commands
                .into_iter()
                .map(|line| (line.to_owned(), String::new()))
                .collect(),
            rust,
        }
    }
}

/// Stops a command that runs.
pub(super) type Stop = Arc<AtomicBool>;

/// Runs one command. Blocks, so it must not run on the runtime's own threads.
pub(super) fn run(
    line: &str,
    body: &str,
    stop: &Stop,
    sink: &Sink,
) -> Result<Map<String, Value>, CellError> {
    let shown = Arc::clone(sink);
    let mut write = move |stream: Stream, bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        shown(match stream {
            Stream::Stdout => Shown::Stdout(text),
            Stream::Stderr => Shown::Stderr(text),
        });
    };
    let mut context = Context {
        guest: commands::default_guest(),
        sink: &mut write,
        rewrites: true,
        interrupt: Arc::clone(stop),
        signals: false,
    };
    let output = commands::run_line(line, body, &mut context);
    // Whether it was stopped only the command knows: one that ran to its end in spite of the wish has its output.
    // What a recording has when it is stopped is its result.
    if let Ok(output) = &output
        && output.code == commands::INTERRUPTED
        && stop.load(Ordering::Relaxed)
    {
        return Ok(bundle(output.clone()));
    }
    match output {
        Ok(output) if output.code == 0 => Ok(bundle(output)),
        Ok(output) => {
            if !output.text.is_empty() {
                sink(Shown::Stdout(output.text));
            }
            Err(CellError::new(
                "CommandFailed",
                format!("`{line}` ended with exit code {}", output.code),
            ))
        }
        Err(error) => Err(failed(error)),
    }
}

/// An exception of Python's keeps its name and its traceback.
fn failed(error: anyhow::Error) -> CellError {
    match error.downcast::<Raised>() {
        Ok(raised) => CellError {
            ename: raised.ename,
            evalue: raised.evalue,
            traceback: raised.traceback,
        },
        Err(error) if commands::is_interruption(&error) => {
            CellError::new("Interrupted", format!("{error:#}"))
        }
        Err(error) => CellError::new("Error", format!("{error:#}")),
    }
}

fn bundle(output: Output) -> Map<String, Value> {
    let forms = [
        (
            "text/plain",
            Some(output.text).filter(|text| !text.is_empty()),
        ),
        ("text/html", output.html.filter(|_| output.svg.is_none())),
        ("image/svg+xml", output.svg),
    ];
    forms
        .into_iter()
        .filter_map(|(mime, form)| Some((mime.to_owned(), Value::String(form?))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(code: &str) -> (Vec<(String, String)>, Option<String>) {
        let parts = Parts::of(code);
        (parts.commands, parts.rust)
    }

    fn command(line: &str, body: &str) -> (String, String) {
        (line.to_owned(), body.to_owned())
    }

    #[test]
    fn rust_is_left_alone() {
        assert_eq!(
            parts("let a = 7\n% 2;"),
            (vec![], Some("let a = 7\n% 2;".to_owned()))
        );
        assert_eq!(parts(" \n"), (vec![], None));
    }

    #[test]
    fn only_what_was_stopped_says_so() {
        let sink: Sink = Arc::new(|_| {});
        // The wish came while it ran, and it ran to its end all the same.
        let stop = Arc::new(AtomicBool::new(true));
        let data = run("%help", "", &stop, &sink).unwrap();
        assert!(data["text/plain"].as_str().unwrap().contains("%tasks"));
        let failed = run("%nosuch", "", &stop, &sink).unwrap_err();
        assert_eq!(failed.ename, "Error");
        let stopped = vm::Error::Interrupted("stopped: nothing was loaded".to_owned());
        let stopped = super::failed(anyhow::Error::from(stopped).context("the module"));
        assert_eq!(stopped.ename, "Interrupted");
        assert!(stopped.evalue.contains("nothing was loaded"));
        let left = vm::agent::ModuleError::StillRuns {
            module: "gcloop".to_owned(),
            call: vm::agent::Call::Init,
        };
        let left = vm::Error::Agent(vm::agent::Error::Module(left));
        assert_eq!(super::failed(left.into()).ename, "Interrupted");
    }

    #[test]
    fn commands_stand_at_the_top() {
        assert_eq!(parts("%ps"), (vec![command("%ps", "")], None));
        let (commands, rust) = parts("%ps\n%log \n\nlet a = 1;");
        assert_eq!(commands, [command("%ps", ""), command("%log", "")]);
        assert_eq!(rust.as_deref(), Some("\n\n\nlet a = 1;"));
    }

    #[test]
    fn a_cell_command_takes_the_cell() {
        assert_eq!(
            parts("\n%%sh x\nls\n%ps"),
            (vec![command("%%sh x", "ls\n%ps")], None)
        );
    }
}
