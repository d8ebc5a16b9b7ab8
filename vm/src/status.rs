//! State of a guest, and the reason.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::adopt::Adopted;
use crate::agent;
use crate::folder::{Meta, Record};
use crate::halt::{Halt, Why};
use crate::launch;
use crate::lease::Open;
use crate::machine::Recording;
use crate::process;
use crate::qemu::Accel;
use crate::qmp::{Qmp, RunState};
use crate::written;

/// A guest as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// State of the guest.
    pub state: State,
    /// Why, where there is more to say; one clause, and the cure.
    pub detail: Option<String>,
    /// `uname -r` of the kernel that it was started with; `None` for one that was attached.
    pub kernel: Option<String>,
    /// RAM in bytes.
    pub memory: u64,
    /// CPUs.
    pub cpus: u32,
    /// Accelerator that executes its instructions.
    pub accel: Accel,
    /// QEMU's process; `None` when it is gone.
    pub pid: Option<u32>,
    /// Seconds since 1970 at which it was started or reset.
    pub since: u64,
    /// True if it ends with the process that started it.
    pub owned: bool,
    /// The control socket of the QEMU that it was attached to; `None` for one that klab started.
    pub attached: Option<PathBuf>,
    /// Values that were written into its memory by hand since it was started or reset.
    pub writes: Vec<String>,
    /// Its record, of a guest that is recorded or replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<Recording>,
    /// Folder of its sockets.
    pub run_dir: PathBuf,
}

/// State of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its CPUs run and its agent answers (or is busy with others).
    Running,
    /// Its CPUs stand still, by our wish.
    Paused,
    /// Its CPUs run and its agent says nothing.
    Hung,
    /// Its kernel panicked. RAM stays readable.
    Panicked,
    /// It powered itself off. RAM stays readable.
    PoweredOff,
    /// It rebooted, and was held there. RAM stays readable.
    Rebooted,
    /// QEMU gave up on it. RAM stays readable.
    Failed,
    /// It is being started or reset.
    Starting,
    /// QEMU's control socket is held by something else.
    Unreachable,
    /// QEMU is gone. RAM stays readable.
    Dead,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Hung => "hung",
            Self::Panicked => "panicked",
            Self::PoweredOff => "powered off",
            Self::Rebooted => "rebooted",
            Self::Failed => "failed",
            Self::Starting => "starting",
            Self::Unreachable => "unreachable",
            Self::Dead => "dead",
        })
    }
}

/// Time that the agent of a guest whose CPUs run may say nothing; under emulation a busy guest is slow.
const SILENCE: Duration = Duration::from_secs(3);

pub(crate) fn of(folder: &Path, record: &Record) -> Status {
    match record {
        Record::Own(meta) => own(folder, meta),
        Record::Adopted(adopted) => attached(folder, adopted),
    }
}

fn attached(folder: &Path, adopted: &Adopted) -> Status {
    let pid = adopted.qemu.lives().then(|| adopted.qemu.pid());
    let mut shape = adopted.shape.clone();
    let (state, detail) = match pid {
        None => (
            State::Dead,
            Some(format!(
                "QEMU has ended: `klab detach {}` forgets the guest",
                adopted.name
            )),
        ),
        Some(_) => match Open::of(folder).and_then(|mut open| open.standing()) {
            Err(error) => (State::Unreachable, Some(error.to_string())),
            Ok((state, halt)) => {
                let (state, detail) = match halt {
                    Some(halt) => halted(state, &halt),
                    None => (State::Running, None),
                };
                match Qmp::connect(folder).and_then(|mut qmp| adopted.ask_by(&mut qmp)) {
                    Ok(now) => {
                        shape = now;
                        (state, detail)
                    }
                    Err(error) => (state, Some(error.to_string())),
                }
            }
        },
    };
    Status {
        name: adopted.name.clone(),
        state,
        detail,
        kernel: None,
        memory: shape.memory.bytes(),
        cpus: shape.cpus,
        accel: adopted.accel,
        pid,
        since: adopted.since,
        owned: false,
        attached: Some(adopted.qmp.clone()),
        writes: written::of(folder),
        recording: None,
        run_dir: folder.to_owned(),
    }
}

/// A machine whose CPUs stand still, and what is to be said of it.
fn halted(state: RunState, halt: &Halt) -> (State, Option<String>) {
    let said = format!("{}: {}", halt.why, halt.cure());
    match &halt.why {
        Why::Paused(None)
            if matches!(
                state,
                RunState::Prelaunch
                    | RunState::Inmigrate
                    | RunState::RestoreVm
                    | RunState::Postmigrate
            ) =>
        {
            (State::Starting, None)
        }
        Why::Paused(_) | Why::Held(_) | Why::Stopped(_) => (State::Paused, Some(said)),
        Why::Panicked(line) => (State::Panicked, line.clone()),
        Why::PoweredOff => (State::PoweredOff, Some("it powered itself off".to_owned())),
        Why::Rebooted => (
            State::Rebooted,
            Some("it was held when it rebooted".to_owned()),
        ),
        Why::Failed(state) => (State::Failed, Some(format!("QEMU stopped it ({state})"))),
    }
}

