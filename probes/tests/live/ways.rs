//! The whole ways of packets, on `lo`, veth and virtio-net: received, dropped, forwarded, sent.

use std::net::Ipv4Addr;
use std::time::Duration;

use probes::Guest;
use probes::skb::{Path, Paths, Profile};
use probes::traffic::{End, Frame, GUEST, HOST, Rule, Tcp};
use probes::view::View;
use vm::agent::SocketKind;

use crate::ground::Ground;
use crate::skb::{listen, sound, syn};
use crate::way::compare;

type Lines = &'static [&'static str];

/// From the stack to the driver; Debian's AppArmor has a hook there.
const OUT: Lines = &[
    "ip_output",
    "nf_hook_slow",
    "apparmor_ip_postroute : POST_ROUTING -225 ACCEPT",
    "ip_finish_output @out",
    "__ip_finish_output",
    "ip_finish_output2",
    "?neigh_resolve_output",
    "__dev_queue_xmit -14 @out",
    "net_dev_queue",
];
const LOCAL_OUT: Lines = &["__ip_local_out", "LOCAL_OUT : no hook"];
/// A UDP datagram, an ICMP packet, a raw packet from a socket.
const UDP_OUT: Lines = &["udp_send_skb", "ip_send_skb"];
/// TCP sends a clone; `$o` stays until it is acknowledged.
const SYN_OUT: Lines = &[
    "__tcp_transmit_skb $o",
    "skb_clone $o",
    "skb_clone $a : made",
    "ip_queue_xmit -40",
    "__ip_queue_xmit",
    "ip_local_out -20",
];
const DATA_OUT: Lines = &[
    "__tcp_transmit_skb $o",
    "skb_clone $o",
    "skb_clone $a : made",
    "ip_queue_xmit -32",
    "__ip_queue_xmit",
    "ip_local_out -20",
];
const LO: Lines = &[
    "validate_xmit_skb",
    "dev_hard_start_xmit",
    "net_dev_start_xmit",
    "loopback_xmit",
];
const VETH: Lines = &[
    "validate_xmit_skb",
    "dev_hard_start_xmit",
    "net_dev_start_xmit",
    "veth_xmit",
    "__dev_forward_skb",
];
const VIRTIO: Lines = &[
    "sch_direct_xmit",
    "validate_xmit_skb",
    "dev_hard_start_xmit",
    "net_dev_start_xmit",
    "start_xmit @nic",
    "net_dev_xmit",
    // The driver frees it when it sends again.
    "~?skb_attempt_defer_free",
    "~?consume_skb",
    "~?skb_release_data",
];
/// `ip_rcv`: one packet, from the backlog.
const BACKLOG: Lines = &[
    "eth_type_trans",
    "__netif_rx +14 @in",
    "netif_rx_internal",
    "netif_rx",
    "enqueue_to_backlog",
    "net_dev_xmit",
    "__netif_receive_skb",
    "__netif_receive_skb_one_core",
    "netif_receive_skb @in",
    "ip_rcv @in",
];
/// `ip_list_rcv`, which takes a list and no `sk_buff`: NAPI's poll, GRO.
const NAPI: Lines = &[
    "eth_type_trans",
    "gro_receive_skb +14 @in",
    "napi_gro_receive_entry",
    "dev_gro_receive",
    "inet_gro_receive",
];
const TCP_GRO: Lines = &["tcp4_gro_receive"];
const LIST: Lines = &["netif_receive_skb @in"];
const CORE: Lines = &["ip_rcv_core @in", "PRE_ROUTING : no hook"];
const ROUTE: Lines = &[
    "ip_rcv_finish_core",
    "ip_route_input_noref",
    "ip_route_input_slow",
];
const OWN_ROUTE: Lines = &["ip_rcv_finish_core : it came with its route"];
const EARLY_DEMUX: Lines = &["ip_rcv_finish_core : early demux"];
const LOCAL_IN: Lines = &["ip_local_deliver", "LOCAL_IN : no hook"];
const DELIVER: Lines = &[
    "ip_local_deliver_finish",
    "ip_protocol_deliver_rcu +20",
    "raw_local_deliver",
];
const TO_UDP: Lines = &[
    "udp_rcv",
    "udp_unicast_rcv_skb",
    "udp_queue_rcv_skb",
    "udp_queue_rcv_one_skb",
    "__udp_enqueue_schedule_skb +8",
    "~skb_attempt_defer_free",
    "~?consume_skb",
    "~?skb_release_data",
];
const NO_UDP: Lines = &[
    "udp_rcv",
    "__icmp_send",
    "kfree_skb : NO_SOCKET in udp_rcv",
    "skb_release_data",
];
const BAD_SUM: Lines = &["udp_rcv", "kfree_skb : UDP_CSUM", "skb_release_data"];
const TO_LISTENER: Lines = &[
    "tcp_v4_rcv",
    "tcp_v4_do_rcv",
    "tcp_rcv_state_process",
    "tcp_v4_conn_request",
    "tcp_conn_request",
    "~consume_skb : in tcp_rcv_state_process",
    "~skb_release_data",
];
const NO_TCP: Lines = &[
    "tcp_v4_rcv",
    "tcp_v4_send_reset",
    "kfree_skb : NO_SOCKET in tcp_v4_rcv",
    "skb_release_data",
];
/// What the sender keeps goes when it is acknowledged, or refused.
const KEPT: Lines = &["~skb_release_data $o"];
/// Data, and what becomes of it once it was read. `N` bytes of options.
const TO_STREAM: Lines = &[
    "tcp_v4_rcv",
    "tcp_v4_do_rcv",
    "tcp_rcv_established",
    "tcp_data_queue",
];
const READ: Lines = &[
    "~skb_attempt_defer_free",
    "~?consume_skb",
    "~?skb_release_data",
];
const ECHO: Lines = &[
    "icmp_rcv",
    "icmp_echo +8",
    "icmp_reply",
    "~consume_skb : in icmp_rcv",
    "~skb_release_data",
];
const DROPPED: Lines = &[
    "ip_local_deliver",
    "nf_hook_slow",
    "nft_do_chain_ipv4 : LOCAL_IN 0 DROP klab/input#2 counter, klab/input#2 drop",
    "kfree_skb : NETFILTER_DROP in nft_do_chain",
    "skb_release_data",
];
const RP_FILTER: Lines = &[
    "kfree_skb : IP_RPFILTER in ip_rcv_finish_core",
    "skb_release_data",
];

