//! Traced calls, shown.

mod lanes;

use crate::debug::Return;
use crate::ftrace::calls::{TraceTally, Traced, TracedCall};
use crate::ftrace::stacks::Stacks;
use crate::ftrace::sums::{Counts, Latencies};
use crate::ftrace::tree::CallTree;
use crate::object::Value;
use crate::view::{Align, Table};

/// Characters of the longest bar of a histogram.
const BAR: u64 = 40;

crate::faces! {
    Traced => traced,
    Latencies => latencies,
    Counts => counts,
    CallTree => tree,
    Stacks => stacks,
}

fn traced(traced: &Traced) -> Table {
    let mut table = Table::new([
        ("TIME", Align::Right),
        ("CPU", Align::Right),
        ("PID", Align::Right),
        ("COMM", Align::Left),
        ("CALL", Align::Left),
        ("RETURNED", Align::Left),
        ("TOOK", Align::Right),
    ]);
    for call in &traced.calls {
        table.row([
            seconds(call.time),
            call.cpu.to_string(),
            call.pid.to_string(),
            call.comm.clone(),
            written(call),
            returned(call),
            took(call),
        ]);
    }
    let (calls, functions) = (traced.calls.len(), traced.functions.len());
    let (points, only) = (traced.points > 0, traced.points == functions);
    let what = match (only, points, calls) {
        (true, _, 1) => "event",
        (true, ..) => "events",
        (false, true, _) => "calls and events",
        (false, false, 1) => "call",
        (false, false, _) => "calls",
    };
    let of = match (only, points, functions) {
        (true, _, 1) => "tracepoint",
        (true, ..) => "tracepoints",
        (false, true, _) => "functions and tracepoints",
        (false, false, 1) => "function",
        (false, false, _) => "functions",
    };
    let first = format!("{calls} {what} of {functions} {of}; {}", traced.ended);
    note(&mut table, Some(first), &traced.tally);
    table
}

/// Says below a table what it has, and which calls are not in it.
fn note(table: &mut Table, first: Option<String>, tally: &TraceTally) {
    let counts = [
        (tally.passed, "other calls did not meet the condition"),
        (
            tally.undecided,
            "calls for which the condition could not be evaluated",
        ),
        (tally.missed, "calls or returns that the kernel MISSED"),
        (tally.left_out, "records left out: there were too many"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts = counts.map(|(count, what)| format!("{count} {what}"));
    let lost = tally.cpus.iter().filter(|cpu| cpu.lost > 0).map(|cpu| {
        let all = cpu.lost.saturating_add(cpu.delivered);
        format!("{} of {all} records of CPU {} LOST", cpu.lost, cpu.cpu)
    });
    let all: Vec<String> = first.into_iter().chain(counts).chain(lost).collect();
    if !all.is_empty() {
        table.note(all.join("; "));
    }
}

fn seconds(nanoseconds: u64) -> String {
    format!(
        "{}.{:06}",
        nanoseconds / 1_000_000_000,
        nanoseconds / 1000 % 1_000_000
    )
}

/// A duration with its unit.
fn duration(nanoseconds: u64) -> String {
    let n = nanoseconds as f64;
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{:.1} µs", n / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", n / 1e6),
        _ => format!("{:.1} s", n / 1e9),
    }
}

/// The call in C.
fn written(call: &TracedCall) -> String {
    let args: Vec<String> = call
        .args
        .iter()
        .map(|arg| match &call.text {
            Some(text) if text.arg == arg.name => {
                let more = if text.whole { "" } else { ".." };
                format!("{}=\"{}\"{more}", arg.name, text.text)
            }
            _ => format!(
                "{}={}{}",
                arg.name,
                short(&arg.value),
                members(call, &arg.name)
            ),
        })
        .collect();
    format!("{}({})", call.function, args.join(", "))
}

