//! Symbols of loaded modules, read out of guest memory.
//!
//! A module keeps its own table, plain ELF symbols and strings, in `struct module::kallsyms` (`struct mod_kallsyms`,
//! `kernel/module/kallsyms.c`); the modules are in the list `modules`.

use std::collections::HashSet;

use super::btf::{Btf, Field, Kind, Shape, TypeId};
use super::{Kernel, Symbol, SymbolAt};
use crate::base::Of as _;
use crate::memory::GuestVirt;
use crate::{Error, Listing, Result, text_of};

/// More modules than any kernel loads.
const MAX_MODULES: usize = 4096;
/// More symbols than any module has.
const MAX_SYMBOLS: u32 = 1 << 18;
/// More bytes than the names of any module take.
const MAX_STRINGS: u32 = 16 << 20;
/// `KSYM_NAME_LEN`; what is longer is garbage.
const MAX_NAME: usize = 512;
/// `sizeof(Elf64_Sym)`: name `u32`, info, other, section `u16`, value `u64`, size `u64`.
const ELF_SYM: usize = 24;
/// The upper 2 GiB: the kernel's image, and above it the modules (`MODULES_VADDR`).
const MODULES: GuestVirt = GuestVirt(0xffff_ffff_8000_0000);
/// The section of a symbol that the module only refers to.
const SHN_UNDEF: u16 = 0;

/// The symbols of one loaded module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleSymbols {
    /// The module's name.
    pub module: String,
    /// Its symbols in its table's order. The type letter does not tell exported ones, as `/proc/kallsyms` does by case.
    pub symbols: Vec<Symbol>,
    /// The rest of each symbol's entry in its table, in the same order.
    elf: Vec<ElfSymbol>,
    /// Ranges of its memory: first byte, and length in bytes.
    areas: Vec<(GuestVirt, u64)>,
    /// True if its table could be read.
    pub is_read: bool,
}

/// The rest of a symbol in a module's symbol table, beside its name and address (`Elf64_Sym`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElfSymbol {
    /// `st_info`: the binding in its upper four bits, the type in its lower. Kernels before 5.2 keep the type letter here.
    pub info: u8,
    /// `st_size`, in bytes; 0 for code that nobody measured.
    pub size: u64,
}

/// Offsets of the members that are read here.
struct Offsets {
    list: u64,
    name: Field,
    kallsyms: u64,
    symtab: u64,
    num_symtab: u64,
    strtab: u64,
    /// Kernels before 5.2 keep the type letter in the symbol.
    typetab: Option<u64>,
    /// Base and size of each area of a module's memory.
    areas: Vec<(u64, u64)>,
}

impl Offsets {
    fn new(kernel: &Kernel) -> Result<Self> {
        let btf = kernel.btf()?;
        let within = |ty: &str, member: &str| -> Result<Option<Field>> {
            btf.find(Kind::Struct, ty)
                .map_or(Ok(None), |id| btf.member(id, member))
        };
        let field = |ty: &str, member: &str| {
            within(ty, member)?.ok_or_else(|| Error::NoMember {
                ty: format!("struct {ty}"),
                member: member.to_owned(),
                release: kernel.release().to_owned(),
                hint: String::new(),
            })
        };
        let mut areas = Vec::new();
        let area = |at: u64, ty: &str| -> Result<(u64, u64)> {
            Ok((
                at + field(ty, "base")?.offset(),
                at + field(ty, "size")?.offset(),
            ))
        };
        // Since 6.4 a module's memory is an array of areas, before it is two layouts.
        if let Some(mem) = within("module", "mem")? {
            let (count, stride) = elements(btf, mem.ty)?;
            for index in 0..u64::from(count.min(64)) {
                areas.push(area(mem.offset() + index * stride, "module_memory")?);
            }
        }
        for layout in ["core_layout", "init_layout"] {
            if let Some(at) = within("module", layout)? {
                areas.push(area(at.offset(), "module_layout")?);
            }
        }
        Ok(Self {
            list: field("module", "list")?.offset(),
            name: field("module", "name")?,
            kallsyms: field("module", "kallsyms")?.offset(),
            symtab: field("mod_kallsyms", "symtab")?.offset(),
            num_symtab: field("mod_kallsyms", "num_symtab")?.offset(),
            strtab: field("mod_kallsyms", "strtab")?.offset(),
            typetab: within("mod_kallsyms", "typetab")?.map(|f| f.offset()),
            areas,
        })
    }
}

