//! `struct maple_tree`: ranges of `unsigned long` to pointers (`include/linux/maple_tree.h`, `lib/maple_tree.c`).
//!
//! A pointer to a node carries its type in bits 3 to 6; nodes are aligned to 256 bytes. A node of a range type has one
//! pivot less than slots: slot `i` holds the range that ends with pivot `i`, the last slot ends where the node ends.

use std::collections::HashSet;

use super::guard::{Guard, walks};
use super::{unreadable, word};

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// Nodes that a maple-tree walk takes before it gives up, unless told otherwise.
pub const MAPLE_BOUND: usize = 1 << 20;
/// The deepest tree: `MAPLE_HEIGHT_MAX` in `lib/maple_tree.c`.
pub const MAPLE_DEPTH: usize = 31;
/// The most slots of any node: what fits into its 256 bytes.
const SLOTS_MAX: usize = 31;
/// `MAPLE_NODE_MASK`.
const NODE_MASK: u64 = 255;
/// `XA_ZERO_ENTRY`: a range that is reserved and has no entry.
const ZERO_ENTRY: u64 = 257 << 2 | 2;

const DENSE: u64 = 0;
const LEAF_64: u64 = 1;
const RANGE_64: u64 = 2;
const ARANGE_64: u64 = 3;

/// Offsets of the members of one node type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapleNodeLayout {
    /// `pivot[]`, in bytes.
    pub pivot: u64,
    /// Number of pivots.
    pub pivots: usize,
    /// `slot[]`, in bytes.
    pub slot: u64,
    /// Number of slots.
    pub slots: usize,
    /// `meta.end`, in bytes: the offset of the last slot in use.
    pub end: u64,
}

/// Offsets of the members of `struct maple_tree` and its nodes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapleLayout {
    /// `maple_tree.ma_root`.
    pub root: u64,
    /// `parent` of every node.
    pub parent: u64,
    /// `maple_node.slot`: the slots of a dense node.
    pub dense: MapleNodeLayout,
    /// `struct maple_range_64`: leaves and inner nodes.
    pub range: MapleNodeLayout,
    /// `struct maple_arange_64`: inner nodes that know their gaps.
    pub arange: MapleNodeLayout,
}

/// One entry of a maple tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct MapleEntry {
    /// First index of the range.
    pub first: u64,
    /// Last index of the range, itself in it.
    pub last: u64,
    /// The stored word.
    pub entry: u64,
}

/// A node on the way.
#[derive(Debug, Clone, Copy)]
struct Level {
    node: GuestVirt,
    kind: MapleNodeLayout,
    leaf: bool,
    /// The range that its parent gives it.
    min: u64,
    max: u64,
    /// The next slot, where its range begins, and the last slot in use.
    slot: usize,
    first: u64,
    end: usize,
}

/// A walk through a maple tree: see [`mt_for_each`].
#[derive(Debug, Clone)]
pub struct Maple<'k> {
    kernel: &'k Kernel,
    layout: MapleLayout,
    tree: GuestVirt,
    guard: Guard,
    levels: Vec<Level>,
    begun: bool,
}

/// Walks the tree at `tree` (`struct maple_tree`): yields all entries, ascending. Empty ranges and reserved ones
/// (`XA_ZERO_ENTRY`) are left out.
#[must_use]
pub fn mt_for_each(kernel: &Kernel, tree: GuestVirt, layout: MapleLayout) -> Maple<'_> {
    Maple {
        kernel,
        layout,
        tree,
        guard: Guard::new("maple tree", tree, MAPLE_BOUND),
        levels: Vec::new(),
        begun: false,
    }
}

/// The entry that holds `index`, if there is one: `mtree_load()`.
///
/// # Errors
/// `Broken` if a node on the way is damaged or not in RAM; `Unmapped` if the tree itself is not.
pub fn mtree_load(
    kernel: &Kernel,
    tree: GuestVirt,
    layout: MapleLayout,
    index: u64,
) -> Result<Option<MapleEntry>> {
    let mut walk = mt_for_each(kernel, tree, layout);
    let root = word(kernel, tree.offset(layout.root))?;
    if !is_node(root) {
        return Ok(walk
            .single(root)
            .filter(|e| e.first <= index && index <= e.last));
    }
    let mut level = walk.enter(root, tree, 0, u64::MAX)?;
    loop {
        // A level has at most SLOTS_MAX slots, and there are at most MAPLE_DEPTH levels.
        let Some((first, last, entry)) = walk.slot(&mut level)? else {
            return Ok(None);
        };
        if last < index {
            continue;
        }
        if level.leaf {
            return Ok(visible(entry).then_some(MapleEntry { first, last, entry }));
        }
        walk.levels.push(level);
        level = walk.enter(entry, level.node, first, last)?;
    }
}

