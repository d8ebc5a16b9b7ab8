//! Kernel stacks of calls, and how often each occurs.

use std::collections::HashMap;

use serde::Serialize;

use super::calls::{CallStack, TraceTally, Traced};
use crate::kernel::{Function, Functions, Kernel};
use crate::kmod::call::CallRecord;
use crate::memory::GuestVirt;

/// What calls the probes of a tracepoint: not where the tracepoint lies.
const CALLER: &str = "__traceiter_";

/// A stack, and the calls that had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StackCount {
    /// The function or the tracepoint.
    pub function: String,
    /// Number of the calls.
    pub calls: u64,
    /// Their stack.
    pub stack: CallStack,
}

/// The stacks of a trace, by how many calls had each; the most frequent comes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stacks {
    /// The stacks.
    pub stacks: Vec<StackCount>,
    /// Calls whose stack is not known: it was not asked for, or its record was lost.
    pub without: u64,
    /// Numbers of lost calls.
    pub tally: TraceTally,
}

impl Traced {
    /// The calls by their stacks, which [`Trace::stacks`](super::Trace::stacks) has recorded.
    #[must_use]
    pub fn stacks(&self) -> Stacks {
        let mut counts: HashMap<(&str, &CallStack), u64> = HashMap::new();
        let mut without = 0;
        for call in &self.calls {
            match &call.stack {
                Some(stack) => *counts.entry((&call.function, stack)).or_default() += 1,
                None => without += 1,
            }
        }
        let each = counts
            .into_iter()
            .map(|((function, stack), calls)| StackCount {
                function: function.to_owned(),
                calls,
                stack: stack.clone(),
            });
        let mut stacks: Vec<StackCount> = each.collect();
        let addresses = |one: &StackCount| -> Vec<u64> {
            let frames = one.stack.frames.iter();
            frames.map(|frame| frame.at.0).collect()
        };
        stacks.sort_by_cached_key(|one| {
            let calls = std::cmp::Reverse(one.calls);
            (calls, one.function.clone(), addresses(one))
        });
        Stacks {
            stacks,
            without,
            tally: self.tally.clone(),
        }
    }
}

/// Names the frames of stacks: each address once.
#[derive(Debug)]
pub(super) struct Stacker<'k> {
    functions: Functions<'k>,
    known: HashMap<u64, Function>,
}

impl<'k> Stacker<'k> {
    pub(super) fn new(kernel: &'k Kernel) -> Self {
        Self {
            functions: Functions::new(kernel),
            known: HashMap::new(),
        }
    }

    /// The stack of a record.
    pub(super) fn stack(&mut self, record: &CallRecord) -> CallStack {
        let (addresses, whole) = record.frames();
        let mut frames = Vec::new();
        for address in addresses {
            let function = self.function(address);
            let name = function.name.as_deref().unwrap_or_default();
            if !(frames.is_empty() && name.starts_with(CALLER)) {
                frames.push(function);
            }
        }
        CallStack { frames, whole }
    }

    /// The function at an address. Where the symbols cannot be read it is the address alone: a trace is not given up for that.
    fn function(&mut self, address: u64) -> Function {
        let at = GuestVirt(address);
        let functions = &self.functions;
        let named = || {
            let found = functions.at(at);
            found.unwrap_or(Function {
                at,
                name: None,
                offset: 0,
                module: None,
            })
        };
        self.known.entry(address).or_insert_with(named).clone()
    }
}
