//! Swap areas: `struct swap_info_struct` (`include/linux/swap.h`, `mm/swapfile.c`).

mod view;

use serde::Serialize;

use crate::fs::d_path;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{offset_of, settle_all};
use crate::{Error, Listing, Of as _, Result};

/// Swap areas that a kernel may have: `MAX_SWAPFILES` is below `1 << MAX_SWAPFILES_SHIFT`.
const AREA_BOUND: u32 = 32;
/// The top bit but one of `inuse_pages` says that the area is on no list: `SWAP_USAGE_OFFLIST_BIT`.
const IN_USE: u64 = !(1 << 62);

/// A swap area.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SwapArea {
    /// Its number: the type of its swap entries.
    pub number: u32,
    /// Address of its `struct swap_info_struct`.
    pub at: GuestVirt,
    /// The device's or file's path.
    pub path: String,
    /// True if it is a block device, not a file.
    pub device: bool,
    /// Pages that it has room for.
    pub pages: u64,
    /// Pages that are in use.
    pub used: u64,
    /// Its priority: the higher is used first.
    pub priority: i16,
    /// True if it takes pages; not while `swapoff` empties it.
    pub writable: bool,
}

/// All swap areas.
pub type SwapAreas = Listing<SwapArea>;

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct swap_info_struct")]
struct Raw {
    flags: u64,
    prio: i16,
    pages: u32,
    #[mirror(member = "inuse_pages.counter", or = "inuse_pages")]
    inuse_pages: u64,
    swap_file: GuestVirt,
}

/// Bits of `swap_info_struct.flags`.
#[derive(Debug)]
struct Flags {
    used: u64,
    writable: u64,
    device: u64,
}

/// The swap areas: `/proc/swaps`.
pub(crate) fn swap_areas(kernel: &Kernel) -> Result<SwapAreas> {
    settle_all("the swap areas", || areas(kernel))
}

/// `None` if one changed.
pub(crate) fn areas(kernel: &Kernel) -> Result<Option<SwapAreas>> {
    // Without CONFIG_SWAP there is no such array.
    let Some(first) = kernel.symbols()?.lookup("swap_info") else {
        return Ok(Some(Listing::from(Vec::new())));
    };
    let flags = kernel.once(|| {
        let flag = |name: &str| -> Result<u64> {
            let found = kernel.btf()?.find_enumerator(name);
            let none = || Error::Unsupported(format!("{} has no {name}", kernel.release()));
            found.map(|(_, bit)| bit.cast_unsigned()).ok_or_else(none)
        };
        Ok(Flags {
            used: flag("SWP_USED")?,
            writable: flag("SWP_WRITEOK")?,
            device: flag("SWP_BLKDEV")?,
        })
    })?;
    let at = kernel.symbol("nr_swapfiles")?;
    let count = kernel.read_u32(at)?;
    if count > AREA_BOUND {
        let why = format!("it is {count}, there are {AREA_BOUND} at most");
        return Err(Error::broken("nr_swapfiles", at, why));
    }
    let plan = Plan::<Raw>::new(kernel)?;
    let f_path = offset_of(kernel, "struct file", "f_path")?;
    let mut areas = SwapAreas::new();
    for number in 0..count {
        let at = kernel.read_u64(first.offset(8 * u64::from(number)));
        let at = match at {
            Ok(0) => continue,
            Ok(at) => GuestVirt(at),
            Err(error) => {
                areas.miss(format!("swap area {number}"), &error);
                continue;
            }
        };
        match area(kernel, &plan, &flags, f_path, (number, at)) {
            Ok(Some(Some(area))) => areas.items.push(area),
            Ok(Some(None)) => {}
            Ok(None) => return Ok(None),
            Err(error) => areas.miss(format!("swap area {number} at {at}"), &error),
        }
    }
    Ok(Some(areas))
}

/// `None` if it changed; nothing of one that is not in use.
fn area(
    kernel: &Kernel,
    plan: &Plan<Raw>,
    flags: &Flags,
    f_path: u64,
    (number, at): (u32, GuestVirt),
) -> Result<Option<Option<SwapArea>>> {
    let raw = plan.load(at)?;
    if raw.flags & flags.used == 0 || raw.swap_file.is_null() {
        return Ok(Some(None));
    }
    let used = raw.inuse_pages & IN_USE;
    if used > u64::from(raw.pages) {
        let why = format!("{used} of its {} pages are in use", raw.pages);
        return Err(Error::broken("swap area", at, why));
    }
    let area = SwapArea {
        number,
        at,
        path: d_path(kernel, raw.swap_file.offset(f_path))
            .of(|| format!("its swap_file {}", raw.swap_file))?,
        device: raw.flags & flags.device != 0,
        pages: raw.pages.into(),
        used,
        priority: raw.prio,
        writable: raw.flags & flags.writable != 0,
    };
    Ok((plan.load(at)?.swap_file == raw.swap_file).then_some(Some(area)))
}
