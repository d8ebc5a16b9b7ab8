//! Offsets of the members of the containers, by the guest's types.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::{IdrLayout, MapleLayout, MapleNodeLayout, PlistLayout, XarrayLayout};
use crate::kernel::Kernel;
use crate::kernel::btf::{Field, Shape};
use crate::{Error, Result};

/// The member of `c` (such as `struct task_struct`) at `path` (such as `tasks`, `se.vruntime`).
pub(crate) fn member(kernel: &Kernel, c: &str, path: &str) -> Result<Field> {
    let (btf, id) = kernel.find_composite(c)?;
    btf.path(id, path)?.map_err(|_| Error::NoMember {
        ty: c.to_owned(),
        member: path.to_owned(),
        release: kernel.release().to_owned(),
        hint: btf
            .nearest_member(id, path)
            .map_or_else(String::new, |near| format!("; did you mean `{near}`?")),
    })
}

/// The offset in bytes of a member: `offsetof()`.
///
/// # Errors
/// `Absent` if the kernel has no such structure or member; `Unsupported` if it has no BTF.
pub fn offset_of(kernel: &Kernel, c: &str, path: &str) -> Result<u64> {
    Ok(member(kernel, c, path)?.offset())
}

/// The values of the enumeration constants that were asked for: to find one, BTF must be searched from end to end.
#[derive(Default)]
struct Enumerators(Mutex<HashMap<&'static str, Option<i64>>>);

/// The value of an enumeration constant of the kernel's; `None` if it has none of this name.
///
/// # Errors
/// When the kernel's BTF cannot be read.
pub fn enumerator(kernel: &Kernel, name: &'static str) -> Result<Option<i64>> {
    let known = kernel.once(|| Ok(Enumerators::default()))?;
    let table = || known.0.lock().unwrap_or_else(PoisonError::into_inner);
    let found = table().get(name).copied();
    if let Some(found) = found {
        return Ok(found);
    }
    let value = kernel.btf()?.find_enumerator(name).map(|(_, value)| value);
    table().insert(name, value);
    Ok(value)
}

/// An array member: its offset, how many elements it has and how many bytes each.
///
/// # Errors
/// `Absent` where the kernel has no such type or member; `Unsupported` where it is no array.
pub fn array(kernel: &Kernel, c: &str, path: &str) -> Result<(u64, usize, u64)> {
    let field = member(kernel, c, path)?;
    let btf = kernel.btf()?;
    match btf.shape(field.ty)? {
        Shape::Array { element, count } => Ok((
            field.offset(),
            count as usize,
            btf.size_of(element)?.unwrap_or(0),
        )),
        _ => Err(Error::Unsupported(format!(
            "`{path}` of {c} is no array in {}",
            kernel.release()
        ))),
    }
}

impl MapleLayout {
    /// The layout of this kernel's maple trees. Kernels before 6.1 have none.
    ///
    /// # Errors
    /// `Absent` if it has none; as [`offset_of`].
    pub fn of(kernel: &Kernel) -> Result<Self> {
        Ok(*kernel.once(|| {
            let node = |c: &str| -> Result<MapleNodeLayout> {
                let (pivot, pivots, _) = array(kernel, c, "pivot")?;
                let (slot, slots, _) = array(kernel, c, "slot")?;
                let end = offset_of(kernel, c, "meta.end")?;
                Ok(MapleNodeLayout {
                    pivot,
                    pivots,
                    slot,
                    slots,
                    end,
                })
            };
            let (slot, slots, _) = array(kernel, "struct maple_node", "slot")?;
            Ok(Self {
                root: offset_of(kernel, "struct maple_tree", "ma_root")?,
                parent: offset_of(kernel, "struct maple_node", "parent")?,
                dense: MapleNodeLayout {
                    pivot: 0,
                    pivots: 0,
                    slot,
                    slots,
                    end: 0,
                },
                range: node("struct maple_range_64")?,
                arange: node("struct maple_arange_64")?,
            })
        })?)
    }
}

impl XarrayLayout {
    /// The layout of this kernel's xarrays.
    ///
    /// # Errors
    /// As [`offset_of`].
    pub fn of(kernel: &Kernel) -> Result<Self> {
        Ok(*kernel.once(|| {
            let (slots, chunk, _) = array(kernel, "struct xa_node", "slots")?;
            let at = |path| offset_of(kernel, "struct xa_node", path);
            Ok(Self {
                head: offset_of(kernel, "struct xarray", "xa_head")?,
                shift: at("shift")?,
                offset: at("offset")?,
                count: at("count")?,
                parent: at("parent")?,
                slots,
                chunk,
            })
        })?)
    }
}

impl IdrLayout {
    /// The layout of this kernel's idrs.
    ///
    /// # Errors
    /// As [`offset_of`].
    pub fn of(kernel: &Kernel) -> Result<Self> {
        Ok(*kernel.once(|| {
            Ok(Self {
                rt: offset_of(kernel, "struct idr", "idr_rt")?,
                base: offset_of(kernel, "struct idr", "idr_base")?,
                xarray: XarrayLayout::of(kernel)?,
            })
        })?)
    }
}

impl PlistLayout {
    /// The layout of this kernel's plists.
    ///
    /// # Errors
    /// As [`offset_of`].
    pub fn of(kernel: &Kernel) -> Result<Self> {
        let at = |path| offset_of(kernel, "struct plist_node", path);
        Ok(Self {
            prio: at("prio")?,
            prio_list: at("prio_list")?,
            node_list: at("node_list")?,
        })
    }
}
