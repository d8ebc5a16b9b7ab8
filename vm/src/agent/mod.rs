//! The host's end of the guest's agent: commands, files, modules, workloads and `/proc`.
//!
//! A [`Client`] holds one of the guest's [`PORTS`] ports for as long as it lives; several clients of one
//! guest, in one process or in many, do not disturb each other. Every call blocks and every wait has an
//! end: an agent that says nothing for [`Client::set_timeout`] is an error, and QEMU is asked meanwhile whether the guest
//! runs at all: one that is paused or has panicked is an error at once. While another process only reads the guest, for which it
//! stands still, it is waited for.

mod device;
mod error;
mod files;
mod greet;
mod input;
mod link;
mod module;
mod proc;
mod run;
mod wire;
mod workload;

use std::{
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

pub use error::{Error, Result};
use greet::Port;
use klab_wire::{Answer, Ask};
pub use klab_wire::{
    Exit, HelloReply, Made, PORTS, Run as RunSpec, SocketKind, Stream, WorkloadInfo as Workload,
    WorkloadKind, proc as values,
};
use link::Link;
pub use module::{Call, ModuleError};
pub use run::Output;

/// Time that an agent may say nothing. Under emulation a loaded guest takes seconds for what takes milliseconds.
const SILENCE: Duration = Duration::from_secs(30);

/// Interval at which a wait looks whether it was cancelled or stopped.
const SLICE: Duration = Duration::from_millis(50);

/// A connection to the agent of one guest.
#[derive(Debug)]
pub struct Client {
    link: Link,
    hello: HelloReply,
    port: usize,
    timeout: Duration,
    cancel: Canceller,
    /// Set once the user wants every wait to end.
    stop: Arc<AtomicBool>,
    /// Lock of the port, held for the client's life.
    _lock: File,
}

/// Ends a run from another thread.
#[derive(Debug, Clone, Default)]
pub struct Canceller(Arc<AtomicBool>);

impl Canceller {
    /// Kills the run that is under way, or the next one if none is.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl Client {
    /// Takes a free port of the guest whose sockets are `agent.0` to `agent.7` in `run_dir`, one whose agent
    /// greets. The agent sets the guest's clock by the host's.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without such a socket, [`Error::Busy`] when every port is taken, [`Error::Halted`] when the guest does
    /// not run, [`Error::Silent`] when the agent answers on no port within `timeout`, [`Error::Frame`] when it speaks another version.
    pub fn connect(run_dir: &Path, timeout: Duration) -> Result<Self> {
        let (
            Port {
                number, link, lock, ..
            },
            hello,
        ) = greet::find(run_dir, timeout)?;
        Ok(Self {
            link,
            hello,
            port: number,
            timeout: SILENCE,
            cancel: Canceller::default(),
            stop: Arc::default(),
            _lock: lock,
        })
    }

    /// The agent's description of itself and its kernel.
    pub fn hello(&self) -> &HelloReply {
        &self.hello
    }

    /// The port that this client holds, below [`PORTS`].
    pub fn port(&self) -> usize {
        self.port
    }

    /// Time that the agent may say nothing before a call gives up; 30 s at first.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// A handle that ends this client's run from another thread.
    pub fn canceller(&self) -> Canceller {
        self.cancel.clone()
    }

    /// Ends every wait with [`Error::Stopped`] while `stop` is set; what runs in the guest for it is killed.
    pub fn set_stop(&mut self, stop: Arc<AtomicBool>) {
        self.stop = stop;
    }

    fn check_stop(&self) -> Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::Stopped),
            false => Ok(()),
        }
    }

    /// Asks whether the agent answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn ping(&mut self) -> Result<()> {
        self.done(Ask::Ping)
    }

    /// Powers the guest off; returns when the agent has begun to.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn power_off(&mut self) -> Result<()> {
        self.done(Ask::PowerOff)
    }

    /// Sends `ask` and gives the first answer.
    fn call(&mut self, ask: Ask) -> Result<Answer> {
        let id = self.link.send(ask, self.timeout)?;
        self.answer(id)
    }

    /// Sends `ask`, which `Done` answers.
    fn done(&mut self, ask: Ask) -> Result<()> {
        match self.call(ask)? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// The next answer to request `id`; an agent's error is an error.
    fn answer(&mut self, id: u32) -> Result<Answer> {
        loop {
            match self.link.receive(id, Instant::now() + SLICE)? {
                Some(Answer::Error(text)) => return Err(Error::Agent(text)),
                Some(answer) => return Ok(answer),
                // Not counted is the time for which others hold the guest still.
                None if self.link.silence() >= self.timeout => {
                    return Err(self.link.silent(self.timeout));
                }
                None => self.check_stop()?,
            }
        }
    }

    /// Sends `ask` and hands every answer to `on` until `Done`.
    fn stream(&mut self, ask: Ask, mut on: impl FnMut(Answer) -> Result<()>) -> Result<()> {
        let id = self.link.send(ask, self.timeout)?;
        loop {
            match self.answer(id)? {
                Answer::Done => return Ok(()),
                answer => on(answer)?,
            }
        }
    }
}

/// An answer that does not fit the request.
fn unexpected(answer: &Answer) -> Error {
    let name = format!("{answer:?}");
    Error::Protocol(
        name.split(|c: char| !c.is_alphanumeric())
            .next()
            .unwrap_or_default()
            .to_owned(),
    )
}
