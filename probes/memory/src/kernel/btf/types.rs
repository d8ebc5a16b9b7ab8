//! One BTF type record and what it holds.

use super::{Btf, read_u32};

/// The number of a type in its BTF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct TypeId(pub u32);

impl TypeId {
    /// `void`, which has no record.
    pub const VOID: Self = Self(0);
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $extra:literal + $each:literal;)*) => {
        /// Kind of a type (`BTF_KIND_*`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// The bytes after a record's first 12: so many, and so many for each of its elements.
            const fn tail(self) -> (usize, usize) {
                match self { $(Self::$name => ($extra, $each),)* }
            }
        }
    };
}

kinds! {
    /// `void`, which has no record.
    Void = 0, 0 + 0;
    /// An integer, a character or `_Bool`.
    Int = 1, 4 + 0;
    /// A pointer.
    Ptr = 2, 0 + 0;
    /// An array.
    Array = 3, 12 + 0;
    /// A structure.
    Struct = 4, 0 + 12;
    /// A union.
    Union = 5, 0 + 12;
    /// An enumeration of values of at most 32 bits.
    Enum = 6, 0 + 8;
    /// A structure or union that is declared and not defined.
    Fwd = 7, 0 + 0;
    /// A `typedef`.
    Typedef = 8, 0 + 0;
    /// `volatile`.
    Volatile = 9, 0 + 0;
    /// `const`.
    Const = 10, 0 + 0;
    /// `restrict`.
    Restrict = 11, 0 + 0;
    /// A function.
    Func = 12, 0 + 0;
    /// The type of a function.
    FuncProto = 13, 0 + 8;
    /// A variable.
    Var = 14, 4 + 0;
    /// A section of variables: `.data..percpu`.
    Datasec = 15, 0 + 12;
    /// A floating-point number.
    Float = 16, 0 + 0;
    /// `__attribute__((btf_decl_tag(..)))`.
    DeclTag = 17, 4 + 0;
    /// `__attribute__((btf_type_tag(..)))`: `__user`, `__rcu`, `__percpu`.
    TypeTag = 18, 0 + 0;
    /// An enumeration of 64-bit values.
    Enum64 = 19, 0 + 12;
}

impl Kind {
    /// The keyword of C before a type's name: `struct`, `union`, `enum`, else nothing.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Struct => "struct",
            Self::Union => "union",
            Self::Enum | Self::Enum64 => "enum",
            _ => "",
        }
    }
}

/// The kind's number in an `info` word. Bits 29 and 30 are reserved for more kinds.
pub(super) const fn kind_number(info: u32) -> u32 {
    (info >> 24) & 0x7f
}

/// The number of elements in an `info` word. Bits 16 to 23 were always 0 where they do not count.
const fn count(info: u32) -> usize {
    (info & 0x00ff_ffff) as usize
}

/// The length in bytes of the record with this `info` word; `None` for an unknown kind.
pub(super) fn record_len(info: u32) -> Option<usize> {
    let (extra, each) = Kind::from_number(kind_number(info))
        .filter(|kind| *kind != Kind::Void)?
        .tail();
    Some(12 + extra + each * count(info))
}

/// One type of a [`Btf`].
#[derive(Clone, Copy)]
pub struct Type<'a> {
    btf: &'a Btf,
    /// Its number.
    pub id: TypeId,
    /// Kind of the type.
    pub kind: Kind,
    name: u32,
    flag: bool,
    /// A size in bytes, or the id of the type that this one refers to: the kind says which.
    size_or_type: u32,
    tail: &'a [u8],
}

/// Data of a `BTF_KIND_INT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntOf {
    /// Bytes of the storage unit.
    pub size: u32,
    /// Bits of the value; fewer than the storage has for a bit field of an old compiler.
    pub bits: u8,
    /// Bits to skip in the storage.
    pub offset: u8,
    /// True if it is signed.
    pub signed: bool,
    /// True if it is `_Bool`.
    pub bool: bool,
    /// True if it is a character.
    pub char: bool,
}

/// Data of a `BTF_KIND_ARRAY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrayOf {
    /// The type of an element.
    pub element: TypeId,
    /// Elements; 0 for a flexible array.
    pub count: u32,
}

/// A member of a structure or union, as written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its name; empty for an anonymous structure or union, whose members count as the outer's.
    pub name: &'a str,
    /// Its type.
    pub ty: TypeId,
    /// Offset in bits from the structure's start.
    pub bit_offset: u32,
    /// The width of a bit field, 0 for all others.
    pub bits: u8,
}

/// A constant of an enumeration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enumerator<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value; one of an unsigned 64-bit enumeration is to be read as `u64`.
    pub value: i64,
}

/// A parameter of a function. The one without name and type is `...`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param<'a> {
    /// Its name, empty where the source gives none.
    pub name: &'a str,
    /// Its type.
    pub ty: TypeId,
}

/// A variable in a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VarIn {
    /// The variable, a [`Kind::Var`].
    pub var: TypeId,
    /// Offset in the section, in bytes.
    pub offset: u32,
    /// Its size in bytes.
    pub size: u32,
}

impl<'a> Type<'a> {
    pub(super) fn void(btf: &'a Btf) -> Self {
        Self {
            btf,
            id: TypeId::VOID,
            kind: Kind::Void,
            name: 0,
            flag: false,
            size_or_type: 0,
            tail: &[],
        }
    }

    /// The record at the start of `bytes`.
    pub(super) fn read(btf: &'a Btf, id: TypeId, bytes: &'a [u8]) -> Option<Self> {
        let info = read_u32(bytes, 4)?;
        Some(Self {
            btf,
            id,
            kind: Kind::from_number(kind_number(info))?,
            name: read_u32(bytes, 0)?,
            flag: info >> 31 == 1,
            size_or_type: read_u32(bytes, 8)?,
            tail: bytes.get(12..record_len(info)?)?,
        })
    }

