//! A packet in one line, as tcpdump would put it: `192.0.2.1:40000 > 192.0.2.2:80 TCP SYN`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use pnet_packet::arp::{ArpOperations, ArpPacket};
use pnet_packet::icmp::{IcmpPacket, IcmpTypes};
use pnet_packet::icmpv6::{Icmpv6Packet, Icmpv6Types};
use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::ipv6::Ipv6Packet;
use pnet_packet::tcp::TcpPacket;

use super::Tcp;
use crate::kmod::tuple::{Fragment, Upper};

/// ICMPv6 of multicast listeners (RFC 2710, RFC 3810), which pnet does not name.
const LISTENER: [(u8, &str); 4] = [
    (130, " multicast listener query"),
    (131, " multicast listener report"),
    (132, " multicast listener done"),
    (143, " multicast listener report"),
];

/// First bytes of an ARP packet for Ethernet and IPv4 (RFC 826).
const ARP: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// An IPv4, IPv6 or ARP packet in one line; says so when the bytes are none.
#[must_use]
pub fn describe(bytes: &[u8]) -> String {
    let Some(packet) = Network::of(bytes) else {
        let arp = ArpPacket::new(bytes).filter(|_| bytes.starts_with(&ARP));
        let no = || format!("{} bytes that are no IP packet", bytes.len());
        return arp.as_ref().map_or_else(no, describe_arp);
    };
    let Network {
        from,
        to,
        upper,
        bytes,
    } = packet;
    let protocol = IpNextHeaderProtocol::new(upper.protocol);
    let part =
        packet_part(upper.fragment, from).map_or_else(String::new, |part| format!(" {part}"));
    // In a later fragment these are bytes of what the first one began.
    let Some(at) = upper.at else {
        let cut = if upper.fragment.is_some_and(|fragment| fragment.offset != 0) {
            ""
        } else {
            " cut off"
        };
        return format!("{from} > {to} {}{cut}{part}", name(protocol));
    };
    let payload = bytes.get(at..).unwrap_or_default();
    let ends = match upper.ports(bytes) {
        Some((source, destination)) => format!(
            "{} > {}",
            SocketAddr::new(from, source),
            SocketAddr::new(to, destination)
        ),
        // Only so much of a packet that was recorded may be there.
        None => format!("{from} > {to}"),
    };
    let what = match protocol {
        IpNextHeaderProtocols::Tcp => TcpPacket::new(payload)
            .map_or_else(String::new, |tcp| format!(" {}", flags(tcp.get_flags()))),
        IpNextHeaderProtocols::Icmp => {
            let kind = IcmpPacket::new(payload).map(|icmp| icmp.get_icmp_type());
            match kind {
                Some(IcmpTypes::EchoRequest) => " echo request",
                Some(IcmpTypes::EchoReply) => " echo reply",
                Some(IcmpTypes::DestinationUnreachable) => " destination unreachable",
                _ => "",
            }
            .to_owned()
        }
        IpNextHeaderProtocols::Icmpv6 => {
            let kind = Icmpv6Packet::new(payload).map(|icmp| icmp.get_icmpv6_type());
            match kind {
                Some(Icmpv6Types::EchoRequest) => " echo request",
                Some(Icmpv6Types::EchoReply) => " echo reply",
                Some(Icmpv6Types::DestinationUnreachable) => " destination unreachable",
                Some(Icmpv6Types::RouterSolicit) => " router solicitation",
                Some(Icmpv6Types::RouterAdvert) => " router advertisement",
                Some(Icmpv6Types::NeighborSolicit) => " neighbour solicitation",
                Some(Icmpv6Types::NeighborAdvert) => " neighbour advertisement",
                Some(other) => LISTENER
                    .iter()
                    .find(|(kind, _)| *kind == other.0)
                    .map_or("", |(_, what)| what),
                None => "",
            }
            .to_owned()
        }
        _ => String::new(),
    };
    format!("{ends} {}{what}{part}", name(protocol))
}

/// Part of its datagram that an IP packet is; `None` if it is all of it.
pub(crate) fn fragment(bytes: &[u8]) -> Option<String> {
    let packet = Network::of(bytes)?;
    packet_part(packet.upper.fragment, packet.from)
}

