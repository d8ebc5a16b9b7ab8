//! `struct xarray`: an array of pointers by index, a radix tree (`include/linux/xarray.h`, `lib/xarray.c`).

use super::guard::{Guard, walks};
use super::{unreadable, word};

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// Nodes that an xarray walk takes before it gives up, unless told otherwise.
pub const XARRAY_BOUND: usize = 1 << 20;
/// The most slots that a node may have: `XA_CHUNK_SIZE` with `XA_CHUNK_SHIFT` 6.
const CHUNK_MAX: usize = 64;

/// `XA_RETRY_ENTRY`: the node is being removed.
const RETRY: u64 = 256 << 2 | 2;
/// `XA_ZERO_ENTRY`: the index is reserved.
const ZERO: u64 = 257 << 2 | 2;

/// Offsets of the members of `struct xarray` and `struct xa_node`, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XarrayLayout {
    /// `xarray.xa_head`.
    pub head: u64,
    /// `xa_node.shift`, one byte: bits of the index below this node.
    pub shift: u64,
    /// `xa_node.offset`, one byte: the slot of the parent that holds this node.
    pub offset: u64,
    /// `xa_node.count`, one byte: the slots in use.
    pub count: u64,
    /// `xa_node.parent`.
    pub parent: u64,
    /// `xa_node.slots`.
    pub slots: u64,
    /// Number of slots, a power of two.
    pub chunk: usize,
}

/// One entry of an xarray.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct XarrayEntry {
    /// The first index it is stored at.
    pub index: u64,
    /// The last index: greater than `index` where sibling or multi-index entries follow.
    pub last: u64,
    /// The stored word: see [`XarrayEntry::value`] and [`XarrayEntry::pointer`].
    pub entry: u64,
}

impl XarrayEntry {
    /// The integer, if this is a value entry: `xa_to_value()`.
    #[must_use]
    pub const fn value(&self) -> Option<u64> {
        if self.entry & 1 == 1 {
            Some(self.entry >> 1)
        } else {
            None
        }
    }

    /// The pointer, if this is not a value entry; a pointer's tag (bits 0 and 1) is not stripped.
    #[must_use]
    pub const fn pointer(&self) -> Option<GuestVirt> {
        if self.entry & 1 == 1 {
            None
        } else {
            Some(GuestVirt(self.entry))
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Level {
    node: GuestVirt,
    shift: u32,
    slot: usize,
    base: u64,
}

/// A walk through an xarray: see [`xa_for_each`].
#[derive(Debug, Clone)]
pub struct Xarray<'k> {
    kernel: &'k Kernel,
    layout: XarrayLayout,
    array: GuestVirt,
    guard: Guard,
    levels: Vec<Level>,
    begun: bool,
}

/// Walks the array at `array` (`struct xarray`): yields all entries, ascending. Reserved indices are left out.
#[must_use]
pub fn xa_for_each(kernel: &Kernel, array: GuestVirt, layout: XarrayLayout) -> Xarray<'_> {
    Xarray {
        kernel,
        layout,
        array,
        guard: Guard::new("xarray", array, XARRAY_BOUND),
        levels: Vec::new(),
        begun: false,
    }
}

/// The entry at `index`, if there is one: `xa_load()`.
///
/// # Errors
/// `Broken` if a node on the way is damaged or not in RAM; `Unmapped` if the array itself is not.
pub fn xa_load(
    kernel: &Kernel,
    array: GuestVirt,
    layout: XarrayLayout,
    index: u64,
) -> Result<Option<XarrayEntry>> {
    let mut walk = xa_for_each(kernel, array, layout);
    let mut entry = word(kernel, array.offset(layout.head))?;
    let mut above: Option<Level> = None;
    if !is_node(entry) {
        return Ok((index == 0 && visible(entry)).then_some(XarrayEntry {
            index: 0,
            last: 0,
            entry,
        }));
    }
    while is_node(entry) {
        let level = walk.enter(entry, above)?;
        let Some(rest) = index.checked_sub(level.base) else {
            return Ok(None);
        };
        let slot = rest.checked_shr(level.shift).unwrap_or(0);
        let Some(slot) = usize::try_from(slot)
            .ok()
            .filter(|slot| *slot < layout.chunk)
        else {
            return Ok(None);
        };
        let (slot, found) = walk.unsibling(level, slot)?;
        let level = Level { slot, ..level };
        if !is_node(found) {
            return Ok(visible(found).then_some(walk.entry(level, found)?));
        }
        walk.levels.push(level);
        above = Some(level);
        entry = found;
    }
    Ok(None)
}

fn is_internal(entry: u64) -> bool {
    entry & 3 == 2
}

fn is_node(entry: u64) -> bool {
    is_internal(entry) && entry > 4096
}

fn visible(entry: u64) -> bool {
    entry != 0 && entry != ZERO && entry != RETRY
}

impl Xarray<'_> {
    /// The same walk, giving up after `nodes` tree nodes.
    #[must_use]
    pub fn bound(mut self, nodes: usize) -> Self {
        self.guard.set_bound(nodes);
        self
    }

