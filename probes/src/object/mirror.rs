//! Mirrors: Rust structs that name only the members they want of a kernel structure.
//!
//! Where the members lie is asked of the guest's own BTF once for a kernel; from then on an object is loaded with
//! a few bulk reads, without a lookup and without an allocation. A pointer is never followed: the caller decides.

use std::marker::PhantomData;

use super::plan::{Slot, slot_of};
use crate::kernel::Kernel;
use crate::kernel::btf::{Btf, Field, Shape, TypeId};
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// A Rust struct that mirrors a C structure. Derive it.
///
/// ```
/// use probes::memory::GuestVirt;
/// use probes::object::{FixedStr, Mirror, Ptr};
///
/// #[derive(Mirror, Debug)]
/// #[mirror(c = "struct task_struct")]
/// struct Task {
///     pid: i32,
///     comm: FixedStr<16>,
///     parent: Ptr<Task>,
///     #[mirror(member = "se.vruntime")]
///     vruntime: u64,
///     #[mirror(member = "__state", or = "state")]
///     state: u64,
///     /// `None` where this kernel has no such member.
///     user_cpus_ptr: Option<GuestVirt>,
/// }
/// ```
///
/// A field may be an integer or `bool` (of the member's size or wider; also for enumerations, pointers and bit
/// fields), [`FixedStr`], [`GuestVirt`], [`Ptr`], an array of these as long as the member's, another mirror for an
/// embedded structure, or an `Option` of any. Anything else about a member is an error that names the structure,
/// the member and the kernel's release.
pub trait Mirror: Sized {
    /// The C type: `struct task_struct`.
    const C: &'static str;

    /// Asks for each member, in the order of the fields.
    fn resolve(resolver: &mut Resolver<'_>) -> Result<()>;

    /// Takes each member, in the same order.
    fn decode(decoder: &mut Decoder<'_>) -> Self;
}

/// What may stand as a field of a [`Mirror`].
pub trait MirrorField: Sized {
    /// Asks for the member at the first of `paths` that this kernel has.
    fn resolve_member(resolver: &mut Resolver<'_>, paths: &[&str]) -> Result<()> {
        match resolver.find(paths)? {
            Some(field) => Self::resolve(resolver, paths, field),
            None => Err(resolver.missing(paths)),
        }
    }

    /// Checks that the member found is one that this type can hold, and asks for its bytes.
    fn resolve(resolver: &mut Resolver<'_>, paths: &[&str], field: Field) -> Result<()>;

    /// Takes what `resolve` asked for.
    fn decode(decoder: &mut Decoder<'_>) -> Self;
}

/// Looks members up for a [`Mirror`] and notes what is to be read.
#[derive(Debug)]
pub struct Resolver<'a> {
    pub(super) btf: &'a Btf,
    pub(super) release: &'a str,
    /// The structure whose members are asked for, and where it begins in the outermost one.
    pub(super) composite: TypeId,
    pub(super) bit_offset: u64,
    /// The size of the outermost structure in bytes.
    pub(super) size: u64,
    pub(super) slots: Vec<Slot>,
}

impl Resolver<'_> {
    /// Asks for a member as a field of type `F`.
    pub fn member<F: MirrorField>(&mut self, paths: &[&str]) -> Result<()> {
        F::resolve_member(self, paths)
    }

    /// The member at the first of these paths that the structure has, its offset from the outermost structure.
    fn find(&self, paths: &[&str]) -> Result<Option<Field>> {
        for path in paths {
            if let Ok(field) = self.btf.path(self.composite, path)? {
                return Ok(Some(Field {
                    bit_offset: field.bit_offset + self.bit_offset,
                    ..field
                }));
            }
        }
        Ok(None)
    }

    fn missing(&self, paths: &[&str]) -> Error {
        let wanted = paths.first().copied().unwrap_or_default();
        let near = self.btf.nearest_member(self.composite, wanted);
        Error::NoMember {
            ty: self.type_name(),
            member: paths.join("` or `"),
            release: self.release.to_owned(),
            hint: near.map_or_else(String::new, |near| format!("; did you mean `{near}`?")),
        }
    }

    fn type_name(&self) -> String {
        self.btf.type_name(self.composite).unwrap_or_default()
    }

    /// Notes bytes to read; they must lie in the structure.
    fn push(&mut self, paths: &[&str], slot: Slot) -> Result<()> {
        if u64::from(slot.at) + u64::from(slot.size) > self.size {
            let why = format!(
                "`{}` of {} ends past the structure's {} bytes",
                paths.join("`, `"),
                self.type_name(),
                self.size
            );
            return Err(Error::Malformed { what: "BTF", why });
        }
        self.slots.push(slot);
        Ok(())
    }

    fn mismatch(&self, paths: &[&str], field: Field, wanted: &str) -> Error {
        let c = self.btf.type_name(field.ty).unwrap_or_default();
        let bits = if field.bits > 0 {
            format!(" : {}", field.bits)
        } else {
            String::new()
        };
        Error::Other(format!(
            "`{}` of {} is `{c}{bits}` in {}, which {wanted} cannot hold: change the type of the mirror's field",
            paths.join("`, `"),
            self.type_name(),
            self.release
        ))
    }
}

/// Hands the bytes read to a [`Mirror`], member by member.
#[derive(Debug)]
pub struct Decoder<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) slots: std::slice::Iter<'a, Slot>,
}

