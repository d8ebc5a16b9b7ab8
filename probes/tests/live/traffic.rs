//! Frames to and from the guest, its sockets, namespaces and rules: each with the guest's own reading beside it.

use std::net::Ipv4Addr;
use std::time::Duration;

use probes::traffic::{Frame, GUEST, HOST, Rule, Tcp};
use vm::agent::{SocketKind, WorkloadKind};

use crate::ground::Ground;

pub(crate) fn both_ways(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    let net = ground.guest.net().unwrap();
    let soon = Duration::from_secs(5);

    // ICMP, and the guest's own count of it.
    let echoes =
        |ground: &mut Ground| ground.sh("awk '/^Icmp:/{n=$10} END{print n}' /proc/net/snmp");
    let before: u32 = echoes(&mut ground).trim().parse().unwrap();
    net.ping(7, 1).unwrap();
    let answer = net.wait(soon, |frame| frame.to_string().ends_with("ICMP echo reply"));
    assert_eq!(
        answer.unwrap().to_string(),
        "192.0.2.2 > 192.0.2.1 ICMP echo reply"
    );
    let after: u32 = echoes(&mut ground).trim().parse().unwrap();
    assert_eq!(after, before + 1, "echo requests by /proc/net/snmp");

    // A closed port refuses, an open one takes: SYN, data, FIN.
    let refused = net.connect(40_000, 80).unwrap_err().to_string();
    assert!(refused.contains("nobody listens"), "{refused}");
    let socket = |kind| WorkloadKind::Socket {
        kind,
        netns: String::new(),
    };
    ground
        .agent
        .workload(socket(SocketKind::Tcp { port: 80 }))
        .unwrap();
    let mut connection = net.connect(40_001, 80).unwrap();
    let shown = ground.sh("ss -tnH state established");
    assert!(
        shown.contains("192.0.2.2:80") && shown.contains("192.0.2.1:40001"),
        "{shown}"
    );
    connection.send(b"hello").unwrap();
    connection.acknowledged().unwrap();
    connection.finish().unwrap();
    connection.acknowledged().unwrap();

    // UDP out of the guest, which asks for our address first.
    ground
        .guest
        .send_from("", "udp", "192.0.2.1:9", "klab")
        .unwrap();
    let datagram = net
        .wait(soon, |frame| frame.to_string().ends_with("UDP"))
        .unwrap();
    assert!(datagram.0.ends_with(b"klab"), "{datagram}");
    ground
        .agent
        .workload(socket(SocketKind::Udp { port: 53 }))
        .unwrap();
    net.datagram(1000, 53, b"klab").unwrap();

    // After a reset the card is set up anew, over the same cable.
    ground.guest.reset().unwrap();
    let again = ground.guest.net().unwrap();
    again.ping(8, 1).unwrap();
    assert!(
        again
            .wait(soon, |frame| frame.to_string().contains("reply"))
            .is_some()
    );
    // A frame that is not for this card, and one that no one can parse.
    let header = Tcp {
        source: 1,
        destination: 2,
        ..Tcp::default()
    };
    let mut strange = Frame::tcp(HOST, GUEST, header, b"").unwrap();
    strange.0.truncate(20);
    net.send(&strange).unwrap();
}

pub(crate) fn namespaces(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    let guest = ground.guest.clone();
    guest.veth().unwrap();
    ground.sh("ip netns exec left ping -c 1 -W 5 10.1.0.2");
    ground.sh("ip netns del left; ip netns del right");

    guest.router().unwrap();
    for kind in [
        SocketKind::Tcp { port: 80 },
        SocketKind::Packet,
        SocketKind::RawIcmp,
    ] {
        let netns = "outside".to_owned();
        ground
            .agent
            .workload(WorkloadKind::Socket { kind, netns })
            .unwrap();
    }
    let to = Ipv4Addr::new(10, 2, 0, 2);
    let rules = [
        Rule::Dnat { port: 80, to },
        Rule::Masquerade { out: "out0" },
    ];
    guest.nftables("router", &rules).unwrap();
    let shown = ground.sh("ip netns exec router nft list ruleset");
    assert!(
        shown.contains("dnat to 10.2.0.2") && shown.contains("masquerade"),
        "{shown}"
    );
    // `outside` has no way back to `inside`: only both translations together let this through.
    guest
        .send_from("inside", "tcp", "10.1.0.1:80", "hello")
        .unwrap();

    guest
        .nftables(
            "outside",
            &[Rule::CountTcp { port: 80 }, Rule::DropTcp { port: 80 }],
        )
        .unwrap();
    assert!(
        guest
            .send_from("inside", "tcp", "10.1.0.1:80", "hello")
            .is_err()
    );
    let shown = ground.sh("ip netns exec outside nft list ruleset");
    assert!(
        shown.contains("counter packets ") && !shown.contains("counter packets 0"),
        "{shown}"
    );
    // The chain is on its hook. Those of type nat are not: one function of nf_nat's is, which calls them.
    let hooks = guest.nf_hooks().unwrap();
    let filter = hooks
        .iter()
        .find(|hook| hook.name == "nft_do_chain_ipv4")
        .unwrap();
    assert_eq!(
        (filter.chain.as_deref(), filter.hook, filter.priority),
        (Some("klab/input"), 1, 0)
    );
    let nat = hooks
        .iter()
        .find(|hook| hook.name == "nf_nat_ipv4_pre_routing")
        .unwrap();
    assert_eq!(
        (nat.netns == filter.netns, nat.hook, nat.priority),
        (false, 0, -100)
    );
    guest.nftables("outside", &[]).unwrap();
    guest
        .send_from("inside", "tcp", "10.1.0.1:80", "hello")
        .unwrap();
    assert!(guest.nftables("no/such", &[]).is_err());
}

pub(crate) fn packet_types(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    let _net = ground.guest.net().unwrap();
    let kind = SocketKind::Packet;
    let netns = String::new();
    ground
        .agent
        .workload(WorkloadKind::Socket { kind, netns })
        .unwrap();
    // `/proc/net/ptype` prints type, device and function (net/core/net-procfs.c).
    let said = ground.sh("cat /proc/net/ptype");
    let mut said: Vec<(u16, String)> = said
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let ethertype = match words.next()? {
                "ALL" => 3,
                number => u16::from_str_radix(number, 16).ok()?,
            };
            let function = words.last()?;
            Some((ethertype, function.split('+').next()?.to_owned()))
        })
        .collect();
    let types = ground.guest.packet_types().unwrap();
    let mut seen: Vec<(u16, String)> = types
        .iter()
        .map(|one| (one.ethertype, one.func.clone()))
        .collect();
    said.sort();
    seen.sort();
    assert_eq!(seen, said);
    assert!(seen.contains(&(0x0800, "ip_rcv".to_owned())), "{seen:?}");
    assert!(seen.contains(&(3, "packet_rcv".to_owned())), "{seen:?}");
}
