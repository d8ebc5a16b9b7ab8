//! A packet stays one packet: copied, cut into segments, put together by GRO, put into a tunnel. And what it became a part of is named.

use probes::Guest;
use probes::skb::{Path, Paths, Profile, Stage, What};
use probes::traffic::{Frame, Tcp};
use probes::view::View;
use vm::agent::SocketKind;

use crate::ground::Ground;
use crate::skb::{listen, sound, syn};

const SOON: std::time::Duration = std::time::Duration::from_secs(5);

fn made(path: &Path, by: &str) -> Vec<Stage> {
    path.iter()
        .filter(|stage| stage.name == by && matches!(stage.what, What::Derived { .. }))
        .cloned()
        .collect()
}

fn capture(guest: &Guest, line: &str) -> Paths {
    let paths = guest
        .paths(&Profile::Path, |guest| {
            guest.agent()?.shell(line)?;
            Ok(())
        })
        .unwrap();
    sound(&paths);
    paths
}

#[test]
fn through_copies_and_tunnels() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    guest.veth().unwrap();
    listen(&mut ground, SocketKind::Tcp { port: 80 }, "right");
    ground.sh("ip netns exec left ping -c 1 -W 5 10.1.0.2");

    // Segments: a queue that takes no large packets has them cut (tbf_segment, net/sched/sch_tbf.c).
    ground.sh(
        "ip netns exec left tc qdisc add dev veth0 root tbf rate 800mbit burst 2000 latency 400ms",
    );
    let line = format!(
        "ip netns exec left /init send tcp 10.1.0.2:80 {}",
        "x".repeat(12_000)
    );
    let paths = capture(&guest, &line);
    let path = paths
        .iter()
        .find(|path| path.stage("skb_segment").is_some())
        .unwrap_or_else(|| panic!("{}", paths.text()));
    let whole = path.stage("skb_segment").unwrap().clone();
    let segments = made(path, "skb_segment");
    assert!(segments.len() >= 2, "{}", path.text());
    // Every byte of the payload is in one of them, and each went on to the other side's socket.
    // skb_segment() is called with the headers pulled off; each segment has them again.
    let headers = 14 + 20 + 32;
    let payload: u32 = segments
        .iter()
        .map(|stage| stage.geometry.len - headers)
        .sum();
    assert_eq!(payload, whole.geometry.len, "{}", path.text());
    for segment in &segments {
        assert!(segment.geometry.len <= 1514);
        let arrived = path
            .iter()
            .any(|stage| stage.skb == segment.skb && stage.name == "tcp_v4_rcv");
        assert!(arrived, "{}", path.text());
        assert_ne!(segment.head, whole.head);
    }

    // A copy: netem writes into the packet, which TCP still has (skb_unshare, net/sched/sch_netem.c).
    ground.sh("ip netns exec left tc qdisc replace dev veth0 root netem corrupt 100%");
    let paths = capture(
        &guest,
        "ip netns exec left timeout 1 /init send tcp 10.1.0.2:80 x; true",
    );
    let path = paths
        .iter()
        .find(|path| path.stage("skb_copy").is_some())
        .unwrap_or_else(|| panic!("{}", paths.text()));
    let copies = made(path, "skb_copy");
    let from = path.stage("skb_copy").unwrap();
    assert_eq!(copies[0].what, What::Derived { from: from.skb });
    assert!(copies[0].head != from.head && copies[0].skb != from.skb);
    let went = path
        .iter()
        .any(|stage| stage.skb == copies[0].skb && stage.name == "veth_xmit");
    assert!(went, "{}", path.text());

    // A tunnel: one packet inside and outside of it.
    ground.sh("ip netns exec left tc qdisc del dev veth0 root");
    for (ns, own, other) in [("left", 1, 2), ("right", 2, 1)] {
        ground.sh(&format!(
            "ip -n {ns} link add vx0 type vxlan id 7 remote 10.1.0.{other} dstport 4789 dev veth0; \
             ip netns exec {ns} sh -c 'echo 1 >/proc/sys/net/ipv6/conf/vx0/disable_ipv6'; \
             ip -n {ns} address add 10.9.0.{own}/24 dev vx0; ip -n {ns} link set vx0 up"
        ));
    }
    ground.sh("ip netns exec left ping -c 1 -W 5 10.9.0.2");
    let paths = capture(&guest, "ip netns exec left ping -c 1 -W 5 10.9.0.2");
    let request = paths.about("10.9.0.1 > 10.9.0.2 ICMP echo request");
    assert_eq!(request.len(), 1, "{}", request.text());
    let way = [
        "ip_output",
        "dev_hard_start_xmit",
        "ip_local_out",
        "ip_output",
        "veth_xmit",
        "ip_rcv",
        "udp_rcv",
        "gro_receive_skb",
        "ip_rcv_core",
        "icmp_rcv",
        "icmp_echo",
    ];
    assert!(request[0].passes(&way), "{}", request.text());
    let outer = request[0].stage("udp_rcv").unwrap();
    let outer = probes::traffic::describe(&outer.packet);
    assert!(
        outer.starts_with("10.1.0.1:") && outer.ends_with("> 10.1.0.2:4789 UDP"),
        "{outer}"
    );
}

