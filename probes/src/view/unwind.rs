//! Stack traces: a headline a task, a line a frame.

use super::{View, clean, escape};
use crate::unwind::{StackTrace, StackTraces, TraceEnd};

impl View for StackTrace {
    fn text(&self) -> String {
        let mut lines = vec![headline(self)];
        lines.extend(self.frames.iter().map(|frame| format!("  {frame}")));
        lines.extend(end(self));
        lines.iter().map(|line| clean(line) + "\n").collect()
    }

    fn html(&self) -> Option<String> {
        Some(pre(std::slice::from_ref(self)))
    }
}

impl View for StackTraces {
    fn text(&self) -> String {
        self.iter().map(View::text).collect()
    }

    fn html(&self) -> Option<String> {
        Some(pre(self))
    }
}

fn headline(trace: &StackTrace) -> String {
    let state = match trace.cpu {
        Some(cpu) => format!("on CPU {cpu}"),
        None => trace.state.name().to_owned(),
    };
    format!("{} {} ({state})", trace.pid, trace.comm)
}

fn end(trace: &StackTrace) -> Option<String> {
    match &trace.end {
        TraceEnd::User if trace.frames.is_empty() => Some("  in user space".to_owned()),
        TraceEnd::User | TraceEnd::Start => None,
        TraceEnd::Lost(why) => Some(format!("  not followed further: {why}")),
    }
}

fn pre(traces: &[StackTrace]) -> String {
    let mut out = String::from(
        "<pre style=\"font-family:monospace;font-size:12px;line-height:1.3;max-height:32em;overflow:auto\">",
    );
    for trace in traces {
        out.push_str(&format!("<b>{}</b>\n", escape(&headline(trace))));
        for frame in &trace.frames {
            out.push_str(&format!("  {}\n", escape(&frame.to_string())));
        }
        if let Some(end) = end(trace) {
            out.push_str(&format!("{}\n", escape(&end)));
        }
    }
    out.push_str("</pre>");
    out
}

crate::displays!(StackTrace, StackTraces);
