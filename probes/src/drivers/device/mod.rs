//! The driver core: devices, the buses and classes they are of, the drivers that have them (`drivers/base`).

mod block;
mod driver;
mod majors;
mod pci;
mod resource;
mod view;

pub(crate) use resource::ioports;

pub(crate) use resource::iomem;

pub(crate) use majors::majors;

pub(crate) use block::disks;

pub(crate) use pci::pci_devices;

pub(crate) use driver::buses;

use std::collections::HashMap;

pub use block::{BlockRequest, Disk, DiskStats, Disks, Partition, RequestQueue, Transfers};
pub use driver::{Bus, Buses, Class, Driver};
pub use majors::{BlockMajor, CharRegion, Majors, MiscDevice};
pub use pci::{PciDevice, PciDevices, PciRegion, PciSpace};
pub use resource::{Resource, Resources};
use serde::Serialize;

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{offset_of, settle_all, whole_list};
use crate::{Error, Listing, Of as _, Result};

/// Devices, drivers, buses and classes that are read at most, of each.
const BOUND: usize = 1 << 16;
/// Folders above a device in sysfs at most.
const DEPTH: usize = 64;
/// Bytes of the longest name.
const NAME: usize = 256;
/// `MINORBITS` of `include/linux/kdev_t.h`.
const MINOR_BITS: u32 = 20;

/// A device number, as `/proc/devices` and `ls -l` write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct DevT {
    /// Number of the driver.
    pub major: u32,
    /// Number among the driver's devices.
    pub minor: u32,
}

impl DevT {
    /// `MAJOR()` and `MINOR()` of a `dev_t`.
    #[must_use]
    pub const fn of(dev: u32) -> Self {
        Self {
            major: dev >> MINOR_BITS,
            minor: dev & ((1 << MINOR_BITS) - 1),
        }
    }
}

impl std::fmt::Display for DevT {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// A device: a `struct device` that is registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Address of its `struct device`.
    pub at: GuestVirt,
    /// Its folder in sysfs, below `/sys/devices/`.
    pub path: String,
    /// Number of devices above it in that path.
    pub depth: usize,
    /// The bus that it is on.
    pub bus: Option<String>,
    /// The class that it is of; one that is on a bus rarely has one.
    pub class: Option<String>,
    /// The driver that has it.
    pub driver: Option<String>,
    /// Its device number, where it has a file in `/dev`.
    pub dev: Option<DevT>,
}

/// All devices, those below one another together.
pub type Devices = Listing<Device>;

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct device")]
struct Raw {
    kobj: Kobject,
    bus: GuestVirt,
    class: GuestVirt,
    driver: GuestVirt,
    devt: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Mirror)]
#[mirror(c = "struct kobject")]
struct Kobject {
    name: GuestVirt,
    parent: GuestVirt,
}

/// Every device that is registered: the kset `devices`, which is `/sys/devices`.
pub(crate) fn devices(kernel: &Kernel) -> Result<Devices> {
    settle_all("the devices", || read(kernel))
}

/// `None` if they changed.
fn read(kernel: &Kernel) -> Result<Option<Devices>> {
    let kset = pointer(kernel, kernel.symbol("devices_kset")?)?;
    let list = kset.offset(offset_of(kernel, "struct kset", "list")?);
    let root = kset.offset(offset_of(kernel, "struct kset", "kobj")?);
    let plan = Plan::<Raw>::new(kernel)?;
    let entry = offset_of(kernel, "struct device", "kobj.entry")?;
    let all = whole_list(kernel, list, entry, BOUND, "the list of devices_kset");
    let mut names = Names::new(kernel)?;
    let name = |at| format!("the device at {at}");
    let devices = Listing::each(all, name, |at| {
        let raw = plan.load(at)?;
        let path = names.path(&raw.kobj, root);
        let path = path.of(|| format!("its path (kobj.name at {})", raw.kobj.name))?;
        let device = Device {
            at,
            path,
            depth: 0,
            bus: names
                .of(raw.bus, "struct bus_type")
                .of(|| format!("its bus {}", raw.bus))?,
            class: names
                .of(raw.class, "struct class")
                .of(|| format!("its class {}", raw.class))?,
            driver: names
                .of(raw.driver, "struct device_driver")
                .of(|| format!("its driver {}", raw.driver))?,
            dev: (raw.devt != 0).then(|| DevT::of(raw.devt)),
        };
        Ok((plan.load(at)? == raw).then_some(device))
    });
    let Some(mut devices) = devices else {
        return Ok(None);
    };
    // A slash sorts before all that a name may hold beside it, so that what is below a device comes right after it.
    devices.sort_by(|a, b| a.path.split('/').cmp(b.path.split('/')));
    let mut above: Vec<String> = Vec::new();
    for device in devices.iter_mut() {
        let below = |path: &String| {
            device
                .path
                .strip_prefix(path.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
        };
        while above.last().is_some_and(|path| !below(path)) {
            above.pop();
        }
        device.depth = above.len();
        above.push(device.path.clone());
    }
    Ok(Some(devices))
}

/// Names of what many devices share, each read once.
struct Names<'k> {
    kernel: &'k Kernel,
    known: HashMap<GuestVirt, Option<String>>,
    kobject: Plan<Kobject>,
}

impl<'k> Names<'k> {
    fn new(kernel: &'k Kernel) -> Result<Self> {
        Ok(Self {
            kernel,
            known: HashMap::new(),
            kobject: Plan::new(kernel)?,
        })
    }

    /// The `name` of the structure at `at`, if there is one.
    fn of(&mut self, at: GuestVirt, c: &str) -> Result<Option<String>> {
        if at.is_null() {
            return Ok(None);
        }
        if let Some(known) = self.known.get(&at) {
            return Ok(known.clone());
        }
        let name = at.offset(offset_of(self.kernel, c, "name")?);
        let name = text(self.kernel, pointer(self.kernel, name)?)?;
        self.known.insert(at, Some(name.clone()));
        Ok(Some(name))
    }

    /// The folder of a kobject, below the one at `root`: `kobject_get_path()`.
    fn path(&self, kobject: &Kobject, root: GuestVirt) -> Result<String> {
        let mut names = vec![text(self.kernel, kobject.name)?];
        let mut parent = kobject.parent;
        while parent != root {
            if parent.is_null() {
                let why = "it is on the list of devices_kset, but not below its kobject";
                return Err(Error::broken("path of a device", root, why));
            }
            if names.len() == DEPTH {
                return Err(Error::TooLong {
                    what: "path of a device",
                    at: parent,
                    bound: DEPTH,
                });
            }
            let above = self.kobject.load(parent)?;
            names.push(text(self.kernel, above.name)?);
            parent = above.parent;
        }
        names.reverse();
        Ok(names.join("/"))
    }
}

fn pointer(kernel: &Kernel, at: GuestVirt) -> Result<GuestVirt> {
    kernel.read_u64(at).map(GuestVirt)
}

/// A name, which NULL stands for an empty one of.
fn text(kernel: &Kernel, at: GuestVirt) -> Result<String> {
    match at.is_null() {
        true => Ok(String::new()),
        false => kernel.read_cstr(at, NAME),
    }
}