impl<'a> Decoder<'a> {
    /// The next integer, extended to 64 bits as its C type asks for.
    #[inline]
    fn int(&mut self) -> u64 {
        self.slots.next().map_or(0, |slot| slot.int(self.bytes))
    }

    #[inline]
    fn bytes(&mut self) -> &'a [u8] {
        let range = |slot: &Slot| slot.at as usize..slot.at as usize + slot.size as usize;
        self.slots
            .next()
            .and_then(|slot| self.bytes.get(range(slot)))
            .unwrap_or(&[])
    }
}

macro_rules! integers {
    ($($ty:ty)*) => {$(
        impl MirrorField for $ty {
            fn resolve(resolver: &mut Resolver<'_>, paths: &[&str], field: Field) -> Result<()> {
                let room = size_of::<Self>() as u32;
                match slot_of(resolver.btf, field)? {
                    Some(slot) if slot.value_bits() <= room * 8 => resolver.push(paths, slot),
                    _ => Err(resolver.mismatch(paths, field, stringify!($ty))),
                }
            }

            #[inline]
            fn decode(decoder: &mut Decoder<'_>) -> Self {
                decoder.int() as Self
            }
        }
    )*};
}

integers!(u8 u16 u32 u64 usize i8 i16 i32 i64 isize);

/// A `_Bool`, or a bit field of one bit.
impl MirrorField for bool {
    fn resolve(resolver: &mut Resolver<'_>, paths: &[&str], field: Field) -> Result<()> {
        let is_bool = matches!(resolver.btf.shape(field.ty)?, Shape::Int { bool: true, .. });
        match slot_of(resolver.btf, field)? {
            Some(slot) if is_bool || slot.value_bits() == 1 => resolver.push(paths, slot),
            _ => Err(resolver.mismatch(paths, field, "bool")),
        }
    }

    #[inline]
    fn decode(decoder: &mut Decoder<'_>) -> Self {
        decoder.int() != 0
    }
}

/// A pointer of any type, or an `unsigned long` that holds an address.
impl MirrorField for GuestVirt {
    fn resolve(resolver: &mut Resolver<'_>, paths: &[&str], field: Field) -> Result<()> {
        match slot_of(resolver.btf, field)? {
            Some(slot) if slot.value_bits() == 64 => resolver.push(paths, slot),
            _ => Err(resolver.mismatch(paths, field, "GuestVirt")),
        }
    }

    #[inline]
    fn decode(decoder: &mut Decoder<'_>) -> Self {
        Self(decoder.int())
    }
}

/// `None` where this kernel lacks the member.
impl<F: MirrorField> MirrorField for Option<F> {
    fn resolve_member(resolver: &mut Resolver<'_>, paths: &[&str]) -> Result<()> {
        match resolver.find(paths)? {
            Some(field) => Self::resolve(resolver, paths, field),
            None => {
                resolver.slots.push(Slot::presence(false));
                Ok(())
            }
        }
    }

    fn resolve(resolver: &mut Resolver<'_>, paths: &[&str], field: Field) -> Result<()> {
        resolver.slots.push(Slot::presence(true));
        F::resolve(resolver, paths, field)
    }

    #[inline]
    fn decode(decoder: &mut Decoder<'_>) -> Self {
        decoder
            .slots
            .next()
            .filter(|slot| slot.is_present())
            .map(|_| F::decode(decoder))
    }
}

/// An array with as many elements as the member has.
impl<F: MirrorField, const N: usize> MirrorField for [F; N] {
    fn resolve(resolver: &mut Resolver<'_>, paths: &[&str], field: Field) -> Result<()> {
        let (element, stride) = match resolver.btf.shape(field.ty)? {
            Shape::Array { element, count } if count as usize == N => {
                (element, resolver.btf.size_of(element)?.unwrap_or(0))
            }
            _ => return Err(resolver.mismatch(paths, field, &format!("an array of {N}"))),
        };
        // The array lies in its structure, or its first element past the end says so.
        let mut bit_offset = field.bit_offset;
        for _ in 0..N {
            F::resolve(
                resolver,
                paths,
                Field {
                    ty: element,
                    bit_offset,
                    bits: 0,
                },
            )?;
            bit_offset = bit_offset.saturating_add(stride.saturating_mul(8));
        }
        Ok(())
    }

    #[inline]
    fn decode(decoder: &mut Decoder<'_>) -> Self {
        std::array::from_fn(|_| F::decode(decoder))
    }
}

