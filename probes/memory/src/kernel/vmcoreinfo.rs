//! VMCOREINFO: the page of text in which a kernel describes itself to crash tools (`kernel/vmcore_info.c`).

use std::collections::HashMap;

use crate::memory::{GuestPhys, GuestVirt, PAGE_SIZE, PhysMemory};
use crate::{Error, Result};

/// First bytes of the page (`VMCOREINFO_OSRELEASE`).
pub(crate) const PREFIX: &[u8] = b"OSRELEASE=";

/// A parsed VMCOREINFO: `KEY=value` lines, kept by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmcoreInfo {
    text: String,
    lines: HashMap<String, String>,
    at: Option<GuestPhys>,
}

impl VmcoreInfo {
    /// Reads and parses the page at `at`.
    ///
    /// # Errors
    /// As [`PhysMemory::read`] and [`Self::parse`].
    pub fn read(memory: &dyn PhysMemory, at: GuestPhys) -> Result<Self> {
        let mut page = vec![0; PAGE_SIZE as usize];
        memory.read(at, &mut page)?;
        Self::parse(&page, Some(at))
    }

    /// Parses text up to its first NUL; `at` is where it was, `None` where a dump's note had it.
    ///
    /// # Errors
    /// `Broken` if it is no UTF-8, or has no `OSRELEASE`.
    pub fn parse(text: &[u8], at: Option<GuestPhys>) -> Result<Self> {
        let malformed = |why: String| Error::Malformed {
            what: "VMCOREINFO",
            why,
        };
        let end = memchr::memchr(0, text).unwrap_or(text.len());
        let text = std::str::from_utf8(&text[..end])
            .map_err(|e| malformed(format!("not text at byte {e}")))?;
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let lines = lines
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let text = text.to_owned();
        let info = Self { text, lines, at };
        if info.release().is_empty() {
            return Err(malformed("no OSRELEASE".to_owned()));
        }
        Ok(info)
    }

    /// Guest-physical address of the text; `None` if a dump's note had it.
    #[must_use]
    pub fn at(&self) -> Option<GuestPhys> {
        self.at
    }

    /// The text, as the kernel wrote it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Names the place of the text in words.
    pub(super) fn place(&self) -> String {
        self.at.map_or_else(
            || "in the dump's note".to_owned(),
            |at| format!("at physical {at}"),
        )
    }

    /// The kernel's release, as `uname -r` prints it.
    #[must_use]
    pub fn release(&self) -> &str {
        self.get("OSRELEASE").unwrap_or_default()
    }

    /// The value of `key`, as it stands.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.lines.get(key).map(String::as_str)
    }

    /// `SYMBOL(name)`: an address, KASLR included.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<GuestVirt> {
        u64::from_str_radix(self.get(&format!("SYMBOL({name})"))?, 16)
            .ok()
            .map(GuestVirt)
    }

    /// `NUMBER(name)`: signed decimal, or hexadecimal after `0x`.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<i64> {
        let text = self.get(&format!("NUMBER({name})"))?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok().map(u64::cast_signed),
            None => text.parse().ok(),
        }
    }

    /// `SIZE(name)`: bytes.
    #[must_use]
    pub fn size(&self, name: &str) -> Option<u64> {
        self.get(&format!("SIZE({name})"))?.parse().ok()
    }

    /// `OFFSET(struct.member)`: bytes.
    #[must_use]
    pub fn offset(&self, name: &str) -> Option<u64> {
        self.get(&format!("OFFSET({name})"))?.parse().ok()
    }

    /// Distance by which KASLR moved the kernel's virtual addresses, in bytes (`KERNELOFFSET`).
    #[must_use]
    pub fn kaslr_offset(&self) -> u64 {
        self.get("KERNELOFFSET")
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .unwrap_or(0)
    }

    /// All `SYMBOL(..)` lines.
    pub fn symbols(&self) -> impl Iterator<Item = (&str, GuestVirt)> {
        self.lines.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix("SYMBOL(")?.strip_suffix(')')?;
            Some((name, GuestVirt(u64::from_str_radix(value, 16).ok()?)))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_of_each_kind() {
        let text = b"OSRELEASE=7.3.4\nSYMBOL(_stext)=ffffffff9ea00000\nNUMBER(phys_base)=-358612992\n\
            NUMBER(VMALLOC_START)=0xff736da480000000\nKERNELOFFSET=1da00000\nSIZE(page)=64\nOFFSET(page.lru)=8\n\0junk";
        let info = VmcoreInfo::parse(text, None).unwrap();
        assert_eq!(info.release(), "7.3.4");
        assert_eq!(
            info.symbol("_stext"),
            Some(GuestVirt(0xffff_ffff_9ea0_0000))
        );
        assert_eq!(info.number("phys_base"), Some(-358_612_992));
        assert_eq!(
            info.number("VMALLOC_START"),
            Some(0xff73_6da4_8000_0000_u64.cast_signed())
        );
        assert_eq!(
            (
                info.kaslr_offset(),
                info.size("page"),
                info.offset("page.lru")
            ),
            (0x1da0_0000, Some(64), Some(8))
        );
        assert_eq!(info.get("junk"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_text_or_an_error(text in prop::collection::vec(any::<u8>(), 0..5000)) {
            let _ = VmcoreInfo::parse(&text, None);
        }
    }
}
