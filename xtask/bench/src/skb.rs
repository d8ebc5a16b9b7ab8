//! Captures of packets: what they cost the guest, beside pwru in the same guest; how fast the host reads and arms.
//!
//! Throughput is counted in bytes a second of the time that QEMU had on a processor: the guest's virtual CPUs do nothing but
//! carry the load, and other programs on the host do not count.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use probes::guest::Guest;
use probes::skb::{Filter, Profile};
use vm::Machine;
use vm::agent::{Client, RunSpec};
use vm::kernels::{self, Suite};

use crate::report::{Better, Report};
use crate::{Steps, median, ms, say};

/// Rounds; in each, every way is measured once, between two times without any.
const ROUNDS: usize = 5;
/// Bytes through the loopback device.
const BYTES: u64 = 128 << 20;
/// Filter that no packet of the load meets.
const NOTHING: &str = "tcp port 9";
/// Path of pwru in the guest.
const PWRU: &str = "/opt/pwru";
/// Time that pwru may take until it listens.
const PATIENCE: Duration = Duration::from_secs(60);

/// A way to watch packets while the load runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    None,
    /// klab, by a profile and a filter.
    Klab(&'static str, Option<&'static str>),
    /// pwru, by a filter.
    Pwru(&'static str),
}

/// Measures all of it.
pub(crate) fn run(name: &str, report: &mut Report) -> Result<()> {
    let guest = Guest::attach(name)?;
    let machine = guest.machine()?;
    let mut client = machine.agent()?;
    say("the module's build and load");
    machine.load_kmod(&mut client, &mut Steps)?;
    let pwru = pwru(&machine, &mut client);
    say("loopback throughput, watched and not");
    through(&guest, &mut client, &pwru, report)?;
    say("arming and reading");
    arming(&guest, report)?;
    reading(&guest, &mut client, report)?;
    stopping(&guest, report)
}

/// Puts pwru of Debian 13 into the guest; the error says why it cannot be.
fn pwru(machine: &Machine, client: &mut Client) -> Result<(), String> {
    let put = |client: &mut Client| -> Result<()> {
        let root = kernels::debs(&["pwru"], Suite::Trixie, &mut Steps)?;
        client.push_file(&root.join("usr/bin/pwru"), &format!("{PWRU}/pwru"))?;
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        for entry in fs::read_dir(&libraries)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // The guest has its own libc.
            let wanted = [
                "libpcap.",
                "libdbus-1.",
                "libsystemd.",
                "libcap.",
                "libgcc_s.",
            ];
            if wanted.iter().any(|wanted| name.starts_with(wanted)) {
                client.push_file(&path, &format!("{PWRU}/{name}"))?;
            }
        }
        Ok(())
    };
    put(client).map_err(|error| format!("{error:#}"))?;
    // Tells whether it runs on this kernel at all.
    let mut watcher = machine.agent().map_err(|error| error.to_string())?;
    Pwru::start(&mut watcher, NOTHING)
        .and_then(|pwru| pwru.end(&mut watcher))
        .map_err(|error| format!("{error:#}"))
}

/// pwru at work in the guest.
struct Pwru {
    attached: Duration,
}

impl Pwru {
    fn start(client: &mut Client, filter: &str) -> Result<Self> {
        let began = Instant::now();
        let line = format!(
            "cd {PWRU}; rm -f ready log; \
             LD_LIBRARY_PATH={PWRU} setsid ./pwru --output-file /dev/null --ready-file {PWRU}/ready '{filter}' >log 2>&1 & \
             echo $! >pid; n=0; until [ -e ready ]; do sleep 0.05; n=$((n+1)); [ $n -lt {} ] && kill -0 $(cat pid) || {{ cat log >&2; exit 1; }}; done",
            PATIENCE.as_millis() / 50
        );
        done(client, &line)?;
        Ok(Self {
            attached: began.elapsed(),
        })
    }

    fn end(self, client: &mut Client) -> Result<()> {
        let line = format!(
            "cd {PWRU}; kill -INT $(cat pid); while kill -0 $(cat pid) 2>/dev/null; do sleep 0.05; done"
        );
        done(client, &line).map(drop)
    }
}

