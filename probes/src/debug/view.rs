//! Writes, calls and stops, shown.

use super::breakpoint::Hits;
use super::calls::{CallRecord, Calls, Return};
use super::rewind::{History, Moment, PastWrite};
use super::watchpoint::Write;
use super::whereabouts::{Args, Reason, Where};
use super::writer::{Found, Written};
use crate::Missing;
use crate::object::Value;
use crate::view::{Align, Table, View, clean, escape, missing_html, missing_text};

impl View for Write {
    fn text(&self) -> String {
        let mut text: String = self.lines().iter().map(|line| clean(line) + "\n").collect();
        if let Some(stack) = &self.stack {
            text.push_str(&stack.text());
        }
        text + &missing_text(&self.missing)
    }

    fn html(&self) -> Option<String> {
        let lines: Vec<String> = self.lines().iter().map(|line| escape(line)).collect();
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

impl Write {
    fn lines(&self) -> Vec<String> {
        let (old, new) = (short(&self.old), short(&self.new));
        let values = match old == new {
            true => format!("{old}, written again"),
            false => format!("{old} -> {new}"),
        };
        let Self { at, ty, place, .. } = self;
        let mut lines = vec![format!("{ty} at {at}: {values}")];
        match &self.writer {
            Some(written) => {
                lines.push(format!("{place}: {}", written.instruction.text));
                lines.extend(note(written));
            }
            None => lines.push(format!(
                "{place}: no instruction before this one writes to memory"
            )),
        }
        let Self { cpu, pid, comm, .. } = self;
        lines.push(format!("on CPU {cpu}, in task {pid} ({comm})"));
        lines
    }
}

/// Way in which the instruction was found, where that is not the usual one.
fn note(written: &Written) -> Option<String> {
    let how = match written.found {
        Found::Before if written.addresses => return None,
        Found::Before => {
            "the instruction before the one at which the CPU stood; it has changed the register that it addresses by"
        }
        Found::Call => "it pushed its return address there",
        Found::Again => "it was in the middle of its work",
    };
    Some(format!("({how})"))
}

/// A value on one line.
fn short(value: &Value) -> String {
    let text = value.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Calls {
    fn table(&self) -> Table {
        let mut columns = vec![
            ("CPU", Align::Right),
            ("PID", Align::Right),
            ("COMM", Align::Left),
            ("CALLER", Align::Left),
        ];
        let names = self.calls.first().map(|call| {
            let names = call.args.iter().map(|argument| argument.name.as_str());
            names.collect::<Vec<_>>()
        });
        let names = names.unwrap_or_default();
        columns.extend(names.iter().map(|name| (*name, Align::Left)));
        columns.push(("RETURNED", Align::Left));
        let mut table = Table::new(columns);
        for call in &self.calls {
            table.row(row(call));
        }
        let Self {
            function,
            calls,
            passed,
            ended,
        } = self;
        let passed = match passed {
            0 => String::new(),
            passed => format!(", {passed} others"),
        };
        let plural = if calls.len() == 1 { "call" } else { "calls" };
        table.note(format!(
            "{} {plural} of {function}{passed}; {ended}",
            calls.len()
        ));
        table
    }
}

fn row(call: &CallRecord) -> Vec<String> {
    let caller = call.caller.as_ref().map(ToString::to_string);
    let mut row = vec![
        call.cpu.to_string(),
        call.pid.to_string(),
        call.comm.clone(),
        caller.unwrap_or_default(),
    ];
    row.extend(call.args.iter().map(|argument| short(&argument.value)));
    row.push(match &call.returned {
        Return::Value(value) => short(value),
        Return::Void => "(void)".to_owned(),
        Return::Pending => "(not yet)".to_owned(),
        Return::Unknown(why) => format!("({why})"),
    });
    row
}

impl View for Calls {
    fn text(&self) -> String {
        self.table().text()
    }

    fn html(&self) -> Option<String> {
        self.table().html()
    }
}

impl View for Hits {
    fn text(&self) -> String {
        let Self {
            function,
            hits,
            passed,
            ended,
        } = self;
        let calls = if *hits == 1 { "call" } else { "calls" };
        let passed = match passed {
            0 => String::new(),
            passed => format!(", {passed} passed by"),
        };
        format!("{hits} {calls} of {}{passed}; {ended}", clean(function))
    }
}

impl View for Moment {
    fn text(&self) -> String {
        let Self {
            instruction,
            first,
            last,
        } = self;
        format!("at instruction {instruction} of {first} to {last}\n")
    }
}

impl View for PastWrite {
    fn text(&self) -> String {
        self.head() + &self.write.text()
    }

    fn html(&self) -> Option<String> {
        let head = escape(self.head().trim_end());
        Some(format!("<div>{head}</div>") + &self.write.html().unwrap_or_default())
    }

    fn missing(&self) -> Vec<Missing> {
        self.write.missing()
    }
}

impl PastWrite {
    fn head(&self) -> String {
        format!("at instruction {}\n", self.instruction)
    }
}

impl History {
    fn table(&self) -> Table {
        let mut table = Table::new([
            ("INSTRUCTION", Align::Right),
            ("PID", Align::Right),
            ("COMM", Align::Left),
            ("WRITER", Align::Left),
            ("OLD", Align::Right),
            ("NEW", Align::Right),
        ]);
        for PastWrite { instruction, write } in &self.writes {
            table.row([
                instruction.to_string(),
                write.pid.to_string(),
                write.comm.clone(),
                write.place.to_string(),
                short(&write.old),
                short(&write.new),
            ]);
        }
        let Self {
            object,
            writes,
            total,
            between: (first, last),
        } = self;
        let plural = if *total == 1 { "write" } else { "writes" };
        let shown = match writes.len() as u64 == *total {
            true => String::new(),
            false => format!(", of which the first {} are shown", writes.len()),
        };
        table.note(format!(
            "{total} {plural} to the {object} between the instructions {first} and {last}{shown}"
        ));
        table
    }
}

impl View for History {
    fn text(&self) -> String {
        self.table().text()
    }

    fn html(&self) -> Option<String> {
        self.table().html()
    }
}

impl Where {
    fn lines(&self) -> Vec<String> {
        let Self {
            at, cpu, pid, comm, ..
        } = self;
        let mut lines = Vec::new();
        match &self.why {
            Reason::Returned(function, value) => lines.push(match value {
                Return::Value(value) => format!("{function} returned {}", short(value)),
                Return::Void => format!("{function} returned"),
                Return::Pending => format!("{function} has not returned"),
                Return::Unknown(why) => format!("{function} returned ({why})"),
            }),
            Reason::Write(write) => lines.extend(write.text().lines().map(str::to_owned)),
            Reason::Interrupted => lines.push("stopped where it was".to_owned()),
            Reason::Condition(why) => {
                lines.push(format!("its condition cannot be told here: {why}"))
            }
            Reason::Breakpoint | Reason::Step => {}
        }
        lines.push(format!("{at} on CPU {cpu}, in task {pid} ({comm})"));
        let args = self.args.iter().flatten();
        lines.extend(args.map(|one| format!("  {} = {}", one.name, short(&one.value))));
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
            table.row([one.name.clone(), one.ty.clone(), short(&one.value)]);
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

crate::displays!(Write, Calls, Hits, Moment, PastWrite, History, Where, Args);
