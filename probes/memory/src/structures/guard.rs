//! The bound and the cycle detector that every linked walk carries.

use crate::base::check_interrupt;
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// Counts the nodes of a walk against its bound, and finds cycles as R. P. Brent does: an anchor that jumps to the
/// present node at every power of two, so a loop of `n` nodes is found in O(n) steps and no memory.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    what: &'static str,
    start: GuestVirt,
    bound: usize,
    seen: usize,
    anchor: GuestVirt,
    steps: u64,
    power: u64,
    over: bool,
}

/// Makes a walk that has a guard and an `advance()` an iterator which ends at its first error.
macro_rules! walks {
    ($walk:ty => $item:ty) => {
        impl Iterator for $walk {
            type Item = $crate::Result<$item>;

            fn next(&mut self) -> Option<Self::Item> {
                if self.guard.is_over() {
                    return None;
                }
                let step = self.advance().transpose();
                self.guard.set_over(!matches!(step, Some(Ok(_))));
                step
            }
        }
    };
}
pub(super) use walks;

impl Guard {
    pub(crate) fn new(what: &'static str, start: GuestVirt, bound: usize) -> Self {
        Self {
            what,
            start,
            bound,
            seen: 0,
            anchor: start,
            steps: 0,
            power: 1,
            over: false,
        }
    }

    pub(crate) fn set_bound(&mut self, bound: usize) {
        self.bound = bound;
    }

    pub(crate) fn set_what(&mut self, what: &'static str) {
        self.what = what;
    }

    /// Tells whether the walk has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    pub(crate) fn set_over(&mut self, over: bool) {
        self.over = over;
    }

    /// Nodes met so far.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }

    /// Takes note of the next node.
    pub(crate) fn step(&mut self, node: GuestVirt) -> Result<()> {
        check_interrupt();
        if self.seen > 0 && node == self.anchor {
            return Err(self.broken(
                node,
                "the walk comes back to this node, not to its head: a loop".to_owned(),
            ));
        }
        if self.seen >= self.bound {
            return Err(Error::TooLong {
                what: self.what,
                at: self.start,
                bound: self.bound,
            });
        }
        self.seen += 1;
        self.steps += 1;
        if self.steps == self.power {
            self.anchor = node;
            self.steps = 0;
            self.power = self.power.saturating_mul(2);
        }
        Ok(())
    }

    /// As [`unreadable`](super::unreadable), of this walk's structure.
    pub(crate) fn unreadable(&self, holder: GuestVirt, relation: &str, fault: Error) -> Error {
        super::unreadable(self.what, holder, relation, fault)
    }

    pub(crate) fn broken(&self, at: GuestVirt, why: String) -> Error {
        Error::Broken {
            what: self.what,
            at,
            why,
        }
    }
}
