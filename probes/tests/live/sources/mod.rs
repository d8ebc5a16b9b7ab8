//! One guest that stands still, read by every way there is: all readers must give the same.

mod foreign;
mod machines;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use probes::{Guest, Result};
use serde::Serialize;
use serde_json::Value;
use vm::{Kernel, KernelChoice, Machine, Memory, Silent, State};

use crate::ground::Ground;
use crate::ledger::Ledger;

pub(crate) use foreign::{holes_are_left_alone, in_odd_places, of_someone_else, ram_is_added};
use machines::Qmp;
pub(crate) use machines::{Attached, Foreign};

/// Values of the readers, by their names.
fn readings(guest: &Guest) -> Result<Vec<(&'static str, Value)>> {
    fn json(value: impl Serialize) -> Value {
        serde_json::to_value(value).unwrap()
    }
    let tasks = guest.tasks()?;
    let user = || tasks.iter().filter(|task| task.mm.is_some());
    let each = |read: &dyn Fn(i32) -> Result<Value>| {
        let all = user().map(|task| read(task.pid));
        Ok::<_, probes::Error>(Value::Array(all.collect::<Result<_>>()?))
    };
    Ok(vec![
        ("tasks", json(&tasks)),
        ("tree", json(guest.task_tree()?)),
        ("mm", each(&|pid| Ok(json(guest.address_map(pid)?)))?),
        ("vmas", each(&|pid| Ok(json(guest.vmas(pid)?)))?),
        ("files", each(&|pid| Ok(json(guest.files(pid)?)))?),
        ("mounts", json(guest.mounts(1)?)),
        ("net", json(guest.net_devices()?)),
        ("sockets", json(guest.sockets()?)),
        ("modules", json(guest.modules()?)),
        ("log", json(guest.log()?)),
        ("run queues", json(guest.run_queues()?)),
        ("stacks", json(guest.stack_traces()?)),
        ("eval", json(guest.eval("init_task.tasks")?.to_value()?)),
        ("symbol", json(guest.symbol("init_task")?)),
        ("walk", json(guest.page_walk(guest.symbol("init_task")?)?)),
    ])
}

