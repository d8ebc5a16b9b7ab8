//! The command that runs in the guest while that is watched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vm::agent::Canceller;

use super::stop::Bounds;
use crate::cell::check_interrupt;
use crate::guest::Guest;
use crate::{Error, Result};

/// Time that the agent may say nothing, besides that in which the guest stands.
const SILENCE: Duration = Duration::from_secs(20);
/// Time that a command that was stopped may take to end.
const ENDS: Duration = Duration::from_secs(2);
/// Interval at which it is looked at.
const SLICE: Duration = Duration::from_millis(5);

/// A command that begins when the guest is watched. Dropped, it is ended; one that has not begun never does.
#[derive(Debug)]
pub(crate) struct Work {
    running: Option<(JoinHandle<Result<()>>, Canceller)>,
    go: Option<Sender<()>>,
}

impl Work {
    /// The command of `bounds`, by a client that is connected: the agent of a guest that stands answers nobody, for as long as the
    /// watch here. Its end sets `done`.
    pub(crate) fn begin(guest: &Guest, bounds: &Bounds) -> Result<Self> {
        let Some(command) = bounds.command.clone() else {
            return Ok(Self {
                running: None,
                go: None,
            });
        };
        let mut client = guest.agent()?;
        client.set_timeout(bounds.time() + SILENCE);
        let done = Arc::clone(&bounds.done);
        let canceller = client.canceller();
        let (go, begin) = channel();
        let thread = thread::Builder::new().name("klab-work".to_owned());
        let thread = thread.spawn(move || {
            // Its exit code is its own matter; only its end counts here.
            let ran = match begin.recv() {
                Ok(()) => client.output(&command).map(drop),
                Err(_) => Ok(()),
            };
            done.store(true, Ordering::Release);
            Ok(ran?)
        });
        let thread = thread.map_err(|e| Error::machine(format!("cannot start a thread: {e}")))?;
        Ok(Self {
            running: Some((thread, canceller)),
            go: Some(go),
        })
    }

    /// The guest is watched from now on.
    pub(crate) fn start(&mut self) {
        if let Some(go) = self.go.take() {
            // Its thread waits for this.
            let _ = go.send(());
        }
    }

    /// Nothing stops the guest any more: the command may go on until then, unless the user has seen enough.
    ///
    /// # Errors
    /// When it could not be run.
    pub(crate) fn end(mut self, until: Instant, stop: &AtomicBool) -> Result<()> {
        while let Some((thread, _)) = &self.running
            && !thread.is_finished()
            && Instant::now() < until
            && !stop.load(Ordering::Acquire)
        {
            check_interrupt();
            thread::sleep(SLICE);
        }
        match self.running.take_if(|(thread, _)| thread.is_finished()) {
            Some((thread, _)) => thread.join().unwrap_or(Ok(())),
            None => Ok(()),
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        drop(self.go.take());
        if let Some((thread, canceller)) = &self.running
            && !thread.is_finished()
        {
            canceller.cancel();
            let until = Instant::now() + ENDS;
            while !thread.is_finished() && Instant::now() < until {
                thread::sleep(SLICE);
            }
        }
    }
}
