//! [`Object`]: a typed cursor into guest memory.

use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::ctype::{CHAR, CType, Form, Int};
use super::mirror::Mirror;
use crate::kernel::btf::{Field, TypeId};
use crate::kernel::{Kernel, shown};
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// Bytes that [`Object::string`] reads at most.
pub const MAX_STRING: usize = 4096;

/// A value of a C type: one that lies in guest memory, or one that was computed.
///
/// An object in memory is not read before it is asked for its value, and is read anew each time.
#[derive(Clone)]
pub struct Object {
    kernel: Kernel,
    ty: CType,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// In memory; a bit field has its first bit in the byte at `at` and its width.
    Memory {
        at: GuestVirt,
        bits: Option<(u8, u8)>,
    },
    /// An integer or a pointer, extended to 64 bits as its type asks for.
    Value(u64),
    /// A string literal.
    Text(Arc<str>),
}

impl Object {
    /// What is at an address, as a value of this type. Nothing is read yet.
    pub fn in_memory(kernel: &Kernel, ty: CType, at: GuestVirt) -> Self {
        Self {
            kernel: kernel.clone(),
            ty,
            place: Place::Memory { at, bits: None },
        }
    }

    pub(super) fn value(kernel: &Kernel, ty: CType, value: u64) -> Self {
        Self {
            kernel: kernel.clone(),
            ty,
            place: Place::Value(value),
        }
    }

    /// A string literal: an array of `char` that ends with a zero.
    ///
    /// # Errors
    /// When the kernel's BTF cannot be read.
    pub fn text(kernel: &Kernel, text: &str) -> Result<Self> {
        let count = u32::try_from(text.len() + 1).unwrap_or(u32::MAX);
        let ty = CType::built_in(kernel.btf()?, &CHAR).array(count);
        Ok(Self {
            kernel: kernel.clone(),
            ty,
            place: Place::Text(text.into()),
        })
    }

    /// The object of a C type (`struct task_struct`, `unsigned long [4]`) at an address.
    ///
    /// # Errors
    /// As [`Kernel::c_type`].
    pub fn at(kernel: &Kernel, c_type: &str, at: GuestVirt) -> Result<Self> {
        Ok(Self::in_memory(kernel, kernel.c_type(c_type)?, at))
    }

    /// The kernel whose memory it lies in.
    #[must_use]
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Its type.
    #[must_use]
    pub fn c_type(&self) -> &CType {
        &self.ty
    }

    /// Its type's name in C.
    #[must_use]
    pub fn type_name(&self) -> String {
        self.ty.name()
    }

    /// Its type's name, where it has one that is known: a symbol may be of a type that BTF does not have.
    pub(super) fn known_type(&self) -> Result<Option<String>> {
        Ok(match self.ty.form()? {
            Form::Void => None,
            _ => Some(self.type_name()),
        })
    }

    /// Its size in bytes.
    ///
    /// # Errors
    /// As [`CType::size`].
    pub fn size(&self) -> Result<u64> {
        self.ty.size()
    }

    /// Address; `None` for a computed value.
    #[must_use]
    pub fn address(&self) -> Option<GuestVirt> {
        match self.place {
            Place::Memory { at, .. } => Some(at),
            _ => None,
        }
    }

    /// The first bit, in the byte at its address, and the width of a bit field.
    pub(super) const fn bits(&self) -> Option<(u8, u8)> {
        match self.place {
            Place::Memory { bits, .. } => bits,
            _ => None,
        }
    }

    fn wrong(&self, what: &str) -> Error {
        Error::Invalid(format!("`{}` is no {what}", self.type_name()))
    }

    /// A member, by its name or by a path through embedded structures (`se.vruntime`, `pids[0].next`); of a
    /// pointer, the member of what it points to.
    ///
    /// # Errors
    /// `Absent` if it has no such member; `Invalid` if it is no structure, union or pointer to one; `Unmapped` if the
    /// pointer itself cannot be read.
    pub fn member(&self, path: &str) -> Result<Self> {
        let target = match self.ty.form()? {
            Form::Pointer(_) => &self.deref()?,
            _ => self,
        };
        let Form::Composite(id) = target.ty.form()? else {
            return Err(self.wrong("structure or union"));
        };
        let field = member_of(&self.kernel, &target.ty, id, path)?;
        target.at_field(field)
    }

