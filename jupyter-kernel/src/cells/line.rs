//! The part of a cell that needs no compiler: its `%` lines, run in this process.
//!
//! Lines that begin with `%` at the top of a cell are commands; what follows them is Rust. A cell that
//! begins with `%%` is one command, and the rest of it is that command's text.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use klab_protocol::{Bundle, CellError, Shown, Sink, Stop};
use probes::drgn::Raised;
use serde_json::Value;

use crate::commands::{self, Context, Output, Stream};

/// A cell, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// The command lines, each with the body that follows a `%%` line.
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
        let mut top = 0;
        let mut commands = Vec::new();
        for line in code.lines() {
            match commands::line_of(line) {
                Some(line) => commands.push((line, String::new())),
                None if line.trim().is_empty() => {}
                None => break,
            }
            top += 1;
        }
        if commands.is_empty() {
            let rust = Some(code.to_owned()).filter(|code| !code.trim().is_empty());
            return Self { commands, rust };
        }
        let rest: Vec<_> = code.lines().skip(top).collect();
        let rust = (!rest.is_empty()).then(|| "\n".repeat(top) + &rest.join("\n"));
        Self { commands, rust }
    }
}

/// Line at the beginning of a cell that is about the cell itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// `%time`: its time.
    Once,
    /// `%timeit`: its average time.
    Often,
}

impl Measure {
    /// Takes the `%time`, `%%time`, `%timeit` or `%%timeit` off a cell, whose rest stays on the lines where it stood.
    pub(super) fn of(code: &str) -> Option<(Self, String)> {
        let begin = code.len() - code.trim_start().len();
        let rest = code[begin..].trim_start_matches('%');
        let signs = code.len() - begin - rest.len();
        let (measure, rest) = match (rest.strip_prefix("timeit"), rest.strip_prefix("time")) {
            (Some(rest), _) => (Self::Often, rest),
            (None, Some(rest)) => (Self::Once, rest),
            (None, None) => return None,
        };
        ((1..=2).contains(&signs) && (rest.is_empty() || rest.starts_with(char::is_whitespace)))
            .then(|| (measure, format!("{}{rest}", &code[..begin])))
    }
}

/// The Rust of a cell, run as often as a [`Timing`](probes::cell::Timing) wants it; it prints the result.
pub(super) fn often(rust: &str) -> String {
    format!(
        "{{ let mut timing = probes::cell::Timing::default(); while let Some(runs) = timing.round() {{ for _ in 0..runs {{ \
         std::hint::black_box({{\n{rust}\n}}); }} }} println!(\"{{timing}}\"); }}"
    )
}

/// Runs one command.
///
/// # Errors
///
/// The command's error, or one that says that its exit code is not 0. Then its output is shown all the same: if a part
/// of a listing is missing, the rest is true.
pub(super) fn run(line: &str, body: &str, stop: &Stop, sink: &Sink) -> Result<Bundle, CellError> {
    let show = Arc::clone(sink);
    let mut write = move |stream: Stream, bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        show(match stream {
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
    // Only the command knows whether it was stopped: one that ran to its end in spite of the wish has its output.
    // A recording that is stopped has a result: its records until then.
    if let Ok(output) = &output
        && output.code == commands::INTERRUPTED
        && stop.load(Ordering::Relaxed)
    {
        return Ok(bundle(output.clone()));
    }
    shown(line, output.map_err(failed)?, sink)
}

/// The value of a command that ended; if its exit code is not 0, the value is shown and the cell fails.
fn shown(line: &str, output: Output, sink: &Sink) -> Result<Bundle, CellError> {
    let code = output.code;
    let data = bundle(output);
    if code == 0 {
        return Ok(data);
    }
    if !data.is_empty() {
        sink(Shown::value(data));
    }
    Err(CellError::new(
        "CommandFailed",
        format!("`{line}` ended with exit code {code}"),
    ))
}

/// Keeps the name and the traceback of a Python exception.
fn failed(error: anyhow::Error) -> CellError {
    match error.downcast::<Raised>() {
        Ok(raised) => CellError {
            ename: raised.ename,
            evalue: commands::in_a_cell(&raised.evalue),
            traceback: raised
                .traceback
                .iter()
                .map(|line| commands::in_a_cell(line))
                .collect(),
        },
        Err(error) => {
            let name = match commands::is_interruption(&error) {
                true => "Interrupted",
                false => "Error",
            };
            CellError::new(name, format!("{error:#}")).in_words(commands::in_a_cell)
        }
    }
}

fn bundle(output: Output) -> Bundle {
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
    use std::sync::Mutex;

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
        let stop = Stop::new(true.into());
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
    fn what_a_failed_command_has_is_shown_in_all_its_forms() {
        let seen = Arc::<Mutex<Vec<Shown>>>::default();
        let sink: Sink = {
            let seen = Arc::clone(&seen);
            Arc::new(move |shown| seen.lock().unwrap().push(shown))
        };
        let listing = Output {
            text: "PID\nmissing: pid 7\n".to_owned(),
            html: Some("<table>".to_owned()),
            code: 1,
            ..Output::default()
        };
        let failed = shown("%ps", listing, &sink).unwrap_err();
        assert_eq!(failed.ename, "CommandFailed");
        assert!(failed.evalue.contains("exit code 1"));
        // One that has streamed all that it has.
        let silent = Output {
            code: 3,
            ..Output::default()
        };
        shown("%sh exit 3", silent, &sink).unwrap_err();
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        let [Shown::Display { data, .. }] = seen.as_slice() else {
            panic!("{seen:?}");
        };
        assert_eq!(data["text/html"], "<table>");
        assert!(data["text/plain"].as_str().unwrap().contains("pid 7"));
    }

    #[test]
    fn commands_stand_at_the_top() {
        assert_eq!(parts("%ps"), (vec![command("%ps", "")], None));
        let (commands, rust) = parts("%ps\n%log \n\nlet a = 1;");
        assert_eq!(commands, [command("%ps", ""), command("%log", "")]);
        assert_eq!(rust.as_deref(), Some("\n\n\nlet a = 1;"));
    }

    #[test]
    fn a_cell_may_be_timed() {
        let of = |code| Measure::of(code);
        assert_eq!(
            of("%time 1 + 1"),
            Some((Measure::Once, " 1 + 1".to_owned()))
        );
        assert_eq!(
            of("\n%%time\n%ps"),
            Some((Measure::Once, "\n\n%ps".to_owned()))
        );
        assert_eq!(of("%timeit %ps"), Some((Measure::Often, " %ps".to_owned())));
        assert_eq!(of("%timeit"), Some((Measure::Often, String::new())));
        for code in ["%timers", "%timeits", "time ()", "%%%time x", ""] {
            assert_eq!(of(code), None, "{code}");
        }
    }

    #[test]
    fn rust_that_runs_often_is_rust() {
        let code = often("// begin\nguest.tasks()?; // end");
        syn::parse_str::<syn::Block>(&code).unwrap();
    }

    #[test]
    fn a_cell_command_takes_the_cell() {
        assert_eq!(
            parts("\n%%sh x\nls\n%ps"),
            (vec![command("%%sh x", "ls\n%ps")], None)
        );
    }
}
