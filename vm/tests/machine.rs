//! Guests on this host: what they do from `up` to `down`.
#![allow(clippy::unwrap_used)] // Helpers of tests, where it is fine.

mod common;

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::{Say, all_down, isolated, isolated_with, wait};
use vm::{Error, Machine, Options, Progress, State};

fn up(name: &str, options: &Options) -> Machine {
    Machine::up(name, options, &mut Say::new()).unwrap()
}

/// Messages of a start.
#[derive(Debug, Default)]
struct Steps(Vec<String>);

impl Progress for Steps {
    fn step(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }
}

/// Tells whether `needle` is anywhere in the RAM that this file is; grep, since a debug build would look for minutes.
fn in_ram(ram: &File, needle: &[u8]) -> bool {
    let mut grep = std::process::Command::new("grep");
    grep.args(["-qaF", "--", std::str::from_utf8(needle).unwrap()])
        .env("LC_ALL", "C");
    let mut ram = ram.try_clone().unwrap();
    std::io::Seek::rewind(&mut ram).unwrap();
    grep.stdin(ram).status().unwrap().success()
}

/// QEMU 7.2 crashes now and then on a busy host; here it does the first time.
#[test]
fn a_qemu_that_crashes_is_started_once_more() {
    let bin = tempfile::tempdir().unwrap();
    let script = bin.path().join("qemu-system-x86_64");
    let once = bin.path().join("once");
    let text = format!(
        "#!/bin/sh\n[ \"$*\" = --version ] || ! mkdir {} 2>/dev/null || kill -SEGV $$\n\
         PATH=${{PATH#*:}} exec qemu-system-x86_64 \"$@\"\n",
        once.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    isolated_with(
        "a_qemu_that_crashes_is_started_once_more",
        Some(bin.path()),
        || {
            let mut said = Steps::default();
            let machine = Machine::up("crashes", &Options::default(), &mut said).unwrap();
            assert!(
                said.0.iter().any(|step| step.contains("once more")),
                "{said:?}"
            );
            assert_eq!(machine.status().state, State::Running);
            machine.down().unwrap();
        },
    );
}

#[test]
fn a_guest_comes_is_reset_and_goes() {
    isolated("a_guest_comes_is_reset_and_goes", || {
        up("first", &Options::default()).down().unwrap();
        let start = Instant::now();
        let mut machine = up("one", &Options::default());
        eprintln!("up in {:?}", start.elapsed());
        let status = machine.status();
        assert_eq!(status.state, State::Running, "{status:?}");
        assert_eq!(
            machine
                .agent()
                .unwrap()
                .shell("uname -r")
                .unwrap()
                .text()
                .trim(),
            status.kernel.unwrap()
        );
        assert_eq!(
            machine
                .agent()
                .unwrap()
                .shell("nproc")
                .unwrap()
                .text()
                .trim(),
            "2"
        );

        // The guest's state is in the file, and the reset takes it away without another file.
        let ram = File::open(&machine.ram().unwrap().path).unwrap();
        let marker = "klab-marker-".to_owned() + &"7531".repeat(3);
        machine
            .agent()
            .unwrap()
            .push("/tmp/marker", 0o600, marker.as_bytes())
            .unwrap();
        let marker = marker.into_bytes();
        assert!(in_ram(&ram, &marker));
        let (inode, generation) = (ram.metadata().unwrap().ino(), machine.generation());
        let start = Instant::now();
        machine.reset().unwrap();
        eprintln!("reset in {:?}", start.elapsed());
        assert_ne!(machine.generation(), generation);
        assert_eq!(machine.generation() % 2, 0);
        assert!(!in_ram(&ram, &marker));
        assert_eq!(
            File::open(&machine.ram().unwrap().path)
                .unwrap()
                .metadata()
                .unwrap()
                .ino(),
            inode
        );
        assert!(
            !machine
                .agent()
                .unwrap()
                .shell("cat /tmp/marker")
                .unwrap()
                .text()
                .contains("klab")
        );
        let clock = machine
            .agent()
            .unwrap()
            .shell("date +%s")
            .unwrap()
            .text()
            .trim()
            .parse::<u64>()
            .unwrap();
        let host = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        assert!(
            host.abs_diff(clock) <= 2,
            "the guest's clock is {clock}, the host's {host}"
        );

        machine.pause().unwrap();
        assert_eq!(machine.status().state, State::Paused);
        machine.resume().unwrap();
        assert_eq!(machine.status().state, State::Running);
        assert!(UnixStream::connect(machine.gdb_socket()).is_ok());
        assert!(std::fs::read_to_string(machine.serial_log()).unwrap().len() > 100);
        machine.down().unwrap();
        // Init may take its time to reap it; a zombie runs nothing and maps nothing.
        let exe = format!("/proc/{}/exe", status.pid.unwrap());
        assert!(std::fs::read_link(exe).is_err());
    });
}

#[test]
fn many_guests_come_at_once() {
    isolated("many_guests_come_at_once", || {
        let names = ["a", "b", "c"];
        std::thread::scope(|scope| {
            let ups: Vec<_> = names
                .map(|name| scope.spawn(move || up(name, &Options::default())))
                .into();
            for up in ups {
                assert_eq!(up.join().unwrap().status().state, State::Running);
            }
        });
        let listed: Vec<_> = Machine::list()
            .unwrap()
            .into_iter()
            .map(|status| status.name)
            .collect();
        assert_eq!(listed, names);
        let error = Machine::up("b", &Options::default(), &mut Say::new()).unwrap_err();
        assert!(matches!(error, Error::AlreadyUp { .. }), "{error}");
        let error = Machine::attach("d").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no guest `d` (up: a, b, c): `klab up d` starts it"
        );
        all_down();

        // If two `up` make one name, one wins, and the other says so.
        let both: Vec<_> = std::thread::scope(|scope| {
            let up = || Machine::up("same", &Options::default(), &mut Say::new());
            [scope.spawn(up), scope.spawn(up)]
                .map(|thread| thread.join().unwrap())
                .into()
        });
        assert_eq!(
            both.iter().filter(|result| result.is_ok()).count(),
            1,
            "{both:?}"
        );
        let lost = both.into_iter().find_map(Result::err).unwrap();
        assert!(
            matches!(lost, Error::AlreadyUp { .. } | Error::Locked(_)),
            "{lost}"
        );
        all_down();
    });
}

