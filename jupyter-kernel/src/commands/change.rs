//! `klab set`, `klab call`: a write into the guest's memory, a call of a function, and the cells that do the same.

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

/// What is called with what.
#[derive(Debug, Args)]
pub(crate) struct Call {
    /// The function: `kallsyms_lookup_name`, `tun:group_show`, `name_show@2`
    function: String,
    /// Its arguments, as C expressions: `7`, `-1`, `&init_task`, `"text"`
    #[arg(allow_negative_numbers = true)]
    arguments: Vec<String>,
    #[command(flatten)]
    pub(super) source: Source,
}

/// Calls, and shows what came back.
pub(super) fn call(what: &Call, guest: &Guest) -> Result<Output> {
    let arguments: Vec<&str> = what.arguments.iter().map(String::as_str).collect();
    Output::of(&guest.writable()?.call_c(&what.function, &arguments)?)
}

/// The cell that does the same.
pub(super) fn code_of_call(what: &Call, guest: &str) -> String {
    let Call {
        function,
        arguments,
        ..
    } = what;
    format!("{guest}.writable()?.call_c({function:?}, &{arguments:?})?")
}
