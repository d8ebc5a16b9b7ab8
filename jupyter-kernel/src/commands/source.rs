//! The source that a reading command looks at: a guest by its name, or a dump.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use clap::Args;
use probes::guest::Guest;
use probes::memory::GuestPhys;
use vm::Machine;

use super::output::{Context, Stream, default_guest};

/// The guests that lines of this notebook looked into. A [`Guest`] follows one of klab's own when it is reset or started
/// anew; under the name of one that someone else started there may be another machine by the next line.
static KNOWN: Mutex<BTreeMap<String, Guest>> = Mutex::new(BTreeMap::new());

/// The source that a reading command looks at.
#[derive(Debug, Clone, Args)]
pub(crate) struct Source {
    /// The guest to look into [default: $KLAB_GUEST, else `default`]
    #[arg(long, value_name = "NAME")]
    guest: Option<String>,
    /// Look into a dump of a guest's memory instead: an ELF core or a kdump file (`klab dump`, QEMU's `dump-guest-memory`)
    #[arg(long, value_name = "FILE", conflicts_with = "guest")]
    core: Option<PathBuf>,
    /// Look into a snapshot of the guest instead (`klab snapshot`)
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = ["core", "kernel_at"])]
    snapshot: Option<String>,
    /// Show the kernel whose VMCOREINFO is at this physical address [default: where several are in memory, the one that
    /// the CPUs run]
    #[arg(long, value_name = "ADDRESS", value_parser = physical)]
    kernel_at: Option<GuestPhys>,
    /// Print the Rust cell that does the same
    #[arg(long)]
    pub(super) code: bool,
}

/// A physical address, in hexadecimal.
fn physical(text: &str) -> Result<GuestPhys, String> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16)
        .map(GuestPhys)
        .map_err(|_| "a physical address is hexadecimal: 0x5865a000".to_owned())
}

impl Source {
    /// The guest. A remark on all that is read in it is said first.
    pub(super) fn open(&self, cx: &mut Context<'_>) -> Result<Guest> {
        let guest = self.find(&cx.guest)?;
        if let Some(note) = guest.note()? {
            (cx.sink)(Stream::Stderr, format!("{note}\n").as_bytes());
        }
        if let Ok(machine) = guest.machine()
            && let Some(foot) = changed(machine.name(), &machine.writes())
        {
            (cx.sink)(Stream::Stderr, foot.as_bytes());
        }
        Ok(guest)
    }

    fn find(&self, default: &str) -> Result<Guest> {
        if let Some(file) = &self.core {
            return Ok(match self.kernel_at {
                Some(at) => Guest::open_core_kernel(file, at)?,
                None => Guest::open_core(file)?,
            });
        }
        let name = self.guest.as_deref().unwrap_or(default);
        if let Some(at) = self.kernel_at {
            return Ok(Guest::attach_kernel(name, at)?);
        }
        let guest = attached(name)?;
        match &self.snapshot {
            Some(snapshot) => Ok(guest.in_snapshot(snapshot)?),
            None => Ok(guest),
        }
    }

    /// The cell's expression for the guest.
    pub(super) fn code(&self) -> String {
        match &self.snapshot {
            Some(snapshot) => format!("{}.in_snapshot({snapshot:?})?", self.guest()),
            None => self.guest(),
        }
    }

    fn guest(&self) -> String {
        let at = self.kernel_at.map(|at| format!("GuestPhys({:#x})", at.0));
        match (&self.core, &self.guest, at) {
            (Some(file), _, Some(at)) => format!("Guest::open_core_kernel({file:?}, {at})?"),
            (Some(file), _, None) => format!("Guest::open_core({file:?})?"),
            (None, name, Some(at)) => {
                let name = name.clone().unwrap_or_else(default_guest);
                format!("Guest::attach_kernel({name:?}, {at})?")
            }
            (None, Some(name), None) => format!("Guest::attach({name:?})?"),
            (None, None, None) => "guest".to_owned(),
        }
    }
}

/// The guest of this name, kept from line to line.
pub(crate) fn attached(name: &str) -> Result<Guest> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let still = |guest: &Guest| {
        guest.kernel().is_ok() && guest.machine().is_ok_and(|machine| machine.is_own())
    };
    if let Some(guest) = known.remove(name).filter(still) {
        known.insert(name.to_owned(), guest.clone());
        return Ok(guest);
    }
    let guest = Guest::attach(name)?;
    if guest.machine()?.is_own() {
        known.insert(name.to_owned(), guest.clone());
    }
    Ok(guest)
}

/// What is said with every view of a guest that klab has written to: what it shows is not the kernel's work alone.
pub(crate) fn foot(guest: &str) -> Option<String> {
    let machine = Machine::attach(guest).ok()?;
    changed(machine.name(), &machine.writes())
}

/// The line about the writes to a guest.
pub(super) fn changed(guest: &str, writes: &[String]) -> Option<String> {
    let (last, count) = (writes.last()?, writes.len());
    let s = if count == 1 { "" } else { "s" };
    Some(format!(
        "{guest}: changed by hand, {count} time{s}, the last time {last}; `klab reset {guest}` undoes it\n"
    ))
}
