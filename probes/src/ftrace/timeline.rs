//! Who ran when, on which CPU: from the switches that were traced.
//!
//! Name and PID of the two tasks of a switch were copied when it happened. What ran between two switches of a CPU is known if the
//! second leaves the task that the first came to, and no record of the CPU is missing between them; else that time is told as unknown.

use std::collections::BTreeMap;

use serde::Serialize;

use super::calls::{Gap, TraceTally, Traced, TracedCall};
use crate::object::Value;
use crate::sched::TaskState;
use crate::{Error, Result};

/// The tracepoint.
pub(super) const SWITCH: &str = "sched:sched_switch";

/// A stretch of time in which a CPU ran one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Slice {
    /// The CPU.
    pub cpu: u32,
    /// Its beginning, in nanoseconds of the guest's monotonic clock.
    pub start: u64,
    /// Its end.
    pub end: u64,
    /// The task; 0 is the CPU's idle task.
    pub pid: i32,
    /// The task's name when it left the CPU.
    pub comm: String,
    /// How the task left the CPU: the letter of its state, `R+` where it was preempted; `None`: it was not seen to leave.
    pub left: Option<String>,
    /// True if it was seen to come: else it ran before the first switch.
    pub came: bool,
}

/// A stretch of time in which it is not known what a CPU ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Unknown {
    /// The CPU.
    pub cpu: u32,
    /// Its beginning, in nanoseconds.
    pub start: u64,
    /// Its end.
    pub end: u64,
}

/// Sums of one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskTime {
    /// The task.
    pub pid: i32,
    /// Its last name.
    pub comm: String,
    /// Time that it ran, in nanoseconds.
    pub time: u64,
    /// Times that a CPU switched to it.
    pub switches: u64,
    /// Longest stretch, in nanoseconds.
    pub longest: u64,
    /// Times that it left while it could have run on.
    pub preempted: u64,
    /// The CPUs that it ran on.
    pub cpus: Vec<u32>,
}

/// What each CPU ran, from the first switch that was traced to the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// Time of the first switch, in nanoseconds of the guest's monotonic clock.
    pub start: u64,
    /// Time of the last one.
    pub end: u64,
    /// The CPUs on which there was a switch.
    pub cpus: Vec<u32>,
    /// What they ran, by CPU and time.
    pub slices: Vec<Slice>,
    /// Where it is not known what they ran.
    pub unknown: Vec<Unknown>,
    /// Sums of each task but the idle ones; the task that ran longest comes first.
    pub tasks: Vec<TaskTime>,
    /// Numbers of lost records.
    pub tally: TraceTally,
}

/// A switch.
struct Switch {
    cpu: u32,
    time: u64,
    prev: (i32, String),
    next: (i32, String),
    left: Option<String>,
}

impl Traced {
    /// Who ran when, on which CPU.
    ///
    /// # Errors
    /// Invalid, if `sched_switch` was not traced, or a condition let only some switches through.
    pub fn timeline(&self) -> Result<Timeline> {
        if !self.functions.iter().any(|name| name == SWITCH) {
            return Err(Error::Invalid(
                "a timeline is made of switches: trace `sched_switch`, too".to_owned(),
            ));
        }
        if self.tally.passed > 0 || self.tally.undecided > 0 {
            return Err(Error::Invalid(format!(
                "a timeline needs every switch, and the condition has let {} events by",
                self.tally.passed + self.tally.undecided
            )));
        }
        let switches: Vec<Switch> = self.calls.iter().filter_map(Switch::of).collect();
        let (start, end) = match switches.as_slice() {
            [first, .., last] => (first.time, last.time),
            [only] => (only.time, only.time),
            [] => (0, 0),
        };
        let mut cpus: BTreeMap<u32, Vec<&Switch>> = BTreeMap::new();
        for switch in &switches {
            cpus.entry(switch.cpu).or_default().push(switch);
        }
        let mut made = Timeline {
            start,
            end,
            cpus: cpus.keys().copied().collect(),
            slices: Vec::new(),
            unknown: Vec::new(),
            tasks: Vec::new(),
            tally: self.tally.clone(),
        };
        for (cpu, switches) in cpus {
            made.lane(cpu, &switches, &self.gaps);
        }
        made.tasks = sums(&made.slices);
        Ok(made)
    }
}

