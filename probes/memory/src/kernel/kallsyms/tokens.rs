//! The tokens that names are made of: up to 256 short strings.

use super::super::vmcoreinfo::VmcoreInfo;
use super::read::table;
use crate::Result;
use crate::memory::AddressSpace;

/// The longest name the kernel allows is 512 bytes (`KSYM_NAME_LEN`); what is longer is garbage.
const MAX_NAME: usize = 1024;
/// The multiplier of the polynomial hash: odd, so that no information is lost by it.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Debug)]
pub(super) struct Tokens {
    table: Vec<u8>,
    spans: [Span; 256],
}

/// One token: where it lies in the table, and what it does to the hash of a name that it is appended to.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u16,
    len: u16,
    scale: u64,
    hash: u64,
}

/// A polynomial over the name's bytes: the hash of a whole is made from those of its tokens, so that indexing a name
/// costs one step a token and not one a byte. A name that collides on purpose only makes its own chain longer.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |h, b| h.wrapping_mul(FACTOR).wrapping_add(u64::from(*b)))
}

/// Finds the bucket of a hash among `mask + 1`: the high bits depend on all bytes.
pub(super) fn bucket(hash: u64, mask: usize) -> usize {
    (hash ^ (hash >> 32)) as usize & mask
}

impl Tokens {
    pub(super) fn read(space: &AddressSpace, info: &VmcoreInfo) -> Result<Self> {
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
            let token = &rest[..memchr::memchr(0, rest).unwrap_or(0).min(MAX_NAME)];
            let len = token.len() as u16;
            Span {
                start,
                len,
                scale: FACTOR.wrapping_pow(u32::from(len)),
                hash: hash(token),
            }
        });
        Ok(Self {
            table: bytes,
            spans,
        })
    }

    fn expand(&self, token: u8) -> &[u8] {
        let Span { start, len, .. } = self.spans[usize::from(token)];
        self.table
            .get(usize::from(start)..usize::from(start) + usize::from(len))
            .unwrap_or_default()
    }

    /// The type letter of a name, and the name, at most `MAX_NAME` bytes of it.
    pub(super) fn decode(&self, tokens: &[u8]) -> (char, Vec<u8>) {
        let mut name = Vec::with_capacity(64);
        for token in tokens {
            name.extend_from_slice(self.expand(*token));
            if name.len() > MAX_NAME {
                name.truncate(MAX_NAME);
                break;
            }
        }
        if name.is_empty() {
            return ('?', name);
        }
        (char::from(name.remove(0)), name)
    }

    /// First bytes of a name, without its type letter: enough to recognise a name of Rust.
    pub(super) fn head(&self, tokens: &[u8]) -> Vec<u8> {
        let mut name = Vec::with_capacity(32);
        for token in tokens {
            name.extend_from_slice(self.expand(*token));
            if name.len() > 16 {
                break;
            }
        }
        if !name.is_empty() {
            name.remove(0);
        }
        name
    }

    /// Tells whether the name, without its type letter, is `wanted`.
    pub(super) fn spell(&self, tokens: &[u8], wanted: &[u8]) -> bool {
        let mut rest = wanted;
        let mut letter = 1;
        for token in tokens {
            let text = self.expand(*token);
            let text = &text[letter.min(text.len())..];
            letter = letter.saturating_sub(self.expand(*token).len());
            match rest.strip_prefix(text) {
                Some(more) => rest = more,
                None => return false,
            }
        }
        rest.is_empty()
    }

    /// The [`hash`] of the name without its type letter.
    pub(super) fn hash(&self, tokens: &[u8]) -> u64 {
        let Some((first, rest)) = tokens.split_first() else {
            return 0;
        };
        let head = hash(self.expand(*first).get(1..).unwrap_or_default());
        rest.iter().fold(head, |h, token| {
            let span = &self.spans[usize::from(*token)];
            h.wrapping_mul(span.scale).wrapping_add(span.hash)
        })
    }
}