/// The cases of a capture, and where they went wrong.
struct Cases<'a> {
    paths: &'a Paths,
    wrong: Vec<String>,
    right: usize,
}

impl<'a> Cases<'a> {
    fn new(paths: &'a Paths) -> Self {
        sound(paths);
        Self {
            paths,
            wrong: Vec::new(),
            right: 0,
        }
    }

    /// The first packet of this description has this way.
    fn case(&mut self, about: &str, parts: &[Lines]) {
        match self.paths.iter().find(|path| path.packet.contains(about)) {
            Some(path) => self.compare(about, path, parts),
            None => self.wrong.push(format!("{about}: not seen")),
        }
    }

    fn frame(&mut self, frame: &Frame, parts: &[Lines]) {
        match self.paths.one(frame) {
            Ok(path) => self.compare(&frame.to_string(), &path, parts),
            Err(error) => self.wrong.push(error.to_string()),
        }
    }

    fn compare(&mut self, about: &str, path: &Path, parts: &[Lines]) {
        match compare(path, &parts.concat()) {
            Ok(()) => self.right += 1,
            Err(why) => self.wrong.push(format!("{about}: {why}")),
        }
    }

    fn end(self, expected: usize) {
        // A way that is not what it should be is often explained by its neighbours, or by what was not recorded.
        let all = || {
            let lines = self.paths.iter().map(|path| {
                let more = path.dropped().unwrap_or("");
                format!(
                    "{} {}: {} stages {more}",
                    path.first,
                    path.packet,
                    path.len()
                )
            });
            let lines: Vec<String> = lines.collect();
            format!("{:?}\n{}", self.paths.tally, lines.join("\n"))
        };
        assert!(
            self.wrong.is_empty(),
            "{}\n{}",
            self.wrong.join("\n"),
            all()
        );
        assert_eq!(self.right, expected);
    }
}

