//! `klab bench`: klab's figures beside its peers', measured in one run on one guest.
//!
//! Every figure is the median of several runs unless its row says otherwise. Nothing is left out: a target that is
//! missed stays in the table, and a peer that is not there is named as such.

mod cell;
mod core;
mod many;
mod peers;
mod report;
mod skb;
mod walks;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use vm::{Machine, Options, Owner};

use super::cli::{Bench, Part};
use super::output::{Context, Output, Stream};
use super::progress::Shown;
use report::Report;

/// Runs what was asked for, on a guest of its own.
pub(crate) fn run(bench: &Bench, cx: &mut Context<'_>) -> Result<Output> {
    let mut report = Report::default();
    let name = format!("bench-{}", std::process::id());
    let guest = Guarded(Some(up(&name, Options::default().memory, cx)?));
    let wanted = |part| bench.what.is_none_or(|what| what == part);
    if wanted(Part::Core)
        && let Err(why) = core::run(&name, bench, &mut report, cx)
    {
        report.failed("memory, commands, machine: the rest", &why);
    }
    if wanted(Part::Skb)
        && let Err(why) = skb::run(&name, &mut report, cx)
    {
        report.failed("captures of packets: the rest", &why);
    }
    if wanted(Part::Cell)
        && let Err(why) = cell::run(&name, bench, &mut report, cx)
    {
        report.failed("cells: the rest", &why);
    }
    drop(guest);
    report.output()
}

/// A guest of this command's own, of so many bytes of RAM.
fn up(name: &str, memory: u64, cx: &mut Context<'_>) -> Result<Machine> {
    let options = Options {
        memory,
        owner: Owner::ThisProcess,
        ..Options::default()
    };
    Ok(Machine::up(name, &options, &mut Shown::on(cx))?)
}

/// A guest that goes when this goes.
struct Guarded(Option<Machine>);

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(machine) = self.0.take() {
            // It goes with this process at the latest.
            let _ = machine.down();
        }
    }
}

/// Says what is measured now.
fn say(cx: &mut Context<'_>, what: &str) {
    (cx.sink)(Stream::Stderr, format!("measuring {what}\n").as_bytes());
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Milliseconds from the start of a command to its end; its output is read.
fn timed(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    let output = command
        .output()
        .with_context(|| format!("{} does not start", command.get_program().display()))?;
    let took = ms(start.elapsed());
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} fails: {}",
            command.get_program().display(),
            words.trim()
        );
    }
    Ok(took)
}
