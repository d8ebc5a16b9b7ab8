//! `struct rb_root`: the red-black tree (`include/linux/rbtree.h`, `include/linux/rbtree_types.h`).

use super::guard::{Guard, walks};
use super::list::container_of;
use super::{bad_pointer, word};
use crate::base::check_interrupt;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// Nodes that a tree walk takes before it gives up, unless told otherwise.
pub const RBTREE_BOUND: usize = 1 << 20;
/// The deepest tree that can be: `2 * log2(n + 1)` for as many nodes as fit into memory.
pub const RBTREE_DEPTH: usize = 128;

// struct rb_node { unsigned long __rb_parent_color; struct rb_node *rb_right, *rb_left; }
const RIGHT: u64 = 8;
const LEFT: u64 = 16;

/// A walk through an `rb_root` in order: see [`rbtree_for_each`].
#[derive(Debug, Clone)]
pub struct Rbtree<'k> {
    kernel: &'k Kernel,
    member: u64,
    /// Nodes whose left side is done, deepest last.
    stack: Vec<GuestVirt>,
    /// A link to descend from before the next node: where it lies, and in which node.
    descend: Option<(GuestVirt, GuestVirt)>,
    guard: Guard,
}

/// Walks the tree at `root` (`rb_root`, or `rb_root_cached`, which begins with one) in order: yields each `rb_node`.
#[must_use]
pub fn rbtree_for_each(kernel: &Kernel, root: GuestVirt) -> Rbtree<'_> {
    rbtree_for_each_entry(kernel, root, 0)
}

/// Walks the tree at `root` in order: yields the structure around each node, whose `rb_node` lies at `member` bytes.
#[must_use]
pub fn rbtree_for_each_entry(kernel: &Kernel, root: GuestVirt, member: u64) -> Rbtree<'_> {
    let guard = Guard::new("rbtree", root, RBTREE_BOUND);
    Rbtree {
        kernel,
        member,
        stack: Vec::new(),
        descend: Some((root, root)),
        guard,
    }
}

impl Rbtree<'_> {
    /// The same walk, giving up after `nodes`.
    #[must_use]
    pub fn bound(mut self, nodes: usize) -> Self {
        self.guard.set_bound(nodes);
        self
    }

    /// Follows left links to the leftmost node below `link`.
    fn descend(&mut self, mut link: GuestVirt, mut holder: GuestVirt) -> Result<()> {
        loop {
            let node = word(self.kernel, link).map_err(|fault| {
                let relation = format!("a link of it is at {link}");
                self.guard.unreadable(holder, &relation, fault)
            })?;
            if node == 0 {
                return Ok(());
            }
            if let Some(why) = bad_pointer(node) {
                return Err(self.guard.broken(holder, format!("a child of it is {why}")));
            }
            if self.stack.len() >= RBTREE_DEPTH {
                let why = format!("more than {RBTREE_DEPTH} levels below the root: a loop");
                return Err(self.guard.broken(GuestVirt(node), why));
            }
            holder = GuestVirt(node);
            self.stack.push(holder);
            link = holder.offset(LEFT);
        }
    }

    fn advance(&mut self) -> Result<Option<GuestVirt>> {
        if let Some((link, holder)) = self.descend.take() {
            self.descend(link, holder)?;
        }
        let Some(node) = self.stack.pop() else {
            return Ok(None);
        };
        self.guard.step(node)?;
        self.descend = Some((node.offset(RIGHT), node));
        Ok(Some(container_of(node, self.member)))
    }
}

