//! The command line, drgn on klab's reader, and the machine.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{FcntlArg, fcntl};
use vm::Machine;

use crate::peers;
use crate::report::{Better, Report};
use crate::{Bench, Guarded, klab, many, median, ms, say, timed, up, walks};

/// Measures all of it.
pub(crate) fn run(name: &str, bench: &Bench, report: &mut Report) -> Result<()> {
    let ps = || {
        let mut command = Command::new(klab()?);
        command.args(["ps", "--guest", name]);
        anyhow::Ok(command)
    };
    say("peak memory of `klab ps`");
    let peak = peak(&mut ps()?)?;
    report
        .add("peak memory of `klab ps`", peak, "MiB", Better::Smaller)
        .target(60.0);

    say("cold processes");
    let cold: Vec<f64> = (0..15).map(|_| timed(&mut ps()?)).collect::<Result<_>>()?;
    let least = cold.iter().copied().fold(f64::INFINITY, f64::min);
    let guest = Machine::attach(name)?;
    let drgn = peers::drgn(&guest, bench.vmlinux.as_deref());
    let row = report
        .add(
            "process start to printed task list",
            median(cold),
            "ms",
            Better::Smaller,
        )
        .target(100.0);
    match &drgn {
        Ok(drgn) => row
            .peer("drgn --qemu", drgn.process)
            .note(format!("least {least:.0} ms")),
        Err(why) => row.note(format!("least {least:.0} ms; no drgn: {why}")),
    };

    walks::run(name, &drgn, report)?;
    many::run(name, bench.vmlinux.as_deref(), report)
        .unwrap_or_else(|why| report.failed("many tasks and mappings", &why));
    say("drgn on klab's reader");
    match peers::drgn_on_klab(name) {
        Ok(ours) => bridge(&ours, drgn.as_ref().ok(), report),
        Err(why) => report.failed("drgn on klab's reader", &why),
    }
    machine(name, report)
}

/// The rows of drgn on klab's reader.
fn bridge(ours: &peers::Drgn, theirs: Option<&peers::Drgn>, report: &mut Report) {
    report
        .add(
            "drgn: Python's start to the first typed object",
            ours.process / 1e3,
            "s",
            Better::Smaller,
        )
        .target(0.5)
        .note("a process of its own, 5 times");
    let row = report
        .add(
            "drgn: task walk (pid, comm), warm",
            ours.walk / 1e3,
            "µs/task",
            Better::Smaller,
        )
        .target(15.0);
    if let Some(theirs) = theirs {
        row.peer("drgn --qemu", theirs.walk / 1e3);
    }
}

/// The most memory, in MiB, that a command has when it begins to print. Its stdout is a full pipe, so that it stops
/// there with all its work done.
fn peak(command: &mut Command) -> Result<f64> {
    let (mut read, mut write) = std::io::pipe()?;
    let room = usize::try_from(fcntl(&write, FcntlArg::F_GETPIPE_SZ)?)?;
    write.write_all(&vec![b'\n'; room])?;
    let mut child = command.stdout(write).stderr(Stdio::piped()).spawn()?;
    // The command keeps the pipe's other end until it goes.
    command.stdout(Stdio::null());
    let status = format!("/proc/{}/status", child.id());
    let (mut still, mut peak) = (0, 0.0);
    for _ in 0..500 {
        std::thread::sleep(Duration::from_millis(20));
        let Ok(text) = fs::read_to_string(&status) else {
            break;
        };
        let field = |name: &str| {
            text.lines()
                .find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
        };
        let most =
            field("VmHWM:").and_then(|text| text.trim_end_matches("kB").trim().parse::<f64>().ok());
        let sleeps = field("State:").is_some_and(|state| state.starts_with('S'));
        still = if sleeps && most == Some(peak) {
            still + 1
        } else {
            0
        };
        peak = most.unwrap_or(peak);
        if still >= 10 {
            break;
        }
    }
    let mut printed = Vec::new();
    read.read_to_end(&mut printed)?;
    if !child.wait()?.success() || printed.len() <= room {
        bail!("`klab ps` failed while its memory was measured");
    }
    Ok(peak / 1024.0)
}

/// Boots, restores and resets.
fn machine(name: &str, report: &mut Report) -> Result<()> {
    say("restores and resets");
    let mut restored = Vec::new();
    for turn in 0..5 {
        let start = Instant::now();
        let other = Guarded(Some(up(
            &format!("{name}-{turn}"),
            vm::Options::default().memory,
        )?));
        restored.push(ms(start.elapsed()) / 1e3);
        drop(other);
    }
    report
        .add(
            "`up` from the ready state",
            median(restored),
            "s",
            Better::Smaller,
        )
        .target(0.5)
        .note("5 guests");
    let mut machine = Machine::attach(name)?;
    let mut reset = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        machine.reset()?;
        reset.push(ms(start.elapsed()) / 1e3);
    }
    report
        .add("`reset`", median(reset), "s", Better::Smaller)
        .target(0.5)
        .note("5 times");
    say("a first boot");
    match first_boot(name) {
        Ok(seconds) => {
            report
                .add("first boot to ready", seconds, "s", Better::Smaller)
                .target(10.0)
                .note("boot, save, restore; once");
        }
        Err(why) => report.failed("first boot to ready", &why),
    }
    Ok(())
}

/// Seconds of an `up` that has a kernel and an initramfs but no ready state: in a cache of its own, of links.
fn first_boot(name: &str) -> Result<f64> {
    let cache = vm::paths::cache()?;
    let own = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(&cache)?;
    for part in ["kernels", "initramfs", "debs", "apt", "qemu", "accel.json"] {
        link(&cache.join(part), &own.path().join(part))?;
    }
    let name = format!("{name}-first");
    let run = |words: [&str; 2]| {
        let mut command = Command::new(klab()?);
        command.args(words).env("KLAB_CACHE", own.path());
        timed(&mut command)
    };
    let took = run(["up", &name]);
    let down = run(["down", &name]);
    let took = took? / 1e3;
    down.map(|_| took)
}

fn link(from: &Path, to: &Path) -> Result<()> {
    if from.exists() {
        std::os::unix::fs::symlink(from, to)
            .with_context(|| format!("cannot make {}", to.display()))?;
    }
    Ok(())
}
