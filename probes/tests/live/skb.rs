//! Whole ways of packets, each beside what the guest's own tracer saw.

use std::net::Ipv4Addr;

use probes::skb::{Path, Paths, Profile, What};
use probes::traffic::{Rule, Tcp};
use probes::view::View;
use vm::agent::{SocketKind, WorkloadKind};

use crate::ground::Ground;

const PORT: u16 = 80;

fn listen(ground: &mut Ground, kind: SocketKind, netns: &str) {
    let netns = netns.to_owned();
    let socket = WorkloadKind::Socket { kind, netns };
    ground.agent.workload(socket).unwrap();
}

/// The names of a way, in order, must be these among others.
fn passes(path: &Path, names: &[&str]) {
    assert!(path.passes(names), "not {names:?}:\n{}", path.text());
    assert!(!path.incomplete, "{}", path.text());
}

fn sound(paths: &Paths) {
    let tally = paths.tally;
    assert_eq!((tally.lost, tally.missed), (0, 0), "{tally:?}");
    assert!(tally.delivered > 0);
}

fn syn(source: u16) -> Tcp {
    Tcp {
        source,
        destination: PORT,
        seq: 1,
        flags: Tcp::SYN,
        ..Tcp::default()
    }
}

/// What a received packet goes through before its protocol gets it.
const RECEIVED: [&str; 6] = [
    "eth_type_trans",
    "netif_receive_skb",
    "ip_rcv_core",
    "ip_rcv_finish_core",
    "ip_local_deliver",
    "ip_protocol_deliver_rcu",
];

fn received(path: &Path, then: &[&str]) {
    let all: Vec<&str> = RECEIVED.iter().chain(then).copied().collect();
    passes(path, &all);
    let (first, last) = (
        path.stage("ip_rcv_core").unwrap(),
        path.stage("ip_protocol_deliver_rcu").unwrap(),
    );
    // One packet, one memory; the IP header was passed over: 20 bytes.
    assert_eq!(first.head, last.head);
    assert_eq!(last.geometry.data - first.geometry.data, 20);
    assert_eq!(first.packet, last.packet);
}

pub(crate) fn over_virtio_net() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let net = guest.net().unwrap();
    listen(&mut ground, SocketKind::Tcp { port: PORT }, "");
    listen(&mut ground, SocketKind::Udp { port: 53 }, "");
    // The guest has learnt our address, so that no packet waits for an answer to ARP.
    net.ping(1, 0).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));

    let mut sent = Vec::new();
    let paths = guest
        .paths(&Profile::Path, |_| {
            sent.push(net.segment(syn(40_000), b"")?);
            sent.push(net.segment(
                Tcp {
                    destination: 81,
                    ..syn(40_001)
                },
                b"",
            )?);
            sent.push(net.datagram(1000, 53, b"to an open port")?);
            sent.push(net.datagram(1000, 54, b"to a closed port")?);
            sent.push(net.ping(1, 1)?);
            let bad = probes::traffic::Frame::udp(
                (probes::traffic::HOST, 1000),
                (probes::traffic::GUEST, 53),
                b"with a wrong check sum",
            )?;
            let bad = bad.corrupted();
            net.send(&bad)?;
            sent.push(bad);
            Ok(())
        })
        .unwrap();
    println!("{}", paths.text());
    sound(&paths);
    let one = |index: usize| paths.one(&sent[index]).unwrap();

    received(
        &one(0),
        &["tcp_v4_rcv", "tcp_v4_do_rcv", "tcp_conn_request"],
    );
    received(&one(1), &["tcp_v4_rcv", "tcp_v4_send_reset", "kfree_skb"]);
    assert_eq!(one(1).dropped(), Some("NO_SOCKET"));
    received(&one(2), &["udp_rcv"]);
    assert_eq!(one(2).dropped(), None);
    received(&one(3), &["udp_rcv", "__icmp_send", "kfree_skb"]);
    assert_eq!(one(3).dropped(), Some("NO_SOCKET"));
    received(&one(4), &["icmp_rcv", "icmp_echo", "consume_skb"]);
    received(&one(5), &["udp_rcv", "kfree_skb"]);
    assert_eq!(one(5).dropped(), Some("UDP_CSUM"));
    // And what the guest sent: the answer to the ping, from the stack to the driver.
    // (The driver frees an older one only when it sends again.)
    let answers = paths.about("192.0.2.2 > 192.0.2.1 ICMP echo reply");
    let answer = answers
        .iter()
        .find(|path| path.stage("ip_output").is_some());
    passes(
        answer.unwrap(),
        &[
            "__ip_local_out",
            "ip_output",
            "__dev_queue_xmit",
            "dev_hard_start_xmit",
            "start_xmit",
        ],
    );
}

