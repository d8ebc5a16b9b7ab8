//! Types written in C: names, declarations, and whole structures with their offsets.

use std::fmt;

use super::{Btf, Kind, Shape, TypeId, malformed};
use crate::Result;

/// Members and constants that one definition has at most.
const MAX_STEPS: usize = 20_000;
/// Steps that one name takes at most, and bytes it has: a function taking functions taking functions ends here.
const MAX_NAME: usize = 1000;
const MAX_DEPTH: usize = 32;

/// A type's definition, line by line; its [`Display`](fmt::Display) is C with offsets, as `pahole` writes it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Declaration {
    /// The type in C: `struct list_head`.
    pub name: String,
    /// Its size in bytes, if it has one.
    pub size: Option<u64>,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// A line of a [`Declaration`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    /// Depth of indentation.
    pub depth: usize,
    /// C.
    pub text: String,
    /// Type of the member there.
    #[serde(flatten)]
    pub place: Option<Place>,
}

/// Place of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Place {
    /// Bytes from the start of the outermost structure.
    pub offset: u64,
    /// Its size in bytes; of a bit field, that of its type.
    pub size: u64,
    /// For a bit field, its first bit in the byte at `offset` and its width.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<(u8, u8)>,
}

impl Btf {
    /// A type's name in C: `struct list_head *`, `char [16]`, `int (*)(struct sk_buff *)`.
    ///
    /// # Errors
    /// `Broken` if the type refers to itself or to an id that is not there.
    pub fn type_name(&self, id: TypeId) -> Result<String> {
        self.declarator(id, "")
    }

    /// A declaration of `name` with a type: `char comm[16]`.
    ///
    /// # Errors
    /// As [`Self::type_name`].
    pub fn declarator(&self, id: TypeId, name: &str) -> Result<String> {
        let mut steps = MAX_NAME;
        self.declare_within(id, name.to_owned(), 0, &mut steps)
    }

    fn declare_within(
        &self,
        id: TypeId,
        inner: String,
        depth: usize,
        steps: &mut usize,
    ) -> Result<String> {
        *steps = steps
            .checked_sub(1)
            .filter(|_| depth <= MAX_DEPTH && inner.len() <= MAX_NAME)
            .ok_or_else(|| malformed(format!("type {} refers to itself", id.0)))?;
        let ty = self.type_of(id)?;
        let target = ty.target().unwrap_or(TypeId::VOID);
        let joined = |base: &str| {
            if inner.is_empty() {
                base.to_owned()
            } else {
                format!("{base} {inner}")
            }
        };
        let word = match ty.kind {
            Kind::Ptr => {
                let behind = self.type_of(target)?.kind;
                let wrapped = matches!(behind, Kind::Array | Kind::FuncProto);
                let inner = if wrapped {
                    format!("(*{inner})")
                } else {
                    format!("*{inner}")
                };
                return self.declare_within(target, inner, depth + 1, steps);
            }
            Kind::Array => {
                let count = ty.array().map_or(0, |a| a.count);
                let element = ty.array().map_or(TypeId::VOID, |a| a.element);
                return self.declare_within(element, format!("{inner}[{count}]"), depth + 1, steps);
            }
            Kind::FuncProto => {
                let mut params = Vec::new();
                for param in ty.params() {
                    let last = param.ty == TypeId::VOID && param.name.is_empty();
                    params.push(if last {
                        "...".to_owned()
                    } else {
                        self.declare_within(param.ty, param.name.to_owned(), depth + 1, steps)?
                    });
                }
                let params = if params.is_empty() {
                    "void".to_owned()
                } else {
                    params.join(", ")
                };
                return self.declare_within(target, format!("{inner}({params})"), depth + 1, steps);
            }
            Kind::Const => "const",
            Kind::Volatile => "volatile",
            Kind::Restrict => "restrict",
            Kind::TypeTag => &format!("__{}", ty.name()),
            Kind::Func | Kind::Var => {
                return self.declare_within(target, ty.name().to_owned(), depth + 1, steps);
            }
            Kind::DeclTag => return self.declare_within(target, inner, depth + 1, steps),
            Kind::Void => return Ok(joined("void")),
            Kind::Fwd if ty.flag() => return Ok(joined(&format!("union {}", ty.name()))),
            Kind::Fwd => return Ok(joined(&format!("struct {}", ty.name()))),
            Kind::Datasec => return Ok(ty.name().to_owned()),
            kind => {
                let name = if ty.name().is_empty() {
                    "{..}"
                } else {
                    ty.name()
                };
                let keyword = kind.keyword();
                return Ok(joined(&if keyword.is_empty() {
                    name.to_owned()
                } else {
                    format!("{keyword} {name}")
                }));
            }
        };
        // A modifier of a pointer stands after its star, a type tag after the type, the others before it.
        let after = ty.kind == Kind::TypeTag || self.type_of(target)?.kind == Kind::Ptr;
        if after {
            let inner = if inner.is_empty() {
                word.to_owned()
            } else {
                format!("{word} {inner}")
            };
            return self.declare_within(target, inner, depth + 1, steps);
        }
        Ok(format!(
            "{word} {}",
            self.declare_within(target, inner, depth + 1, steps)?
        ))
    }

