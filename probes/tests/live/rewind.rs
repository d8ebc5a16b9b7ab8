//! A recorded run: the same bytes at the same instruction each time, the writer of a word is the one that wrote it, and whatever ends
//! the one who goes back, the next one can.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::BufRead as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use probes::object::Value;
use probes::{ErrorKind, Guest};
use vm::{Machine, Options, Owner, Silent, Start, State};

const SOON: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(120);
const SWAPPINESS: &str = "*(int *)&vm_swappiness";

/// A guest that is recorded, and ends with the test. It has one port: a client of its agent leaves at once.
struct Recorded(Guest);

impl Recorded {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rewind-{}-{id}", std::process::id());
        let options = Options {
            kernel: crate::kernel().parse().unwrap(),
            memory: 256 << 20,
            start: Start::Recorded,
            owner: Owner::ThisProcess,
            ..Options::default()
        };
        Machine::up(&name, &options, &mut Silent).unwrap();
        Self(Guest::attach(&name).unwrap())
    }

    fn sh(&self, line: &str) {
        let output = self.0.agent().unwrap().shell(line).unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let _ = self.0.machine().unwrap().down();
    }
}

fn hash_of_ram(guest: &Guest) -> u64 {
    let machine = guest.machine().unwrap();
    let mut hash = DefaultHasher::new();
    std::fs::read(&machine.ram().unwrap().path).unwrap().hash(&mut hash);
    hash.finish()
}

#[test]
fn the_last_writer_is_named() {
    let ground = Recorded::new();
    let guest = ground.0.clone();
    let set = |value: i64| format!("echo {value} > /proc/sys/vm/swappiness");
    let swappiness = guest.eval(SWAPPINESS).unwrap();
    let before = swappiness.to_value().unwrap();
    // Neither a watchpoint nor a pause while it is recorded keeps the replay from what follows.
    let live = guest.watch(&swappiness).unwrap().within(LONG).shell(&set(11)).next().unwrap();
    for value in [22, 33] {
        guest.paused(|guest| guest.tasks()).unwrap();
        ground.sh(&set(value));
    }
    // More than what a socket of QEMU's holds of single bytes.
    ground.sh("ls -R /sys/class /sys/bus");
    let state = guest.status().unwrap();
    assert!(state.recording.is_some_and(|recording| recording.last.is_none()), "{state:?}");
    // All writes, in their order, with their values and their writers.
    let history = guest.history(&swappiness).unwrap();
    let values: Vec<_> = history.writes.iter().map(|one| (one.write.old.clone(), one.write.new.clone())).collect();
    let int = Value::Int;
    assert_eq!(values, [(before, int(11)), (int(11), int(22)), (int(22), int(33))], "{history:?}");
    assert_eq!(history.total, 3);
    for one in &history.writes {
        assert_eq!(one.write.comm, "sh");
        let stack = one.write.stack.as_ref().unwrap();
        assert!(stack.frames.iter().any(|frame| frame.function == "vfs_write"), "{stack:?}");
    }
    // The last one, at the end and before a moment; the guest stands where it stood.
    let end = guest.position().unwrap();
    assert_eq!(end.instruction, end.last);
    let last = guest.last_write(&swappiness).unwrap();
    assert_eq!(last, history.writes[2]);
    assert_eq!(guest.position().unwrap(), end);
    guest.seek(last.instruction - 1).unwrap();
    assert_eq!(swappiness.to_value().unwrap(), int(22));
    guest.seek(last.instruction).unwrap();
    assert_eq!(swappiness.to_value().unwrap(), int(33));
    guest.seek(last.instruction - 1).unwrap();
    assert_eq!(guest.last_write(&swappiness).unwrap(), history.writes[1]);
    // The first moment of a value is that of the write that gave it; what never held is said.
    let first = guest.first_time(|_| Ok(matches!(swappiness.to_value()?, Value::Int(22 | 33)))).unwrap();
    assert_eq!(first.instruction, history.writes[1].instruction);
    assert_eq!((guest.position().unwrap(), swappiness.to_value().unwrap()), (first, int(22)));
    let fault = guest.first_time(|_| Ok(swappiness.to_value()? == int(44))).unwrap_err();
    assert_eq!(fault.kind(), ErrorKind::Absent, "{fault}");
    guest.seek(last.instruction - 1).unwrap();
    // The readers read what was there: the shell that wrote.
    let tasks = guest.tasks().unwrap();
    assert!(tasks.iter().any(|task| task.pid == last.write.pid), "{tasks:?}");
    // The same bytes at the same instruction.
    let replays = std::env::var("KLAB_TEST_REPLAYS").ok();
    let replays = replays.map_or(3, |count| count.parse::<usize>().unwrap().max(1));
    let mut hashes = Vec::new();
    for _ in 0..replays {
        guest.seek(last.instruction).unwrap();
        let there = hash_of_ram(&guest);
        guest.rewind().unwrap();
        hashes.push((there, hash_of_ram(&guest)));
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]) && hashes[0].0 != hashes[0].1, "{hashes:x?}");
    // A seek that cannot be is said.
    let fault = guest.seek(end.last + 1).unwrap_err();
    assert!(fault.to_string().contains("the record has the instructions"), "{fault}");
    let fault = guest.agent().unwrap_err();
    assert!(fault.to_string().contains("is a replay"), "{fault}");
    assert_eq!(guest.writable().unwrap_err().kind(), ErrorKind::Unsupported);
    let fault = guest.who_writes(&swappiness).unwrap_err();
    assert!(fault.to_string().contains("is a replay"), "{fault}");
    guest.seek(end.first + 1000).unwrap();
    let fault = guest.last_write(&guest.eval("init_task.pid").unwrap()).unwrap_err();
    assert_eq!(fault.kind(), ErrorKind::Absent, "{fault}");
    assert!(fault.to_string().contains("older than the record"), "{fault}");
    assert_eq!(guest.status().unwrap().state, State::Paused);
    assert_eq!((&live.writer, &live.place, &live.old), (&last.write.writer, &last.write.place, &history.writes[0].write.old));
    // A reset begins a new record, of the same moment.
    guest.reset().unwrap();
    let again = guest.position().unwrap();
    assert!(again.first == end.first && again.instruction == again.last, "{again:?}");
    ground.sh("true");
}

