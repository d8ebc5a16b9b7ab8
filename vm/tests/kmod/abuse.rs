//! Abuse of the module by a hostile or clumsy host.

use std::time::Instant;

use crate::ring::{
    self, Arm, Filter, How, KLAB_ARM, KLAB_COUNTERS, KLAB_DISARM, KLAB_FILTER, KLAB_SITES, Sites,
    VERSION,
};
use crate::{Guest, KO, arm, counters, disarm, site};

/// Nothing in the kernel's log says that something is wrong.
pub(crate) fn no_warning(guest: &mut Guest) {
    let log = guest.sh("dmesg");
    let bad = [
        "WARNING:",
        "BUG:",
        "Oops",
        "RIP:",
        "Call Trace",
        "possible recursive",
        "leak",
    ];
    let lines: Vec<_> = log
        .lines()
        .filter(|line| bad.iter().any(|bad| line.contains(bad)))
        .collect();
    assert!(lines.is_empty(), "{lines:#?}");
}

#[test]
fn every_wrong_ioctl_is_refused() {
    let mut guest = Guest::up("ioctls", 1);
    let ip_rcv = guest.addresses(&["ip_rcv"])[0];
    assert!(guest.device_ioctl(KLAB_COUNTERS, &[]).is_err(), "not open");
    guest.device_open().unwrap();
    let good = Sites::to_bytes(&[site(ip_rcv, 0, How::Entry)]);
    let with = |at: usize, byte: u8| {
        let mut bad = good;
        bad[at] = byte;
        bad.to_vec()
    };
    let arm_bytes = |version, ring, tracepoints| {
        Arm {
            version,
            ring,
            tracepoints,
            owner: 0,
        }
        .to_bytes()
        .to_vec()
    };
    let wrong: Vec<(&str, u32, Vec<u8>)> = vec![
        ("version", KLAB_SITES, with(0, 9)),
        ("count", KLAB_SITES, with(5, 3)),
        ("zero", KLAB_SITES, with(8, 1)),
        ("position", KLAB_SITES, with(24, 6)),
        ("how", KLAB_SITES, with(25, How::LAST as u8 + 1)),
        ("site's zero", KLAB_SITES, with(26, 1)),
        ("no text address", KLAB_SITES, with(23, 0)),
        ("all ones", KLAB_SITES, vec![0xff; good.len()]),
        ("arm's version", KLAB_ARM, arm_bytes(VERSION + 1, 0, 0)),
        ("no power of two", KLAB_ARM, arm_bytes(VERSION, 5000, 0)),
        ("too large", KLAB_ARM, arm_bytes(VERSION, 8 << 20, 0)),
        ("too small", KLAB_ARM, arm_bytes(VERSION, 128, 0)),
        (
            "unknown tracepoint",
            KLAB_ARM,
            arm_bytes(VERSION, 0, 1 << 40),
        ),
        (
            "filter's version",
            KLAB_FILTER,
            Filter {
                version: 0,
                ..Filter::ANY
            }
            .to_bytes()
            .to_vec(),
        ),
        (
            "family",
            KLAB_FILTER,
            Filter {
                family: 5,
                ..Filter::ANY
            }
            .to_bytes()
            .to_vec(),
        ),
        (
            "flags",
            KLAB_FILTER,
            Filter {
                flags: 2,
                ..Filter::ANY
            }
            .to_bytes()
            .to_vec(),
        ),
        ("another size", KLAB_ARM + (8 << 16), vec![0; 64]),
        ("another direction", KLAB_ARM ^ (3 << 30), vec![0; 64]),
        ("unknown number", 0x4b63, vec![0; 64]),
        ("zero", 0, Vec::new()),
        ("ones", u32::MAX, vec![0xff; 1 << 14]),
    ];
    for (what, request, data) in wrong {
        let error = guest.device_ioctl(request, &data);
        assert!(error.is_err(), "{what} was taken");
    }
    // An address that is no function's: the whole arming fails, and nothing stays hooked.
    guest
        .device_ioctl(
            KLAB_SITES,
            &Sites::to_bytes(&[site(ip_rcv, 0, How::Entry), site(ip_rcv + 1, 2, How::Entry)]),
        )
        .unwrap();
    assert!(
        guest
            .device_ioctl(KLAB_ARM, &arm_bytes(VERSION, 0, 0))
            .is_err()
    );
    assert_eq!((guest.counters().armed, guest.counters().sites), (0, 0));
    // More than fits.
    let many = [site(ip_rcv, 0, How::Entry); ring::SITES];
    for _ in 0..ring::MAX_SITES / ring::SITES {
        guest
            .device_ioctl(KLAB_SITES, &Sites::to_bytes(&many))
            .unwrap();
    }
    assert!(guest.device_ioctl(KLAB_SITES, &good).is_err());
    guest.device_ioctl(KLAB_DISARM, &[]).unwrap();
    // After all that it works.
    arm(&mut guest, &[site(ip_rcv, 0, How::Entry)], None, 4096, 0).unwrap();
    guest.sh("ping -c 1 127.0.0.1");
    disarm(&mut guest);
    assert_eq!(guest.records().0.len(), 2);
    no_warning(&mut guest);
}