    /// A member that was looked up before.
    pub(super) fn at_field(&self, field: Field) -> Result<Self> {
        let at = self
            .address()
            .ok_or_else(|| self.wrong("structure in memory"))?
            .offset(field.offset());
        let bits = (field.bits > 0).then_some(((field.bit_offset % 8) as u8, field.bits));
        let place = Place::Memory { at, bits };
        Ok(Self {
            kernel: self.kernel.clone(),
            ty: CType::of(self.ty.btf(), field.ty),
            place,
        })
    }

    /// The names of its members, or of those of what it points to.
    ///
    /// # Errors
    /// `Invalid` if it is no structure, union or pointer to one.
    pub fn member_names(&self) -> Result<Vec<String>> {
        let form = match self.ty.form()? {
            Form::Pointer(to) => to.form()?,
            form => form,
        };
        let Form::Composite(id) = form else {
            return Err(self.wrong("structure or union"));
        };
        Ok(self
            .ty
            .btf()
            .fields(id, usize::MAX)?
            .into_iter()
            .map(|(name, _)| name.to_owned())
            .collect())
    }

    /// Follows a pointer, or takes an array's first element (`*p`).
    ///
    /// # Errors
    /// `Invalid` if it is neither; `Unmapped` if the pointer itself cannot be read.
    pub fn deref(&self) -> Result<Self> {
        match self.ty.form()? {
            Form::Pointer(to) => Ok(Self::in_memory(&self.kernel, to, GuestVirt(self.u64()?))),
            Form::Array(..) => self.index(0),
            _ => Err(self.wrong("pointer")),
        }
    }

    /// An element of an array, or of the array that a pointer points into (`p[i]`). As in C, the bound is not checked.
    ///
    /// # Errors
    /// `Invalid` if it is neither, or its elements have no size; `Unmapped` if the pointer itself cannot be read.
    pub fn index(&self, index: i64) -> Result<Self> {
        let (Form::Pointer(element) | Form::Array(element, _)) = self.ty.form()? else {
            return Err(self.wrong("pointer or array"));
        };
        let at = self
            .pointer()?
            .offset(element.size()?.wrapping_mul(index as u64));
        Ok(Self::in_memory(&self.kernel, element, at))
    }

    /// A pointer to it (`&x`).
    ///
    /// # Errors
    /// `Invalid` for a bit field and a computed value.
    pub fn address_of(&self) -> Result<Self> {
        match self.place {
            Place::Memory { at, bits: None } => {
                Ok(Self::value(&self.kernel, self.ty.pointer(), at.0))
            }
            Place::Memory { .. } => Err(Error::Invalid(format!(
                "a bit field of `{}` has no address",
                self.type_name()
            ))),
            _ => Err(Error::Invalid(format!(
                "a computed `{}` has no address",
                self.type_name()
            ))),
        }
    }

    /// It as another type (`(struct foo *)x`): integers and pointers change into each other.
    ///
    /// # Errors
    /// As [`Kernel::c_type`]; `Invalid` if the type is neither an integer nor a pointer; as [`u64`](Self::u64).
    pub fn cast(&self, c_type: &str) -> Result<Self> {
        self.cast_to(self.kernel.c_type(c_type)?)
    }

    pub(super) fn cast_to(&self, ty: CType) -> Result<Self> {
        let value = match ty.form()? {
            Form::Int(int) => int.wrap(self.u64()?),
            Form::Pointer(_) => self.u64()?,
            Form::Composite(_) | Form::Array(..) if ty.name() == self.ty.name() => {
                return Ok(self.clone());
            }
            _ => {
                return Err(Error::Invalid(format!(
                    "`{0}` is nothing to cast to: cast a pointer, *({0} *)&x",
                    ty.name()
                )));
            }
        };
        Ok(Self::value(&self.kernel, ty, value))
    }

    /// A pointer to the structure that holds this as its member: `container_of(p, struct task_struct, tasks)`.
    ///
    /// This may be the pointer to the member, or the member itself.
    ///
    /// # Errors
    /// As [`Kernel::c_type`] and [`pointer`](Self::pointer); `Absent` if the structure has no such member.
    pub fn container_of(&self, c_type: &str, member: &str) -> Result<Self> {
        self.container_of_type(self.kernel.c_type(c_type)?, member)
    }

    pub(super) fn container_of_type(&self, ty: CType, member: &str) -> Result<Self> {
        let at = match self.ty.form()? {
            Form::Composite(_) => self.address().ok_or_else(|| self.wrong("pointer"))?,
            _ => self.pointer()?,
        };
        let offset = offset_of(&self.kernel, &ty, member)?;
        Ok(Self::value(&self.kernel, ty.pointer(), at.back(offset).0))
    }