    fn broken(at: GuestVirt, why: String) -> Error {
        Error::Broken {
            what: "xarray",
            at,
            why,
        }
    }

    fn bits(&self) -> u32 {
        self.layout.chunk.max(2).ilog2()
    }

    /// `xa_is_sibling()`: the slot that a sibling entry stands for.
    fn sibling(&self, entry: u64) -> Option<usize> {
        let slot = usize::try_from(entry >> 2).ok()?;
        (is_internal(entry) && slot < self.layout.chunk).then_some(slot)
    }

    fn byte(&self, at: GuestVirt) -> Result<u8> {
        let mut byte = [0];
        self.kernel.read(at, &mut byte)?;
        Ok(byte[0])
    }

    fn slot(&self, node: GuestVirt, slot: usize) -> Result<u64> {
        word(
            self.kernel,
            node.offset(self.layout.slots + 8 * slot as u64),
        )
    }

    /// Decodes a node pointer that is in `above`'s present slot, or in the array's head.
    fn enter(&mut self, encoded: u64, above: Option<Level>) -> Result<Level> {
        let node = GuestVirt(encoded & !3);
        let holder = above.map_or(self.array, |above| above.node);
        if self.layout.chunk > CHUNK_MAX || !self.layout.chunk.is_power_of_two() {
            let why = format!(
                "its nodes have {} slots, not a power of two up to {CHUNK_MAX}",
                self.layout.chunk
            );
            return Err(Self::broken(self.array, why));
        }
        self.guard.step(node)?;
        let shift = self.byte(node.offset(self.layout.shift)).map_err(|fault| {
            unreadable("xarray", holder, &format!("a child of it is {node}"), fault)
        })?;
        let shift = u32::from(shift);
        // Shifts fall by one chunk a level, so a loop cannot last.
        let fits = match above {
            Some(above) => shift.checked_add(self.bits()) == Some(above.shift),
            None => shift < 64 && shift.is_multiple_of(self.bits()),
        };
        if !fits {
            let why = format!(
                "its shift is {shift} below {}",
                above.map_or(64, |above| above.shift)
            );
            return Err(Self::broken(node, why));
        }
        let base = above.map_or(0, |above| self.index(above));
        Ok(Level {
            node,
            shift,
            slot: 0,
            base,
        })
    }

    /// The first index of a level's present slot.
    fn index(&self, level: Level) -> u64 {
        level
            .base
            .wrapping_add((level.slot as u64).wrapping_shl(level.shift))
    }