#[test]
fn a_guest_that_stops_is_noticed() {
    isolated("a_guest_that_stops_is_noticed", || {
        let mut machine = up("stops", &Options::default());
        let cases = [
            (
                "echo c > /proc/sysrq-trigger",
                State::Panicked,
                "Kernel panic - not syncing",
            ),
            (
                "echo 0 > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger",
                State::Panicked,
                "Kernel panic - not syncing",
            ),
            (
                "echo o > /proc/sysrq-trigger; sleep 5",
                State::PoweredOff,
                "powered itself off",
            ),
            (
                "echo b > /proc/sysrq-trigger; sleep 5",
                State::Rebooted,
                "rebooted",
            ),
            (
                "mkdir -p /tmp/cg; mount -t cgroup2 none /tmp/cg; mkdir /tmp/cg/a; setsid sh -c 'sleep 0.2; \
                 for p in /proc/[0-9]*; do echo ${p#/proc/} > /tmp/cg/a/cgroup.procs; done; echo 1 > /tmp/cg/a/cgroup.freeze' > /dev/null 2>&1 < /dev/null &",
                State::Hung,
                "said nothing",
            ),
        ];
        for (command, state, words) in cases {
            let mut agent = machine.agent().unwrap();
            // Most of these end before they answer. The last one does answer, and is undone where we leave before.
            let patience = if state == State::Hung { 30 } else { 3 };
            agent.set_timeout(Duration::from_secs(patience));
            let _ = agent.shell(command);
            drop(agent);
            wait(command, 60, || machine.status().state == state);
            let detail = machine.status().detail.unwrap();
            assert!(detail.contains(words), "{command}: {detail}");
            // The kernel's own note of itself, which every kernel has in RAM.
            assert!(
                in_ram(
                    &File::open(&machine.ram().unwrap().path).unwrap(),
                    b"OSRELEASE="
                ),
                "{command}"
            );
            machine.reset().unwrap();
            assert_eq!(machine.status().state, State::Running, "after {command}");
        }
        let pid = machine.status().pid.unwrap();
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        wait("the end of QEMU", 5, || {
            machine.status().state == State::Dead
        });
        assert!(in_ram(
            &File::open(&machine.ram().unwrap().path).unwrap(),
            b"OSRELEASE="
        ));
        let error = machine.pause().unwrap_err().to_string();
        assert!(error.starts_with("the guest `stops` is dead"), "{error}");
        machine.reset().unwrap();
        assert_eq!(machine.status().state, State::Running);
        machine.down().unwrap();
    });
}

#[test]
fn bad_input_is_one_sentence() {
    isolated("bad_input_is_one_sentence", || {
        let error = Machine::up("../x", &Options::default(), &mut Say::new()).unwrap_err();
        assert!(matches!(error, Error::BadName(_)), "{error}");
        let error = Machine::attach("nobody").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no guest `nobody` (none is up): `klab up nobody` starts it"
        );
        let huge = Options {
            memory: 1 << 40,
            ..Options::default()
        };
        let error = Machine::up("huge", &huge, &mut Say::new()).unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");

        // A client on our socket that never leaves.
        let machine = up("busy", &Options::default());
        let holder = UnixStream::connect(machine.run_dir().join("qmp")).unwrap();
        let status = machine.status();
        assert_eq!(status.state, State::Unreachable, "{status:?}");
        assert!(status.detail.unwrap().contains("busy with another client"));
        drop(holder);
        wait("the socket", 5, || machine.status().state == State::Running);
        machine.down().unwrap();
    });
}

#[test]
fn ram_above_the_hole_and_older_kernels() {
    isolated("ram_above_the_hole_and_older_kernels", || {
        let big = up(
            "big",
            &Options {
                memory: 5 << 30,
                ..Options::default()
            },
        );
        let ranges = &big.ram().unwrap().ranges;
        assert!(
            ranges.iter().any(|range| range.gpa == 1 << 32),
            "{ranges:?}"
        );
        assert_eq!(
            ranges.iter().map(|range| range.len).sum::<u64>(),
            5 << 30,
            "{ranges:?}"
        );
        big.down().unwrap();
        for release in ["6.1", "6.12"] {
            let machine = up(
                "old",
                &Options {
                    kernel: release.parse().unwrap(),
                    ..Options::default()
                },
            );
            let said = machine.agent().unwrap().shell("uname -r").unwrap().text();
            assert!(said.starts_with(release), "{said}");
            machine.down().unwrap();
        }
    });
}