/// What was copied of what an argument points to: `{comm="dd", pid=77}`.
fn members(call: &TracedCall, arg: &str) -> String {
    let of = call.members.iter().filter_map(|member| {
        let path = member.name.strip_prefix(arg)?.strip_prefix("->")?;
        Some(match &member.value {
            Value::Text(text) => format!("{path}=\"{text}\""),
            other => format!("{path}={}", short(other)),
        })
    });
    let of: Vec<String> = of.collect();
    match of.is_empty() {
        true => String::new(),
        false => format!("{{{}}}", of.join(", ")),
    }
}

/// A value on one line; the name of a pointer's type stands in the prototype.
fn short(value: &Value) -> String {
    match value {
        Value::Pointer {
            target: Some(target),
            ..
        } => target.clone(),
        Value::Pointer { at, .. } => format!("{at:?}"),
        other => {
            let text = other.to_string();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        }
    }
}

fn returned(call: &TracedCall) -> String {
    match &call.returned {
        _ if call.point => String::new(),
        Return::Value(value) => short(value),
        Return::Void => "(void)".to_owned(),
        Return::Pending => "(not yet)".to_owned(),
        Return::Unknown(why) => format!("({why})"),
    }
}

fn took(call: &TracedCall) -> String {
    match (call.duration, call.point) {
        (Some(took), _) => duration(took),
        (None, true) => String::new(),
        (None, false) => "?".to_owned(),
    }
}

fn latencies(latencies: &Latencies) -> Table {
    let mut table = Table::new([
        ("FUNCTION", Align::Left),
        ("FROM", Align::Right),
        ("CALLS", Align::Right),
        ("", Align::Left),
    ]);
    for of in &latencies.functions {
        table.row([
            of.function.clone(),
            String::new(),
            of.calls.to_string(),
            format!(
                "{} in all, {} to {}, {} on average",
                duration(of.total),
                duration(of.least),
                duration(of.most),
                duration(of.total / of.calls.max(1))
            ),
        ]);
        let most = of.histogram.values().copied().max().unwrap_or(1).max(1);
        for (from, calls) in &of.histogram {
            let bar = (calls * BAR).div_ceil(most) as usize;
            table.row([
                String::new(),
                duration(*from),
                calls.to_string(),
                "#".repeat(bar),
            ]);
        }
    }
    note(&mut table, None, &latencies.tally);
    table
}

fn stacks(stacks: &Stacks) -> Table {
    let mut table = Table::new([
        ("CALLS", Align::Right),
        ("OF", Align::Left),
        ("STACK", Align::Left),
    ]);
    for one in &stacks.stacks {
        let more = (!one.stack.whole).then(|| "..".to_owned());
        let frames = one.stack.frames.iter().map(ToString::to_string).chain(more);
        let mut first = Some((one.calls.to_string(), one.function.clone()));
        for frame in frames {
            let (calls, function) = first.take().unwrap_or_default();
            table.row([calls, function, frame]);
        }
        if let Some((calls, function)) = first {
            table.row([calls, function, "(no frames)".to_owned()]);
        }
    }
    let without = (stacks.without > 0).then(|| format!("{} without a stack", stacks.without));
    note(&mut table, without, &stacks.tally);
    table
}

fn counts(counts: &Counts) -> Table {
    let mut table = Table::new([("CALLS", Align::Right), ("OF", Align::Left)]);
    for (key, count) in &counts.counts {
        table.row([count.to_string(), key.clone()]);
    }
    note(&mut table, None, &counts.tally);
    table
}

fn tree(tree: &CallTree) -> Table {
    let mut table = Table::new([
        ("PID", Align::Right),
        ("COMM", Align::Left),
        ("TOOK", Align::Right),
        ("CALL", Align::Left),
        ("RETURNED", Align::Left),
    ]);
    for (depth, call) in &tree.calls {
        table.row([
            call.pid.to_string(),
            call.comm.clone(),
            took(call),
            format!("{}{}", "  ".repeat(*depth), written(call)),
            returned(call),
        ]);
    }
    note(&mut table, None, &tree.tally);
    table
}
