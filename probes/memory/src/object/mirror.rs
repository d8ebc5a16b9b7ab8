//! Mirrors: Rust structs that name only the members they want of a kernel structure.
//!
//! Offsets are asked of the guest's own BTF once for a kernel; from then on an object is loaded with
//! a few bulk reads, without a lookup and without an allocation. A pointer is never followed: the caller decides.

use super::plan::Slot;
use crate::kernel::btf::{Btf, Field, TypeId};
use crate::{Error, Result};

/// A Rust struct that mirrors a C structure. Derive it.
///
/// ```
/// # extern crate klab_memory as probes;
/// use klab_memory::memory::GuestVirt;
/// use klab_memory::object::{FixedStr, Mirror, Ptr};
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
/// fields), [`FixedStr`](super::FixedStr), [`GuestVirt`](crate::memory::GuestVirt), [`Ptr`](super::Ptr), an array of these as long as the member's, another mirror for an
/// embedded structure, or an `Option` of any. Anything else about a member is an error that names the structure,
/// the member and the kernel's release.
pub trait Mirror: Sized {
    /// The C type: `struct task_struct`.
    const C: &'static str;

    /// Asks for each member, in the order of the fields.
    ///
    /// # Errors
    /// As [`Resolver::member`], for the first field that this kernel does not have.
    fn resolve(resolver: &mut Resolver<'_>) -> Result<()>;

    /// Takes each member, in the same order.
    fn decode(decoder: &mut Decoder<'_>) -> Self;
}

/// A type that a field of a [`Mirror`] may have.
pub trait MirrorField: Sized {
    /// Asks for the member at the first of `paths` that this kernel has.
    ///
    /// # Errors
    /// As [`Resolver::member`].
    fn resolve_member(resolver: &mut Resolver<'_>, paths: &[&str]) -> Result<()> {
        match resolver.find(paths)? {
            Some(field) => Self::resolve(resolver, paths, field),
            None => Err(resolver.missing(paths)),
        }
    }

    /// Checks that the member found is one that this type can hold, and asks for its bytes.
    ///
    /// # Errors
    /// `Invalid` if the member's type is another than the field can hold; `Broken` if the member lies outside its
    /// structure.
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
    ///
    /// # Errors
    /// `Absent` if the structure has none of them; as [`MirrorField::resolve`].
    pub fn member<F: MirrorField>(&mut self, paths: &[&str]) -> Result<()> {
        F::resolve_member(self, paths)
    }

    /// The member at the first of these paths that the structure has, its offset from the outermost structure.
    pub(super) fn find(&self, paths: &[&str]) -> Result<Option<Field>> {
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

    pub(super) fn missing(&self, paths: &[&str]) -> Error {
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
    pub(super) fn push(&mut self, paths: &[&str], slot: Slot) -> Result<()> {
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

    pub(super) fn mismatch(&self, paths: &[&str], field: Field, wanted: &str) -> Error {
        let c = self.btf.type_name(field.ty).unwrap_or_default();
        let bits = if field.bits > 0 {
            format!(" : {}", field.bits)
        } else {
            String::new()
        };
        Error::Invalid(format!(
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
    pub(super) fn int(&mut self) -> u64 {
        self.slots.next().map_or(0, |slot| slot.int(self.bytes))
    }

    #[inline]
    pub(super) fn bytes(&mut self) -> &'a [u8] {
        let range = |slot: &Slot| slot.at as usize..slot.at as usize + slot.size as usize;
        self.slots
            .next()
            .and_then(|slot| self.bytes.get(range(slot)))
            .unwrap_or(&[])
    }
}