/// So that no two packets are polled together.
fn pause() {
    std::thread::sleep(Duration::from_millis(80));
}

/// An IPv4 packet in hexadecimal, as `send raw` takes it.
fn hex(frame: &Frame) -> String {
    frame.0[14..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn end(ip: [u8; 4]) -> End {
    End {
        ip: Ipv4Addr::from(ip),
        ..HOST
    }
}

/// What is sent on `lo` and on veth: to open and closed ports, with wrong check sums, and to a rule.
fn send_all(guest: &Guest, from: &str, to: [u8; 4], source: [u8; 4]) -> probes::Result<()> {
    let at = |port: u16| format!("{}:{port}", Ipv4Addr::from(to));
    guest.send_from(from, "udp", &at(53), "open")?;
    pause();
    guest.send_from(from, "udp", &at(54), "closed")?;
    pause();
    guest.send_from(from, "tcp", &at(80), "hello")?;
    pause();
    assert!(guest.send_from(from, "tcp", &at(81), "hello").is_err());
    pause();
    let bad = Frame::udp((end(source), 1000), (end(to), 53), b"bad sum")?.corrupted();
    guest.send_from(from, "raw", &at(0), &hex(&bad))?;
    pause();
    guest.send_from(from, "udp", &at(99), "to the rule")?;
    pause();
    let ping = format!("ping -c 1 -W 5 {}", Ipv4Addr::from(to));
    let enter = if from.is_empty() {
        String::new()
    } else {
        format!("ip netns exec {from} ")
    };
    guest.agent()?.shell(&format!("{enter}{ping}"))?;
    Ok(())
}

const DROP_99: &str = "nft 'table ip klab { chain input { type filter hook input priority 0; }; }'; \
     nft add rule ip klab input udp dport 99 counter drop";
/// With it a packet meets the chain.
const MET: Lines = &[
    "ip_local_deliver",
    "nf_hook_slow",
    "nft_do_chain_ipv4 : LOCAL_IN 0 ACCEPT",
];

pub(crate) fn over_lo() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    listen(&mut ground, SocketKind::Tcp { port: 80 }, "");
    listen(&mut ground, SocketKind::Udp { port: 53 }, "");
    ground.sh(DROP_99);
    let paths = guest
        .paths(&Profile::Path, |guest| {
            send_all(guest, "", [127, 0, 0, 1], [127, 0, 0, 1])
        })
        .unwrap();
    let mut cases = Cases::new(&paths);
    let here = |first: &[Lines]| [first, &[OUT, LO, BACKLOG, CORE]].concat();
    let own = |first: &[Lines], then: &[Lines]| {
        [&here(first), &[OWN_ROUTE, MET, DELIVER] as &[Lines], then].concat()
    };
    cases.case("127.0.0.1:53 UDP", &own(&[UDP_OUT, LOCAL_OUT], &[TO_UDP]));
    cases.case("127.0.0.1:54 UDP", &own(&[UDP_OUT, LOCAL_OUT], &[NO_UDP]));
    cases.case(
        "127.0.0.1:80 TCP SYN",
        &own(&[SYN_OUT, LOCAL_OUT], &[TO_LISTENER, KEPT]),
    );
    let data = &["tcp_queue_rcv +32"] as Lines;
    cases.case(
        "127.0.0.1:80 TCP PSH",
        &own(&[DATA_OUT, LOCAL_OUT], &[TO_STREAM, data, READ, KEPT]),
    );
    cases.case(
        "127.0.0.1:81 TCP SYN",
        &own(&[SYN_OUT, LOCAL_OUT], &[NO_TCP, KEPT]),
    );
    cases.case("127.0.0.1:1000 > 127.0.0.1:53 UDP", &own(&[], &[BAD_SUM]));
    cases.case(
        "127.0.0.1:99 UDP",
        &[
            &here(&[UDP_OUT, LOCAL_OUT]),
            &[OWN_ROUTE, DROPPED] as &[Lines],
        ]
        .concat(),
    );
    // `ping` has a raw socket there, which gets a clone from the IP header on.
    let raw = &[
        "skb_clone $a",
        "skb_clone $r : made",
        "raw_rcv $r",
        "sock_queue_rcv_skb_reason $r -20",
        "__sock_queue_rcv_skb $r",
        "~consume_skb $r : in raw_recvmsg",
        "~skb_release_data $r",
    ] as Lines;
    cases.case(
        "127.0.0.1 > 127.0.0.1 ICMP echo request",
        &own(&[LOCAL_OUT], &[raw, ECHO]),
    );
    cases.end(8);
}

pub(crate) fn over_veth() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    guest.veth().unwrap();
    listen(&mut ground, SocketKind::Tcp { port: 80 }, "right");
    listen(&mut ground, SocketKind::Udp { port: 53 }, "right");
    ground.sh(&format!(
        "ip netns exec right sh -c \"{}\"",
        DROP_99.replace('\'', "\\\"").replace("\\\"", "'")
    ));
    ground.sh(
        "ip netns exec left ping -c 1 -W 5 10.1.0.2; ip netns exec right sh -c \
         'echo 1 >/proc/sys/net/ipv4/conf/veth0/rp_filter; ip link add dummy0 type dummy; \
          ip address add 10.77.0.1/24 dev dummy0; ip link set dummy0 up'",
    );
    let (left, right) = ([10, 1, 0, 1], [10, 1, 0, 2]);
    let paths = guest
        .paths(&Profile::Path, |guest| {
            send_all(guest, "left", right, left)?;
            let spoofed = Frame::udp((end([10, 77, 0, 9]), 1000), (end(right), 53), b"spoofed")?;
            guest.send_from("left", "raw", "10.1.0.2:0", &hex(&spoofed))
        })
        .unwrap();
    let mut cases = Cases::new(&paths);
    let here = |first: &[Lines]| [first, &[OUT, VETH, BACKLOG, CORE]].concat();
    let to = |first: &[Lines], then: &[Lines]| {
        [&here(first), &[ROUTE, MET, DELIVER] as &[Lines], then].concat()
    };
    cases.case("10.1.0.2:53 UDP", &to(&[UDP_OUT, LOCAL_OUT], &[TO_UDP]));
    cases.case("10.1.0.2:54 UDP", &to(&[UDP_OUT, LOCAL_OUT], &[NO_UDP]));
    cases.case(
        "10.1.0.2:80 TCP SYN",
        &to(&[SYN_OUT, LOCAL_OUT], &[TO_LISTENER, KEPT]),
    );
    let data = &["tcp_queue_rcv +32"] as Lines;
    let early = [
        &here(&[DATA_OUT, LOCAL_OUT]),
        &[EARLY_DEMUX, MET, DELIVER, TO_STREAM, data, READ, KEPT] as &[Lines],
    ];
    cases.case("10.1.0.2:80 TCP PSH", &early.concat());
    cases.case(
        "10.1.0.2:81 TCP SYN",
        &to(&[SYN_OUT, LOCAL_OUT], &[NO_TCP, KEPT]),
    );
    cases.case("10.1.0.1:1000 > 10.1.0.2:53 UDP", &to(&[], &[BAD_SUM]));
    cases.case(
        "10.1.0.2:99 UDP",
        &[&here(&[UDP_OUT, LOCAL_OUT]), &[ROUTE, DROPPED] as &[Lines]].concat(),
    );
    cases.case(
        "10.1.0.1 > 10.1.0.2 ICMP echo request",
        &to(&[LOCAL_OUT], &[ECHO]),
    );
    cases.case(
        "10.77.0.9:1000",
        &[&here(&[]), &[ROUTE, RP_FILTER] as &[Lines]].concat(),
    );
    cases.end(9);
}

