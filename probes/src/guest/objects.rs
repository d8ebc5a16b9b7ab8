//! A cell's questions to its guest: expressions, globals, types, symbols.

use super::Guest;
use crate::kernel::Kernel;
use crate::kernel::Spelling;
use crate::kernel::btf::Declaration;
use crate::memory::GuestVirt;
use crate::object::{Mirror, NamedSymbols, Object};
use crate::view::ListRing;
use crate::{Error, ErrorKind, Result};

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

impl Guest {
    /// The value of a C expression: `guest.eval("init_task.mm->pgd")`.
    ///
    /// # Errors
    /// As [`Kernel::eval`](crate::kernel::Kernel::eval).
    pub fn eval(&self, expression: &str) -> Result<Object> {
        self.kernel()?.eval(expression)
    }

    /// The global variable of this name: `guest.object("init_task")`.
    ///
    /// # Errors
    /// As [`Kernel::object`](crate::kernel::Kernel::object).
    pub fn object(&self, name: &str) -> Result<Object> {
        self.kernel()?.object(name)
    }

    /// The address of a symbol: `guest.symbol("schedule")`, `guest.symbol("tun:group_show")`, `guest.symbol("name_show@2")`,
    /// `guest.symbol("core::option::unwrap_failed")`, and of a place in it as a stack has it,
    /// `guest.symbol("vfs_read+0x25d")`.
    ///
    /// # Errors
    /// `Absent` if no symbol has the name; `Invalid`, with the spelling of each, if several have it, the kernel's or
    /// modules': see [`Kernel::resolve`](crate::kernel::Kernel::resolve).
    pub fn symbol(&self, name: &str) -> Result<GuestVirt> {
        let kernel = self.kernel()?;
        match kernel.resolve_at(name)? {
            Some(at) => Ok(at),
            None => kernel.resolve(name).map(|found| found.symbol.at),
        }
    }

    /// The address that people name by a symbol, a place in one (`vfs_read+0x25d`), or a C expression that gives one. What
    /// is a symbol's name, with or without an offset, is that symbol before it is read as C.
    ///
    /// # Errors
    /// As [`symbol`](Self::symbol) for a name, as [`eval`](Self::eval) for an expression; `Invalid` if its value is no
    /// address.
    pub fn place(&self, text: &str) -> Result<GuestVirt> {
        let kernel = self.kernel()?;
        if let Some(at) = kernel.resolve_at(text)? {
            return Ok(at);
        }
        match Spelling::parse(text) {
            // C has nothing better to say of a bare name, but for its constants.
            Some(spelling) if spelling.is_plain() => {
                let constant = kernel.eval(text).and_then(|object| object.pointer());
                constant.or_else(|_| kernel.resolve(text).map(|found| found.symbol.at))
            }
            _ => kernel.eval(text)?.pointer(),
        }
    }

    /// The object of a C type at an address.
    ///
    /// # Errors
    /// As [`Kernel::resolve_type`](crate::kernel::Kernel::resolve_type). The memory is not read yet.
    pub fn at(&self, c_type: &str, at: GuestVirt) -> Result<Object> {
        let kernel = self.kernel()?;
        let ty = kernel.resolve_type(c_type)?;
        Ok(Object::in_memory(&kernel, ty, at))
    }

    /// The 64-bit word at a kernel address: `guest.read_u64(guest.symbol("jiffies_64")?)`.
    ///
    /// # Errors
    /// When nothing is mapped there.
    pub fn read_u64(&self, at: GuestVirt) -> Result<u64> {
        self.kernel()?.read_u64(at)
    }

