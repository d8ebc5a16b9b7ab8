//! A guest with ten thousand tasks, and a process with ten thousand mappings.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use probes::guest::Guest;
use vm::Machine;
use vm::agent::WorkloadKind;

use crate::peers;
use crate::report::{Better, Report};
use crate::walks::both;
use crate::{Guarded, median, say, up};

/// RAM that so many processes fit into, in bytes.
const MEMORY: u64 = 6 << 30;
/// Shells that wait for someone to write into a pipe with a name.
const FORKS: &str = "mkfifo /tmp/wait; i=0; while [ $i -lt 10000 ]; do read x </tmp/wait & i=$((i+1)); done; \
                     ls -d /proc/[0-9]* | wc -l >/tmp/count";
const AREAS: u32 = 10_000;
/// Walks whose median is taken.
const WALKS: usize = 100;
const READINGS: usize = 20;

pub(crate) fn run(name: &str, vmlinux: Option<&Path>, report: &mut Report) -> Result<()> {
    say("10,000 tasks");
    let name = format!("{name}-many");
    let _machine = Guarded(Some(up(&name, MEMORY)?));
    let machine = Machine::attach(&name)?;
    let mut agent = machine.agent()?;
    // It is one of ten thousand that want to run.
    agent.set_timeout(Duration::from_secs(180));
    let maps = agent.workload(WorkloadKind::Maps { count: AREAS })?;
    let pid = maps.tasks.first().context("no process was made")?.pid;
    let forks = format!("setsid sh -c '{FORKS}' </dev/null >/dev/null 2>&1; cat /tmp/count");
    let made = agent.output(&["sh", "-c", &forks])?;
    let made: u64 = String::from_utf8_lossy(&made.stdout)
        .trim()
        .parse()
        .context("the guest did not say how many processes it has")?;
    drop(agent);
    let guest = Guest::attach(&name)?;
    let asked = peers::Asked {
        walks: WALKS,
        ..peers::Asked::default()
    };
    let (ours, theirs) = guest
        .paused(|guest| Ok(both(&name, &guest.kernel()?, &asked)))?
        .context("the walks were not measured")?;
    let count = ours.tasks as f64;
    let (warm, c) = (ours.warm / count, theirs.walk.warm / count);
    report
        .add(
            "walk of 10,000 tasks, warm",
            warm,
            "ns/task",
            Better::Smaller,
        )
        .target(2.0 * c)
        .peer("C on the mapping", c)
        .note(format!(
            "{} tasks (the guest's /proc counted {made}), {WALKS} walks; the target is twice C",
            ours.tasks
        ));
    let row = report.add("the same beside drgn", warm, "ns/task", Better::Smaller);
    match peers::drgn_walk(&machine, vmlinux) {
        Ok(drgn) => row
            .peer("drgn --qemu", drgn)
            .target(drgn / 100.0)
            .note("the target is a hundredth of drgn"),
        Err(why) => row.note(format!("no drgn: {why}")),
    };

    say("10,000 mappings");
    let took = guest.paused(|guest| {
        let mut took = Vec::with_capacity(READINGS);
        let mut areas = 0;
        for _ in 0..READINGS {
            let start = Instant::now();
            areas = std::hint::black_box(guest.vmas(pid)?).len();
            took.push(start.elapsed().as_secs_f64() * 1e6 / areas.max(1) as f64);
        }
        Ok((areas, median(took)))
    });
    let (areas, each) = took.context("the mappings were not measured")?;
    report
        .add(
            "all mappings of a process of 10,000",
            each,
            "µs/VMA",
            Better::Smaller,
        )
        .target(1.0)
        .note(format!(
            "{areas} mappings with files and resident pages, as `/proc/PID/smaps` counts them; {READINGS} readings"
        ));
    Ok(())
}