pub(crate) fn over_virtio_net() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let net = guest.net().unwrap();
    listen(&mut ground, SocketKind::Tcp { port: 80 }, "");
    listen(&mut ground, SocketKind::Udp { port: 53 }, "");
    // The guest has learnt our address, so that no packet waits for an answer to ARP.
    net.ping(1, 0).unwrap();
    ground.sh(DROP_99);
    ground.sh(
        "echo 1 >/proc/sys/net/ipv4/conf/eth0/rp_filter; ip link add dummy0 type dummy; \
         ip address add 10.77.0.1/24 dev dummy0; ip link set dummy0 up",
    );
    let mut connection = net.connect(40_100, 80).unwrap();
    let mut sent = Vec::new();
    let paths = guest
        .paths(&Profile::Path, |guest| {
            let closed = Tcp {
                destination: 81,
                ..syn(40_001)
            };
            let bad = Frame::udp((HOST, 1001), (GUEST, 53), b"bad sum")?.corrupted();
            let spoofed = Frame::udp((end([10, 77, 0, 9]), 1000), (GUEST, 53), b"spoofed")?;
            let frames = [
                Frame::udp((HOST, 1000), (GUEST, 53), b"open")?,
                Frame::udp((HOST, 1000), (GUEST, 54), b"closed")?,
                Frame::tcp(HOST, GUEST, syn(40_000), b"")?,
                Frame::tcp(HOST, GUEST, closed, b"")?,
                bad,
                Frame::udp((HOST, 1000), (GUEST, 99), b"to the rule")?,
                Frame::echo(HOST, GUEST, 1, 1, b"klab")?,
                spoofed,
            ];
            for frame in frames {
                net.send(&frame)?;
                sent.push(frame);
                pause();
            }
            sent.push(connection.send(b"established")?);
            connection.acknowledged()?;
            pause();
            guest.send_from("", "udp", "192.0.2.1:9", "out")?;
            pause();
            Ok(())
        })
        .unwrap();
    let mut cases = Cases::new(&paths);
    let udp =
        |then: &[Lines]| [&[NAPI, LIST, CORE, ROUTE, MET, DELIVER] as &[Lines], then].concat();
    let tcp = |route, then: &[Lines]| {
        [
            &[NAPI, TCP_GRO, LIST, CORE, route, MET, DELIVER] as &[Lines],
            then,
        ]
        .concat()
    };
    cases.frame(&sent[0], &udp(&[TO_UDP]));
    cases.frame(&sent[1], &udp(&[NO_UDP]));
    cases.frame(&sent[2], &tcp(ROUTE, &[TO_LISTENER]));
    cases.frame(&sent[3], &tcp(ROUTE, &[NO_TCP]));
    cases.frame(&sent[4], &udp(&[BAD_SUM]));
    cases.frame(&sent[5], &[NAPI, LIST, CORE, ROUTE, DROPPED]);
    cases.frame(&sent[6], &udp(&[ECHO]));
    cases.frame(&sent[7], &[NAPI, LIST, CORE, ROUTE, RP_FILTER]);
    let data = &["tcp_queue_rcv +20"] as Lines;
    cases.frame(&sent[8], &tcp(EARLY_DEMUX, &[TO_STREAM, data, READ]));
    // From sendmsg to the driver, and the answers that the kernel sends by itself.
    cases.case("> 192.0.2.1:9 UDP", &[UDP_OUT, LOCAL_OUT, OUT, VIRTIO]);
    cases.case(
        "192.0.2.2 > 192.0.2.1 ICMP echo reply",
        &[LOCAL_OUT, OUT, VIRTIO],
    );
    cases.case(
        "192.0.2.2:80 > 192.0.2.1:40000 TCP SYN ACK",
        &[LOCAL_OUT, OUT, VIRTIO],
    );
    cases.end(12);
}

