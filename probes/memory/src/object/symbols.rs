//! The symbols that a name means, each with what is known of it.

use serde::Serialize;

use crate::Listing;
use crate::Result;
use crate::kernel::{Kernel, Spelling, demangled};
use crate::memory::GuestVirt;

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

impl Kernel {
    /// All symbols that a name means, the kernel's and modules'.
    ///
    /// # Errors
    /// When there is none.
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
