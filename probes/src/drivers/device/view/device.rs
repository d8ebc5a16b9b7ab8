//! Devices as the tree that they are, buses with their drivers, device numbers.

use crate::Missing;
use crate::drivers::device::{Buses, Device, Devices, Majors};
use crate::view::{Align, Table, View};

crate::lists! { Device => devices }

fn devices(all: &Devices) -> Table {
    use Align::Left;
    let mut table = Table::new([
        ("DEVICE", Left),
        ("BUS", Left),
        ("CLASS", Left),
        ("DRIVER", Left),
        ("DEV", Left),
    ]);
    let mut above: Vec<&str> = Vec::new();
    for device in all.iter() {
        above.truncate(device.depth);
        let parent = above.last().map_or(0, |path| path.len() + 1);
        above.push(&device.path);
        table.row([
            format!(
                "{}{}",
                "  ".repeat(device.depth),
                device.path.get(parent..).unwrap_or_default()
            ),
            device.bus.clone().unwrap_or_default(),
            device.class.clone().unwrap_or_default(),
            device.driver.clone().unwrap_or_default(),
            device.dev.map_or_else(String::new, |dev| dev.to_string()),
        ]);
    }
    table.note(format!("{} devices", all.len()));
    table.lacks(&all.missing);
    table
}

impl View for Buses {
    fn text(&self) -> String {
        let (buses, classes) = buses(self);
        format!("{}\n{}", buses.text(), classes.text())
    }

    fn html(&self) -> Option<String> {
        let (buses, classes) = buses(self);
        Some(buses.html()? + &classes.html()?)
    }

    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }
}

fn buses(all: &Buses) -> (Table, Table) {
    use Align::{Left, Right};
    let mut buses = Table::new([
        ("BUS", Left),
        ("DEVICES", Right),
        ("DRIVER", Left),
        ("MODULE", Left),
        ("HAS", Left),
    ]);
    for bus in all.iter() {
        let first = [bus.name.clone(), bus.devices.len().to_string()];
        if bus.drivers.is_empty() {
            buses.row(first.clone());
        }
        for (i, driver) in bus.drivers.iter().enumerate() {
            let [name, devices] = if i == 0 {
                first.clone()
            } else {
                Default::default()
            };
            buses.row([
                name,
                devices,
                driver.name.clone(),
                driver.module.clone().unwrap_or_default(),
                driver.devices.join(" "),
            ]);
        }
    }
    let mut classes = Table::new([("CLASS", Left), ("DEVICES", Right), ("", Left)]);
    for class in &all.classes {
        classes.row([
            class.name.clone(),
            class.devices.len().to_string(),
            class.devices.join(" "),
        ]);
    }
    classes.lacks(&all.missing);
    (buses, classes)
}

impl View for Majors {
    fn text(&self) -> String {
        majors(self).text()
    }

    fn html(&self) -> Option<String> {
        majors(self).html()
    }

    fn missing(&self) -> Vec<crate::Missing> {
        majors(self).missing()
    }
}

fn majors(all: &Majors) -> Table {
    use Align::Left;
    let mut table = Table::new([
        ("KIND", Left),
        ("NUMBERS", Left),
        ("NAME", Left),
        ("FILE_OPERATIONS", Left),
    ]);
    for region in &all.char {
        let first = region.base_minor;
        let last = u64::from(first) + u64::from(region.minors).saturating_sub(1);
        table.row([
            "char".to_owned(),
            format!("{}:{first}-{last}", region.major),
            region.name.clone(),
            region
                .fops
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
        ]);
    }
    for block in &all.block {
        table.row([
            "block".to_owned(),
            block.major.to_string(),
            block.name.clone(),
            String::new(),
        ]);
    }
    for misc in &all.misc {
        table.row([
            "misc".to_owned(),
            format!("10:{}", misc.minor),
            misc.name.clone(),
            misc.fops
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
        ]);
    }
    table.lacks(&all.missing);
    table
}

crate::displays!(Buses, Majors);