/// Number of an array's elements, and the bytes of each.
fn elements(btf: &Btf, array: TypeId) -> Result<(u32, u64)> {
    match btf.shape(array)? {
        Shape::Array { element, count } => Ok((count, btf.size_of(element)?.unwrap_or(0))),
        _ => Ok((0, 0)),
    }
}

impl Kernel {
    /// The symbols of each module that is loaded now, in the order of the kernel's list: the last loaded first. A module
    /// whose table cannot be read has no symbols, is named beside the others, and still says which addresses it holds.
    ///
    /// They are read anew each time, since modules come and go.
    ///
    /// # Errors
    /// `Unmapped` or `Broken` if the kernel's own symbols cannot be read; `Absent` if BTF does not describe a module.
    pub fn module_symbols(&self) -> Result<Listing<ModuleSymbols>> {
        let mut all = Listing::new();
        for table in self.module_tables()? {
            if let Ok(Table {
                unread: Some(error),
                ..
            })
            | Err(error) = &table
            {
                all.miss("", error);
            }
            all.items.extend(table.map(Table::decode));
        }
        Ok(all)
    }

    /// The symbol tables of the modules as they lie in memory; or why not even a module's name and memory can be read.
    pub(super) fn module_tables(&self) -> Result<Vec<Result<Table>>> {
        // A kernel without CONFIG_MODULES has no such list.
        let Some(head) = self.symbols()?.lookup("modules") else {
            return Ok(Vec::new());
        };
        let (nodes, broken) = self.module_nodes(head);
        if nodes.is_empty() && broken.is_none() {
            return Ok(Vec::new());
        }
        let offsets = self.once(|| Offsets::new(self))?;
        let mut tables: Vec<Result<Table>> = nodes
            .into_iter()
            .map(|node| self.table_at(node.back(offsets.list), &offsets))
            .collect();
        tables.extend(broken.map(Err));
        Ok(tables)
    }

    /// The nodes of the list of modules: those before a break, and those that the list has from its other end.
    fn module_nodes(&self, head: GuestVirt) -> (Vec<GuestVirt>, Option<Error>) {
        let mut nodes = Vec::new();
        let Err(error) = self.follow(head, 0, &mut nodes) else {
            return (nodes, None);
        };
        let broken: Result<()> = Err(error).of(|| match nodes.last() {
            Some(last) => format!("the list of modules behind {last}"),
            None => "the list of modules".to_owned(),
        });
        let mut from_the_end = Vec::new();
        // If it breaks in this direction, too, that has been said.
        let _ = self.follow(head, 8, &mut from_the_end);
        from_the_end.reverse();
        from_the_end.retain(|node| !nodes.contains(node));
        nodes.extend(from_the_end);
        (nodes, broken.err())
    }

    /// Follows `next` (at 0) or `prev` (at 8) of a `list_head` back to it.
    fn follow(&self, head: GuestVirt, link: u64, nodes: &mut Vec<GuestVirt>) -> Result<()> {
        let mut seen = HashSet::new();
        let mut node = head;
        loop {
            node = GuestVirt(self.read_u64(node.offset(link))?);
            if node == head {
                return Ok(());
            }
            if nodes.len() == MAX_MODULES || !seen.insert(node) {
                return Err(Error::TooLong {
                    what: "list of modules",
                    at: head,
                    bound: nodes.len(),
                });
            }
            // One that cannot be read is none.
            self.read_u64(node)?;
            nodes.push(node);
        }
    }

    fn table_at(&self, module: GuestVirt, offsets: &Offsets) -> Result<Table> {
        let name = self
            .read_cstr(module.offset(offsets.name.offset()), 64)
            .of(|| format!("the name of the module at {module}"))?;
        let mut table = Table {
            areas: self
                .areas_of(module, offsets)
                .of(|| format!("module {name}, its memory"))?,
            module: name,
            entries: Vec::new(),
            kinds: Vec::new(),
            strings: Vec::new(),
            unread: None,
        };
        if let Err(error) = self.read_table(module, &mut table, offsets) {
            let name = &table.module;
            let error = Err::<(), _>(error).of(|| format!("module {name}, its symbols"));
            (table.unread, table.entries) = (error.err(), Vec::new());
        }
        Ok(table)
    }