    /// Its value: of an integer, `bool` or enumeration, extended as its sign asks for; of a pointer, where it points;
    /// of an array or function, where it lies.
    ///
    /// # Errors
    /// `Invalid` for a structure, a union, `void`, and more than 64 bits; `Unmapped` if it is not in RAM.
    pub fn u64(&self) -> Result<u64> {
        match (self.ty.form()?, &self.place) {
            (_, Place::Value(value)) => Ok(*value),
            (
                Form::Int(int),
                Place::Memory {
                    at,
                    bits: Some((shift, width)),
                },
            ) => self.read_bits(*at, u32::from(*shift), u32::from(*width), int),
            (Form::Int(int), Place::Memory { at, bits: None }) => {
                Ok(int.wrap(self.read_word(*at, int.size.into())?))
            }
            (Form::Pointer(_), Place::Memory { at, .. }) => self.read_word(*at, 8),
            (Form::Array(..) | Form::Function, Place::Memory { at, .. }) => Ok(at.0),
            (Form::Void, place) => Err(self.untyped(place)),
            _ => Err(self.wrong("integer or pointer")),
        }
    }

    /// Says what can be done with a thing that has no type in BTF.
    fn untyped(&self, place: &Place) -> Error {
        let at = match place {
            Place::Memory { at, .. } => *at,
            _ => return self.wrong("value"),
        };
        let symbol = self.kernel.symbol_at(at).ok().flatten();
        let Some(symbol) = symbol.filter(|symbol| symbol.offset == 0) else {
            let why = format!("what is at {at} has no type: cast the address, *(type *){at:?}");
            return Error::Invalid(why);
        };
        let name = shown(&symbol.name);
        let all = self.kernel.definitions(&symbol.name).unwrap_or_default();
        let found = all.iter().find(|one| one.symbol.at == at);
        // The linker's letter is that of the section, which data may share with code: `vm_swappiness` has a T.
        let code = found.is_some_and(|one| matches!(one.symbol.kind, 't' | 'T' | 'w' | 'W'))
            && self.kernel.space().is_executable(at).unwrap_or(true);
        Error::Invalid(match code {
            true => format!(
                "`{name}` is code whose type is not in BTF: `klab dis` shows it, &{name} is its address"
            ),
            false => {
                let module = found.and_then(|one| one.module.as_deref());
                let why = module.and_then(|module| self.without_types(module));
                let why = why.map_or_else(String::new, |why| format!(", {why}"));
                format!(
                    "the type of `{name}` is not in BTF{why}: cast its address, *(type *)&{name}"
                )
            }
        })
    }

    /// Says that a module brought no BTF, where the others' is there.
    fn without_types(&self, module: &str) -> Option<String> {
        let all = self.kernel.module_btfs().ok()?;
        let of_it = all.iter().any(|one| one.name == module || one.btf.is_err());
        (!of_it).then(|| {
            format!("and the module {module} was built without any, so of the kernel's own types")
        })
    }

    fn read_word(&self, at: GuestVirt, size: usize) -> Result<u64> {
        let mut word = [0; 8];
        match word.get_mut(..size) {
            Some(bytes) => self.kernel.read(at, bytes)?,
            None => {
                return Err(Error::Invalid(format!(
                    "`{}` has more than 64 bits: take its address",
                    self.type_name()
                )));
            }
        }
        Ok(u64::from_le_bytes(word))
    }

    fn read_bits(&self, at: GuestVirt, shift: u32, width: u32, int: Int) -> Result<u64> {
        let bytes = (shift + width).div_ceil(8) as usize;
        let word = self.read_word(at, bytes)?;
        // At least 1 bit, and at most 8 bytes.
        let unused = 64_u32.saturating_sub(width).min(63);
        let high = (word >> shift) << unused;
        Ok(if int.signed {
            ((high as i64) >> unused) as u64
        } else {
            high >> unused
        })
    }

    /// Its value as a signed number.
    ///
    /// # Errors
    /// As [`u64`](Self::u64).
    pub fn i64(&self) -> Result<i64> {
        self.u64().map(|value| value as i64)
    }

    /// Tells whether its value is not 0.
    ///
    /// # Errors
    /// As [`u64`](Self::u64).
    pub fn bool(&self) -> Result<bool> {
        self.u64().map(|value| value != 0)
    }

