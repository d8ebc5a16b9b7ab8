//! PCI devices, bus by bus: `pci_root_buses`, `struct pci_bus`, `struct pci_dev` (`include/linux/pci.h`).

use serde::Serialize;

use super::{DEPTH, pointer, text};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{array, offset_of, settle_all, whole_list};
use crate::{Error, Listing, Of as _, Result};

/// Devices of one bus, and buses below one, that are read at most: there are 256 functions on a bus, and 256 buses.
const BOUND: usize = 256;
/// `IORESOURCE_IO` and `IORESOURCE_MEM` of `include/linux/ioport.h`.
const IO: u64 = 0x100;
const MEM: u64 = 0x200;

/// Address space of a region of a PCI device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum PciSpace {
    /// I/O ports.
    Io,
    /// Memory.
    Mem,
    /// Neither: not assigned, or disabled.
    None,
}

/// A region of a PCI device: a base address register, its ROM, or the window of a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PciRegion {
    /// Number of the region: 0 to 5 are the BARs, 6 the ROM, higher ones the windows of a bridge.
    pub index: usize,
    /// Its address space.
    pub space: PciSpace,
    /// Its first port or physical address.
    pub start: u64,
    /// Its last port or physical address.
    pub end: u64,
    /// `IORESOURCE_*`
    pub flags: u64,
}

/// A PCI device: one function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PciDevice {
    /// Address of its `struct pci_dev`.
    pub at: GuestVirt,
    /// Domain, bus, slot and function: `0000:00:1f.3`.
    pub slot: String,
    /// Its maker's number.
    pub vendor: u16,
    /// The maker's number of the device.
    pub device: u16,
    /// Number of the maker of the card that it is on.
    pub subsystem_vendor: u16,
    /// The maker's number of the card that it is on.
    pub subsystem_device: u16,
    /// Device class: base class, subclass and programming interface in a byte each.
    pub class: u32,
    /// Its revision.
    pub revision: u8,
    /// Its interrupt without MSI; 0 for none.
    pub irq: u32,
    /// The driver that has it.
    pub driver: Option<String>,
    /// The number of the bus behind it, if it is a bridge.
    pub bridges_to: Option<u8>,
    /// Its regions that are in use.
    pub regions: Vec<PciRegion>,
}

/// The PCI devices, bus by bus.
pub type PciDevices = Listing<PciDevice>;

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct pci_dev")]
struct Raw {
    #[mirror(member = "dev.kobj.name")]
    name: GuestVirt,
    #[mirror(member = "dev.driver")]
    driver: GuestVirt,
    subordinate: GuestVirt,
    vendor: u16,
    device: u16,
    subsystem_vendor: u16,
    subsystem_device: u16,
    class: u32,
    revision: u8,
    irq: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct resource")]
struct Resource {
    start: u64,
    end: u64,
    flags: u64,
}

/// The PCI devices, found from the root buses on: `/sys/bus/pci/devices`.
pub(crate) fn pci_devices(kernel: &Kernel) -> Result<PciDevices> {
    settle_all("the PCI devices", || {
        let mut devices = PciDevices::new();
        let roots = kernel.symbol("pci_root_buses")?;
        buses(kernel, roots, 0, &mut devices)?;
        devices.sort_by(|a, b| a.slot.cmp(&b.slot));
        Ok(Some(devices))
    })
}

/// The devices of the buses on a list, and of those below them.
fn buses(kernel: &Kernel, list: GuestVirt, depth: usize, devices: &mut PciDevices) -> Result<()> {
    if depth == DEPTH {
        return Err(Error::TooLong {
            what: "tree of PCI buses",
            at: list,
            bound: DEPTH,
        });
    }
    let of_bus = |member| offset_of(kernel, "struct pci_bus", member);
    let what = format!("the PCI buses on the list at {list}");
    let found = whole_list(kernel, list, of_bus("node")?, BOUND, &what);
    devices.missing.extend(found.missing);
    for bus in found.items {
        let on_bus = bus.offset(of_bus("devices")?);
        let member = offset_of(kernel, "struct pci_dev", "bus_list")?;
        let what = format!("the devices of the pci_bus at {bus}");
        let found = whole_list(kernel, on_bus, member, BOUND, &what);
        devices.missing.extend(found.missing);
        for at in found.items {
            devices.take(device(kernel, at), || format!("the pci_dev at {at}"));
        }
        // All buses of a domain have numbers of their own.
        if devices.len() > BOUND * BOUND {
            return Err(Error::TooLong {
                what: "tree of PCI buses",
                at: list,
                bound: BOUND * BOUND,
            });
        }
        if let Err(error) = buses(kernel, bus.offset(of_bus("children")?), depth + 1, devices) {
            devices.miss(format!("the buses below the pci_bus at {bus}"), &error);
        }
    }
    Ok(())
}

fn device(kernel: &Kernel, at: GuestVirt) -> Result<PciDevice> {
    let raw: Raw = kernel.load(at)?;
    let driver = match raw.driver.is_null() {
        true => None,
        false => {
            let name = offset_of(kernel, "struct device_driver", "name")?;
            let name = pointer(kernel, raw.driver.offset(name)).and_then(|at| text(kernel, at));
            Some(name.of(|| format!("its driver {}", raw.driver))?)
        }
    };
    let bridges_to = match raw.subordinate.is_null() {
        true => None,
        false => {
            let number = offset_of(kernel, "struct pci_bus", "number")?;
            let number = kernel.read_u8(raw.subordinate.offset(number));
            Some(number.of(|| format!("its subordinate {}", raw.subordinate))?)
        }
    };
    let (first, count, stride) = array(kernel, "struct pci_dev", "resource")?;
    let plan = Plan::<Resource>::new(kernel)?;
    let mut regions = Vec::new();
    for index in 0..count {
        let region = plan.load(at.offset(first + index as u64 * stride))?;
        if region.flags != 0 {
            regions.push(PciRegion {
                index,
                space: match region.flags & (IO | MEM) {
                    IO => PciSpace::Io,
                    MEM => PciSpace::Mem,
                    _ => PciSpace::None,
                },
                start: region.start,
                end: region.end,
                flags: region.flags,
            });
        }
    }
    Ok(PciDevice {
        at,
        slot: text(kernel, raw.name)?,
        vendor: raw.vendor,
        device: raw.device,
        subsystem_vendor: raw.subsystem_vendor,
        subsystem_device: raw.subsystem_device,
        class: raw.class,
        revision: raw.revision,
        irq: raw.irq,
        driver,
        bridges_to,
        regions,
    })
}
