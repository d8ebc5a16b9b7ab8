//! Reading memory, the command line, and the machine.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{FcntlArg, fcntl};
use probes::guest::Guest;
use probes::kernel::Kernel;
use probes::memory::{AddressSpace, GuestVirt};
use probes::object::{FixedStr, Mirror, Plan};
use probes::sched::for_each_process;
use vm::Machine;

use super::super::cli::Bench;
use super::super::output::Context;
use super::peers::{self, Walk};
use super::report::{Better, Report};
use super::{Guarded, median, ms, say, timed, up};

/// Walks of the task list whose median is taken.
const WALKS: usize = 2000;
/// Random reads.
const READS: u64 = 4_000_000;
/// Where they fall: so much RAM above so much, which a guest that has booted uses.
const FROM: u64 = 16 << 20;
const SPAN: u64 = 96 << 20;

#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct Entry {
    pid: i32,
    comm: FixedStr<16>,
}

/// Measures all of it.
pub(super) fn run(
    name: &str,
    bench: &Bench,
    report: &mut Report,
    cx: &mut Context<'_>,
) -> Result<()> {
    let ps = || {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["ps", "--guest", name]);
        anyhow::Ok(command)
    };
    say(cx, "peak memory of `klab ps`");
    let peak = peak(&mut ps()?)?;
    report
        .add("peak memory of `klab ps`", peak, "MiB", Better::Smaller)
        .target(60.0);

    say(cx, "cold processes");
    let cold: Vec<f64> = (0..15).map(|_| timed(&mut ps()?)).collect::<Result<_>>()?;
    let least = cold.iter().copied().fold(f64::INFINITY, f64::min);
    let guest = Machine::attach(name)?;
    // drgn asks QEMU for VMCOREINFO. Where the driver is built in there is nothing to load.
    let _ = guest.agent()?.load_module("qemu_fw_cfg", "");
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

    say(cx, "walks and reads");
    let guest = Guest::attach(name)?;
    let (ours, theirs, linear, tables) = guest
        .paused(|guest| Ok(reading(name, &guest.kernel()?)))?
        .context("the walks and reads were not measured")?;
    let same = if ours.sum == theirs.walk.sum {
        ""
    } else {
        "; the two walks differ"
    };
    let count = ours.tasks as f64;
    report
        .add(
            "task walk (next, pid, comm), cold",
            ours.cold / count,
            "ns/task",
            Better::Smaller,
        )
        .target(1000.0)
        .peer("C on the mapping", theirs.walk.cold / count)
        .note(format!("{} tasks, one walk each{same}", ours.tasks));
    let row = report
        .add(
            "task walk (next, pid, comm), warm",
            ours.warm / count,
            "ns/task",
            Better::Smaller,
        )
        .target(50.0)
        .peer("C on the mapping", theirs.walk.warm / count);
    row.note(format!("{WALKS} walks{same}"));
    if let Ok(drgn) = &drgn {
        report
            .add(
                "task walk (pid, comm), warm",
                ours.warm / count,
                "ns/task",
                Better::Smaller,
            )
            .peer("drgn --qemu", drgn.walk);
    }
    let rate = |seconds: f64| READS as f64 / seconds / 1e6;
    let c = rate(theirs.reads);
    let span = SPAN >> 20;
    report
        .add(
            "random 8-byte reads, direct map",
            rate(linear),
            "M/s",
            Better::Larger,
        )
        .target(18.0)
        .peer("C on the mapping", c)
        .note(format!("{} M reads in {span} MiB", READS / 1_000_000));
    report
        .add(
            "random 8-byte reads, by page tables",
            rate(tables),
            "M/s",
            Better::Larger,
        )
        .peer("C on the mapping", c)
        .note("C does not translate");
    say(cx, "drgn on klab's reader");
    match peers::drgn_on_klab(name) {
        Ok(ours) => bridge(&ours, drgn.as_ref().ok(), report),
        Err(why) => report.failed("drgn on klab's reader", &why),
    }
    machine(name, report, cx)
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

/// The walks, ours and C's, and the seconds of the reads by the direct map and by page tables.
fn reading(name: &str, kernel: &Kernel) -> Result<(Walk, peers::Chase, f64, f64)> {
    let plan = Plan::<Entry>::new(kernel)?;
    let once = || -> Result<(u64, u64)> {
        let (mut tasks, mut sum) = (0, 0_u64);
        for task in for_each_process(kernel)? {
            let entry = plan.load(task?)?;
            let half = |at: usize| {
                entry.comm.0[at..at + 8]
                    .try_into()
                    .map_or(0, u64::from_le_bytes)
            };
            let (low, high) = (half(0), half(8));
            let pid = u64::from(entry.pid.cast_unsigned());
            sum = sum
                .wrapping_mul(31)
                .wrapping_add(pid)
                .wrapping_add(low)
                .wrapping_add(high);
            tasks += 1;
        }
        Ok((tasks, sum))
    };
    let start = Instant::now();
    let (tasks, sum) = once()?;
    let cold = start.elapsed().as_nanos() as f64;
    let mut warm = Vec::with_capacity(WALKS);
    for _ in 0..WALKS {
        let start = Instant::now();
        std::hint::black_box(once()?);
        warm.push(start.elapsed().as_nanos() as f64);
    }
    let ours = Walk {
        tasks,
        sum,
        cold,
        warm: median(warm),
    };

    let space = kernel.space();
    let (Some(root), Some(paging)) = (space.root(), space.paging()) else {
        bail!("the kernel has no page tables")
    };
    let by_tables = AddressSpace::paged(space.memory().clone(), root, paging);
    let base = kernel.page_offset_base()?;
    let theirs = peers::chase(&Machine::attach(name)?, kernel, WALKS, READS, FROM, SPAN)?;
    let (linear, first) = reads(space, base)?;
    let (tables, second) = reads(&by_tables, base)?;
    if first != second || first != theirs.sum {
        bail!(
            "the random reads of klab and of C differ, though the guest is paused: this is a bug of klab"
        );
    }
    Ok((ours, theirs, linear, tables))
}

/// Seconds of all random reads, and the sum of what they read.
fn reads(space: &AddressSpace, base: GuestVirt) -> Result<(f64, u64)> {
    for page in (0..SPAN).step_by(4096) {
        space.read_u64(base.offset(FROM + page))?;
    }
    let (mut x, mut sum) = (peers::SEED, 0_u64);
    let start = Instant::now();
    for _ in 0..READS {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let at = FROM + ((x % (SPAN - 8)) & !7);
        sum = sum.wrapping_add(space.read_u64(base.offset(at))?);
    }
    Ok((start.elapsed().as_secs_f64(), sum))
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
fn machine(name: &str, report: &mut Report, cx: &mut Context<'_>) -> Result<()> {
    say(cx, "restores and resets");
    let mut restored = Vec::new();
    for turn in 0..5 {
        let start = Instant::now();
        let other = Guarded(Some(up(&format!("{name}-{turn}"), cx)?));
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
    say(cx, "a first boot");
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
    let klab = |words: [&str; 2]| {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(words).env("KLAB_CACHE", own.path());
        timed(&mut command)
    };
    let took = klab(["up", &name]);
    let down = klab(["down", &name]);
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