/// Reason why a guest in this state cannot go on; `None` if it can.
pub(crate) fn ended(folder: &Path, state: RunState) -> Option<Why> {
    match state {
        RunState::GuestPanicked => Some(Why::Panicked(panic_line(folder))),
        RunState::Shutdown => Some(stopped(folder)),
        RunState::InternalError
        | RunState::IoError
        | RunState::Suspended
        | RunState::Watchdog
        | RunState::Colo => Some(Why::Failed(state.name().to_owned())),
        _ => None,
    }
}

fn own(folder: &Path, meta: &Meta) -> Status {
    let pid = process::recorded(folder);
    // Another process may have ended it.
    let recording = match meta.recording {
        Some(_) => Meta::read(folder)
            .ok()
            .flatten()
            .and_then(|now| now.recording),
        None => None,
    };
    let (state, why) = match (pid, recording) {
        (None, _) => (
            State::Dead,
            Some(format!("QEMU ended: {}", launch::last_words(folder))),
        ),
        (
            Some(_),
            Some(Recording {
                first,
                last: Some(last),
            }),
        ) => replay(folder, first, last),
        (Some(_), _) => live(folder),
    };
    let cure = match state {
        State::Running | State::Paused | State::Starting | State::Unreachable => None,
        _ => Some(format!(
            "its RAM stays readable until `klab reset {0}` or `klab down {0}`",
            meta.name
        )),
    };
    let detail = match (why, cure) {
        (Some(why), Some(cure)) => Some(format!("{why}; {cure}")),
        (why, cure) => why.or(cure),
    };
    Status {
        name: meta.name.clone(),
        state,
        detail,
        kernel: Some(meta.kernel.release.clone()),
        memory: meta.spec.memory,
        cpus: meta.spec.cpus,
        accel: meta.spec.accel,
        pid,
        since: meta.since,
        owned: meta.owner.is_some(),
        attached: None,
        writes: written::of(folder),
        recording,
        run_dir: folder.to_owned(),
    }
}

/// A replay stands, or goes to where it will.
fn replay(folder: &Path, first: u64, last: u64) -> (State, Option<String>) {
    let asked = Qmp::connect(folder).and_then(|mut qmp| Ok((qmp.status()?, qmp.instruction()?)));
    match asked {
        Ok((state, here)) => {
            let at = here.unwrap_or(0);
            let state = match state {
                RunState::Running => State::Running,
                _ => State::Paused,
            };
            let said = format!(
                "a replay, at instruction {at} of {first} to {last}: `klab replay --at INSTRUCTION` goes to another"
            );
            (state, Some(said))
        }
        Err(error) => (State::Unreachable, Some(error.to_string())),
    }
}

fn live(folder: &Path) -> (State, Option<String>) {
    match Open::of(folder).and_then(|mut open| open.standing()) {
        Ok((state, Some(halt))) => halted(state, &halt),
        Ok((_, None)) => match agent::Client::connect(folder, SILENCE) {
            Ok(_) | Err(agent::Error::Busy) => (State::Running, None),
            // It was stopped in the meantime, or its kernel spins after a panic.
            Err(agent::Error::Halted(halt)) => halted(RunState::Running, &halt),
            Err(error) => (State::Hung, Some(format!("its CPUs run but {error}"))),
        },
        Err(_) if process::recorded(folder).is_none() => (
            State::Dead,
            Some(format!("QEMU ended: {}", launch::last_words(folder))),
        ),
        Err(error) => (State::Unreachable, Some(error.to_string())),
    }
}

/// A guest that ended by itself. QEMU traces a power-off; a reboot that `-action` turns into a stop it does not
/// (`qemu_system_shutdown_request`, `qemu_system_reset_request`, softmmu/runstate.c@v7.2.0).
fn stopped(folder: &Path) -> Why {
    let log = launch::tail(&folder.join("qemu.log"));
    // A machine that klab did not start has no log.
    if log.contains("qemu_system_shutdown_request") || !folder.join("meta.json").exists() {
        return Why::PoweredOff;
    }
    // Without its pvpanic module a kernel that panics reboots.
    match panic_line(folder) {
        Some(line) => Why::Panicked(Some(line)),
        None => Why::Rebooted,
    }
}

/// The kernel's message when it panicked.
pub(crate) fn panic_line(folder: &Path) -> Option<String> {
    const WORDS: &str = "Kernel panic - not syncing";
    let console = launch::tail(&folder.join("serial.log"));
    let line = console
        .lines()
        .rev()
        .find(|line| line.contains(WORDS) && !line.contains("end Kernel panic"))?;
    Some(line.get(line.find(WORDS)?..)?.trim().to_owned())
}