    /// `len` bytes from a kernel address on: `guest.read_bytes(guest.symbol("linux_banner")?, 64)`.
    ///
    /// # Errors
    /// When one of them is not mapped.
    pub fn read_bytes(&self, at: GuestVirt, len: usize) -> Result<Vec<u8>> {
        let kernel = self.kernel()?;
        let mut bytes = Vec::new();
        // In pieces, so that a length without sense fails before there is memory for it.
        while bytes.len() < len {
            let (done, piece) = (bytes.len(), (len - bytes.len()).min(PIECE));
            bytes.resize(done + piece, 0);
            kernel.read(at.offset(done as u64), &mut bytes[done..])?;
        }
        Ok(bytes)
    }

    /// A [`Mirror`] filled from `at`.
    ///
    /// # Errors
    /// As [`Kernel::load`](crate::kernel::Kernel::load).
    pub fn load<T: Mirror + 'static>(&self, at: GuestVirt) -> Result<T> {
        self.kernel()?.load(at)
    }
}

/// The list that starts at the `struct list_head` that a C expression gives, as the ring that it is. Each node is shown as
/// the structure that holds it where `of` names that and its member, `task_struct.tasks`, with the members of it that
/// `show` names, commas between them: `guest.list("init_task.tasks", Some("task_struct.tasks"), Some("pid,comm"))`.
pub(crate) fn list(
    guest: &Guest,
    expression: &str,
    of: Option<&str>,
    show: Option<&str>,
) -> Result<ListRing> {
    let (container, member) = match of {
        None => ("struct list_head".to_owned(), "next"),
        Some(of) => {
            let Some((ty, member)) = of.split_once('.') else {
                return Err(Error::Invalid(format!(
                    "`{of}` names no member: write TYPE.MEMBER, as in task_struct.tasks"
                )));
            };
            let ty = ty.trim_start_matches("struct ");
            (format!("struct {ty}"), member)
        }
    };
    let shown: Vec<&str> = show.iter().flat_map(|names| names.split(',')).collect();
    guest.eval(expression)?.ring(&container, member, |entry| {
        let texts = shown
            .iter()
            .map(|name| Ok(entry.member(name.trim())?.to_value()?.to_string()));
        Ok(texts.collect::<Result<Vec<String>>>()?.join(" "))
    })
}

/// A type's definition, with the offset and size of each member in bytes: `guest.type_of("struct list_head")`.
///
/// A bare name that no typedef has is that of a structure, a union or an enum: `guest.type_of("list_head")`.
pub(crate) fn type_of(kernel: &Kernel, c_type: &str) -> Result<Declaration> {
    let (kernel, c_type) = (kernel, c_type.trim());
    let declaration = |name: &str| kernel.resolve_type(name)?.declaration_as(name);
    let found = declaration(c_type);
    let is_bare = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    // Built in, or ambiguous: what is wrong with it is said.
    let absent = |found: &Result<Declaration>| {
        let error = found.as_ref().err();
        error.is_some_and(|error| error.kind() == ErrorKind::Absent)
    };
    if !absent(&found) || !c_type.split(':').all(is_bare) {
        return found;
    }
    let mut first = None;
    for kind in ["struct", "union", "enum"] {
        let other = declaration(&format!("{kind} {c_type}"));
        match (absent(&other), other) {
            (true, Err(error)) => first = first.or(Some(error)),
            (_, other) => return other,
        }
    }
    first.map_or(found, Err)
}

/// All symbols that a name means, the kernel's and modules': `guest.symbols("group_show")`; of an address in hexadecimal
/// the one that it lies in. An error if there is none.
pub(crate) fn symbols(kernel: &Kernel, what: &str) -> Result<NamedSymbols> {
    let Some(at) = GuestVirt::parse(what) else {
        return kernel.named_symbols(what);
    };
    let Some(found) = kernel.symbol_at(at)? else {
        return Err(Error::Absent(format!(
            "{at} lies in no symbol of the kernel or of a module"
        )));
    };
    let (start, module) = (at.back(found.offset), found.module);
    let module = module.as_deref().unwrap_or("vmlinux");
    kernel.named_symbols(&format!(
        "{module}:{}@{start}+{:#x}",
        found.name, found.offset
    ))
}
