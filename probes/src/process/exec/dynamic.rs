//! The dynamic section of an ELF file, which is for its loader (`include/uapi/linux/elf.h`).

use object::elf;
use serde::Serialize;

use super::elf::Image;
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// Entries of a dynamic section, functions of an array and symbols that are read at most.
const ENTRIES: u64 = 4096;
const FUNCTIONS: u64 = 1 << 16;
const SYMBOLS: u64 = 1 << 18;
/// The longest name.
const NAME: usize = 4096;

/// A function that the loader calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ElfFunction {
    /// Address.
    pub at: GuestVirt,
    /// The dynamic symbol that it is, if it is one.
    pub symbol: Option<String>,
}

/// A dynamic symbol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ElfSymbol {
    /// Its name.
    pub name: String,
    /// Address.
    pub at: GuestVirt,
    /// True if `at` is no address but a value, as that of a version's name is.
    pub absolute: bool,
    /// Its size in bytes.
    pub size: u64,
}

/// The dynamic section of an ELF file, which is for its loader.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Dynamic {
    /// `DT_SONAME`: its own name.
    pub soname: Option<String>,
    /// `DT_NEEDED`: the libraries that it wants.
    pub needed: Vec<String>,
    /// `DT_PREINIT_ARRAY`, `DT_INIT`, `DT_INIT_ARRAY`: what is called before `main()`, in this order.
    pub init: Vec<ElfFunction>,
    /// `DT_FINI_ARRAY` from its end, `DT_FINI`: what is called after it, in this order.
    pub fini: Vec<ElfFunction>,
    /// Its dynamic symbols that are defined in it.
    pub symbols: Vec<ElfSymbol>,
}

/// The values of a dynamic section by tag.
struct Tags<'a, 'k> {
    image: &'a Image<'k>,
    tags: Vec<(u64, u64)>,
}

impl Tags<'_, '_> {
    fn value(&self, tag: u32) -> Option<u64> {
        let found = self.tags.iter().find(|(known, _)| *known == u64::from(tag));
        found.map(|(_, value)| *value)
    }

    /// An address: the loader may have added the bias to it in place already.
    fn pointer(&self, tag: u32) -> Option<GuestVirt> {
        let value = self.value(tag)?;
        let at = GuestVirt(value);
        Some(if self.image.holds(at) {
            at
        } else {
            at.offset(self.image.bias)
        })
    }

    fn text(&self, offset: u64) -> Result<String> {
        let strings = self.pointer(elf::DT_STRTAB).unwrap_or_default();
        let text = self.image.space.read_cstr(strings.offset(offset), NAME)?;
        Ok(crate::text_of(&text))
    }

    /// The addresses of an array of functions, as the loader relocated them.
    fn functions(&self, array: u32, size: u32) -> Result<Vec<GuestVirt>> {
        let (Some(at), Some(size)) = (self.pointer(array), self.value(size)) else {
            return Ok(Vec::new());
        };
        let read = |i| self.image.space.read_u64(at.offset(8 * i)).map(GuestVirt);
        (0..(size / 8).min(FUNCTIONS)).map(read).collect()
    }

    /// Number of symbols, by either hash table.
    fn count(&self) -> Result<u64> {
        let word = |at: GuestVirt| self.image.space.read_u32(at).map(u64::from);
        if let Some(hash) = self.pointer(elf::DT_HASH) {
            // nbucket, nchain
            return word(hash.offset(4)).map(|count| count.min(SYMBOLS));
        }
        let Some(hash) = self.pointer(elf::DT_GNU_HASH) else {
            return Ok(0);
        };
        // nbuckets, symoffset, bloom_size, bloom_shift; the filter, the buckets, the chains.
        let (buckets, first, bloom) = (word(hash)?, word(hash.offset(4))?, word(hash.offset(8))?);
        let table = hash.offset(16 + 8 * bloom);
        let mut last = 0;
        for bucket in 0..buckets.min(SYMBOLS) {
            last = last.max(word(table.offset(4 * bucket))?);
        }
        if last < first {
            return Ok(first.min(SYMBOLS));
        }
        let chains = table.offset(4 * buckets);
        // The last entry of a chain is odd.
        while last < SYMBOLS && word(chains.offset(4 * (last - first)))? & 1 == 0 {
            last += 1;
        }
        Ok((last + 1).min(SYMBOLS))
    }

    fn symbols(&self) -> Result<Vec<ElfSymbol>> {
        let Some(table) = self.pointer(elf::DT_SYMTAB) else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for i in 1..self.count()? {
            // Elf64_Sym: st_name u32, st_info u8, st_other u8, st_shndx u16, st_value u64, st_size u64.
            let at = table.offset(24 * i);
            let space = &self.image.space;
            let (section, value) = (space.read_u16(at.offset(6))?, space.read_u64(at.offset(8))?);
            // One of another file's, or of each thread's own memory, lies nowhere here.
            if section == elf::SHN_UNDEF || space.read_u8(at.offset(4))? & 0xf == elf::STT_TLS {
                continue;
            }
            let absolute = section == elf::SHN_ABS;
            let bias = if absolute { 0 } else { self.image.bias };
            all.push(ElfSymbol {
                name: self.text(space.read_u32(at)?.into())?,
                at: GuestVirt(value).offset(bias),
                absolute,
                size: space.read_u64(at.offset(16))?,
            });
        }
        Ok(all)
    }
}

/// The dynamic section at an address.
pub(super) fn read(image: &Image<'_>, at: GuestVirt, len: u64) -> Result<Dynamic> {
    let mut tags = Vec::new();
    for i in 0..(len / 16).min(ENTRIES) {
        let tag = image.space.read_u64(at.offset(16 * i))?;
        if tag == u64::from(elf::DT_NULL) {
            break;
        }
        tags.push((tag, image.space.read_u64(at.offset(16 * i + 8))?));
    }
    let tags = Tags { image, tags };
    // A page of them may not be in RAM; they only name things.
    let symbols = match tags.symbols() {
        Err(Error::NotMapped { .. }) => Vec::new(),
        symbols => symbols?,
    };
    let function = |at: GuestVirt| ElfFunction {
        at,
        symbol: symbols
            .iter()
            .find(|symbol| symbol.at == at)
            .map(|symbol| symbol.name.clone()),
    };
    let mut init = tags.functions(elf::DT_PREINIT_ARRAY, elf::DT_PREINIT_ARRAYSZ)?;
    init.extend(tags.pointer(elf::DT_INIT));
    init.extend(tags.functions(elf::DT_INIT_ARRAY, elf::DT_INIT_ARRAYSZ)?);
    let mut fini = tags.functions(elf::DT_FINI_ARRAY, elf::DT_FINI_ARRAYSZ)?;
    fini.reverse();
    fini.extend(tags.pointer(elf::DT_FINI));
    let needed = tags
        .tags
        .iter()
        .filter(|(tag, _)| *tag == u64::from(elf::DT_NEEDED));
    Ok(Dynamic {
        soname: tags
            .value(elf::DT_SONAME)
            .map(|name| tags.text(name))
            .transpose()?,
        needed: needed
            .map(|(_, name)| tags.text(*name))
            .collect::<Result<_>>()?,
        init: init.into_iter().map(function).collect(),
        fini: fini.into_iter().map(function).collect(),
        symbols,
    })
}
