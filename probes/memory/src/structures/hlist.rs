//! `struct hlist_head`: a singly linked list with back links, for hash tables (`include/linux/list.h`), and
//! `struct hlist_nulls_head`, whose end is an odd value (`include/linux/list_nulls.h`).

use super::guard::Guard;
use super::list::container_of;
use super::{bad_pointer, word};
use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;

/// Nodes that an hlist walk takes before it gives up, unless told otherwise.
pub const HLIST_BOUND: usize = 1 << 20;

/// Offset of `pprev` in `struct hlist_node` and `struct hlist_nulls_node`; `next` comes first.
const PPREV: u64 = 8;

/// The links of a list that ends in a mark instead of its head.
#[derive(Debug, Clone)]
struct Chain<'k> {
    kernel: &'k Kernel,
    head: GuestVirt,
    member: u64,
    last: GuestVirt,
    next: Option<u64>,
    guard: Guard,
    over: bool,
    is_end: fn(u64) -> bool,
    end: Option<u64>,
}

impl<'k> Chain<'k> {
    fn new(
        kernel: &'k Kernel,
        what: &'static str,
        head: GuestVirt,
        member: u64,
        is_end: fn(u64) -> bool,
    ) -> Self {
        let guard = Guard::new(what, head, HLIST_BOUND);
        Chain {
            kernel,
            head,
            member,
            last: head,
            next: None,
            guard,
            over: false,
            is_end,
            end: None,
        }
    }

    fn advance(&mut self) -> Result<Option<GuestVirt>> {
        let next = match self.next {
            Some(next) => next,
            None => word(self.kernel, self.head)?,
        };
        if (self.is_end)(next) {
            self.end = Some(next);
            return Ok(None);
        }
        if let Some(why) = bad_pointer(next) {
            return Err(self.guard.broken(self.last, format!("its next is {why}")));
        }
        let node = GuestVirt(next);
        self.guard.step(node)?;
        let onwards = word(self.kernel, node).map_err(|fault| {
            self.guard
                .unreadable(self.last, &format!("its next is {next:#x}"), fault)
        })?;
        self.last = node;
        self.next = Some(onwards);
        Ok(Some(container_of(node, self.member)))
    }

    fn step(&mut self) -> Option<Result<GuestVirt>> {
        if self.over {
            return None;
        }
        let step = self.advance().transpose();
        self.over = !matches!(step, Some(Ok(_)));
        step
    }

    /// Walks to the end and checks each `pprev`.
    fn validate(mut self) -> Result<usize> {
        let mut link = self.head;
        while let Some(node) = self.step() {
            let node = node?;
            let pprev = word(self.kernel, node.offset(PPREV))?;
            if pprev != link.0 {
                let pprev = bad_pointer(pprev).unwrap_or_else(|| format!("{pprev:#x}"));
                return Err(self.guard.broken(
                    node,
                    format!("its pprev is {pprev}, but the link to it is at {link}"),
                ));
            }
            link = node;
        }
        Ok(self.guard.seen())
    }
}

/// A walk along an `hlist_head`: see [`hlist_for_each`].
#[derive(Debug, Clone)]
pub struct Hlist<'k>(Chain<'k>);

/// Walks the hlist at `head`: yields the address of each `hlist_node`.
#[must_use]
pub fn hlist_for_each(kernel: &Kernel, head: GuestVirt) -> Hlist<'_> {
    hlist_for_each_entry(kernel, head, 0)
}

/// Walks the hlist at `head`: yields the structure around each node, whose `hlist_node` lies at `member` bytes.
#[must_use]
pub fn hlist_for_each_entry(kernel: &Kernel, head: GuestVirt, member: u64) -> Hlist<'_> {
    Hlist(Chain::new(kernel, "hlist", head, member, |next| next == 0))
}

impl Hlist<'_> {
    /// The same walk under the name that its errors shall carry.
    pub(super) fn named(mut self, what: &'static str) -> Self {
        self.0.guard.set_what(what);
        self
    }

    /// The same walk, giving up after `nodes`.
    #[must_use]
    pub fn bound(mut self, nodes: usize) -> Self {
        self.0.guard.set_bound(nodes);
        self
    }
}

impl Iterator for Hlist<'_> {
    type Item = Result<GuestVirt>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.step()
    }
}

/// Checks the hlist at `head`: each node's `pprev` must be the address of the link to it. Returns the number of nodes.
///
/// # Errors
/// [`Error::Broken`](crate::Error::Broken) names the first node that is wrong or not in RAM;
/// [`Error::TooLong`](crate::Error::TooLong) past `bound`.
pub fn validate_hlist(kernel: &Kernel, head: GuestVirt, bound: usize) -> Result<usize> {
    hlist_for_each(kernel, head).bound(bound).0.validate()
}

/// A walk along an `hlist_nulls_head`: see [`hlist_nulls_for_each`].
#[derive(Debug, Clone)]
pub struct HlistNulls<'k>(Chain<'k>);

/// Walks the list at `head`, whose end is an odd value: yields the address of each `hlist_nulls_node`.
#[must_use]
pub fn hlist_nulls_for_each(kernel: &Kernel, head: GuestVirt) -> HlistNulls<'_> {
    hlist_nulls_for_each_entry(kernel, head, 0)
}

