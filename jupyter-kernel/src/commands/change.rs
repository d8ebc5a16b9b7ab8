//! `klab set`: a write into the guest's memory, and the cell that does the same.

use anyhow::Result;
use clap::Args;
use probes::guest::Guest;
use probes::object::NewValue;

use super::output::Output;
use super::source::Source;

/// What is written where.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The variable or member, as a C expression: `jiffies`, `init_task.comm`, `((struct task_struct *)0x..)->prio`
    expression: String,
    /// The value, as a C expression: `7`, `-1`, `&init_task`, `"text"`; for an enumeration also the name of an enumerator
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Write to a machine that klab did not start, too: no reset of klab's undoes it
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    pub(super) source: Source,
}

/// Writes, and shows what was there.
pub(super) fn run(what: &Set, guest: &Guest) -> Result<Output> {
    let change = match what.write {
        true => guest.writable_attached()?,
        false => guest.writable()?,
    };
    // A name that is no expression may be an enumerator's.
    let value = match guest.eval(&what.value) {
        Ok(object) => NewValue::of(&object)?,
        Err(_) if is_name(&what.value) => what.value.as_str().into(),
        Err(error) => return Err(error.into()),
    };
    Output::of(&change.set(&what.expression, value)?)
}

fn is_name(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The cell of it.
pub(super) fn code(what: &Set, guest: &str) -> String {
    let allow = match what.write {
        true => "writable_attached",
        false => "writable",
    };
    let Set {
        expression, value, ..
    } = what;
    let value = match value.parse::<i64>() {
        Ok(number) => format!("{number}_i64"),
        Err(_) => format!("probes::object::NewValue::of(&{guest}.eval({value:?})?)?"),
    };
    format!("{guest}.{allow}()?.set({expression:?}, {value})?")
}
