//! `struct plist_head`: a list sorted by priority (`include/linux/plist.h`). All nodes are on `node_list`; the first
//! node of each priority is on `prio_list` as well.

use super::list::{LIST_BOUND, List, list_for_each_entry, validate_list};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// Offsets of the members of `struct plist_node`, in bytes; `plist_head` is only its `node_list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlistLayout {
    /// `plist_node.prio`, an `int`.
    pub prio: u64,
    /// `plist_node.prio_list`.
    pub prio_list: u64,
    /// `plist_node.node_list`.
    pub node_list: u64,
}

/// A walk along a `plist_head`: see [`plist_for_each`].
#[derive(Debug, Clone)]
pub struct Plist<'k> {
    kernel: &'k Kernel,
    layout: PlistLayout,
    nodes: List<'k>,
}

/// Walks the plist at `head`: yields the address of each `plist_node` with its priority, most urgent (lowest) first.
#[must_use]
pub fn plist_for_each(kernel: &Kernel, head: GuestVirt, layout: PlistLayout) -> Plist<'_> {
    Plist {
        kernel,
        layout,
        nodes: list_for_each_entry(kernel, head, layout.node_list),
    }
}

impl Plist<'_> {
    /// The same walk, giving up after `nodes`.
    #[must_use]
    pub fn bound(self, nodes: usize) -> Self {
        Self {
            nodes: self.nodes.bound(nodes),
            ..self
        }
    }
}

impl Iterator for Plist<'_> {
    type Item = Result<(GuestVirt, i32)>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(
            self.nodes
                .next()?
                .and_then(|node| Ok((node, prio(self.kernel, node, self.layout)?))),
        )
    }
}

fn prio(kernel: &Kernel, node: GuestVirt, layout: PlistLayout) -> Result<i32> {
    let mut bytes = [0; 4];
    kernel.read(node.offset(layout.prio), &mut bytes)?;
    Ok(i32::from_le_bytes(bytes))
}

/// Checks the plist at `head` as `plist_check_head()` does: both rings are sound, priorities never fall, and the ring of
/// priorities holds exactly the first node of each. Returns the number of nodes.
///
/// # Errors
/// [`Error::Broken`] names the first node that breaks a rule or is not in RAM;
/// [`Error::TooLong`](crate::Error::TooLong) past `bound`.
pub fn validate_plist(
    kernel: &Kernel,
    head: GuestVirt,
    layout: PlistLayout,
    bound: usize,
) -> Result<usize> {
    let count = validate_list(kernel, head, bound)?;
    let mut firsts: Vec<(GuestVirt, i32)> = Vec::new();
    for node in plist_for_each(kernel, head, layout).bound(bound) {
        let (node, prio) = node?;
        match firsts.last() {
            Some((_, last)) if prio < *last => {
                return Err(broken(
                    node,
                    format!("its prio is {prio}, but the node before it has {last}"),
                ));
            }
            Some((_, last)) if prio == *last => {}
            _ => firsts.push((node, prio)),
        }
    }
    let Some((first, _)) = firsts.first().copied() else {
        return Ok(count);
    };
    let ring = first.offset(layout.prio_list);
    validate_list(kernel, ring, bound)?;
    let mut rest = firsts.iter().skip(1).map(|(node, _)| *node);
    for node in list_for_each_entry(kernel, ring, layout.prio_list).bound(LIST_BOUND) {
        let node = node?;
        if rest.next() != Some(node) {
            return Err(broken(
                node,
                "it is on the ring of priorities, but is not the next priority's first".to_owned(),
            ));
        }
    }
    match rest.next() {
        Some(node) => Err(broken(
            node,
            "it is the first of its priority, but not on the ring of priorities".to_owned(),
        )),
        None => Ok(count),
    }
}

fn broken(at: GuestVirt, why: String) -> Error {
    Error::Broken {
        what: "plist",
        at,
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Image;
    use super::*;

    const LAYOUT: PlistLayout = PlistLayout {
        prio: 0,
        prio_list: 8,
        node_list: 24,
    };
    const HEAD: GuestVirt = GuestVirt(0x1000);

    fn link(image: &mut Image, ring: &[u64]) {
        for (i, at) in ring.iter().enumerate() {
            image.set(*at, ring[(i + 1) % ring.len()]);
            image.set(at + 8, ring[(i + ring.len() - 1) % ring.len()]);
        }
    }

    fn build(nodes: &[(u64, i32)]) -> Image {
        let mut image = Image::default();
        let mut all = vec![HEAD.0];
        let mut firsts = Vec::new();
        let mut last = None;
        for (node, prio) in nodes {
            image.fill(*node, &prio.to_le_bytes());
            all.push(node + 24);
            if last != Some(*prio) {
                firsts.push(node + 8);
            }
            last = Some(*prio);
        }
        link(&mut image, &all);
        link(&mut image, &firsts);
        image
    }

    #[test]
    fn good_ones() {
        let image = build(&[]);
        assert_eq!(validate_plist(&image.kernel(), HEAD, LAYOUT, 10), Ok(0));
        let nodes = [(0x2000, -5), (0x2100, 3), (0x2200, 3), (0x2300, 9)];
        let kernel = build(&nodes).kernel();
        let walked: Vec<_> = plist_for_each(&kernel, HEAD, LAYOUT)
            .map(|n| n.map(|(n, p)| (n.0, p)).unwrap())
            .collect();
        assert_eq!(walked, nodes);
        assert_eq!(validate_plist(&kernel, HEAD, LAYOUT, 10), Ok(4));
    }

    #[test]
    fn bad_ones_are_named() {
        let unsorted = build(&[(0x2000, 4), (0x2100, 3)]);
        let Err(Error::Broken { at, .. }) = validate_plist(&unsorted.kernel(), HEAD, LAYOUT, 10)
        else {
            panic!("passed")
        };
        assert_eq!(at, GuestVirt(0x2100));

        let mut missing = build(&[(0x2000, 1), (0x2100, 2), (0x2200, 3)]);
        link(&mut missing, &[0x2008, 0x2208]);
        let Err(Error::Broken { at, .. }) = validate_plist(&missing.kernel(), HEAD, LAYOUT, 10)
        else {
            panic!("passed")
        };
        assert_eq!(at, GuestVirt(0x2200));
    }
}
