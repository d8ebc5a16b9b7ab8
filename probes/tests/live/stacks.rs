//! Stack traces: `/proc/PID/task/TID/stack`, frame by frame.

use std::collections::BTreeMap;

use probes::memory::GuestVirt;
use probes::unwind::{Frame, TraceEnd};
use vm::agent::WorkloadKind;

use crate::ground::Ground;
use crate::ledger::Ledger;

/// How often a thread was switched from, and `function+0xoffset [module]`, line by line.
type Said = (String, Vec<String>);

/// By thread. One that ran between two readings and sleeps again elsewhere has been switched from.
fn ask(ground: &mut Ground) -> BTreeMap<i32, Said> {
    let text = ground.sh(r#"for t in /proc/[0-9]*/task/[0-9]*; do
            echo "@${t##*/}"; cat $t/stack 2>/dev/null
            while read -r line; do case $line in *ctxt_switches*) echo "+$line";; esac; done 2>/dev/null <$t/status
            done; true"#);
    let mut said: BTreeMap<i32, Said> = BTreeMap::new();
    let mut last = 0;
    for line in text.lines() {
        if let Some(tid) = line.strip_prefix('@') {
            last = tid.parse().unwrap();
            said.insert(last, Said::default());
        } else if let Some(count) = line.strip_prefix('+') {
            said.get_mut(&last).unwrap().0.push_str(count);
        } else if let Some(place) = line.strip_prefix("[<0>] ") {
            // The function's size stands between its offset and its module.
            let (place, rest) = place.split_once('/').unwrap();
            let module = rest.split_once(' ').map(|(_, module)| format!(" {module}"));
            said.get_mut(&last)
                .unwrap()
                .1
                .push(format!("{place}{}", module.unwrap_or_default()));
        }
    }
    said
}

fn line(frame: &Frame) -> String {
    let module = frame.module.as_ref().map(|module| format!(" [{module}]"));
    format!(
        "{}+{:#x}{}",
        frame.function,
        frame.offset,
        module.unwrap_or_default()
    )
}

pub(crate) fn are_those_of_proc(kernel: &str) {
    let mut ground = Ground::new(kernel);
    let mut ledger = Ledger::new(format!("stacks on {kernel}"));
    let (before, seen, after) = ground.sandwich(ask, |guest| {
        let text = |name| guest.symbol(name);
        Ok((
            guest.stack_traces()?,
            text("__sched_text_start")?..text("__sched_text_end")?,
        ))
    });
    let (traces, scheduler) = seen;
    // What in_sched_functions() knows is not shown by /proc.
    let shown = |ip: GuestVirt| !scheduler.contains(&ip);
    for trace in traces.iter() {
        ledger.same(
            format!(
                "{} {} {:?} {:?}",
                trace.pid, trace.comm, trace.end, trace.frames
            ),
            "followed to its end",
            &matches!(trace.end, TraceEnd::Lost(_)),
            &false,
        );
        let (Some(first), Some(last)) = (before.get(&trace.pid), after.get(&trace.pid)) else {
            continue;
        };
        if trace.cpu.is_some() || first.1.is_empty() {
            continue;
        }
        let memory: Vec<String> = trace
            .frames
            .iter()
            .filter(|frame| shown(frame.ip))
            .map(line)
            .collect();
        let who = format!("{} {}", trace.pid, trace.comm);
        let memory = (first.0.clone(), memory);
        ledger.steady(&who, "stack", &memory, (first, last));
    }
    running(&mut ledger, &mut ground);
    ledger.end(&[("stack", 80), ("followed to its end", 85), ("cpu", 8)]);
}

/// What the CPUs run: each the task that its `current` names, in the kernel or in user space.
fn running(ledger: &mut Ledger, ground: &mut Ground) {
    ground
        .agent
        .workload(WorkloadKind::Busy { count: 2 })
        .unwrap();
    for _ in 0..4 {
        ground
            .guest
            .paused(|guest| {
                let traces = guest.stack_traces()?;
                for cpu in 0..2 {
                    let task = guest.current(cpu)?;
                    let trace = traces.iter().find(|trace| trace.cpu == Some(cpu)).unwrap();
                    ledger.same(cpu, "cpu", &trace.pid, &task.pid);
                    let lost = matches!(trace.end, TraceEnd::Lost(_));
                    ledger.same(format!("{trace:?}"), "cpu followed", &lost, &false);
                }
                Ok(())
            })
            .unwrap();
    }
}
