//! Where what is shown goes.

use std::sync::{Arc, Mutex, PoisonError};

use klab_protocol::{Shown, Sink};

/// Leads to the cell that runs, or ran last: its output may come late.
#[derive(Clone)]
pub(super) struct Stage(Arc<Mutex<Sink>>);

impl Stage {
    /// Leads to `sink` until the first cell.
    pub(super) fn new(sink: Sink) -> Self {
        Self(Arc::new(Mutex::new(sink)))
    }

    /// Leads to the sink of another cell.
    pub(super) fn set(&self, sink: Sink) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sink;
    }

    /// Shows it there.
    pub(super) fn show(&self, shown: Shown) {
        // A sink may block.
        let sink = Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        sink(shown);
    }
}
