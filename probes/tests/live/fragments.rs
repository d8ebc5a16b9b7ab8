//! Datagrams that are cut into fragments, packets with headers between IPv6's and theirs, and messages that are no packets:
//! what is said of them, beside the kernel's counters.

use probes::skb::{Filter, Path, Profile};
use probes::view::View;
use vm::agent::SocketKind;

use crate::ground::Ground;
use crate::skb::listen;

/// Bytes that a datagram is full of; as ports they would be 24929.
const FILL: &str = "a";
const AS_PORT: u16 = 0x6161;

/// A counter of `/proc/net/snmp` in a network namespace.
fn counted(ground: &mut Ground, netns: &str, name: &str) -> u64 {
    let said = ground.sh(&format!("ip netns exec {netns} cat /proc/net/snmp"));
    let lines: Vec<Vec<&str>> = said
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let mut pairs = lines.as_chunks::<2>().0.iter();
    pairs
        .find_map(|[names, values]| {
            let at = names.iter().position(|one| *one == name)?;
            values[at].parse().ok()
        })
        .unwrap()
}

/// Number of the packet's stages that have this name.
fn times(path: &Path, name: &str) -> usize {
    path.iter().filter(|stage| stage.name == name).count()
}

#[test]
fn are_of_their_datagram() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    guest.veth().unwrap();
    listen(&mut ground, SocketKind::Udp { port: 9 }, "right");
    ground.sh("ip netns exec left ping -c 1 -W 5 10.1.0.2");
    // Three fragments of an MTU of 1500.
    let text = FILL.repeat(3000);
    let send = |guest: &probes::Guest| guest.send_from("left", "udp", "10.1.0.2:9", &text);
    let before = [
        counted(&mut ground, "left", "FragCreates"),
        counted(&mut ground, "right", "ReasmOKs"),
    ];
    let udp = Filter::new("udp port 9").unwrap();
    for options in [Profile::Path.into(), Profile::Path.only(udp)] {
        let paths = guest.paths(options, send).unwrap();
        let about = paths.about("10.1.0.2:9 UDP");
        // The datagram of the recording before may be freed in this one: another CPU frees what it allocated, later.
        let these: Vec<&Path> = about
            .iter()
            .filter(|path| times(path, "veth_xmit") > 0)
            .collect();
        assert_eq!(these.len(), 1, "{}", paths.text());
        let path = these[0];
        assert!(!path.incomplete, "{}", path.text());
        for name in ["veth_xmit", "ip_rcv"] {
            assert_eq!(times(path, name), 3, "{name}: {}", path.text());
        }
        assert_eq!(times(path, "udp_rcv"), 1, "{}", path.text());
        let shown = path.text();
        for part in [
            "fragment at 0 (id",
            "fragment at 1480 (id",
            "fragment at 2960 (id",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let mut lines = path.iter().filter_map(probes::skb::Stage::describe);
        let invented = lines.find(|line| line.contains(&AS_PORT.to_string()));
        assert_eq!(invented, None);
    }
    let after = [
        counted(&mut ground, "left", "FragCreates"),
        counted(&mut ground, "right", "ReasmOKs"),
    ];
    assert_eq!([after[0] - before[0], after[1] - before[1]], [6, 2]);

    // Bytes of the payload are no ports.
    let payload = Filter::new(&format!("udp port {AS_PORT}")).unwrap();
    let paths = guest.paths(Profile::Path.only(payload), send).unwrap();
    assert!(paths.is_empty(), "{}", paths.text());
    // Nor are they the type of an ICMP message: the zeros of a ping would be an answer.
    let paths = guest
        .paths(&Profile::Path, |guest| {
            let ping = "ip netns exec left ping -c 1 -W 5 -s 4000 10.1.0.2";
            guest.agent()?.shell(ping)?;
            Ok(())
        })
        .unwrap();
    let requests = paths.about("10.1.0.1 > 10.1.0.2 ICMP echo request");
    assert_eq!(requests.len(), 1, "{}", paths.text());
    assert!(requests[0].text().contains("fragment at 2960 (id"));
    let wrong = paths.about("10.1.0.1 > 10.1.0.2 ICMP echo reply");
    assert!(wrong.is_empty(), "{}", wrong.text());
    assert_eq!(paths.about("10.1.0.2 > 10.1.0.1 ICMP echo reply").len(), 1);
}

