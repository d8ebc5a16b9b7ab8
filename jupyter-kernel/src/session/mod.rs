//! The session of the Rust cells, which is another program's: `klab-cells`, with evcxr and rust-analyzer in it.
//!
//! [`program`] is that program, [`link`] one process of it, [`build`] the wait while it is being built. Without it all
//! cells but those of Rust work.

pub(crate) mod build;
mod link;
pub(crate) mod program;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use anyhow::Result;
use klab_language::wire::{Answer, Question};
use klab_language::{Bundle, CellError, Completion, Input, Outcome, Shown, Sink, Stop};

use link::Link;

/// Interval at which a cell that waits looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(10);
/// What a cell of Rust says that finds another one running.
const WAITS: &str = "another cell of Rust runs; this one waits for its end (commands, `%%drgn`, and one reader alone such as `guest.tasks()?` do not)\n";

/// The session of one kernel, in a process that is started anew when it has died.
#[derive(Clone)]
pub(crate) struct Session {
    link: Arc<Mutex<Option<Arc<Link>>>>,
    /// Held by the cell that runs: the process runs one at a time, and a subshell may have another.
    turn: Arc<Mutex<()>>,
    background: Sink,
}

impl Session {
    /// Starts the process at once, if its program is there. Its messages before the first cell go to `background`.
    pub(crate) fn start(background: Sink) -> Result<Self> {
        let session = Self {
            link: Arc::default(),
            turn: Arc::default(),
            background,
        };
        let starting = session.clone();
        std::thread::Builder::new()
            .name("session".to_owned())
            .spawn(move || {
                // A start that fails is tried again, and reported, by the first cell.
                let mut slot = starting.link.lock().unwrap_or_else(PoisonError::into_inner);
                if slot.is_none() && build::under_way().is_none() {
                    *slot = Link::start(starting.background).ok();
                }
            })?;
        Ok(session)
    }

    /// Runs a cell to its end. `waiting` is the cell for a session without tokio, if it awaits something.
    pub(crate) fn execute(
        &self,
        code: String,
        waiting: Option<String>,
        show: Sink,
        input: Input,
        stop: &Stop,
    ) -> Outcome {
        let _turn = self.turn(&show, stop)?;
        let link = self.ready(&show, stop)?;
        link.stage.set(show, input);
        let answer = link.ask(Question::Execute { code, waiting });
        if stop.load(Ordering::SeqCst) {
            // The wish came before the question.
            link.interrupt();
        }
        match answer.recv() {
            Ok(Answer::Outcome(outcome)) => outcome,
            _ => Err(link.died()),
        }
    }

    /// Completions at byte `at`; none while a cell runs.
    pub(crate) fn complete(&self, code: String, at: usize) -> Completion {
        match self.ask(Question::Complete { code, at }) {
            Some(Answer::Completion(completion)) => completion,
            _ => Completion {
                matches: Vec::new(),
                replaced: at..at,
            },
        }
    }

    /// Description of the name at byte `at`, as text and as HTML; none while a cell runs.
    pub(crate) fn inspect(&self, code: String, at: usize) -> Option<Bundle> {
        match self.ask(Question::Inspect { code, at })? {
            Answer::Inspection(inspection) => inspection,
            _ => None,
        }
    }

    /// Stops the cell that runs, or that waits for the session to start.
    pub(crate) fn interrupt(&self) {
        // While somebody starts the process it runs no cell.
        if let Ok(slot) = self.link.try_lock()
            && let Some(link) = &*slot
        {
            link.interrupt();
        }
    }

    /// Ends the process, and waits until it has removed its files.
    pub(crate) fn end(&self) {
        let slot = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = &*slot {
            link.hang_up();
        }
    }

    fn ask(&self, question: Question) -> Option<Answer> {
        let slot = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let link = slot.clone()?;
        drop(slot);
        link.ask(question).recv().ok()
    }

    /// Waits for the end of the cell that runs.
    fn turn(&self, show: &Sink, stop: &Stop) -> Result<MutexGuard<'_, ()>, CellError> {
        let mut said = false;
        loop {
            match self.turn.try_lock() {
                Ok(turn) => return Ok(turn),
                Err(TryLockError::Poisoned(turn)) => return Ok(turn.into_inner()),
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut said, true) {
                        show(Shown::Stderr(WAITS.to_owned()));
                    }
                    build::pause(LOOK, stop)?;
                }
            }
        }
    }

    /// The process, started if there is none. Waits for its build where one is under way.
    fn ready(&self, show: &Sink, stop: &Stop) -> Result<Arc<Link>, CellError> {
        loop {
            let mut slot = match self.link.try_lock() {
                Ok(slot) => slot,
                Err(TryLockError::Poisoned(slot)) => slot.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    build::pause(LOOK, stop)?;
                    continue;
                }
            };
            if let Some(link) = slot.as_ref().filter(|link| link.lives()) {
                return Ok(Arc::clone(link));
            }
            if build::under_way().is_none() {
                let link = Link::start(Arc::clone(&self.background))
                    .map_err(|error| CellError::new("Error", format!("{error:#}")))?;
                *slot = Some(Arc::clone(&link));
                return Ok(link);
            }
            // A completion does not wait for it.
            drop(slot);
            build::wait(show, stop)?;
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}
