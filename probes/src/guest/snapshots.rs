//! Snapshots of a guest that klab started: it goes back to them, and they are read as guests of their own.
//!
//! ```no_run
//! # use probes::prelude::*;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! guest.snapshot("before")?;
//! guest.agent()?.shell("sleep 100 &")?;
//! diff(&guest.in_snapshot("before")?.tasks()?, &guest.tasks()?);
//! guest.restore("before")?;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use serde::Serialize;

use super::Guest;
use crate::memory::RamFile;
use crate::{Listing, Result};

/// A snapshot of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Time at which it was taken, in seconds since 1970.
    pub taken: u64,
    /// Bytes on the host's disk.
    pub bytes: u64,
    /// The guest's name.
    pub guest: String,
}

/// Snapshots of a guest, the oldest first.
pub type Snapshots = Listing<Snapshot>;

impl Snapshot {
    fn of(guest: &str, taken: vm::Snapshot) -> Self {
        Self {
            name: taken.name,
            taken: taken.taken,
            bytes: taken.bytes,
            guest: guest.to_owned(),
        }
    }
}

impl Guest {
    /// Saves the guest as it is now, under a name; one of that name is replaced. It stands still meanwhile.
    ///
    /// # Errors
    /// Machine: for a dump, for a guest that klab did not start or whose run is recorded; when the disk is full.
    pub fn snapshot(&self, name: &str) -> Result<Snapshot> {
        let machine = self.machine()?;
        Ok(Snapshot::of(machine.name(), machine.snapshot(name)?))
    }

    /// All snapshots of the guest, the oldest first.
    ///
    /// # Errors
    /// Machine: for a dump; when the run folder cannot be read.
    pub fn snapshots(&self) -> Result<Snapshots> {
        let machine = self.machine()?;
        let mut all = Snapshots::new();
        for (name, one) in machine.snapshots()? {
            let one = one.map(|one| Snapshot::of(machine.name(), one));
            all.take(one.map_err(Into::into), || name);
        }
        Ok(all)
    }

    /// Puts the guest back into a snapshot, as a reset does into its ready state.
    ///
    /// # Errors
    /// Machine: where there is no such snapshot; when QEMU does not start from it.
    pub fn restore(&self, name: &str) -> Result<()> {
        Ok(self.machine()?.restore(name)?)
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// Machine: where there is no such snapshot.
    pub fn forget_snapshot(&self, name: &str) -> Result<()> {
        Ok(self.machine()?.forget_snapshot(name)?)
    }

    /// Starts another guest, of this name, that is what this one is now: the same memory, tasks and clock, which may go another
    /// way from here on. It lives until `klab down NAME`.
    ///
    /// # Errors
    /// As [`Guest::snapshot`]; where there is a guest of that name.
    pub fn fork(&self, name: &str) -> Result<Self> {
        self.machine()?.fork(name, vm::Owner::Detached)?;
        Self::attach(name)
    }

    /// The guest as it was at a snapshot: memory that stands still, for every reader. It has no agent, and no registers.
    ///
    /// # Errors
    /// Machine: where there is no such snapshot.
    pub fn in_snapshot(&self, name: &str) -> Result<Self> {
        let snapshot = self.machine()?.find_snapshot(name)?;
        Self::from_memory(Arc::new(RamFile::open_all(&[snapshot.ram])?))
    }
}
