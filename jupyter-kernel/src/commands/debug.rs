//! `klab break`, `klab who-writes`, `klab last-write`, `klab history`: the kernel stopped at a place, or at a write of now
//! or before, and the cells that do the same.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use probes::debug::{Ended, Watchpoint};
use probes::guest::Guest;

use super::output::{Context, INTERRUPTED, Output};
use super::source::Source;

/// Which calls, and while what runs.
#[derive(Debug, Args)]
pub(crate) struct Break {
    /// The function, of the kernel or a module, or a place in one: `vfs_read`, `veth:veth_open`, `vfs_read+0x25d`
    function: String,
    /// Only calls for which this C expression is not 0; the arguments have their names, `current` is the task
    #[arg(long = "if", value_name = "EXPRESSION")]
    condition: Option<String>,
    /// Keep the guest at the first call, in a notebook: `%where`, `%step`, `%finish`, `%continue` go on from there
    #[arg(long)]
    stay: bool,
    /// End after so many calls
    #[arg(long, value_name = "CALLS", default_value_t = 20)]
    count: u64,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    within: u64,
    #[command(flatten)]
    pub(super) source: Source,
    /// A command to run in the guest meanwhile, and its arguments: its end ends the watch
    #[arg(last = true)]
    command: Vec<String>,
}

/// Which word, and while what runs.
#[derive(Debug, Args)]
pub(crate) struct WhoWrites {
    /// The variable or member, as a C expression: `total_forks`, `init_task.signal->nr_threads`
    expression: String,
    /// Wait for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    within: u64,
    #[command(flatten)]
    pub(super) source: Source,
    /// A command to run in the guest meanwhile, and its arguments
    #[arg(last = true)]
    command: Vec<String>,
}

/// Which word of a recorded guest.
#[derive(Debug, Args)]
pub(crate) struct Past {
    /// The variable or member, as a C expression: `total_forks`, `*(int *)&vm_swappiness`
    expression: String,
    #[command(flatten)]
    pub(super) source: Source,
}

/// Shows the calls.
pub(super) fn calls(what: &Break, guest: &Guest, cx: &mut Context<'_>) -> Result<Output> {
    let mut breakpoint = guest
        .breakpoint(&what.function)?
        .at_most(what.count)
        .within(Duration::from_secs(what.within));
    if let Some(condition) = &what.condition {
        breakpoint = breakpoint.when(condition);
    }
    if !what.command.is_empty() {
        breakpoint = breakpoint.run(&what.command);
    }
    if what.stay {
        if cx.signals {
            bail!(
                "a guest is kept stopped by a notebook: in a cell, `%break {} --stay`; `klab break` shows the calls",
                what.function
            );
        }
        return super::stopped::stay(breakpoint, cx);
    }
    // The calls until then are shown.
    cx.catch_interrupts()?;
    let calls = breakpoint.until(Arc::clone(&cx.interrupt)).calls()?;
    let mut output = Output::of(&calls)?;
    if calls.ended == Ended::Interrupted {
        output.code = INTERRUPTED;
    }
    Ok(output)
}

/// Shows the next write.
pub(super) fn who_writes(what: &WhoWrites, guest: &Guest, cx: &Context<'_>) -> Result<Output> {
    Output::of(&what.watchpoint(guest, cx)?.next()?)
}

impl WhoWrites {
    /// The watchpoint.
    pub(super) fn watchpoint(&self, guest: &Guest, cx: &Context<'_>) -> Result<Watchpoint> {
        let watch = guest
            .watch(&guest.eval(&self.expression)?)?
            .within(Duration::from_secs(self.within))
            .until(Arc::clone(&cx.interrupt));
        Ok(match self.command.is_empty() {
            true => watch,
            false => watch.run(&self.command),
        })
    }

    /// Its cell.
    pub(super) fn cell(&self, guest: &str) -> String {
        let run = run(&self.command);
        let Self {
            expression, within, ..
        } = self;
        format!(
            "{guest}.watch(&{guest}.eval({expression:?})?)?.within(std::time::Duration::from_secs({within})){run}"
        )
    }
}

/// Shows the last write before the moment at which the guest stands.
pub(super) fn last_write(what: &Past, guest: &Guest) -> Result<Output> {
    Output::of(&guest.last_write(&guest.eval(&what.expression)?)?)
}

/// Shows all writes before that.
pub(super) fn history(what: &Past, guest: &Guest) -> Result<Output> {
    Output::of(&guest.history(&guest.eval(&what.expression)?)?)
}

/// The cell of `last-write` or `history`, by the name of its method.
pub(super) fn code_of_past(what: &Past, method: &str, guest: &str) -> String {
    format!("{guest}.{method}(&{guest}.eval({:?})?)?", what.expression)
}

/// The cell of `break`.
pub(super) fn code_of_calls(what: &Break, guest: &str) -> String {
    let mut cell = format!("{guest}.breakpoint({:?})?", what.function);
    if let Some(condition) = &what.condition {
        cell += &format!(".when({condition:?})");
    }
    let run = run(&what.command);
    let Break { count, within, .. } = what;
    if what.stay {
        return format!(
            "let mut stop = {cell}.within(std::time::Duration::from_secs({within})){run}.stay()?;\nstop.here()?"
        );
    }
    format!(
        "{cell}.at_most({count}).within(std::time::Duration::from_secs({within})){run}.calls()?"
    )
}

/// The cell of `who-writes`.
pub(super) fn code_of_write(what: &WhoWrites, guest: &str) -> String {
    format!("{}.next()?", what.cell(guest))
}

fn run(command: &[String]) -> String {
    match command.is_empty() {
        true => String::new(),
        false => format!(".run(&{command:?})"),
    }
}