impl Switch {
    fn of(call: &TracedCall) -> Option<Self> {
        if call.function != SWITCH {
            return None;
        }
        let task = |arg: &str| {
            let pid = match call.arg(&format!("{arg}->pid"))? {
                Value::Int(pid) => i32::try_from(*pid).ok()?,
                _ => return None,
            };
            match call.arg(&format!("{arg}->comm"))? {
                Value::Text(comm) => Some((pid, comm.clone())),
                _ => None,
            }
        };
        Some(Self {
            cpu: call.cpu,
            time: call.time,
            prev: task("prev")?,
            next: task("next")?,
            left: left(call),
        })
    }
}

/// The state in which a task leaves, as the kernel's own event says it.
fn left(call: &TracedCall) -> Option<String> {
    if matches!(call.arg("preempt"), Some(Value::Bool(true))) {
        return Some("R+".to_owned());
    }
    match call.arg("prev_state")? {
        Value::Uint(state) => Some(TaskState::from_raw(*state, *state).letter().to_string()),
        _ => None,
    }
}

impl Timeline {
    /// Adds what one CPU ran.
    fn lane(&mut self, cpu: u32, switches: &[&Switch], gaps: &[Gap]) {
        let lacks = |start: u64, end: u64| {
            let mut gaps = gaps.iter().filter(|gap| gap.cpu == cpu);
            gaps.any(|gap| {
                gap.after.is_none_or(|after| after < end)
                    && gap.before.is_none_or(|before| before > start)
            })
        };
        let firsts = std::iter::once(None).chain(switches.iter().map(Some));
        let seconds = switches.iter().map(Some).chain(std::iter::once(None));
        for (first, second) in firsts.zip(seconds) {
            let start = first.map_or(self.start, |switch| switch.time);
            let end = second.map_or(self.end, |switch| switch.time);
            if start == end && (first.is_none() || second.is_none()) {
                continue;
            }
            let same = match (first, second) {
                (Some(first), Some(second)) => first.next.0 == second.prev.0,
                _ => true,
            };
            let task = match (first, second) {
                (_, Some(second)) => &second.prev,
                (Some(first), None) => &first.next,
                (None, None) => continue,
            };
            if lacks(start, end) || !same {
                self.unknown.push(Unknown { cpu, start, end });
                continue;
            }
            self.slices.push(Slice {
                cpu,
                start,
                end,
                pid: task.0,
                comm: task.1.clone(),
                left: second.and_then(|switch| switch.left.clone()),
                came: first.is_some(),
            });
        }
    }
}

