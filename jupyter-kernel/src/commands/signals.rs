//! The end of a command from outside: by Ctrl-C, `kill`, or a terminal that is closed. The command leaves by itself, and
//! undoes what it has begun.
//!
//! One that does not leave soon is ended all the same: nothing depends on it, since a hold of a guest ends with its process.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use probes::cell::{Interrupted, interrupt_on};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use super::output::{self, Stream};

/// Time that a command may take to leave.
const GRACE: Duration = Duration::from_secs(2);

/// The signal that has come, if one has.
#[derive(Debug, Default)]
pub(super) struct Caught(Arc<AtomicUsize>);

impl Caught {
    /// Makes the signals that would end this process set `interrupt` instead, and the flag that the loops of `probes` look at.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn watch(&self, interrupt: &Arc<AtomicBool>) -> Result<()> {
        self.install(interrupt)
            .context("this process cannot catch signals")
    }

    fn install(&self, interrupt: &Arc<AtomicBool>) -> io::Result<()> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let ignored = ignored();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // As `nohup` and shells that put a command into the background leave them.
            if ignored & 1 << (signal - 1) != 0 {
                continue;
            }
            // They run in this order.
            let number = usize::try_from(signal).unwrap_or_default();
            flag::register_usize(signal, Arc::clone(&self.0), number)?;
            flag::register(signal, Arc::clone(interrupt))?;
            interrupt_on(signal)?;
            low_level::pipe::register(signal, theirs.try_clone()?)?;
        }
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Interrupted>() {
                before(info);
            }
        }));
        let caught = Self(Arc::clone(&self.0));
        std::thread::Builder::new()
            .name("klab-signals".to_owned())
            .spawn(move || {
                if ours.read_exact(&mut [0]).is_ok() {
                    let _ = ours.set_read_timeout(Some(GRACE));
                    // Until it is over, or the user is impatient.
                    let _ = ours.read_exact(&mut [0]);
                    caught.say();
                    std::process::exit(caught.code().into());
                }
            })
            .map(drop)
    }

    /// Tells whether a signal has come.
    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }

    fn code(&self) -> u8 {
        u8::try_from(128 + self.0.load(Ordering::Acquire)).unwrap_or(u8::MAX)
    }

    /// The exit code of a command that a signal has ended, as a shell counts it.
    pub(super) fn exit(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    /// Says that a signal has ended the command.
    pub(super) fn say(&self) {
        let name = match i32::try_from(self.0.load(Ordering::Acquire)) {
            Ok(SIGINT) => "interrupted",
            Ok(SIGHUP) => "ended, since its terminal is gone",
            _ => "ended by a signal",
        };
        output::to_terminal(Stream::Stderr, format!("klab: {name}\n").as_bytes());
    }
}

/// The signals that this process was started to ignore, a bit for each (proc(5)).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .unwrap_or(0)
}
