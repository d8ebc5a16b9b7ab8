//! Pointers to functions, by name: what `%pS` prints.

use std::cell::OnceCell;
use std::fmt;

use serde::Serialize;

use super::demangle::{demangled, place};
use super::{Kernel, ModuleSymbols};
use crate::memory::GuestVirt;
use crate::{Listing, Result};

/// A pointer to code, and the symbol that it lies in. As text the names of Rust functions are demangled; JSON has both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "FunctionJson")]
pub struct Function {
    /// The address that it points to.
    pub at: GuestVirt,
    /// The symbol at or before it; `None` where there is none: what the kernel made while it ran, or nothing at all.
    pub name: Option<String>,
    /// Bytes from the symbol to it.
    pub offset: u64,
    /// The module that has the symbol, or that holds the address and whose symbols cannot be read; `None` for the kernel's
    /// image.
    pub module: Option<String>,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, &self.module) {
            (Some(name), module) => f.write_str(&place(name, self.offset, module.as_deref())),
            (None, Some(module)) => {
                write!(f, "{} [{module}, its symbols cannot be read]", self.at)
            }
            (None, None) => write!(f, "{}", self.at),
        }
    }
}

#[derive(Serialize)]
struct FunctionJson {
    at: GuestVirt,
    name: Option<String>,
    offset: u64,
    module: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    demangled: Option<String>,
}

impl From<Function> for FunctionJson {
    fn from(function: Function) -> Self {
        Self {
            demangled: function.name.as_deref().and_then(demangled),
            at: function.at,
            name: function.name,
            offset: function.offset,
            module: function.module,
        }
    }
}

/// Names functions for one reading: the symbols of the modules are read once, when the first function is not the kernel's.
#[derive(Debug)]
pub struct Functions<'k> {
    kernel: &'k Kernel,
    modules: OnceCell<Listing<ModuleSymbols>>,
}

impl<'k> Functions<'k> {
    /// The functions of a kernel, those of its modules too: they are read when one is asked for.
    pub fn new(kernel: &'k Kernel) -> Self {
        Self {
            kernel,
            modules: OnceCell::new(),
        }
    }

    /// The kernel whose functions they are.
    pub const fn kernel(&self) -> &'k Kernel {
        self.kernel
    }

    /// The function at `at`.
    ///
    /// # Errors
    /// `Absent` where no function holds the address; else when the symbols cannot be read.
    pub fn at(&self, at: GuestVirt) -> Result<Function> {
        let mut unread = None;
        let symbol = match self.kernel.symbols()?.at(at) {
            Some(symbol) => Some(symbol),
            None if at.is_null() => None,
            None => {
                let holder = self.modules()?.iter().find(|module| module.holds(at));
                unread = holder.filter(|module| !module.is_read);
                holder.and_then(|module| module.at(at))
            }
        };
        Ok(match symbol {
            Some(symbol) => Function {
                at,
                name: Some(symbol.name),
                offset: symbol.offset,
                module: symbol.module,
            },
            None => Function {
                at,
                name: None,
                offset: 0,
                module: unread.map(|module| module.module.clone()),
            },
        })
    }

    /// The function at `at`, if it points anywhere.
    ///
    /// # Errors
    /// When the symbols cannot be read.
    pub fn of(&self, at: GuestVirt) -> Result<Option<Function>> {
        match at.is_null() {
            true => Ok(None),
            false => self.at(at).map(Some),
        }
    }

    fn modules(&self) -> Result<&[ModuleSymbols]> {
        if let Some(modules) = self.modules.get() {
            return Ok(modules);
        }
        let read = self.kernel.module_symbols()?;
        Ok(self.modules.get_or_init(|| read))
    }
}
