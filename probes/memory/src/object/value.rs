//! Objects read out: as a tree for JSON, and as C text.

use std::fmt::{self, Write};

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::ctype::{CType, Form, Int};
use super::cursor::Object;
use crate::Result;
use crate::kernel::Functions;
use crate::kernel::btf::TypeId;
use crate::memory::GuestVirt;

/// Limits on how much of an object is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Levels of structures and arrays within one another.
    pub depth: usize,
    /// Elements of one array.
    pub elements: usize,
    /// Values in all.
    pub values: usize,
    /// Bytes of one string.
    pub string: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth: 8,
            elements: 64,
            values: 4096,
            string: 256,
        }
    }
}

/// An object's value, read out. As JSON, an enumeration is its name and a pointer is text in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A `_Bool`.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A value of an enumeration that has no name there, or its name.
    Enum(i64, Option<String>),
    /// A `char` array.
    Text(String),
    /// A pointer.
    Pointer {
        /// Its type in C.
        ty: String,
        /// The address that it points to.
        at: GuestVirt,
        /// The text at a `char` pointer, or the symbol at a pointer to a function.
        target: Option<String>,
    },
    /// An array: the elements that were read, and how many there are.
    Array(Vec<Self>, u64),
    /// A structure or union.
    Struct(Vec<(String, Self)>),
    /// Parts that the limits left unread.
    Elided,
    /// Parts that could not be read, each with the reason.
    Fault(String),
}

struct Reader<'k> {
    limits: Limits,
    left: usize,
    functions: Functions<'k>,
}

impl Object {
    /// Reads it out, within the usual [`Limits`].
    ///
    /// # Errors
    /// As [`to_value_within`](Self::to_value_within).
    pub fn to_value(&self) -> Result<Value> {
        self.to_value_within(Limits::default())
    }

    /// Reads it out. Memory that cannot be read inside a structure becomes a [`Value::Fault`] there.
    ///
    /// # Errors
    /// `Unmapped` if it is not in RAM itself; `Invalid` if it has no type; `Broken` if BTF is damaged.
    pub fn to_value_within(&self, limits: Limits) -> Result<Value> {
        Reader {
            limits,
            left: limits.values,
            functions: Functions::new(self.kernel()),
        }
        .read(self, 0)
    }

    /// It as C text: `(int)1`, `*(struct list_head *)0xffff.. = { .next = .. }`.
    ///
    /// # Errors
    /// As [`to_value`](Self::to_value).
    pub fn to_c(&self) -> Result<String> {
        let value = self.to_value()?;
        Ok(match (self.c_type().form()?, self.address()) {
            (Form::Composite(_) | Form::Array(..), Some(at)) => {
                format!("*({}){at:?} = {value}", self.c_type().pointer().name())
            }
            (Form::Pointer(_) | Form::Function, _) => value.to_string(),
            _ => format!("({}){value}", self.type_name()),
        })
    }
}

