//! Buses, their drivers, and classes: `struct subsys_private` and `struct driver_private` (`drivers/base/base.h`).

use std::ops::Deref;

use serde::Serialize;

use super::{BOUND, pointer, text};
use crate::base::parts;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::{lacks, offset_of, settle_all, whole_list};
use crate::{Listing, Missing, Of as _, Result};

/// A driver of a bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Driver {
    /// Address of its `struct device_driver`.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
    /// The module that it is in; `None` for one that is built into the kernel.
    pub module: Option<String>,
    /// The devices that it has, by name.
    pub devices: Vec<String>,
}

/// A bus, with the devices on it and the drivers for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bus {
    /// Address of its `struct bus_type`.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
    /// The devices on it, by name.
    pub devices: Vec<String>,
    /// Its drivers.
    pub drivers: Vec<Driver>,
}

/// A class: what user space sees as one kind of device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Class {
    /// Address of its `struct class`.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
    /// Its devices, by name.
    pub devices: Vec<String>,
}

/// The buses, each with its drivers, and the classes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Buses {
    /// The buses: `/sys/bus`.
    pub buses: Vec<Bus>,
    /// The classes: `/sys/class`.
    pub classes: Vec<Class>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

lacks!(Buses);

impl Deref for Buses {
    type Target = [Bus];

    fn deref(&self) -> &[Bus] {
        &self.buses
    }
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct subsys_private")]
struct Subsystem {
    #[mirror(member = "subsys.kobj.name")]
    name: GuestVirt,
    bus: GuestVirt,
    class: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct device_driver")]
struct RawDriver {
    name: GuestVirt,
    owner: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct module")]
struct Owner {
    name: FixedStr<56>,
}

/// The buses with their devices and drivers, and the classes with their devices: `/sys/bus` and `/sys/class`.
pub(crate) fn buses(kernel: &Kernel) -> Result<Buses> {
    let core = Core::new(kernel)?;
    settle_all("the buses", || {
        let mut missing = Vec::new();
        Ok(Some(Buses {
            buses: core.buses(&mut missing)?,
            classes: core.classes(&mut missing)?,
            missing,
        }))
    })
}

/// Offsets of the members that lead from one list to another.
struct Core<'k> {
    kernel: &'k Kernel,
    subsystem: Plan<Subsystem>,
    driver: Plan<RawDriver>,
    /// `kobj.name` of a `struct device`.
    device_name: u64,
}

impl<'k> Core<'k> {
    fn new(kernel: &'k Kernel) -> Result<Self> {
        Ok(Self {
            kernel,
            subsystem: Plan::new(kernel)?,
            driver: Plan::new(kernel)?,
            device_name: offset_of(kernel, "struct device", "kobj.name")?,
        })
    }

    /// Each `subsys_private` of the kset that this global points to.
    fn subsystems(&self, kset: &str) -> Result<Listing<GuestVirt>> {
        let at = pointer(self.kernel, self.kernel.symbol(kset)?)?;
        let list = at.offset(offset_of(self.kernel, "struct kset", "list")?);
        let entry = offset_of(self.kernel, "struct subsys_private", "subsys.kobj.entry")?;
        let what = format!("the list of {kset}");
        Ok(whole_list(self.kernel, list, entry, BOUND, &what))
    }

    /// Lists the `klist` of `owner`, whose node is this member of `c`; nodes that are being deleted are left out.
    fn klist(
        &self,
        owner: GuestVirt,
        (of, list): (&str, &str),
        (c, node): (&str, &str),
    ) -> Result<Listing<GuestVirt>> {
        let at = |member: &str| offset_of(self.kernel, c, &format!("{node}.{member}"));
        let head = owner.offset(offset_of(self.kernel, of, &format!("{list}.k_list"))?);
        let what = format!("its {list}");
        let all = whole_list(self.kernel, head, at("n_node")?, BOUND, &what);
        let klist = at("n_klist")?;
        let mut alive = Listing::new();
        alive.missing = all.missing;
        for at in all.items {
            // KNODE_DEAD of lib/klist.c.
            match self.kernel.read_u64(at.offset(klist)) {
                Ok(owner) if owner & 1 == 0 => alive.items.push(at),
                Ok(_) => {}
                Err(error) => alive.miss(format!("the {c} at {at}"), &error),
            }
        }
        Ok(alive)
    }

