//! The argument of a function that leads to text that is worth a copy at the call.

use super::function::Param;
use crate::Result;
use crate::base::text_of;
use crate::debug::arguments::Passed;
use crate::debug::function::Prototype;
use crate::kernel::btf::{Btf, Kind, TypeId};
use crate::kmod::call::CallRecord;
use crate::kmod::ring;

/// Structures that have a name, and the member which points to it.
const NAMED: [(&str, &str); 3] = [
    ("filename", "name"),
    ("dentry", "d_name.name"),
    ("qstr", "name"),
];
/// Usual names of the number of bytes at the pointer before.
const LENGTHS: [&str; 5] = ["count", "len", "size", "n", "length"];
/// Modifiers behind one another.
const MAX_DEPTH: usize = 16;

/// Place of a call's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TextPlan {
    /// Number of the parameter.
    pub(super) param: usize,
    /// The register of the argument.
    pub(super) register: u8,
    /// The pointer to the text is so many bytes behind what the argument points to; `None`: it is the argument.
    pub(super) offset: Option<u16>,
    /// The register that says how many bytes there are.
    pub(super) length: Option<usize>,
}

/// The first argument that leads to text which the function reads.
pub(super) fn plan(prototype: &Prototype, params: &[Param]) -> Result<Option<TextPlan>> {
    let btf = &prototype.btf;
    let types = prototype.parameters.iter().map(|(_, ty)| *ty);
    for (param, (given, ty)) in params.iter().zip(types).enumerate() {
        let Passed::Registers(register, 1) = given.place else {
            continue;
        };
        let offset = match named(btf, ty)? {
            Some(offset) => Some(offset),
            // A buffer that a function fills holds no text when it begins.
            None if given.chars && is_const(btf, ty) => None,
            None => continue,
        };
        let next = params.get(param + 1);
        let length = next.filter(|next| LENGTHS.contains(&next.name.as_str()));
        let length = length.and_then(|next| match next.place {
            Passed::Registers(register, 1) => Some(register),
            _ => None,
        });
        return Ok(Some(TextPlan {
            param,
            register: u8::try_from(register).unwrap_or_default(),
            offset,
            length,
        }));
    }
    Ok(None)
}

/// The text of a call behind `fetched` bytes of members, and whether that is all of it; `None` where it could not be read.
/// Returns have none.
pub(super) fn of(plan: &TextPlan, record: &CallRecord, fetched: usize) -> Option<(String, bool)> {
    record.kind().filter(|kind| *kind != ring::Kind::Return)?;
    let (bytes, whole) = record.text(fetched)?;
    let length = plan
        .length
        .and_then(|register| record.args.get(register))
        .and_then(|length| usize::try_from(*length).ok())
        .filter(|length| plan.offset.is_none() && *length <= bytes.len());
    let (bytes, whole) = match length {
        Some(length) => (&bytes[..length], true),
        None => (bytes, whole),
    };
    Some((text_of(bytes), whole))
}

/// Offset of the name in what a pointer to one of [`NAMED`] points to.
fn named(btf: &Btf, ty: TypeId) -> Result<Option<u16>> {
    let pointer = btf.resolve(ty)?;
    let Some(to) = pointer.target().filter(|_| pointer.kind == Kind::Ptr) else {
        return Ok(None);
    };
    let to = btf.resolve(to)?;
    if to.kind != Kind::Struct {
        return Ok(None);
    }
    let member = NAMED.iter().find(|(name, _)| *name == to.name());
    let Some((_, path)) = member else {
        return Ok(None);
    };
    let field = btf.path(to.id, path)?.ok();
    Ok(field.and_then(|field| u16::try_from(field.offset()).ok()))
}

/// Tells whether a type is a pointer to `char`.
pub(super) fn is_chars(btf: &Btf, ty: TypeId) -> bool {
    let char = |ty: TypeId| {
        let pointer = btf.resolve(ty).ok()?;
        let to = btf.resolve(pointer.target()?).ok()?;
        let is = pointer.kind == Kind::Ptr && to.kind == Kind::Int;
        Some(is && to.name().ends_with("char"))
    };
    char(ty) == Some(true)
}

/// Tells whether what a pointer points to is `const`.
fn is_const(btf: &Btf, ty: TypeId) -> bool {
    let pointer = btf.resolve(ty).ok();
    let mut to = pointer.and_then(|pointer| pointer.target());
    for _ in 0..MAX_DEPTH {
        let Some(ty) = to.and_then(|to| btf.get(to)) else {
            return false;
        };
        if ty.kind == Kind::Const {
            return true;
        }
        to = ty.alias();
    }
    false
}
