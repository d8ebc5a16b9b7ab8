//! kallsyms: the kernel's own symbol table, decoded from guest memory.
//!
//! The tables are what `scripts/kallsyms.c` writes and `kernel/kallsyms.c` reads: names as sequences of tokens, each
//! with its length before it, and one address a name. How an address is stored, and whether a length may take two
//! bytes, has changed over time and is written nowhere; the reading is chosen under which `_stext` has the address
//! that VMCOREINFO gives for it.

mod read;
mod tokens;

use std::fmt;
use std::sync::OnceLock;

use super::demangle::{demangled, place};
use super::vmcoreinfo::VmcoreInfo;
use crate::memory::{AddressSpace, GuestVirt};
use crate::{Result, text_of};
use read::{malformed, read_addresses, read_names, table};
use tokens::{Tokens, bucket, hash};

/// More symbols than any kernel has; a table that claims more is refused before memory is taken for it.
const MAX_SYMBOLS: u32 = 2_000_000;

/// The kernel's symbol table. Names stay compressed as they are in the kernel; addresses ascend.
#[derive(Debug)]
pub struct Kallsyms {
    names: Vec<u8>,
    /// Start of each name's tokens in `names`, in table order, and their number.
    starts: Vec<(u32, u16)>,
    addresses: Vec<u64>,
    /// Indices in ascending order of address, when the table is not in that order itself.
    by_address: Option<Vec<u32>>,
    by_name: Buckets,
    tokens: Tokens,
    /// The indices of Rust's symbols, found when one is first looked for.
    rust: OnceLock<Vec<u32>>,
}

/// One symbol of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Its name.
    pub name: String,
    /// Its address; a per-CPU symbol's may be an offset into each CPU's area.
    pub at: GuestVirt,
    /// The type letter that `nm` and `/proc/kallsyms` print.
    pub kind: char,
    /// Its size in bytes, where that is written: in a module's own table, not in the kernel's.
    pub size: Option<u64>,
}

/// An address in terms of the symbol before it. As text the names of Rust functions are demangled; JSON has them
/// as the table does, and what people call them beside, as `demangled`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(into = "SymbolAtJson")]
pub struct SymbolAt {
    /// The symbol at or before the address.
    pub name: String,
    /// Bytes from the symbol to the address.
    pub offset: u64,
    /// The module it belongs to; `None` for the kernel itself.
    pub module: Option<String>,
}

/// As the kernel prints it in a call trace.
impl fmt::Display for SymbolAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&place(&self.name, self.offset, self.module.as_deref()))
    }
}

#[derive(serde::Serialize)]
struct SymbolAtJson {
    name: String,
    offset: u64,
    module: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    demangled: Option<String>,
}

impl From<SymbolAt> for SymbolAtJson {
    fn from(at: SymbolAt) -> Self {
        Self {
            demangled: demangled(&at.name),
            name: at.name,
            offset: at.offset,
            module: at.module,
        }
    }
}

/// Chains of symbols whose names share a hash; `NONE` ends a chain. Building takes the same time for any names.
#[derive(Debug)]
struct Buckets {
    heads: Vec<u32>,
    next: Vec<u32>,
}

const NONE: u32 = u32::MAX;

impl Kallsyms {
    /// Decodes the table of the kernel that `info` describes.
    ///
    /// # Errors
    /// `Absent` if VMCOREINFO does not say where the table is; `Unmapped` if it is not in RAM; `Broken` if it is
    /// damaged, or gives `_stext` another address than VMCOREINFO.
    pub fn read(space: &AddressSpace, info: &VmcoreInfo) -> Result<Self> {
        let count = space.read_u32(table(info, "kallsyms_num_syms")?)?;
        if count == 0 || count > MAX_SYMBOLS {
            return Err(malformed(format!("it claims {count} symbols")));
        }
        let tokens = Tokens::read(space, info)?;
        let anchor = info.symbol("_stext");
        let mut fault = malformed(
            "no reading of it gives _stext the address that VMCOREINFO has for it".to_owned(),
        );
        for long_names in [true, false] {
            let (names, starts) =
                match read_names(space, table(info, "kallsyms_names")?, count, long_names) {
                    Ok(names) => names,
                    Err(e) => {
                        fault = e;
                        continue;
                    }
                };
            let found = starts
                .iter()
                .position(|&start| tokens.spell(span(&names, start), b"_stext"));
            for addresses in read_addresses(space, info, count as usize)? {
                if anchor.is_some()
                    && found.and_then(|i| addresses.get(i)).copied() != anchor.map(|at| at.0)
                {
                    continue;
                }
                return Ok(Self::index(names, starts, addresses, tokens));
            }
        }
        Err(fault)
    }

    fn index(names: Vec<u8>, starts: Vec<(u32, u16)>, addresses: Vec<u64>, tokens: Tokens) -> Self {
        let mask = starts.len().next_power_of_two() - 1;
        let mut by_name = Buckets {
            heads: vec![NONE; mask + 1],
            next: vec![NONE; starts.len()],
        };
        for (index, start) in starts.iter().enumerate().rev() {
            let slot = bucket(tokens.hash(span(&names, *start)), mask);
            by_name.next[index] = std::mem::replace(&mut by_name.heads[slot], index as u32);
        }
        let by_address = (!addresses.is_sorted()).then(|| {
            let mut order: Vec<u32> = (0..addresses.len() as u32).collect();
            order.sort_by_key(|i| addresses[*i as usize]);
            order
        });
        Self {
            names,
            starts,
            addresses,
            by_address,
            by_name,
            tokens,
            rust: OnceLock::new(),
        }
    }

