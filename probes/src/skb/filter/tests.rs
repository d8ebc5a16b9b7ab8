use proptest::prelude::*;

use super::*;
use crate::kmod::ring::{Context, Kind, PACKET, RECORD, commit};

/// A packet from 10.0.0.1 to 10.0.0.2.
fn ipv4(protocol: u8, ports: (u16, u16)) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(ports.0.to_be_bytes());
    packet.extend(ports.1.to_be_bytes());
    packet
}

fn record(protocol: u16, packet: &[u8]) -> Record {
    let mut record = Record::from_bytes(&[0; RECORD]);
    let length = packet.len().min(record.packet.len());
    record.commit = commit(
        0,
        Kind::Entry as u8,
        Context::Softirq as u8,
        length as u8,
        0,
    );
    record.packet[..length].copy_from_slice(&packet[..length]);
    record.protocol = protocol;
    record
}

fn passes(text: &str, protocol: u16, packet: &[u8]) -> bool {
    let expression = Some(parse::parse(text).unwrap());
    let wanted = Wanted {
        expression,
        netns: None,
        devices: None,
        mark: None,
    };
    let record = record(protocol, packet);
    let passes = wanted.matches(&record, &Datagrams::default());
    let pushed = wanted.to_ring();
    let tuple = Tuple::of(protocol, record.packet());
    let through = !pushed.asks_tuple() || tuple.is_some_and(|tuple| pushed.matches(&tuple));
    assert!(through || !passes, "`{text}` is pushed down too narrow");
    passes
}