fn packet_part(fragment: Option<Fragment>, from: IpAddr) -> Option<String> {
    fragment.map(|fragment| format!("fragment at {}", Place(fragment, from.is_ipv6())))
}

/// A fragment's place in its datagram: `976 (id 4711)`. As tcpdump writes it, in hexadecimal for IPv6.
struct Place(Fragment, bool);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Fragment { id, offset, .. }, v6) = *self;
        match v6 {
            true => write!(f, "{offset} (id {id:#010x})"),
            false => write!(f, "{offset} (id {id})"),
        }
    }
}

/// `IPPROTO_*` as people say it.
fn name(protocol: IpNextHeaderProtocol) -> String {
    let name = match protocol {
        IpNextHeaderProtocols::Tcp => "TCP",
        IpNextHeaderProtocols::Udp => "UDP",
        IpNextHeaderProtocols::Icmp => "ICMP",
        IpNextHeaderProtocols::Icmpv6 => "ICMPv6",
        IpNextHeaderProtocols::Sctp => "SCTP",
        other => return format!("protocol {}", other.0),
    };
    name.to_owned()
}

/// Sender and receiver of an IP packet, and the protocol that it carries (`IPPROTO_*`).
pub(crate) fn addresses(bytes: &[u8]) -> Option<(IpAddr, IpAddr, u8)> {
    let packet = Network::of(bytes)?;
    Some((packet.from, packet.to, packet.upper.protocol))
}

fn describe_arp(packet: &ArpPacket<'_>) -> String {
    let (from, to) = (
        packet.get_sender_proto_addr(),
        packet.get_target_proto_addr(),
    );
    match packet.get_operation() {
        ArpOperations::Request => format!("{from} > {to} ARP who has {to}"),
        ArpOperations::Reply => {
            format!(
                "{from} > {to} ARP {from} is at {}",
                packet.get_sender_hw_addr()
            )
        }
        other => format!("{from} > {to} ARP operation {}", other.0),
    }
}

/// The network layer of a packet.
struct Network<'a> {
    from: IpAddr,
    to: IpAddr,
    upper: Upper,
    /// All of it, from the network header on.
    bytes: &'a [u8],
}

impl<'a> Network<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        // Not `payload()` of either, which goes by the length that the header tells: on its way out a packet has none
        // before `__ip_local_out`.
        match bytes.first()? >> 4 {
            4 => {
                let packet = Ipv4Packet::new(bytes)?;
                Some(Self {
                    from: packet.get_source().into(),
                    to: packet.get_destination().into(),
                    upper: Upper::of_ipv4(bytes)?,
                    bytes,
                })
            }
            6 => {
                let packet = Ipv6Packet::new(bytes)?;
                Some(Self {
                    from: packet.get_source().into(),
                    to: packet.get_destination().into(),
                    upper: Upper::of_ipv6(bytes)?,
                    bytes,
                })
            }
            _ => None,
        }
    }
}

