//! The lengths of arrays, which depend on the kernel's configuration: derived from BTF, or from what lies in the array.

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::ctype::Form;

/// More bytes than any array that is looked through for its end has.
const LARGEST: u64 = 1 << 20;

/// A rule for a length in `globals.h` that is neither a number nor an enumeration's constant.
enum Rule {
    /// Length of a member that is an array of the same length, times so many.
    Member(&'static str, &'static str, u32),
    /// `MAX_NUMNODES`: `_zonerefs` of `struct zonelist` has one for each zone of each node, and one more.
    Zonelist,
    /// A hash table or a pool: the largest power of two, but at least so many, that ends before the next symbol.
    Power(u32),
    /// A table of which each element is something: up to the last that is not all zeros.
    Filled,
    /// A text: up to the NUL that ends it, which is part of it.
    Text,
    /// `MAX_SWAPFILES` of `include/linux/swap.h`: what is left of 32 types of swap entries, of which each feature takes some.
    /// Its functions tell whether it is there.
    Swapfiles,
}

const RULES: &[(&str, Rule)] = &[
    ("NR_CPUS", Rule::Member("struct cpumask", "bits", 64)),
    (
        "BITS_TO_LONGS(NR_CPUS)",
        Rule::Member("struct cpumask", "bits", 1),
    ),
    ("MAX_NUMNODES", Rule::Zonelist),
    (
        "HUGE_MAX_HSTATE",
        Rule::Member("struct hugetlb_cgroup", "hugepage", 1),
    ),
    ("UIDHASH_SZ", Rule::Power(8)),
    ("STACK_ALLOC_MAX_SLABS", Rule::Power(64)),
    ("DEPOT_MAX_POOLS", Rule::Power(64)),
    ("TASK_STATES", Rule::Filled),
    ("SYSCALLS", Rule::Filled),
    ("BANNER_LENGTH", Rule::Text),
    ("MAX_SWAPFILES", Rule::Swapfiles),
    ("TAINT_FLAGS_COUNT", Rule::Filled),
];

/// Facts about the array whose length is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Length {
    /// Address.
    pub(super) at: GuestVirt,
    /// Bytes up to the next symbol: at most that long it is.
    pub(super) room: Option<u64>,
    /// Bytes of one element.
    pub(super) element: u64,
}

impl Kernel {
    /// Finds the length that a word means here. `Some(None)` for the empty word; `None` if this kernel does not tell.
    pub(super) fn length(&self, word: &str, array: Length) -> Option<Option<u32>> {
        if word.is_empty() {
            return Some(None);
        }
        if let Ok(count) = word.parse() {
            return Some(Some(count));
        }
        let count = match RULES.iter().find(|(name, _)| *name == word) {
            Some((_, rule)) => self.by_rule(rule, array)?,
            None => u32::try_from(self.constant(word).ok()?).ok()?,
        };
        (count > 0).then_some(Some(count))
    }

    fn by_rule(&self, rule: &Rule, array: Length) -> Option<u32> {
        let fit = || {
            let room = array.room.filter(|room| *room <= LARGEST)?;
            u32::try_from(room.checked_div(array.element)?).ok()
        };
        match rule {
            Rule::Member(ty, member, times) => self.elements(ty, member)?.checked_mul(*times),
            Rule::Zonelist => {
                let zones = u32::try_from(self.constant("__MAX_NR_ZONES").ok()?).ok()?;
                let references = self.elements("struct zonelist", "_zonerefs")?;
                references.checked_sub(1)?.checked_div(zones)
            }
            Rule::Power(least) => {
                let count = 1 << fit()?.checked_ilog2()?;
                (count >= *least).then_some(count)
            }
            Rule::Filled => {
                let size = usize::try_from(array.element).ok()?;
                let mut bytes = vec![0; fit()? as usize * size];
                self.read(array.at, &mut bytes).ok()?;
                let last = bytes.iter().rposition(|byte| *byte != 0)?;
                u32::try_from(last.checked_div(size)? + 1).ok()
            }
            Rule::Text => {
                let most = usize::try_from(array.room?.min(LARGEST)).ok()?;
                let text = self.space().read_cstr(array.at, most).ok()?;
                u32::try_from(text.len() + 1).ok()
            }
            Rule::Swapfiles => {
                let symbols = self.symbols().ok()?;
                let taken = [
                    ("migrate_pages", 3),
                    ("memory_failure", 1),
                    // SWP_DEVICE_EXCLUSIVE_READ and _WRITE became one when this function lost its range.
                    ("make_device_exclusive_range", 4),
                    ("make_device_exclusive", 3),
                ];
                let taken = taken
                    .iter()
                    .filter(|(name, _)| symbols.lookup(name).is_some());
                // SWP_PTE_MARKER is always there.
                Some(32 - 1 - taken.map(|(_, types)| types).sum::<u32>())
            }
        }
    }

    /// Number of elements of a member that is an array.
    fn elements(&self, ty: &str, member: &str) -> Option<u32> {
        let (btf, id) = self.find_composite(ty).ok()?;
        let field = btf.member(id, member).ok()??;
        match super::CType::of(&btf, field.ty).form().ok()? {
            Form::Array(_, count) => Some(count),
            _ => None,
        }
    }
}