pub(crate) fn with_netfilter() {
    let ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let net = guest.net().unwrap();
    guest.nftables("", &[Rule::DropTcp { port: PORT }]).unwrap();
    let mut sent = Vec::new();
    let paths = guest
        .paths(&Profile::Path, |_| {
            sent.push(net.segment(syn(40_000), b"")?);
            Ok(())
        })
        .unwrap();
    println!("{}", paths.text());
    sound(&paths);
    let path = paths.one(&sent[0]).unwrap();
    passes(
        &path,
        &[
            "ip_rcv_core",
            "ip_local_deliver",
            "nf_hook_slow",
            "nft_do_chain_ipv4",
            "kfree_skb",
        ],
    );
    assert_eq!(path.dropped(), Some("NETFILTER_DROP"));
    let What::Hook(hook) = &path.stage("nft_do_chain_ipv4").unwrap().what else {
        panic!("{}", path.text());
    };
    assert_eq!(
        (
            hook.hook,
            hook.priority,
            hook.chain.as_deref(),
            hook.verdict
        ),
        (Some("LOCAL_IN"), Some(0), Some("klab/input"), Some("DROP"))
    );
    // Nothing is registered on PRE_ROUTING.
    assert!(
        path.iter()
            .any(|stage| stage.what == What::NoHook("PRE_ROUTING")),
        "{}",
        path.text()
    );
    assert!(path.stage("tcp_v4_rcv").is_none());
}

pub(crate) fn over_lo_and_veth() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    guest.veth().unwrap();
    ground.sh("ip netns exec left ping -c 1 -W 5 10.1.0.2");
    let paths = guest
        .paths(&Profile::Path, |guest| {
            guest
                .agent()?
                .shell("ping -c 1 -W 5 127.0.0.1; ip netns exec left ping -c 1 -W 5 10.1.0.2")?;
            Ok(())
        })
        .unwrap();
    println!("{}", paths.text());
    sound(&paths);
    for (about, device) in [
        ("127.0.0.1 > 127.0.0.1 ICMP echo request", "loopback_xmit"),
        ("10.1.0.1 > 10.1.0.2 ICMP echo request", "veth_xmit"),
    ] {
        let these = paths.about(about);
        let path = these.first().unwrap();
        passes(
            path,
            &[
                "ip_output",
                "__dev_queue_xmit",
                device,
                "enqueue_to_backlog",
                "ip_rcv",
                "ip_rcv_core",
                "ip_local_deliver",
                "icmp_rcv",
                "icmp_echo",
            ],
        );
    }
}

pub(crate) fn through_a_router() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    guest.router().unwrap();
    listen(&mut ground, SocketKind::Tcp { port: PORT }, "outside");
    let to = Ipv4Addr::new(10, 2, 0, 2);
    guest
        .nftables(
            "router",
            &[
                Rule::Dnat { port: PORT, to },
                Rule::Masquerade { out: "out0" },
            ],
        )
        .unwrap();
    guest
        .send_from("inside", "tcp", "10.1.0.1:80", "first, for ARP")
        .unwrap();
    let paths = guest
        .paths(&Profile::Path, |guest| {
            guest.send_from("inside", "tcp", "10.1.0.1:80", "hello")
        })
        .unwrap();
    println!("{}", paths.text());
    sound(&paths);
    // The SYN: one packet all the way, under three pairs of addresses.
    let syn = paths.about("TCP SYN");
    let path = syn
        .iter()
        .find(|path| path.packet.contains("10.1.0.2:"))
        .unwrap();
    passes(
        path,
        &[
            "ip_output",
            "veth_xmit",
            "ip_rcv",
            "nf_nat_ipv4_pre_routing",
            "ip_forward",
            "ip_output",
            "nf_nat_ipv4_out",
            "veth_xmit",
            "ip_rcv",
            "ip_local_deliver",
            "tcp_v4_rcv",
        ],
    );
    let at = |name: &str| {
        probes::traffic::describe(
            &path
                .iter()
                .rev()
                .find(|stage| stage.name == name)
                .unwrap()
                .packet,
        )
    };
    assert!(
        at("ip_forward").contains("> 10.2.0.2:80"),
        "{}",
        at("ip_forward")
    );
    assert!(
        at("tcp_v4_rcv").starts_with("10.2.0.1:"),
        "{}",
        at("tcp_v4_rcv")
    );
}

