//! BTF, the kernel's own description of its types, parsed from bytes.
//!
//! The format is that of `include/uapi/linux/btf.h`: a header, a table of type records, a table of
//! strings. [`Btf::parse`] walks the records once, so that every later access is a bounded slice of a
//! record that is known to be whole. Nothing is copied out of the bytes; names are looked up by an
//! index built at the first lookup. What the records *refer to* is not trusted: a type that contains
//! itself, a typedef that loops or an offset that lies ends in an error or an empty name.

#[doc(hidden)]
pub mod build;
mod decl;
mod index;
mod layout;
#[cfg(test)]
mod tests;
mod types;

use std::fmt;
use std::sync::{Arc, OnceLock};

pub use decl::Declaration;
pub(crate) use index::nearest;
pub use layout::{Field, Shape};
pub use types::{ArrayOf, Enumerator, IntOf, Kind, Member, Param, Type, TypeId, VarIn};

use crate::{Error, Result};

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
/// The kernel's own bound: `BTF_MAX_TYPE` of `include/uapi/linux/btf.h`.
const MAX_TYPES: usize = 0x000f_ffff;

/// The types of a kernel (`vmlinux`), or of one module on top of them (split BTF).
pub struct Btf {
    base: Option<Arc<Self>>,
    bytes: Box<[u8]>,
    strings: std::ops::Range<usize>,
    /// Offset of each record; the record at index 0 has the id `first_id`.
    records: Vec<u32>,
    first_id: u32,
    first_string: u32,
    index: OnceLock<index::Index>,
}

fn malformed(why: impl Into<String>) -> Error {
    Error::Malformed {
        what: "BTF",
        why: why.into(),
    }
}

impl Btf {
    /// Parses the BTF of a kernel.
    ///
    /// The bytes are owned, not borrowed: the guest writes to its memory while the host reads it, and
    /// what was checked here must stay what it was.
    ///
    /// # Errors
    /// `Broken` if a header, record or string lies outside the bytes, or there are too many types.
    pub fn parse(bytes: impl Into<Box<[u8]>>) -> Result<Self> {
        Self::with_base(bytes.into(), None)
    }