    /// The names of the devices on a `klist`.
    fn devices(
        &self,
        owner: GuestVirt,
        (of, list): (&str, &str),
        node: &str,
    ) -> Result<Listing<String>> {
        let c = "struct device_private";
        let all = self.klist(owner, (of, list), (c, node))?;
        let device = offset_of(self.kernel, c, "device")?;
        let mut names = Listing::new();
        names.missing = all.missing;
        for at in all.items {
            let name = || {
                let device = pointer(self.kernel, at.offset(device))?;
                let name = pointer(self.kernel, device.offset(self.device_name))
                    .of(|| format!("its device {device}"))?;
                text(self.kernel, name).of(|| format!("its name {name}"))
            };
            names.take(name(), || format!("the device_private at {at}"));
        }
        Ok(names)
    }

    fn buses(&self, missing: &mut Vec<Missing>) -> Result<Vec<Bus>> {
        let c = "struct subsys_private";
        let mut buses = Listing::new();
        for at in self.subsystems("bus_kset")?.into_items(missing) {
            let mut bus = || {
                let raw = self.subsystem.load(at)?;
                let name = text(self.kernel, raw.name)?;
                let devices = self.devices(at, (c, "klist_devices"), "knode_bus");
                let devices = parts(missing, &format!("bus {name}"), devices);
                let node = ("struct driver_private", "knode_bus");
                let private = self.klist(at, (c, "klist_drivers"), node);
                let mut drivers = Listing::new();
                for at in parts(missing, &format!("bus {name}"), private) {
                    let driver = self.driver(at, missing);
                    drivers.take(driver, || format!("the driver_private at {at}"));
                }
                Ok(Bus {
                    at: raw.bus,
                    name,
                    devices,
                    drivers: drivers.into_items(missing),
                })
            };
            buses.take(bus(), || format!("the subsys_private at {at}"));
        }
        Ok(buses.into_items(missing))
    }

    /// The driver whose `driver_private` lies at `private`.
    fn driver(&self, private: GuestVirt, missing: &mut Vec<Missing>) -> Result<Driver> {
        let c = "struct driver_private";
        let at = offset_of(self.kernel, c, "driver")?;
        let at = pointer(self.kernel, private.offset(at))?;
        let raw = self.driver.load(at).of(|| format!("its driver {at}"))?;
        let module = match raw.owner.is_null() {
            true => None,
            false => {
                let owner = self.kernel.load::<Owner>(raw.owner);
                Some(owner.of(|| format!("its owner {}", raw.owner))?.name)
            }
        };
        let name = text(self.kernel, raw.name).of(|| format!("its name {}", raw.name))?;
        let devices = self.devices(private, (c, "klist_devices"), "knode_driver");
        let devices = parts(missing, &format!("driver {name}"), devices);
        Ok(Driver {
            at,
            name,
            module: module.map(|name| name.to_str().into_owned()),
            devices,
        })
    }

    fn classes(&self, missing: &mut Vec<Missing>) -> Result<Vec<Class>> {
        let c = "struct subsys_private";
        let mut classes = Listing::new();
        for at in self.subsystems("class_kset")?.into_items(missing) {
            let mut class = || {
                let raw = self.subsystem.load(at)?;
                let name = text(self.kernel, raw.name)?;
                let devices = self.devices(at, (c, "klist_devices"), "knode_class");
                Ok(Class {
                    at: raw.class,
                    devices: parts(missing, &format!("class {name}"), devices),
                    name,
                })
            };
            classes.take(class(), || format!("the subsys_private at {at}"));
        }
        Ok(classes.into_items(missing))
    }
}