#[test]
fn behind_headers_of_ipv6() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    guest.veth().unwrap();
    for (netns, address) in [("left", "fd01::1"), ("right", "fd01::2")] {
        ground.sh(&format!(
            "ip netns exec {netns} sh -c 'echo 0 >/proc/sys/net/ipv6/conf/veth0/disable_ipv6'; \
             ip -n {netns} address add {address}/64 dev veth0 nodad"
        ));
    }
    ground.sh("ip netns exec left ping -6 -c 1 -W 5 fd01::2");
    let reports = |ground: &mut Ground| -> u64 {
        let said = ground.sh("ip netns exec left cat /proc/net/snmp6");
        let mut lines = said.lines().map(str::split_whitespace);
        lines
            .find_map(|mut words| {
                (words.next()? == "Icmp6OutMLDv2Reports").then(|| words.next()?.parse().ok())?
            })
            .unwrap()
    };
    let before = reports(&mut ground);
    // A new address is a new group, which is reported behind a hop-by-hop header.
    let paths = guest
        .paths(&Profile::Path, |guest| {
            let joins = "ip -n left address add fd01::77/64 dev veth0 nodad; sleep 2";
            guest.agent()?.shell(joins)?;
            let ping = "ip netns exec left ping -6 -c 1 -W 5 -s 3000 fd01::2";
            guest.agent()?.shell(ping)?;
            Ok(())
        })
        .unwrap();
    assert!(reports(&mut ground) > before);
    let listeners = paths.about("> ff02::16 ICMPv6 multicast listener report");
    assert!(!listeners.is_empty(), "{}", paths.text());
    let pings = paths.about("fd01::1 > fd01::2 ICMPv6 echo request");
    let pings = pings.iter().chain(paths.iter().filter(|path| {
        path.packet
            .contains("fd01::77 > fd01::2 ICMPv6 echo request")
    }));
    let ping = pings.last().unwrap_or_else(|| panic!("{}", paths.text()));
    let shown = ping.text();
    assert!(shown.contains("fragment at 1448 (id 0x"), "{shown}");
    for path in paths.iter() {
        let odd = [" protocol 44", "cut off"];
        let odd = odd.iter().find(|odd| path.packet.contains(*odd));
        assert_eq!(odd, None, "{}", path.text());
    }
}

/// Netlink and unix sockets have an `sk_buff` for each message: named, and shown when asked for.
#[test]
fn messages_that_are_no_packets() {
    let ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let work = |guest: &probes::Guest| {
        let line = "ip link add d0 type dummy; ip link delete d0; ping -c 1 127.0.0.1";
        guest.agent()?.shell(line)?;
        Ok(())
    };
    let paths = guest.paths(&Profile::Path, work).unwrap();
    assert!(paths.left_out.netlink > 0, "{}", paths.text());
    assert!(paths.text().contains("netlink and"), "{}", paths.text());
    let named = |path: &&Path| path.packet.contains("message");
    assert_eq!(paths.iter().find(named), None);
    assert_eq!(paths.about("127.0.0.1 ICMP echo request").len(), 1);
    assert!(paths.iter().all(|path| !path.is_empty()));
    let all = Profile::Path.only(Filter::default()).all_families();
    let all = guest.paths(all, work).unwrap();
    assert!(!all.about("netlink message").is_empty(), "{}", all.text());
    assert_eq!((all.left_out.netlink, all.left_out.unix), (0, 0));

    // One recording at a time: the second is told so.
    let first = guest.capture(Profile::Path).unwrap();
    let second = guest.capture(Profile::Path).unwrap_err().to_string();
    let me = format!("of process {}", std::process::id());
    assert!(
        second.contains("another recording runs") && second.contains(&me),
        "{second}"
    );
    drop(first);
}
