//! Hundreds of functions are hooked and let go, and the module taken out, while packets go through all of them: a tracer
//! that comes and goes all day must never kill its guest. See `kmod/int3.c`.

use std::time::Duration;

use super::abuse::no_warning;
use super::ring::How;
use super::{Guest, KO, arm, disarm, site};

/// Rounds of each test, where `KLAB_TEST_ROUNDS` does not say.
const ROUNDS: u32 = 10;
/// Beginnings of the names of functions that a ping goes through, and many beside.
const NAMES: [&str; 14] = [
    "__dev", "__ip", "__netif", "__skb", "dev_", "eth_", "fib_", "icmp_", "ip_", "neigh", "netif_",
    "raw_", "skb_", "veth_",
];
const TRACEPOINTS: u64 = 0x1fe;

fn rounds() -> u32 {
    match std::env::var("KLAB_TEST_ROUNDS") {
        Ok(text) => text.parse().expect("KLAB_TEST_ROUNDS is a number"),
        Err(_) => ROUNDS,
    }
}

fn under_traffic(cpus: u32) {
    let mut guest = Guest::up(&format!("rounds-{cpus}"), cpus);
    let said = guest.sh("cat /sys/kernel/tracing/available_filter_functions_addrs");
    let sites: Vec<_> = said
        .lines()
        .filter_map(|line| {
            let (address, name) = line.split_once(' ')?;
            NAMES
                .iter()
                .any(|start| name.starts_with(start))
                .then_some(())?;
            let address = u64::from_str_radix(address.trim_start_matches("0x"), 16).ok()?;
            Some(site(address, 0, How::Entry))
        })
        .collect();
    assert!(sites.len() > 500, "{}", sites.len());
    guest.sh("set -e; ip netns add a; ip netns add b; \
         ip link add v netns a type veth peer name v netns b; \
         for n in a b; do ip -n $n link set lo up; ip -n $n link set v up; done; \
         ip -n a address add 10.9.0.1/24 dev v; ip -n b address add 10.9.0.2/24 dev v; \
         ip netns exec a ping -c 1 -W 5 10.9.0.2; \
         (ip netns exec a ping -q -i 0.001 10.9.0.2; ip netns exec b ping -q -i 0.001 10.9.0.1) \
         >/dev/null 2>&1 </dev/null &");
    for round in 0..rounds() {
        let armed = arm(&mut guest, &sites, None, 1 << 20, TRACEPOINTS);
        armed.unwrap_or_else(|error| panic!("round {round}: {error}"));
        std::thread::sleep(Duration::from_millis(200));
        disarm(&mut guest);
        let counters = guest.counters();
        let seen: u64 = counters.rings.iter().map(|ring| ring.seen).sum();
        assert!(seen > 0, "round {round}");
        guest.device_close().unwrap();
        guest.unload_module("klab").unwrap();
        // CPUs that have not met the end of the module yet meet it now.
        std::thread::sleep(Duration::from_millis(200));
        guest.load_module(KO, "").unwrap();
    }
    guest.sh("pidof ping");
    no_warning(&mut guest);
}

#[test]
fn rounds_of_unloading_under_traffic_on_one_cpu() {
    under_traffic(1);
}

#[test]
fn rounds_of_unloading_under_traffic_on_two_cpus() {
    under_traffic(2);
}
