//! The driver core, PCI, device numbers, resources and disks: `/sys`, `/proc/devices`, `/proc/iomem`, `/proc/diskstats`.

use std::collections::{BTreeMap, BTreeSet};

use probes::device::{Buses, Devices, Disk, Disks, Majors, PciDevices, Resources};

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_those_of_sys);

/// Devices beside those of the bare guest: disks with a queue and without, with partitions, network devices.
const MORE: &str = r#"
    modprobe null_blk nr_devices=2 gb=1 queue_mode=2 irqmode=2 completion_nsec=4000000000 hw_queue_depth=16 submit_queues=2
    modprobe brd rd_nr=2 rd_size=8192
    modprobe loop max_loop=2
    modprobe mq_deadline 2>/dev/null || true
    ip link add d0 type dummy
    printf 'n\np\n1\n\n+2M\nn\np\n2\n\n\nw\n' | fdisk /dev/ram0 >/dev/null 2>&1
    echo mq-deadline >/sys/block/nullb1/queue/scheduler
    dd if=/dev/zero of=/dev/ram1 bs=4k count=100 conv=fsync 2>/dev/null
    dd if=/dev/ram0p2 of=/dev/null bs=4k count=50 2>/dev/null
    blockdev --setro /dev/ram1
"#;

pub(crate) fn are_those_of_sys(kernel: &str) {
    let mut ground = Ground::bare(kernel, vm::Options::default().memory);
    ground.sh(MORE);
    tree(&mut ground, kernel);
    buses(&mut ground, kernel);
    pci(&mut ground, kernel);
    numbers(&mut ground, kernel);
    resources(&mut ground, kernel);
    disks(&mut ground, kernel);
    requests(&mut ground, kernel);
}

/// `lrwxrwxrwx 1 0 0 0 Nov 24 20:00 ./a/b -> ../c/d`, as (`a/b`, `../c/d`).
fn link(line: &str) -> (String, String) {
    let (left, target) = line.rsplit_once(" -> ").unwrap();
    let (_, path) = left.split_once(" ./").unwrap();
    (path.to_owned(), target.to_owned())
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

/// Bus or class, driver and number of each device in sysfs.
fn ask_tree(ground: &mut Ground) -> BTreeMap<String, (String, String, String)> {
    let mut devices = BTreeMap::new();
    let uevents = ground.sh("cd /sys/devices && find . -name uevent");
    for path in uevents.lines() {
        let path = path.strip_prefix("./").unwrap();
        // Folders that hold devices of one class have no such file.
        let Some(path) = path.strip_suffix("/uevent") else {
            continue;
        };
        devices.insert(path.to_owned(), Default::default());
    }
    for name in ["subsystem", "driver"] {
        let links = ground.sh(&format!(
            "cd /sys/devices && find . -type l -name {name} -exec ls -l {{}} +"
        ));
        for line in links.lines() {
            let (path, target) = link(line);
            let path = path.strip_suffix(&format!("/{name}")).unwrap();
            let Some((subsystem, driver, _)) = devices.get_mut(path) else {
                continue;
            };
            if name == "driver" {
                last(&target).clone_into(driver);
            } else {
                // ../../bus/pci, ../../class/net
                let parts: Vec<&str> = target.rsplitn(3, '/').collect();
                *subsystem = format!("{}/{}", parts[1], parts[0]);
            }
        }
    }
    let numbers = ground.sh("cd /sys/devices && find . -type f -name dev -exec grep -H . {} +");
    for line in numbers.lines() {
        let (path, number) = line.split_once("/dev:").unwrap();
        if let Some(device) = devices.get_mut(path.strip_prefix("./").unwrap()) {
            number.trim().clone_into(&mut device.2);
        }
    }
    devices
}

fn tree(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("devices on {kernel}"));
    let (before, seen, after): (_, Devices, _) = ground.sandwich(ask_tree, |guest| guest.devices());
    let paths: BTreeSet<&str> = seen.iter().map(|device| device.path.as_str()).collect();
    let listed: BTreeSet<&str> = before.keys().map(String::as_str).collect();
    let later: BTreeSet<&str> = after.keys().map(String::as_str).collect();
    ledger.steady("/sys/devices", "paths", &paths, (&listed, &later));
    for device in seen.iter() {
        let (Some(first), Some(second)) = (before.get(&device.path), after.get(&device.path))
        else {
            continue;
        };
        let subsystem = match (&device.bus, &device.class) {
            (Some(bus), _) => format!("bus/{bus}"),
            (None, Some(class)) => format!("class/{class}"),
            (None, None) => String::new(),
        };
        let path = &device.path;
        ledger.steady(path, "subsystem", &subsystem, (&first.0, &second.0));
        let driver = device.driver.clone().unwrap_or_default();
        ledger.steady(path, "driver", &driver, (&first.1, &second.1));
        let number = device.dev.map(|dev| dev.to_string()).unwrap_or_default();
        ledger.steady(path, "dev", &number, (&first.2, &second.2));
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        let above = above.filter(|above| paths.contains(above)).count();
        ledger.same(path, "depth", &device.depth, &above);
    }
    ledger.end(&[
        ("paths", 1),
        ("subsystem", 150),
        ("driver", 150),
        ("dev", 150),
        ("depth", 150),
    ]);
}

