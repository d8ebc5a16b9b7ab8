//! Sizes, members and paths: where a thing lies in a type.

use super::{Btf, Kind, Type, TypeId, malformed};
use crate::Result;

/// Names, modifiers and nested arrays that one lookup passes at most. C sources stay below ten.
const MAX_DEPTH: usize = 32;
/// Members that one lookup visits at most; the largest structure of a kernel has some hundreds.
const MAX_MEMBERS: usize = 100_000;

/// Place and type of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its type, as declared.
    pub ty: TypeId,
    /// Offset in bits from the outer structure's start.
    pub bit_offset: u64,
    /// The width of a bit field, 0 for all others.
    pub bits: u8,
}

impl Field {
    /// Offset in whole bytes from the outer structure's start.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.bit_offset / 8
    }
}

/// Kind of a value, without typedefs and modifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `void`, a function, a structure that is declared only: it has no size.
    Void,
    /// An integer or enumeration, of `size` bytes.
    Int {
        /// Bytes.
        size: u8,
        /// True if it is signed.
        signed: bool,
        /// True if it is `_Bool`.
        bool: bool,
    },
    /// A floating-point number, which no kernel structure has.
    Float {
        /// Bytes.
        size: u32,
    },
    /// A pointer to this type.
    Ptr(TypeId),
    /// An array.
    Array {
        /// The type of an element.
        element: TypeId,
        /// Elements; 0 for a flexible array.
        count: u32,
    },
    /// A structure or union.
    Composite {
        /// Bytes.
        size: u32,
    },
}