walks!(Rbtree<'_> => GuestVirt);

/// The parent of the `rb_node` at `node`: `rb_parent()`; `None` for the root.
///
/// # Errors
/// `Unmapped` if the node is not in RAM.
pub fn rb_parent(kernel: &Kernel, node: GuestVirt) -> Result<Option<GuestVirt>> {
    let parent = GuestVirt(word(kernel, node)? & !3);
    Ok((!parent.is_null()).then_some(parent))
}

/// Checks the tree at `root`: the root is black and has no parent, each node's parent is the node above it, no red node
/// has a red child, and every path has the same number of black nodes. Returns the number of nodes.
///
/// # Errors
/// `Broken` names the first node that breaks a rule or is not in RAM; [`Error::TooLong`] past `bound`.
pub fn validate_rbtree(kernel: &Kernel, root: GuestVirt, bound: usize) -> Result<usize> {
    let guard = Guard::new("rbtree", root, bound);
    let mut count = 0;
    let mut black_height = None;
    let mut work = vec![Visit {
        node: word(kernel, root)?,
        parent: GuestVirt(0),
        parent_red: true,
        black: 0,
        depth: 0,
    }];
    while let Some(visit) = work.pop() {
        check_interrupt();
        if visit.node == 0 {
            let height = *black_height.get_or_insert(visit.black);
            if height != visit.black {
                let why = format!(
                    "{} black nodes lead to a leaf of it, {height} to others",
                    visit.black
                );
                return Err(guard.broken(visit.parent, why));
            }
            continue;
        }
        if count == bound {
            return Err(Error::TooLong {
                what: "rbtree",
                at: root,
                bound,
            });
        }
        count += 1;
        work.extend(visit.check(kernel, &guard)?);
    }
    Ok(count)
}

#[derive(Debug)]
struct Visit {
    node: u64,
    parent: GuestVirt,
    parent_red: bool,
    black: usize,
    depth: usize,
}

impl Visit {
    /// Checks this node against its parent; returns what is below it.
    fn check(&self, kernel: &Kernel, guard: &Guard) -> Result<[Self; 2]> {
        let node = GuestVirt(self.node);
        if let Some(why) = bad_pointer(self.node) {
            return Err(guard.broken(self.parent, format!("a child of it is {why}")));
        }
        if self.depth == RBTREE_DEPTH {
            return Err(guard.broken(
                node,
                format!("more than {RBTREE_DEPTH} levels below the root: a loop"),
            ));
        }
        let parent_color = word(kernel, node).map_err(|fault| {
            guard.unreadable(self.parent, &format!("a child of it is {node}"), fault)
        })?;
        let (parent, red) = (parent_color & !3, parent_color & 1 == 0);
        if parent != self.parent.0 {
            return Err(guard.broken(
                node,
                format!(
                    "its parent is {parent:#x}, but it hangs below {}",
                    self.parent
                ),
            ));
        }
        if red && self.parent_red {
            let why = if self.depth == 0 {
                "it is the root and red"
            } else {
                "it is red and so is its parent"
            };
            return Err(guard.broken(node, why.to_owned()));
        }
        let black = self.black + usize::from(!red);
        let below = |child| Self {
            node: child,
            parent: node,
            parent_red: red,
            black,
            depth: self.depth + 1,
        };
        Ok([
            below(word(kernel, node.offset(RIGHT))?),
            below(word(kernel, node.offset(LEFT))?),
        ])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::Image;
    use super::*;

    const ROOT: GuestVirt = GuestVirt(0x1000);

    fn at(index: usize) -> u64 {
        0x10_0000 + 0x40 * index as u64
    }

    /// A balanced tree of nodes `lo..hi`: black, but red on the lowest, incomplete level.
    fn build(image: &mut Image, link: u64, parent: u64, lo: usize, hi: usize, blacks: u32) {
        if lo == hi {
            image.set(link, 0);
            return;
        }
        let mid = usize::midpoint(lo, hi);
        let node = at(mid);
        image.set(link, node);
        image.set(node, parent | u64::from(blacks > 0));
        build(image, node + LEFT, node, lo, mid, blacks.saturating_sub(1));
        build(
            image,
            node + RIGHT,
            node,
            mid + 1,
            hi,
            blacks.saturating_sub(1),
        );
    }

    fn tree(n: usize) -> Image {
        let mut image = Image::default();
        // Every path of this shape has at least floor(log2(n + 1)) nodes: those are black, the rest red.
        build(&mut image, ROOT.0, 0, 0, n, (n + 1).ilog2());
        image
    }

    fn broken(result: Result<usize>) -> (GuestVirt, String) {
        match result {
            Err(Error::Broken { at, why, .. }) => (at, why),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn in_order_from_empty_to_many() {
        for n in [0, 1, 2, 3, 4, 7, 8, 100, 1000] {
            let kernel = tree(n).kernel();
            let nodes: Vec<u64> = rbtree_for_each(&kernel, ROOT)
                .map(|n| n.unwrap().0)
                .collect();
            assert_eq!(nodes, (0..n).map(at).collect::<Vec<_>>());
            assert_eq!(validate_rbtree(&kernel, ROOT, RBTREE_BOUND).unwrap(), n);
        }
        let kernel = tree(3).kernel();
        assert_eq!(
            rbtree_for_each_entry(&kernel, ROOT, 0x10).next(),
            Some(Ok(GuestVirt(at(0) - 0x10)))
        );
        assert_eq!(
            rb_parent(&kernel, GuestVirt(at(0))).unwrap(),
            Some(GuestVirt(at(1)))
        );
        assert_eq!(rb_parent(&kernel, GuestVirt(at(1))).unwrap(), None);
    }

    #[test]
    fn each_fault_names_its_node() {
        let good = tree(7);
        let check = |image: &Image| broken(validate_rbtree(&image.kernel(), ROOT, 100));

        let mut image = good.clone();
        image.set(at(3), 0);
        assert!(check(&image).1.contains("root and red"));

        let mut image = good.clone();
        image.set(at(1), at(3));
        image.set(at(0), at(1));
        assert_eq!(
            check(&image),
            (
                GuestVirt(at(0)),
                "it is red and so is its parent".to_owned()
            )
        );

        let mut image = good.clone();
        image.set(at(5), at(1) | 1);
        assert_eq!(check(&image).0, GuestVirt(at(5)));

        let mut image = good.clone();
        image.set(at(6), at(5));
        assert!(check(&image).1.contains("black"));

        let mut image = good.clone();
        image.set(at(0) + LEFT, at(3));
        assert!(check(&image).1.contains("hangs below"));
        let looped = rbtree_for_each(&image.kernel(), ROOT).last();
        assert!(
            matches!(looped, Some(Err(Error::Broken { .. }))),
            "{looped:?}"
        );
    }

    #[test]
    fn the_bound_is_an_error() {
        let kernel = tree(10).kernel();
        assert!(matches!(
            rbtree_for_each(&kernel, ROOT).bound(9).last(),
            Some(Err(Error::TooLong { bound: 9, .. }))
        ));
        assert!(matches!(
            validate_rbtree(&kernel, ROOT, 9),
            Err(Error::TooLong { bound: 9, .. })
        ));
    }

    proptest! {
        #[test]
        fn any_wrong_parent_or_colour_is_found(n in 2usize..60, which in 0usize..60, value: u64) {
            let mut image = tree(n);
            let node = which % n;
            let old = image.set(at(node), value);
            // Bit 1 has no meaning; a leaf may change colour where only its own path counts it.
            prop_assume!(old.is_some_and(|old| old & !3 != value & !3));
            prop_assert!(validate_rbtree(&image.kernel(), ROOT, 100).is_err());
        }

        #[test]
        fn arbitrary_words_end(words in proptest::collection::vec((0u64..64, 0u64..66), 0..64)) {
            let mut image = Image::default();
            for (at, to) in words {
                image.set(at * 8, to * 8);
            }
            let kernel = image.kernel();
            prop_assert!(rbtree_for_each(&kernel, GuestVirt(8)).bound(300).count() <= 301);
            let _ = validate_rbtree(&kernel, GuestVirt(8), 300);
        }
    }
}
