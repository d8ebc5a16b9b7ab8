//! What the protocol asks of a language, and the values that pass between them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Map, Value};

/// A language that cells are written in: all that the kernel does not know itself.
///
/// A call may take its time: it has a thread of its own, and others come meanwhile from other threads. Cells come one
/// after the other; each has its own output, input and wish to stop, so nothing here forbids two at once.
pub trait Language: Send + Sync + 'static {
    /// Returns what `kernel_info_reply` says of the language.
    fn info(&self) -> Info;

    /// Runs a cell to its end; all that it shows must have gone to [`Cell::show`] by then.
    ///
    /// # Errors
    /// What the client is told as `ename`, `evalue` and `traceback`.
    fn execute(&self, cell: Cell) -> Outcome;

    /// Returns what may stand at byte `at` of `code`.
    fn complete(&self, code: &str, at: usize) -> Completion;

    /// Returns the documentation of what stands at byte `at` of `code`, by MIME type.
    fn inspect(&self, code: &str, at: usize) -> Option<Bundle>;

    /// Tells whether Enter runs the cell or continues it. Called between keystrokes, so it must be quick.
    fn is_complete(&self, code: &str) -> Completeness;

    /// Stops what runs, after [`Cell::stop`] of its cell was set. Does nothing between cells.
    fn interrupt(&self);

    /// Ends all that the language has started. Nothing is called after it.
    fn shutdown(&self);
}

/// The part of `kernel_info_reply` that is the language's.
#[derive(Debug, Clone)]
pub struct Info {
    /// The name of the kernel: `klab`.
    pub implementation: &'static str,
    /// The version of the kernel.
    pub implementation_version: &'static str,
    /// The language as front ends show and highlight it.
    pub language: jupyter_protocol::messaging::LanguageInfo,
    /// The text that a console shows first.
    pub banner: String,
}

/// A value, by MIME type.
pub type Bundle = Map<String, Value>;

/// What a cell came to: its value if it has one, or the error that ended it.
pub type Outcome = Result<Option<Bundle>, CellError>;

/// Takes what a cell shows, in order. It blocks while the clients are slow, so it is never called on the runtime's threads.
pub type Sink = Arc<dyn Fn(Shown) + Send + Sync>;

/// Asks the user for a line, with a prompt, as a password where the second argument says so. `None` where nobody
/// answers: the client has no input field, or the cell is to stop.
pub type Input = Box<dyn Fn(&str, bool) -> Option<String> + Send>;

/// Set once the client wants a cell to stop.
pub type Stop = Arc<AtomicBool>;

/// A cell to run.
pub struct Cell {
    /// Its text.
    pub code: String,
    /// Takes what it shows. What comes after its end still belongs to it.
    pub show: Sink,
    /// Asks its user.
    pub input: Input,
    /// Whether it is to stop.
    pub stop: Stop,
}

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cell")
            .field("code", &self.code)
            .finish_non_exhaustive()
    }
}

/// Something that a cell shows while it runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// Text on the stdout.
    Stdout(String),
    /// Text on the stderr.
    Stderr(String),
    /// A value.
    Display {
        /// The name under which it can be shown anew.
        id: Option<String>,
        /// Whether it takes the place of what was shown under this name.
        update: bool,
        /// The value.
        data: Bundle,
    },
}

impl Shown {
    /// Returns a value that is shown once.
    #[must_use]
    pub const fn value(data: Bundle) -> Self {
        Self::Display {
            id: None,
            update: false,
            data,
        }
    }
}

/// An error of a cell, in the three parts of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellError {
    /// The error's kind: `Panic`, `E0425`.
    pub ename: String,
    /// One sentence.
    pub evalue: String,
    /// Lines with ANSI colours, of which front ends show these alone.
    pub traceback: Vec<String>,
}

impl CellError {
    /// Returns an error that needs no more than its sentence.
    pub fn new(ename: &str, evalue: impl Into<String>) -> Self {
        let evalue = evalue.into();
        Self {
            traceback: vec![heading(ename, &evalue)],
            ename: ename.to_owned(),
            evalue,
        }
    }

    /// Puts the sentence into other words, where it stands and at the head of the traceback.
    #[must_use]
    pub fn in_words(mut self, words: impl FnOnce(&str) -> String) -> Self {
        let before = heading(&self.ename, &self.evalue);
        self.evalue = words(&self.evalue);
        if let Some(first) = self.traceback.first_mut().filter(|line| **line == before) {
            *first = heading(&self.ename, &self.evalue);
        }
        self
    }
}

fn heading(ename: &str, evalue: &str) -> String {
    format!("\u{1b}[1;31m{ename}\u{1b}[0m: {evalue}")
}

/// What may stand at the cursor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Completion {
    /// The replacements.
    pub matches: Vec<Match>,
    /// The bytes of the cell that are replaced.
    pub replaced: Range<usize>,
}

/// A replacement for what stands at the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Its text.
    pub text: String,
    /// What it is, as front ends show it: `function`, `struct`.
    pub kind: Option<String>,
}

/// Whether a cell is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completeness {
    /// It can run.
    Complete,
    /// It goes on, indented by this text.
    Incomplete(String),
    /// No continuation makes it right.
    Invalid,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sentence_is_put_into_other_words() {
        let mut error = CellError::new("Error", "see `klab ps`");
        error.traceback.push("  1 | see `klab ps`".to_owned());
        let error = error.in_words(|text| text.replace("klab ", "%"));
        assert_eq!(error.evalue, "see `%ps`");
        assert!(error.traceback[0].ends_with("see `%ps`"));
        assert!(error.traceback[1].ends_with("see `klab ps`"));
    }
}
