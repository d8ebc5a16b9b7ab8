//! Buses, their drivers, and classes: `struct subsys_private` and `struct driver_private` (`drivers/base/base.h`).

use std::ops::Deref;

use serde::Serialize;

use super::{BOUND, pointer, text};
use crate::Result;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::{checked_list, offset_of, settle};

/// A driver of a bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Driver {
    /// Where its `struct device_driver` lies.
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
    /// Where its `struct bus_type` lies.
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
    /// Where its `struct class` lies.
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
}

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

impl Guest {
    /// The buses with their devices and drivers, and the classes with their devices: `/sys/bus` and `/sys/class`.
    pub fn buses(&self) -> Result<Buses> {
        let kernel = self.kernel()?;
        let core = Core::new(&kernel)?;
        settle("the buses", || {
            Ok(Some(Buses {
                buses: core.buses()?,
                classes: core.classes()?,
            }))
        })
    }
}

/// Where the members lie that lead from one list to another.
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
    fn subsystems(&self, kset: &str) -> Result<Vec<GuestVirt>> {
        let kset = pointer(self.kernel, self.kernel.symbol(kset)?)?;
        let list = kset.offset(offset_of(self.kernel, "struct kset", "list")?);
        let entry = offset_of(self.kernel, "struct subsys_private", "subsys.kobj.entry")?;
        checked_list(self.kernel, list, entry, BOUND)
    }

    /// What is on a `klist` of `owner`, whose node is this member of `c`; nodes that are being deleted are left out.
    fn klist(
        &self,
        owner: GuestVirt,
        (of, list): (&str, &str),
        (c, node): (&str, &str),
    ) -> Result<Vec<GuestVirt>> {
        let at = |member: &str| offset_of(self.kernel, c, &format!("{node}.{member}"));
        let head = owner.offset(offset_of(self.kernel, of, &format!("{list}.k_list"))?);
        let mut all = checked_list(self.kernel, head, at("n_node")?, BOUND)?;
        let klist = at("n_klist")?;
        let mut fault = None;
        // KNODE_DEAD of lib/klist.c.
        all.retain(|at| match self.kernel.read_u64(at.offset(klist)) {
            Ok(owner) => owner & 1 == 0,
            Err(error) => {
                fault = Some(error);
                false
            }
        });
        fault.map_or(Ok(all), Err)
    }

    /// The names of the devices on a `klist`.
    fn devices(
        &self,
        owner: GuestVirt,
        (of, list): (&str, &str),
        node: &str,
    ) -> Result<Vec<String>> {
        let c = "struct device_private";
        let all = self.klist(owner, (of, list), (c, node))?;
        let device = offset_of(self.kernel, c, "device")?;
        let mut names = Vec::with_capacity(all.len());
        for at in all {
            let device = pointer(self.kernel, at.offset(device))?;
            let name = pointer(self.kernel, device.offset(self.device_name))?;
            names.push(text(self.kernel, name)?);
        }
        Ok(names)
    }

    fn buses(&self) -> Result<Vec<Bus>> {
        let all = self.subsystems("bus_kset")?;
        let c = "struct subsys_private";
        let mut buses = Vec::new();
        for at in all {
            let raw = self.subsystem.load(at)?;
            let devices = self.devices(at, (c, "klist_devices"), "knode_bus")?;
            let node = ("struct driver_private", "knode_bus");
            let private = self.klist(at, (c, "klist_drivers"), node)?;
            let mut drivers = Vec::new();
            for at in private {
                drivers.push(self.driver(at)?);
            }
            buses.push(Bus {
                at: raw.bus,
                name: text(self.kernel, raw.name)?,
                devices,
                drivers,
            });
        }
        Ok(buses)
    }

    /// The driver whose `driver_private` lies at `private`.
    fn driver(&self, private: GuestVirt) -> Result<Driver> {
        let c = "struct driver_private";
        let at = offset_of(self.kernel, c, "driver")?;
        let at = pointer(self.kernel, private.offset(at))?;
        let raw = self.driver.load(at)?;
        let module = match raw.owner.is_null() {
            true => None,
            false => Some(self.kernel.load::<Owner>(raw.owner)?.name),
        };
        let devices = self.devices(private, (c, "klist_devices"), "knode_driver")?;
        let name = text(self.kernel, raw.name)?;
        Ok(Driver {
            at,
            name,
            module: module.map(|name| name.to_str().into_owned()),
            devices,
        })
    }

    fn classes(&self) -> Result<Vec<Class>> {
        let all = self.subsystems("class_kset")?;
        let c = "struct subsys_private";
        let mut classes = Vec::new();
        for at in all {
            let raw = self.subsystem.load(at)?;
            let devices = self.devices(at, (c, "klist_devices"), "knode_class")?;
            classes.push(Class {
                at: raw.class,
                name: text(self.kernel, raw.name)?,
                devices,
            });
        }
        Ok(classes)
    }
}
