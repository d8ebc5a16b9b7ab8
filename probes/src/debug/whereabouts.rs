//! Where a stopped guest stands, as a value: place, task, the instructions around, arguments.

use serde::Serialize;

use super::arguments::Argument;
use super::calls::Return;
use super::watchpoint::Write;
use crate::Missing;
use crate::kernel::Function;
use crate::text::Instruction;
use crate::unwind::StackTrace;

/// Instructions that are shown before the one that comes next, and from it on.
pub(super) const BEFORE: usize = 2;
pub(super) const AFTER: usize = 6;

/// Reasons why the guest stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A breakpoint was reached.
    Breakpoint,
    /// A breakpoint was reached whose condition reads what cannot be read there: why.
    Condition(String),
    /// A watched object was written to.
    Write(Box<Write>),
    /// A step is over.
    Step,
    /// The function has returned: its name, and what it gave.
    Returned(String, Return),
    /// The user has stopped it, or a step or a return took too long.
    Interrupted,
}

/// Place at which a stopped guest stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Where {
    /// Why it stands.
    pub why: Reason,
    /// Function and offset.
    pub at: Function,
    /// The CPU that has stopped.
    pub cpu: u32,
    /// The task that the CPU calls `current`.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Arguments of the function, at its entry; `None` elsewhere.
    pub args: Option<Vec<Argument>>,
    /// The instructions around; the one at [`Function::at`] comes next.
    pub code: Vec<Instruction>,
    /// The frames that led here, where they were asked for.
    pub stack: Option<StackTrace>,
    /// Parts of it that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// Arguments of one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Args {
    /// The function, as views print it.
    pub function: String,
    /// Its arguments, in their order.
    pub args: Vec<Argument>,
}
