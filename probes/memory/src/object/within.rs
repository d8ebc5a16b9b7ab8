//! From an offset in a structure back to the member that lies there.

use crate::Result;
use crate::kernel::Kernel;
use crate::kernel::btf::{Btf, Field, Shape, TypeId};

/// Structures in structures that are looked into.
const DEPTH: usize = 16;

impl Kernel {
    /// The path of the innermost member of `c` (such as `struct task_struct`) that holds the byte at an offset, and how
    /// far into it the byte lies: `se.run_node.rb_left`, `comm[3]`; of the members of a union the first that is large
    /// enough. `None` for padding.
    ///
    /// # Errors
    /// As [`Self::find_composite`]; `Broken` if BTF is damaged.
    pub fn member_at(&self, c: &str, offset: u64) -> Result<Option<(String, u64)>> {
        let (btf, id) = self.find_composite(c)?;
        let (mut ty, mut rest) = (id, offset);
        let mut path = String::new();
        for _ in 0..DEPTH {
            match btf.shape(ty)? {
                Shape::Composite { .. } => {
                    let Some((name, field)) = holder(&btf, ty, rest)? else {
                        break;
                    };
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                    (ty, rest) = (field.ty, rest - field.offset());
                }
                Shape::Array { element, .. } => {
                    let size = btf.size_of(element)?.unwrap_or(0);
                    let Some(index) = rest.checked_div(size) else {
                        break;
                    };
                    path.push_str(&format!("[{index}]"));
                    (ty, rest) = (element, rest % size);
                }
                _ => break,
            }
        }
        Ok((!path.is_empty()).then_some((path, rest)))
    }
}

/// The first member of a structure that holds the byte at an offset.
fn holder(btf: &Btf, composite: TypeId, offset: u64) -> Result<Option<(&str, Field)>> {
    for (name, field) in btf.fields(composite, usize::MAX)? {
        let size = match field.bits {
            0 => btf.size_of(field.ty)?.unwrap_or(0),
            bits => (field.bit_offset % 8 + u64::from(bits)).div_ceil(8),
        };
        if offset
            .checked_sub(field.offset())
            .is_some_and(|into| into < size)
        {
            return Ok(Some((name, field)));
        }
    }
    Ok(None)
}
