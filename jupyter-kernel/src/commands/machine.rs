//! The commands that start, stop and hold a guest.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use probes::Guest;
use probes::view::{Align::Left, Table, View, escape};
use serde_json::{Value, json};
use vm::{KernelChoice, Machine, Options, Position, Start, Status};

use super::cli::{self, Up};
use super::output::{Context, Output, Stream};
use super::progress::Shown;
use super::source;
use crate::debugger::kept;

/// Runs one of them.
pub(crate) fn run(command: &cli::Machine, cx: &mut Context<'_>) -> Result<Output> {
    use cli::Machine as M;
    match command {
        M::Up(up) => start(up, cx),
        M::Status { name } => status(name.as_deref()),
        M::Down { all: true, .. } => down_all(cx),
        M::Attach { name, qmp, gdb } => adopt(name, qmp, gdb.as_deref(), cx),
        M::Detach { name } => {
            Machine::attach(name)?.detach()?;
            done(name, "detached")
        }
        M::Dump { name, file } => dump(name, file),
        M::Down { name, all: false } => attach(name.as_deref(), cx).and_then(|machine| {
            let (name, own) = (machine.name().to_owned(), machine.is_own());
            machine.down()?;
            done(&name, if own { "down" } else { "detached" })
        }),
        M::Reset { name } => {
            let (mut machine, start) = (attach(name.as_deref(), cx)?, Instant::now());
            machine.reset()?;
            let seconds = start.elapsed().as_secs_f64();
            let text = format!(
                "{} is back in its ready state ({seconds:.2} s)\n",
                machine.name()
            );
            Output::new(
                text,
                &json!({ "name": machine.name(), "seconds": seconds, "state": "running" }),
            )
        }
        M::Snapshot {
            snapshot,
            forget,
            guest,
        } => {
            let guest = source::attached(guest.as_deref().unwrap_or(&cx.guest))?;
            if *forget {
                guest.forget_snapshot(snapshot)?;
                return Output::new(
                    format!("the snapshot {snapshot} is gone\n"),
                    &json!({ "name": snapshot, "state": "forgotten" }),
                );
            }
            Output::of(&guest.snapshot(snapshot)?)
        }
        M::Snapshots { name } => {
            Output::of(&source::attached(name.as_deref().unwrap_or(&cx.guest))?.snapshots()?)
        }
        M::Fork { name, guest } => {
            let (from, start) = (attach(guest.as_deref(), cx)?, Instant::now());
            let machine = from.fork(name, vm::Owner::Detached)?;
            let seconds = start.elapsed().as_secs_f64();
            let text = format!("{name} is what {} is ({seconds:.2} s)\n", from.name());
            let mut value = serde_json::to_value(machine.status())?;
            value["seconds"] = json!(seconds);
            Output::new(text, &value)
        }
        M::Restore { snapshot, guest } => {
            let (mut machine, start) = (attach(guest.as_deref(), cx)?, Instant::now());
            machine.restore(snapshot)?;
            let seconds = start.elapsed().as_secs_f64();
            Output::new(
                format!(
                    "{} is back in the snapshot {snapshot} ({seconds:.2} s)\n",
                    machine.name()
                ),
                &json!({ "name": machine.name(), "snapshot": snapshot, "seconds": seconds, "state": "running" }),
            )
        }
        M::Pause { name } => {
            let machine = attach(name.as_deref(), cx)?;
            machine.pause()?;
            done(machine.name(), "paused")
        }
        M::Replay { name, at, when } => {
            let (machine, start) = (attach(name.as_deref(), cx)?, Instant::now());
            let position = match when {
                Some(expression) => {
                    let guest = Guest::attach(machine.name())?;
                    guest.first_time(|guest| Ok(guest.eval(expression)?.u64()? != 0))?;
                    machine.position()?
                }
                None => machine.seek(*at, &mut Shown::on(cx))?,
            };
            let seconds = start.elapsed().as_secs_f64();
            let text = format!(
                "{} is at instruction {} of {} to {} ({seconds:.2} s)\n",
                machine.name(),
                position.instruction,
                position.first,
                position.last
            );
            let mut value = record(machine.name(), position);
            // A number and two bounds: the front end makes a slider of them.
            let html = format!(
                "<div data-klab-record=\"{}\">{}<br><progress value=\"{}\" max=\"{}\" style=\"width: 60%\"></progress></div>",
                escape(&value.to_string()),
                escape(text.trim_end()),
                position.instruction.saturating_sub(position.first),
                position.last.saturating_sub(position.first),
            );
            value["seconds"] = json!(seconds);
            Ok(Output {
                html: Some(html),
                ..Output::new(text, &value)?
            })
        }
        M::Resume { name } => {
            let machine = attach(name.as_deref(), cx)?;
            if !kept::end_of(machine.name())? {
                machine.resume()?;
            }
            done(machine.name(), "running")
        }
    }
}

