//! A chain of structures that each point to the next, with NULL at the end: `irqaction.next`, `notifier_block.next`.

use super::guard::{Guard, walks};
use super::{bad_pointer, word};
use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;

/// Links of a chain that a walk takes before it gives up, unless told otherwise.
pub const CHAIN_BOUND: usize = 1 << 16;

/// A walk along a chain: see [`chain`].
#[derive(Debug, Clone)]
pub struct Chain<'k> {
    kernel: &'k Kernel,
    next: u64,
    last: GuestVirt,
    node: u64,
    end: GuestVirt,
    guard: Guard,
}

/// Walks the chain that begins with the structure at `first`, whose pointer to the next lies at `next` bytes: yields each
/// structure.
#[must_use]
pub fn chain(kernel: &Kernel, first: GuestVirt, next: u64) -> Chain<'_> {
    Chain {
        kernel,
        next,
        last: first,
        node: first.0,
        end: GuestVirt(0),
        guard: Guard::new("chain", first, CHAIN_BOUND),
    }
}

impl Chain<'_> {
    /// The same walk along a chain that ends with the structure at `end` instead of NULL; that one is not yielded.
    #[must_use]
    pub fn until(mut self, end: GuestVirt) -> Self {
        self.end = end;
        self
    }

    fn advance(&mut self) -> Result<Option<GuestVirt>> {
        let node = GuestVirt(self.node);
        if node.is_null() || node == self.end {
            return Ok(None);
        }
        if let Some(why) = bad_pointer(self.node) {
            return Err(self.guard.broken(self.last, format!("its next is {why}")));
        }
        self.guard.step(node)?;
        self.node = word(self.kernel, node.offset(self.next)).map_err(|fault| {
            self.guard
                .unreadable(self.last, &format!("its next is {node}"), fault)
        })?;
        self.last = node;
        Ok(Some(node))
    }
}

walks!(Chain<'_> => GuestVirt);

#[cfg(test)]
mod tests {
    use super::super::testing::Image;
    use super::*;
    use crate::Error;

    #[test]
    fn a_chain_ends_at_null_or_where_it_is_said_to() {
        let mut image = Image::default();
        image.set(0x1010, 0x2000);
        image.set(0x2010, 0x3000);
        image.set(0x3010, 0);
        let kernel = image.kernel();
        let walk = chain(&kernel, GuestVirt(0x1000), 0x10);
        let all: Vec<u64> = walk.clone().map(|at| at.unwrap().0).collect();
        assert_eq!(all, [0x1000, 0x2000, 0x3000]);
        assert_eq!(walk.until(GuestVirt(0x3000)).count(), 2);
        assert_eq!(chain(&kernel, GuestVirt(0), 0x10).count(), 0);
    }

    #[test]
    fn a_loop_and_a_wild_link_are_said() {
        let mut image = Image::default();
        image.set(0x1000, 0x2000);
        image.set(0x2000, 0x1000);
        image.set(0x5000, 0x7000);
        let kernel = image.kernel();
        for first in [0x1000, 0x5000] {
            let last = chain(&kernel, GuestVirt(first), 0).last();
            assert!(matches!(last, Some(Err(Error::Broken { .. }))), "{last:?}");
        }
    }
}
