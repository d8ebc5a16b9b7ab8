//! Calls within calls.

use serde::Serialize;

use super::calls::{TraceTally, Traced, TracedCall};
use crate::kmod::ring::Context;

/// The calls of each task in the order in which they began, each with how deep it lies in other traced calls of the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallTree {
    /// Depth and call.
    pub calls: Vec<(usize, TracedCall)>,
    /// Numbers of lost calls.
    pub tally: TraceTally,
}

impl Traced {
    /// Calls within calls: of the traced functions alone. The tasks come in the order of their first calls; what ran in
    /// an interrupt is a tree of its own, by CPU.
    #[must_use]
    pub fn tree(&self) -> CallTree {
        let mut lanes: Vec<Lane> = Vec::new();
        for call in &self.calls {
            let whose = Whose::of(call);
            let known = lanes.iter().position(|known| known.whose == whose);
            let index = known.unwrap_or_else(|| {
                lanes.push(Lane {
                    whose,
                    calls: Vec::new(),
                    open: Vec::new(),
                });
                lanes.len() - 1
            });
            lanes[index].add(call);
        }
        let calls = lanes.into_iter().flat_map(|lane| lane.calls);
        CallTree {
            calls: calls.collect(),
            tally: self.tally.clone(),
        }
    }
}

/// The calls of what runs one thing at a time.
#[derive(Debug)]
struct Lane {
    whose: Whose,
    calls: Vec<(usize, TracedCall)>,
    /// Ends of those that have begun.
    open: Vec<u64>,
}

impl Lane {
    fn add(&mut self, call: &TracedCall) {
        while self.open.last().is_some_and(|end| *end <= call.time) {
            self.open.pop();
        }
        self.calls.push((self.open.len(), call.clone()));
        // One that has not returned holds all that follows, and an event nothing.
        let end = match (call.duration, call.point) {
            (_, true) => return,
            (Some(took), false) => call.time.saturating_add(took),
            (None, false) => u64::MAX,
        };
        self.open.push(end);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Whose {
    Task(u32),
    /// An interrupt, or the idle task, of a CPU.
    Cpu(u32, Context),
}

impl Whose {
    fn of(call: &TracedCall) -> Self {
        match call.context {
            Context::Task if call.pid != 0 => Self::Task(call.pid),
            context => Self::Cpu(call.cpu, context),
        }
    }
}
