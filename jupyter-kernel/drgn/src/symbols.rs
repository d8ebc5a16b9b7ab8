//! Symbols as drgn has them: with a size, a binding and a kind, which kallsyms tells by a letter and modules by their ELF
//! symbol tables.

use probes::Missing;
use probes::kernel::{ElfSymbol, Kallsyms, Kernel, ModuleSymbols, Symbol};
use probes::memory::GuestVirt;

/// Name, address, size in bytes, `drgn.SymbolBinding` and `drgn.SymbolKind` of a symbol.
pub(crate) type Sym = (String, u64, u64, u8, u8);

// `enum drgn_symbol_binding`, `enum drgn_symbol_kind` (`libdrgn/drgn.h@v0.3.0`): the latter, and all of the former but
// the first, are ELF's.
const UNKNOWN: u8 = 0;
const LOCAL: u8 = 1;
const GLOBAL: u8 = 2;
const WEAK: u8 = 3;
const UNIQUE: u8 = 11;
const OBJECT: u8 = 1;
const FUNC: u8 = 2;
const IFUNC: u8 = 10;

/// `STB_GNU_UNIQUE`
const STB_UNIQUE: u8 = 10;
/// `STT_TLS`: beyond it only `STT_GNU_IFUNC` means something.
const STT_TLS: u8 = 6;

/// The symbols of a kernel and of its modules. Those of modules are read anew for each question that they may answer.
pub(crate) struct Symbols<'k> {
    kernel: &'k Kernel,
    own: &'k Kallsyms,
    /// First and last address of the kernel's code, and of that of its boot.
    text: Vec<(GuestVirt, GuestVirt)>,
    /// The modules that could not be asked.
    pub(crate) missing: Vec<Missing>,
}

impl<'k> Symbols<'k> {
    pub(crate) fn of(kernel: &'k Kernel) -> probes::Result<Self> {
        let own = kernel.symbols()?;
        let bounds = [("_stext", "_etext"), ("_sinittext", "_einittext")];
        let bounds = bounds.map(|(start, end)| own.lookup(start).zip(own.lookup(end)));
        let text = bounds.into_iter().flatten().collect();
        Ok(Self {
            kernel,
            own,
            text,
            missing: Vec::new(),
        })
    }

    /// The symbols of this name, or all, in the order of their tables; the kernel's own among them or not. If one is
    /// enough, modules are not asked for a global symbol of the kernel's.
    pub(crate) fn named(
        &mut self,
        name: Option<&str>,
        own: bool,
        one: bool,
    ) -> probes::Result<Vec<Sym>> {
        let mut found: Vec<Sym> = match name {
            _ if !own => Vec::new(),
            Some(name) => self.own.named(name).map(|s| self.kernels(s)).collect(),
            None => self.own.iter().map(|s| self.kernels(s)).collect(),
        };
        if one && found.iter().any(|(.., binding, _)| rank(*binding) == 3) {
            return Ok(found);
        }
        let modules = self.kernel.module_symbols()?;
        self.missing.extend(modules.missing);
        for module in modules.items {
            let same = module
                .with_elf()
                .filter(|(symbol, _)| name.is_none_or(|name| symbol.name == name));
            found.extend(same.map(of_module));
        }
        Ok(found)
    }

    /// The symbols that hold an address.
    pub(crate) fn at(&mut self, at: GuestVirt) -> probes::Result<Vec<Sym>> {
        let mut found: Vec<Sym> = if let Some(first) = self.own.at(at) {
            let start = at.back(first.offset);
            self.own.aliases(start).map(|s| self.kernels(s)).collect()
        } else {
            let modules = self.kernel.module_symbols()?;
            let module = modules.iter().find(|module| module.holds(at));
            if module.is_some_and(|module| !module.is_read) {
                self.missing.extend(modules.missing.iter().cloned());
            }
            module.map_or_else(Vec::new, |module| holding(module, at))
        };
        found.sort_by_key(|(_, start, size, binding, _)| {
            (
                std::cmp::Reverse(*start),
                *size,
                std::cmp::Reverse(rank(*binding)),
            )
        });
        Ok(found)
    }

    /// A symbol of the kernel's own, which reaches up to the next.
    fn kernels(&self, symbol: Symbol) -> Sym {
        let at = symbol.at;
        // The last of the offsets into a CPU's area is followed by the first address of the kernel.
        let next = self.own.after(at).filter(|next| (next.0 ^ at.0) >> 63 == 0);
        let size = next.map_or(0, |next| next.0 - at.0);
        let (binding, kind) = of_letter(symbol.kind, self.is_text(at));
        (symbol.name, at.0, size, binding, kind)
    }

    fn is_text(&self, at: GuestVirt) -> bool {
        self.text
            .iter()
            .any(|(start, end)| (*start..*end).contains(&at))
    }
}

/// The symbols of a module that hold an address. Code that nobody measured reaches up to the next symbol.
fn holding(module: &ModuleSymbols, at: GuestVirt) -> Vec<Sym> {
    let (mut measured, mut rest) = (Vec::new(), Vec::new());
    for (symbol, elf) in module.with_elf() {
        if symbol.at <= at && at.0 - symbol.at.0 < elf.size {
            measured.push(of_module((symbol, elf)));
        } else if elf.size == 0 && module.holds(symbol.at) {
            let end = module.after(symbol.at);
            if symbol.at <= at && end.is_some_and(|end| at < end) {
                rest.push(of_module((symbol, elf)));
            }
        }
    }
    if measured.is_empty() { rest } else { measured }
}

fn of_module((symbol, elf): (&Symbol, ElfSymbol)) -> Sym {
    let (binding, kind) = (elf.info >> 4, elf.info & 0xf);
    let binding = match binding {
        0..=2 | STB_UNIQUE => binding + 1,
        _ => UNKNOWN,
    };
    let kind = match kind {
        0..=STT_TLS | IFUNC => kind,
        _ => UNKNOWN,
    };
    (symbol.name.clone(), symbol.at.0, elf.size, binding, kind)
}

/// Binding and type by `nm`'s letter, of something in the kernel's code or not. A weak symbol's letter does not say
/// which it is.
fn of_letter(letter: char, text: bool) -> (u8, u8) {
    let binding = match letter {
        'u' => UNIQUE,
        'v' | 'V' | 'w' | 'W' => WEAK,
        upper if upper.is_ascii_uppercase() => GLOBAL,
        lower if lower.is_ascii_lowercase() => LOCAL,
        _ => UNKNOWN,
    };
    let kind = match letter.to_ascii_lowercase() {
        't' | 'w' if text => FUNC,
        // A symbol of the linker script, such as `jiffies`, has the letter of the section before it.
        't' => OBJECT,
        'b' | 'c' | 'd' | 'g' | 'r' | 's' | 'v' => OBJECT,
        _ => UNKNOWN,
    };
    (binding, kind)
}

/// Rank of a binding, by which drgn prefers one of two names of a thing: `drgn_symbol_binding_precedence()`.
fn rank(binding: u8) -> u8 {
    match binding {
        GLOBAL | UNIQUE => 3,
        WEAK => 2,
        _ => 1,
    }
}
