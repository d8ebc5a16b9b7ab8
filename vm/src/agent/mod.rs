//! The host's end of the guest's agent: commands, files, modules, workloads and `/proc`.
//!
//! A [`Client`] holds one of the guest's [`PORTS`] ports for as long as it lives; several clients of one
//! guest, in one process or in many, do not disturb each other. Every call blocks and every wait has an
//! end: an agent that says nothing for [`Client::set_timeout`] is an error.

mod device;
mod error;
mod files;
mod link;
mod proc;
mod run;
mod workload;

use std::{
    fs::{File, OpenOptions},
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

pub use error::{Error, Result};
use klab_wire::{Answer, Ask, Hello};
pub use klab_wire::{
    Exit, HelloReply, Made, PORTS, Run as RunSpec, SocketKind, Stream, WorkloadInfo as Workload,
    WorkloadKind, proc as values,
};
use link::Link;
pub use run::Output;

/// How long an agent may say nothing. Under emulation a loaded guest takes seconds for what takes milliseconds.
const SILENCE: Duration = Duration::from_secs(30);
/// How long until a greeting is sent once more, after what ends a frame that an earlier client left open.
const SECOND_HELLO: Duration = Duration::from_secs(2);

/// A connection to the agent of one guest.
#[derive(Debug)]
pub struct Client {
    link: Link,
    hello: HelloReply,
    port: usize,
    timeout: Duration,
    cancel: Canceller,
    /// Held for the client's life: whoever has its lock has the port.
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
    /// Takes a free port of the guest whose sockets are `agent.0` to `agent.7` in `run_dir`, and greets its
    /// agent. The agent sets the guest's clock by the host's.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without such a socket, [`Error::Busy`] when every port is taken, [`Error::Silent`]
    /// when the agent does not answer within `timeout`, [`Error::Frame`] when it speaks another version.
    pub fn connect(run_dir: &Path, timeout: Duration) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        let (port, lock) = take_port(run_dir)?;
        let socket = run_dir.join(format!("agent.{port}"));
        let stream = UnixStream::connect(&socket).map_err(|source| Error::NoGuest {
            socket: socket.clone(),
            why: source,
        })?;
        let mut link = Link::new(stream);
        let hello = greet(&mut link, deadline, timeout)?;
        Ok(Self {
            link,
            hello,
            port,
            timeout: SILENCE,
            cancel: Canceller::default(),
            _lock: lock,
        })
    }

    /// What the agent said of itself and its kernel.
    pub fn hello(&self) -> &HelloReply {
        &self.hello
    }

    /// The port that this client holds, below [`PORTS`].
    pub fn port(&self) -> usize {
        self.port
    }

    /// How long the agent may say nothing before a call gives up; 30 s at first.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// A handle that ends this client's run from another thread.
    pub fn canceller(&self) -> Canceller {
        self.cancel.clone()
    }

    /// Whether the agent answers.
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

    /// Loads a module and what it depends on, as modprobe does; says which were loaded, dependencies first.
    ///
    /// # Errors
    /// When the guest has no such module or its kernel refuses it.
    pub fn load_module(&mut self, name: &str, params: &str) -> Result<Vec<String>> {
        let ask = Ask::LoadModule {
            name: name.to_owned(),
            params: params.to_owned(),
        };
        match self.call(ask)? {
            Answer::Loaded(names) => Ok(names),
            other => Err(unexpected(&other)),
        }
    }

    /// Unloads a module.
    ///
    /// # Errors
    /// When it is not loaded or in use.
    pub fn unload_module(&mut self, name: &str) -> Result<()> {
        self.done(Ask::UnloadModule {
            name: name.to_owned(),
        })
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
        let deadline = Instant::now() + self.timeout;
        match self.link.receive(id, deadline)? {
            Some(Answer::Error(text)) => Err(Error::Agent(text)),
            Some(answer) => Ok(answer),
            None => Err(Error::Silent(self.timeout)),
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

/// The first port whose lock is free.
fn take_port(run_dir: &Path) -> Result<(usize, File)> {
    for port in 0..PORTS {
        let path = run_dir.join(format!("agent.{port}.lock"));
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| Error::NoGuest {
                socket: path,
                why: source,
            })?;
        if lock.try_lock().is_ok() {
            return Ok((port, lock));
        }
    }
    Err(Error::Busy)
}

fn greet(link: &mut Link, deadline: Instant, timeout: Duration) -> Result<HelloReply> {
    let mut second = Some((Instant::now() + SECOND_HELLO).min(deadline));
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let nonce = (now.as_nanos() as u64).rotate_left(17) ^ u64::from(std::process::id());
    let hello = || {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Ask::Hello(Hello {
            time_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            nonce,
        })
    };
    let mut id = link.send(hello(), timeout)?;
    loop {
        match link.receive(id, second.unwrap_or(deadline))? {
            Some(Answer::Hello(reply)) if reply.nonce == nonce => return Ok(reply),
            // What an earlier client's requests left on the way.
            Some(_) => {}
            None if second.take().is_some() && Instant::now() < deadline => {
                let left = deadline.saturating_duration_since(Instant::now());
                link.flush(left)?;
                id = link.send(hello(), left)?;
            }
            None => return Err(Error::Silent(timeout)),
        }
    }
}
