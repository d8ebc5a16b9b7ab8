//! C types: those of the guest's BTF, and what pointers and arrays make of them.

use std::sync::Arc;

use crate::kernel::btf::{Btf, Declaration, Kind, Shape, TypeId};
use crate::{Error, Result};

/// A C type. BTF has only the pointers and arrays that the kernel's sources use, so a type is one of BTF's (or a
/// built-in integer) with layers of pointers and arrays around it.
#[derive(Clone)]
pub struct CType {
    btf: Arc<Btf>,
    base: Base,
    /// The innermost first.
    layers: Vec<Layer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Btf(TypeId),
    BuiltIn(&'static BuiltIn),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Layer {
    Pointer,
    Array(u32),
    /// A function that returns what is within; what it takes, as it was written.
    Function(Arc<str>),
}

/// An integer type that needs no BTF: those of C, as x86-64's ABI sizes them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BuiltIn {
    name: &'static str,
    int: Int,
}

/// Encoding of an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Int {
    pub(super) size: u8,
    pub(super) signed: bool,
    pub(super) bool: bool,
    pub(super) char: bool,
}

const fn built_in(name: &'static str, size: u8, signed: bool) -> BuiltIn {
    let (bool, char) = (
        matches!(name.as_bytes(), b"_Bool"),
        matches!(name.as_bytes(), b"char"),
    );
    BuiltIn {
        name,
        int: Int {
            size,
            signed,
            bool,
            char,
        },
    }
}

pub(super) static INT: BuiltIn = built_in("int", 4, true);
pub(super) static UINT: BuiltIn = built_in("unsigned int", 4, false);
pub(super) static LONG: BuiltIn = built_in("long", 8, true);
pub(super) static ULONG: BuiltIn = built_in("unsigned long", 8, false);
pub(super) static CHAR: BuiltIn = built_in("char", 1, true);
pub(super) static SCHAR: BuiltIn = built_in("signed char", 1, true);
pub(super) static UCHAR: BuiltIn = built_in("unsigned char", 1, false);
pub(super) static SHORT: BuiltIn = built_in("short", 2, true);
pub(super) static USHORT: BuiltIn = built_in("unsigned short", 2, false);
pub(super) static BOOL: BuiltIn = built_in("_Bool", 1, false);
pub(super) static INT128: BuiltIn = built_in("__int128", 16, true);
pub(super) static UINT128: BuiltIn = built_in("unsigned __int128", 16, false);

/// Form of a type's values.
#[derive(Debug, Clone)]
pub(super) enum Form {
    /// `void`, or a structure that is only declared.
    Void,
    Function,
    Int(Int),
    Float,
    Pointer(CType),
    Array(CType, u32),
    Composite(TypeId),
}

impl CType {
    pub(super) fn of(btf: &Arc<Btf>, id: TypeId) -> Self {
        Self {
            btf: btf.clone(),
            base: Base::Btf(id),
            layers: Vec::new(),
        }
    }

    pub(super) fn built_in(btf: &Arc<Btf>, base: &'static BuiltIn) -> Self {
        Self {
            btf: btf.clone(),
            base: Base::BuiltIn(base),
            layers: Vec::new(),
        }
    }

    /// The BTF that it belongs to: the kernel's or a module's.
    #[must_use]
    pub fn btf(&self) -> &Arc<Btf> {
        &self.btf
    }

    /// Its definition, as the kernel's BTF has it.
    ///
    /// # Errors
    /// `Invalid` for a type that is built in, a pointer, an array or a function; `Broken` if BTF is damaged.
    pub fn declaration(&self) -> Result<Declaration> {
        self.declaration_as(&self.name())
    }

    /// As [`declaration`](Self::declaration); where there is none, the error has the name that was asked for.
    ///
    /// # Errors
    /// `Absent` where there is none; when the kernel's BTF cannot be read.
    pub fn declaration_as(&self, written: &str) -> Result<Declaration> {
        let none = |why: &str| {
            Err(Error::Invalid(format!(
                "`{written}` is {why}, so there is no definition of it: name a structure, a union, an enum or a typedef"
            )))
        };
        match (self.base, self.layers.as_slice()) {
            (Base::Btf(id), []) => match self.btf.type_of(id)?.kind {
                Kind::Int | Kind::Float | Kind::Void => none("built in"),
                _ => self.btf.declaration(id),
            },
            (Base::BuiltIn(_), []) => none("built in"),
            (_, [.., Layer::Pointer]) => none("a pointer"),
            (_, [.., Layer::Array(_)]) => none("an array"),
            (_, [.., Layer::Function(_)]) => none("a function"),
        }
    }

    /// A pointer to it.
    #[must_use]
    pub fn pointer(&self) -> Self {
        self.with(Layer::Pointer)
    }

    /// An array of it.
    #[must_use]
    pub fn array(&self, count: u32) -> Self {
        self.with(Layer::Array(count))
    }

    /// A function that returns it; `parameters` as C writes them.
    pub(super) fn function(&self, parameters: &str) -> Self {
        self.with(Layer::Function(parameters.into()))
    }

