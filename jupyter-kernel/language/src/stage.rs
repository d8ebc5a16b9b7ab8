//! Ways out of a cell: for its output, and to the user whom it asks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Input, Shown, Sink};

/// Leads to the cell that runs, or ran last: its output may come late.
#[derive(Clone)]
pub struct Stage(Arc<Mutex<Parts>>);

struct Parts {
    sink: Sink,
    input: Arc<Mutex<Input>>,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").finish_non_exhaustive()
    }
}

impl Stage {
    /// Leads to `sink` until the first cell; nobody is asked.
    #[must_use]
    pub fn new(sink: Sink) -> Self {
        let input = Arc::new(Mutex::new(Box::new(|_: &str, _| None) as Input));
        Self(Arc::new(Mutex::new(Parts { sink, input })))
    }

    /// Leads to another cell.
    pub fn set(&self, sink: Sink, input: Input) {
        let input = Arc::new(Mutex::new(input));
        *self.lock() = Parts { sink, input };
    }

    /// Shows it there.
    pub fn show(&self, shown: Shown) {
        // A sink may block.
        let sink = Arc::clone(&self.lock().sink);
        sink(shown);
    }

    /// Asks the cell's user for a line; `None` where nobody answers.
    pub fn ask(&self, prompt: &str, password: bool) -> Option<String> {
        let input = Arc::clone(&self.lock().input);
        let ask = input.lock().unwrap_or_else(PoisonError::into_inner);
        ask(prompt, password)
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