    /// The whole definition of a type.
    ///
    /// # Errors
    /// `Broken` if the type contains itself, refers to an id that is not there, or has too many members to print.
    pub fn declaration(&self, id: TypeId) -> Result<Declaration> {
        let mut lines = Vec::new();
        let mut steps = MAX_STEPS;
        let ty = self.type_of(id)?;
        match ty.kind {
            Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 => {
                self.body(id, "", 0, 0, &mut lines, &mut steps)?
            }
            Kind::Typedef => {
                let target = ty.target().unwrap_or(TypeId::VOID);
                if self.type_of(target)?.name().is_empty() && self.has_body(target)? {
                    self.body(target, ty.name(), 0, 0, &mut lines, &mut steps)?;
                    if let Some(first) = lines.first_mut() {
                        first.text.insert_str(0, "typedef ");
                    }
                } else {
                    lines.push(Line::plain(
                        0,
                        format!("typedef {};", self.declarator(target, ty.name())?),
                    ));
                }
            }
            _ => lines.push(Line::plain(0, format!("{};", self.type_name(id)?))),
        }
        Ok(Declaration {
            name: self.type_name(id)?,
            size: self.size_of(id)?,
            lines,
        })
    }

    /// The structure, union or enumeration without a name that a type is, or is an array of.
    fn anonymous_body(&self, id: TypeId) -> Result<Option<TypeId>> {
        // `size_of` has been through the same types: there is no loop.
        let mut id = id;
        loop {
            let ty = self.type_of(id)?;
            id = match ty.kind {
                Kind::Array => ty.array().map_or(TypeId::VOID, |array| array.element),
                Kind::Const | Kind::Volatile | Kind::Restrict | Kind::TypeTag => {
                    ty.target().unwrap_or(TypeId::VOID)
                }
                _ => break,
            };
        }
        let nameless = self.type_of(id)?.name().is_empty() && self.has_body(id)?;
        Ok(nameless.then_some(id))
    }

    fn has_body(&self, id: TypeId) -> Result<bool> {
        Ok(matches!(
            self.type_of(id)?.kind,
            Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64
        ))
    }

