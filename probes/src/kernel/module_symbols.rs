//! Symbols of loaded modules, read out of guest memory.
//!
//! A module keeps its own table, plain ELF symbols and strings, in `struct module::kallsyms` (`struct mod_kallsyms`,
//! `kernel/module/kallsyms.c`); the modules are in the list `modules`.

use super::btf::{Btf, Field, Kind, Shape, TypeId};
use super::{Kernel, Symbol, SymbolAt};
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// More modules than any kernel loads.
const MAX_MODULES: usize = 4096;
/// More symbols than any module has.
const MAX_SYMBOLS: u32 = 1 << 18;
/// `KSYM_NAME_LEN`; what is longer is garbage.
const MAX_NAME: usize = 512;
/// `sizeof(Elf64_Sym)`: name `u32`, info, other, section `u16`, value `u64`, size `u64`.
const ELF_SYM: usize = 24;
/// The section of a symbol that the module only refers to.
const SHN_UNDEF: u16 = 0;

/// The symbols of one loaded module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleSymbols {
    /// The module's name.
    pub module: String,
    /// Its symbols in its table's order. The type letter does not tell exported ones, as `/proc/kallsyms` does by case.
    pub symbols: Vec<Symbol>,
    /// Of each symbol, in the same order, what its table has besides.
    elf: Vec<ElfSymbol>,
    /// Where its memory lies: first byte and length in bytes.
    areas: Vec<(GuestVirt, u64)>,
}

/// What a module's symbol table says of a symbol besides its name and address (`Elf64_Sym`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElfSymbol {
    /// `st_info`: the binding in its upper four bits, the type in its lower. Kernels before 5.2 keep the type letter here.
    pub info: u8,
    /// `st_size`, in bytes; 0 for code that nobody measured.
    pub size: u64,
}

/// Where the members lie that are read here.
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

/// How many elements an array has, and how many bytes each.
fn elements(btf: &Btf, array: TypeId) -> Result<(u32, u64)> {
    match btf.shape(array)? {
        Shape::Array { element, count } => Ok((count, btf.size_of(element)?.unwrap_or(0))),
        _ => Ok((0, 0)),
    }
}

impl Kernel {
    /// The symbols of each module that is loaded now, in the order of the kernel's list: the last loaded first.
    ///
    /// They are read anew each time, since modules come and go.
    pub fn module_symbols(&self) -> Result<Vec<ModuleSymbols>> {
        // A kernel without CONFIG_MODULES has no such list.
        let Some(head) = self.symbols()?.lookup("modules") else {
            return Ok(Vec::new());
        };
        let mut node = GuestVirt(self.read_u64(head)?);
        if node == head {
            return Ok(Vec::new());
        }
        let offsets = self.once(|| Offsets::new(self))?;
        let mut modules = Vec::new();
        while node != head {
            if modules.len() == MAX_MODULES {
                return Err(Error::TooLong {
                    what: "list of modules",
                    at: head,
                    bound: MAX_MODULES,
                });
            }
            modules.push(self.symbols_of(node.back(offsets.list), &offsets)?);
            node = GuestVirt(self.read_u64(node)?);
        }
        Ok(modules)
    }

