//! Where a stopped guest stands, as a value: place, task, the instructions around, arguments.

use serde::Serialize;

use super::arguments::Argument;
use super::calls::Return;
use super::watchpoint::Write;
use crate::Missing;
use crate::kernel::Function;
use crate::text::Instruction;
use crate::unwind::StackTrace;
use crate::view::{Align, Table, View, clean, escape, missing_html, missing_text};

/// Instructions that are shown before the one that comes next, and from it on.
pub(super) const BEFORE: usize = 2;
pub(super) const AFTER: usize = 6;

/// Reasons why the guest stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A breakpoint was reached.
    Breakpoint,
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

impl Where {
    fn lines(&self) -> Vec<String> {
        let Self {
            at, cpu, pid, comm, ..
        } = self;
        let mut lines = Vec::new();
        match &self.why {
            Reason::Returned(function, value) => lines.push(match value {
                Return::Value(value) => format!("{function} returned {}", one_line(value)),
                Return::Void => format!("{function} returned"),
                Return::Pending => format!("{function} has not returned"),
                Return::Unknown(why) => format!("{function} returned ({why})"),
            }),
            Reason::Write(write) => lines.extend(write.text().lines().map(str::to_owned)),
            Reason::Interrupted => lines.push("stopped where it was".to_owned()),
            Reason::Breakpoint | Reason::Step => {}
        }
        lines.push(format!("{at} on CPU {cpu}, in task {pid} ({comm})"));
        let args = self.args.iter().flatten();
        lines.extend(args.map(|one| format!("  {} = {}", one.name, one_line(&one.value))));
        lines.extend(self.code.iter().map(|one| {
            let mark = if one.at == at.at { "=>" } else { "  " };
            format!("{mark} {} +{:#06x}  {}", one.at, one.offset, one.text)
        }));
        lines
    }
}

impl View for Where {
    fn text(&self) -> String {
        let mut text: String = self.lines().iter().map(|line| clean(line) + "\n").collect();
        if let Some(stack) = &self.stack {
            text.push_str(&stack.text());
        }
        text + &missing_text(&self.missing)
    }

    fn html(&self) -> Option<String> {
        let lines: Vec<String> = self
            .lines()
            .iter()
            .map(|line| match line.starts_with("=>") {
                true => format!("<b>{}</b>", escape(line)),
                false => escape(line),
            })
            .collect();
        let head = format!(
            "<pre style=\"line-height:1.3;margin:0\">{}</pre>",
            lines.join("\n")
        );
        let stack = self.stack.as_ref().and_then(View::html);
        Some(head + &stack.unwrap_or_default() + &missing_html(&self.missing))
    }

    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }
}

impl Args {
    fn table(&self) -> Table {
        let mut table = Table::new([
            ("ARGUMENT", Align::Left),
            ("TYPE", Align::Left),
            ("VALUE", Align::Left),
        ]);
        for one in &self.args {
            table.row([one.name.clone(), one.ty.clone(), one_line(&one.value)]);
        }
        table.note(match self.args.len() {
            0 => format!("{} takes no arguments", self.function),
            _ => format!("of this call of {}, as it got them", self.function),
        });
        table
    }
}

impl View for Args {
    fn text(&self) -> String {
        self.table().text()
    }

    fn html(&self) -> Option<String> {
        self.table().html()
    }
}

/// A value on one line.
fn one_line(value: &crate::object::Value) -> String {
    let text = value.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

crate::displays!(Where, Args);