/// Where a guest stands in its record, for programs and for the slider of a notebook.
pub(crate) fn record(guest: &str, position: Position) -> Value {
    json!({
        "name": guest,
        "instruction": position.instruction,
        "first": position.first,
        "last": position.last,
    })
}

/// Makes the needs of the first `up`: kernel, initramfs, ready state.
pub(super) fn prepare(cx: &mut Context<'_>) -> Result<()> {
    Machine::prepare(&Options::default(), &mut Shown::on(cx))?;
    Ok(())
}

/// Starts the guest that is meant, unless it is up.
pub(super) fn ready(cx: &mut Context<'_>) -> Result<()> {
    match Machine::attach(&cx.guest) {
        Err(vm::Error::UnknownGuest { .. }) => {
            let name = cx.guest.clone();
            Machine::up(&name, &Options::default(), &mut Shown::on(cx))?;
            Ok(())
        }
        other => Ok(other.map(drop)?),
    }
}

/// The guest's agent, built if need be.
pub(super) fn agent(cx: &mut Context<'_>) -> Result<PathBuf> {
    Ok(vm::initramfs::agent_binary(&mut Shown::on(cx))?)
}

/// The machine `name`, else the one that is meant.
pub(super) fn attach(name: Option<&str>, cx: &Context<'_>) -> Result<Machine> {
    Ok(Machine::attach(name.unwrap_or(&cx.guest))?)
}

fn done(name: &str, state: &str) -> Result<Output> {
    Output::new(
        format!("{name} is {state}\n"),
        &json!({ "name": name, "state": state }),
    )
}

fn adopt(name: &str, qmp: &Path, gdb: Option<&str>, cx: &mut Context<'_>) -> Result<Output> {
    let machine = Machine::adopt(name, qmp, gdb)?;
    let (status, way) = (machine.status(), machine.memory().way());
    // One that has not booted yet is attached all the same.
    let guest = Guest::attach(name);
    if let Ok(Some(note)) = guest.as_ref().map_or(Ok(None), Guest::note) {
        (cx.sink)(Stream::Stderr, format!("{note}\n").as_bytes());
    }
    let kernel = guest.and_then(|guest| guest.kernel());
    let found = match &kernel {
        Ok(kernel) => format!("linux {}", kernel.release()),
        Err(error) => error.to_string(),
    };
    let text = format!(
        "{name} is attached and {}: {found}, {}, RAM {way}\n",
        status.state,
        shape(&status)
    );
    let mut value = serde_json::to_value(&status)?;
    value["kernel"] = json!(kernel.ok().map(|kernel| kernel.release().to_owned()));
    value["ram"] = json!(way);
    Output::new(text, &value)
}

