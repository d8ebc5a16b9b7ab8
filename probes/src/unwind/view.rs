//! Stack traces: a headline a task, a line a frame, and `<IRQ>`, `<NMI>`, `<TASK>` around the frames of a stack, as the
//! kernel prints them, where there is more than one.

use crate::unwind::{Frame, StackTrace, StackTraces, TraceEnd};
use crate::view::{ListView, View, clean, escape};

impl View for StackTrace {
    fn text(&self) -> String {
        let mut text = String::new();
        for line in std::iter::once(headline(self)).chain(lines(self)) {
            text.push_str(&clean(&line));
            text.push('\n');
        }
        text
    }

    fn html(&self) -> Option<String> {
        Some(pre(std::slice::from_ref(self)))
    }
}

impl ListView for StackTrace {
    fn text(traces: &StackTraces) -> String {
        traces.iter().map(View::text).collect()
    }

    fn html(traces: &StackTraces) -> Option<String> {
        Some(pre(traces))
    }
}

fn headline(trace: &StackTrace) -> String {
    let state = match trace.cpu {
        Some(cpu) => format!("on CPU {cpu}"),
        None => trace.state.name().to_owned(),
    };
    format!("{} {} ({state})", trace.pid, trace.comm)
}

/// Text below the headline.
fn lines(trace: &StackTrace) -> Vec<String> {
    let frames = &trace.frames;
    let first = frames.first().map(|frame| frame.stack);
    let marked = frames.iter().any(|frame| Some(frame.stack) != first);
    let mut lines = Vec::with_capacity(frames.len() + 1);
    for (i, frame) in frames.iter().enumerate() {
        let stack = frame.stack;
        let changes = |near: Option<&Frame>| marked && near.is_none_or(|near| near.stack != stack);
        if changes(i.checked_sub(1).and_then(|before| frames.get(before))) {
            lines.push(format!("  <{}>", stack.name()));
        }
        lines.push(format!("  {frame}"));
        if changes(frames.get(i + 1)) {
            lines.push(format!("  </{}>", stack.name()));
        }
    }
    lines.extend(match &trace.end {
        TraceEnd::User if frames.is_empty() => Some("  in user space".to_owned()),
        TraceEnd::User | TraceEnd::Start => None,
        TraceEnd::Freed => Some("  has exited: its stack is freed".to_owned()),
        TraceEnd::Lost(why) if frames.is_empty() => Some(format!("  not followed: {why}")),
        TraceEnd::Lost(why) => Some(format!("  not followed further: {why}")),
    });
    lines
}

fn pre(traces: &[StackTrace]) -> String {
    let mut out = String::from(
        "<pre style=\"font-family:monospace;font-size:12px;line-height:1.3;max-height:32em;overflow:auto\">",
    );
    for trace in traces {
        out.push_str(&format!("<b>{}</b>\n", escape(&headline(trace))));
        for line in lines(trace) {
            out.push_str(&escape(&line));
            out.push('\n');
        }
    }
    out.push_str("</pre>");
    out
}

crate::displays!(StackTrace);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestVirt;
    use crate::sched::TaskState;
    use crate::unwind::StackKind;

    fn frame(function: &str, stack: StackKind, interrupted: bool) -> Frame {
        Frame {
            ip: GuestVirt(0xffff_ffff_8100_0000),
            sp: GuestVirt(0xffff_c900_0000_1000),
            function: function.into(),
            offset: 1,
            module: None,
            stack,
            interrupted,
        }
    }

    fn trace(frames: Vec<Frame>, end: TraceEnd) -> StackTrace {
        StackTrace {
            pid: 7,
            comm: "a<b".to_owned(),
            state: TaskState::Sleeping,
            cpu: None,
            frames,
            end,
        }
    }

    #[test]
    fn stacks_are_marked_where_there_is_more_than_one() {
        let frames = vec![
            frame("tick", StackKind::Irq, false),
            frame("soft", StackKind::Irq, true),
            frame("asm", StackKind::Task, false),
            frame("read", StackKind::Task, true),
        ];
        let mut trace = trace(frames, TraceEnd::User);
        let text = trace.text();
        let marks: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|l| l.starts_with('<'))
            .collect();
        assert_eq!(marks, ["<IRQ>", "</IRQ>", "<TASK>", "</TASK>"]);
        assert!(text.contains(" soft+0x1 (interrupted)\n"), "{text}");
        assert!(trace.html().unwrap().contains("&lt;IRQ&gt;"));
        assert!(!trace.html().unwrap().contains("a<b"));
        let json = serde_json::to_value(&trace).unwrap();
        assert_eq!(json["frames"][1]["stack"], "IRQ");
        assert_eq!(json["frames"][1]["interrupted"], true);
        trace.frames.drain(..2);
        assert_eq!(trace.text().lines().count(), 3);
    }

    #[test]
    fn what_has_no_frames_says_why() {
        let text = |end| trace(Vec::new(), end).text();
        assert!(text(TraceEnd::Freed).ends_with("\n  has exited: its stack is freed\n"));
        assert!(text(TraceEnd::Lost("no".to_owned())).ends_with("\n  not followed: no\n"));
        assert!(text(TraceEnd::User).ends_with("\n  in user space\n"));
    }

    #[test]
    fn what_is_missing_is_below_what_is_there() {
        let mut traces = StackTraces::from(vec![trace(Vec::new(), TraceEnd::User)]);
        traces.miss(
            "task 8 (x)",
            &crate::Error::Absent("no such thing".to_owned()),
        );
        assert!(
            traces.text().ends_with("task 8 (x): no such thing\n"),
            "{}",
            traces.text()
        );
        assert_eq!(View::missing(&traces).len(), 1);
    }
}