#[test]
fn one_armer_at_a_time_and_its_death_disarms() {
    let mut guest = Guest::up("armers", 2);
    let ip_rcv = guest.addresses(&["ip_rcv"])[0];
    let sites = [site(ip_rcv, 0, How::Entry)];
    let mut second = guest.another();
    arm(&mut guest, &sites, None, 0, 0).unwrap();
    // A second armer is told so; it may ask for the counters and may not disarm.
    assert!(arm(&mut second, &sites, None, 0, 0).is_err());
    assert!(second.device_ioctl(KLAB_DISARM, &[]).is_err());
    assert_eq!(counters(&mut second).armed, 1);
    // Loaded twice, unloaded while armed: refused or nothing, and it goes on.
    let _ = guest.load_module(KO, "");
    assert!(guest.unload_module("klab").is_err());
    guest.sh("ping -c 1 127.0.0.1");
    assert_eq!(
        guest
            .counters()
            .rings
            .iter()
            .map(|ring| ring.produced)
            .sum::<u64>(),
        2
    );
    // The armer's agent is killed: PID 1 starts it anew, and what was armed ended with it.
    let server = guest
        .sh("pidof klab-agent")
        .split_whitespace()
        .map(str::to_owned)
        .find(|pid| pid != "1")
        .unwrap();
    let _ = guest.shell(&format!("kill -9 {server}"));
    let mut third = guest.another();
    let until = Instant::now() + std::time::Duration::from_secs(30);
    while third.device_open().is_err() {
        assert!(Instant::now() < until, "no agent came back");
        std::thread::sleep(std::time::Duration::from_millis(200));
        third = guest.another();
    }
    assert_eq!(counters(&mut third).armed, 0);
    arm(&mut third, &sites, None, 0, 0).unwrap();
    // A client that goes disarms.
    drop(third);
    let mut fourth = guest.another();
    let until = Instant::now() + std::time::Duration::from_secs(10);
    loop {
        fourth.device_open().unwrap();
        if counters(&mut fourth).armed == 0 {
            break;
        }
        assert!(Instant::now() < until, "still armed");
    }
    fourth.device_close().unwrap();
    fourth.unload_module("klab").unwrap();
    assert!(fourth.device_open().is_err());
    fourth.load_module(KO, "").unwrap();
    let log = fourth
        .shell("dmesg | grep -cE 'WARNING|BUG|Oops|Call Trace'")
        .unwrap()
        .text();
    assert_eq!(log.trim(), "0");
}

#[test]
fn two_hundred_times_from_load_to_unload() {
    let mut guest = Guest::up("again", 2);
    let at = guest.addresses(&["ip_rcv", "skb_clone", "ip_local_deliver"]);
    let sites = [
        site(at[0], 0, How::Entry),
        site(at[1], 0, How::Derive),
        site(at[2], 0, How::Return),
    ];
    let round = |guest: &mut Guest| {
        arm(guest, &sites, None, 1 << 20, 0xff << 1).unwrap();
        guest.sh("ping -c 1 127.0.0.1 > /dev/null");
        disarm(guest);
        assert!(
            guest
                .counters()
                .rings
                .iter()
                .map(|ring| ring.produced)
                .sum::<u64>()
                > 4
        );
        guest.device_close().unwrap();
        guest.unload_module("klab").unwrap();
        guest.load_module(KO, "").unwrap();
    };
    // KiB that are free, and KiB that the kernel has for itself: slabs, vmalloc, per-CPU memory.
    let memory = |guest: &mut Guest| -> [u64; 4] {
        guest.sh("sync; echo 3 > /proc/sys/vm/drop_caches; sleep 0.2");
        let text = guest.sh("cat /proc/meminfo");
        ["MemFree:", "Slab:", "VmallocUsed:", "Percpu:"].map(|name| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        })
    };
    for _ in 0..20 {
        round(&mut guest);
    }
    let before = memory(&mut guest);
    for _ in 0..180 {
        round(&mut guest);
    }
    let after = memory(&mut guest);
    no_warning(&mut guest);
    // One ring leaked a round would be 360 MiB.
    assert!(after[0] + 4096 > before[0], "{before:?}, then {after:?}");
    // A page a round would be 720 KiB.
    for kind in 1..4 {
        assert!(
            after[kind] < before[kind] + 700,
            "{before:?}, then {after:?}"
        );
    }
    println!("{before:?}, then {after:?} KiB");
}