    fn symbols_of(&self, module: GuestVirt, offsets: &Offsets) -> Result<ModuleSymbols> {
        let pointer = |at: GuestVirt| self.read_u64(at).map(GuestVirt);
        let mut areas = Vec::new();
        for (base, size) in &offsets.areas {
            areas.push((
                pointer(module.offset(*base))?,
                u64::from(self.read_u32(module.offset(*size))?),
            ));
        }
        let name = self.read_cstr(module.offset(offsets.name.offset()), 64)?;
        let table = pointer(module.offset(offsets.kallsyms))?;
        let (mut symbols, mut elf) = (Vec::new(), Vec::new());
        // A module that is still being set up has none yet.
        if !table.is_null() {
            let count = self.read_u32(table.offset(offsets.num_symtab))?;
            if count > MAX_SYMBOLS {
                let why = format!("{name} claims {count} symbols");
                return Err(Error::Malformed {
                    what: "the symbol table of a module",
                    why,
                });
            }
            let mut entries = vec![0; count as usize * ELF_SYM];
            self.read(pointer(table.offset(offsets.symtab))?, &mut entries)?;
            let mut kinds = vec![0; count as usize];
            if let Some(typetab) = offsets.typetab {
                self.read(pointer(table.offset(typetab))?, &mut kinds)?;
            }
            let strings = pointer(table.offset(offsets.strtab))?;
            for (entry, kind) in entries.chunks_exact(ELF_SYM).zip(kinds) {
                let Some(entry) = entry.first_chunk::<ELF_SYM>() else {
                    continue;
                };
                let [n0, n1, n2, n3, info, _, s0, s1, rest @ ..] = *entry;
                let [value, size] = [&rest[..8], &rest[8..]].map(|word| {
                    word.iter()
                        .rev()
                        .fold(0, |all, byte| all << 8 | u64::from(*byte))
                });
                // While a module is set up its table has what it needs of others, too.
                if u16::from_le_bytes([s0, s1]) == SHN_UNDEF {
                    continue;
                }
                let text = self.read_cstr(
                    strings.offset(u64::from(u32::from_le_bytes([n0, n1, n2, n3]))),
                    MAX_NAME,
                )?;
                if !text.is_empty() {
                    let kind = char::from(if offsets.typetab.is_some() {
                        kind
                    } else {
                        info
                    });
                    symbols.push(Symbol {
                        name: text,
                        at: GuestVirt(value),
                        kind,
                    });
                    elf.push(ElfSymbol { info, size });
                }
            }
        }
        Ok(ModuleSymbols {
            module: name,
            symbols,
            elf,
            areas,
        })
    }

    /// What a kernel address is in terms of the symbol at or before it: the kernel's own, or that of a module whose
    /// memory holds the address. `None` for anything else: the heap, a stack, a user's address.
    pub fn symbol_at(&self, at: GuestVirt) -> Result<Option<SymbolAt>> {
        if let Some(symbol) = self.symbols()?.at(at) {
            return Ok(Some(symbol));
        }
        Ok(self
            .module_symbols()?
            .iter()
            .find_map(|module| module.at(at)))
    }
}

impl ModuleSymbols {
    /// Its symbols, each with what its table says of it besides.
    pub fn with_elf(&self) -> impl Iterator<Item = (&Symbol, ElfSymbol)> {
        self.symbols.iter().zip(self.elf.iter().copied())
    }

    /// Whether an address is in the module's memory.
    #[must_use]
    pub fn holds(&self, at: GuestVirt) -> bool {
        let holds = |(base, len): &(GuestVirt, u64)| at.0.wrapping_sub(base.0) < *len;
        self.areas.iter().any(holds)
    }

    /// The symbol at or before `at`, in the same area of the module's memory.
    #[must_use]
    pub fn at(&self, at: GuestVirt) -> Option<SymbolAt> {
        let holds = |(base, len): &&(GuestVirt, u64)| at.0.wrapping_sub(base.0) < *len;
        let (base, _) = self.areas.iter().find(holds)?;
        let before = self
            .symbols
            .iter()
            .filter(|s| (base.0..=at.0).contains(&s.at.0));
        let nearest = before.max_by_key(|s| s.at)?;
        Some(SymbolAt {
            name: nearest.name.clone(),
            offset: at.0 - nearest.at.0,
            module: Some(self.module.clone()),
        })
    }

    /// Where the symbol that `at` lies in ends at the latest: at the next one, or at the end of its area.
    #[must_use]
    pub fn after(&self, at: GuestVirt) -> Option<GuestVirt> {
        let holds = |(base, len): &&(GuestVirt, u64)| at.0.wrapping_sub(base.0) < *len;
        let (base, len) = self.areas.iter().find(holds)?;
        let end = base.offset(*len);
        let next = self.symbols.iter().map(|symbol| symbol.at);
        next.filter(|next| *next > at && *next < end)
            .min()
            .or(Some(end))
    }
}