/// Contents of `/sys/bus` and `/sys/class`: devices of a bus, of a driver, of a class; drivers' modules.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listed {
    buses: BTreeMap<String, BTreeSet<String>>,
    drivers: BTreeMap<(String, String), BTreeSet<String>>,
    modules: BTreeMap<(String, String), String>,
    classes: BTreeMap<String, BTreeSet<String>>,
}

fn ask_buses(ground: &mut Ground) -> Listed {
    let mut listed = Listed::default();
    for line in ground.sh("cd /sys && find bus class -maxdepth 5").lines() {
        let parts: Vec<&str> = line.split('/').collect();
        match parts.as_slice() {
            ["bus", bus] => {
                listed.buses.entry((*bus).to_owned()).or_default();
            }
            ["bus", bus, "devices", device] => {
                let devices = listed.buses.entry((*bus).to_owned()).or_default();
                devices.insert((*device).to_owned());
            }
            ["bus", bus, "drivers", driver] => {
                let key = ((*bus).to_owned(), (*driver).to_owned());
                listed.drivers.entry(key).or_default();
            }
            ["class", class] => {
                listed.classes.entry((*class).to_owned()).or_default();
            }
            _ => {}
        }
    }
    let links = "cd /sys && find ./bus/*/drivers/ ./class/ -maxdepth 2 -type l -exec ls -l {} +";
    for line in ground.sh(links).lines() {
        let (path, target) = link(
            &line
                .replace("drivers//", "drivers/")
                .replace("class//", "class/"),
        );
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            ["bus", bus, "drivers", driver, "module"] => {
                let key = ((*bus).to_owned(), (*driver).to_owned());
                listed.modules.insert(key, last(&target).to_owned());
            }
            ["bus", bus, "drivers", driver, device] => {
                let key = ((*bus).to_owned(), (*driver).to_owned());
                let devices = listed.drivers.entry(key).or_default();
                devices.insert((*device).to_owned());
            }
            ["class", class, device] => {
                let devices = listed.classes.entry((*class).to_owned()).or_default();
                devices.insert((*device).to_owned());
            }
            _ => {}
        }
    }
    // Drivers that are built in have a module, too, which is not loaded.
    let loaded = ground.sh("cut -d' ' -f1 /proc/modules");
    let loaded: BTreeSet<&str> = loaded.lines().collect();
    listed
        .modules
        .retain(|_, module| loaded.contains(module.as_str()));
    listed
}

