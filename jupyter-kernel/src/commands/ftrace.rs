//! `klab ftrace`: the calls of functions and the events of tracepoints while a command runs, and the cell that does the same.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use probes::cell::check_interrupt;
use probes::debug::Ended;
use probes::ftrace::Traced;
use probes::guest::Guest;
use probes::readers::Shown;
use vm::UserFile;

use super::output::{Context, INTERRUPTED, Output};
use super::source::Source;

/// Which calls, while what runs, and how they are shown.
#[derive(Debug, Args)]
pub(crate) struct Ftrace {
    /// The functions and tracepoints, of the kernel or of modules: `vfs_read`, `veth:veth_open`, `tcp_*`; `sched_switch`, `irq:*`
    #[arg(required = true)]
    functions: Vec<String>,
    /// Only what this C expression is not 0 for; the arguments have their names, `retval`, `pid`, `tgid` and `comm` theirs
    #[arg(long = "if", value_name = "EXPRESSION")]
    condition: Option<String>,
    /// Copy this member of what an argument points to at each call: `next->se.vruntime`; may be given several times
    #[arg(long, value_name = "MEMBER")]
    read: Vec<String>,
    /// Record the kernel stack of each call
    #[arg(long)]
    stack: bool,
    /// How they are shown
    #[arg(long, value_enum, default_value_t = Shape::Calls)]
    view: Shape,
    /// Write the calls into a file for Perfetto, too
    #[arg(long, value_name = "FILE")]
    perfetto: Option<PathBuf>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    within: u64,
    #[command(flatten)]
    pub(super) source: Source,
    /// A command to run in the guest meanwhile, and its arguments: its end ends the trace
    #[arg(last = true)]
    command: Vec<String>,
}

/// Views of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// Each call
    Calls,
    /// Each call under the call that made it
    Tree,
    /// How long the calls of each function took, as a histogram
    Latencies,
    /// How many calls each program made
    Counts,
    /// Who ran when, on which CPU: of `sched_switch`
    Timeline,
    /// How many calls had each kernel stack
    Stacks,
}

impl Ftrace {
    const fn stacks(&self) -> bool {
        self.stack || matches!(self.view, Shape::Stacks)
    }
}

/// Traces, and shows the calls.
pub(super) fn run(what: &Ftrace, guest: &Guest, cx: &mut Context<'_>) -> Result<Output> {
    // Before the trace: whether it can be written is not to be found out afterwards.
    let open = |path| UserFile::stream(path, &check_interrupt);
    let file = what.perfetto.as_deref().map(open).transpose()?;
    let mut trace = guest
        .trace(&what.functions)?
        .within(Duration::from_secs(what.within))
        .reading(&what.read);
    if what.stacks() {
        trace = trace.stacks();
    }
    if let Some(condition) = &what.condition {
        trace = trace.when(condition);
    }
    if !what.command.is_empty() {
        trace = trace.run(&what.command);
    }
    // An interrupt ends the steps before, such as building the module, as ever.
    guest.load_kmod()?;
    // The calls until then are shown.
    cx.catch_interrupts()?;
    let traced = trace.until(Arc::clone(&cx.interrupt)).calls()?;
    if let Some(file) = file {
        let written = (&file).write_all(&traced.perfetto());
        written.map_err(|error| file.fault(error))?;
        file.place()?;
    }
    let mut output = Output::of(&*shown(&traced, what.view)?)?;
    if traced.ended == Ended::Interrupted {
        output.code = INTERRUPTED;
    }
    Ok(output)
}

fn shown(traced: &Traced, view: Shape) -> Result<Box<dyn Shown>> {
    Ok(match view {
        Shape::Calls => Box::new(traced.clone()),
        Shape::Tree => Box::new(traced.tree()),
        Shape::Latencies => Box::new(traced.latencies()),
        Shape::Counts => {
            Box::new(traced.count_by(|call| format!("{} by {}", call.function, call.comm)))
        }
        Shape::Timeline => Box::new(traced.timeline()?),
        Shape::Stacks => Box::new(traced.stacks()),
    })
}

/// The cell.
pub(super) fn code(what: &Ftrace, guest: &str) -> Result<String> {
    if what.perfetto.is_some() {
        bail!("a cell writes the file itself: `std::fs::write(FILE, traced.perfetto())`");
    }
    let mut cell = format!("{guest}.trace({:?})?", what.functions);
    if let Some(condition) = &what.condition {
        cell += &format!(".when({condition:?})");
    }
    if !what.read.is_empty() {
        cell += &format!(".reading({:?})", what.read);
    }
    if what.stacks() {
        cell += ".stacks()";
    }
    let Ftrace {
        within, command, ..
    } = what;
    let run = match command.is_empty() {
        true => String::new(),
        false => format!(".run(&{command:?})"),
    };
    let view = match what.view {
        Shape::Calls => "",
        Shape::Tree => ".tree()",
        Shape::Latencies => ".latencies()",
        Shape::Counts => ".count_by(|call| format!(\"{} by {}\", call.function, call.comm))",
        Shape::Timeline => ".timeline()?",
        Shape::Stacks => ".stacks()",
    };
    Ok(format!(
        "{cell}.within(std::time::Duration::from_secs({within})){run}.calls()?{view}"
    ))
}