fn dump(name: &str, file: &Path) -> Result<Output> {
    let start = Instant::now();
    let dump = Guest::attach(name)?.dump(file)?;
    let seconds = start.elapsed().as_secs_f64();
    let plural = if dump.cpus == 1 { "" } else { "s" };
    let text = format!(
        "{}: linux {}, {} MiB of memory ({} MiB on the disk), registers of {} CPU{plural} ({seconds:.2} s)\n",
        dump.path.display(),
        dump.release,
        dump.memory >> 20,
        dump.written.div_ceil(1 << 20),
        dump.cpus
    );
    Output::new(text, &dump)
}

fn start(up: &Up, cx: &mut Context<'_>) -> Result<Output> {
    let mut kernel: KernelChoice = up
        .kernel
        .as_deref()
        .unwrap_or_default()
        .parse()
        .unwrap_or_default();
    if let KernelChoice::Path { modules, .. } = &mut kernel {
        modules.clone_from(&up.modules);
    }
    let options = Options {
        kernel,
        memory: up.memory,
        cpus: up.cpus,
        start: match (up.hold, up.record) {
            (true, _) => Start::Held,
            (_, true) => Start::Recorded,
            _ => Start::Ready,
        },
        ..Options::default()
    };
    let (name, start) = (
        up.name.clone().unwrap_or_else(|| cx.guest.clone()),
        Instant::now(),
    );
    let machine = Machine::up(&name, &options, &mut Shown::on(cx))?;
    let seconds = start.elapsed().as_secs_f64();
    let (status, kernel) = (machine.status(), &machine.kernel()?.release);
    let text = format!(
        "{name} is {}: linux {kernel}, {} ({seconds:.2} s)\n",
        status.state,
        shape(&status)
    );
    let mut value = serde_json::to_value(&status)?;
    value["seconds"] = json!(seconds);
    Output::new(text, &value)
}

/// `512 MiB, 2 CPUs, tcg`.
fn shape(status: &Status) -> String {
    let plural = if status.cpus == 1 { "" } else { "s" };
    let recorded = match &status.recording {
        Some(recording) if recording.last.is_none() => ", recorded",
        _ => "",
    };
    format!(
        "{} MiB, {} CPU{plural}, {}{recorded}",
        status.memory >> 20,
        status.cpus,
        status.accel
    )
}

fn status(name: Option<&str>) -> Result<Output> {
    let all = match name {
        Some(name) => vec![Machine::attach(name)?.status()],
        None => Machine::list()?,
    };
    if all.is_empty() {
        return Output::new("no guest is up: `klab up` starts one\n", &all);
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut table =
        Table::new(["NAME", "STATE", "KERNEL", "SHAPE", "SINCE", "PID"].map(|name| (name, Left)));
    for guest in &all {
        let pid = guest
            .pid
            .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let since = ago(now.saturating_sub(guest.since));
        table.row([
            guest.name.clone(),
            guest.state.to_string(),
            guest
                .kernel
                .clone()
                .unwrap_or_else(|| "(attached)".to_owned()),
            shape(guest),
            since,
            pid,
        ]);
    }
    let mut text = table.text();
    for guest in &all {
        if let Some(detail) = &guest.detail {
            text.push_str(&format!("{}: {detail}\n", guest.name));
        }
        text.extend(source::changed(&guest.name, &guest.writes));
    }
    Ok(Output {
        html: table.html(),
        ..Output::new(text, &all)?
    })
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

fn down_all(cx: &mut Context<'_>) -> Result<Output> {
    let (mut ended, mut failed) = (Vec::new(), None);
    for guest in Machine::list()? {
        match Machine::attach(&guest.name).and_then(Machine::down) {
            Ok(()) => ended.push(guest.name),
            Err(error) => {
                (cx.sink)(Stream::Stderr, format!("{error}\n").as_bytes());
                failed = Some(error);
            }
        }
    }
    let text = if ended.is_empty() {
        "no guest was up\n".to_owned()
    } else {
        format!("down: {}\n", ended.join(", "))
    };
    Ok(Output {
        code: failed.is_some().into(),
        ..Output::new(text, &json!({ "down": ended }))?
    })
}