    fn areas_of(&self, module: GuestVirt, offsets: &Offsets) -> Result<Vec<(GuestVirt, u64)>> {
        let area = |(base, size): &(u64, u64)| {
            let base = GuestVirt(self.read_u64(module.offset(*base))?);
            Ok((base, self.read_u32(module.offset(*size))?.into()))
        };
        offsets.areas.iter().map(area).collect()
    }

    fn read_table(&self, module: GuestVirt, found: &mut Table, offsets: &Offsets) -> Result<()> {
        let pointer = |at: GuestVirt| self.read_u64(at).map(GuestVirt);
        let table = pointer(module.offset(offsets.kallsyms))?;
        // A module that is still being set up has none yet.
        if table.is_null() {
            return Ok(());
        }
        let malformed = |why: String| Error::Malformed {
            what: "the symbol table of a module",
            why,
        };
        let count = self.read_u32(table.offset(offsets.num_symtab))?;
        if count > MAX_SYMBOLS {
            return Err(malformed(format!("it claims {count} symbols")));
        }
        let mut bytes = vec![0; count as usize * ELF_SYM];
        self.read(pointer(table.offset(offsets.symtab))?, &mut bytes)?;
        found.entries = bytes.chunks_exact(ELF_SYM).filter_map(Entry::of).collect();
        match offsets.typetab {
            Some(typetab) => {
                found.kinds = vec![0; count as usize];
                self.read(pointer(table.offset(typetab))?, &mut found.kinds)?;
            }
            None => found.kinds = found.entries.iter().map(|entry| entry.info).collect(),
        }
        // The length of the strings is written nowhere: they go to the end of the last name.
        let strings = pointer(table.offset(offsets.strtab))?;
        let last = found.entries.iter().map(|entry| entry.name).max();
        if let Some(last) = last {
            if last > MAX_STRINGS {
                return Err(malformed(format!("a name lies {last} bytes into them")));
            }
            found.strings = vec![0; last as usize];
            self.read(strings, &mut found.strings)?;
            let name = self
                .space()
                .read_cstr(strings.offset(last.into()), MAX_NAME)?;
            found.strings.extend(name);
        }
        Ok(())
    }

    /// Describes a kernel address by the symbol at or before it: the kernel's own, or that of a module whose
    /// memory holds the address. `None` for anything else: the heap, a stack, a user's address.
    ///
    /// # Errors
    /// As [`Self::module_symbols`]; the error of the module whose table cannot be read, if the address may be in it.
    pub fn symbol_at(&self, at: GuestVirt) -> Result<Option<SymbolAt>> {
        if let Some(symbol) = self.symbols()?.at(at) {
            return Ok(Some(symbol));
        }
        let mut unread = None;
        for table in self.module_tables()? {
            match table {
                Ok(table) if table.holds(at) => {
                    return match table.unread {
                        Some(error) => Err(error),
                        None => Ok(table.decode().at(at)),
                    };
                }
                Ok(_) => {}
                Err(error) => unread = Some(error),
            }
        }
        // It may be in the module that could not be read, if it is where modules are.
        match unread {
            Some(error) if at >= MODULES => Err(error),
            _ => Ok(None),
        }
    }
}

/// An entry of a module's table: what is wanted of an `Elf64_Sym`.
struct Entry {
    name: u32,
    info: u8,
    section: u16,
    at: GuestVirt,
    size: u64,
}

impl Entry {
    fn of(bytes: &[u8]) -> Option<Self> {
        let word = |from: usize| -> Option<[u8; 4]> { bytes.get(from..from + 4)?.try_into().ok() };
        let long = |from: usize| -> Option<[u8; 8]> { bytes.get(from..from + 8)?.try_into().ok() };
        Some(Self {
            name: u32::from_le_bytes(word(0)?),
            info: *bytes.get(4)?,
            section: u16::from_le_bytes([*bytes.get(6)?, *bytes.get(7)?]),
            at: GuestVirt(u64::from_le_bytes(long(8)?)),
            size: u64::from_le_bytes(long(16)?),
        })
    }
}

/// A module's symbol table, copied and not yet decoded: most look-ups want one name of thousands.
pub(super) struct Table {
    pub(super) module: String,
    areas: Vec<(GuestVirt, u64)>,
    entries: Vec<Entry>,
    kinds: Vec<u8>,
    strings: Vec<u8>,
    /// The reason why it is empty.
    pub(super) unread: Option<Error>,
}

impl Table {
    fn holds(&self, at: GuestVirt) -> bool {
        area_of(&self.areas, at).is_some()
    }