/// The kernel's function tracer, on functions that only packets call: the same calls in the same order.
pub(crate) fn the_function_tracer_agrees() {
    const WATCHED: [&str; 8] = [
        "ip_rcv_core",
        "ip_rcv_finish_core",
        "ip_local_deliver",
        "ip_local_deliver_finish",
        "tcp_v4_rcv",
        "udp_rcv",
        "icmp_rcv",
        "ip_output",
    ];
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let net = guest.net().unwrap();
    listen(&mut ground, SocketKind::Tcp { port: PORT }, "");
    net.ping(1, 0).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    // No SYN-ACK again a second later, when the capture has ended and the tracer has not.
    ground.sh("echo 0 >/proc/sys/net/ipv4/tcp_synack_retries");
    // One CPU, so that there is one order.
    ground.sh("echo 0 >/sys/devices/system/cpu/cpu1/online");
    let here = "cd /sys/kernel/tracing";
    ground.sh(&format!("{here}; echo '{}' >set_ftrace_filter; echo function >current_tracer; echo >trace; echo 1 >tracing_on", WATCHED.join(" ")));
    let paths = guest
        .paths(&Profile::Path, |_| {
            for n in 0..20 {
                net.segment(syn(41_000 + n), b"")?;
                net.ping(2, n)?;
                net.datagram(1000, 54, b"closed")?;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Ok(())
        })
        .unwrap();
    let trace = ground.sh(&format!(
        "{here}; echo 0 >tracing_on; cat trace; echo nop >current_tracer; echo >set_ftrace_filter"
    ));
    sound(&paths);
    let said: Vec<&str> = trace
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(": ").nth(1)?.split([' ', '<']).next())
        .filter(|name| WATCHED.contains(name))
        .collect();
    let mut seen: Vec<(u64, &str)> = paths
        .iter()
        .flat_map(|path| path.iter().map(|stage| (path.first + stage.ns, stage)))
        .filter(|(_, stage)| stage.what == What::Call && WATCHED.contains(&stage.name.as_str()))
        .map(|(time, stage)| (time, stage.name.as_str()))
        .collect();
    seen.sort_by_key(|(time, _)| *time);
    let seen: Vec<&str> = seen.into_iter().map(|(_, name)| name).collect();
    assert!(seen.len() > 200, "{}", seen.len());
    assert_eq!(seen, said);
}

/// What ftrace itself says that it can hook.
pub(crate) fn functions() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let _net = guest.net().unwrap();
    let found = guest.skb_functions().unwrap();
    assert!(found.len() > 1000, "{}", found.len());
    let said = ground.sh("cat /sys/kernel/tracing/available_filter_functions_addrs");
    let said: std::collections::HashSet<u64> = said
        .lines()
        .filter_map(|line| {
            u64::from_str_radix(line.split(' ').next()?.trim_start_matches("0x"), 16).ok()
        })
        .collect();
    let missing: Vec<&str> = found
        .iter()
        .filter(|function| {
            !said.contains(&function.at.0) && !said.contains(&function.at.offset(4).0)
        })
        .map(|function| function.name.as_str())
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
    let module = found.iter().find(|function| {
        function.name == "receive_buf" || function.module.as_deref() == Some("virtio_net")
    });
    assert!(module.is_some());
    let position = |name: &str| found.named(name).next().unwrap().position;
    assert_eq!(
        (
            position("ip_rcv"),
            position("ip_rcv_finish_core"),
            position("ip_local_deliver")
        ),
        (0, 1, 0)
    );
}