/// `xa_is_node()`, which the root of a maple tree is tested with.
fn is_node(entry: u64) -> bool {
    entry & 3 == 2 && entry > 4096
}

fn visible(entry: u64) -> bool {
    entry != 0 && entry != ZERO_ENTRY
}

impl Maple<'_> {
    /// The same walk, giving up after `nodes` tree nodes.
    #[must_use]
    pub fn bound(mut self, nodes: usize) -> Self {
        self.guard.set_bound(nodes);
        self
    }

    /// A root that is no node is the entry of index 0.
    fn single(&self, root: u64) -> Option<MapleEntry> {
        visible(root).then_some(MapleEntry {
            first: 0,
            last: 0,
            entry: root,
        })
    }

    fn broken(at: GuestVirt, why: String) -> Error {
        Error::Broken {
            what: "maple tree",
            at,
            why,
        }
    }

    /// Decodes an encoded node pointer that `holder` holds: `mte_to_node()`, `mte_node_type()`, `ma_data_end()`.
    fn enter(&mut self, encoded: u64, holder: GuestVirt, min: u64, max: u64) -> Result<Level> {
        let node = GuestVirt(encoded & !NODE_MASK);
        let (kind, leaf) = match encoded >> 3 & 0xf {
            DENSE => (self.layout.dense, true),
            LEAF_64 => (self.layout.range, true),
            RANGE_64 => (self.layout.range, false),
            ARANGE_64 => (self.layout.arange, false),
            other => {
                return Err(Self::broken(
                    holder,
                    format!("a child of it is {encoded:#x}, of node type {other}"),
                ));
            }
        };
        if node.is_null() {
            return Err(Self::broken(
                holder,
                format!("a child of it is {encoded:#x}, no node"),
            ));
        }
        if self.levels.len() >= MAPLE_DEPTH {
            return Err(Self::broken(
                node,
                format!("more than {MAPLE_DEPTH} levels below the root: a loop"),
            ));
        }
        self.guard.step(node)?;
        let parent = word(self.kernel, node.offset(self.layout.parent)).map_err(|fault| {
            let relation = format!("a child of it is {encoded:#x}");
            unreadable("maple tree", holder, &relation, fault)
        })?;
        if parent & !NODE_MASK == node.0 {
            return Err(Self::broken(
                node,
                "the node is dead: it was replaced while it was read".to_owned(),
            ));
        }
        let end = self.data_end(node, kind, min, max)?;
        Ok(Level {
            node,
            kind,
            leaf,
            min,
            max,
            slot: 0,
            first: min,
            end,
        })
    }

    /// The offset of the last slot in use: `ma_data_end()`.
    fn data_end(
        &self,
        node: GuestVirt,
        kind: MapleNodeLayout,
        min: u64,
        max: u64,
    ) -> Result<usize> {
        let last_slot = kind.slots.min(SLOTS_MAX).saturating_sub(1);
        if kind.pivots == 0 {
            // A dense node has one slot for each index.
            return Ok(usize::try_from(max.saturating_sub(min))
                .map_or(last_slot, |span| span.min(last_slot)));
        }
        // In a maple_range_64 the last slot holds the metadata while it is not in use as a slot.
        if kind == self.layout.range {
            let last_pivot = word(
                self.kernel,
                node.offset(kind.pivot + 8 * (kind.pivots as u64 - 1)),
            )?;
            if last_pivot == max {
                return Ok(last_slot.min(kind.pivots - 1));
            }
            if last_pivot != 0 {
                return Ok(last_slot.min(kind.pivots));
            }
        }
        let mut end = [0];
        self.kernel.read(node.offset(kind.end), &mut end)?;
        let end = usize::from(end[0]);
        if end > last_slot {
            return Err(Self::broken(
                node,
                format!(
                    "its data ends in slot {end}, but it has {} slots",
                    kind.slots
                ),
            ));
        }
        Ok(end)
    }

    /// Reads the next slot of a level: its range and entry.
    fn slot(&self, level: &mut Level) -> Result<Option<(u64, u64, u64)>> {
        if level.slot > level.end {
            return Ok(None);
        }
        let index = level.slot as u64;
        let last = if level.kind.pivots == 0 {
            level.first
        } else if level.slot == level.end {
            level.max
        } else {
            word(self.kernel, level.node.offset(level.kind.pivot + 8 * index))?
        };
        if last < level.first || last > level.max {
            let why = format!(
                "pivot {index} is {last:#x}, not within {:#x}..={:#x} of its slot",
                level.first, level.max
            );
            return Err(Self::broken(level.node, why));
        }
        let entry = word(self.kernel, level.node.offset(level.kind.slot + 8 * index))?;
        let first = level.first;
        // The range that ends with the last index is the node's last.
        match last.checked_add(1) {
            Some(next) if last < level.max => {
                level.first = next;
                level.slot += 1;
            }
            _ => level.slot = level.end + 1,
        }
        Ok(Some((first, last, entry)))
    }

    fn advance(&mut self) -> Result<Option<MapleEntry>> {
        if !self.begun {
            self.begun = true;
            let root = word(self.kernel, self.tree.offset(self.layout.root))?;
            if !is_node(root) {
                return Ok(self.single(root));
            }
            let level = self.enter(root, self.tree, 0, u64::MAX)?;
            self.levels.push(level);
        }
        while let Some(mut level) = self.levels.pop() {
            let Some((first, last, entry)) = self.slot(&mut level)? else {
                continue;
            };
            self.levels.push(level);
            if !level.leaf {
                let below = self.enter(entry, level.node, first, last)?;
                self.levels.push(below);
            } else if visible(entry) {
                return Ok(Some(MapleEntry { first, last, entry }));
            }
        }
        Ok(None)
    }
}

