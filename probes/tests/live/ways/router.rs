//! Ways through a router: forwarding and NAT.

use super::lines::*;
use super::*;

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