fn buses(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("buses on {kernel}"));
    let (before, seen, after): (_, Buses, _) = ground.sandwich(ask_buses, |guest| guest.buses());
    let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    let of = |listed: &Listed| listed.buses.keys().cloned().collect::<Vec<_>>();
    let mut names: Vec<String> = seen.iter().map(|bus| bus.name.clone()).collect();
    names.sort();
    ledger.steady("/sys/bus", "buses", &names, (&of(&before), &of(&after)));
    // A `class_compat` (`drivers/base/class.c`) is a folder among the classes and no class.
    let compat = |name: &&String| *name != "i2c-adapter";
    let of = |listed: &Listed| {
        let names = listed.classes.keys().filter(compat);
        names.cloned().collect::<Vec<_>>()
    };
    let mut names: Vec<String> = seen.classes.iter().map(|c| c.name.clone()).collect();
    names.sort();
    ledger.steady("/sys/class", "classes", &names, (&of(&before), &of(&after)));
    let mut drivers = Vec::new();
    for bus in seen.iter() {
        let own = |listed: &Listed| listed.buses.get(&bus.name).cloned().unwrap_or_default();
        let devices = set(&bus.devices);
        ledger.steady(
            &bus.name,
            "devices",
            &devices,
            (&own(&before), &own(&after)),
        );
        for driver in &bus.drivers {
            let key = (bus.name.clone(), driver.name.clone());
            let own = |listed: &Listed| listed.drivers.get(&key).cloned().unwrap_or_default();
            let who = format!("{} {}", bus.name, driver.name);
            ledger.steady(
                &who,
                "bound",
                &set(&driver.devices),
                (&own(&before), &own(&after)),
            );
            let own = |listed: &Listed| listed.modules.get(&key).cloned();
            ledger.steady(
                &who,
                "module",
                &driver.module,
                (&own(&before), &own(&after)),
            );
            drivers.push(key);
        }
    }
    drivers.sort();
    let of = |listed: &Listed| listed.drivers.keys().cloned().collect::<Vec<_>>();
    ledger.steady("/sys/bus", "drivers", &drivers, (&of(&before), &of(&after)));
    for class in &seen.classes {
        let own = |listed: &Listed| listed.classes.get(&class.name).cloned().unwrap_or_default();
        let devices = set(&class.devices);
        ledger.steady(
            &class.name,
            "members",
            &devices,
            (&own(&before), &own(&after)),
        );
    }
    ledger.end(&[
        ("buses", 1),
        ("classes", 1),
        ("devices", 15),
        ("drivers", 1),
        ("bound", 15),
        ("module", 15),
        ("members", 15),
    ]);
}

/// Files of a PCI device: its numbers, the lines of `resource`, its driver.
type PciFiles = (Vec<u64>, Vec<[u64; 3]>, String);

fn ask_pci(ground: &mut Ground) -> BTreeMap<String, PciFiles> {
    let mut devices = BTreeMap::new();
    let said = ground.sh(
        "cd /sys/bus/pci/devices && for d in *; do echo = $d $(readlink $d/driver); \
         cat $d/vendor $d/device $d/subsystem_vendor $d/subsystem_device $d/class $d/revision; \
         cat $d/resource; done",
    );
    for block in said.split("= ").skip(1) {
        let mut lines = block.lines();
        let head = lines.next().unwrap();
        let (slot, driver) = head.split_once(' ').unwrap_or((head, ""));
        let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
        let (mut numbers, mut regions) = (Vec::new(), Vec::new());
        for line in lines {
            let words: Vec<u64> = line.split_whitespace().map(hex).collect();
            match *words.as_slice() {
                [number] => numbers.push(number),
                [start, end, flags] => regions.push([start, end, flags]),
                _ => panic!("{line}"),
            }
        }
        let driver = last(driver).to_owned();
        devices.insert(slot.to_owned(), (numbers, regions, driver));
    }
    devices
}

fn pci(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("PCI on {kernel}"));
    let (before, seen, after): (_, PciDevices, _) =
        ground.sandwich(ask_pci, |guest| guest.pci_devices());
    ledger.same("PCI", "same twice", &(before == after), &true);
    let slots: Vec<&String> = seen.iter().map(|device| &device.slot).collect();
    ledger.same("PCI", "slots", &slots, &before.keys().collect());
    for device in seen.iter() {
        let Some((numbers, regions, driver)) = before.get(&device.slot) else {
            continue;
        };
        let own = [
            device.vendor.into(),
            device.device.into(),
            device.subsystem_vendor.into(),
            device.subsystem_device.into(),
            device.class.into(),
            device.revision.into(),
        ];
        ledger.same(&device.slot, "numbers", &own.as_slice(), &&**numbers);
        let found = device.driver.clone().unwrap_or_default();
        ledger.same(&device.slot, "driver", &found, driver);
        for (index, region) in regions.iter().enumerate() {
            let own = device.regions.iter().find(|own| own.index == index);
            let own = own.map_or([0; 3], |own| [own.start, own.end, own.flags]);
            // The kernel hides bits that are its own alone from the file.
            ledger.same(&device.slot, "region", &own, region);
        }
    }
    ledger.end(&[("slots", 1), ("numbers", 5), ("driver", 5), ("region", 40)]);
}

