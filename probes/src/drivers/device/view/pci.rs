//! PCI devices, and the owners of memory and ports.

use crate::drivers::device::{PciDevice, PciDevices, PciRegion, PciSpace, Resources};
use crate::view::{Align, Table, View, bytes};

crate::lists! { PciDevice => pci }

fn pci(all: &PciDevices) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("SLOT", Left),
        ("VENDOR:DEVICE", Left),
        ("CLASS", Left),
        ("", Left),
        ("REV", Right),
        ("IRQ", Right),
        ("DRIVER", Left),
        ("REGIONS", Left),
    ]);
    for device in all.iter() {
        let mut regions = device.regions.iter().map(region);
        table.row([
            device.slot.clone(),
            format!("{:04x}:{:04x}", device.vendor, device.device),
            format!("{:06x}", device.class),
            base_class(device.class).to_owned(),
            format!("{:02x}", device.revision),
            match device.irq {
                0 => String::new(),
                irq => irq.to_string(),
            },
            device.driver.clone().unwrap_or_default(),
            regions.next().unwrap_or_default(),
        ]);
        for region in regions {
            let mut row = vec![String::new(); 7];
            row.push(region);
            table.row(row);
        }
    }
    table.note(format!("{} devices", all.len()));
    table.lacks(&all.missing);
    table
}

/// `BAR 1: memory 0xfebfe000 to 0xfebfefff, 4 KiB`
fn region(region: &PciRegion) -> String {
    let which = match region.index {
        index @ 0..=5 => format!("BAR {index}"),
        6 => "ROM".to_owned(),
        index => format!("window {index}"),
    };
    let space = match region.space {
        PciSpace::Io => "ports",
        PciSpace::Mem => "memory",
        PciSpace::None => "unassigned",
    };
    let size = region.end.wrapping_sub(region.start).wrapping_add(1);
    format!(
        "{which}: {space} {:#x} to {:#x}, {}",
        region.start,
        region.end,
        bytes(size)
    )
}

/// The base class's name (`include/linux/pci_ids.h`, the PCI Code and ID Assignment Specification).
const fn base_class(class: u32) -> &'static str {
    match class >> 16 {
        0x01 => "storage",
        0x02 => "network",
        0x03 => "display",
        0x04 => "multimedia",
        0x05 => "memory",
        0x06 => "bridge",
        0x07 => "communication",
        0x08 => "system",
        0x09 => "input",
        0x0a => "docking station",
        0x0b => "processor",
        0x0c => "serial bus",
        0x0d => "wireless",
        0x0e => "intelligent",
        0x0f => "satellite",
        0x10 => "crypto",
        0x11 => "signal processing",
        0x12 => "accelerator",
        _ => "",
    }
}

impl View for Resources {
    fn text(&self) -> String {
        resources(self).text()
    }

    fn html(&self) -> Option<String> {
        resources(self).html()
    }

    fn missing(&self) -> Vec<crate::Missing> {
        resources(self).missing()
    }
}

fn resources(all: &Resources) -> Table {
    use Align::{Left, Right};
    // As wide as /proc has them.
    let width = if all.end < 1 << 16 { 4 } else { 8 };
    let mut table = Table::new([("RANGE", Left), ("SIZE", Right), ("OWNER", Left)]);
    for resource in all.iter() {
        let size = resource.end.wrapping_sub(resource.start).wrapping_add(1);
        let indent = "  ".repeat(resource.depth);
        table.row([
            format!(
                "{indent}{:0width$x}-{:0width$x}",
                resource.start, resource.end
            ),
            bytes(size),
            format!("{indent}{}", resource.name),
        ]);
    }
    let root = all.root.as_deref().unwrap_or("resources");
    table.note(format!("{root}: {} ranges", all.len()));
    table.lacks(&all.missing);
    table
}

crate::displays!(Resources);
