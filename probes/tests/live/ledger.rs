//! Record of the comparisons: faults with both values, and how much was compared.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};

/// Faults that are printed at most.
const SHOWN: usize = 40;

/// Compares, counts by field, and says all faults at its end.
#[derive(Debug)]
pub(crate) struct Ledger {
    what: String,
    compared: BTreeMap<&'static str, usize>,
    unsteady: BTreeMap<&'static str, usize>,
    faults: Vec<String>,
}

impl Ledger {
    pub(crate) fn new(what: impl Display) -> Self {
        Self {
            what: what.to_string(),
            compared: BTreeMap::new(),
            unsteady: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    /// `memory` must be what `/proc` says.
    pub(crate) fn same<T: PartialEq + Debug>(
        &mut self,
        who: impl Display,
        field: &'static str,
        memory: &T,
        proc: &T,
    ) {
        *self.compared.entry(field).or_default() += 1;
        if memory != proc {
            self.faults.push(format!(
                "{who} {field}: memory has {memory:?}, /proc {proc:?}"
            ));
        }
    }

    /// Where two readings of `/proc` agree, `memory` must agree with them.
    pub(crate) fn steady<T: PartialEq + Debug>(
        &mut self,
        who: impl Display,
        field: &'static str,
        memory: &T,
        (before, after): (&T, &T),
    ) {
        if before == after {
            self.same(who, field, memory, before);
        } else {
            *self.unsteady.entry(field).or_default() += 1;
        }
    }

    /// The memory's value must be one of those that `/proc` may show for it.
    pub(crate) fn one_of<T: PartialEq + Debug>(
        &mut self,
        who: impl Display,
        field: &'static str,
        memory: &[T],
        proc: &T,
    ) {
        *self.compared.entry(field).or_default() += 1;
        if !memory.contains(proc) {
            self.faults.push(format!(
                "{who} {field}: memory allows {memory:?}, /proc has {proc:?}"
            ));
        }
    }

    /// Number of times that `field` was compared.
    pub(crate) fn compared(&self, field: &str) -> usize {
        self.compared.get(field).copied().unwrap_or(0)
    }

    /// A fault that is no difference of two values.
    pub(crate) fn fault(&mut self, fault: impl Display) {
        self.faults.push(fault.to_string());
    }

    /// Fails on any fault, and if less was compared than `least` asks for: a field and its count each.
    pub(crate) fn end(mut self, least: &[(&'static str, usize)]) {
        let mut line = format!("{}:", self.what);
        for (field, count) in &self.compared {
            line += &format!(" {field} {count}");
        }
        for (field, count) in &self.unsteady {
            line += &format!(" ({field} unsteady {count})");
        }
        println!("{line}");
        for (field, least) in least {
            let count = self.compared(field);
            if count < *least {
                self.faults.push(format!(
                    "only {count} times {field} was compared: {least} are the least"
                ));
            }
        }
        let more = self.faults.len().saturating_sub(SHOWN);
        self.faults.truncate(SHOWN);
        assert!(
            self.faults.is_empty(),
            "{line}\n{}\nand {more} more",
            self.faults.join("\n")
        );
    }
}