fn compare(ledger: &mut Ledger, source: &str, truth: &[(&'static str, Value)], guest: &Guest) {
    let began = Instant::now();
    match readings(guest) {
        Ok(read) => {
            for ((name, here), (_, there)) in read.iter().zip(truth) {
                // The values are long: what differs is enough.
                if here == there {
                    ledger.same(source, name, &(), &());
                } else {
                    ledger.fault(format!(
                        "{source}: {name} differ: {}",
                        first_difference(here, there)
                    ));
                }
            }
        }
        Err(error) => ledger.fault(format!("{source}: {error}")),
    }
    println!("{source}: {:.2} s", began.elapsed().as_secs_f64());
}

fn first_difference(here: &Value, there: &Value) -> String {
    match (here, there) {
        (Value::Array(here), Value::Array(there)) if here.len() == there.len() => {
            let pair = here.iter().zip(there).find(|(here, there)| here != there);
            pair.map_or_else(String::new, |(here, there)| first_difference(here, there))
        }
        (Value::Object(here), Value::Object(there)) if here.len() == there.len() => {
            let found = here
                .iter()
                .find(|(name, value)| there.get(*name) != Some(value));
            found.map_or_else(String::new, |(name, value)| {
                let other = there.get(name).unwrap_or(&Value::Null);
                format!("{name}: {}", first_difference(value, other))
            })
        }
        _ => format!("{here:.300} {there:.300}"),
    }
}

/// Its kernels are older than the guests', so it is told to go on (`-f` overwrites, too).
fn makedumpfile(options: &[&str], from: &Path, to: &Path) {
    let mut command = Command::new("makedumpfile");
    command.args(options).arg("--message-level").arg("0");
    let ran = if options.contains(&"-F") {
        let out = std::fs::File::create(to).unwrap();
        command.arg(from).stdout(out).output()
    } else {
        command.arg("-f").arg(from).arg(to).output()
    };
    let ran = ran.expect("makedumpfile is not installed: `apt install makedumpfile`");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "makedumpfile {options:?}: {said}");
}

/// Every 61st page of RAM.
fn same_pages(ledger: &mut Ledger, who: &str, core: &Guest, truth: &Guest) {
    let (core, truth) = (core.kernel().unwrap(), truth.kernel().unwrap());
    let (core, truth) = (core.space().memory(), truth.space().memory());
    for range in truth.ranges() {
        for at in (0..range.len).step_by(61 * 4096) {
            let at = range.start.offset(at);
            let (mut here, mut there) = ([1; 4096], [0; 4096]);
            core.read(at, &mut here).unwrap();
            truth.read_once(at, &mut there).unwrap();
            ledger.same(format!("{who} {at}"), "page", &(here == there), &true);
        }
    }
}

/// The threads that gdb finds in a core, with the address at which each is.
fn threads_of_gdb(core: &Path) -> Vec<(u32, u64)> {
    let ran = Command::new("gdb")
        .args(["-nx", "-batch", "-ex"])
        .arg(format!("core-file {}", core.display()))
        .args(["-ex", "thread apply all p/x $rip"])
        .output()
        .expect("gdb is not installed: `apt install gdb`");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let mut threads = Vec::new();
    for line in said.lines() {
        // Thread 2 (LWP 2):
        if let Some((_, rest)) = line.split_once("(LWP ") {
            let id = rest.split(')').next().and_then(|id| id.parse().ok());
            threads.push((id.unwrap(), 0));
        } else if let (Some((_, hex)), Some(last)) = (line.split_once(" = 0x"), threads.last_mut())
        {
            last.1 = u64::from_str_radix(hex.trim(), 16).unwrap();
        }
    }
    // The CPUs that it names first, while it opens the file, have no registers yet.
    threads.retain(|(_, rip)| *rip != 0);
    threads.sort_unstable();
    threads
}

/// klab's own guest with a crowd in it, as it is attached to and dumped.
pub(crate) fn give_the_same(kernel: &str) {
    let ground = Ground::new(kernel);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let machine = ground.guest.machine().unwrap();
    let (qmp, gdb) = (machine.qmp_socket(), machine.gdb_socket());
    let mut ledger = Ledger::new(format!("sources of {kernel}"));
    machine.pause().unwrap();
    let truth = readings(&ground.guest).unwrap();

    let attached = Attached::new("mapped", &qmp, None);
    assert!(matches!(attached.memory(), Memory::Files(_)));
    compare(&mut ledger, "attached", &truth, &attached.guest);
    drop(attached);
    let attached = Attached::new("by-gdb", &qmp, gdb.to_str());
    assert!(matches!(attached.memory(), Memory::Gdb { .. }));
    compare(&mut ledger, "gdbstub", &truth, &attached.guest);
    drop(attached);
    // It was paused before, and is.
    assert!(!machine.runs().unwrap());

    let dumped = file("klab");
    let dump = ground.guest.dump(&dumped).unwrap();
    assert_eq!((dump.cpus, dump.memory), (2, machine.memory().bytes()));
    compare(
        &mut ledger,
        "klab dump",
        &truth,
        &Guest::open_core(&dumped).unwrap(),
    );
    // gdb has a thread for each CPU, by its number and one, with the registers that QEMU gives.
    let registers = ground.guest.registers().unwrap();
    let ours: Vec<(u32, u64)> = registers.iter().map(|cpu| (cpu.cpu + 1, cpu.rip)).collect();
    assert_eq!(threads_of_gdb(&dumped), ours);
    let mut client = Qmp::connect(&qmp);
    for format in ["elf", "kdump-zlib"] {
        client.dump(&file(format), format);
        let core = Guest::open_core(file(format)).unwrap();
        compare(&mut ledger, format, &truth, &core);
    }
    if kernel.starts_with("6.1-") || kernel == "6.1" {
        // Without zeros, caches, user's and free pages. It takes slabs of newer kernels for those.
        let to = file("left out");
        makedumpfile(&["-c", "-d", "31"], &dumped, &to);
        compare(
            &mut ledger,
            "left out",
            &truth,
            &Guest::open_core(&to).unwrap(),
        );
    }
    // Dumps that makedumpfile makes of klab's, compressed in each way.
    for (name, options) in [
        ("zlib", &["-c", "-d", "1"][..]),
        ("lzo", &["-l", "-d", "0"]),
        ("snappy", &["-p", "-d", "0"]),
        ("zstd", &["-z", "-d", "0"]),
        ("flattened", &["-F", "-l", "-d", "1"]),
    ] {
        let to = file("made");
        makedumpfile(options, &dumped, &to);
        let core = Guest::open_core(&to).unwrap();
        ledger.same(
            name,
            "tasks",
            &core.tasks().unwrap(),
            &ground.guest.tasks().unwrap(),
        );
        ledger.same(
            name,
            "log",
            &core.log().unwrap(),
            &ground.guest.log().unwrap(),
        );
        same_pages(&mut ledger, name, &core, &ground.guest);
    }
    let least = [("tasks", 10), ("stacks", 5), ("log", 10), ("page", 10_000)];
    ledger.end(&least);
}