fn flags(flags: u8) -> String {
    let names = [
        (Tcp::SYN, "SYN"),
        (Tcp::FIN, "FIN"),
        (Tcp::RST, "RST"),
        (Tcp::PSH, "PSH"),
        (Tcp::ACK, "ACK"),
    ];
    let set: Vec<&str> = names
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    set.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `::1` to `::2`, after these extension headers.
    fn ipv6(first: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, rest.len() as u8, first, 64];
        for last in [1, 2] {
            bytes.extend([0; 15]);
            bytes.push(last);
        }
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn ipv6_and_arp() {
        let udp = [0x9c, 0x40, 0, 53, 0, 8, 0, 0];
        assert_eq!(describe(&ipv6(17, &udp)), "[::1]:40000 > [::2]:53 UDP");
        assert_eq!(describe(&ipv6(6, &udp)), "[::1]:40000 > [::2]:53 TCP");
        // Hop-by-hop, 8 bytes, then destination options, 16 bytes.
        let mut headers = vec![60, 0, 0, 0, 0, 0, 0, 0, 17, 1];
        headers.extend([0; 14]);
        headers.extend(udp);
        assert_eq!(describe(&ipv6(0, &headers)), "[::1]:40000 > [::2]:53 UDP");
        let echo = describe(&ipv6(58, &[128, 0, 0, 0, 0, 1, 0, 1]));
        assert_eq!(echo, "::1 > ::2 ICMPv6 echo request");
        // Cut off within an extension header, and in the header itself.
        assert_eq!(describe(&ipv6(0, &[17])), "::1 > ::2 protocol 0 cut off");
        assert_eq!(
            describe(&ipv6(0, &[17, 200, 0, 0])),
            "::1 > ::2 protocol 0 cut off"
        );
        let arp = [
            ARP.as_slice(),
            &[0, 1],
            &[2; 6],
            &[192, 0, 2, 1],
            &[0; 6],
            &[192, 0, 2, 2],
        ];
        assert_eq!(
            describe(&arp.concat()),
            "192.0.2.1 > 192.0.2.2 ARP who has 192.0.2.2"
        );
        assert_eq!(describe(&[0x60; 39]), "39 bytes that are no IP packet");
    }

    /// The part of a packet that a record has.
    fn recorded(bytes: &[u8]) -> String {
        describe(&bytes[..bytes.len().min(crate::kmod::ring::PACKET)])
    }

    #[test]
    fn a_later_fragment_has_no_header_of_the_layer_above() {
        let ipv4 = |place: u16, protocol: u8| {
            let mut bytes = vec![0x45, 0, 3, 228, 0x12, 0x34];
            bytes.extend(place.to_be_bytes());
            bytes.extend([64, protocol, 0, 0, 10, 1, 0, 1, 10, 2, 0, 3]);
            bytes.extend([b'a'; 976]);
            bytes
        };
        // 122 eights of bytes; with and without MF.
        for place in [122, 122 | 0x2000] {
            let said = recorded(&ipv4(place, 17));
            assert_eq!(said, "10.1.0.1 > 10.2.0.3 UDP fragment at 976 (id 4660)");
        }
        let said = recorded(&ipv4(122, 1));
        assert_eq!(said, "10.1.0.1 > 10.2.0.3 ICMP fragment at 976 (id 4660)");
        let said = recorded(&ipv4(0x2000, 17));
        assert_eq!(
            said,
            "10.1.0.1:24929 > 10.2.0.3:24929 UDP fragment at 0 (id 4660)"
        );
        // DF alone is no fragment.
        let said = recorded(&ipv4(0x4000, 17));
        assert_eq!(said, "10.1.0.1:24929 > 10.2.0.3:24929 UDP");

        let ipv6 = |offset: u16| {
            let mut rest = vec![17, 0];
            rest.extend(offset.to_be_bytes());
            rest.extend([0, 0, 0x12, 0x34]);
            rest.extend([b'a'; 900]);
            ipv6(44, &rest)
        };
        let said = recorded(&ipv6(976));
        assert_eq!(said, "::1 > ::2 UDP fragment at 976 (id 0x00001234)");
        let said = recorded(&ipv6(1));
        assert_eq!(
            said,
            "[::1]:24929 > [::2]:24929 UDP fragment at 0 (id 0x00001234)"
        );
        assert_eq!(recorded(&ipv6(0)), "[::1]:24929 > [::2]:24929 UDP");
    }

    #[test]
    fn what_a_record_has_is_enough_for_multicast_listeners() {
        // Hop-by-hop with a router alert, then a report of version 2.
        let mut rest = vec![58, 0, 5, 2, 0, 0, 1, 0];
        rest.extend([143, 0, 0, 0, 0, 0, 0, 1]);
        rest.extend([4; 20]);
        let said = recorded(&ipv6(0, &rest));
        assert_eq!(said, "::1 > ::2 ICMPv6 multicast listener report");
        // Routing with one address, then an echo.
        let mut rest = vec![58, 2, 0, 0, 0, 0, 0, 0];
        rest.extend([0; 16]);
        rest.extend([128, 0, 0, 0, 0, 1, 0, 1]);
        assert_eq!(recorded(&ipv6(43, &rest)), "::1 > ::2 ICMPv6 echo request");
    }
}
