//! View of what traces the kernel.

use crate::core::trace::{FtraceOps, TracedFunction, Tracing};
use crate::view::{Align, Table, View};

/// Functions of a filter that are named in a row.
const NAMED: usize = 4;
/// Hooked functions that are shown; a tracer without a filter hooks tens of thousands.
const SHOWN: usize = 200;

impl View for Tracing {
    fn text(&self) -> String {
        let tables = tables(self).into_iter().map(|table| table.text());
        tables.collect::<Vec<_>>().join("\n")
    }

    fn html(&self) -> Option<String> {
        tables(self).iter().map(View::html).collect()
    }

    fn missing(&self) -> Vec<crate::Missing> {
        self.missing.clone()
    }
}

/// The instances; users, functions and probes where there are some.
fn tables(all: &Tracing) -> Vec<Table> {
    use Align::{Left, Right};
    let mut instances = Table::new([("INSTANCE", Left), ("TRACER", Left), ("EVENTS", Left)]);
    for instance in &all.instances {
        instances.row([
            instance.name.clone().unwrap_or_else(|| "/".to_owned()),
            instance.tracer.clone(),
            instance.events.join(" "),
        ]);
    }
    if !all.ftrace_enabled {
        instances.note("kernel.ftrace_enabled is 0: no function is hooked");
    }
    instances.lacks(&all.missing);
    let mut ops = Table::new([
        ("FTRACE_OPS", Left),
        ("CALLS", Left),
        ("TRAMPOLINE", Left),
        ("FUNCTIONS", Left),
    ]);
    for user in &all.ops {
        ops.row([
            user.name.to_string(),
            user.func.to_string(),
            user.trampoline
                .map_or_else(String::new, |at| format!("{:#x}", at.0)),
            wanted(user),
        ]);
    }
    let mut functions = Table::new([
        ("HOOKED FUNCTION", Left),
        ("USERS", Right),
        ("FLAGS", Left),
        ("CALLS", Left),
    ]);
    for traced in all.functions.iter().take(SHOWN) {
        functions.row([
            traced.function.to_string(),
            traced.count.to_string(),
            traced.flags.clone(),
            called(all, traced),
        ]);
    }
    if let Some(more @ 1..) = all.functions.len().checked_sub(SHOWN) {
        functions.note(format!("and {more} more"));
    }
    let mut probes = Table::new([
        ("KPROBE", Left),
        ("", Left),
        ("CALLS", Left),
        ("EVENT", Left),
        ("FLAGS", Left),
    ]);
    for probe in &all.kprobes {
        probes.row([
            probe.place.to_string(),
            if probe.is_return { "return" } else { "" }.to_owned(),
            probe
                .handler
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            probe.event.clone().unwrap_or_default(),
            probe.flags.join(" "),
        ]);
    }
    let mut tables = vec![instances];
    let others = [ops, functions, probes];
    tables.extend(others.into_iter().filter(|table| !table.is_empty()));
    tables
}

/// Names what a hooked function calls; a trampoline by the user that it was made for.
fn called(all: &Tracing, traced: &TracedFunction) -> String {
    let Some(target) = &traced.calls else {
        return String::new();
    };
    let own = all.ops.iter().find(|user| {
        let first = user.trampoline.filter(|_| target.name.is_none());
        first.is_some_and(|first| target.at.0.wrapping_sub(first.0) < user.trampoline_size)
    });
    match own {
        Some(user) => format!("{target}: {}", user.func),
        None => target.to_string(),
    }
}

fn wanted(user: &FtraceOps) -> String {
    let Some(count) = user.filter_count else {
        return "all".to_owned();
    };
    let named = user.filter.iter().take(NAMED);
    let named: Vec<String> = named.map(ToString::to_string).collect();
    let more = match count.saturating_sub(named.len() as u64) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    named.join(" ") + &more
}

crate::displays!(Tracing);
