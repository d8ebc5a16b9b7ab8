//! Stack traces: `/proc/PID/task/TID/stack`, frame by frame.

use std::collections::BTreeMap;

use probes::Guest;
use probes::memory::GuestVirt;
use probes::unwind::{Frame, TraceEnd};
use vm::agent::WorkloadKind;

use crate::ground::Ground;
use crate::ledger::Ledger;

/// What `/proc` has of a thread: how often it left its CPU, and its stack, `function+0xoffset [module]` line by line.
type Said = (u64, Vec<String>);

fn ask(ground: &mut Ground) -> BTreeMap<i32, Said> {
    let text = ground.sh(r#"for t in /proc/[0-9]*/task/[0-9]*; do
            echo "@${t##*/}"; grep -s ctxt_switches $t/status; cat $t/stack 2>/dev/null; done; true"#);
    let mut said: BTreeMap<i32, Said> = BTreeMap::new();
    let mut last = 0;
    for line in text.lines() {
        if let Some(tid) = line.strip_prefix('@') {
            last = tid.parse().unwrap();
            said.insert(last, Said::default());
        } else if line.contains("ctxt_switches") {
            let count = line.split_whitespace().nth(1).unwrap();
            said.get_mut(&last).unwrap().0 += count.parse::<u64>().unwrap();
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
        // One that ran in between may be back where it was.
        if trace.cpu.is_some() || first.1.is_empty() || first.0 != last.0 {
            continue;
        }
        let memory: Vec<String> = trace
            .frames
            .iter()
            .filter(|frame| shown(frame.ip))
            .map(line)
            .collect();
        let who = format!("{} {}", trace.pid, trace.comm);
        ledger.steady(&who, "stack", &memory, (&first.1, &last.1));
    }
    running(&mut ledger, &mut ground);
    interrupted(&mut ledger, &mut ground);
    ledger.end(&[
        ("stack", 70),
        ("followed to its end", 85),
        ("cpu", 8),
        ("interrupted kernel", 10),
    ]);
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
                    // In the entry code the registers are on their way to where they will lie.
                    let entry = trace.frames.first().is_some_and(|frame| {
                        let name = &*frame.function;
                        name.contains("asm_") || name.contains("entry") || name == "sync_regs"
                    });
                    let lost = matches!(trace.end, TraceEnd::Lost(_)) && !entry;
                    ledger.same(format!("{trace:?}"), "cpu followed", &lost, &false);
                }
                Ok(())
            })
            .unwrap();
    }
}

/// A CPU that an interrupt found in the kernel: the frames go on behind the interrupt's, to the system call or the idle loop
/// that it broke into. Seen by chance, so looked for some times.
fn interrupted(ledger: &mut Ledger, ground: &mut Ground) {
    ground.sh("ip link set lo up; (setsid ping -q -i 0.002 127.0.0.1 >/dev/null 2>&1 &)");
    let mut seen = 0;
    for _ in 0..200 {
        let traces = ground.guest.paused(Guest::stack_traces).unwrap();
        for trace in traces.iter().filter(|trace| trace.cpu.is_some()) {
            let mut frames = trace.frames.iter();
            if !frames.any(|frame| frame.function.starts_with("asm_")) {
                continue;
            }
            let lost = matches!(trace.end, TraceEnd::Lost(_));
            // While an entry from user space moves the registers to where they will lie, ORC cannot say where they are.
            if lost && frames.len() == 0 {
                continue;
            }
            ledger.same(format!("{trace:?}"), "interrupt", &lost, &false);
            // What was interrupted was the kernel.
            if let Some(last) = frames.last() {
                let entries = [
                    "do_syscall_64",
                    "entry_SYSCALL",
                    "secondary_startup",
                    "rest_init",
                    "ret_from_fork",
                ];
                let known = entries.iter().any(|name| last.function.starts_with(name));
                let known = known || last.function.starts_with("asm_") || trace.pid == 0;
                ledger.same(format!("{trace:?}"), "interrupted kernel", &known, &true);
                seen += 1;
            }
        }
        if seen >= 10 {
            break;
        }
    }
}
