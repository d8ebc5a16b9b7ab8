//! Reasons why a guest does not run, and since when.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::lease::book::Entry;

/// A guest whose CPUs stand still: one sentence, with the cure.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Halt {
    /// Its name.
    pub guest: String,
    /// True if klab started it.
    pub own: bool,
    /// Why.
    pub why: Why,
}

/// Reasons why a guest's CPUs stand still.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// A user wants it so, until `resume`. Of a pause that is not klab's nothing more is known.
    Paused(Option<Pauser>),
    /// A process reads it, and lets it go on when that ends.
    Held(Pauser),
    /// A debugger keeps it where it stopped, until its user lets it go on.
    Stopped(Pauser),
    /// Its kernel panicked; what that said.
    Panicked(Option<String>),
    /// It powered itself off.
    PoweredOff,
    /// It rebooted, and was held there.
    Rebooted,
    /// QEMU gave up on it, in this state.
    Failed(String),
}

impl Why {
    /// Tells whether it can never go on as it is.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        !matches!(self, Self::Paused(_) | Self::Held(_) | Self::Stopped(_))
    }
}

/// A process that keeps a guest from running.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pauser {
    /// The process.
    pub pid: u32,
    /// Program that it runs.
    pub program: String,
    /// Seconds since 1970.
    pub since: u64,
}

impl Pauser {
    pub(crate) fn of(entry: &Entry) -> Self {
        Self {
            pid: entry.process.pid,
            program: entry.program.clone(),
            since: entry.since,
        }
    }

    /// Time since then, in words.
    fn age(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now
            .map_or(0, |now| now.as_secs())
            .saturating_sub(self.since);
        match seconds {
            0..120 => format!("{seconds} s"),
            120..7200 => format!("{} min", seconds / 60),
            _ => format!("{} h", seconds / 3600),
        }
    }
}

impl Halt {
    /// The cure, in words.
    pub(crate) fn cure(&self) -> String {
        let guest = &self.guest;
        match &self.why {
            Why::Paused(_) => format!("`klab resume {guest}` lets it go on"),
            Why::Held(by) => format!("it goes on when process {} lets it, or ends", by.pid),
            Why::Stopped(by) if by.pid == std::process::id() => {
                "`klab continue` lets it go on to its next stop, `klab resume` lets it go"
                    .to_owned()
            }
            Why::Stopped(by) => format!(
                "`continue` or `resume` there lets it go on; it also does when process {} ends",
                by.pid
            ),
            _ if !self.own => "reset it in its QEMU".to_owned(),
            Why::Panicked(_) => format!(
                "`klab log --guest {guest}` has its last words, `klab reset {guest}` brings it back as it was after its boot"
            ),
            _ => format!("`klab reset {guest}` brings it back as it was after its boot"),
        }
    }

    /// Tells whether this process holds it.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(&self.why, Why::Held(by) if by.pid == std::process::id())
    }

    /// Tells whether a client that was last heard, or asked something, at that time (in seconds since 1970) waits on: for a reading's end, and for a
    /// debugger that has stopped the guest in the middle of what was asked.
    pub(crate) fn is_waited_out(&self, heard: u64) -> bool {
        match &self.why {
            Why::Stopped(by) => by.since >= heard,
            _ => self.passes(),
        }
    }

    /// Tells whether the guest goes on by itself: somebody reads it.
    #[must_use]
    pub const fn passes(&self) -> bool {
        matches!(self.why, Why::Held(_))
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused(None) => f.write_str("paused, by none of klab's commands"),
            Self::Paused(Some(by)) => {
                let (program, pid, age) = (&by.program, by.pid, by.age());
                write!(f, "paused for {age} now, by `{program}` (process {pid})")
            }
            Self::Held(by) => {
                let (program, pid, age) = (&by.program, by.pid, by.age());
                write!(
                    f,
                    "held still for {age} now, by `{program}` (process {pid})"
                )
            }
            Self::Stopped(by) => {
                let (program, pid, age) = (&by.program, by.pid, by.age());
                write!(
                    f,
                    "stopped by a debugger for {age} now, by `{program}` (process {pid})"
                )
            }
            Self::Panicked(None) => f.write_str("panicked"),
            Self::Panicked(Some(line)) => write!(f, "panicked ({line})"),
            Self::PoweredOff => f.write_str("powered itself off"),
            Self::Rebooted => f.write_str("has rebooted, and was held there"),
            Self::Failed(state) => write!(f, "was stopped by QEMU ({state})"),
        }
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is = if self.why.is_end() { "" } else { "is " };
        write!(
            f,
            "the guest `{}` {is}{}: {}",
            self.guest,
            self.why,
            self.cure()
        )
    }
}
