//! Calls added up: latencies by function, counts by a key.

use std::collections::BTreeMap;

use serde::Serialize;

use super::calls::{TraceTally, Traced, TracedCall};

/// Time that the calls of one function took, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// The function.
    pub function: String,
    /// Calls that have returned.
    pub calls: u64,
    /// Time of all calls, in nanoseconds.
    pub total: u64,
    /// Shortest time, in nanoseconds.
    pub least: u64,
    /// Longest time, in nanoseconds.
    pub most: u64,
    /// Calls by duration: of the power of two in nanoseconds from which on, to the next one; those without calls are left out.
    pub histogram: BTreeMap<u64, u64>,
}

/// Time that calls took, by function; the function that took longest in all comes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Latencies {
    /// By function.
    pub functions: Vec<Latency>,
    /// Numbers of lost calls.
    pub tally: TraceTally,
}

/// Number of calls of each key; the most frequent comes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Key and calls.
    pub counts: Vec<(String, u64)>,
    /// Numbers of lost calls.
    pub tally: TraceTally,
}

impl Traced {
    /// Time that the calls took, entry to return, what they called included.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        let mut all: BTreeMap<&str, Latency> = BTreeMap::new();
        for call in &self.calls {
            let Some(took) = call.duration else { continue };
            let of = all.entry(&call.function).or_insert_with(|| Latency {
                function: call.function.clone(),
                calls: 0,
                total: 0,
                least: u64::MAX,
                most: 0,
                histogram: BTreeMap::new(),
            });
            of.calls += 1;
            of.total = of.total.saturating_add(took);
            of.least = of.least.min(took);
            of.most = of.most.max(took);
            let from = took.checked_ilog2().map_or(0, |bits| 1 << bits);
            *of.histogram.entry(from).or_default() += 1;
        }
        let mut all: Vec<Latency> = all.into_values().collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.total));
        Latencies {
            functions: all,
            tally: self.tally.clone(),
        }
    }

    /// Number of calls of each key: `count_by(|call| call.comm.clone())`.
    pub fn count_by<K: ToString>(&self, key: impl Fn(&TracedCall) -> K) -> Counts {
        let mut all: BTreeMap<String, u64> = BTreeMap::new();
        for call in &self.calls {
            *all.entry(key(call).to_string()).or_default() += 1;
        }
        let mut all: Vec<(String, u64)> = all.into_iter().collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Counts {
            counts: all,
            tally: self.tally.clone(),
        }
    }
}
