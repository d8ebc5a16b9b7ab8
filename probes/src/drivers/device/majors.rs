//! Owners of device numbers: `chrdevs` (`fs/char_dev.c`), `major_names` (`block/genhd.c`), `misc_list`
//! (`drivers/char/misc.c`).

use serde::Serialize;

use super::{BOUND, DevT, pointer, text};
use crate::base::parts;
use crate::kernel::{Function, Functions, Kernel};
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::{chain, lacks, offset_of, settle_all, whole_list};
use crate::{Listing, Missing, Of as _, Result};

/// `CHRDEV_MAJOR_HASH_SIZE` and `BLKDEV_MAJOR_HASH_SIZE` of `include/linux/fs.h`, and the slots of a `kobj_map`.
const HASH: u64 = 255;

/// Device numbers of one driver of character devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CharRegion {
    /// Address of its `struct char_device_struct`.
    pub at: GuestVirt,
    /// The major number.
    pub major: u32,
    /// The first minor number.
    pub base_minor: u32,
    /// Number of minor numbers.
    pub minors: u32,
    /// Its name.
    pub name: String,
    /// `file_operations` of the first of its devices, by name.
    pub fops: Option<Function>,
}

/// A major number of block devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockMajor {
    /// Address of its `struct blk_major_name`.
    pub at: GuestVirt,
    /// The number.
    pub major: u32,
    /// Its name.
    pub name: String,
}

/// A device of the major number 10, for drivers that need no more than one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MiscDevice {
    /// Address of its `struct miscdevice`.
    pub at: GuestVirt,
    /// The minor number.
    pub minor: u32,
    /// Its name.
    pub name: String,
    /// Its `file_operations`, by name.
    pub fops: Option<Function>,
}

/// Device numbers and the drivers that have them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Majors {
    /// Character devices, as `/proc/devices` lists them.
    pub char: Vec<CharRegion>,
    /// Block devices, as `/proc/devices` lists them.
    pub block: Vec<BlockMajor>,
    /// Devices of the major number 10, as `/proc/misc` lists them.
    pub misc: Vec<MiscDevice>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

lacks!(Majors);

#[derive(Debug, Mirror)]
#[mirror(c = "struct char_device_struct")]
struct RawChar {
    major: u32,
    baseminor: u32,
    minorct: u32,
    name: FixedStr<64>,
    cdev: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct blk_major_name")]
struct RawBlock {
    major: u32,
    name: FixedStr<16>,
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct miscdevice")]
struct RawMisc {
    minor: u32,
    name: GuestVirt,
    fops: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct probe")]
struct Probe {
    next: GuestVirt,
    dev: u32,
    data: GuestVirt,
}

/// Owners of device numbers: `/proc/devices` and `/proc/misc`.
pub(crate) fn majors(kernel: &Kernel) -> Result<Majors> {
    settle_all("the device numbers", || {
        let mut missing = Vec::new();
        Ok(Some(Majors {
            char: parts(&mut missing, "character devices", chars(kernel)),
            block: parts(&mut missing, "block devices", blocks(kernel)),
            misc: parts(&mut missing, "miscellaneous devices", miscs(kernel)),
            missing,
        }))
    })
}

/// Lists the entries of a hash table of chains.
fn hashed(kernel: &Kernel, table: &str, next: u64) -> Result<Listing<GuestVirt>> {
    let table = kernel.symbol(table)?;
    let mut all = Listing::new();
    for slot in 0..HASH {
        let first = pointer(kernel, table.offset(slot * 8))?;
        let what = format!("slot {slot}");
        all.append(Listing::walk(&what, chain(kernel, first, next)));
    }
    Ok(all)
}

fn chars(kernel: &Kernel) -> Result<Listing<CharRegion>> {
    let functions = Functions::new(kernel);
    let plan = Plan::<RawChar>::new(kernel)?;
    let next = offset_of(kernel, "struct char_device_struct", "next")?;
    let ops = offset_of(kernel, "struct cdev", "ops")?;
    let mut regions = Listing::new();
    let nodes = hashed(kernel, "chrdevs", next)?;
    regions.missing = nodes.missing;
    for at in nodes.items {
        let region = || {
            let raw = plan.load(at)?;
            let cdev = match raw.cdev.is_null() {
                true => cdev_of(kernel, raw.major, raw.baseminor)?,
                false => Some(raw.cdev),
            };
            let fops = match cdev {
                Some(cdev) => functions
                    .of(pointer(kernel, cdev.offset(ops)).of(|| format!("its cdev {cdev}"))?)?,
                None => None,
            };
            Ok(CharRegion {
                at,
                major: raw.major,
                base_minor: raw.baseminor,
                minors: raw.minorct,
                name: raw.name.to_str().into_owned(),
                fops,
            })
        };
        regions.take(region(), || format!("the char_device_struct at {at}"));
    }
    // Stable: in a chain they ascend by their minor numbers.
    regions.sort_by_key(|region| region.major);
    Ok(regions)
}

/// The `cdev` of a device number, where its driver has added it: `kobj_lookup()`.
fn cdev_of(kernel: &Kernel, major: u32, minor: u32) -> Result<Option<GuestVirt>> {
    let map = pointer(kernel, kernel.symbol("cdev_map")?)?;
    let slot = u64::from(major) % HASH * 8;
    let probes = map.offset(offset_of(kernel, "struct kobj_map", "probes")? + slot);
    let next = offset_of(kernel, "struct probe", "next")?;
    for at in chain(kernel, pointer(kernel, probes)?, next) {
        let probe: Probe = kernel.load(at?)?;
        // The last one is not a driver's: it asks for a module.
        if !probe.next.is_null() && DevT::of(probe.dev) == (DevT { major, minor }) {
            return Ok(Some(probe.data));
        }
    }
    Ok(None)
}

fn blocks(kernel: &Kernel) -> Result<Listing<BlockMajor>> {
    let plan = Plan::<RawBlock>::new(kernel)?;
    let next = offset_of(kernel, "struct blk_major_name", "next")?;
    let mut majors = Listing::new();
    let nodes = hashed(kernel, "major_names", next)?;
    majors.missing = nodes.missing;
    for at in nodes.items {
        let major = plan.load(at).map(|raw| BlockMajor {
            at,
            major: raw.major,
            name: raw.name.to_str().into_owned(),
        });
        majors.take(major, || format!("the blk_major_name at {at}"));
    }
    majors.sort_by_key(|block| block.major);
    Ok(majors)
}

fn miscs(kernel: &Kernel) -> Result<Listing<MiscDevice>> {
    let functions = Functions::new(kernel);
    let head = kernel.symbol("misc_list")?;
    let list = offset_of(kernel, "struct miscdevice", "list")?;
    let mut devices = Listing::new();
    let nodes = whole_list(kernel, head, list, BOUND, "misc_list");
    devices.missing = nodes.missing;
    for at in nodes.items {
        let device = || {
            let raw: RawMisc = kernel.load(at)?;
            Ok(MiscDevice {
                at,
                minor: raw.minor,
                name: text(kernel, raw.name).of(|| format!("its name {}", raw.name))?,
                fops: functions.of(raw.fops)?,
            })
        };
        devices.take(device(), || format!("the miscdevice at {at}"));
    }
    Ok(devices)
}
