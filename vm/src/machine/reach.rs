//! Connections to a guest: its agent, QEMU, its gdbstub, its cable; and the files that they go by.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Machine, Record};
use crate::agent;
use crate::debugger::Debugger;
use crate::error::{Error, Result};
use crate::lease;
use crate::nic::Cable;
use crate::qmp::{Qmp, RunState};

/// Time that a reading waits for QEMU's socket where it can do without.
pub(crate) const BRIEF: Duration = Duration::from_millis(250);

impl Machine {
    /// Tells whether its CPUs run: they do not when it is paused, panicked or powered off.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn runs(&self) -> Result<bool> {
        Ok(self.qmp()?.status()? == RunState::Running)
    }

    /// Stops the guest, to be stopped again where its CPUs reach or write to certain addresses; for one holder at a time. It runs
    /// when it is told to, and when this is dropped.
    ///
    /// # Errors
    /// [`Error::Halted`] when it stands still already, [`Error::DebuggerTaken`], [`Error::NoGdbstub`], [`Error::Dead`].
    pub fn debugger(&self) -> Result<Debugger> {
        self.alive()?;
        self.not_replayed()?;
        let address = match &self.record {
            Record::Own(_) => self.gdb_socket().to_string_lossy().into_owned(),
            Record::Adopted(adopted) => adopted.gdbstub(&self.folder)?,
        };
        if let Some(halt) = lease::Open::of(&self.folder)?.halt()? {
            return Err(Error::Halted(halt));
        }
        Debugger::attach(&self.folder, self.name(), &address)
    }

    /// The folder of its sockets.
    pub fn run_dir(&self) -> &Path {
        &self.folder
    }

    /// All that its console printed, from its kernel's first line.
    pub fn serial_log(&self) -> PathBuf {
        self.folder.join("serial.log")
    }

    /// Its console, a Unix socket for one client.
    pub fn serial_socket(&self) -> PathBuf {
        self.folder.join("serial")
    }

    /// A QMP socket that klab leaves to other tools; for one client.
    pub fn qmp_socket(&self) -> PathBuf {
        self.folder.join("qmp2")
    }

    /// Its gdbstub, a Unix socket for one client (`target remote PATH`).
    pub fn gdb_socket(&self) -> PathBuf {
        self.folder.join("gdb")
    }

    /// A connection to its agent; several at once are fine.
    ///
    /// # Errors
    /// [`Error::Dead`], [`agent::Error`] when it does not answer.
    pub fn agent(&self) -> Result<agent::Client> {
        self.own("so no agent of klab's runs in it: `klab up` starts one that has it")?;
        self.alive()?;
        self.not_replayed()?;
        // One that somebody only reads goes on in a moment.
        if let Some(halt) = lease::halt(&self.folder).filter(|halt| !halt.passes()) {
            return Err(Error::Halted(halt));
        }
        Ok(agent::Client::connect(
            &self.folder,
            Duration::from_secs(10),
        )?)
    }

    /// The other end of its network card's cable, for one holder at a time.
    ///
    /// # Errors
    /// [`Error::Dead`], [`Error::CableTaken`].
    pub fn cable(&self) -> Result<Cable> {
        let meta = self.own("so klab has no end of its network cable: `klab up` starts one")?;
        self.alive()?;
        if meta.spec.recorded {
            return Err(Error::NoCard(meta.name.clone()));
        }
        Cable::connect(&self.folder, &meta.name)
    }

    pub(crate) fn qmp(&self) -> Result<Qmp> {
        self.alive()?;
        Qmp::connect(&self.folder)
    }

    pub(crate) fn qmp_at_once(&self) -> Result<Qmp> {
        self.alive()?;
        Qmp::connect_within(&self.folder, BRIEF)
    }
}
