//! What a cell asks its guest for: expressions, globals, types, symbols.

use super::Guest;
use crate::Result;
use crate::kernel::Spelling;
use crate::kernel::btf::Declaration;
use crate::memory::GuestVirt;
use crate::object::{Mirror, NamedSymbols, Object};

impl Guest {
    /// The value of a C expression: `guest.eval("init_task.mm->pgd")`.
    pub fn eval(&self, expression: &str) -> Result<Object> {
        self.kernel()?.eval(expression)
    }

    /// The global variable of this name: `guest.object("init_task")`.
    pub fn object(&self, name: &str) -> Result<Object> {
        self.kernel()?.object(name)
    }

    /// The address of a symbol: `guest.symbol("schedule")`, `guest.symbol("tun:group_show")`, `guest.symbol("name_show@2")`,
    /// `guest.symbol("core::option::unwrap_failed")`, and of a place in it as a stack has it,
    /// `guest.symbol("vfs_read+0x25d")`. A name that several symbols have is an error with the spelling of each, whether
    /// they are the kernel's or modules': see [`Kernel::resolve`](crate::kernel::Kernel::resolve).
    pub fn symbol(&self, name: &str) -> Result<GuestVirt> {
        let kernel = self.kernel()?;
        match kernel.resolve_at(name)? {
            Some(at) => Ok(at),
            None => kernel.resolve(name).map(|found| found.symbol.at),
        }
    }

    /// The address that people name by a symbol, a place in one (`vfs_read+0x25d`), or a C expression that gives one. What
    /// is a symbol's name, with or without an offset, is that symbol before it is read as C.
    pub fn place(&self, text: &str) -> Result<GuestVirt> {
        let kernel = self.kernel()?;
        if let Some(at) = kernel.resolve_at(text)? {
            return Ok(at);
        }
        match Spelling::parse(text) {
            // Of a bare name C has nothing better to say, but for its constants.
            Some(spelling) if spelling.is_plain() => {
                let constant = kernel.eval(text).and_then(|object| object.pointer());
                constant.or_else(|_| kernel.resolve(text).map(|found| found.symbol.at))
            }
            _ => kernel.eval(text)?.pointer(),
        }
    }

    /// The object of a C type at an address.
    pub fn at(&self, c_type: &str, at: GuestVirt) -> Result<Object> {
        let kernel = self.kernel()?;
        let ty = kernel.resolve_type(c_type)?;
        Ok(Object::in_memory(&kernel, ty, at))
    }

    /// A [`Mirror`] filled from `at`.
    pub fn load<T: Mirror + 'static>(&self, at: GuestVirt) -> Result<T> {
        self.kernel()?.load(at)
    }

    /// A type's definition, with the offset and size of each member in bytes: `guest.type_of("struct list_head")`.
    pub fn type_of(&self, c_type: &str) -> Result<Declaration> {
        let ty = self.kernel()?.resolve_type(c_type)?;
        ty.declaration_as(c_type.trim())
    }

    /// All symbols that a name means, the kernel's and modules': `guest.symbols("group_show")`. An error if there is none.
    pub fn symbols(&self, name: &str) -> Result<NamedSymbols> {
        self.kernel()?.named_symbols(name)
    }
}
