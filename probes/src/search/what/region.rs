//! The parts of the address space: `Documentation/arch/x86/x86_64/mm.rst`, with the bases that KASLR chose.

use serde::Serialize;

use crate::Result;
use crate::kernel::Kernel;
use crate::memory::{GuestVirt, Paging};

/// A part of the address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Region {
    /// Name of the region.
    pub name: &'static str,
    /// Its first address.
    pub start: GuestVirt,
    /// Its last address.
    pub last: GuestVirt,
}

impl Region {
    const fn new(name: &'static str, start: u64, len: u64) -> Self {
        Self {
            name,
            start: GuestVirt(start),
            last: GuestVirt(start.saturating_add(len - 1)),
        }
    }

    /// Tells whether it holds an address.
    #[must_use]
    pub const fn holds(&self, at: GuestVirt) -> bool {
        self.start.0 <= at.0 && at.0 <= self.last.0
    }
}

/// The name of the region that the kernel itself is in.
pub(super) const IMAGE: &str = "kernel image";
/// The name of what no region has.
pub(super) const NON_CANONICAL: &str =
    "not an address: its upper bits are no copies of its highest translated bit";

const TIB: u64 = 1 << 40;
const GIB: u64 = 1 << 30;

/// The regions of a kernel's address space, those of processes first.
pub(crate) fn regions(kernel: &Kernel) -> Result<Vec<Region>> {
    let five = kernel.space().paging() == Some(Paging::FiveLevel);
    let base = |symbol: &str| -> Result<u64> {
        let at = kernel.symbol(symbol)?;
        kernel.read_u64(at)
    };
    let user = if five { 1 << 56 } else { 1 << 47 };
    // VMALLOC_SIZE_TB_L4 and _L5; the direct map is followed by a gap.
    let (direct, vmalloc, vmemmap) = if five {
        (32 << 50, 12800 * TIB, 512 * TIB)
    } else {
        (64 * TIB, 32 * TIB, TIB)
    };
    Ok(vec![
        Region::new("user space", 0, user),
        Region::new(
            "direct map of physical memory",
            kernel.page_offset_base()?.0,
            direct,
        ),
        Region::new("vmalloc space", base("vmalloc_base")?, vmalloc),
        Region::new(
            "vmemmap: the struct pages",
            kernel.vmemmap_base()?.0,
            vmemmap,
        ),
        Region::new("cpu_entry_area", 0xffff_fe00_0000_0000, TIB / 2),
        Region::new("espfix stacks", 0xffff_ff00_0000_0000, TIB / 2),
        Region::new("EFI runtime services", 0xffff_ffef_0000_0000, 64 * GIB),
        Region::new(IMAGE, 0xffff_ffff_8000_0000, GIB),
        Region::new("modules", 0xffff_ffff_c000_0000, GIB - 0x100_0000),
        Region::new("fixmap", 0xffff_ffff_ff00_0000, 0x60_0000),
        Region::new("vsyscall page", 0xffff_ffff_ff60_0000, 0x1000),
    ])
}

/// The region that holds an address. Where the direct map's size overlaps what follows it, the one with the higher base.
pub(super) fn of(regions: &[Region], at: GuestVirt, bits: u32) -> Region {
    let holding = regions.iter().filter(|region| region.holds(at));
    if let Some(region) = holding.max_by_key(|region| region.start) {
        return *region;
    }
    let unused = 64 - bits;
    let name = match (((at.0 << unused) as i64) >> unused) as u64 == at.0 {
        true => "a hole between the kernel's regions",
        false => NON_CANONICAL,
    };
    let before = regions
        .iter()
        .filter(|region| region.last < at)
        .map(|region| region.last.0);
    let after = regions
        .iter()
        .filter(|region| region.start > at)
        .map(|region| region.start.0);
    Region {
        name,
        start: GuestVirt(before.max().map_or(0, |last| last.wrapping_add(1))),
        last: GuestVirt(after.min().map_or(u64::MAX, |start| start - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_region_and_the_holes() {
        let regions = [
            Region::new("user", 0, 1 << 47),
            Region::new("direct", 0xffff_8880_0000_0000, 64 * TIB),
            Region::new("vmalloc", 0xffff_8980_0000_0000, 32 * TIB),
        ];
        let name = |at| of(&regions, GuestVirt(at), 48).name;
        assert_eq!(name(0x1000), "user");
        assert_eq!(name(0xffff_8880_0000_0000), "direct");
        assert_eq!(name(0xffff_8980_0000_0001), "vmalloc");
        assert_eq!(name(1 << 60), NON_CANONICAL);
        let hole = of(&regions, GuestVirt(u64::MAX), 48);
        assert_eq!(
            (hole.name, hole.last),
            ("a hole between the kernel's regions", GuestVirt(u64::MAX))
        );
    }
}