    fn with(&self, layer: Layer) -> Self {
        let mut ty = self.clone();
        ty.layers.push(layer);
        ty
    }

    pub(super) fn form(&self) -> Result<Form> {
        if let Some((last, inner)) = self.layers.split_last() {
            let inner = Self {
                layers: inner.to_vec(),
                ..self.clone()
            };
            return Ok(match last {
                Layer::Pointer => Form::Pointer(inner),
                Layer::Array(count) => Form::Array(inner, *count),
                Layer::Function(_) => Form::Function,
            });
        }
        let id = match self.base {
            Base::BuiltIn(built_in) => return Ok(Form::Int(built_in.int)),
            Base::Btf(id) => id,
        };
        Ok(match self.btf.shape(id)? {
            Shape::Int { size, signed, bool } => {
                let ty = self.btf.resolve(id)?;
                let char = size == 1 && ty.int().is_some_and(|int| int.char || ty.name() == "char");
                Form::Int(Int {
                    size,
                    signed,
                    bool,
                    char,
                })
            }
            Shape::Float { .. } => Form::Float,
            Shape::Ptr(to) => Form::Pointer(Self::of(&self.btf, to)),
            Shape::Array { element, count } => Form::Array(Self::of(&self.btf, element), count),
            Shape::Composite { .. } => Form::Composite(self.btf.resolve(id)?.id),
            Shape::Void if matches!(self.btf.resolve(id)?.kind, Kind::Func | Kind::FuncProto) => {
                Form::Function
            }
            Shape::Void => Form::Void,
        })
    }

    /// Its size in bytes (`sizeof`).
    ///
    /// # Errors
    /// `Invalid` for `void`, a function, or a structure that is only declared, and if the size overflows.
    pub fn size(&self) -> Result<u64> {
        let none = || {
            Error::Invalid(format!(
                "`{}` has no size: it is not defined in BTF",
                self.name()
            ))
        };
        let overflow = || Error::Invalid(format!("`{}` is too large", self.name()));
        let mut elements = 1_u64;
        for layer in self.layers.iter().rev() {
            match layer {
                Layer::Pointer => return elements.checked_mul(8).ok_or_else(overflow),
                Layer::Array(count) => {
                    elements = elements
                        .checked_mul(u64::from(*count))
                        .ok_or_else(overflow)?
                }
                Layer::Function(_) => return Err(none()),
            }
        }
        let one = match self.base {
            Base::BuiltIn(built_in) => u64::from(built_in.int.size),
            Base::Btf(id) => self.btf.size_of(id)?.ok_or_else(none)?,
        };
        one.checked_mul(elements).ok_or_else(overflow)
    }

    /// Its name in C: `struct list_head *`.
    #[must_use]
    pub fn name(&self) -> String {
        let mut inner = String::new();
        for (i, layer) in self.layers.iter().enumerate().rev() {
            match layer {
                Layer::Array(count) => inner.push_str(&format!("[{count}]")),
                Layer::Pointer if self.points_to_array(i) => inner = format!("(*{inner})"),
                Layer::Pointer => inner.insert(0, '*'),
                Layer::Function(parameters) => inner.push_str(&format!("({parameters})")),
            }
        }
        match self.base {
            Base::Btf(id) => self
                .btf
                .declarator(id, &inner)
                .unwrap_or_else(|e| e.to_string()),
            Base::BuiltIn(base) if inner.is_empty() => base.name.to_owned(),
            Base::BuiltIn(base) => format!("{} {inner}", base.name),
        }
    }

    /// Tells whether what the pointer at a layer points to is written after its name in C.
    fn points_to_array(&self, layer: usize) -> bool {
        match (
            layer.checked_sub(1).and_then(|i| self.layers.get(i)),
            self.base,
        ) {
            (Some(inner), _) => matches!(inner, Layer::Array(_) | Layer::Function(_)),
            (None, Base::Btf(id)) => self
                .btf
                .get(id)
                .is_some_and(|t| matches!(t.kind, Kind::Array | Kind::FuncProto)),
            (None, Base::BuiltIn(_)) => false,
        }
    }

    /// The enumeration it is, if it is one.
    pub(super) fn enumeration(&self) -> Result<Option<TypeId>> {
        match self.base {
            Base::Btf(id) if self.layers.is_empty() => {
                let ty = self.btf.resolve(id)?;
                Ok(matches!(ty.kind, Kind::Enum | Kind::Enum64).then_some(ty.id))
            }
            _ => Ok(None),
        }
    }
}

impl Int {
    /// A value as this type holds it, extended to 64 bits again.
    pub(super) const fn wrap(self, value: u64) -> u64 {
        if self.bool {
            return (value != 0) as u64;
        }
        let unused = match self.size {
            0..=7 => 64 - self.size as u32 * 8,
            _ => 0,
        };
        let high = value << (unused & 63);
        if self.signed {
            ((high as i64) >> unused) as u64
        } else {
            high >> unused
        }
    }
}

impl std::fmt::Debug for CType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CType({})", self.name())
    }
}

impl std::fmt::Display for CType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}
