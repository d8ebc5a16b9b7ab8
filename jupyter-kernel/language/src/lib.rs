//! Values that pass between a kernel and its language: what a cell shows and comes to, and the ways to its user.
//!
//! The values are here, without Jupyter's protocol, for a program that runs cells in another process: see [`wire`].

mod stage;
pub mod wire;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use stage::Stage;

/// A value, by MIME type.
pub type Bundle = Map<String, Value>;

/// Outcome of a cell: its value if it has one, or the error that ended it.
pub type Outcome = Result<Option<Bundle>, CellError>;

/// Takes what a cell shows, in order. It blocks while the clients are slow, so it is never called on the runtime's threads.
pub type Sink = Arc<dyn Fn(Shown) + Send + Sync>;

/// Asks the user for a line, with a prompt, as a password where the second argument says so. `None` where nobody
/// answers: the client has no input field, or the cell is to stop.
pub type Input = Box<dyn Fn(&str, bool) -> Option<String> + Send>;

/// Set once the client wants a cell to stop.
pub type Stop = Arc<AtomicBool>;

/// Something that a cell shows while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Shown {
    /// Text on the stdout.
    Stdout(String),
    /// Text on the stderr.
    Stderr(String),
    /// A value.
    Display {
        /// The name under which it can be shown anew.
        id: Option<String>,
        /// True if it takes the place of what was shown under this name.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// Completions at the cursor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// The replacements.
    pub matches: Vec<Match>,
    /// The bytes of the cell that are replaced.
    pub replaced: Range<usize>,
}

/// A replacement for what stands at the cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// Its text.
    pub text: String,
    /// Its kind, as front ends show it: `function`, `struct`.
    pub kind: Option<String>,
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