    fn name(&self, entry: &Entry) -> &[u8] {
        let rest = self.strings.get(entry.name as usize..).unwrap_or_default();
        memchr::memchr(0, rest).map_or(rest, |end| &rest[..end])
    }

    fn symbol(&self, index: usize, entry: &Entry) -> Symbol {
        Symbol {
            name: text_of(self.name(entry)),
            at: entry.at,
            kind: self.kinds.get(index).map_or('?', |kind| char::from(*kind)),
            size: (entry.size > 0).then_some(entry.size),
        }
    }

    /// The symbols whose name `is`: what the module defines, not what it takes from others (`SHN_UNDEF`).
    pub(super) fn named<'a>(
        &'a self,
        is: impl Fn(&[u8]) -> bool + 'a,
    ) -> impl Iterator<Item = Symbol> + 'a {
        let defined = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.section != SHN_UNDEF);
        let named = defined.filter(move |(_, entry)| {
            let name = self.name(entry);
            !name.is_empty() && is(name)
        });
        named.map(|(index, entry)| self.symbol(index, entry))
    }

    fn decode(self) -> ModuleSymbols {
        // What the module defines, as in `named`.
        let entries = self.entries.iter().enumerate();
        let defined =
            entries.filter(|(_, entry)| entry.section != SHN_UNDEF && !self.name(entry).is_empty());
        let (symbols, elf) = defined
            .map(|(index, entry)| {
                let (info, size) = (entry.info, entry.size);
                (self.symbol(index, entry), ElfSymbol { info, size })
            })
            .unzip();
        ModuleSymbols {
            symbols,
            elf,
            module: self.module,
            areas: self.areas,
            is_read: self.unread.is_none(),
        }
    }
}

impl ModuleSymbols {
    /// Its symbols, each with what its table says of it besides.
    pub fn with_elf(&self) -> impl Iterator<Item = (&Symbol, ElfSymbol)> {
        self.symbols.iter().zip(self.elf.iter().copied())
    }

    /// Tells whether an address is in the module's memory.
    #[must_use]
    pub fn holds(&self, at: GuestVirt) -> bool {
        self.area(at).is_some()
    }

    /// The symbol at or before `at`, in the same area of the module's memory; the first of those that share an address,
    /// as `find_kallsyms_symbol()` has it.
    #[must_use]
    pub fn at(&self, at: GuestVirt) -> Option<SymbolAt> {
        let nearest = self.nearest(at)?;
        Some(SymbolAt {
            name: nearest.name.clone(),
            offset: at.0 - nearest.at.0,
            module: Some(self.module.clone()),
        })
    }

    fn area(&self, at: GuestVirt) -> Option<(GuestVirt, u64)> {
        area_of(&self.areas, at)
    }

    fn nearest(&self, at: GuestVirt) -> Option<&Symbol> {
        let (base, _) = self.area(at)?;
        let before = self.symbols.iter().filter(|symbol| {
            (base.0..=at.0).contains(&symbol.at.0) && !is_mapping_symbol(&symbol.name)
        });
        before.reduce(|best, symbol| if symbol.at > best.at { symbol } else { best })
    }

    /// Finds the end of the symbol that `at` lies in: after its size (`st_size`), if it has one; else at the next symbol, or
    /// at the end of its area.
    #[must_use]
    pub fn after(&self, at: GuestVirt) -> Option<GuestVirt> {
        let (base, len) = self.area(at)?;
        let end = base.offset(len);
        let next = self.symbols.iter().map(|symbol| symbol.at);
        let next = next.filter(|next| *next > at && *next < end).min();
        let sized = self.nearest(at).and_then(|symbol| {
            let end = symbol.at.0.checked_add(symbol.size?).map(GuestVirt);
            end.filter(|end| *end > at)
        });
        [sized, next, Some(end)].into_iter().flatten().min()
    }
}

/// The area of a module's memory that holds an address.
fn area_of(areas: &[(GuestVirt, u64)], at: GuestVirt) -> Option<(GuestVirt, u64)> {
    let holds = |(base, len): &(GuestVirt, u64)| at.0.wrapping_sub(base.0) < *len;
    areas.iter().copied().find(holds)
}

/// `is_mapping_symbol()` of `include/linux/module_symbol.h`: marks of the assembler, no names of things.
fn is_mapping_symbol(name: &str) -> bool {
    name.starts_with(".L") || name.starts_with("L0") || name.starts_with('$')
}
