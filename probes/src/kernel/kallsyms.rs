//! kallsyms: the kernel's own symbol table, decoded from guest memory.
//!
//! The tables are what `scripts/kallsyms.c` writes and `kernel/kallsyms.c` reads: names as sequences of tokens, each
//! with its length before it, and one address a name. How an address is stored, and whether a length may take two
//! bytes, has changed over time and is written nowhere; the reading is chosen under which `_stext` has the address
//! that VMCOREINFO gives for it.

use super::vmcoreinfo::VmcoreInfo;
use crate::memory::{AddressSpace, GuestVirt};
use crate::{Error, Result};

/// More symbols than any kernel has; a table that claims more is refused before memory is taken for it.
const MAX_SYMBOLS: u32 = 2_000_000;
/// More bytes than all names of any kernel take.
const MAX_NAMES: usize = 32 << 20;
/// The longest name the kernel allows is 512 bytes (`KSYM_NAME_LEN`); what is longer is garbage.
const MAX_NAME: usize = 1024;

/// The kernel's symbol table. Names stay compressed as they are in the kernel; addresses ascend.
#[derive(Debug)]
pub struct Kallsyms {
    names: Vec<u8>,
    /// Where each name's tokens start in `names`, in table order, and how many there are.
    starts: Vec<(u32, u16)>,
    addresses: Vec<u64>,
    /// Indices in ascending order of address, when the table is not in that order itself.
    by_address: Option<Vec<u32>>,
    by_name: Buckets,
    tokens: Tokens,
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
}

/// What an address is, in terms of the symbol before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolAt {
    /// The symbol at or before the address.
    pub name: String,
    /// Bytes from the symbol to the address.
    pub offset: u64,
    /// The module it belongs to; `None` for the kernel itself.
    pub module: Option<String>,
}

/// Chains of symbols whose names share a hash; `NONE` ends a chain. Building takes the same time for any names.
#[derive(Debug)]
struct Buckets {
    heads: Vec<u32>,
    next: Vec<u32>,
}

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Tokens {
    table: Vec<u8>,
    spans: [(u16, u16); 256],
}

impl Tokens {
    fn read(space: &AddressSpace, info: &VmcoreInfo) -> Result<Self> {
        let mut index = [0; 512];
        space.read(table(info, "kallsyms_token_index")?, &mut index)?;
        let at = table(info, "kallsyms_token_table")?;
        let mut starts = [0_u16; 256];
        for (start, bytes) in starts.iter_mut().zip(index.chunks_exact(2)) {
            *start = u16::from_le_bytes([bytes[0], bytes[1]]);
        }
        let last = starts.iter().copied().max().unwrap_or(0);
        let mut bytes = vec![0; usize::from(last)];
        space.read(at, &mut bytes)?;
        bytes.extend(space.read_cstr(at.offset(u64::from(last)), MAX_NAME)?);
        bytes.push(0);
        let spans = starts.map(|start| {
            let rest = bytes.get(usize::from(start)..).unwrap_or_default();
            (
                start,
                memchr::memchr(0, rest).unwrap_or(0).min(MAX_NAME) as u16,
            )
        });
        Ok(Self {
            table: bytes,
            spans,
        })
    }

    fn expand(&self, token: u8) -> &[u8] {
        let (start, len) = self.spans[usize::from(token)];
        self.table
            .get(usize::from(start)..usize::from(start) + usize::from(len))
            .unwrap_or_default()
    }

    /// The bytes of a name, its type letter first.
    fn decode<'a>(&'a self, tokens: &'a [u8]) -> impl Iterator<Item = u8> + 'a {
        tokens
            .iter()
            .flat_map(|token| self.expand(*token))
            .copied()
            .take(MAX_NAME)
    }
}

fn table(info: &VmcoreInfo, name: &str) -> Result<GuestVirt> {
    info.symbol(name).ok_or_else(|| {
        Error::NoKernel(format!(
            "VMCOREINFO of {} does not say where {name} is: kernels from 6.0 on with CONFIG_KALLSYMS do",
            info.release()
        ))
    })
}

fn malformed(why: String) -> Error {
    Error::Malformed {
        what: "kallsyms",
        why,
    }
}