    /// The slot and entry that `slot` stands for: itself, or the one that a sibling entry names.
    fn unsibling(&self, level: Level, slot: usize) -> Result<(usize, u64)> {
        let entry = self.slot(level.node, slot)?;
        let Some(first) = self.sibling(entry) else {
            return Ok((slot, entry));
        };
        let found = self.slot(level.node, first)?;
        if first >= slot || self.sibling(found).is_some() {
            return Err(Self::broken(
                level.node,
                format!("slot {slot} is a sibling of slot {first}, which is none"),
            ));
        }
        Ok((first, found))
    }

    /// The entry in a level's present slot, with the siblings that follow it.
    fn entry(&self, level: Level, entry: u64) -> Result<XarrayEntry> {
        let mut after = level.slot + 1;
        while after < self.layout.chunk
            && self.sibling(self.slot(level.node, after)?) == Some(level.slot)
        {
            after += 1;
        }
        let end = Level {
            slot: after,
            ..level
        };
        Ok(XarrayEntry {
            index: self.index(level),
            last: self.index(end).wrapping_sub(1),
            entry,
        })
    }

    fn advance(&mut self) -> Result<Option<XarrayEntry>> {
        if !self.begun {
            self.begun = true;
            let head = word(self.kernel, self.array.offset(self.layout.head))?;
            if !is_node(head) {
                return Ok(visible(head).then_some(XarrayEntry {
                    index: 0,
                    last: 0,
                    entry: head,
                }));
            }
            let level = self.enter(head, None)?;
            self.levels.push(level);
        }
        while let Some(level) = self.levels.pop() {
            if level.slot >= self.layout.chunk {
                continue;
            }
            self.levels.push(Level {
                slot: level.slot + 1,
                ..level
            });
            let entry = self.slot(level.node, level.slot)?;
            if is_node(entry) {
                let below = self.enter(entry, Some(level))?;
                self.levels.push(below);
            } else if visible(entry) && self.sibling(entry).is_none() {
                return self.entry(level, entry).map(Some);
            }
        }
        Ok(None)
    }
}

walks!(Xarray<'_> => XarrayEntry);

/// Checks the array at `array`: besides what a walk checks (shifts), each node's parent and offset are those the walk
/// came by, and its count is that of its slots in use. Returns the number of entries.
///
/// # Errors
/// [`Error::Broken`](crate::Error::Broken) names the first node that breaks a rule or is not in RAM;
/// [`Error::TooLong`](crate::Error::TooLong) past `bound`.
pub fn validate_xarray(
    kernel: &Kernel,
    array: GuestVirt,
    layout: XarrayLayout,
    bound: usize,
) -> Result<usize> {
    let mut walk = xa_for_each(kernel, array, layout).bound(bound);
    let head = word(kernel, array.offset(layout.head))?;
    if !is_node(head) {
        return Ok(usize::from(visible(head)));
    }
    let mut entries = 0;
    let root = walk.enter(head, None)?;
    let mut work = vec![(root, GuestVirt(0), 0)];
    while let Some((level, parent, offset)) = work.pop() {
        let is = word(kernel, level.node.offset(layout.parent))?;
        let in_slot = usize::from(walk.byte(level.node.offset(layout.offset))?);
        if is != parent.0 || (in_slot != offset && !parent.is_null()) {
            let why = format!(
                "its parent is {is:#x} slot {in_slot}, but it hangs in {parent} slot {offset}"
            );
            return Err(Xarray::broken(level.node, why));
        }
        let mut used = 0;
        for slot in 0..layout.chunk {
            let (_, entry) = walk.unsibling(level, slot)?;
            used += usize::from(entry != 0);
            if walk.sibling(walk.slot(level.node, slot)?).is_some() {
                continue;
            }
            if is_node(entry) {
                let here = Level { slot, ..level };
                work.push((walk.enter(entry, Some(here))?, level.node, slot));
            } else {
                entries += usize::from(visible(entry));
            }
        }
        let count = usize::from(walk.byte(level.node.offset(layout.count))?);
        if count != used {
            return Err(Xarray::broken(
                level.node,
                format!("its count is {count}, but {used} of its slots are in use"),
            ));
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