walks!(Maple<'_> => MapleEntry);

/// Checks the tree at `tree`: besides what a walk checks (types, pivots ascending and within their parent's range, no
/// dead node, depth), no node occurs twice, and each node's parent and the slot it is in are those the walk came by,
/// as `mas_validate_parent_slot()` does. Returns the number of entries.
///
/// # Errors
/// [`Error::Broken`](crate::Error::Broken) names the first node that breaks a rule or is not in RAM;
/// [`Error::TooLong`](crate::Error::TooLong) past `bound`.
pub fn validate_maple(
    kernel: &Kernel,
    tree: GuestVirt,
    layout: MapleLayout,
    bound: usize,
) -> Result<usize> {
    let mut walk = mt_for_each(kernel, tree, layout).bound(bound);
    let mut entries = 0;
    let mut seen = HashSet::new();
    let root = word(kernel, tree.offset(layout.root))?;
    if !is_node(root) {
        return Ok(usize::from(visible(root)));
    }
    let level = walk.enter(root, tree, 0, u64::MAX)?;
    check_root(kernel, layout, level.node, tree)?;
    seen.insert(level.node);
    walk.levels.push(level);
    while let Some(mut level) = walk.levels.pop() {
        let at = level.slot;
        let Some((first, last, entry)) = walk.slot(&mut level)? else {
            continue;
        };
        walk.levels.push(level);
        if level.leaf {
            entries += usize::from(visible(entry));
            continue;
        }
        let below = walk.enter(entry, level.node, first, last)?;
        if !seen.insert(below.node) {
            return Err(Maple::broken(
                below.node,
                "the node is in the tree twice".to_owned(),
            ));
        }
        check_parent(kernel, layout, &below, &level, at)?;
        walk.levels.push(below);
    }
    Ok(entries)
}

/// The root's parent is its tree, with `MA_ROOT_PARENT` set.
fn check_root(
    kernel: &Kernel,
    layout: MapleLayout,
    node: GuestVirt,
    tree: GuestVirt,
) -> Result<()> {
    let parent = word(kernel, node.offset(layout.parent))?;
    if parent == tree.0 | 1 {
        return Ok(());
    }
    Err(Maple::broken(
        node,
        format!("its parent is {parent:#x}, but it is the root of the tree at {tree}"),
    ))
}

/// `mte_parent_slot()` and `mte_parent()`: in a parent pointer, bits 3 to 7 hold the slot.
fn check_parent(
    kernel: &Kernel,
    layout: MapleLayout,
    node: &Level,
    above: &Level,
    slot: usize,
) -> Result<()> {
    let parent = word(kernel, node.node.offset(layout.parent))?;
    let (is, in_slot) = (parent & !NODE_MASK, (parent & 0xf8) >> 3);
    if is != above.node.0 || in_slot != slot as u64 {
        let why = format!(
            "its parent is {is:#x} slot {in_slot}, but it hangs in {} slot {slot}",
            above.node
        );
        return Err(Maple::broken(node.node, why));
    }
    debug_assert!(
        above.min <= node.min && node.max <= above.max,
        "slot() checks ranges"
    );
    Ok(())
}

#[cfg(test)]
mod tests;