/// Output of a line of shell; it must succeed.
pub(crate) fn done(client: &mut Client, line: &str) -> Result<String> {
    let output = client.shell(line)?;
    if !output.status.success() {
        bail!(
            "in the guest: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.text())
}

/// Seconds that a process had on a processor: fields 14 and 15 of `/proc/PID/stat`, in hundredths (proc(5)).
pub(crate) fn processor(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = fields.split_ascii_whitespace().skip(11).take(2);
    let ticks = ticks.map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// Sends bytes through the guest's loopback device: MB/s of QEMU's time on a processor.
fn load(guest: &Guest, client: &mut Client, bytes: u64) -> Result<f64> {
    let pid = guest.status()?.pid.context("QEMU is gone")?;
    let spec = RunSpec {
        argv: ["/init", "stream", &bytes.to_string()]
            .map(str::to_owned)
            .to_vec(),
        ..RunSpec::default()
    };
    let before = processor(pid)?;
    let output = client.output_of(&spec)?;
    let took = processor(pid)? - before;
    if !output.status.success() {
        bail!("the guest's agent could not send to itself");
    }
    Ok(bytes as f64 / 1e6 / took)
}

/// The throughput of the load under a watch.
fn watched(guest: &Guest, client: &mut Client, watch: Watch) -> Result<f64> {
    let capture = match watch {
        Watch::Klab(profile, filter) => {
            let Ok(profile) = profile.parse::<Profile>();
            let filter = filter.map_or_else(|| Ok(Filter::default()), Filter::new)?;
            Some(guest.capture(profile.only(filter))?)
        }
        _ => None,
    };
    let mut watcher = guest.machine()?.agent()?;
    let pwru = match watch {
        Watch::Pwru(filter) => Some(Pwru::start(&mut watcher, filter)?),
        _ => None,
    };
    // Code was patched: QEMU translates it anew at first.
    load(guest, client, BYTES / 4)?;
    let rate = load(guest, client, BYTES)?;
    if let Some(pwru) = pwru {
        pwru.end(&mut watcher)?;
    }
    drop(capture);
    Ok(rate)
}

fn through(
    guest: &Guest,
    client: &mut Client,
    pwru: &Result<(), String>,
    report: &mut Report,
) -> Result<()> {
    let mut watches = vec![
        Watch::Klab("path", Some(NOTHING)),
        Watch::Klab("all", Some(NOTHING)),
        Watch::Klab("path", None),
        Watch::Klab("all", None),
    ];
    if pwru.is_ok() {
        watches.extend([Watch::Pwru(NOTHING), Watch::Pwru("tcp")]);
    }
    // The first is slower: pages, translations.
    watched(guest, client, Watch::None)?;
    let mut bare = Vec::new();
    let mut shares = vec![Vec::new(); watches.len()];
    for round in 0..ROUNDS {
        say(&format!("round {} of {ROUNDS}", round + 1));
        for (share, watch) in shares.iter_mut().zip(&watches) {
            let before = watched(guest, client, Watch::None)?;
            let with = watched(guest, client, *watch)?;
            let after = watched(guest, client, Watch::None)?;
            share.push(100.0 * with / ((before + after) / 2.0));
            bare.extend([before, after]);
        }
    }
    let share = |watch: Watch| {
        let at = watches.iter().position(|one| *one == watch)?;
        Some(median(shares.get(at)?.clone()))
    };
    report
        .add(
            "loopback TCP, not watched",
            median(bare),
            "MB/s",
            Better::Larger,
        )
        .note(format!(
            "{} MiB in 64 KiB writes; by QEMU's time on a processor, {ROUNDS} rounds",
            BYTES >> 20
        ));
    let rows = [
        (
            "path, filter matches nothing",
            Watch::Klab("path", Some(NOTHING)),
            Some(95.0),
            Watch::Pwru(NOTHING),
        ),
        (
            "all functions, filter matches nothing",
            Watch::Klab("all", Some(NOTHING)),
            None,
            Watch::Pwru(NOTHING),
        ),
        (
            "path, all match",
            Watch::Klab("path", None),
            None,
            Watch::Pwru("tcp"),
        ),
        (
            "all functions, all match",
            Watch::Klab("all", None),
            Some(30.0),
            Watch::Pwru("tcp"),
        ),
    ];
    for (what, watch, target, peer) in rows {
        let what = format!("the same, {what}");
        let row = report.add(what, share(watch).unwrap_or(f64::NAN), "%", Better::Larger);
        if let Some(target) = target {
            row.target(target);
        }
        match (share(peer), pwru) {
            (Some(peer), _) => {
                row.peer("pwru", peer).ahead();
            }
            (None, Err(why)) => {
                row.note(format!("no pwru: {why}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Seconds until every function that takes an `sk_buff` is hooked.
fn arming(guest: &Guest, report: &mut Report) -> Result<()> {
    let pid = guest.status()?.pid.context("QEMU is gone")?;
    let busy = || Ok::<_, anyhow::Error>(processor(pid)? + processor(std::process::id())?);
    let (mut took, mut used, mut hooked) = (Vec::new(), Vec::new(), 0);
    for _ in 0..5 {
        let (began, before) = (Instant::now(), busy()?);
        let capture = guest.capture(Profile::All)?;
        took.push(ms(began.elapsed()) / 1e3);
        used.push(busy()? - before);
        hooked = capture.hooked();
    }
    let row = report
        .add("arming `all`", median(took), "s", Better::Smaller)
        .target(0.5);
    row.note(format!(
        "{hooked} functions, 5 times; QEMU and klab were {:.2} s on a processor",
        median(used)
    ));
    let mut client = guest.machine()?.agent()?;
    if let Ok(pwru) = Pwru::start(&mut client, NOTHING) {
        row.peer("pwru", ms(pwru.attached) / 1e3);
        pwru.end(&mut client)?;
    }
    Ok(())
}

/// Records read a second, of rings that are full.
fn reading(guest: &Guest, client: &mut Client, report: &mut Report) -> Result<()> {
    let (mut rates, mut count) = (Vec::new(), 0);
    for _ in 0..5 {
        let mut capture = guest.capture(Profile::All)?;
        for mask in [1, 2] {
            done(client, &format!("taskset {mask} /init stream {}", 64 << 20))?;
        }
        let began = Instant::now();
        count = capture.drain()?;
        rates.push(count as f64 / began.elapsed().as_secs_f64() / 1e6);
    }
    report
        .add(
            "events read from full rings",
            median(rates),
            "M/s",
            Better::Larger,
        )
        .target(5.0)
        .note(format!("{count} at once, 5 times"));
    Ok(())
}

/// Milliseconds that the guest stands for a call at which `stop_at` lets it go on.
fn stopping(guest: &Guest, report: &mut Report) -> Result<()> {
    const PINGS: u32 = 100;
    let flood = |guest: &Guest| -> Result<f64> {
        let began = Instant::now();
        let mut client = guest.machine()?.agent()?;
        done(
            &mut client,
            &format!("ping -c {PINGS} -i 0.002 -q 127.0.0.1"),
        )?;
        Ok(ms(began.elapsed()))
    };
    let bare = flood(guest)?;
    let mut stop = guest.stop_at("icmp_rcv", &Filter::new(NOTHING)?)?;
    let other = guest.clone();
    let pinging = std::thread::spawn(move || flood(&other));
    while !pinging.is_finished() {
        if stop.wait(Duration::from_millis(200), |_| Ok(())).is_ok() {
            bail!("a packet was taken for what it is not");
        }
    }
    drop(stop);
    let Ok(watched) = pinging.join() else {
        bail!("the pings were not sent");
    };
    report
        .add(
            "`stop_at`: a call that the filter lets go on",
            (watched? - bare).max(0.0) / f64::from(2 * PINGS),
            "ms",
            Better::Smaller,
        )
        .note("the guest stands meanwhile");
    Ok(())
}
