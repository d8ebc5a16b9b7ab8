//! Ways over `lo`, veth and the cable.

use super::lines::*;
use super::*;

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