fn numbers(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("device numbers on {kernel}"));
    let ask = |ground: &mut Ground| {
        (
            ground.sh("cat /proc/devices"),
            ground.sh("cat /proc/misc; ls -l /dev/null /dev/zero"),
        )
    };
    let (before, seen, after): (_, Majors, _) = ground.sandwich(ask, |guest| guest.majors());
    let mut devices = "Character devices:\n".to_owned();
    for region in &seen.char {
        devices += &format!("{:3} {}\n", region.major, region.name);
    }
    devices += "\nBlock devices:\n";
    for block in &seen.block {
        devices += &format!("{:3} {}\n", block.major, block.name);
    }
    ledger.steady("/proc", "devices", &devices, (&before.0, &after.0));
    let mut misc: Vec<(u32, &str)> = Vec::new();
    for device in &seen.misc {
        misc.push((device.minor, &device.name));
    }
    let said: Vec<(u32, &str)> = before
        .1
        .lines()
        .filter(|line| !line.contains("/dev/"))
        .map(|line| line.trim().split_once(' ').unwrap())
        .map(|(minor, name)| (minor.parse().unwrap(), name))
        .collect();
    ledger.same("/proc", "misc", &misc, &said);
    // The drivers' operations, by names that the kernel's source has.
    let fops = |name: &str| {
        let found = seen.char.iter().find(|region| region.name == name).unwrap();
        found.fops.as_ref().unwrap().to_string()
    };
    ledger.same("mem", "fops", &fops("mem").as_str(), &"memory_fops");
    ledger.same("ttyS", "fops", &fops("ttyS").as_str(), &"tty_fops");
    ledger.same("misc", "fops", &fops("misc").as_str(), &"misc_fops");
    ledger.end(&[("devices", 1), ("misc", 1), ("fops", 3)]);
}

fn resources(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("resources on {kernel}"));
    let ask = |ground: &mut Ground| [ground.sh("cat /proc/iomem"), ground.sh("cat /proc/ioports")];
    let (before, seen, after): (_, [Resources; 2], _) =
        ground.sandwich(ask, |guest| Ok([guest.iomem()?, guest.ioports()?]));
    for (i, (all, width)) in seen.iter().zip([8, 4]).enumerate() {
        let lines = all.iter().map(|resource| {
            let indent = "  ".repeat(resource.depth);
            format!(
                "{indent}{:0width$x}-{:0width$x} : {}\n",
                resource.start, resource.end, resource.name
            )
        });
        let text: String = lines.collect();
        let root = all.root.as_deref().unwrap();
        ledger.same(root, "ranges", &(all.len() > 20), &true);
        ledger.steady(root, "text", &text, (&before[i], &after[i]));
    }
    ledger.end(&[("ranges", 2), ("text", 2)]);
}

/// Jiffies are these many milliseconds in Debian's kernels (CONFIG_HZ=250).
const MS_PER_JIFFY: u64 = 4;

/// A line of `/proc/diskstats` behind the device's number and name.
fn stats_of(stats: &probes::device::DiskStats, in_flight: u64) -> Vec<u64> {
    let kinds = [stats.read, stats.write, stats.discard];
    let mut line = Vec::new();
    for (i, kind) in kinds.iter().enumerate() {
        line.extend([kind.ios, kind.merges, kind.sectors, kind.nsecs / 1_000_000]);
        if i == 1 {
            let all = kinds.iter().chain([&stats.flush]);
            let nsecs: u64 = all.map(|kind| kind.nsecs).sum();
            line.extend([in_flight, stats.io_ticks * MS_PER_JIFFY, nsecs / 1_000_000]);
        }
    }
    line.extend([stats.flush.ios, stats.flush.nsecs / 1_000_000]);
    line
}