    /// Address that a pointer points to, or that an array, a structure or a union lies at.
    ///
    /// # Errors
    /// As [`u64`](Self::u64), but for structures and unions in memory.
    pub fn pointer(&self) -> Result<GuestVirt> {
        match (self.ty.form()?, &self.place) {
            (Form::Composite(..), Place::Memory { at, .. }) => Ok(*at),
            _ => self.u64().map(GuestVirt),
        }
    }

    /// The name of an enumeration's value; `None` for a value without one, and for all other types.
    ///
    /// # Errors
    /// As [`u64`](Self::u64), for an enumeration.
    pub fn enumerator(&self) -> Result<Option<String>> {
        let Some(id) = self.ty.enumeration()? else {
            return Ok(None);
        };
        let value = self.i64()?;
        let name = self
            .ty
            .btf()
            .type_of(id)?
            .enumerators()
            .find(|e| e.value == value)
            .map(|e| e.name.to_owned());
        Ok(name)
    }

    /// The text of a `char` array, or of what a `char` pointer points to: up to its NUL, at most [`MAX_STRING`] bytes.
    /// Bytes that are no UTF-8 are escaped ([`text_of`](crate::text_of)).
    ///
    /// # Errors
    /// `Invalid` if it is neither; `Unmapped` if the text is not in RAM.
    pub fn string(&self) -> Result<String> {
        if let Place::Text(text) = &self.place {
            return Ok(text.to_string());
        }
        let bound = match self.ty.form()? {
            Form::Array(element, count) if element.size()? == 1 && count > 0 => {
                (count as usize).min(MAX_STRING)
            }
            Form::Array(element, _) | Form::Pointer(element)
                if matches!(element.form()?, Form::Int(Int { size: 1, .. }) | Form::Void) =>
            {
                MAX_STRING
            }
            _ => return Err(self.wrong("string")),
        };
        self.kernel.read_cstr(self.pointer()?, bound)
    }

    /// The structure, or what a pointer to it points to, as its mirror.
    ///
    /// # Errors
    /// `Invalid` if it is no object of the mirror's structure; as [`Kernel::load`].
    pub fn load<T: Mirror + 'static>(&self) -> Result<T> {
        let target = match self.ty.form()? {
            Form::Pointer(_) => self.deref()?,
            _ => self.clone(),
        };
        let (btf, wanted) = self.kernel.find_composite(T::C)?;
        let (Form::Composite(own), Some(at)) = (target.ty.form()?, target.address()) else {
            return Err(self.wrong(&format!("`{}`", T::C)));
        };
        // Two modules may give one id to types of their own, and both see the kernel's by one id.
        if own != wanted || target.ty.btf().type_name(own)? != btf.type_name(wanted)? {
            return Err(self.wrong(&format!("`{}`", T::C)));
        }
        self.kernel.load(at)
    }

    /// Tells whether it is a string literal.
    pub(super) const fn is_text(&self) -> bool {
        matches!(self.place, Place::Text(_))
    }
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Memory { at, .. } => write!(f, "*({}){at:?}", self.ty.pointer().name()),
            Place::Value(value) => write!(f, "({}){value:#x}", self.type_name()),
            Place::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// The member at a path of a structure, or an error that names both.
pub(super) fn member_of(
    kernel: &Kernel,
    ty: &CType,
    composite: TypeId,
    path: &str,
) -> Result<Field> {
    ty.btf().path(composite, path)?.map_err(|step| {
        let near = ty.btf().nearest_member(composite, &step);
        Error::NoMember {
            ty: ty.name(),
            member: path.to_owned(),
            release: kernel.release().to_owned(),
            hint: near.map_or_else(String::new, |near| format!("; did you mean `{near}`?")),
        }
    })
}

/// The offset in bytes of a member at a path (`offsetof`).
pub(super) fn offset_of(kernel: &Kernel, ty: &CType, path: &str) -> Result<u64> {
    let Form::Composite(id) = ty.form()? else {
        return Err(Error::Invalid(format!(
            "`{}` is no structure or union",
            ty.name()
        )));
    };
    let field = member_of(kernel, ty, id, path)?;
    match field.bits {
        0 => Ok(field.offset()),
        _ => Err(Error::Invalid(format!(
            "`{path}` of {} is a bit field: it has no offset",
            ty.name()
        ))),
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