impl Btf {
    /// The type behind typedefs, `const`, `volatile`, `restrict` and type tags.
    ///
    /// # Errors
    /// `Broken` if the names and modifiers do not end, or lead to an id that is not there.
    pub fn resolve(&self, id: TypeId) -> Result<Type<'_>> {
        let mut ty = self.type_of(id)?;
        for _ in 0..MAX_DEPTH {
            match ty.alias() {
                Some(next) => ty = self.type_of(next)?,
                None => return Ok(ty),
            }
        }
        Err(malformed(format!(
            "type {} is {MAX_DEPTH} names and modifiers deep: a loop",
            id.0
        )))
    }

    /// Finds the shape of a type's values.
    ///
    /// # Errors
    /// As [`Self::resolve`]; `Broken` if the record is cut short, or the size of an integer is none that C has.
    pub fn shape(&self, id: TypeId) -> Result<Shape> {
        let ty = self.resolve(id)?;
        Ok(match ty.kind {
            Kind::Int => {
                let int = ty
                    .int()
                    .ok_or_else(|| malformed(format!("integer {} is cut short", id.0)))?;
                Shape::Int {
                    size: int_size(&ty)?,
                    signed: int.signed,
                    bool: int.bool,
                }
            }
            Kind::Enum | Kind::Enum64 => Shape::Int {
                size: int_size(&ty)?,
                signed: ty.flag(),
                bool: false,
            },
            Kind::Float => Shape::Float {
                size: ty.stated_size().unwrap_or(0),
            },
            Kind::Ptr => Shape::Ptr(ty.target().unwrap_or(TypeId::VOID)),
            Kind::Array => {
                let array = ty
                    .array()
                    .ok_or_else(|| malformed(format!("array {} is cut short", id.0)))?;
                Shape::Array {
                    element: array.element,
                    count: array.count,
                }
            }
            Kind::Struct | Kind::Union => Shape::Composite {
                size: ty.stated_size().unwrap_or(0),
            },
            _ => Shape::Void,
        })
    }

    /// The size of a type in bytes (`sizeof`); `None` where C has none (`void`, functions, declared structures).
    ///
    /// # Errors
    /// As [`Self::shape`]; `Broken` if the size overflows, or the dimensions of an array do not end.
    pub fn size_of(&self, id: TypeId) -> Result<Option<u64>> {
        let mut elements = 1_u64;
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            let one = match self.shape(id)? {
                Shape::Void => return Ok(None),
                Shape::Int { size, .. } => u64::from(size),
                Shape::Float { size } | Shape::Composite { size } => u64::from(size),
                Shape::Ptr(_) => 8,
                Shape::Array { element, count } => {
                    elements = elements
                        .checked_mul(u64::from(count))
                        .ok_or_else(|| malformed(format!("array {} overflows", id.0)))?;
                    id = element;
                    continue;
                }
            };
            let total = one
                .checked_mul(elements)
                .ok_or_else(|| malformed(format!("array {} overflows", id.0)))?;
            return Ok(Some(total));
        }
        Err(malformed(format!(
            "type {} is an array of {MAX_DEPTH} dimensions: a loop",
            id.0
        )))
    }

    /// A member of a structure or union, those of its anonymous members included; `None` if it has none of this name.
    ///
    /// # Errors
    /// `Broken` if the structure contains itself or refers to an id that is not there.
    pub fn member(&self, composite: TypeId, name: &str) -> Result<Option<Field>> {
        let mut found = None;
        self.visit_members(composite, &mut |member, field| {
            if member == name {
                found = Some(field);
            }
            found.is_none()
        })?;
        Ok(found)
    }

    /// The named members in order, those of anonymous members included; at most so many.
    ///
    /// # Errors
    /// As [`Self::member`].
    pub fn fields(&self, composite: TypeId, most: usize) -> Result<Vec<(&str, Field)>> {
        let mut fields = Vec::new();
        self.visit_members(composite, &mut |name, field| {
            fields.push((name, field));
            fields.len() < most
        })?;
        Ok(fields)
    }

    /// The member name that is nearest to a mistyped one, if any is near.
    #[must_use]
    pub fn nearest_member(&self, composite: TypeId, name: &str) -> Option<&str> {
        super::index::nearest(
            name,
            self.fields(composite, MAX_MEMBERS)
                .ok()?
                .into_iter()
                .map(|(name, _)| name),
        )
    }

    /// Calls `each` with every named member in order, anonymous ones opened, until it returns false.
    fn visit_members<'a>(
        &'a self,
        composite: TypeId,
        each: &mut dyn FnMut(&'a str, Field) -> bool,
    ) -> Result<()> {
        let mut budget = MAX_MEMBERS;
        self.visit_within(composite, 0, 0, &mut budget, each)
            .map(|_| ())
    }

    fn visit_within<'a>(
        &'a self,
        composite: TypeId,
        base: u64,
        depth: usize,
        budget: &mut usize,
        each: &mut dyn FnMut(&'a str, Field) -> bool,
    ) -> Result<bool> {
        if depth > MAX_DEPTH {
            return Err(malformed(format!(
                "type {} nests {MAX_DEPTH} deep: it contains itself",
                composite.0
            )));
        }
        for member in self.resolve(composite)?.members() {
            *budget = budget
                .checked_sub(1)
                .ok_or_else(|| malformed(format!("type {} contains itself", composite.0)))?;
            let bit_offset = base + u64::from(member.bit_offset);
            let carry_on = if member.name.is_empty() {
                self.visit_within(member.ty, bit_offset, depth + 1, budget, each)?
            } else {
                each(member.name, self.field(member.ty, bit_offset, member.bits)?)
            };
            if !carry_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A member as a field; compilers before kind_flag put a bit field's width into an integer type of its own.
    pub(crate) fn field(&self, ty: TypeId, bit_offset: u64, bits: u8) -> Result<Field> {
        if bits == 0
            && let Some(int) = self.resolve(ty)?.int()
            && u32::from(int.bits) < int.size.saturating_mul(8)
            && int.bits > 0
        {
            return Ok(Field {
                ty,
                bit_offset: bit_offset + u64::from(int.offset),
                bits: int.bits,
            });
        }
        Ok(Field {
            ty,
            bit_offset,
            bits,
        })
    }

    /// The member at a path through embedded structures and arrays: `se.vruntime`, `uid_map.extent[3].first`.
    ///
    /// `Ok(Err(name))` is the first step that the type before it does not have. Pointers are never followed.
    ///
    /// # Errors
    /// As [`Self::member`] and [`Self::shape`].
    pub fn path(&self, composite: TypeId, path: &str) -> Result<Result<Field, String>> {
        let mut at = Field {
            ty: composite,
            bit_offset: 0,
            bits: 0,
        };
        for step in path.split('.') {
            let (name, indices) = step.split_at(step.find('[').unwrap_or(step.len()));
            if !name.is_empty() || indices.is_empty() {
                match self.member(at.ty, name)? {
                    Some(field) => {
                        at = Field {
                            bit_offset: at.bit_offset + field.bit_offset,
                            ..field
                        }
                    }
                    None => return Ok(Err(name.to_owned())),
                }
            }
            for index in indices.split_terminator(']') {
                let index = index
                    .strip_prefix('[')
                    .and_then(|n| n.trim().parse::<u32>().ok());
                let (Some(index), Shape::Array { element, count }) = (index, self.shape(at.ty)?)
                else {
                    return Ok(Err(step.to_owned()));
                };
                let bytes = self.size_of(element)?.unwrap_or(0);
                let skip = bytes
                    .checked_mul(8 * u64::from(index))
                    .and_then(|skip| skip.checked_add(at.bit_offset));
                match skip {
                    Some(bit_offset) if index < count => {
                        at = Field {
                            ty: element,
                            bit_offset,
                            bits: 0,
                        }
                    }
                    _ => return Ok(Err(step.to_owned())),
                }
            }
        }
        Ok(Ok(at))
    }
}

fn int_size(ty: &Type<'_>) -> Result<u8> {
    match ty.stated_size() {
        Some(size @ (1 | 2 | 4 | 8 | 16)) => Ok(size as u8),
        size => Err(malformed(format!(
            "integer {} has {} bytes",
            ty.id.0,
            size.unwrap_or(0)
        ))),
    }
}
