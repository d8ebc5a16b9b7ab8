//! `klab set`: a write into the guest's memory, and the cell that does the same.

use anyhow::Result;
use clap::Args;
use probes::guest::Guest;

use super::output::Output;
use super::source::Source;

/// What is written where.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The variable or member, as a C expression: `jiffies`, `init_task.comm`, `((struct task_struct *)0x..)->prio`
    expression: String,
    /// The value, as a C expression: `7`, `-1`, `&init_task`, or the text of a `char` array
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Write to a machine that klab did not start, too: no reset of klab's undoes it
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    pub(super) source: Source,
}

/// Writes, and shows the value before.
pub(super) fn run(what: &Set, guest: &Guest) -> Result<Output> {
    let change = match what.write {
        true => guest.writable_attached()?,
        false => guest.writable()?,
    };
    Output::of(&change.set_c(&what.expression, &what.value)?)
}

/// The cell that does the same.
pub(super) fn code(what: &Set, guest: &str) -> String {
    let allow = match what.write {
        true => "writable_attached",
        false => "writable",
    };
    let Set {
        expression, value, ..
    } = what;
    format!("{guest}.{allow}()?.set_c({expression:?}, {value:?})?")
}