    /// Its name, without `struct`, `union` or `enum`; empty where it is anonymous.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.btf.string(self.name)
    }

    pub(super) fn name_bytes(&self) -> &'a [u8] {
        self.btf.string_bytes(self.name)
    }

    /// The BTF it was looked up in.
    #[must_use]
    pub fn btf(&self) -> &'a Btf {
        self.btf
    }

    /// The type that a pointer, typedef, modifier, function, variable or tag refers to, or that a function
    /// type returns.
    #[must_use]
    pub fn target(&self) -> Option<TypeId> {
        match self.kind {
            Kind::Ptr
            | Kind::Typedef
            | Kind::Volatile
            | Kind::Const
            | Kind::Restrict
            | Kind::Func
            | Kind::FuncProto
            | Kind::Var
            | Kind::DeclTag
            | Kind::TypeTag => Some(TypeId(self.size_or_type)),
            _ => None,
        }
    }

    /// The type behind this one where it is only another name for it or a modifier.
    #[must_use]
    pub fn alias(&self) -> Option<TypeId> {
        match self.kind {
            Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
                Some(TypeId(self.size_or_type))
            }
            _ => None,
        }
    }

    /// The size in bytes that the record itself states; [`Btf::size_of`] answers for all kinds.
    #[must_use]
    pub fn stated_size(&self) -> Option<u32> {
        match self.kind {
            Kind::Int
            | Kind::Struct
            | Kind::Union
            | Kind::Enum
            | Kind::Enum64
            | Kind::Float
            | Kind::Datasec => Some(self.size_or_type),
            _ => None,
        }
    }

    /// Tells whether it is a structure or a union.
    #[must_use]
    pub fn is_composite(&self) -> bool {
        matches!(self.kind, Kind::Struct | Kind::Union)
    }

    /// Tells whether a [`Kind::Fwd`] stands for a union, or an enumeration has signed values.
    #[must_use]
    pub fn flag(&self) -> bool {
        self.flag
    }

    /// Reads the data of an integer type.
    #[must_use]
    pub fn int(&self) -> Option<IntOf> {
        let word = (self.kind == Kind::Int)
            .then(|| read_u32(self.tail, 0))
            .flatten()?;
        let encoding = word >> 24 & 0xf;
        Some(IntOf {
            size: self.size_or_type,
            bits: word as u8,
            offset: (word >> 16) as u8,
            signed: encoding & 1 != 0,
            char: encoding & 2 != 0,
            bool: encoding & 4 != 0,
        })
    }

    /// Reads the data of an array type.
    #[must_use]
    pub fn array(&self) -> Option<ArrayOf> {
        if self.kind != Kind::Array {
            return None;
        }
        Some(ArrayOf {
            element: TypeId(read_u32(self.tail, 0)?),
            count: read_u32(self.tail, 8)?,
        })
    }

    /// The members of a structure or union in their order; of nothing else.
    pub fn members(&self) -> impl ExactSizeIterator<Item = Member<'a>> + Clone + use<'a> {
        let (btf, flag) = (self.btf, self.flag);
        self.elements(self.is_composite(), 12)
            .map(move |[name, ty, offset]| Member {
                name: btf.string(name),
                ty: TypeId(ty),
                // With kind_flag the upper 8 bits are a bit field's width.
                bit_offset: if flag { offset & 0x00ff_ffff } else { offset },
                bits: if flag { (offset >> 24) as u8 } else { 0 },
            })
    }

    /// The constants of an enumeration in their order; of nothing else.
    pub fn enumerators(&self) -> impl Iterator<Item = Enumerator<'a>> + use<'a> {
        let (btf, signed) = (self.btf, self.flag);
        let narrow = self
            .elements(self.kind == Kind::Enum, 8)
            .map(move |[name, value, _]| Enumerator {
                name: btf.string(name),
                value: if signed {
                    i64::from(value as i32)
                } else {
                    i64::from(value)
                },
            });
        let wide = self
            .elements(self.kind == Kind::Enum64, 12)
            .map(move |[name, low, high]| Enumerator {
                name: btf.string(name),
                value: (u64::from(high) << 32 | u64::from(low)) as i64,
            });
        narrow.chain(wide)
    }

    /// The parameters of a function type in their order; of nothing else.
    pub fn params(&self) -> impl ExactSizeIterator<Item = Param<'a>> + use<'a> {
        let btf = self.btf;
        self.elements(self.kind == Kind::FuncProto, 8)
            .map(move |[name, ty, _]| Param {
                name: btf.string(name),
                ty: TypeId(ty),
            })
    }

    /// The variables of a section; of nothing else.
    pub fn vars(&self) -> impl ExactSizeIterator<Item = VarIn> + use<'a> {
        self.elements(self.kind == Kind::Datasec, 12)
            .map(|[var, offset, size]| VarIn {
                var: TypeId(var),
                offset,
                size,
            })
    }

    /// The tail as elements of `size` bytes, two or three words each; none if `is` is false.
    fn elements(
        &self,
        is: bool,
        size: usize,
    ) -> impl ExactSizeIterator<Item = [u32; 3]> + Clone + use<'a> {
        let tail = if is { self.tail } else { &[] };
        tail.chunks_exact(size)
            .map(|chunk| [0, 4, 8].map(|at| read_u32(chunk, at).unwrap_or(0)))
    }
}

impl std::fmt::Debug for Type<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}] {:?} `{}`", self.id.0, self.kind, self.name())
    }
}
