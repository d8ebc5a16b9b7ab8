//! Types of a mirror's fields: integers, pointers, strings, arrays, embedded structures.

use std::marker::PhantomData;

use super::mirror::{Decoder, Mirror, MirrorField, Resolver};
use super::plan::{Slot, slot_of};
use crate::Result;
use crate::kernel::Kernel;
use crate::kernel::btf::{Btf, Field, Shape, TypeId};
use crate::memory::GuestVirt;

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

/// Tells whether a type is the one of this C name, by itself or behind the names and modifiers that it has.
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
    /// The address that it points to.
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

    /// Tells whether it is the null pointer.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        self.at.is_null()
    }
}

impl<T: Mirror + 'static> Ptr<T> {
    /// Loads what it points to; `None` for the null pointer.
    ///
    /// # Errors
    /// As [`Kernel::load`].
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

    /// The text, as [`text_of`](crate::text_of) has it of bytes.
    #[must_use]
    pub fn to_str(&self) -> std::borrow::Cow<'_, str> {
        let bytes = self.as_bytes();
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\\') => text.into(),
            _ => crate::text_of(bytes).into(),
        }
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