    /// Parses the split BTF of a module, whose ids and strings continue those of `base`.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_split(bytes: impl Into<Box<[u8]>>, base: Arc<Self>) -> Result<Self> {
        Self::with_base(bytes.into(), Some(base))
    }

    fn with_base(bytes: Box<[u8]>, base: Option<Arc<Self>>) -> Result<Self> {
        let word = |at: usize| {
            read_u32(&bytes, at)
                .ok_or_else(|| malformed(format!("{} bytes hold no header", bytes.len())))
        };
        let start = word(0)?;
        let header = word(4)? as usize;
        if start & 0xffff != u32::from(MAGIC) {
            return Err(malformed(format!(
                "it begins with {:#06x}, not {MAGIC:#06x}",
                start & 0xffff
            )));
        }
        if (start >> 16) & 0xff != 1 {
            return Err(malformed(format!(
                "version {} is not 1",
                (start >> 16) & 0xff
            )));
        }
        if header < HEADER {
            return Err(malformed(format!(
                "its header says {header} bytes, at least {HEADER} are needed"
            )));
        }
        let section = |what: &str, off: u32, len: u32| {
            let from = header.checked_add(off as usize);
            let to = from
                .and_then(|f| f.checked_add(len as usize))
                .filter(|to| *to <= bytes.len());
            from.zip(to).map(|(f, t)| f..t).ok_or_else(|| {
                malformed(format!(
                    "its {what} ({len} bytes at {off}) end past its {} bytes",
                    bytes.len()
                ))
            })
        };
        let types = section("types", word(8)?, word(12)?)?;
        let strings = section("strings", word(16)?, word(20)?)?;
        let records = records(&bytes, types)?;
        let (first_id, first_string) = match &base {
            None => (1, 0),
            Some(base) => (base.end_id(), base.end_string()),
        };
        if first_id as usize + records.len() > MAX_TYPES {
            return Err(malformed(format!("more than {MAX_TYPES} types")));
        }
        Ok(Self {
            base,
            bytes,
            strings,
            records,
            first_id,
            first_string,
            index: OnceLock::new(),
        })
    }

    /// The length in bytes that a BTF header promises, for a reader that knows only where BTF begins;
    /// `None` if this is no header.
    #[must_use]
    pub fn promised_len(header: &[u8]) -> Option<u64> {
        let word = |at| read_u32(header, at).map(u64::from);
        if word(0)? & 0xffff != u64::from(MAGIC) {
            return None;
        }
        Some(word(4)? + (word(8)? + word(12)?).max(word(16)? + word(20)?))
    }

    /// The BTF below this one: `vmlinux`, for a module's.
    #[must_use]
    pub fn base(&self) -> Option<&Arc<Self>> {
        self.base.as_ref()
    }

    /// The ids of this BTF's own types, without those of its base. 0 is `void` and in no range.
    pub fn ids(&self) -> impl Iterator<Item = TypeId> + use<> {
        (self.first_id..self.end_id()).map(TypeId)
    }

    /// This BTF's own types, without those of its base.
    pub fn types(&self) -> impl Iterator<Item = Type<'_>> {
        self.ids().filter_map(|id| self.get(id))
    }

    /// The type of an id; ids below this BTF's own are its base's.
    #[must_use]
    pub fn get(&self, id: TypeId) -> Option<Type<'_>> {
        if id == TypeId::VOID {
            return Some(Type::void(self));
        }
        let Some(own) = id.0.checked_sub(self.first_id) else {
            return self.base.as_ref()?.get(id);
        };
        let from = *self.records.get(own as usize)? as usize;
        Type::read(self, id, self.bytes.get(from..)?)
    }

    /// As [`get`](Self::get), with an error for an id that is not there.
    ///
    /// # Errors
    /// `Broken` if there is none.
    pub fn type_of(&self, id: TypeId) -> Result<Type<'_>> {
        self.get(id)
            .ok_or_else(|| malformed(format!("it refers to type {} of {}", id.0, self.end_id())))
    }

    fn end_id(&self) -> u32 {
        self.first_id
            .saturating_add(u32::try_from(self.records.len()).unwrap_or(u32::MAX))
    }

    fn end_string(&self) -> u32 {
        self.first_string
            .saturating_add(u32::try_from(self.strings.len()).unwrap_or(u32::MAX))
    }

    /// The string at an offset; empty where the table holds none, or none in UTF-8.
    fn string(&self, offset: u32) -> &str {
        std::str::from_utf8(self.string_bytes(offset)).unwrap_or("")
    }

    fn string_bytes(&self, offset: u32) -> &[u8] {
        let Some(own) = offset.checked_sub(self.first_string) else {
            return self
                .base
                .as_ref()
                .map_or(&[], |base| base.string_bytes(offset));
        };
        let rest = self
            .bytes
            .get(self.strings.clone())
            .and_then(|s| s.get(own as usize..))
            .unwrap_or(&[]);
        memchr::memchr(0, rest).map_or(&[], |end| &rest[..end])
    }
}

impl fmt::Debug for Btf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Btf")
            .field("types", &self.records.len())
            .field("bytes", &self.bytes.len())
            .field("split", &self.base.is_some())
            .finish()
    }
}

/// Finds the offset of each record of the type section, and checks that every record lies within the section.
fn records(bytes: &[u8], section: std::ops::Range<usize>) -> Result<Vec<u32>> {
    let mut at = section.start;
    // 32 bytes are the mean record of a kernel: a guess that costs nothing, bounded by the section.
    let mut records = Vec::with_capacity(section.len() / 32);
    while at < section.end {
        let index = records.len();
        let info = read_u32(bytes, at + 4).filter(|_| at + 12 <= section.end);
        let info = info.ok_or_else(|| malformed(format!("record {index} is cut short")))?;
        let len = types::record_len(info).ok_or_else(|| {
            malformed(format!(
                "record {index} is of the unknown kind {}",
                types::kind_number(info)
            ))
        })?;
        let end = at.checked_add(len).filter(|end| *end <= section.end);
        let end =
            end.ok_or_else(|| malformed(format!("record {index} ends past the type section")))?;
        records.push(u32::try_from(at).map_err(|_| malformed("more than 4 GiB"))?);
        if records.len() > MAX_TYPES {
            return Err(malformed(format!("more than {MAX_TYPES} types")));
        }
        at = end;
    }
    Ok(records)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at.checked_add(4)?)?
        .try_into()
        .ok()
        .map(u32::from_le_bytes)
}
