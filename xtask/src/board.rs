//! The progress of the steps: a line that moves on a terminal, else one every few seconds.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Interval at which a log without a terminal hears of a step that goes on.
const QUIET: Duration = Duration::from_secs(20);

/// The steps that are under way, and the line that shows them. Shared by the steps' threads.
#[derive(Debug)]
pub(crate) struct Board {
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    steps: Vec<Step>,
    drawn: Instant,
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    note: String,
    since: Instant,
}

impl Board {
    /// An empty board on stderr.
    pub(crate) fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            state: Mutex::new(State {
                steps: Vec::new(),
                drawn: Instant::now(),
            }),
        }
    }

    /// Begins a step.
    pub(crate) fn begin(&self, name: &'static str) {
        let step = Step {
            name,
            note: String::new(),
            since: Instant::now(),
        };
        self.state().steps.push(step);
        self.draw(self.terminal);
    }

    /// Tells the state of the step, in its own words.
    pub(crate) fn note(&self, name: &'static str, note: String) {
        if let Some(step) = self.state().steps.iter_mut().find(|step| step.name == name) {
            step.note = note;
        }
    }

    /// Shows the progress of all, if it is time.
    pub(crate) fn tick(&self) {
        self.draw(false);
    }

    /// Ends the step: its line stays.
    pub(crate) fn end(&self, name: &'static str, outcome: &str) {
        let mut state = self.state();
        let Some(at) = state.steps.iter().position(|step| step.name == name) else {
            return;
        };
        let step = state.steps.remove(at);
        let line = format!("{name:<14} {outcome:<52} {}", time(step.since.elapsed()));
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        // Nobody reads stderr any more: no reason to stop the step.
        let _ = writeln!(io::stderr(), "{clear}{line}");
    }

    fn draw(&self, now: bool) {
        let mut state = self.state();
        if state.steps.is_empty() {
            return;
        }
        let wait = if self.terminal {
            Duration::from_millis(100)
        } else {
            QUIET
        };
        if !now && state.drawn.elapsed() < wait {
            return;
        }
        state.drawn = Instant::now();
        let parts: Vec<String> = state
            .steps
            .iter()
            .map(|step| format!("{} {} {}", step.name, step.note, time(step.since.elapsed())))
            .collect();
        let line = parts.join("  |  ");
        let _ = if self.terminal {
            let line: String = line.chars().take(110).collect();
            write!(io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(io::stderr(), "  .. {line}")
        };
        let _ = io::stderr().flush();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A duration as a person says it.
pub(crate) fn time(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}
