//! `struct list_head`: the doubly linked ring (`include/linux/list.h`, `include/linux/types.h`).

use std::collections::HashSet;

use super::guard::{Guard, walks};
use super::{bad_pointer, word};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::{Error, Listing, Result};

/// Nodes that a list walk takes before it gives up, unless told otherwise.
pub const LIST_BOUND: usize = 1 << 20;

/// Offset of `prev` in `struct list_head`; `next` comes first.
const PREV: u64 = 8;

/// The structure that holds `member` at `offset` bytes: `container_of()`.
///
/// ```
/// use klab_memory::memory::GuestVirt;
/// use klab_memory::structures::container_of;
/// assert_eq!(container_of(GuestVirt(0x1a68), 0xa68), GuestVirt(0x1000));
/// ```
#[must_use]
pub const fn container_of(member: GuestVirt, offset: u64) -> GuestVirt {
    member.back(offset)
}

/// A walk along a `list_head` ring: see [`list_for_each`].
#[derive(Debug, Clone)]
pub struct List<'k> {
    kernel: &'k Kernel,
    head: GuestVirt,
    member: u64,
    last: GuestVirt,
    next: Option<u64>,
    guard: Guard,
}

/// Walks the list whose head is at `head`: yields the address of each node, without the head.
///
/// A node is yielded only once its own `next` was read, so it is readable. A `next` that is NULL, poison or unreadable
/// is [`Error::Broken`](crate::Error::Broken) and names the node that holds it.
#[must_use]
pub fn list_for_each(kernel: &Kernel, head: GuestVirt) -> List<'_> {
    list_for_each_entry(kernel, head, 0)
}

/// Walks the list at `head`: yields the structure around each node, whose `list_head` lies at `member` bytes.
#[must_use]
pub fn list_for_each_entry(kernel: &Kernel, head: GuestVirt, member: u64) -> List<'_> {
    let guard = Guard::new("list", head, LIST_BOUND);
    List {
        kernel,
        head,
        member,
        last: head,
        next: None,
        guard,
    }
}

impl List<'_> {
    /// The same walk, giving up after `nodes`.
    #[must_use]
    pub fn bound(mut self, nodes: usize) -> Self {
        self.guard.set_bound(nodes);
        self
    }

    fn advance(&mut self) -> Result<Option<GuestVirt>> {
        let next = match self.next {
            Some(next) => next,
            None => word(self.kernel, self.head)?,
        };
        let node = GuestVirt(next);
        if node == self.head {
            return Ok(None);
        }
        if let Some(why) = bad_pointer(next) {
            return Err(self.guard.broken(self.last, format!("its next is {why}")));
        }
        self.guard.step(node)?;
        let onwards = word(self.kernel, node).map_err(|fault| {
            self.guard
                .unreadable(self.last, &format!("its next is {next:#x}"), fault)
        })?;
        self.last = node;
        self.next = Some(onwards);
        Ok(Some(container_of(node, self.member)))
    }
}

