//! The symbols that a name means, each with what is known of it.

use serde::Serialize;

use crate::guest::Guest;
use crate::kernel::{Kernel, Spelling, demangled, place};
use crate::memory::GuestVirt;
use crate::view::{View, clean, escape};
use crate::{Error, Listing, Result};

/// A symbol that a name means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamedSymbol {
    /// Its address, or the place in it that was asked for.
    pub at: GuestVirt,
    /// Its name, as the table has it.
    pub name: String,
    /// Bytes from the symbol to the place.
    pub offset: u64,
    /// The module that defines it; `None` for the kernel itself.
    pub module: Option<String>,
    /// The path of a Rust function or static.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub demangled: Option<String>,
    /// The type letter that `nm` prints.
    pub letter: char,
    /// Its size in bytes, where the table has it.
    pub size: Option<u64>,
    /// Its C type, where BTF or klab knows one.
    #[serde(rename = "type")]
    pub c_type: Option<String>,
    /// The spelling that means it alone, where others have the name.
    pub spelling: Option<String>,
}

/// The symbols that a name means.
pub type NamedSymbols = Listing<NamedSymbol>;

impl Guest {
    /// All symbols that a name means, the kernel's and modules': `guest.symbols("group_show")`; of an address in hexadecimal
    /// the one that it lies in. An error if there is none.
    pub fn symbols(&self, what: &str) -> Result<NamedSymbols> {
        let kernel = self.kernel()?;
        let Some(at) = GuestVirt::parse(what) else {
            return kernel.named_symbols(what);
        };
        let Some(found) = kernel.symbol_at(at)? else {
            return Err(Error::Absent(format!(
                "{at} lies in no symbol of the kernel or of a module"
            )));
        };
        let (start, module) = (GuestVirt(at.0 - found.offset), found.module);
        let module = module.as_deref().unwrap_or("vmlinux");
        kernel.named_symbols(&format!(
            "{module}:{}@{start}+{:#x}",
            found.name, found.offset
        ))
    }
}

impl Kernel {
    /// As [`Guest::symbols`].
    pub fn named_symbols(&self, name: &str) -> Result<NamedSymbols> {
        let all = self.definitions(name)?;
        if all.is_empty() {
            // It says what is near.
            self.resolve(name)?;
        }
        let offset = Spelling::parse(name).map_or(0, |spelling| spelling.offset);
        let several = all.len() > 1;
        let named = |one: crate::kernel::Definition| {
            let ty = self.defined(&one).and_then(|object| object.known_type());
            NamedSymbol {
                spelling: several.then(|| one.spelling()),
                at: one.symbol.at.offset(offset),
                demangled: demangled(&one.symbol.name),
                name: one.symbol.name,
                offset,
                module: one.module,
                letter: one.symbol.kind,
                size: one.symbol.size,
                c_type: ty.ok().flatten(),
            }
        };
        Ok(all.map(named))
    }
}

fn line(symbol: &NamedSymbol) -> String {
    let at = place(&symbol.name, symbol.offset, symbol.module.as_deref());
    let ty = symbol.c_type.as_ref().map(|ty| format!(": {ty}"));
    let choice = symbol.spelling.as_ref().map(|text| format!("  ({text})"));
    let (ty, choice) = (ty.unwrap_or_default(), choice.unwrap_or_default());
    format!("{} {at}{ty}{choice}", symbol.at)
}

impl View for NamedSymbols {
    fn text(&self) -> String {
        let lines = self.iter().map(line);
        let lines = lines.chain(self.missing.iter().map(ToString::to_string));
        lines.map(|line| clean(&line) + "\n").collect()
    }

    fn html(&self) -> Option<String> {
        let lines = self.iter().map(line);
        let lines = lines.chain(self.missing.iter().map(ToString::to_string));
        let lines: String = lines.map(|line| escape(&line) + "\n").collect();
        Some(format!(
            "<pre style=\"line-height:1.3;margin:0\">{lines}</pre>"
        ))
    }
}

crate::displays!(NamedSymbols);
