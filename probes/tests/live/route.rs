//! Devices in detail, routes, neighbours: `ip -j`, `/proc/net/dev`, `/sys/class/net`, `tc`.

use std::collections::{BTreeMap, BTreeSet};

use probes::net::{DeviceStats, Neighbours, Routes};
use probes::{Guest, Result};
use serde_json::Value;

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_those_of_ip);

/// Devices of several drivers, routes of every kind, neighbours in every state, in two network namespaces.
const NETWORK: &str = r"
    ip link set lo up; modprobe dummy; modprobe veth; modprobe virtio_net; modprobe sch_prio; modprobe bridge
    ip link add klab-dummy type dummy; ip addr add 10.9.8.7/20 dev klab-dummy; ip link set klab-dummy up; ip addr add fd00::7/64 dev klab-dummy
    ip link add klab-br type bridge; ip link set klab-br up
    mkdir -p /run/netns; ip netns add blue; ip link add v0 numtxqueues 3 type veth peer name v1 netns blue; ip addr add 10.2.0.1/24 dev v0; ip link set v0 up
    ip -n blue addr add 10.2.0.2/24 dev v1; ip -n blue link set v1 up; ip -n blue link set lo up
    tc qdisc add dev klab-dummy root handle 7: prio
    ip route add 10.77.0.0/16 via 10.9.8.1 dev klab-dummy metric 77; ip route add blackhole 10.78.0.0/16; ip route add prohibit 10.78.1.0/24
    ip route add 10.79.0.0/16 nexthop via 10.9.8.2 weight 2 nexthop via 10.2.0.9 weight 1; ip route add default via 10.9.8.1
    for i in $(seq 1 60); do ip route add 10.$((100 + i / 8)).$i.0/$((24 + i % 8)) via 10.9.8.$i proto static; done
    ip route add 10.80.0.0/16 dev v0 table 100 src 10.2.0.1; ip nexthop add id 5 via 10.9.8.3 dev klab-dummy; ip route add 10.81.0.0/16 nhid 5
    ip -6 route add fd01::/48 via fd00::1 dev klab-dummy metric 5; ip -6 route add unreachable fd02::/48
    ip neigh add 10.9.8.200 lladdr 02:00:00:00:00:99 dev klab-dummy nud permanent; ip neigh add fd00::99 lladdr 02:00:00:00:00:98 dev klab-dummy nud stale
    ping -q -c 3 10.2.0.2 >/dev/null; ping -q -c 2 127.0.0.1 >/dev/null; ping -q -c 1 -W 1 10.9.8.99 >/dev/null; ping -q -c 1 -W 1 10.2.0.77 >/dev/null
    ip link set eth0 up 2>/dev/null; ip addr add 10.5.0.1/24 dev eth0 2>/dev/null; ping -q -c 2 -W 1 10.5.0.9 >/dev/null; sleep 3
";

pub(crate) fn are_those_of_ip(kernel: &str) {
    let mut ground = Ground::bare(kernel, vm::Options::default().memory);
    ground.sh(NETWORK);
    let mut ledger = Ledger::new(format!("routes on {kernel}"));
    routes(&mut ledger, &mut ground);
    neighbours(&mut ledger, &mut ground);
    devices(&mut ledger, &mut ground);
    ledger.end(&[
        ("route", 90),
        ("neighbour", 5),
        ("counters", 3),
        ("queue", 6),
        ("qdisc", 5),
        ("link", 5),
        ("napi", 1),
    ]);
}

/// The inode numbers of the first network namespace and of `blue`.
fn namespaces(ground: &mut Ground) -> [u32; 2] {
    let text = ground.sh("readlink /proc/1/ns/net; ip netns exec blue readlink /proc/self/ns/net");
    let mut numbers = text.lines().map(|line| {
        line.trim_start_matches("net:[")
            .trim_end_matches(']')
            .parse()
            .unwrap()
    });
    [numbers.next().unwrap(), numbers.next().unwrap()]
}

fn json(ground: &mut Ground, command: &str) -> Vec<Value> {
    let text = ground.sh(command);
    match text.trim() {
        "" => Vec::new(),
        text => serde_json::from_str(text).unwrap(),
    }
}

