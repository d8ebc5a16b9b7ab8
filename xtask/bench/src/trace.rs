//! Traces of functions: what a call costs the guest, beside bpftrace in the same guest.
//!
//! The load is `dd`, which reads one byte at a time. Its time is that which QEMU had on a processor, as with captures.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use probes::guest::Guest;
use vm::Machine;
use vm::agent::Client;
use vm::kernels::{self, Suite};

use crate::report::{Better, Report};
use crate::skb::{done, processor};
use crate::{Guarded, Steps, median, say, up};

/// Rounds; in each, every way is measured once, between two times without any.
const ROUNDS: usize = 5;
/// Calls of `vfs_read` in one load.
const CALLS: u64 = 400_000;
/// Folder of bpftrace in the guest.
const BPFTRACE: &str = "/opt/bpftrace";
/// Time that bpftrace may take until its probes are there.
const PATIENCE: Duration = Duration::from_secs(90);

/// A way to trace `vfs_read` while the load runs, as both write it: klab's condition, bpftrace's program.
struct Way {
    what: &'static str,
    klab: Option<&'static str>,
    bpftrace: &'static str,
}

const WAYS: [Way; 2] = [
    Way {
        what: "a call that the filter lets go by",
        klab: Some("count > 4096"),
        bpftrace: "kprobe:vfs_read /arg2 > 4096/ { @ = count(); }",
    },
    Way {
        what: "a call with its arguments, return value and duration",
        klab: None,
        bpftrace: "kprobe:vfs_read { @at[tid] = nsecs; @count[tid] = arg2; } \
                   kretprobe:vfs_read /@at[tid]/ { @ns = hist(nsecs - @at[tid]); @of[comm, @count[tid], retval] = count(); delete(@at[tid]); delete(@count[tid]); }",
    },
];

/// RAM of the guest, in whose file system bpftrace and its libraries must have room.
const MEMORY: u64 = 3 << 30;

/// Measures all of it, on a guest of its own.
pub(crate) fn run(name: &str, report: &mut Report) -> Result<()> {
    let name = format!("{name}-trace");
    let _own = Guarded(Some(up(&name, MEMORY)?));
    let guest = Guest::attach(&name)?;
    let machine = guest.machine()?;
    let mut client = machine.agent()?;
    say("the module's build and load");
    machine.load_kmod(&mut client, &mut Steps)?;
    say("bpftrace in the guest");
    let bpftrace = put(&machine, &mut client).map_err(|error| format!("{error:#}"));
    // The first load is slower: pages, translations.
    load(&guest, &mut client)?;
    for way in &WAYS {
        one(&guest, &mut client, way, &bpftrace, report)?;
    }
    decoding(&guest, &mut client, report)
}

/// Puts bpftrace of Debian 13 with its libraries into the guest, and runs it once.
fn put(machine: &Machine, client: &mut Client) -> Result<()> {
    let root = kernels::debs(&["bpftrace"], Suite::Trixie, &mut Steps)?;
    client.push_file(
        &root.join("usr/bin/bpftrace"),
        &format!("{BPFTRACE}/bpftrace"),
    )?;
    for folder in ["usr/lib/x86_64-linux-gnu", "usr/lib/llvm-19/lib"] {
        let Ok(files) = fs::read_dir(root.join(folder)) else {
            continue;
        };
        for file in files {
            let path = file?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // The guest has its own libc.
            let own = [
                "libc.",
                "libm.",
                "libpthread.",
                "libdl.",
                "librt.",
                "ld-linux",
            ];
            if name.contains(".so")
                && path.is_file()
                && !own.iter().any(|own| name.starts_with(own))
            {
                client.push_file(&path, &format!("{BPFTRACE}/{name}"))?;
            }
        }
    }
    let mut watcher = machine.agent()?;
    Bpftrace::start(&mut watcher, WAYS[0].bpftrace)?.end(&mut watcher)
}

/// bpftrace at work in the guest.
struct Bpftrace;

