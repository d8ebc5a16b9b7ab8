//! Calls within calls.

use serde::Serialize;

use super::calls::{TraceTally, Traced, TracedCall};
use crate::kmod::ring::Context;

/// The calls of each task in the order in which they began, each with how deep it lies in other traced calls of the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallTree {
    /// Depth and call.
    pub calls: Vec<(usize, TracedCall)>,
    /// What was lost.
    pub tally: TraceTally,
}

impl Traced {
    /// Which calls were made within which: of the traced functions alone. The tasks come in the order of their first calls; what ran in
    /// an interrupt is a tree of its own, by CPU.
    #[must_use]
    pub fn tree(&self) -> CallTree {
        let mut lanes: Vec<(Lane, Vec<(usize, TracedCall)>, Vec<u64>)> = Vec::new();
        for call in &self.calls {
            let lane = Lane::of(call);
            let known = lanes.iter().position(|(known, ..)| *known == lane);
            let index = known.unwrap_or_else(|| {
                lanes.push((lane, Vec::new(), Vec::new()));
                lanes.len() - 1
            });
            let (_, calls, open) = &mut lanes[index];
            while open.last().is_some_and(|end| *end <= call.time) {
                open.pop();
            }
            calls.push((open.len(), call.clone()));
            // One that has not returned holds all that follows.
            open.push(
                call.duration
                    .map_or(u64::MAX, |took| call.time.saturating_add(took)),
            );
        }
        let calls = lanes.into_iter().flat_map(|(_, calls, _)| calls);
        CallTree {
            calls: calls.collect(),
            tally: self.tally.clone(),
        }
    }
}

/// What runs one thing at a time.
#[derive(Debug, PartialEq, Eq)]
enum Lane {
    Task(u32),
    Interrupt(u32, Context),
}

impl Lane {
    fn of(call: &TracedCall) -> Self {
        match call.context {
            Context::Task if call.pid != 0 => Self::Task(call.pid),
            context => Self::Interrupt(call.cpu, context),
        }
    }
}