impl Kallsyms {
    /// Decodes the table of the kernel that `info` describes.
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
                .position(|&start| tokens.decode(span(&names, start)).skip(1).eq(*b"_stext"));
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
            let slot = hash(tokens.decode(span(&names, *start)).skip(1)) as usize & mask;
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
        }
    }

    /// How many symbols there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are none.
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
        let slot = hash(name.bytes()) as usize & (self.by_name.heads.len() - 1);
        let link = |entry: u32| (entry != NONE).then_some(entry as usize);
        let first = self.by_name.heads.get(slot).copied().and_then(link);
        let indices = std::iter::successors(first, move |i| {
            self.by_name.next.get(*i).copied().and_then(link)
        });
        let same = indices.filter(move |i| {
            self.tokens
                .decode(self.tokens_of(*i))
                .skip(1)
                .eq(name.bytes())
        });
        same.filter_map(|i| self.addresses.get(i))
            .map(|at| GuestVirt(*at))
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
        if after == self.len() && address != at.0 {
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

    /// How many addresses, in ascending order, hold.
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
        let mut text = self.tokens.decode(self.tokens_of(index));
        let kind = text.next().map_or('?', char::from);
        let bytes: Vec<u8> = text.collect();
        Symbol {
            name: String::from_utf8_lossy(&bytes).into_owned(),
            at: GuestVirt(self.addresses[index]),
            kind,
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

/// FNV-1a: names are short; one that collides on purpose only makes its own chain longer.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    let mixed = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    mixed ^ (mixed >> 32)
}

/// The names' bytes, and where in them each one's tokens start and how many there are.
type Names = (Vec<u8>, Vec<(u32, u16)>);

/// Copies the names and finds where each starts. Their total length is written nowhere: it is where the last one ends.
fn read_names(space: &AddressSpace, at: GuestVirt, count: u32, long: bool) -> Result<Names> {
    let mut names = Vec::new();
    let mut starts = Vec::with_capacity(count as usize);
    let mut next = 0_usize;
    while starts.len() < count as usize {
        // One name is at most 2 + 0x7fff bytes long.
        if names.len() < next + 0x8001 {
            if next > MAX_NAMES {
                return Err(malformed(format!(
                    "its names take more than {MAX_NAMES} bytes"
                )));
            }
            grow(space, at, &mut names, 256 << 10)?;
        }
        let mut len = usize::from(
            *names
                .get(next)
                .ok_or_else(|| malformed("its names do not end".to_owned()))?,
        );
        next += 1;
        // Since "kallsyms: support "big" kernel symbols" a set top bit means that a second byte follows.
        if long && len & 0x80 != 0 {
            len = len & 0x7f | usize::from(names.get(next).copied().unwrap_or(0)) << 7;
            next += 1;
        }
        if len == 0 || next + len > names.len() {
            return Err(malformed(format!(
                "symbol {} has a name of {len} tokens",
                starts.len()
            )));
        }
        starts.push((next as u32, len as u16));
        next += len;
    }
    names.truncate(next);
    names.shrink_to_fit();
    Ok((names, starts))
}

/// Appends up to `more` bytes, fewer where the mapping ends.
fn grow(space: &AddressSpace, at: GuestVirt, bytes: &mut Vec<u8>, more: usize) -> Result<()> {
    let old = bytes.len();
    bytes.resize(old + more, 0);
    if space.read(at.offset(old as u64), &mut bytes[old..]).is_ok() {
        return Ok(());
    }
    bytes.truncate(old);
    let mut page = [0; 4096];
    for _ in 0..more / page.len() {
        let here = at.offset(bytes.len() as u64);
        let room = page.len() - here.page_offset() as usize;
        match space.read(here, &mut page[..room]) {
            Ok(()) => bytes.extend_from_slice(&page[..room]),
            Err(e) if bytes.len() == old => return Err(e),
            Err(_) => break,
        }
    }
    Ok(())
}

/// The addresses under each reading that the tables at hand allow.
fn read_addresses(space: &AddressSpace, info: &VmcoreInfo, count: usize) -> Result<Vec<Vec<u64>>> {
    if let Some(at) = info.symbol("kallsyms_addresses") {
        let mut bytes = vec![0; count * 8];
        space.read(at, &mut bytes)?;
        let word = |b: &[u8]| b.try_into().map_or(0, u64::from_le_bytes);
        return Ok(vec![bytes.chunks_exact(8).map(word).collect()]);
    }
    let at = table(info, "kallsyms_offsets")?;
    let mut bytes = vec![0; count * 4];
    space.read(at, &mut bytes)?;
    let offsets = bytes
        .chunks_exact(4)
        .map(|b| b.try_into().map_or(0, i32::from_le_bytes));
    let Some(base) = info.symbol("kallsyms_relative_base") else {
        // Each offset is relative to its own place.
        let here = |i: usize| at.0.wrapping_add(i as u64 * 4);
        return Ok(vec![
            offsets
                .enumerate()
                .map(|(i, o)| here(i).wrapping_add_signed(i64::from(o)))
                .collect(),
        ]);
    };
    let base = space.read_u64(base)?;
    // With absolute per-CPU symbols a negative offset counts from the base, another is the address itself;
    // without, all count from the base, unsigned.
    let signed = offsets.clone().map(|o| match u64::try_from(o) {
        Ok(absolute) => absolute,
        Err(_) => base
            .wrapping_sub(1)
            .wrapping_add(i64::from(o).unsigned_abs()),
    });
    let unsigned = offsets
        .clone()
        .map(|o| base.wrapping_add(u64::from(o.cast_unsigned())));
    Ok(vec![signed.collect(), unsigned.collect()])
}
