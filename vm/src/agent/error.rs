use std::{io, path::PathBuf, time::Duration};

use klab_wire::frame::FrameError;

use crate::halt::Halt;

/// A result of the agent's client.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Reason why the agent did not do what was asked: one sentence and the cure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No guest listens.
    #[error("no guest answers at {}: {why}; start one with `klab up`", socket.display())]
    NoGuest {
        /// Its socket.
        socket: PathBuf,
        /// The system's message.
        why: io::Error,
    },
    /// Every port has its client.
    #[error(
        "all agent ports of this guest are in use ({} of them, one of a guest that is recorded); end another klab command or notebook",
        klab_wire::PORTS
    )]
    Busy,
    /// The guest's CPUs run, and nothing came for too long.
    #[error(
        "the agent said nothing for {} s, while the guest's CPUs run: it is hung, still booting, or very busy; `klab log` and `klab stack` read it all the same, `klab reset` brings it back as it was after its boot",
        .0.as_secs()
    )]
    Silent(Duration),
    /// The guest's CPUs stand still.
    #[error("{0}")]
    Halted(Halt),
    /// The machine closed the connection.
    #[error(
        "the guest was reset, taken down, or has ended: its agent's connection was closed; see `klab status`"
    )]
    Gone,
    /// The agent's own words.
    #[error("{0}")]
    Agent(String),
    /// A command that the loaded module does not know.
    #[error(
        "the module klab in this guest is of an older klab, which knows no such command: `klab kmod unload`, and the next command that needs it loads this klab's"
    )]
    OldModule,
    /// Something other than a message, or another version.
    #[error(
        "the agent's answer cannot be read: {0}; `klab down` and `klab up` bring a guest with this version's agent"
    )]
    Frame(FrameError),
    /// An answer that does not fit the question.
    #[error("the agent gave an answer that does not fit ({0}); `klab reset` brings a fresh guest")]
    Protocol(String),
    /// More than this call takes.
    #[error("the guest sent more than {0} bytes, more than is kept in memory; pull it into a file")]
    TooMuch(usize),
    /// The user stopped the wait.
    #[error("stopped while the guest's agent was waited for")]
    Stopped,
    /// More standard input than fits.
    #[error("standard input of {0} bytes is too long (at most {max}); push it as a file", max = klab_wire::MAX_STDIN)]
    Stdin(usize),
    /// A module that is not loaded or not unloaded.
    #[error(transparent)]
    Module(#[from] super::ModuleError),
    /// A file or socket of the host.
    #[error("{what}: {why}")]
    Io {
        /// The operation.
        what: String,
        /// The system's message.
        why: io::Error,
    },
}

impl Error {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |why| Self::Io { what, why }
    }
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl klab_facts::MachineError for Error {}