type Stats = BTreeMap<String, (String, Vec<u64>)>;

fn ask_stats(ground: &mut Ground) -> (Stats, String) {
    let mut stats = BTreeMap::new();
    for line in ground.sh("cat /proc/diskstats").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = format!("{}:{}", words[0], words[1]);
        let counts = words[3..].iter().map(|word| word.parse().unwrap());
        stats.insert(words[2].to_owned(), (number, counts.collect()));
    }
    let files = ground.sh(
        "cd /sys/block && for d in *; do echo $d $(cat $d/size $d/ro) \
         $([ -d $d/mq ] && cat $d/queue/nr_requests || echo -) \
         $(cat $d/queue/logical_block_size $d/queue/scheduler); \
         for p in $d/$d?*; do [ -d $p ] && echo part $d ${p#*/} $(cat $p/partition $p/start $p/size); done; done; true",
    );
    (stats, files)
}

fn disks(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("disks on {kernel}"));
    let (before, seen, after): (_, Disks, _) = ground.sandwich(ask_stats, |guest| guest.disks());
    let mut names: Vec<&String> = seen.iter().map(|disk| &disk.name).collect();
    names.extend(
        seen.iter()
            .flat_map(|d| d.partitions.iter().map(|p| &p.name)),
    );
    names.sort();
    let listed: Vec<&String> = before.0.keys().collect();
    ledger.steady(
        "/proc",
        "names",
        &names,
        (&listed, &after.0.keys().collect()),
    );
    let mut compare = |name: &String, number: String, own: Vec<u64>| {
        let [first, second] = [&before.0, &after.0].map(|stats| stats.get(name).cloned());
        let (first, second) = (first.unwrap(), second.unwrap());
        ledger.steady(name, "number", &number, (&first.0, &second.0));
        ledger.steady(name, "stats", &own, (&first.1, &second.1));
    };
    let mut files = String::new();
    for disk in seen.iter() {
        let in_flight = disk.in_flight.unwrap().iter().sum();
        let own = stats_of(&disk.stats.unwrap(), in_flight);
        compare(&disk.name, disk.dev.to_string(), own);
        let queue = disk.queue.as_ref().unwrap();
        let scheduler = match (&queue.elevator, queue.mq) {
            (Some(name), _) => name.as_str(),
            (None, _) => "none",
        };
        files += &format!(
            "{} {} {} {} {} {scheduler}\n",
            disk.name,
            disk.sectors,
            u8::from(disk.read_only),
            match queue.mq {
                true => queue.nr_requests.to_string(),
                false => "-".to_owned(),
            },
            queue.logical_block_size,
        );
        for part in &disk.partitions {
            let own = stats_of(&part.stats.unwrap(), 0);
            compare(&part.name, part.dev.to_string(), own);
            files += &format!(
                "part {} {} {} {} {}\n",
                disk.name, part.name, part.partno, part.start, part.sectors
            );
        }
    }
    // `none` or `[none] mq-deadline`: the one in use. Two disks in the order of their names.
    let tidy = |said: &str| {
        let lines = said.lines().map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            if words[0] == "part" {
                return line.to_owned();
            }
            let current = words[5..].iter().find(|word| word.starts_with('['));
            let current = current.or(words.get(5)).copied().unwrap_or("none");
            let current = current.trim_matches(['[', ']']);
            format!("{} {current}", words[..5].join(" "))
        });
        let mut lines: Vec<String> = lines.collect();
        lines.sort();
        lines
    };
    let said = (&tidy(&before.1), &tidy(&after.1));
    ledger.steady("/sys/block", "files", &tidy(&files), said);
    let of = |name: &str| seen.iter().find(|disk| disk.name == name).unwrap();
    ledger.same(
        "nullb1",
        "elevator",
        &of("nullb1").queue.as_ref().unwrap().elevator.as_deref(),
        &Some("mq-deadline"),
    );
    ledger.same("ram1", "read only", &of("ram1").read_only, &true);
    ledger.same("ram0", "partitions", &of("ram0").partitions.len(), &2);
    ledger.same(
        "ram1",
        "written",
        &(of("ram1").stats.unwrap().write.sectors >= 800),
        &(of("ram1").stats.unwrap().write.ios > 0),
    );
    ledger.end(&[("names", 1), ("number", 6), ("stats", 6), ("files", 1)]);
}

