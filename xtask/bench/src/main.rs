//! klab's figures beside its peers', measured in one run on one guest: `cargo xtask bench`.
//!
//! Every figure is the median of several runs unless its row says otherwise. Nothing is left out: a target that is
//! missed stays in the table, and a peer that is not there is named as such.

mod cell;
mod core;
mod many;
mod peers;
mod report;
mod skb;
mod trace;
mod walks;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use vm::{Machine, Options, Owner, Progress};

use report::Report;

/// Measure klab beside its peers.
///
/// The figures are medians of several runs on a guest of its own. RATIO says how many times better klab is than the
/// peer. A target that is missed stays in the table. The peers: a C program that follows the same pointers through the
/// same mapping (compiled by cc in the run), drgn on QEMU's socket (needs --vmlinux), pwru and bpftrace of Debian 13 in
/// the same guest (fetched in the run), evcxr_jupyter (--stock, or in PATH).
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", verbatim_doc_comment)]
struct Bench {
    /// One part; all where none is named
    part: Option<Part>,
    /// A vmlinux with DWARF of the guest's kernel, for drgn: `$(klab vmlinux)`
    #[arg(long, value_name = "FILE")]
    vmlinux: Option<PathBuf>,
    /// The stock kernel to compare with [default: evcxr_jupyter in PATH]
    #[arg(long, value_name = "PROGRAM")]
    stock: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A part of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Reading of memory, commands, boots
    Core,
    /// Captures of packets, by klab's module
    Skb,
    /// Traces of functions, by klab's module
    Trace,
    /// Cells, by a Jupyter client
    Cell,
}

fn main() -> Result<()> {
    let bench = Bench::parse();
    let report = measure(&bench)?;
    match bench.json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => print!("{}", report.text()),
    }
    Ok(())
}

/// Measures what was asked for, on a guest of its own.
fn measure(bench: &Bench) -> Result<Report> {
    let mut report = Report::default();
    let name = format!("bench-{}", std::process::id());
    let guest = Guarded(Some(up(&name, Options::default().memory)?));
    let wanted = |part| bench.part.is_none_or(|wanted| wanted == part);
    if wanted(Part::Core)
        && let Err(why) = core::run(&name, bench, &mut report)
    {
        report.failed("memory, commands, machine: the rest", &why);
    }
    if wanted(Part::Skb)
        && let Err(why) = skb::run(&name, &mut report)
    {
        report.failed("captures of packets: the rest", &why);
    }
    if wanted(Part::Trace)
        && let Err(why) = trace::run(&name, &mut report)
    {
        report.failed("traces of functions: the rest", &why);
    }
    if wanted(Part::Cell)
        && let Err(why) = cell::run(&name, bench, &mut report)
    {
        report.failed("cells: the rest", &why);
    }
    drop(guest);
    Ok(report)
}

/// The klab program that is measured.
fn klab() -> Result<PathBuf> {
    let program = std::env::var_os("KLAB").context("KLAB must name the klab program")?;
    Ok(program.into())
}

/// A guest of this command's own, of so many bytes of RAM.
fn up(name: &str, memory: u64) -> Result<Machine> {
    let options = Options {
        memory,
        owner: Owner::ThisProcess,
        ..Options::default()
    };
    Ok(Machine::up(name, &options, &mut Steps)?)
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

/// Tells the steps of a machine.
struct Steps;

impl Progress for Steps {
    fn step(&mut self, text: &str) {
        eprintln!("{text}");
    }
}

/// Tells the present measurement.
fn say(what: &str) {
    eprintln!("measuring {what}");
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
