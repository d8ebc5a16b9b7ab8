//! The protocol's questions to a language.

use std::sync::Arc;

use klab_language::{Bundle, Completion, Input, Outcome, Sink, Stop};
use serde_json::{Map, Value};

/// Takes the events of a debugger, from any thread.
pub type Events = Arc<dyn Fn(Value) + Send + Sync>;

/// A language that cells are written in: all that the kernel does not know itself.
///
/// A call may take its time: it has a thread of its own, and others come meanwhile from other threads. Cells come one
/// after the other, but those of subshells beside them; each has its own output, input and wish to stop.
pub trait Language: Send + Sync + 'static {
    /// Returns the part of `kernel_info_reply` about the language.
    fn info(&self) -> Info;

    /// Runs a cell to its end; all that it shows must have gone to [`Cell::show`] by then.
    ///
    /// # Errors
    /// The error that the client gets as `ename`, `evalue` and `traceback`.
    fn execute(&self, cell: Cell) -> Outcome;

    /// Returns the completions at byte `at` of `code`.
    fn complete(&self, code: &str, at: usize) -> Completion;

    /// Returns the documentation of the name at byte `at` of `code`, by MIME type.
    fn inspect(&self, code: &str, at: usize) -> Option<Bundle>;

    /// Tells whether Enter runs the cell or continues it. Called between keystrokes, so it must be quick.
    fn is_complete(&self, code: &str) -> Completeness;

    /// Answers a request of the front end's debugger, as the Debug Adapter Protocol has it; `events` takes what happens later. Requests come
    /// one after the other. `None` where the language has no debugger.
    fn debug(&self, request: &Value, events: &Events) -> Option<Value>;

    /// Answers a message of a comm that a front end has opened to the target of [`Info::comm`]; `show` takes what is shown for it.
    fn comm(&self, data: &Map<String, Value>, show: &Sink) -> Map<String, Value>;

    /// Stops the cells that run, after their [`Cell::stop`] was set. Does nothing between cells.
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
    /// Target of the comms that [`Language::comm`] answers.
    pub comm: &'static str,
    /// True if it answers [`Language::debug`].
    pub debugger: bool,
    /// The text that a console shows first.
    pub banner: String,
}

/// A cell to run.
pub struct Cell {
    /// Its text.
    pub code: String,
    /// Takes its output. Output after its end still belongs to it.
    pub show: Sink,
    /// Asks its user.
    pub input: Input,
    /// Tells the cell to stop.
    pub stop: Stop,
    /// True if its value alone is wanted, and nothing is shown: a silent cell, an expression of the user's.
    pub quiet: bool,
}

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cell")
            .field("code", &self.code)
            .finish_non_exhaustive()
    }
}

/// Completeness of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completeness {
    /// It can run.
    Complete,
    /// It goes on, indented by this text.
    Incomplete(String),
    /// No continuation makes it right.
    Invalid,
}