/// NAT by the rules that `nft` put last: 3 is DNAT, 4 the masquerade.
const DNAT: Lines = &[
    "ip_rcv_core @in",
    "nf_hook_slow",
    "ipv4_conntrack_defrag : PRE_ROUTING -400 ACCEPT",
    "ipv4_conntrack_in : PRE_ROUTING -200 ACCEPT",
    "nf_conntrack_in",
    "nf_nat_ipv4_pre_routing : PRE_ROUTING -100 ACCEPT klab/prerouting#3 nat ct NEW",
];
const FORWARD: Lines = &["ip_forward @in", "FORWARD : no hook"];
const MASQUERADE: Lines = &[
    "ip_forward_finish",
    "ip_output",
    "nf_hook_slow",
    "apparmor_ip_postroute : POST_ROUTING -225 ACCEPT",
    "nf_nat_ipv4_out : POST_ROUTING 100 ACCEPT klab/postrouting#4 masq ct NEW",
    "nf_confirm : POST_ROUTING 2147483647 ACCEPT",
    "ip_finish_output @far",
    "__ip_finish_output",
    "ip_finish_output2",
    "?neigh_resolve_output",
    "__dev_queue_xmit -14 @far",
    "net_dev_queue",
];
/// The clone's memory is the original's, so the router, which writes the TTL, takes its own.
const OWN_MEMORY: Lines = &[
    "pskb_expand_head",
    "skb_release_data",
    "pskb_expand_head head : resized",
];
const FAR: Lines = &[
    "eth_type_trans",
    "__netif_rx +14 @last",
    "netif_rx_internal",
    "netif_rx",
    "enqueue_to_backlog",
    "net_dev_xmit",
    "__netif_receive_skb",
    "__netif_receive_skb_one_core",
    "netif_receive_skb @last",
    "ip_rcv @last",
    "ip_rcv_core @last",
    "PRE_ROUTING : no hook",
];