/// Requests that blk-mq's own files show: the disk, the queue, the operation, the state, the tags.
fn ask_busy(ground: &mut Ground) -> (BTreeSet<String>, BTreeMap<String, String>) {
    let said = ground.sh("cd /sys/kernel/debug/block && grep -H op= nullb*/hctx*/busy || true");
    let mut busy = BTreeSet::new();
    for line in said.lines() {
        let (file, request) = line.split_once(':').unwrap();
        let file: Vec<&str> = file.split('/').collect();
        let field = |name: &str| {
            let (_, rest) = request.split_once(&format!(".{name}=")).unwrap();
            rest.split([',', '}']).next().unwrap().to_owned()
        };
        busy.insert(format!(
            "{} queue {} {} {} tag {} {}",
            file[0],
            file[1].trim_start_matches("hctx"),
            field("op"),
            field("state"),
            field("tag"),
            field("internal_tag")
        ));
    }
    let counts = ground.sh("cd /sys/block && grep -H . nullb*/inflight");
    let counts = counts.lines().map(|line| {
        let (file, counts) = line.split_once(':').unwrap();
        let counts: Vec<&str> = counts.split_whitespace().collect();
        (file.split('/').next().unwrap().to_owned(), counts.join(" "))
    });
    (busy, counts.collect())
}

fn requests(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("requests on {kernel}"));
    let mut most = 0;
    for round in 0..4 {
        // Each takes four seconds.
        ground.sh(&format!(
            "for i in 1 2 3; do for d in 0 1; do
                dd if=/dev/nullb$d of=/dev/null bs=4k count=1 skip=$((i * 1000 + {round})) iflag=direct >/dev/null 2>&1 </dev/null &
                dd if=/dev/zero of=/dev/nullb$d bs=8k count=1 seek=$((i * 1000 + {round})) oflag=direct >/dev/null 2>&1 </dev/null &
            done; done
            for i in $(seq 30); do [ $(cat /sys/kernel/debug/block/nullb*/hctx*/busy | wc -l) -ge 10 ] && break; sleep 0.1; done"
        ));
        let (before, seen, after): (_, Disks, _) = ground.sandwich(ask_busy, |guest| guest.disks());
        ground.sh("while pidof dd >/dev/null; do sleep 0.2; done");
        let disks: Vec<&Disk> = seen
            .iter()
            .filter(|d| d.name.starts_with("nullb"))
            .collect();
        let mut own = BTreeSet::new();
        for disk in &disks {
            for request in disk.queue.as_ref().unwrap().requests.as_ref().unwrap() {
                let op = request.op.trim_start_matches("REQ_OP_");
                let state = request.state.trim_start_matches("MQ_RQ_").to_lowercase();
                own.insert(format!(
                    "{} queue {} {op} {state} tag {} {}",
                    disk.name, request.hw_queue, request.tag, request.internal_tag
                ));
                let sector = request.sector;
                let (first, size) = match request.writes {
                    false => (1000 * 8..=3007 * 8, 4096),
                    true => (1000 * 16..=3007 * 16, 8192),
                };
                ledger.same(&disk.name, "sector", &first.contains(&sector), &true);
                ledger.same(&disk.name, "bytes", &request.bytes, &size);
            }
            let said = |asked: &(_, BTreeMap<String, String>)| asked.1[&disk.name].clone();
            let counts = disk
                .in_flight
                .unwrap()
                .map(|count| count.to_string())
                .join(" ");
            ledger.steady(
                &disk.name,
                "in flight",
                &counts,
                (&said(&before), &said(&after)),
            );
        }
        most = most.max(own.len());
        ledger.steady("nullb", "busy", &own, (&before.0, &after.0));
    }
    ledger.same("nullb", "many at once", &(most >= 8), &true);
    ledger.end(&[("busy", 2), ("in flight", 4), ("sector", 20), ("bytes", 20)]);
}