/// Each route as a line of what both have.
fn routes(ledger: &mut Ledger, ground: &mut Ground) {
    let namespaces = namespaces(ground);
    let ask = |ground: &mut Ground| {
        let mut lines = BTreeSet::new();
        for (netns, enter) in namespaces.iter().zip(["", "-n blue"]) {
            for family in ["-4", "-6"] {
                for route in json(
                    ground,
                    &format!("ip -j -d -N {enter} {family} route show table all"),
                ) {
                    lines.insert(format!("{netns} {}", line(&route, family)));
                }
            }
        }
        lines
    };
    let (before, seen, after): (BTreeSet<String>, Routes, BTreeSet<String>) =
        ground.sandwich(ask, Guest::routes);
    let mut memory = BTreeSet::new();
    for route in seen.iter() {
        let ways: Vec<String> = route
            .ways
            .iter()
            .map(|way| {
                let gateway = way.gateway.map_or_else(String::new, |at| at.to_string());
                format!("{gateway}@{}", way.dev)
            })
            .collect();
        let scope = route
            .scope
            .map_or_else(String::new, |scope| scope.to_string());
        let source = route.source.map_or_else(String::new, |at| at.to_string());
        memory.insert(format!(
            "{} {} {} {}/{} {} proto {} scope {scope} metric {} src {source}",
            route.netns,
            route.table,
            route.kind,
            route.destination,
            route.prefix,
            match route.nexthop {
                Some(id) => format!("nexthop {id}"),
                None => ways.join(","),
            },
            route.protocol,
            route.metric,
        ));
    }
    for line in before.intersection(&after) {
        ledger.same(line, "route", &memory.contains(line), &true);
    }
    for line in &memory {
        let known = before.contains(line) || after.contains(line);
        ledger.same(format!("{line} seen"), "route", &known, &true);
    }
}