pub(crate) fn through_a_router() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    guest.router().unwrap();
    listen(&mut ground, SocketKind::Tcp { port: 80 }, "outside");
    let to = Ipv4Addr::new(10, 2, 0, 2);
    guest
        .nftables(
            "router",
            &[
                Rule::Dnat { port: 80, to },
                Rule::Masquerade { out: "out0" },
            ],
        )
        .unwrap();
    guest
        .send_from("inside", "tcp", "10.1.0.1:80", "first, for ARP")
        .unwrap();
    // The rules' handles, as nft shows them.
    let said = ground.sh("ip netns exec router nft -a list ruleset");
    let handle = |rule: &str| {
        said.lines()
            .find(|line| line.contains(rule))
            .and_then(|line| line.split("# handle ").nth(1)?.trim().parse::<u64>().ok())
    };
    assert_eq!(
        (handle("dnat to"), handle("masquerade")),
        (Some(3), Some(4)),
        "{said}"
    );
    let paths = guest
        .paths(&Profile::Path, |guest| {
            guest.send_from("inside", "tcp", "10.1.0.1:80", "hello")
        })
        .unwrap();
    let mut cases = Cases::new(&paths);
    cases.case(
        "> 10.1.0.1:80 TCP SYN",
        &[
            SYN_OUT,
            LOCAL_OUT,
            OUT,
            VETH,
            BACKLOG,
            DNAT,
            ROUTE,
            FORWARD,
            OWN_MEMORY,
            MASQUERADE,
            VETH,
            FAR,
            ROUTE,
            LOCAL_IN,
            DELIVER,
            TO_LISTENER,
            &["~skb_release_data $o"],
        ],
    );
    cases.end(1);
    let path = paths
        .iter()
        .find(|path| path.packet.contains("> 10.1.0.1:80 TCP SYN"))
        .unwrap();
    let at = |name: &str| {
        let stage = path.iter().rev().find(|stage| stage.name == name).unwrap();
        probes::traffic::describe(&stage.packet)
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
    // Connection tracking, beside the kernel's own list of it.
    let listed = ground.sh("ip netns exec router cat /proc/net/nf_conntrack");
    let known = path
        .iter()
        .rev()
        .find_map(|stage| stage.conntrack.clone())
        .unwrap();
    let conn = known.conn.unwrap_or_else(|| panic!("{}", path.text()));
    let words = |tuple: &probes::netfilter::nf_conn::NfTuple| {
        format!(
            "src={} dst={} sport={} dport={}",
            tuple.source.ip(),
            tuple.destination.ip(),
            tuple.source.port(),
            tuple.destination.port()
        )
    };
    let line = listed
        .lines()
        .find(|line| line.contains(&words(&conn.original)))
        .unwrap_or_else(|| panic!("{conn:?} is not in {listed}"));
    assert!(line.contains(&words(&conn.reply)), "{conn:?} {line}");
    assert_eq!(line.contains("[ASSURED]"), conn.status.contains(&"assured"));
    assert!(conn.status.contains(&"source NAT") && conn.status.contains(&"destination NAT"));
    // The answer is of the same connection, established, the other way.
    let answer = paths
        .iter()
        .find(|path| path.packet.contains("TCP SYN ACK"))
        .unwrap();
    let said = answer
        .iter()
        .rev()
        .find_map(|stage| stage.conntrack.clone())
        .unwrap();
    assert_eq!(
        (said.state, said.reply, said.at),
        ("ESTABLISHED", true, known.at)
    );
}

