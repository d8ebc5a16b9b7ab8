//! Whatever ends the process that holds a guest still, the guest goes on: one of klab's own, one that was attached, one that is
//! read by its gdbstub.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use probes::Guest;
use vm::{Machine, State};

use crate::ground::Ground;

/// Task of a child of this test: `WAY GUEST FILE`.
const HOLDER: &str = "KLAB_TEST_HOLDER";
const SOON: Duration = Duration::from_secs(20);

/// The part of the child, which never ends by itself.
fn hold(what: &str) {
    let mut words = what.split(' ');
    let mut next = || words.next().unwrap();
    let (way, guest, file) = (next(), Guest::attach(next()).unwrap(), next());
    let said = |_: &Guest| {
        println!("holds");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        std::process::exit(7)
    };
    match way {
        "paused" => guest.paused(said).unwrap(),
        "nested" => guest.paused(|guest| guest.paused(said)).unwrap(),
        "reads" => {
            guest.tasks().unwrap();
            println!("holds");
            loop {
                guest.tasks().unwrap();
            }
        }
        "dumps" => {
            println!("holds");
            loop {
                guest.dump(file).unwrap();
            }
        }
        other => panic!("{other}"),
    }
}

fn child(way: &str, name: &str, file: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "held::is_let_go",
            "--nocapture",
        ])
        .env(HOLDER, format!("{way} {name} {file}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let held = out
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("holds"));
    assert!(held, "the child does not hold {name}");
    child
}

#[test]
fn is_let_go() {
    if let Ok(what) = std::env::var(HOLDER) {
        return hold(&what);
    }
    let ground = Ground::bare("default", 256 << 20);
    let machine = ground.guest.machine().unwrap();
    let own = machine.name().to_owned();
    let (mapped, by_gdb) = (format!("{own}-q"), format!("{own}-g"));
    let (qmp, gdb) = (machine.qmp_socket(), machine.gdb_socket());
    Machine::adopt(&mapped, &qmp, None).unwrap();
    Machine::adopt(&by_gdb, &qmp, gdb.to_str()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("core");
    let runs = |what: &str| {
        let until = Instant::now() + SOON;
        while !machine.runs().unwrap() {
            assert!(
                Instant::now() < until,
                "the guest stands still after {what}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let signals = [
        Some(Signal::SIGINT),
        Some(Signal::SIGTERM),
        Some(Signal::SIGHUP),
        Some(Signal::SIGKILL),
        // It calls `exit` in the middle.
        None,
    ];
    for (way, name) in [
        ("paused", &own),
        ("nested", &own),
        ("paused", &mapped),
        ("paused", &by_gdb),
        ("reads", &by_gdb),
        ("dumps", &own),
        ("dumps", &by_gdb),
    ] {
        for signal in signals {
            let what = format!("{signal:?} while it {way} {name}");
            let mut child = child(way, name, file.to_str().unwrap());
            match signal {
                Some(signal) => {
                    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
                    if matches!(way, "paused" | "nested") {
                        assert!(!machine.runs().unwrap(), "{what}");
                    }
                    kill(pid, signal).unwrap();
                }
                None if matches!(way, "paused" | "nested") => drop(child.stdin.take()),
                None => child.kill().unwrap(),
            }
            child.wait().unwrap();
            runs(&what);
            for left in std::fs::read_dir(folder.path()).unwrap() {
                assert_eq!(left.unwrap().path(), file, "{what}");
            }
        }
    }
    // The stub is as it was: its addresses are virtual ones, and the guest goes on after the next reading by it.
    assert!(Guest::attach(&by_gdb).unwrap().tasks().unwrap().len() > 10);
    runs("a reading");
    // A guest that a user has paused stays so.
    machine.pause().unwrap();
    let mut child = child("paused", &own, "-");
    child.kill().unwrap();
    child.wait().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(machine.status().state, State::Paused);
    machine.resume().unwrap();
    for name in [mapped, by_gdb] {
        Machine::attach(&name).unwrap().detach().unwrap();
    }
}