/// Segments that NAPI polls together become one packet; datagrams that it polls together go as a list, with one route.
#[test]
fn together_from_the_wire() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let net = guest.net().unwrap();
    listen(&mut ground, SocketKind::Tcp { port: 80 }, "");
    listen(&mut ground, SocketKind::Udp { port: 53 }, "");
    // By hand, since GRO holds no segment with PSH back.
    let header = |flags, seq, ack| Tcp {
        flags,
        seq,
        ack,
        ..syn(40_000)
    };
    net.segment(header(Tcp::SYN, 1000, 0), b"").unwrap();
    let answer = net
        .wait(SOON, |frame| frame.tcp_header().is_some())
        .unwrap();
    let ack = answer.tcp_header().unwrap().seq.wrapping_add(1);
    net.segment(header(Tcp::ACK, 1001, ack), b"").unwrap();
    let (mut segments, mut datagrams) = (Vec::new(), Vec::new());
    let paths = guest
        .paths(&Profile::Path, |guest| {
            guest.paused(|_| {
                for n in 0..4_u8 {
                    let seq = 1001 + 200 * u32::from(n);
                    segments.push(net.segment(header(Tcp::ACK, seq, ack), &[n; 200])?);
                }
                Ok(())
            })?;
            let all = |frame: &Frame| frame.tcp_header().is_some_and(|tcp| tcp.ack == 1801);
            assert!(net.wait(SOON, all).is_some());
            guest.paused(|_| {
                for n in 0..4_u8 {
                    datagrams.push(net.datagram(1000, 53, &[n])?);
                }
                Ok(())
            })
        })
        .unwrap();
    sound(&paths);
    let ways: Vec<Path> = segments
        .iter()
        .map(|segment| paths.one(segment).unwrap())
        .collect();
    // Each was held for others, or became part of one that was.
    let into = |path: &Path| match path.stage("skb_gro_receive").map(|stage| &stage.what) {
        Some(What::Merged { into }) => Some(*into),
        _ => None,
    };
    let mut merged = 0;
    for path in &ways {
        match into(path) {
            Some(held) => {
                merged += 1;
                let holder = ways
                    .iter()
                    .find(|way| way.stage("dev_gro_receive").unwrap().skb == held);
                assert!(into(holder.unwrap()).is_none(), "{}", path.text());
                assert!(path.stage("ip_rcv_core").is_none(), "{}", path.text());
            }
            None => {
                let held = path.stage("dev_gro_receive").unwrap().skb;
                let count = 1 + ways.iter().filter(|way| into(way) == Some(held)).count() as u32;
                // From there on it is all of them.
                let core = path.stage("ip_rcv_core").unwrap();
                assert_eq!(core.geometry.len, 20 + 20 + count * 200, "{}", path.text());
                assert!(path.passes(&["ip_rcv_core", "tcp_v4_rcv", "tcp_rcv_established"]));
                assert!(path.stage("ip_rcv").is_none());
            }
        }
    }
    assert!(merged > 0, "{}", paths.text());

    let mut hinted = 0;
    for datagram in &datagrams {
        let path = paths.one(datagram).unwrap();
        assert!(path.stage("ip_rcv").is_none() && path.passes(&["ip_rcv_core", "udp_rcv"]));
        let looked = path.stage("ip_route_input_noref").is_some();
        let hint = path.iter().any(|stage| {
            stage.name == "ip_route_use_hint"
                && stage
                    .note
                    .as_deref()
                    .is_some_and(|note| note.contains("hint"))
        });
        assert_ne!(looked, hint, "{}", path.text());
        hinted += usize::from(hint);
    }
    assert!(hinted >= 2, "{hinted}");
}