impl Reader<'_> {
    fn read(&mut self, object: &Object, depth: usize) -> Result<Value> {
        if self.left == 0 || depth > self.limits.depth {
            return Ok(Value::Elided);
        }
        self.left -= 1;
        match object.c_type().form()? {
            Form::Int(Int { bool: true, .. }) => object.bool().map(Value::Bool),
            Form::Int(int) => {
                if object.c_type().enumeration()?.is_some() {
                    return Ok(Value::Enum(object.i64()?, object.enumerator()?));
                }
                if int.signed {
                    object.i64().map(Value::Int)
                } else {
                    object.u64().map(Value::Uint)
                }
            }
            Form::Pointer(to) => self.pointer(object, &to),
            Form::Array(element, count) => self.array(object, &element, count, depth),
            Form::Composite(id) => self.composite(object, id, depth),
            Form::Function => Ok(Value::Pointer {
                ty: object.c_type().pointer().name(),
                at: object.pointer()?,
                target: self.symbol(object.pointer()?),
            }),
            Form::Void | Form::Float => object.u64().map(Value::Uint),
        }
    }

    fn pointer(&self, object: &Object, to: &CType) -> Result<Value> {
        let at = object.pointer()?;
        let target = match to.form()? {
            _ if at.is_null() => None,
            Form::Function => self.symbol(at),
            Form::Int(Int { char: true, .. }) => object
                .kernel()
                .read_cstr(at, self.limits.string)
                .ok()
                .map(|text| format!("{text:?}")),
            _ => None,
        };
        Ok(Value::Pointer {
            ty: object.type_name(),
            at,
            target,
        })
    }

    /// The symbol at an address, where the symbols can be read.
    fn symbol(&self, at: GuestVirt) -> Option<String> {
        let function = self.functions.at(at).ok()?;
        function.name.is_some().then(|| function.to_string())
    }

    fn array(
        &mut self,
        object: &Object,
        element: &CType,
        count: u32,
        depth: usize,
    ) -> Result<Value> {
        // A flexible array at a structure's end may hold anything; one that was asked for by itself is text.
        if matches!(element.form()?, Form::Int(Int { char: true, .. })) && (count > 0 || depth == 0)
        {
            return Ok(Value::Text(
                object.string()?.chars().take(self.limits.string).collect(),
            ));
        }
        let mut elements = Vec::new();
        for i in 0..i64::from(count).min(i64::try_from(self.limits.elements).unwrap_or(i64::MAX)) {
            if self.left == 0 || depth == self.limits.depth {
                break;
            }
            let element = object.index(i)?;
            elements.push(
                self.read(&element, depth + 1)
                    .unwrap_or_else(|e| Value::Fault(e.to_string())),
            );
        }
        Ok(Value::Array(elements, u64::from(count)))
    }

    fn composite(&mut self, object: &Object, id: TypeId, depth: usize) -> Result<Value> {
        if depth == self.limits.depth {
            return Ok(Value::Elided);
        }
        let btf = object.c_type().btf().clone();
        let mut members = Vec::new();
        for (name, field) in btf.fields(id, self.left + 1)? {
            if self.left == 0 {
                members.push(("..".to_owned(), Value::Elided));
                break;
            }
            let value = object
                .at_field(field)
                .and_then(|member| self.read(&member, depth + 1));
            members.push((
                name.to_owned(),
                value.unwrap_or_else(|e| Value::Fault(e.to_string())),
            ));
        }
        Ok(Value::Struct(members))
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => value.serialize(serializer),
            Self::Int(value) | Self::Enum(value, None) => value.serialize(serializer),
            Self::Uint(value) => value.serialize(serializer),
            Self::Text(text) | Self::Enum(_, Some(text)) => text.serialize(serializer),
            Self::Pointer { at, .. } => format!("{at:?}").serialize(serializer),
            Self::Array(elements, _) => elements.serialize(serializer),
            Self::Struct(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
            Self::Elided => serializer.serialize_none(),
            Self::Fault(why) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("fault", why)?;
                map.end()
            }
        }
    }
}

impl Value {
    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) | Self::Enum(value, None) => write!(f, "{value}"),
            Self::Uint(value) => write!(f, "{value}"),
            Self::Enum(_, Some(name)) => f.write_str(name),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Pointer {
                ty,
                at,
                target: None,
            } => write!(f, "({ty}){at:?}"),
            Self::Pointer {
                ty,
                at,
                target: Some(target),
            } => write!(f, "({ty}){at:?} = {target}"),
            Self::Array(elements, count) => {
                let flat = elements
                    .iter()
                    .all(|e| !matches!(e, Self::Struct(_) | Self::Array(..)));
                let more = count.saturating_sub(elements.len() as u64);
                f.write_str("{")?;
                for (i, element) in elements.iter().enumerate() {
                    if flat {
                        f.write_str(if i == 0 { " " } else { ", " })?;
                    } else {
                        indent(f, depth + 1)?;
                    }
                    element.write(f, depth + 1)?;
                    if !flat {
                        f.write_char(',')?;
                    }
                }
                if more > 0 {
                    write!(
                        f,
                        "{}.. {more} more",
                        if elements.is_empty() { " " } else { ", " }
                    )?;
                }
                if flat {
                    f.write_str(" }")
                } else {
                    indent(f, depth).and_then(|()| f.write_char('}'))
                }
            }
            Self::Struct(members) => {
                f.write_char('{')?;
                for (name, value) in members {
                    indent(f, depth + 1)?;
                    write!(f, ".{name} = ")?;
                    value.write(f, depth + 1)?;
                    f.write_char(',')?;
                }
                indent(f, depth)?;
                f.write_char('}')
            }
            Self::Elided => f.write_str(".."),
            Self::Fault(why) => write!(f, "<{why}>"),
        }
    }
}

fn indent(f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
    write!(f, "\n{:width$}", "", width = depth * 4)
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_c() {
            Ok(text) => f.write_str(&text),
            Err(e) => write!(f, "<{e}>"),
        }
    }
}
