//! klab's module in real guests, its rings read in their RAM.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod abuse;
mod count;
#[path = "../../../kmod/ring.rs"]
mod ring;
mod rounds;

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ring::{
    Arm, Counters, How, KLAB_ARM, KLAB_COUNTERS, KLAB_DISARM, KLAB_FILTER, KLAB_SITES, RECORD,
};
use ring::{Filter, Record, Site, Sites, VERSION};
use vm::agent::Client;
use vm::toolchain::Toolchain;
use vm::{Kernel, KernelChoice, Machine, Options, Owner, Silent};

/// Path of the module in a guest.
const KO: &str = "/run/klab.ko";

/// A module and where its sources are, built once.
struct Module {
    name: &'static str,
    folder: &'static str,
    built: OnceLock<PathBuf>,
}

static KLAB: Module = Module {
    name: "klab",
    folder: "../kmod",
    built: OnceLock::new(),
};
/// Module that the tests plant and call.
static TEST: Module = Module {
    name: "klab_test",
    folder: "../kmod/test",
    built: OnceLock::new(),
};

/// The built module.
fn module(module: &'static Module) -> &'static Path {
    module.built.get_or_init(|| {
        let kernel = Kernel::resolve(&KernelChoice::Default, &mut Silent).unwrap();
        let toolchain = Toolchain::of(&kernel).unwrap();
        toolchain.ensure(&mut Say).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(module.folder);
        toolchain.build(module.name, &source, &mut Say).unwrap()
    })
}

struct Say;

impl vm::Progress for Say {
    fn step(&mut self, text: &str) {
        eprintln!("{text}");
    }
}

/// A guest with the module loaded, and a client of its agent.
struct Guest {
    machine: Option<Machine>,
    client: Client,
    ram: File,
}

impl Guest {
    fn up(name: &str, cpus: u32) -> Self {
        let options = Options {
            cpus,
            owner: Owner::ThisProcess,
            ..Options::default()
        };
        let name = format!("kmod-{name}-{}", std::process::id());
        let machine = Machine::up(&name, &options, &mut Silent).unwrap();
        let mut client = machine.agent().unwrap();
        client.push_file(module(&KLAB), KO).unwrap();
        client.load_module(KO, "").unwrap();
        let ram = File::open(&machine.ram().unwrap().path).unwrap();
        Self {
            machine: Some(machine),
            client,
            ram,
        }
    }

    fn another(&self) -> Client {
        self.machine.as_ref().unwrap().agent().unwrap()
    }

    fn sh(&mut self, line: &str) -> String {
        let output = self.client.shell(line).unwrap();
        assert!(
            output.status.success(),
            "{line}: {:?} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        output.text()
    }

    /// The addresses of these functions, as the guest's own kallsyms has them.
    fn addresses(&mut self, names: &[&str]) -> Vec<u64> {
        let symbols = self.client.kallsyms().unwrap();
        let find = |name: &&str| symbols.iter().find(|symbol| symbol.name == **name);
        names
            .iter()
            .map(|name| find(name).unwrap_or_else(|| panic!("no {name}")).address)
            .collect()
    }

    fn read(&self, gpa: u64, to: &mut [u8]) {
        let ranges = &self.machine.as_ref().unwrap().ram().unwrap().ranges;
        let range = ranges
            .iter()
            .find(|range| (range.gpa..range.gpa + range.len).contains(&gpa))
            .unwrap();
        self.ram
            .read_exact_at(to, range.offset + gpa - range.gpa)
            .unwrap();
    }

    fn counters(&mut self) -> Counters {
        counters(&mut self.client)
    }

    /// All records that the rings hold, and how many were overwritten. Only while nothing is armed.
    fn records(&mut self) -> (Vec<Record>, u64) {
        let counters = self.counters();
        let (mut records, mut lost) = (Vec::new(), 0);
        for info in &counters.rings[..counters.cpus as usize] {
            let slots = u64::from(counters.slots);
            let first = info.produced.saturating_sub(slots);
            lost += first;
            let mut all = vec![0; slots as usize * RECORD];
            self.read(info.records, &mut all);
            for n in first..info.produced {
                let at = (n % slots) as usize * RECORD;
                let record = Record::from_bytes(all[at..at + RECORD].try_into().unwrap());
                assert_eq!(
                    (record.sequence(), record.kind().is_some()),
                    (n as u32, true),
                    "{record:?}"
                );
                records.push(record);
            }
        }
        records.sort_by_key(|record| record.time);
        (records, lost)
    }
}

fn site(address: u64, position: u8, how: How) -> Site {
    Site {
        address,
        position,
        how: how as u8,
        zero: [0; 6],
    }
}

fn arm(
    client: &mut Client,
    sites: &[Site],
    filter: Option<Filter>,
    ring: u32,
    tracepoints: u64,
) -> vm::agent::Result<()> {
    client.device_open()?;
    for some in sites.chunks(ring::SITES) {
        client.device_ioctl(KLAB_SITES, &Sites::to_bytes(some))?;
    }
    if let Some(filter) = filter {
        client.device_ioctl(KLAB_FILTER, &filter.to_bytes())?;
    }
    let arm = Arm {
        version: VERSION,
        ring,
        tracepoints,
        owner: std::process::id().into(),
    };
    client.device_ioctl(KLAB_ARM, &arm.to_bytes()).map(|_| ())
}

fn disarm(client: &mut Client) {
    client.device_ioctl(KLAB_DISARM, &[]).unwrap();
}

fn counters(client: &mut Client) -> Counters {
    let bytes = client.device_ioctl(KLAB_COUNTERS, &[]).unwrap();
    let counters = Counters::from_bytes(bytes.as_slice().try_into().unwrap());
    assert_eq!((counters.magic, counters.version), (ring::MAGIC, VERSION));
    counters
}

impl Deref for Guest {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Guest {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(machine) = self.machine.take() {
            if std::thread::panicking() {
                let log = std::fs::read(machine.serial_log()).unwrap_or_default();
                eprintln!(
                    "the console ends with:\n{}",
                    String::from_utf8_lossy(&log[log.len().saturating_sub(6000)..])
                );
                let kmsg = self
                    .client
                    .shell("dmesg | tail -40")
                    .map(|output| output.text());
                eprintln!("{kmsg:?}");
            }
            let _ = machine.down();
        }
    }
}