impl Bpftrace {
    fn start(client: &mut Client, program: &str) -> Result<Self> {
        let line = format!(
            "cd {BPFTRACE}; LD_LIBRARY_PATH={BPFTRACE} setsid ./bpftrace -e 'BEGIN {{ printf(\"ready\\n\"); }} {program}' >log 2>&1 & \
             echo $! >{BPFTRACE}/pid; cd {BPFTRACE}; n=0; until grep -q ready log 2>/dev/null; do sleep 0.1; n=$((n+1)); \
             [ $n -lt {} ] && kill -0 $(cat pid) || {{ cat log >&2; exit 1; }}; done",
            PATIENCE.as_millis() / 100
        );
        done(client, &line)?;
        Ok(Self)
    }

    fn end(self, client: &mut Client) -> Result<()> {
        let line = format!(
            "cd {BPFTRACE}; kill -INT $(cat pid); while kill -0 $(cat pid) 2>/dev/null; do sleep 0.1; done"
        );
        done(client, &line).map(drop)
    }
}

/// Seconds that QEMU is on a processor for one load.
fn load(guest: &Guest, client: &mut Client) -> Result<f64> {
    let pid = guest.status()?.pid.context("QEMU is gone")?;
    let before = processor(pid)?;
    done(
        client,
        &format!("dd if=/dev/zero of=/dev/null bs=1 count={CALLS} 2>/dev/null"),
    )?;
    Ok(processor(pid)? - before)
}

/// The cost of a call by one way, in nanoseconds of QEMU's time.
fn one(
    guest: &Guest,
    client: &mut Client,
    way: &Way,
    bpftrace: &Result<(), String>,
    report: &mut Report,
) -> Result<()> {
    say(way.what);
    let cost = |with: f64, without: f64| (with - without) * 1e9 / CALLS as f64;
    let (mut klab, mut peer, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let mut lost = 0;
    for _ in 0..ROUNDS {
        let before = load(guest, client)?;
        let mut trace = guest.trace(["vfs_read"])?;
        if let Some(condition) = way.klab {
            trace = trace.when(condition);
        }
        let mut with = 0.0;
        let mut fault = None;
        let traced = trace.during(|| {
            // Code was patched: QEMU translates it anew at first.
            let measured = load(guest, client).and_then(|_| load(guest, client));
            match measured {
                Ok(seconds) => with = seconds,
                Err(error) => fault = Some(error),
            }
            Ok(())
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        lost = lost.max(traced.tally.lost);
        let after = load(guest, client)?;
        klab.push(cost(with, (before + after) / 2.0));
        bare.extend([before, after]);
        if bpftrace.is_ok() {
            let mut watcher = guest.machine()?.agent()?;
            let running = Bpftrace::start(&mut watcher, way.bpftrace)?;
            load(guest, client)?;
            let with = load(guest, client)?;
            running.end(&mut watcher)?;
            peer.push(cost(with, after));
        }
    }
    let row = report.add(
        format!("`vfs_read` traced, {}", way.what),
        median(klab),
        "ns",
        Better::Smaller,
    );
    row.note(format!(
        "{CALLS} calls, {ROUNDS} rounds; without a trace {:.0} ns each; {lost} records lost",
        median(bare) * 1e9 / CALLS as f64
    ));
    match bpftrace {
        Ok(()) => row.peer("bpftrace", median(peer)),
        Err(why) => row.note(format!("no bpftrace: {why}")),
    };
    Ok(())
}

/// Calls made of records a second, by the host: from the end of the load to what a cell shows.
fn decoding(guest: &Guest, client: &mut Client, report: &mut Report) -> Result<()> {
    say("calls made of records");
    let (mut rates, mut calls) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        let mut ended = Instant::now();
        let traced = guest.trace(["vfs_read"])?.during(|| {
            // A load that fails gives no calls.
            let _ = load(guest, client);
            ended = Instant::now();
            Ok(())
        })?;
        calls = traced.calls.len();
        rates.push(calls as f64 / ended.elapsed().as_secs_f64() / 1e6);
    }
    report
        .add(
            "calls made of records, with disarming",
            median(rates),
            "M/s",
            Better::Larger,
        )
        .note(format!("{calls} at once, two records each, {ROUNDS} times"));
    Ok(())
}
