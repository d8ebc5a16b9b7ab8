//! What a cell asks its guest for: expressions, globals, types, lists of objects.

use super::{Mirror, Object};
use crate::Listing;
use crate::guest::Guest;
use crate::kernel::Spelling;
use crate::kernel::btf::Declaration;
use crate::memory::GuestVirt;
use crate::structures::{list_for_each_entry, offset_of};
use crate::view::{ListRing, View, clean, escape};
use crate::{Error, Result};

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
}

impl Object {
    /// The objects on the list that this is the head of: `list_for_each_entry(pos, head, member)`, where `pos` is of
    /// type `c_type`. A walk that comes back to anything but the head, or meets its bound, is an error.
    pub fn list(&self, c_type: &str, member: &str) -> Result<Objects> {
        let (head, offset) = self.list_head(c_type, member)?;
        let kernel = self.kernel();
        let objects: Result<Vec<Self>> = list_for_each_entry(kernel, head, offset)
            .map(|at| Self::at(kernel, c_type, at?))
            .collect();
        Ok(Listing::from(objects?))
    }

    /// The same list as the ring that it is, each node labelled by `label`.
    pub fn ring(
        &self,
        c_type: &str,
        member: &str,
        mut label: impl FnMut(&Self) -> Result<String>,
    ) -> Result<ListRing> {
        let (head, offset) = self.list_head(c_type, member)?;
        let kernel = self.kernel();
        let symbols = kernel.symbols()?;
        let name = symbols
            .at(head)
            .map_or_else(|| head.to_string(), |symbol| symbol.name.to_string());
        ListRing::walk(kernel, (head, &name), (c_type, member, offset), |at| {
            label(&Self::at(kernel, c_type, at)?)
        })
    }

    /// The head's address and the member's offset in bytes.
    fn list_head(&self, c_type: &str, member: &str) -> Result<(GuestVirt, u64)> {
        let head = match (self.address(), self.type_name().as_str()) {
            (Some(at), "struct list_head") => at,
            (_, "struct list_head *") => self.pointer()?,
            (_, other) => {
                return Err(Error::Invalid(format!(
                    "a list begins at a `struct list_head`, and this is `{other}`"
                )));
            }
        };
        Ok((head, offset_of(self.kernel(), c_type, member)?))
    }
}

/// Objects of one list, in its order.
pub type Objects = Listing<Object>;

impl View for Objects {
    fn text(&self) -> String {
        let lines = self.iter().map(|object| match object.address() {
            Some(at) => format!("({} *){at}", object.type_name()),
            None => object.type_name(),
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn code(text: &str) -> Option<String> {
    Some(format!(
        "<pre style=\"line-height:1.3;margin:0\">{}</pre>",
        text.lines().map(escape).collect::<Vec<_>>().join("\n")
    ))
}

impl View for Object {
    fn text(&self) -> String {
        let text = self.to_string();
        text.lines().map(clean).collect::<Vec<_>>().join("\n")
    }

    fn html(&self) -> Option<String> {
        code(&self.to_string())
    }
}

impl View for Declaration {
    fn text(&self) -> String {
        self.to_string()
    }

    fn html(&self) -> Option<String> {
        code(&self.to_string())
    }
}

crate::displays!(Object, Objects, Declaration);