walks!(List<'_> => GuestVirt);

/// The structures on the list at `head`, whose `list_head` lies at `member` bytes. A node whose `prev` is not the node
/// before it is an error: the list is broken, or changes while it is read, which [`settle`](super::settle) tells apart.
///
/// # Errors
/// `Broken` at a node whose links contradict each other; when a node cannot be read.
pub fn checked_list(
    kernel: &Kernel,
    head: GuestVirt,
    member: u64,
    bound: usize,
) -> Result<Vec<GuestVirt>> {
    let mut walk = list_for_each_entry(kernel, head, member).bound(bound);
    let (mut entries, mut before) = (Vec::new(), head);
    while let Some(entry) = walk.next() {
        let entry = entry?;
        let node = entry.offset(member);
        check_prev(kernel, &walk.guard, node, before)?;
        before = node;
        entries.push(entry);
    }
    check_prev(kernel, &walk.guard, head, before)?;
    Ok(entries)
}

/// The structures on the list at `head`, as [`checked_list`] has them. Where a link is wrong: those before it and those
/// that `prev` reaches from the other end, with the break.
pub fn whole_list(
    kernel: &Kernel,
    head: GuestVirt,
    member: u64,
    bound: usize,
    what: &str,
) -> Listing<GuestVirt> {
    let mut walk = list_for_each_entry(kernel, head, member).bound(bound);
    let (mut list, mut before) = (Listing::new(), head);
    let broken = loop {
        let (node, entry) = match walk.next() {
            Some(Ok(entry)) => (entry.offset(member), Some(entry)),
            Some(Err(error)) => break Some(error),
            None => (head, None),
        };
        if let Err(error) = check_prev(kernel, &walk.guard, node, before) {
            break Some(error);
        }
        let Some(entry) = entry else { break None };
        list.items.push(entry);
        before = node;
    };
    let Some(error) = broken else {
        return list;
    };
    list.miss_behind(what, &error);
    let behind = behind_break(kernel, head, member, bound, &list);
    list.items.extend(behind);
    list
}

/// The structures that `next` leads to from `head`; where a link is wrong, those that `prev` reaches from the other end too, with the break
/// and the number of structures before it. No `prev` is held against its `next`: on a list of a running guest the two differ for a moment.
pub fn list_both_ways(
    kernel: &Kernel,
    head: GuestVirt,
    member: u64,
    what: &str,
) -> (Listing<GuestVirt>, Option<usize>) {
    let (mut list, mut met) = (Listing::new(), HashSet::new());
    let mut broken = None;
    for entry in list_for_each_entry(kernel, head, member) {
        // The walk itself finds a loop only when it has been around.
        let entry = entry.and_then(|entry| match met.insert(entry) {
            true => Ok(entry),
            false => {
                let last = list
                    .items
                    .last()
                    .map_or(head, |last: &GuestVirt| last.offset(member));
                let why = format!(
                    "its next is {}, which came before: a loop",
                    entry.offset(member)
                );
                Err(Error::broken("list", last, why))
            }
        });
        match entry {
            Ok(entry) => list.items.push(entry),
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    let Some(error) = broken else {
        return (list, None);
    };
    list.miss_behind(what, &error);
    let before = list.len();
    let behind = behind_break(kernel, head, member, LIST_BOUND, &list);
    list.items.extend(behind);
    (list, Some(before))
}

/// The structures behind the break of a list, in its order: those that `prev` reaches from `head`, up to those that were met.
fn behind_break(
    kernel: &Kernel,
    head: GuestVirt,
    member: u64,
    bound: usize,
    list: &[GuestVirt],
) -> Vec<GuestVirt> {
    let met: HashSet<GuestVirt> = list.iter().map(|entry| entry.offset(member)).collect();
    let (mut behind, mut next) = (Vec::new(), head);
    // The break is named already: what ends the way back needs no second word.
    while let Ok(prev) = word(kernel, next.offset(PREV)) {
        let node = GuestVirt(prev);
        let follows = word(kernel, node).is_ok_and(|word| word == next.0);
        if node == head || !follows || met.contains(&node) || behind.len() >= bound {
            break;
        }
        behind.push(container_of(node, member));
        next = node;
    }
    behind.reverse();
    behind
}

/// Checks the ring at `head`: every node's `prev` must be the node before it. Returns the number of nodes.
///
/// A list that changes under the check looks broken for a moment: pause the guest, or check again.
///
/// # Errors
/// [`Error::Broken`](crate::Error::Broken) names the first node that breaks the rule or is not in RAM;
/// [`Error::TooLong`](crate::Error::TooLong) past `bound`.
pub fn validate_list(kernel: &Kernel, head: GuestVirt, bound: usize) -> Result<usize> {
    Ok(checked_list(kernel, head, 0, bound)?.len())
}

fn check_prev(kernel: &Kernel, guard: &Guard, node: GuestVirt, before: GuestVirt) -> Result<()> {
    let prev = word(kernel, node.offset(PREV))?;
    if prev == before.0 {
        return Ok(());
    }
    let prev = bad_pointer(prev).unwrap_or_else(|| format!("{prev:#x}"));
    Err(guard.broken(
        node,
        format!("its prev is {prev}, but the node before it is {before}"),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::LIST_POISON1;
    use super::super::testing::Image;
    use super::*;

    const HEAD: u64 = 0x1000;

    fn ring(nodes: &[u64]) -> Image {
        let mut image = Image::default();
        let all: Vec<u64> = std::iter::once(HEAD).chain(nodes.iter().copied()).collect();
        for (i, node) in all.iter().enumerate() {
            image.set(*node, all[(i + 1) % all.len()]);
            image.set(node + PREV, all[(i + all.len() - 1) % all.len()]);
        }
        image
    }

    fn walk(image: &Image) -> Result<Vec<u64>> {
        list_for_each(&image.kernel(), GuestVirt(HEAD))
            .map(|n| n.map(|n| n.0))
            .collect()
    }

    fn validate(image: &Image) -> Result<usize> {
        validate_list(&image.kernel(), GuestVirt(HEAD), LIST_BOUND)
    }

    #[test]
    fn empty_single_and_three() {
        for nodes in [&[][..], &[0x2000], &[0x3000, 0x2000, 0x2800]] {
            let image = ring(nodes);
            assert_eq!(walk(&image).unwrap(), nodes);
            assert_eq!(validate(&image).unwrap(), nodes.len());
        }
    }

    #[test]
    fn entries_are_the_containers() {
        let image = ring(&[0x2010, 0x3010]);
        let kernel = image.kernel();
        let entries: Vec<_> = list_for_each_entry(&kernel, GuestVirt(HEAD), 0x10)
            .map(Result::unwrap)
            .collect();
        assert_eq!(entries, [GuestVirt(0x2000), GuestVirt(0x3000)]);
    }

    #[test]
    fn behind_a_break_the_list_is_followed_from_its_end() {
        let nodes = [0x2000, 0x3000, 0x4000, 0x5000];
        let found = |image: &Image| {
            let (list, broken) = list_both_ways(&image.kernel(), GuestVirt(HEAD), 0, "it");
            let at: Vec<u64> = list.iter().map(|at| at.0).collect();
            (at, broken, list.missing.len())
        };
        let mut image = ring(&nodes);
        assert_eq!(found(&image), (nodes.to_vec(), None, 0));
        image.set(0x3000, LIST_POISON1);
        assert_eq!(found(&image), (nodes.to_vec(), Some(2), 1));
        let mut image = ring(&nodes);
        image.set(0x4000, 0x3000);
        assert_eq!(found(&image), (nodes.to_vec(), Some(3), 1));
        let mut image = ring(&nodes);
        image.set(HEAD, LIST_POISON1);
        assert_eq!(found(&image), (nodes.to_vec(), Some(0), 1));
    }

    #[test]
    fn poison_names_the_deleted_node() {
        let mut image = ring(&[0x2000, 0x3000]);
        image.set(0x2000, LIST_POISON1);
        let Err(Error::Broken { at, why, .. }) = walk(&image) else {
            panic!("not broken")
        };
        assert_eq!(at, GuestVirt(0x2000));
        assert!(why.contains("LIST_POISON1"), "{why}");
    }

    #[test]
    fn null_head_is_said() {
        let mut image = Image::default();
        image.set(HEAD, 0);
        let Err(Error::Broken { at, why, .. }) = walk(&image) else {
            panic!("not broken")
        };
        assert_eq!(at, GuestVirt(HEAD));
        assert!(why.contains("never initialised"), "{why}");
    }

    #[test]
    fn a_wild_next_names_its_holder() {
        let mut image = ring(&[0x2000, 0x3000]);
        image.set(0x3000, 0xffff_8880_0000_0000);
        let Err(Error::Broken { at, why, .. }) = walk(&image) else {
            panic!("not broken")
        };
        assert_eq!(at, GuestVirt(0x3000));
        assert!(why.contains("0xffff888000000000"), "{why}");
    }

    #[test]
    fn a_bad_prev_is_named_by_validate_alone() {
        let mut image = ring(&[0x2000, 0x3000, 0x4000]);
        image.set(0x3000 + PREV, 0x4000);
        assert_eq!(walk(&image).unwrap().len(), 3);
        let Err(Error::Broken { at, .. }) = validate(&image) else {
            panic!("not broken")
        };
        assert_eq!(at, GuestVirt(0x3000));
    }

    #[test]
    fn what_lies_before_and_behind_a_broken_link_is_listed() {
        let listed = |at: u64, value: u64| {
            let mut image = ring(&[0x2000, 0x3000, 0x4000, 0x5000]);
            image.set(at, value);
            let list = whole_list(&image.kernel(), GuestVirt(HEAD), 0, 100, "the nodes");
            (list.iter().map(|at| at.0).collect::<Vec<_>>(), list.missing)
        };
        let all = vec![0x2000, 0x3000, 0x4000, 0x5000];
        assert_eq!(listed(0x6000, 0), (all.clone(), vec![]));
        for (at, value) in [
            (0x3000, LIST_POISON1),
            (0x3000, 0x41),
            (0x3000, 0x3000),
            (0x4000 + PREV, 0),
        ] {
            let (nodes, missing) = listed(at, value);
            assert_eq!(missing.len(), 1, "{at:#x} {value:#x}");
            assert!(
                missing[0].what.starts_with("the nodes behind"),
                "{missing:?}"
            );
            assert!(missing[0].at.is_some(), "{missing:?}");
            let without = |node| all.iter().copied().filter(|n| *n != node).collect();
            let expected: [Vec<u64>; 2] = [all.clone(), without(0x4000)];
            assert!(expected.contains(&nodes), "{at:#x} {value:#x}: {nodes:x?}");
        }
        let (nodes, missing) = listed(HEAD, 0);
        assert_eq!((nodes, missing.len()), (all, 1));
    }

    #[test]
    fn a_loop_that_misses_the_head_is_found() {
        let mut image = ring(&[0x2000, 0x3000, 0x4000, 0x5000]);
        image.set(0x5000, 0x3000);
        let Err(Error::Broken { why, .. }) = walk(&image) else {
            panic!("not broken")
        };
        assert!(why.contains("loop"), "{why}");
    }

    #[test]
    fn the_bound_is_an_error() {
        let image = ring(&[0x2000, 0x3000, 0x4000]);
        let kernel = image.kernel();
        let last = list_for_each(&kernel, GuestVirt(HEAD)).bound(2).last();
        assert_eq!(
            last,
            Some(Err(Error::TooLong {
                what: "list",
                at: GuestVirt(HEAD),
                bound: 2
            }))
        );
        assert_eq!(
            list_for_each(&kernel, GuestVirt(HEAD))
                .bound(3)
                .filter(Result::is_ok)
                .count(),
            3
        );
    }

    proptest! {
        #[test]
        fn any_ring_is_walked_whole(order in Just((2u64..60).collect::<Vec<_>>()).prop_shuffle(), n in 0usize..58) {
            let nodes: Vec<u64> = order[..n].iter().map(|i| i * 0x1000).collect();
            let image = ring(&nodes);
            prop_assert_eq!(walk(&image).unwrap(), nodes);
            prop_assert_eq!(validate(&image).unwrap(), n);
        }

        #[test]
        fn one_wrong_link_never_passes_validation(n in 1usize..40, which in 0usize..40, prev: bool, value: u64) {
            let nodes: Vec<u64> = (2..2 + n as u64).map(|i| i * 0x1000).collect();
            let mut image = ring(&nodes);
            let at = nodes[which % n] + if prev { PREV } else { 0 };
            prop_assume!(image.set(at, value) != Some(value));
            prop_assert!(validate(&image).is_err());
        }

        #[test]
        fn arbitrary_words_end(words in proptest::collection::vec((0u64..64, 0u64..66), 0..64)) {
            let mut image = Image::default();
            for (at, to) in words {
                image.set(at * 8, to * 8);
            }
            let kernel = image.kernel();
            prop_assert!(list_for_each(&kernel, GuestVirt(8)).bound(1000).count() <= 1001);
            let _ = validate_list(&kernel, GuestVirt(8), 1000);
        }
    }
}
