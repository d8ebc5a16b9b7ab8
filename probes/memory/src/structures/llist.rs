//! `struct llist_head`: the lock-less singly linked list (`include/linux/llist.h`).

use super::hlist::{Hlist, hlist_for_each_entry};
use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;

/// Nodes that an llist walk takes before it gives up, unless told otherwise.
pub const LLIST_BOUND: usize = super::HLIST_BOUND;

/// A walk along an `llist_head`: see [`llist_for_each`].
#[derive(Debug, Clone)]
pub struct Llist<'k>(Hlist<'k>);

/// Walks the llist at `head` (`llist_head.first`): yields the address of each `llist_node`, newest first.
#[must_use]
pub fn llist_for_each(kernel: &Kernel, head: GuestVirt) -> Llist<'_> {
    llist_for_each_entry(kernel, head, 0)
}

/// Walks the llist at `head`: yields the structure around each node, whose `llist_node` lies at `member` bytes.
#[must_use]
pub fn llist_for_each_entry(kernel: &Kernel, head: GuestVirt, member: u64) -> Llist<'_> {
    // The forward links are those of an hlist: a first pointer, then next pointers, then NULL.
    Llist(hlist_for_each_entry(kernel, head, member).named("llist"))
}

impl Llist<'_> {
    /// The same walk, giving up after `nodes`.
    #[must_use]
    pub fn bound(self, nodes: usize) -> Self {
        Self(self.0.bound(nodes))
    }
}

impl Iterator for Llist<'_> {
    type Item = Result<GuestVirt>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// Checks the llist at `head`: it has no back links, so all there is to check is that it ends. Returns the number of
/// nodes.
///
/// # Errors
/// `Broken` if it comes back to a node, has more than `bound`, or one is not in RAM.
pub fn validate_llist(kernel: &Kernel, head: GuestVirt, bound: usize) -> Result<usize> {
    llist_for_each(kernel, head)
        .bound(bound)
        .try_fold(0, |n, node| node.map(|_| n + 1))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Image;
    use super::*;
    use crate::Error;

    #[test]
    fn good_empty_and_looping() {
        let mut image = Image::default();
        image.set(0x1000, 0);
        assert_eq!(
            validate_llist(&image.kernel(), GuestVirt(0x1000), 10),
            Ok(0)
        );
        image.set(0x1000, 0x2000);
        image.set(0x2000, 0x3000);
        image.set(0x3000, 0);
        let kernel = image.kernel();
        let nodes: Vec<_> = llist_for_each_entry(&kernel, GuestVirt(0x1000), 8)
            .map(|n| n.unwrap().0)
            .collect();
        assert_eq!(nodes, [0x1ff8, 0x2ff8]);
        image.set(0x3000, 0x2000);
        let broken = validate_llist(&image.kernel(), GuestVirt(0x1000), 10);
        assert!(
            matches!(broken, Err(Error::Broken { what: "llist", .. })),
            "{broken:?}"
        );
        let long = llist_for_each(&image.kernel(), GuestVirt(0x1000))
            .bound(1)
            .last();
        assert!(matches!(long, Some(Err(Error::TooLong { bound: 1, .. }))));
    }
}