    /// Number of symbols.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Tells whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The address of the first symbol of this name.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Option<GuestVirt> {
        self.lookup_all(name).next()
    }

    /// The addresses of all symbols of this name: static ones may share it.
    pub fn lookup_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = GuestVirt> + 'a {
        let same = self.indices(name);
        same.filter_map(|i| self.addresses.get(i))
            .map(|at| GuestVirt(*at))
    }

    /// All symbols of this name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Symbol> + 'a {
        self.indices(name).map(|index| self.symbol(index))
    }

    /// All symbols at exactly this address: names of one thing.
    pub fn aliases(&self, at: GuestVirt) -> impl Iterator<Item = Symbol> + '_ {
        let (from, to) = (self.rank(|a| a < at.0), self.rank(|a| a <= at.0));
        (from..to).map(|rank| {
            let index = self.by_address.as_ref().map(|order| order[rank] as usize);
            self.symbol(index.unwrap_or(rank))
        })
    }

    /// The symbols of Rust, by how their names begin.
    pub(super) fn of_rust(&self) -> impl Iterator<Item = Symbol> + '_ {
        let find = || {
            let rust = (0..self.len()).filter(|i| {
                let head = self.tokens.head(self.tokens_of(*i));
                super::demangle::is_mangled(&head)
            });
            rust.map(|index| index as u32).collect()
        };
        let rust = self.rust.get_or_init(find).iter();
        rust.map(|index| self.symbol(*index as usize))
    }

    fn indices<'a>(&'a self, name: &'a str) -> impl Iterator<Item = usize> + 'a {
        let slot = bucket(hash(name.as_bytes()), self.by_name.heads.len() - 1);
        let link = |entry: u32| (entry != NONE).then_some(entry as usize);
        let first = self.by_name.heads.get(slot).copied().and_then(link);
        let indices = std::iter::successors(first, move |i| {
            self.by_name.next.get(*i).copied().and_then(link)
        });
        indices.filter(move |i| self.tokens.spell(self.tokens_of(*i), name.as_bytes()))
    }

    /// The symbol at or before `at`; `None` before the first one and beyond the last.
    #[must_use]
    pub fn at(&self, at: GuestVirt) -> Option<SymbolAt> {
        let nth = |rank: usize| {
            self.by_address
                .as_ref()
                .map_or(rank, |order| order[rank] as usize)
        };
        let after = self.rank(|address| address <= at.0);
        let address = self.addresses[nth(after.checked_sub(1)?)];
        // Absolute per-CPU symbols are small numbers and the kernel's are in its half: what lies between the two is
        // of no symbol, nor is what lies beyond the last.
        let half = |other: u64| (other ^ at.0) >> 63 == 0;
        let next = (after < self.len()).then(|| self.addresses[nth(after)]);
        if address != at.0 && !(half(address) && next.is_some_and(half)) {
            return None;
        }
        // Aliases share an address; the kernel names the first of them (`get_symbol_pos`).
        let first = self.rank(|other| other < address);
        Some(SymbolAt {
            name: self.symbol(nth(first)).name,
            offset: at.0 - address,
            module: None,
        })
    }

    /// The lowest address of a symbol above `at`: where the one at `at` ends at the latest.
    #[must_use]
    pub fn after(&self, at: GuestVirt) -> Option<GuestVirt> {
        let rank = self.rank(|address| address <= at.0);
        let index = match &self.by_address {
            Some(order) => *order.get(rank)? as usize,
            None => rank,
        };
        self.addresses.get(index).copied().map(GuestVirt)
    }

    /// Number of addresses that are in ascending order.
    fn rank(&self, holds: impl Fn(u64) -> bool) -> usize {
        match &self.by_address {
            Some(order) => order.partition_point(|i| holds(self.addresses[*i as usize])),
            None => self.addresses.partition_point(|address| holds(*address)),
        }
    }

    /// The name nearest to a mistyped one, if any is near.
    #[must_use]
    pub fn nearest(&self, name: &str) -> Option<String> {
        let names: Vec<String> = self.iter().map(|symbol| symbol.name).collect();
        super::btf::nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
    }

    /// All symbols, in the table's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Symbol> + '_ {
        (0..self.len()).map(|index| self.symbol(index))
    }

    fn symbol(&self, index: usize) -> Symbol {
        let (kind, name) = self.tokens.decode(self.tokens_of(index));
        let name = text_of(&name);
        Symbol {
            name,
            at: GuestVirt(self.addresses[index]),
            kind,
            size: None,
        }
    }

    fn tokens_of(&self, index: usize) -> &[u8] {
        self.starts
            .get(index)
            .map_or(&[], |start| span(&self.names, *start))
    }
}

fn span(names: &[u8], (start, len): (u32, u16)) -> &[u8] {
    names
        .get(start as usize..start as usize + usize::from(len))
        .unwrap_or_default()
}