/// A route of `ip -j -d -N`, with numbers for names.
fn line(route: &Value, family: &str) -> String {
    let text = |key: &str| route[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str, none: &str| match &route[key] {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => none.to_owned(),
    };
    let six = family == "-6";
    let all = if six { "::/0" } else { "0.0.0.0/0" };
    let destination = match text("dst").as_str() {
        "default" => all.to_owned(),
        address if address.contains('/') => address.to_owned(),
        address => format!("{address}/{}", if six { 128 } else { 32 }),
    };
    let way = |way: &Value| {
        let text = |key: &str| way[key].as_str().unwrap_or_default().to_owned();
        format!("{}@{}", text("gateway"), text("dev"))
    };
    let ways = match (&route["nhid"], route["nexthops"].as_array()) {
        (Value::Number(id), _) => format!("nexthop {id}"),
        (_, Some(ways)) => ways.iter().map(way).collect::<Vec<_>>().join(","),
        _ => way(route),
    };
    let table = match number("table", "254").as_str() {
        "main" => "254".to_owned(),
        "local" => "255".to_owned(),
        table => table.to_owned(),
    };
    let kind = text("type");
    let kind = match kind.parse::<usize>() {
        Ok(number) => [
            "unspec",
            "unicast",
            "local",
            "broadcast",
            "anycast",
            "multicast",
            "blackhole",
            "unreachable",
            "prohibit",
            "throw",
        ][number]
            .to_owned(),
        Err(_) => kind,
    };
    let scope = match (six, number("scope", "0").as_str()) {
        (true, _) => String::new(),
        (_, "global") => "0".to_owned(),
        (_, "link") => "253".to_owned(),
        (_, "host") => "254".to_owned(),
        (_, other) => other.to_owned(),
    };
    let protocol = match number("protocol", "3").as_str() {
        "kernel" => "2".to_owned(),
        "boot" => "3".to_owned(),
        "static" => "4".to_owned(),
        other => other.to_owned(),
    };
    let (metric, source) = (number("metric", "0"), text("prefsrc"));
    format!(
        "{table} {kind} {destination} {ways} proto {protocol} scope {scope} metric {metric} src {source}"
    )
}

fn neighbours(ledger: &mut Ledger, ground: &mut Ground) {
    let namespaces = namespaces(ground);
    let ask = |ground: &mut Ground| {
        let mut lines = BTreeSet::new();
        for (netns, enter) in namespaces.iter().zip(["", "-n blue"]) {
            for one in json(ground, &format!("ip -j {enter} neigh show nud all")) {
                let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
                let state = one["state"][0].as_str().unwrap_or_default();
                lines.insert(format!(
                    "{netns} {} {} {} {state}",
                    text("dev"),
                    text("dst"),
                    text("lladdr")
                ));
            }
        }
        lines
    };
    let (before, seen, after): (BTreeSet<String>, Neighbours, BTreeSet<String>) =
        ground.sandwich(ask, Guest::neighbours);
    let mut memory = BTreeSet::new();
    for one in seen.iter() {
        let hardware: Vec<String> = one
            .hardware
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        memory.insert(format!(
            "{} {} {} {} {}",
            one.netns,
            one.dev,
            one.address,
            hardware.join(":"),
            one.state
        ));
    }
    for line in before.intersection(&after) {
        ledger.same(
            format!("{line} of {memory:?}"),
            "neighbour",
            &memory.contains(line),
            &true,
        );
    }
    let states: BTreeSet<&str> = seen.iter().map(|one| one.state).collect();
    for state in ["PERMANENT", "NOARP"] {
        ledger.same(
            format!("{states:?}"),
            "neighbour's state",
            &states.contains(state),
            &true,
        );
    }
}

/// The numbers of a line of `/proc/net/dev`, as `dev_seq_printf_stats()` adds them up.
fn counters(stats: &DeviceStats) -> Vec<u64> {
    let s = stats;
    vec![
        s.rx_bytes,
        s.rx_packets,
        s.rx_errors,
        s.rx_dropped + s.rx_missed_errors,
        s.rx_fifo_errors,
        s.rx_length_errors + s.rx_over_errors + s.rx_crc_errors + s.rx_frame_errors,
        s.rx_compressed,
        s.multicast,
        s.tx_bytes,
        s.tx_packets,
        s.tx_errors,
        s.tx_dropped,
        s.tx_fifo_errors,
        s.collisions,
        s.tx_carrier_errors + s.tx_aborted_errors + s.tx_window_errors + s.tx_heartbeat_errors,
        s.tx_compressed,
    ]
}

fn devices(ledger: &mut Ledger, ground: &mut Ground) {
    let netns = namespaces(ground)[0];
    let names: Vec<String> = ground
        .sh("ls /sys/class/net")
        .split_whitespace()
        .map(str::to_owned)
        .filter(|name| name != "bonding_masters")
        .collect();
    let ask = |ground: &mut Ground| {
        let text = ground.sh("cat /proc/net/dev");
        let line = |line: &str| {
            let (name, numbers) = line.split_once(':')?;
            let numbers: Vec<u64> = numbers
                .split_whitespace()
                .map(|n| n.parse().unwrap())
                .collect();
            Some((name.trim().to_owned(), numbers))
        };
        let dev: BTreeMap<String, Vec<u64>> = text.lines().filter_map(line).collect();
        let sys = ground.sh("cd /sys/class/net; for d in *; do [ -d $d/queues ] && echo $d $(cat $d/operstate $d/carrier_changes $d/tx_queue_len) $(ls -d $d/queues/tx-* | wc -l) $(ls -d $d/queues/rx-* | wc -l); done");
        let tc = ground.sh("tc qdisc show");
        let links = json(ground, "ip -j -d link show");
        (dev, sys, tc, links)
    };
    let (before, seen, after) = ground.sandwich(ask, |guest| -> Result<Vec<_>> {
        names.iter().map(|name| guest.net_device(name)).collect()
    });
    for all in &seen {
        let one = all.iter().find(|one| one.device.netns == netns).unwrap();
        let name = &one.device.name;
        let stats = one.stats.as_ref().map(counters);
        let of = |said: &BTreeMap<String, Vec<u64>>| said.get(name).cloned();
        ledger.steady(
            format!("{name} {}", one.stats_by),
            "counters",
            &stats,
            (&of(&before.0), &of(&after.0)),
        );
        let line = format!(
            "{name} {} {} {} {} {}",
            one.operstate,
            one.carrier_changes,
            one.tx_queue_len,
            one.tx.len(),
            one.rx.len()
        );
        let of = |said: &str| {
            said.lines()
                .find(|line| line.split(' ').next() == Some(name))
                .map(str::to_owned)
        };
        ledger.steady(name, "queue", &Some(line), (&of(&before.1), &of(&after.1)));
        // qdisc prio 7: dev klab-dummy root refcnt 2 ..; a device without one has `noqueue 0:`.
        let root = before
            .2
            .lines()
            .find(|line| line.contains(&format!(" dev {name} root")));
        // One that is down has none that tc shows.
        if let Some(root) = root {
            let words: Vec<&str> = root.split(' ').collect();
            let first = &one.tx[0];
            ledger.same(root, "qdisc", &first.qdisc.as_str(), &words[1]);
            let handle = format!("{:x}:", first.handle >> 16);
            ledger.same(root, "qdisc", &handle.as_str(), &words[2]);
        }
        let link = before
            .3
            .iter()
            .find(|link| link["ifname"].as_str() == Some(name))
            .unwrap();
        let kind = link["linkinfo"]["info_kind"].as_str().unwrap_or_default();
        ledger.same(name, "link", &one.kind.as_str(), &kind);
        let queues = link["num_tx_queues"].as_u64().unwrap() as usize;
        ledger.same(name, "link", &(one.tx.len() <= queues), &true);
        for napi in &one.napi {
            let known =
                napi.poll.contains("poll") && napi.state.contains(&"LISTED") && napi.weight > 0;
            ledger.same(format!("{napi:?}"), "napi", &known, &true);
        }
    }
    // Loopback's features are the same everywhere.
    let lo = seen
        .iter()
        .flat_map(|all| all.iter())
        .find(|one| one.device.name == "lo")
        .unwrap();
    for feature in ["loopback", "highdma", "tx-lockless", "netns-local"] {
        // Two of them became flags of their own in 6.12.
        let known = lo.features.iter().any(|one| one == feature)
            || ["tx-lockless", "netns-local"].contains(&feature);
        ledger.same(feature, "feature", &known, &true);
    }
}