/// Task of a child of the next test.
const GOER: &str = "KLAB_TEST_REWIND";

#[test]
fn whoever_goes_back_may_be_killed() {
    if let Ok(what) = std::env::var(GOER) {
        let (way, name) = what.split_once(' ').unwrap();
        let guest = Guest::attach(name).unwrap();
        println!("goes");
        loop {
            match way {
                "seeks" => drop(guest.rewind().and_then(|first| guest.seek(first.last)).unwrap()),
                _ => drop(guest.history(&guest.eval("jiffies").unwrap()).unwrap()),
            }
        }
    }
    let ground = Recorded::new();
    let guest = ground.0.clone();
    ground.sh("ls /proc >/dev/null");
    guest.rewind().unwrap();
    let (end, first) = (guest.position().unwrap().last, hash_of_ram(&guest));
    for (way, millis) in [("seeks", 500), ("seeks", 1300), ("watches", 900), ("watches", 2500)] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "rewind::whoever_goes_back_may_be_killed", "--nocapture"])
            .env(GOER, format!("{way} {}", guest.machine().unwrap().name()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        while !lines.next().unwrap().unwrap().ends_with("goes") {}
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
        // The keeper takes its watchpoints away.
        let holds = guest.machine().unwrap().run_dir().join("holds");
        let until = Instant::now() + SOON;
        while holds.exists() {
            assert!(Instant::now() < until, "{way}");
            std::thread::sleep(Duration::from_millis(20));
        }
        guest.rewind().unwrap();
        assert_eq!(hash_of_ram(&guest), first, "{way}");
        guest.seek(end).unwrap();
        guest.tasks().unwrap();
    }
}