/// Walks the list at `head`: yields the structure around each node, whose `hlist_nulls_node` lies at `member` bytes.
#[must_use]
pub fn hlist_nulls_for_each_entry(kernel: &Kernel, head: GuestVirt, member: u64) -> HlistNulls<'_> {
    HlistNulls(Chain::new(kernel, "hlist_nulls", head, member, |next| {
        next & 1 == 1
    }))
}

impl HlistNulls<'_> {
    /// The same walk, giving up after `nodes`.
    #[must_use]
    pub fn bound(mut self, nodes: usize) -> Self {
        self.0.guard.set_bound(nodes);
        self
    }

    /// The value of the end mark, once the walk is over: `get_nulls_value()`. A reader compares it with the bucket it
    /// began in, since a node may move to another chain under it.
    #[must_use]
    pub fn nulls_value(&self) -> Option<u64> {
        self.0.end.map(|mark| mark >> 1)
    }
}

impl Iterator for HlistNulls<'_> {
    type Item = Result<GuestVirt>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.step()
    }
}

/// Checks the list at `head` as [`validate_hlist`] does.
///
/// # Errors
/// As [`validate_hlist`].
pub fn validate_hlist_nulls(kernel: &Kernel, head: GuestVirt, bound: usize) -> Result<usize> {
    hlist_nulls_for_each(kernel, head).bound(bound).0.validate()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::Image;
    use super::*;
    use crate::Error;

    const HEAD: GuestVirt = GuestVirt(0x1000);

    fn chain(nodes: &[u64], end: u64) -> Image {
        let mut image = Image::default();
        let mut link = HEAD.0;
        for node in nodes {
            image.set(link, *node);
            image.set(node + PPREV, link);
            link = *node;
        }
        image.set(link, end);
        image
    }

    #[test]
    fn good_ones() {
        for nodes in [&[][..], &[0x2000], &[0x3000, 0x2000, 0x2100]] {
            let kernel = chain(nodes, 0).kernel();
            let walked: Vec<u64> = hlist_for_each(&kernel, HEAD)
                .map(|n| n.unwrap().0)
                .collect();
            assert_eq!(walked, nodes);
            assert_eq!(
                validate_hlist(&kernel, HEAD, HLIST_BOUND).unwrap(),
                nodes.len()
            );

            let kernel = chain(nodes, 77 << 1 | 1).kernel();
            let mut walk = hlist_nulls_for_each(&kernel, HEAD);
            assert_eq!(
                walk.by_ref().map(|n| n.unwrap().0).collect::<Vec<_>>(),
                nodes
            );
            assert_eq!(walk.nulls_value(), Some(77));
            assert_eq!(
                validate_hlist_nulls(&kernel, HEAD, HLIST_BOUND).unwrap(),
                nodes.len()
            );
        }
    }

    #[test]
    fn entries_are_the_containers() {
        let kernel = chain(&[0x2018], 0).kernel();
        assert_eq!(
            hlist_for_each_entry(&kernel, HEAD, 0x18).next(),
            Some(Ok(GuestVirt(0x2000)))
        );
    }

    #[test]
    fn bad_ones_are_named() {
        let mut image = chain(&[0x2000, 0x3000, 0x4000], 0);
        image.set(0x3000 + PPREV, super::super::LIST_POISON2);
        let Err(Error::Broken { at, why, .. }) = validate_hlist(&image.kernel(), HEAD, 10) else {
            panic!("passed")
        };
        assert_eq!(at, GuestVirt(0x3000));
        assert!(why.contains("LIST_POISON2"), "{why}");

        let mut image = chain(&[0x2000, 0x3000, 0x4000], 0);
        image.set(0x4000, 0x2000);
        assert!(matches!(
            hlist_for_each(&image.kernel(), HEAD).last(),
            Some(Err(Error::Broken { .. }))
        ));
        // A nulls list must not end in NULL.
        let image = chain(&[0x2000], 0);
        assert!(matches!(
            hlist_nulls_for_each(&image.kernel(), HEAD).last(),
            Some(Err(Error::Broken { .. }))
        ));
    }

    proptest! {
        #[test]
        fn one_wrong_pprev_is_named(n in 1usize..40, which in 0usize..40, value: u64) {
            let nodes: Vec<u64> = (2..2 + n as u64).map(|i| i * 0x100).chain([]).collect();
            let nodes: Vec<u64> = nodes.iter().map(|n| n + 0x1000).collect();
            let mut image = chain(&nodes, 0);
            let node = nodes[which % n];
            prop_assume!(image.set(node + PPREV, value) != Some(value));
            let Err(Error::Broken { at, .. }) = validate_hlist(&image.kernel(), HEAD, 100) else {
                return Err(TestCaseError::fail("passed"));
            };
            prop_assert_eq!(at.0, node);
        }

        #[test]
        fn arbitrary_words_end(words in proptest::collection::vec((0u64..64, 0u64..520), 0..64)) {
            let mut image = Image::default();
            for (at, to) in words {
                image.set(at * 8, to);
            }
            let kernel = image.kernel();
            prop_assert!(hlist_for_each(&kernel, GuestVirt(8)).bound(500).count() <= 501);
            prop_assert!(hlist_nulls_for_each(&kernel, GuestVirt(8)).bound(500).count() <= 501);
        }
    }
}
