//! What state a guest is in, and why.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qapi::qmp::RunState;
use serde::{Deserialize, Serialize};

use crate::adopt::Adopted;
use crate::agent;
use crate::folder::{Meta, Record};
use crate::launch;
use crate::process;
use crate::qemu::Accel;
use crate::qmp::Qmp;

/// A guest as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: State,
    /// Why, where there is more to say; one clause, and the cure.
    pub detail: Option<String>,
    /// `uname -r` of the kernel that it was started with; `None` for one that was attached.
    pub kernel: Option<String>,
    /// RAM in bytes.
    pub memory: u64,
    /// CPUs.
    pub cpus: u32,
    /// What executes its instructions.
    pub accel: Accel,
    /// QEMU's process; `None` when it is gone.
    pub pid: Option<u32>,
    /// Seconds since 1970 at which it was started or reset.
    pub since: u64,
    /// Whether it ends with the process that started it.
    pub owned: bool,
    /// The control socket of the QEMU that it was attached to; `None` for one that klab started.
    pub attached: Option<PathBuf>,
    /// Where its sockets are.
    pub run_dir: PathBuf,
}

/// What a guest does.
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

/// How long the agent of a guest whose CPUs run may say nothing; under emulation a busy guest is slow.
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
        Some(_) => match Qmp::connect(folder) {
            Err(error) => (State::Unreachable, Some(error.to_string())),
            Ok(mut qmp) => match (qmp.status(), adopted.ask_by(&mut qmp)) {
                (Err(error), _) => (State::Unreachable, Some(error.to_string())),
                (Ok(state), now) => {
                    let (state, detail) = match state {
                        RunState::running => (State::Running, None),
                        RunState::shutdown => (State::PoweredOff, None),
                        state => halted(state),
                    };
                    match now {
                        Ok(now) => {
                            shape = now;
                            (state, detail)
                        }
                        Err(error) => (state, Some(error.to_string())),
                    }
                }
            },
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
        run_dir: folder.to_owned(),
    }
}

/// A machine whose CPUs stand still.
fn halted(state: RunState) -> (State, Option<String>) {
    match state {
        RunState::paused => (State::Paused, None),
        RunState::guest_panicked => (State::Panicked, None),
        RunState::prelaunch
        | RunState::inmigrate
        | RunState::restore_vm
        | RunState::postmigrate => (State::Starting, None),
        other => (
            State::Failed,
            Some(format!(
                "QEMU stopped it ({})",
                format!("{other:?}").replace('_', " ")
            )),
        ),
    }
}

fn own(folder: &Path, meta: &Meta) -> Status {
    let pid = process::recorded(folder);
    let (state, why) = match pid {
        None => (
            State::Dead,
            Some(format!("QEMU ended: {}", launch::last_words(folder))),
        ),
        Some(_) => live(folder),
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
        run_dir: folder.to_owned(),
    }
}

fn live(folder: &Path) -> (State, Option<String>) {
    let state = match Qmp::connect(folder).and_then(|mut qmp| qmp.status()) {
        Ok(state) => state,
        Err(_) if process::recorded(folder).is_none() => {
            return (
                State::Dead,
                Some(format!("QEMU ended: {}", launch::last_words(folder))),
            );
        }
        Err(error) => return (State::Unreachable, Some(error.to_string())),
    };
    match state {
        RunState::running => match agent::Client::connect(folder, SILENCE) {
            Ok(_) | Err(agent::Error::Busy) => (State::Running, None),
            // A kernel that is told not to reboot spins when it has panicked.
            Err(error) => match panic_line(folder) {
                Some(line) => (State::Panicked, Some(line)),
                None => (State::Hung, Some(format!("its CPUs run but {error}"))),
            },
        },
        RunState::debug => (
            State::Paused,
            Some("stopped at a packet; `klab resume` lets it go on".to_owned()),
        ),
        RunState::guest_panicked => (State::Panicked, panic_line(folder)),
        RunState::shutdown => stopped(folder),
        other => halted(other),
    }
}

/// A guest that ended by itself. QEMU traces a power-off; a reboot that `-action` turns into a stop it does not
/// (`qemu_system_shutdown_request`, `qemu_system_reset_request`, softmmu/runstate.c@v7.2.0).
fn stopped(folder: &Path) -> (State, Option<String>) {
    let log = launch::tail(&folder.join("qemu.log"));
    if log.contains("qemu_system_shutdown_request") {
        return (State::PoweredOff, Some("it powered itself off".to_owned()));
    }
    // Without its pvpanic module a kernel that panics reboots.
    match panic_line(folder) {
        Some(line) => (State::Panicked, Some(line)),
        None => (
            State::Rebooted,
            Some("it was held when it rebooted".to_owned()),
        ),
    }
}

/// What the kernel said when it panicked.
fn panic_line(folder: &Path) -> Option<String> {
    const WORDS: &str = "Kernel panic - not syncing";
    let console = launch::tail(&folder.join("serial.log"));
    let line = console
        .lines()
        .rev()
        .find(|line| line.contains(WORDS) && !line.contains("end Kernel panic"))?;
    Some(line.get(line.find(WORDS)?..)?.trim().to_owned())
}
