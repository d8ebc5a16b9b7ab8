//! The commands that keep the guest where it stops, and let it go on from there: `%break --stay`, `%watch`, `%step`, `%next`, `%finish`,
//! `%continue`, `%where`, `%args`. The notebook's process keeps it (`debugger::kept`), so they are a notebook's alone.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use probes::debug::{Breakpoint, Where};
use probes::guest::Guest;
use serde_json::json;

use super::debug::WhoWrites;
use super::output::{Context, Output};
use crate::debugger::kept;

/// The commands of a guest that stands.
#[derive(Debug, Subcommand)]
pub(crate) enum Go {
    /// Stop the guest behind the next write to a variable, and keep it there
    #[command(after_long_help = include_str!("manual/watch.txt"))]
    Watch(WhoWrites),
    /// Execute one instruction, into a function that it calls
    #[command(after_long_help = include_str!("manual/step.txt"))]
    Step(Code),
    /// Execute one instruction; a function that it calls runs to its end
    Next(Code),
    /// Run to the end of the function, and show what it returned
    Finish(Code),
    /// Let the guest run to its next stop
    #[command(after_long_help = include_str!("manual/continue.txt"))]
    Continue {
        /// Wait for so many seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        within: u64,
        #[command(flatten)]
        code: Code,
    },
    /// Show where the guest stands: function, instructions, stack
    Where(Code),
    /// Show the arguments of the function in which the guest stands
    Args(Code),
    /// Let the guest run, without breakpoints
    Resume,
}

/// Options of a move.
#[derive(Debug, Args)]
pub(crate) struct Code {
    /// Print the Rust cell that does the same
    #[arg(long)]
    code: bool,
}

/// Runs one.
pub(super) fn run(go: &Go, cx: &mut Context<'_>) -> Result<Output> {
    if let Some(cell) = code(go) {
        let cell = format!("{cell}\n");
        return Output::new(cell.clone(), &json!({ "code": cell }));
    }
    let stop = &cx.interrupt;
    let here = match go {
        Go::Watch(what) => return watch(what, cx),
        Go::Step(_) => kept::go(stop, probes::debug::Stopped::step)?,
        Go::Next(_) => kept::go(stop, probes::debug::Stopped::step_over)?,
        Go::Finish(_) => kept::go(stop, probes::debug::Stopped::finish)?,
        Go::Continue { within, .. } => match kept::go_on(stop, Duration::from_secs(*within))? {
            Some(here) => here,
            None => {
                return Ok(Output::text(format!(
                    "no stop came for {within} s: the guest runs, and stays at its next stop. `%continue` waits for that, `%resume` takes the breakpoints away\n"
                )));
            }
        },
        Go::Where(_) => kept::with(|stopped| stopped.here_with_stack())?,
        Go::Args(_) => return Output::of(&kept::with(|stopped| stopped.args())?),
        Go::Resume => return resume(cx),
    };
    Output::of(&here)
}

/// Keeps the guest at the next call.
pub(super) fn stay(breakpoint: Breakpoint, cx: &Context<'_>) -> Result<Output> {
    // Another stop of this notebook's would be in the way.
    kept::end()?;
    kept::keep(
        breakpoint
            .until(std::sync::Arc::clone(&cx.interrupt))
            .stay()?,
    )?;
    shown()
}

fn watch(what: &WhoWrites, cx: &mut Context<'_>) -> Result<Output> {
    let guest = what.source.open(cx)?;
    kept::end()?;
    kept::keep(what.watchpoint(&guest, cx)?.stay()?)?;
    shown()
}

fn shown() -> Result<Output> {
    let here: Where = kept::with(|stopped| stopped.here())?;
    Output::of(&here)
}

/// Lets the guest go, also one that was paused.
fn resume(cx: &Context<'_>) -> Result<Output> {
    let guest: Guest = super::attached(&cx.guest)?;
    let machine = guest.machine()?;
    if !kept::end()? {
        machine.resume()?;
    }
    Ok(Output::text(format!("{} is running\n", machine.name())))
}

/// The cell of a move; `None` where it is to be made. The variable is the one that the cell of `break --stay` makes.
fn code(go: &Go) -> Option<String> {
    let (code, cell) = match go {
        Go::Watch(what) => {
            let guest = what.source.code();
            return what.source.code.then(|| {
                format!(
                    "let mut stop = {}.stay()?;\nstop.here()?",
                    what.cell(&guest)
                )
            });
        }
        Go::Step(code) => (code, "stop.step()?".to_owned()),
        Go::Next(code) => (code, "stop.step_over()?".to_owned()),
        Go::Finish(code) => (code, "stop.finish()?".to_owned()),
        Go::Continue { within, code } => (
            code,
            format!("stop.go_on_for(std::time::Duration::from_secs({within}))?"),
        ),
        Go::Where(code) => (code, "stop.here_with_stack()?".to_owned()),
        Go::Args(code) => (code, "stop.args()?".to_owned()),
        Go::Resume => return None,
    };
    code.code.then_some(cell)
}
