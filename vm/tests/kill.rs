//! Whatever is killed, whenever: nothing is orphaned, and the next command works.
#![allow(clippy::unwrap_used)] // Helpers of tests, where it is fine.

mod common;

use std::path::Path;
use std::time::Duration;

use common::{Say, all_down, is_child, isolated, nothing_left, processes, this_test, wait};
use vm::{Machine, Options, Owner, State};

/// Number of times that each of them is killed.
const ROUNDS: u64 = 50;

fn up(owner: Owner) -> vm::Result<Machine> {
    Machine::up(
        "victim",
        &Options {
            owner,
            ..Options::default()
        },
        &mut Say::new(),
    )
}

/// Not a test of its own: the process that is killed. It takes a guest up, and down, again and again.
#[test]
fn detached_owner() {
    while is_child("detached_owner") {
        let _ = up(Owner::Detached).and_then(Machine::down);
    }
}

/// Not a test of its own: a process with a guest that must die with it.
#[test]
fn owner() {
    if is_child("owner") {
        // From a thread that ends at once: the guest is bound to the process, not to the thread.
        let machine = std::thread::spawn(|| up(Owner::ThisProcess).unwrap())
            .join()
            .unwrap();
        loop {
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(machine.status().state, State::Running);
        }
    }
}

#[test]
fn a_guest_dies_with_its_owner() {
    isolated("a_guest_dies_with_its_owner", || {
        let run = vm::paths::run().unwrap();
        let mut child = this_test("owner", &run);
        wait("the guest", 60, || {
            Machine::list().unwrap().iter().any(|status| status.owned)
        });
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(Machine::list().unwrap()[0].state, State::Running);
        child.kill().unwrap();
        child.wait().unwrap();
        wait("the end of QEMU", 5, || {
            processes(&run).iter().all(|line| !line.contains("qemu"))
        });
        // Looking is enough to recover its folder.
        assert_eq!(Machine::list().unwrap(), []);
        nothing_left(&run);
    });
}

/// A few bits of a counter: the same points in time in each run (Knuth's multiplier).
fn delay(round: u64) -> Duration {
    Duration::from_millis((round.wrapping_mul(6_364_136_223_846_793_005) >> 33) % 600)
}

fn kill_qemu(run: &Path) {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("qemu") && line.contains(run.to_str().unwrap()) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

#[test]
fn killed_commands_leave_nothing() {
    isolated("killed_commands_leave_nothing", || {
        let run = vm::paths::run().unwrap();
        let mut child = this_test("detached_owner", &run);
        for round in 0..ROUNDS {
            std::thread::sleep(delay(round));
            child.kill().unwrap();
            child.wait().unwrap();
            // A guest that was up stays up; what was half made or half gone is gone once someone looks. A QEMU that was between
            // fork and exec at that moment finds its folder gone, and ends by itself.
            wait(&format!("round {round}'s end"), 20, || {
                let listed = Machine::list().unwrap();
                assert!(listed.len() <= 1, "round {round}: {listed:?}");
                processes(&run).len() == listed.len()
            });
            if round % 10 == 9 {
                all_down();
                nothing_left(&run);
                up(Owner::Detached).unwrap().down().unwrap();
            }
            child = this_test("detached_owner", &run);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        all_down();
    });
}

#[test]
fn a_killed_qemu_is_said() {
    isolated("a_killed_qemu_is_said", || {
        let run = vm::paths::run().unwrap();
        for round in 0..ROUNDS {
            let result = std::thread::scope(|scope| {
                let up = scope.spawn(|| up(Owner::Detached));
                std::thread::sleep(delay(round));
                kill_qemu(&run);
                up.join().unwrap()
            });
            match result {
                Ok(machine) => machine.down().unwrap(),
                Err(error) => assert!(!error.to_string().contains('\n'), "round {round}: {error}"),
            }
            nothing_left(&run);
        }
        up(Owner::Detached).unwrap().down().unwrap();
    });
}

/// Not a test of its own: the process that is killed. It takes a guest up from an empty cache, and down.
#[test]
fn provisioner() {
    if is_child("provisioner") {
        up(Owner::Detached).unwrap().down().unwrap();
    }
}

#[test]
fn killed_provisioning_carries_on() {
    isolated("killed_provisioning_carries_on", || {
        let run = vm::paths::run().unwrap();
        let cache = tempfile::Builder::new()
            .prefix("klab-cache-")
            .tempdir()
            .unwrap();
        let provisioner = || {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command
                .args(["provisioner", "--exact", "--nocapture"])
                .env("KLAB_RUN", &run)
                .env("KLAB_CACHE", cache.path())
                .env(common::CHILD, "provisioner")
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        };
        let began = std::time::Instant::now();
        assert!(provisioner().wait().unwrap().success());
        let whole = began.elapsed();
        for round in 0..ROUNDS {
            // Each part of it meets its end: the packages, the kernel, the initramfs, the ready state.
            let parts = ["apt", "debs", "kernels", "initramfs", "ready"];
            let part = cache.path().join(parts[round as usize % parts.len()]);
            // The programs of the killed one may still write there for a moment.
            wait("its removal", 20, || {
                std::fs::remove_dir_all(&part).is_ok() || !part.exists()
            });
            let mut child = provisioner();
            std::thread::sleep(whole.min(Duration::from_secs(4)) * round as u32 / ROUNDS as u32);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let said = provisioner().wait().unwrap();
        assert!(said.success(), "the next one does not carry on: {said}");
        // The programs of a killed one end by themselves.
        wait("the end of its programs", 60, || {
            processes(cache.path()).is_empty()
        });
    });
}