/// From the cable, by its list, through DNAT into a namespace; and back by masquerade to the driver.
pub(crate) fn from_the_wire_through_nat() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let net = guest.net().unwrap();
    net.ping(1, 0).unwrap();
    ground.sh(
        "ip netns add inner; ip -n inner link set lo up; ip link add in0 type veth peer name veth0 netns inner; \
         echo 1 >/proc/sys/net/ipv6/conf/in0/disable_ipv6; ip address add 10.3.0.1/24 dev in0; ip link set in0 up; \
         ip netns exec inner sh -c 'echo 1 >/proc/sys/net/ipv6/conf/veth0/disable_ipv6'; \
         ip -n inner address add 10.3.0.2/24 dev veth0; ip -n inner link set veth0 up; \
         ip -n inner route add default via 10.3.0.1; echo 1 >/proc/sys/net/ipv4/ip_forward; \
         ip netns exec inner ping -c 1 -W 5 10.3.0.1",
    );
    listen(&mut ground, SocketKind::Tcp { port: 80 }, "inner");
    let to = Ipv4Addr::new(10, 3, 0, 2);
    guest
        .nftables(
            "",
            &[
                Rule::Dnat { port: 80, to },
                Rule::Masquerade { out: "eth0" },
            ],
        )
        .unwrap();
    let mut sent = Vec::new();
    let paths = guest
        .paths(&Profile::Path, |guest| {
            sent.push(net.segment(syn(40_000), b"")?);
            pause();
            guest.send_from("inner", "udp", "192.0.2.1:9", "out")?;
            pause();
            Ok(())
        })
        .unwrap();
    let mut cases = Cases::new(&paths);
    // No masquerade on this way out: the chain is asked, and no rule of it is for this device.
    let unchanged: Lines = &[
        "ip_forward_finish",
        "ip_output",
        "nf_hook_slow",
        "apparmor_ip_postroute : POST_ROUTING -225 ACCEPT",
        "nf_nat_ipv4_out : POST_ROUTING 100 ACCEPT",
        "nf_confirm : POST_ROUTING 2147483647 ACCEPT",
        "ip_finish_output @far",
        "__ip_finish_output",
        "ip_finish_output2",
        "?neigh_resolve_output",
        "__dev_queue_xmit -14 @far",
        "net_dev_queue",
    ];
    cases.case(
        "192.0.2.1:40000 > 192.0.2.2:80 TCP SYN",
        &[
            NAPI,
            TCP_GRO,
            LIST,
            DNAT,
            ROUTE,
            FORWARD,
            unchanged,
            VETH,
            FAR,
            ROUTE,
            LOCAL_IN,
            DELIVER,
            TO_LISTENER,
        ],
    );
    let undone: Lines = &[
        "ip_rcv_core @in",
        "nf_hook_slow",
        "ipv4_conntrack_defrag : PRE_ROUTING -400 ACCEPT",
        "ipv4_conntrack_in : PRE_ROUTING -200 ACCEPT",
        "nf_conntrack_in",
        "nf_nat_ipv4_pre_routing : PRE_ROUTING -100 ACCEPT  ct NEW",
    ];
    // The card wants more room in front than a veth needed.
    let more_room: Lines = &["pskb_expand_head", "pskb_expand_head head : resized"];
    cases.case(
        "> 192.0.2.1:9 UDP",
        &[
            UDP_OUT, LOCAL_OUT, OUT, VETH, BACKLOG, undone, ROUTE, FORWARD, more_room, MASQUERADE,
            VIRTIO,
        ],
    );
    cases.end(2);
}
