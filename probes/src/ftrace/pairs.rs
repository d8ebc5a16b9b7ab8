//! Records that belong together: a call, its return, its stack.

use std::collections::HashMap;

use crate::kmod::call::CallRecord;
use crate::kmod::reader::Event;
use crate::kmod::ring::Kind;

/// A call with its return, or an event of a tracepoint.
#[derive(Debug)]
pub(super) struct Pair {
    /// The record of the call; where that was lost, of the return, which has the arguments too.
    pub(super) call: Event<CallRecord>,
    pub(super) returned: Option<CallRecord>,
    pub(super) stack: Option<CallRecord>,
}

/// Records put together, in the order in which the calls began.
pub(super) fn pairs(events: Vec<Event<CallRecord>>) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut open: HashMap<(u32, u32, u64), Vec<usize>> = HashMap::new();
    let key = |record: &CallRecord| (record.site, record.pid, record.entered);
    let (mut returns, mut stacks) = (Vec::new(), HashMap::new());
    for event in events {
        match event.record.kind() {
            Some(Kind::Return) => returns.push(event),
            // Of one CPU: two of them may do the same for the idle task at the same time.
            Some(Kind::Stack) => {
                stacks.insert((event.cpu, key(&event.record)), event.record);
            }
            Some(_) => {
                if event.record.kind() == Some(Kind::Call) {
                    open.entry(key(&event.record))
                        .or_default()
                        .push(pairs.len());
                }
                pairs.push(Pair {
                    call: event,
                    returned: None,
                    stack: None,
                });
            }
            None => {}
        }
    }
    for event in returns {
        let same = open.get_mut(&key(&event.record));
        match same.and_then(Vec::pop) {
            Some(index) => pairs[index].returned = Some(event.record),
            None => pairs.push(Pair {
                returned: Some(event.record),
                call: event,
                stack: None,
            }),
        }
    }
    for pair in &mut pairs {
        pair.stack = stacks.remove(&(pair.call.cpu, key(&pair.call.record)));
    }
    pairs.sort_by_key(|pair| (pair.call.record.entered, pair.call.cpu, pair.call.sequence));
    pairs
}
