//! Expressions, globals, types and lists of objects, for cells.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Mirror, Object};
use crate::Listing;
use crate::guest::Guest;
use crate::kernel::Spelling;
use crate::kernel::btf::Declaration;
use crate::memory::GuestVirt;
use crate::structures::{list_for_each_entry, offset_of};
use crate::view::{ListRing, View, clean, escape};
use crate::{Error, ErrorKind, Result};

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
    ///
    /// A bare name that no typedef has is that of a structure, a union or an enum: `guest.type_of("list_head")`.
    pub fn type_of(&self, c_type: &str) -> Result<Declaration> {
        let (kernel, c_type) = (self.kernel()?, c_type.trim());
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

    /// The list that starts at the `struct list_head` that a C expression gives, as the ring that it is. Each node is shown as
    /// the structure that holds it where `of` names that and its member, `task_struct.tasks`, with the members of it that
    /// `show` names, commas between them: `guest.list("init_task.tasks", Some("task_struct.tasks"), Some("pid,comm"))`.
    pub fn list(&self, expression: &str, of: Option<&str>, show: Option<&str>) -> Result<ListRing> {
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
        self.eval(expression)?.ring(&container, member, |entry| {
            let texts = shown
                .iter()
                .map(|name| Ok(entry.member(name.trim())?.to_value()?.to_string()));
            Ok(texts.collect::<Result<Vec<String>>>()?.join(" "))
        })
    }
}

/// The type, the address of what lies in memory, and the value.
impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let value = self.to_value().map_err(serde::ser::Error::custom)?;
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("type", &self.type_name())?;
        map.serialize_entry("address", &self.address())?;
        map.serialize_entry("value", &value)?;
        map.end()
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
