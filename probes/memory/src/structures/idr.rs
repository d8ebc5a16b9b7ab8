//! `struct idr`: identifiers to pointers, an xarray with a base (`include/linux/idr.h`).

use super::word;
use super::xarray::{Xarray, XarrayLayout, validate_xarray, xa_for_each, xa_load};
use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;

/// Offsets of the members of `struct idr`, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdrLayout {
    /// `idr.idr_rt`, an xarray.
    pub rt: u64,
    /// `idr.idr_base`, an `unsigned int`.
    pub base: u64,
    /// The xarray's own layout.
    pub xarray: XarrayLayout,
}

/// A walk through an idr: see [`idr_for_each`].
#[derive(Debug, Clone)]
pub struct Idr<'k> {
    base: u64,
    entries: Xarray<'k>,
}

/// Walks the idr at `idr`: yields identifier and pointer, ascending.
///
/// # Errors
/// `Unmapped` if its base is not in RAM. Later errors are the walk's items.
pub fn idr_for_each(kernel: &Kernel, idr: GuestVirt, layout: IdrLayout) -> Result<Idr<'_>> {
    Ok(Idr {
        base: base(kernel, idr, layout)?,
        entries: xa_for_each(kernel, idr.offset(layout.rt), layout.xarray),
    })
}

/// The pointer of `id`, if it is in use: `idr_find()`.
///
/// # Errors
/// As [`xa_load`].
pub fn idr_load(
    kernel: &Kernel,
    idr: GuestVirt,
    layout: IdrLayout,
    id: u64,
) -> Result<Option<GuestVirt>> {
    let Some(index) = id.checked_sub(base(kernel, idr, layout)?) else {
        return Ok(None);
    };
    Ok(
        xa_load(kernel, idr.offset(layout.rt), layout.xarray, index)?
            .map(|entry| GuestVirt(entry.entry)),
    )
}

/// Checks the idr at `idr` as [`validate_xarray`] does. Returns the number of identifiers.
///
/// # Errors
/// As [`validate_xarray`].
pub fn validate_idr(
    kernel: &Kernel,
    idr: GuestVirt,
    layout: IdrLayout,
    bound: usize,
) -> Result<usize> {
    validate_xarray(kernel, idr.offset(layout.rt), layout.xarray, bound)
}

fn base(kernel: &Kernel, idr: GuestVirt, layout: IdrLayout) -> Result<u64> {
    Ok(word(kernel, idr.offset(layout.base))? & 0xffff_ffff)
}

impl Idr<'_> {
    /// The same walk, giving up after `nodes` tree nodes.
    #[must_use]
    pub fn bound(self, nodes: usize) -> Self {
        Self {
            entries: self.entries.bound(nodes),
            ..self
        }
    }
}

impl Iterator for Idr<'_> {
    type Item = Result<(u64, GuestVirt)>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.entries.next()?;
        Some(entry.map(|entry| (entry.index.wrapping_add(self.base), GuestVirt(entry.entry))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Image;
    use super::*;

    #[test]
    fn identifiers_begin_at_the_base() {
        let xarray = XarrayLayout {
            head: 8,
            shift: 0,
            offset: 1,
            count: 2,
            parent: 8,
            slots: 40,
            chunk: 64,
        };
        let layout = IdrLayout {
            rt: 0,
            base: 16,
            xarray,
        };
        let mut image = Image::default();
        image.set(0x1008, 0x2002);
        image.set(0x1010, 7 << 32 | 1);
        image.fill(0x2000, &[0; 576]);
        image.fill(0x2002, &[2]);
        image.set(0x2000 + 40, 0x5000);
        image.set(0x2000 + 40 + 8 * 9, 0x6000);
        let (kernel, idr) = (image.kernel(), GuestVirt(0x1000));
        let all: Vec<_> = idr_for_each(&kernel, idr, layout)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(all, [(1, GuestVirt(0x5000)), (10, GuestVirt(0x6000))]);
        assert_eq!(
            idr_load(&kernel, idr, layout, 10),
            Ok(Some(GuestVirt(0x6000)))
        );
        assert_eq!(idr_load(&kernel, idr, layout, 0), Ok(None));
        assert_eq!(validate_idr(&kernel, idr, layout, 10), Ok(2));
    }
}