/// An embedded structure.
impl<M: Mirror> MirrorField for M {
    fn resolve(resolver: &mut Resolver<'_>, paths: &[&str], field: Field) -> Result<()> {
        let inner = resolver.btf.resolve(field.ty)?.id;
        if !is_type(resolver.btf, field.ty, M::C)? {
            return Err(resolver.mismatch(paths, field, &format!("a mirror of {}", M::C)));
        }
        let outer = (resolver.composite, resolver.bit_offset);
        (resolver.composite, resolver.bit_offset) = (inner, field.bit_offset);
        let resolved = M::resolve(resolver);
        (resolver.composite, resolver.bit_offset) = outer;
        resolved
    }

    #[inline]
    fn decode(decoder: &mut Decoder<'_>) -> Self {
        Mirror::decode(decoder)
    }
}

/// Whether a type is the one of this C name, by itself or behind the names and modifiers that it has.
fn is_type(btf: &Btf, id: TypeId, c: &str) -> Result<bool> {
    let wanted = c.trim();
    let mut ty = btf.type_of(id)?;
    // As deep as `Btf::resolve` goes.
    btf.resolve(id)?;
    loop {
        let name = [ty.kind.keyword(), ty.name()].join(" ");
        match ty.alias() {
            _ if name.trim_start() == wanted => return Ok(true),
            Some(next) => ty = btf.type_of(next)?,
            None => return Ok(false),
        }
    }
}

/// A pointer to a structure that `T` mirrors, not followed.
pub struct Ptr<T> {
    /// Where it points.
    pub at: GuestVirt,
    target: PhantomData<fn() -> T>,
}

impl<T> Ptr<T> {
    /// A pointer to an address.
    #[must_use]
    pub const fn new(at: GuestVirt) -> Self {
        Self {
            at,
            target: PhantomData,
        }
    }

    /// Whether it is the null pointer.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        self.at.is_null()
    }
}

impl<T: Mirror + 'static> Ptr<T> {
    /// Loads what it points to; `None` for the null pointer.
    pub fn load(&self, kernel: &Kernel) -> Result<Option<T>> {
        if self.is_null() {
            Ok(None)
        } else {
            kernel.load(self.at).map(Some)
        }
    }
}

impl<T> Clone for Ptr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ptr<T> {}

impl<T> PartialEq for Ptr<T> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl<T> Eq for Ptr<T> {}

impl<T: Mirror> std::fmt::Debug for Ptr<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({} *){:?}", T::C, self.at)
    }
}

impl<T> serde::Serialize for Ptr<T> {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        self.at.serialize(serializer)
    }
}

impl<M: Mirror> MirrorField for Ptr<M> {
    fn resolve(resolver: &mut Resolver<'_>, paths: &[&str], field: Field) -> Result<()> {
        let fits = match resolver.btf.shape(field.ty)? {
            Shape::Ptr(to) => {
                is_type(resolver.btf, to, M::C)? || resolver.btf.shape(to)? == Shape::Void
            }
            _ => false,
        };
        match slot_of(resolver.btf, field)? {
            Some(slot) if fits => resolver.push(paths, slot),
            _ => Err(resolver.mismatch(paths, field, &format!("a pointer to {}", M::C))),
        }
    }

    #[inline]
    fn decode(decoder: &mut Decoder<'_>) -> Self {
        Self::new(GuestVirt(decoder.int()))
    }
}

/// A string in an array of `N` characters, as `task_struct.comm` is; it ends at its first NUL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FixedStr<const N: usize>(pub [u8; N]);

impl<const N: usize> FixedStr<N> {
    /// The bytes before the first NUL.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0[..self.0.iter().position(|byte| *byte == 0).unwrap_or(N)]
    }

    /// The text; bytes that are no UTF-8 become U+FFFD.
    #[must_use]
    pub fn to_str(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.as_bytes())
    }
}

impl<const N: usize> Default for FixedStr<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> PartialEq<str> for FixedStr<N> {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl<const N: usize> PartialEq<&str> for FixedStr<N> {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl<const N: usize> std::fmt::Display for FixedStr<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.to_str())
    }
}

impl<const N: usize> std::fmt::Debug for FixedStr<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.to_str())
    }
}

impl<const N: usize> serde::Serialize for FixedStr<N> {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_str())
    }
}

impl<const N: usize> MirrorField for FixedStr<N> {
    fn resolve(resolver: &mut Resolver<'_>, paths: &[&str], field: Field) -> Result<()> {
        if let Shape::Array { element, count } = resolver.btf.shape(field.ty)?
            && count as usize <= N
            && resolver.btf.size_of(element)? == Some(1)
        {
            let at = u32::try_from(field.offset()).unwrap_or(u32::MAX);
            return resolver.push(paths, Slot::bytes(at, count));
        }
        Err(resolver.mismatch(paths, field, &format!("FixedStr<{N}>")))
    }

    #[inline]
    fn decode(decoder: &mut Decoder<'_>) -> Self {
        let mut text = Self::default();
        for (to, from) in text.0.iter_mut().zip(decoder.bytes()) {
            *to = *from;
        }
        text
    }
}