    /// The definition of a structure, union or enumeration that begins at bit `base`, declaring `name`.
    fn body(
        &self,
        id: TypeId,
        name: &str,
        base: u64,
        depth: usize,
        lines: &mut Vec<Line>,
        steps: &mut usize,
    ) -> Result<()> {
        let ty = self.type_of(id)?;
        if depth > MAX_DEPTH {
            return Err(malformed(format!("type {} contains itself", id.0)));
        }
        let opening = [ty.kind.keyword(), ty.name(), "{"]
            .into_iter()
            .filter(|w| !w.is_empty())
            .collect::<Vec<_>>()
            .join(" ");
        lines.push(Line::plain(depth, opening));
        for constant in ty.enumerators() {
            *steps = steps
                .checked_sub(1)
                .ok_or_else(|| malformed(format!("type {} is too long to print", id.0)))?;
            let unsigned = ty.kind == Kind::Enum64 && !ty.flag();
            let value = if unsigned {
                (constant.value as u64).to_string()
            } else {
                constant.value.to_string()
            };
            lines.push(Line::plain(
                depth + 1,
                format!("{} = {value},", constant.name),
            ));
        }
        let mut end = base;
        for member in ty.members() {
            *steps = steps
                .checked_sub(1)
                .ok_or_else(|| malformed(format!("type {} is too long to print", id.0)))?;
            let field = self.field(member.ty, base + u64::from(member.bit_offset), member.bits)?;
            if ty.kind == Kind::Struct && field.bit_offset > end {
                lines.push(Line::plain(depth + 1, hole(field.bit_offset - end)));
            }
            let bytes = self.size_of(member.ty)?.unwrap_or(0);
            let (bits, width) = match field.bits {
                0 => (bytes.saturating_mul(8), String::new()),
                bits => (u64::from(bits), format!(":{bits}")),
            };
            end = end.max(field.bit_offset.saturating_add(bits));
            let place = Some(Place {
                offset: field.offset(),
                size: bytes,
                bits: (field.bits > 0).then_some(((field.bit_offset % 8) as u8, field.bits)),
            });
            if let Some(anonymous) = self.anonymous_body(member.ty)? {
                // `struct {..} name[2]`: the body stands for the braces.
                let whole = self.declarator(member.ty, member.name)?;
                let name = whole
                    .split_once("{..}")
                    .map_or("", |(_, name)| name.trim_start());
                self.body(
                    anonymous,
                    &format!("{name}{width}"),
                    field.bit_offset,
                    depth + 1,
                    lines,
                    steps,
                )?;
                if let Some(last) = lines.last_mut() {
                    last.place = place;
                }
            } else {
                let text = format!("{}{width};", self.declarator(member.ty, member.name)?);
                lines.push(Line {
                    depth: depth + 1,
                    text,
                    place,
                });
            }
        }
        if let (Kind::Struct, Shape::Composite { size }) = (ty.kind, self.shape(id)?)
            && let Some(rest) = (base + u64::from(size) * 8)
                .checked_sub(end)
                .filter(|rest| *rest > 0)
        {
            lines.push(Line::plain(depth + 1, hole(rest)));
        }
        lines.push(Line::plain(
            depth,
            if name.is_empty() {
                "};".to_owned()
            } else {
                format!("}} {name};")
            },
        ));
        Ok(())
    }
}

fn hole(bits: u64) -> String {
    match (bits / 8, bits % 8) {
        (bytes, 0) => format!("/* {bytes} bytes unused */"),
        (0, bits) => format!("/* {bits} bits unused */"),
        (bytes, bits) => format!("/* {bytes} bytes and {bits} bits unused */"),
    }
}

impl Line {
    fn plain(depth: usize, text: String) -> Self {
        Self {
            depth,
            text,
            place: None,
        }
    }
}

impl fmt::Display for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let placed = self.lines.iter().filter(|line| line.place.is_some());
        let column = placed
            .map(|line| line.depth * 4 + line.text.len())
            .max()
            .unwrap_or(0)
            .min(64);
        for line in &self.lines {
            write!(f, "{:indent$}{}", "", line.text, indent = line.depth * 4)?;
            if let Some(Place { offset, size, bits }) = line.place {
                let pad = column.saturating_sub(line.depth * 4 + line.text.len());
                match bits {
                    None => write!(f, "{:pad$} /* {offset:>5}    {size:>5} */", "")?,
                    Some((bit, width)) => {
                        write!(f, "{:pad$} /* {offset:>5}:{bit} {width:>5} bits */", "")?
                    }
                }
            }
            writeln!(f)?;
        }
        match self.size {
            Some(size) => writeln!(f, "/* size: {size} */"),
            None => Ok(()),
        }
    }
}
