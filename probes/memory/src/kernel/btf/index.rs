//! Lookup by name.

use super::{Btf, Kind, Type, TypeId};

/// Named types by a hash of their names: one table of chains, built in one pass.
///
/// A BTF made so that all names hash alike makes a lookup as slow as a scan of all types, no slower.
pub(super) struct Index {
    /// For each hash the first type of its chain, as an index from 1.
    heads: Vec<u32>,
    /// For each type the next of its chain.
    next: Vec<u32>,
}

fn hash(name: &[u8]) -> usize {
    // FNV-1a.
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ hash >> 32) as usize
}

impl Index {
    fn new(btf: &Btf) -> Self {
        let count = btf.records.len();
        let mut heads = vec![0; count.next_power_of_two()];
        let mut next = vec![0; count];
        let mask = heads.len() - 1;
        // From the last to the first, so that a chain yields the first type of a name first.
        for (i, record) in btf.records.iter().enumerate().rev() {
            let name = super::read_u32(&btf.bytes, *record as usize)
                .map_or(&[][..], |at| btf.string_bytes(at));
            if !name.is_empty() {
                let head = &mut heads[hash(name) & mask];
                next[i] = *head;
                *head = i as u32 + 1;
            }
        }
        Self { heads, next }
    }
}

impl Btf {
    /// The types of this name, of any kind: this BTF's own first, then its base's.
    pub fn named<'a>(&'a self, name: &'a str) -> Box<dyn Iterator<Item = Type<'a>> + 'a> {
        let index = self.index.get_or_init(|| Index::new(self));
        let first = index
            .heads
            .get(hash(name.as_bytes()) & (index.heads.len() - 1))
            .copied()
            .unwrap_or(0);
        let chain = std::iter::successors((first != 0).then_some(first), |at| {
            index
                .next
                .get(*at as usize - 1)
                .copied()
                .filter(|next| *next != 0)
        });
        let own = chain
            .filter_map(|at| self.get(TypeId(self.first_id + (at - 1))))
            .filter(move |t| t.name_bytes() == name.as_bytes());
        match &self.base {
            None => Box::new(own),
            Some(base) => Box::new(own.chain(base.named(name))),
        }
    }

    /// The type of this kind and name (without `struct`).
    #[must_use]
    pub fn find(&self, kind: Kind, name: &str) -> Option<TypeId> {
        self.named(name).find(|t| t.kind == kind).map(|t| t.id)
    }

    /// The enumeration that has a constant of this name, and its value.
    #[must_use]
    pub fn find_enumerator(&self, name: &str) -> Option<(TypeId, i64)> {
        let own = self
            .types()
            .filter(|t| matches!(t.kind, Kind::Enum | Kind::Enum64))
            .find_map(|t| {
                t.enumerators()
                    .find(|e| e.name == name)
                    .map(|e| (t.id, e.value))
            });
        own.or_else(|| self.base.as_ref()?.find_enumerator(name))
    }

    /// The variable of this name: BTF knows the per-CPU ones only.
    #[must_use]
    pub fn find_var(&self, name: &str) -> Option<TypeId> {
        self.named(name).find(|t| t.kind == Kind::Var)?.target()
    }

    /// The name among types of these kinds that is nearest to a mistyped one, if any is near.
    #[must_use]
    pub fn nearest(&self, kinds: &[Kind], name: &str) -> Option<&str> {
        let names = self
            .types()
            .filter(|t| kinds.contains(&t.kind))
            .map(|t| t.name());
        let base = self
            .base
            .as_ref()
            .and_then(|base| base.nearest(kinds, name));
        nearest(name, names.chain(base))
    }
}

/// The candidate with the fewest edits to `wanted`, if they are few for its length; never `wanted` itself, which helps nobody.
pub(crate) fn nearest<'a>(
    wanted: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    if wanted.is_empty() || wanted.len() > 64 {
        return None;
    }
    let limit = wanted.len().div_ceil(4).min(3);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates.filter(|c| !c.is_empty() && *c != wanted) {
        let bound = best.map_or(limit + 1, |(distance, _)| distance);
        if candidate.len().abs_diff(wanted.len()) < bound {
            let distance = edits(wanted.as_bytes(), candidate.as_bytes());
            if distance < bound {
                best = Some((distance, candidate));
            }
        }
    }
    best.map(|(_, name)| name)
}

/// The edit distance with swaps of neighbours (`tsak_struct` is one edit from `task_struct`); `a` has at
/// most 64 bytes, and `b` at most 3 more.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut rows = [[0_usize; 65]; 3];
    for (i, cell) in rows[0].iter_mut().enumerate() {
        *cell = i;
    }
    for j in 1..=b.len() {
        let (now, last, before) = (j % 3, (j + 2) % 3, (j + 1) % 3);
        rows[now][0] = j;
        for i in 1..=a.len() {
            let change = rows[last][i - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut cell = change.min(rows[last][i] + 1).min(rows[now][i - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                cell = cell.min(rows[before][i - 2] + 1);
            }
            rows[now][i] = cell;
        }
    }
    rows[b.len() % 3][a.len()]
}
