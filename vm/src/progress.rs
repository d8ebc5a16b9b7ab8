//! Reports of a long step while it runs.

/// Listens to a long step: the command line draws a bar, a notebook updates a display, a test says nothing.
pub trait Progress: Send {
    /// A new step begins; the one before it is done. `text` is a short phrase ("fetching linux 7.3.4").
    fn step(&mut self, text: &str);
    /// `done` of `total` bytes of this step; called some times a second.
    fn bytes(&mut self, done: u64, total: u64) {
        let _ = (done, total);
    }
    /// Tells whether the user wants the step to end early; asked some times a second.
    fn stopped(&self) -> bool {
        false
    }
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&mut self, _: &str) {}
}
