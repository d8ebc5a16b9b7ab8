//! The rings at full speed: what was delivered and what was counted as lost are together what the module gave out.

#[path = "../../../kmod/ring.rs"]
mod ring;

use std::time::{Duration, Instant};

use probes::skb::Profile;
use vm::Options;
use vm::agent::Client;

use crate::ground::Ground;
use crate::planted;

const EVENTS: u64 = 1_000_000;
/// `skb_pull()` does nothing here but be called.
const CALLED: &str = "skb_pull";

/// Sequences given out so far, by all rings: the module's own count, by an open file of its own.
fn produced(client: &mut Client) -> u64 {
    client.device_open().unwrap();
    let bytes = client.device_ioctl(ring::KLAB_COUNTERS, &[]).unwrap();
    let counters = ring::Counters::from_bytes(bytes.as_slice().try_into().unwrap());
    counters.rings.iter().map(|ring| ring.produced).sum()
}

pub(crate) fn a_million_events(cpus: u32) {
    let mut ground = Ground::of(Options {
        cpus,
        ..Options::default()
    });
    planted::load(&mut ground);
    let guest = ground.guest.clone();
    // Without a reader, then with one at work.
    for reads in [false, true] {
        let mut capture = guest
            .capture(Profile::List(vec![CALLED.to_owned()]))
            .unwrap();
        let before = produced(&mut ground.agent);
        let line: String = (0..cpus)
            .map(|cpu| {
                let mask = 1 << cpu;
                format!(
                    "taskset {mask} sh -c 'echo {EVENTS} >/sys/module/klab_test/parameters/hits' & "
                )
            })
            .collect();
        let began = Instant::now();
        let agent = guest.clone();
        let work = std::thread::spawn(move || {
            let output = agent
                .agent()
                .unwrap()
                .shell(&format!("{line} wait"))
                .unwrap();
            assert!(output.status.success(), "{}", output.text());
        });
        while !work.is_finished() {
            if reads {
                capture.drain().unwrap();
            } else {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        work.join().unwrap();
        let took = began.elapsed();
        capture.drain().unwrap();
        let tally = capture.tally();
        let given = produced(&mut ground.agent) - before;
        println!("{cpus} CPUs, reads {reads}: {given} in {took:?}, {tally:?}");
        assert!(given >= EVENTS * u64::from(cpus), "{given}");
        assert_eq!(tally.delivered + tally.lost, given, "{tally:?}");
        // A reader that does not read loses nearly all and says so; one that reads gets what it can.
        let slots = u64::from(ring::MAX_RING) / ring::RECORD as u64;
        if reads {
            assert!(tally.delivered > 2 * slots, "{tally:?}");
        } else {
            assert_eq!(tally.delivered, slots * u64::from(cpus), "{tally:?}");
        }
        drop(capture);
    }
    let log = ground.sh("dmesg | grep -cE 'WARNING|BUG|Oops|Call Trace' || true");
    assert_eq!(log.trim(), "0");
}