fn sums(slices: &[Slice]) -> Vec<TaskTime> {
    let mut tasks: BTreeMap<i32, TaskTime> = BTreeMap::new();
    let mut slices: Vec<&Slice> = slices.iter().filter(|slice| slice.pid != 0).collect();
    slices.sort_by_key(|slice| slice.start);
    for slice in slices {
        let took = slice.end.saturating_sub(slice.start);
        let of = tasks.entry(slice.pid).or_insert_with(|| TaskTime {
            pid: slice.pid,
            comm: String::new(),
            time: 0,
            switches: 0,
            longest: 0,
            preempted: 0,
            cpus: Vec::new(),
        });
        of.comm.clone_from(&slice.comm);
        of.time = of.time.saturating_add(took);
        of.switches += u64::from(slice.came);
        of.longest = of.longest.max(took);
        of.preempted += u64::from(
            slice
                .left
                .as_deref()
                .is_some_and(|left| left.starts_with('R')),
        );
        if !of.cpus.contains(&slice.cpu) {
            of.cpus.push(slice.cpu);
        }
    }
    let mut tasks: Vec<TaskTime> = tasks.into_values().collect();
    tasks.iter_mut().for_each(|task| task.cpus.sort_unstable());
    tasks.sort_by_key(|task| std::cmp::Reverse(task.time));
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debug::arguments::Argument;
    use crate::debug::{Ended, Return};
    use crate::kmod::ring::Context;
    use crate::view::View;

    fn argument(name: &str, value: Value) -> Argument {
        Argument {
            name: name.to_owned(),
            ty: String::new(),
            value,
        }
    }

    /// A switch of CPU 0 or 1, from a task to another, in a state.
    fn switch(cpu: u32, time: u64, prev: i32, next: i32, state: u64) -> TracedCall {
        let task = |arg: &str, pid: i32| {
            [
                argument(&format!("{arg}->pid"), Value::Int(pid.into())),
                argument(&format!("{arg}->comm"), Value::Text(format!("t{pid}"))),
            ]
        };
        TracedCall {
            time,
            cpu,
            context: Context::Task,
            pid: prev as u32,
            tgid: prev as u32,
            comm: String::new(),
            function: SWITCH.to_owned(),
            point: true,
            args: vec![
                argument("preempt", Value::Bool(state == 99)),
                argument("prev_state", Value::Uint(state)),
            ],
            members: [task("prev", prev), task("next", next)].concat(),
            text: None,
            stack: None,
            returned: Return::Void,
            duration: None,
        }
    }

    fn traced(calls: Vec<TracedCall>, gaps: Vec<Gap>) -> Traced {
        Traced {
            functions: vec![SWITCH.to_owned()],
            points: 1,
            calls,
            gaps,
            tally: TraceTally::default(),
            ended: Ended::Look,
        }
    }

    fn told(timeline: &Timeline) -> Vec<(u32, u64, u64, i32, Option<&str>)> {
        let each = timeline.slices.iter();
        each.map(|one| (one.cpu, one.start, one.end, one.pid, one.left.as_deref()))
            .collect()
    }

    #[test]
    fn each_cpu_has_its_lane() {
        let calls = vec![
            switch(0, 10, 0, 7, 0),
            switch(1, 12, 8, 0, 1),
            switch(0, 20, 7, 9, 99),
            switch(0, 50, 9, 7, 2),
            switch(1, 60, 0, 7, 0),
        ];
        let timeline = traced(calls, Vec::new()).timeline().unwrap();
        assert_eq!(
            told(&timeline),
            [
                (0, 10, 20, 7, Some("R+")),
                (0, 20, 50, 9, Some("D")),
                (0, 50, 60, 7, None),
                (1, 10, 12, 8, Some("S")),
                (1, 12, 60, 0, Some("R")),
            ]
        );
        let sums: Vec<(i32, u64, u64, u64)> = timeline
            .tasks
            .iter()
            .map(|task| (task.pid, task.time, task.switches, task.preempted))
            .collect();
        assert_eq!(sums, [(9, 30, 1, 0), (7, 20, 2, 1), (8, 2, 0, 0)]);
        let text = timeline.text();
        assert!(text.contains("t9") && text.contains("on 2 CPUs"), "{text}");
        let svg = timeline.svg().unwrap();
        assert!(svg.contains("CPU 1") && svg.contains("t9"), "{svg}");
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let calls = || {
            vec![
                switch(0, 10, 0, 7, 0),
                switch(0, 20, 7, 9, 1),
                switch(0, 50, 9, 7, 1),
            ]
        };
        let gap = Gap {
            cpu: 0,
            after: Some(22),
            before: Some(30),
            records: 2,
        };
        let timeline = traced(calls(), vec![gap]).timeline().unwrap();
        assert_eq!(told(&timeline), [(0, 10, 20, 7, Some("S"))]);
        let unknown = Unknown {
            cpu: 0,
            start: 20,
            end: 50,
        };
        assert_eq!(timeline.unknown, [unknown]);
        assert!(timeline.text().contains("not known"), "{}", timeline.text());
        // A switch away from another task than the one that it came to.
        let mut broken = calls();
        broken.remove(1);
        assert_eq!(
            traced(broken, Vec::new()).timeline().unwrap().unknown.len(),
            1
        );
        let mut passed = traced(calls(), Vec::new());
        passed.tally.passed = 3;
        assert!(passed.timeline().is_err());
        let none = traced(Vec::new(), Vec::new()).timeline().unwrap();
        assert!(none.slices.is_empty() && !none.text().is_empty() && none.svg().is_some());
    }
}
