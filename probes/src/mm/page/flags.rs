//! The bits of `page->flags` and what `page->page_type` says, both by the names of this kernel's own enumerations.

use std::collections::BTreeMap;

use crate::Result;
use crate::kernel::Kernel;
use crate::kernel::btf::Kind;

/// Bits of `page->page_type` before 6.10, where they were macros (`include/linux/page-flags.h`).
const MACROS: [(&str, u32); 4] = [
    ("buddy", 0x80),
    ("offline", 0x100),
    ("table", 0x200),
    ("guard", 0x400),
];
/// `PAGE_TYPE_BASE` of those kernels.
const PAGE_TYPE_BASE: u32 = 0xf000_0000;
/// `PAGE_MAPCOUNT_RESERVE`: what is below is no mapcount.
const PAGE_MAPCOUNT_RESERVE: i32 = -128;

/// The kernel's encoding of the type of a page that no process maps.
#[derive(Debug)]
enum Scheme {
    /// `PGTY_*` in the top byte of `page_type`.
    Byte(Vec<(u8, String)>),
    /// A bit each, set where it is not meant, below `PAGE_TYPE_BASE`.
    Bits(Vec<(u32, String)>),
}

/// The names.
#[derive(Debug)]
pub(super) struct Names {
    /// By bit, ascending; the first name of those that share a bit.
    flags: Vec<(u32, String)>,
    scheme: Scheme,
}

impl Names {
    pub(super) fn of(kernel: &Kernel) -> Result<Self> {
        let btf = kernel.btf()?;
        let listed = |name: &str| -> Result<Vec<(String, i64)>> {
            let Some(id) = btf.find(Kind::Enum, name) else {
                return Ok(Vec::new());
            };
            let ty = btf.type_of(id)?;
            Ok(ty
                .enumerators()
                .map(|e| (e.name.to_owned(), e.value))
                .collect())
        };
        let mut flags: Vec<(u32, String)> = Vec::new();
        for (name, value) in listed("pageflags")? {
            let bit = u32::try_from(value).unwrap_or(64);
            if let Some(name) = name.strip_prefix("PG_")
                && bit < 64
                && !flags.iter().any(|(known, _)| *known == bit)
            {
                flags.push((bit, name.to_owned()));
            }
        }
        flags.sort_by_key(|(bit, _)| *bit);
        let types = listed("pagetype")?;
        let bytes: Vec<(u8, String)> = types
            .iter()
            .filter_map(|(name, value)| {
                let name = name.strip_prefix("PGTY_")?;
                let value = u8::try_from(*value).ok().filter(|value| *value < 0xff)?;
                Some((value, name.to_owned()))
            })
            .collect();
        let scheme = if bytes.is_empty() {
            let listed = types.iter().filter_map(|(name, value)| {
                let bit = u32::try_from(*value).ok().filter(|v| v.is_power_of_two())?;
                Some((bit, name.strip_prefix("PG_")?.to_owned()))
            });
            let mut bits: Vec<(u32, String)> = listed.collect();
            if bits.is_empty() {
                bits = MACROS.map(|(name, bit)| (bit, name.to_owned())).to_vec();
            }
            Scheme::Bits(bits)
        } else {
            Scheme::Byte(bytes)
        };
        Ok(Self { flags, scheme })
    }

    /// A flag of `enum pageflags` by its bit's first name; 0 where this kernel has none of the name.
    pub(super) fn mask(&self, name: &str) -> u64 {
        let found = self.flags.iter().find(|(_, flag)| flag == name);
        found.map_or(0, |(bit, _)| 1 << bit)
    }

    /// All flags.
    pub(super) fn all(&self) -> u64 {
        self.flags.iter().fold(0, |all, (bit, _)| all | 1 << bit)
    }

    /// The flags' names by their bits.
    pub(super) fn by_bit(&self) -> BTreeMap<u32, String> {
        self.flags.iter().cloned().collect()
    }

    /// Tells whether a flag is set.
    pub(super) fn is_set(&self, flags: u64, name: &str) -> bool {
        flags & self.mask(name) != 0
    }

    /// The names of the flags that are set, from bit 0 up.
    pub(super) fn names(&self, flags: u64) -> Vec<String> {
        let set = self.flags.iter().filter(|(bit, _)| flags >> bit & 1 == 1);
        set.map(|(_, name)| name.clone()).collect()
    }

    /// Name of a `page_type`: `buddy`, `slab`, `table`, ..; `None` for a count of mappings.
    pub(super) fn page_type(&self, raw: i32) -> Option<&str> {
        let word = raw.cast_unsigned();
        match &self.scheme {
            Scheme::Byte(types) => types
                .iter()
                .find(|(byte, _)| u32::from(*byte) == word >> 24)
                .map(|(_, name)| &**name),
            Scheme::Bits(types) => types
                .iter()
                .find(|(bit, _)| word & (PAGE_TYPE_BASE | bit) == PAGE_TYPE_BASE)
                .map(|(_, name)| &**name),
        }
    }

    /// Tells whether `_mapcount` holds a type instead: `page_mapcount_is_type()`, `page_has_type()`.
    pub(super) const fn is_type(&self, raw: i32) -> bool {
        match self.scheme {
            // PGTY_mapcount_underflow << 24
            Scheme::Byte(_) => raw < 0xff00_0000_u32.cast_signed(),
            Scheme::Bits(_) => raw < PAGE_MAPCOUNT_RESERVE,
        }
    }

    /// Tells whether a slab, and a huge page of hugetlbfs, are told by the type.
    pub(super) fn has_type(&self, name: &str) -> bool {
        match &self.scheme {
            Scheme::Byte(types) => types.iter().any(|(_, ty)| ty == name),
            Scheme::Bits(types) => types.iter().any(|(_, ty)| ty == name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(scheme: Scheme) -> Names {
        Names {
            flags: vec![(0, "locked".to_owned()), (4, "dirty".to_owned())],
            scheme,
        }
    }

    #[test]
    fn flags_by_name() {
        let names = names(Scheme::Byte(Vec::new()));
        assert_eq!(names.names(0x11), ["locked", "dirty"]);
        assert!(names.is_set(0x10, "dirty") && !names.is_set(0x10, "locked"));
        assert!(!names.is_set(u64::MAX, "none"));
        assert_eq!(names.mask("dirty"), 0x10);
    }

    #[test]
    fn types_in_the_top_byte_and_as_cleared_bits() {
        let new = names(Scheme::Byte(vec![(0xf0, "buddy".to_owned())]));
        assert_eq!(new.page_type(0xf000_0009_u32.cast_signed()), Some("buddy"));
        assert_eq!([new.page_type(-1), new.page_type(3)], [None, None]);
        assert!(new.is_type(0xf000_0000_u32.cast_signed()) && !new.is_type(-1) && !new.is_type(7));
        let old = names(Scheme::Bits(vec![(0x80, "buddy".to_owned())]));
        assert_eq!(old.page_type(!0x80), Some("buddy"));
        assert_eq!([old.page_type(-1), old.page_type(0)], [None, None]);
        assert!(old.is_type(!0x80) && !old.is_type(-1));
    }
}