#[test]
fn expressions_mean_what_pcap_filter_says() {
    let tcp = ipv4(6, (40_000, 80));
    let cases = [
        ("tcp", true),
        ("udp", false),
        ("ip", true),
        ("ip6", false),
        ("ip proto 6", true),
        ("ip proto \\udp", false),
        ("host 10.0.0.2", true),
        ("src host 10.0.0.2", false),
        ("src 10.0.0.1 and dst 10.0.0.2", true),
        ("src or dst host 10.0.0.2", true),
        ("src and dst net 10.0.0.0/8", true),
        ("src and dst host 10.0.0.2", false),
        ("net 10", true),
        ("net 10.0.0.0 mask 255.255.255.0", true),
        ("net 10.0.1", false),
        ("port 80", true),
        ("tcp src port 80", false),
        ("tcp dst port 81 or 80", true),
        ("udp port 80", false),
        ("portrange 70-90", true),
        ("not tcp", false),
        ("not tcp and host 10.0.0.9 or port 80", true),
        ("port 81 or (tcp and ! host 10.0.0.3)", true),
        ("tcp and (port 81 || port 80) && host 10.0.0.1", true),
        // Equal precedence, to the left: (port 80 or udp) and host ..
        ("port 80 or udp and host 10.0.0.9", false),
        ("arp", false),
        ("icmp", false),
        ("icmp6", false),
        ("host 2001:db8::1", false),
    ];
    for (text, expected) in cases {
        assert_eq!(passes(text, 0x0800, &tcp), expected, "{text}");
    }
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend([2, 2, 2, 2, 2, 2, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    for (text, expected) in [
        ("arp", true),
        ("host 10.0.0.2", true),
        ("arp src host 10.0.0.2", false),
        ("ip host 10.0.0.2", false),
        ("tcp", false),
        ("not ip", true),
    ] {
        assert_eq!(passes(text, 0x0806, &arp), expected, "{text}");
    }
}

#[test]
fn a_later_fragment_is_of_the_ports_of_its_datagram() {
    let fragment = |id: u8, place: u16, ports| {
        let mut packet = ipv4(17, ports);
        packet[5] = id;
        packet[6..8].copy_from_slice(&place.to_be_bytes());
        record(0x0800, &packet)
    };
    // The bytes where ports would be are of the payload.
    let (first, later) = (fragment(1, 0x2000, (40_000, 9)), fragment(1, 122, (53, 53)));
    let (other, of_other) = (fragment(2, 0x2000, (40_000, 53)), fragment(2, 122, (9, 9)));
    let lone = fragment(3, 122, (9, 9));
    let records = [first, later, other, of_other, lone];
    let datagrams = Datagrams::of(records.iter());
    for (text, expected) in [
        ("udp port 9", [true, true, false, false, false]),
        ("udp and not port 9", [false, false, true, true, true]),
        ("src port 40000", [true, true, true, true, false]),
        ("udp", [true; 5]),
    ] {
        let wanted = Wanted {
            expression: Some(parse::parse(text).unwrap()),
            netns: None,
            devices: None,
            mark: None,
        };
        let pushed = wanted.to_ring();
        for (record, expected) in records.iter().zip(expected) {
            let passes = wanted.matches(record, &datagrams);
            assert_eq!(passes, expected, "{text}: {record:?}");
            let tuple = Tuple::of(record.protocol, record.packet()).unwrap();
            assert!(!passes || pushed.matches(&tuple), "{text}: too narrow");
        }
    }
}

#[test]
fn extension_headers_are_walked() {
    let mut packet = vec![0x60, 0, 0, 0, 0, 16, 0, 64];
    packet.extend([1; 32]);
    // Hop-by-hop, then UDP.
    packet.extend([17, 0, 1, 4, 0, 0, 0, 0, 0x9c, 0x40, 0, 9]);
    for (text, expected) in [
        ("udp port 9", true),
        ("ip6 and udp", true),
        ("tcp", false),
        ("port 0", false),
    ] {
        assert_eq!(passes(text, 0x86dd, &packet), expected, "{text}");
    }
}

#[test]
fn what_is_not_understood_is_pointed_at() {
    let cases = [
        ("", 0),
        ("tcp and", 7),
        ("ether host 1:2:3:4:5:6", 0),
        ("tcp[13] & 2 != 0", 0),
        ("port http", 5),
        ("host example.org", 5),
        ("icmp port 80", 10),
        ("tcp host 10.0.0.1", 9),
        ("net 10.0.0.1/8", 4),
        ("net 10.0.0.0 mask 255.0.255.0", 18),
        ("port 80 port 81", 8),
        ("(tcp", 4),
        ("tcp)", 3),
        ("port 70000", 5),
        ("net 10.0.0.0/33", 4),
        ("greater 100", 0),
    ];
    for (text, at) in cases {
        match parse::parse(text) {
            Err(Error::Expression { column, .. }) => assert_eq!(column, at, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    assert!(parse::parse(&"(".repeat(4000)).is_err());
    assert!(parse::parse(&"not ".repeat(100)).is_err());
    assert!(parse::parse(&"tcp or ".repeat(1000)).is_err());
}

#[test]
fn a_flow_is_pushed_down_whole() {
    let (one, other) = ("10.0.0.1:40000".parse(), "10.0.0.2:80".parse());
    let filter = Filter::flow(6, one.unwrap(), other.unwrap());
    let wanted = Wanted {
        expression: filter.expression,
        netns: None,
        devices: None,
        mark: None,
    };
    let ring = wanted.to_ring();
    assert_eq!(
        (
            ring.protocol,
            ring.source_port,
            ring.destination_port,
            ring.flags
        ),
        (6, 40_000, 80, 1)
    );
    assert_eq!(&ring.source[..4], [10, 0, 0, 1]);
}

/// An expression in words, over few values so that packets meet it.
fn expressions() -> impl Strategy<Value = String> {
    let direction = prop::sample::select(vec!["", "src ", "dst ", "src or dst ", "src and dst "]);
    let value = prop::sample::select(vec![
        "host 10.0.0.1",
        "host 10.0.0.2",
        "net 10.0.0.0/31",
        "port 80",
        "port 81",
        "portrange 80-81",
        "host 2001:db8::1",
    ]);
    let leaf = prop_oneof![
        (direction, value).prop_map(|(direction, value)| format!("{direction}{value}")),
        prop::sample::select(vec!["tcp", "udp", "ip", "ip6", "arp", "icmp", "proto 17"])
            .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 16, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) and ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) or ({b})")),
            inner.prop_map(|a| format!("not ({a})")),
        ]
    })
}

fn packets() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let port = prop::sample::select(vec![80_u16, 81, 9]);
    let last = prop::sample::select(vec![1_u8, 2, 3]);
    let protocol = prop::sample::select(vec![6_u8, 17, 1, 132]);
    prop_oneof![
        (protocol, last.clone(), last.clone(), port.clone(), port).prop_map(
            |(protocol, from, to, source, destination)| {
                let mut packet = ipv4(protocol, (source, destination));
                (packet[15], packet[19]) = (from, to);
                (0x0800, packet)
            }
        ),
        (last.clone(), last).prop_map(|(from, to)| {
            let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2, 10, 0, 0, from];
            packet.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, to]);
            (0x0806, packet)
        }),
        prop::collection::vec(any::<u8>(), 0..=PACKET).prop_map(|packet| (0x0800, packet)),
        prop::collection::vec(any::<u8>(), 0..=PACKET).prop_map(|mut packet| {
            if let Some(first) = packet.first_mut() {
                *first = 0x60;
            }
            (0x86dd, packet)
        }),
    ]
}

/// Found by chance: one address, or one port, that is named twice was asked for at both ends.
#[test]
fn what_is_named_twice_is_asked_for_once() {
    let tcp = ipv4(6, (40_000, 80));
    assert!(passes("host 10.0.0.1 and host 10.0.0.1", 0x800, &tcp));
    assert!(passes(
        "host 10.0.0.1 and (ip and src or dst host 10.0.0.1)",
        0x800,
        &tcp
    ));
    assert!(passes("port 80 and port 80", 0x800, &tcp));
    assert!(passes(
        "host 10.0.0.1 and host 10.0.0.1 and host 10.0.0.2",
        0x800,
        &tcp
    ));
    assert!(!passes("host 10.0.0.1 and host 10.0.0.3", 0x800, &tcp));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_pushed_down_is_never_too_narrow(text in expressions(), packet in packets()) {
        passes(&text, packet.0, &packet.1);
    }

    #[test]
    fn nonsense_is_refused_without_a_panic(text in ".{0,80}") {
        let _ = parse::parse(&text);
    }
}
