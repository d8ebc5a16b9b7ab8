//! A packet in one line, as tcpdump would put it: `192.0.2.1:40000 > 192.0.2.2:80 TCP SYN`.

use std::net::{IpAddr, SocketAddr};

use pnet_packet::arp::{ArpOperations, ArpPacket};
use pnet_packet::icmp::{IcmpPacket, IcmpTypes};
use pnet_packet::icmpv6::{Icmpv6Packet, Icmpv6Types};
use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::ipv6::Ipv6Packet;
use pnet_packet::tcp::TcpPacket;

use super::Tcp;

/// Bytes of IPv6's header.
const IPV6: usize = 40;

/// What an ARP packet begins with that asks for Ethernet's addresses of IPv4's (RFC 826).
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
        protocol,
        payload,
    } = packet;
    // Of a packet that was recorded only so much may be there.
    let ends = match payload {
        [a, b, c, d, ..] => {
            let source = SocketAddr::new(from, u16::from_be_bytes([*a, *b]));
            let destination = SocketAddr::new(to, u16::from_be_bytes([*c, *d]));
            format!("{source} > {destination}")
        }
        _ => format!("{from} > {to}"),
    };
    match protocol {
        IpNextHeaderProtocols::Tcp => match TcpPacket::new(payload) {
            Some(tcp) => format!("{ends} TCP {}", flags(tcp.get_flags())),
            None => format!("{ends} TCP"),
        },
        IpNextHeaderProtocols::Udp => format!("{ends} UDP"),
        IpNextHeaderProtocols::Icmp => {
            let kind = IcmpPacket::new(payload).map(|icmp| icmp.get_icmp_type());
            let what = match kind {
                Some(IcmpTypes::EchoRequest) => " echo request",
                Some(IcmpTypes::EchoReply) => " echo reply",
                Some(IcmpTypes::DestinationUnreachable) => " destination unreachable",
                _ => "",
            };
            format!("{from} > {to} ICMP{what}")
        }
        IpNextHeaderProtocols::Icmpv6 => {
            let kind = Icmpv6Packet::new(payload).map(|icmp| icmp.get_icmpv6_type());
            let what = match kind {
                Some(Icmpv6Types::EchoRequest) => " echo request",
                Some(Icmpv6Types::EchoReply) => " echo reply",
                Some(Icmpv6Types::DestinationUnreachable) => " destination unreachable",
                Some(Icmpv6Types::RouterSolicit) => " router solicitation",
                Some(Icmpv6Types::RouterAdvert) => " router advertisement",
                Some(Icmpv6Types::NeighborSolicit) => " neighbour solicitation",
                Some(Icmpv6Types::NeighborAdvert) => " neighbour advertisement",
                _ => "",
            };
            format!("{from} > {to} ICMPv6{what}")
        }
        other => format!("{from} > {to} protocol {}", other.0),
    }
}

/// Who sends an IP packet to whom, and the protocol that it carries (`IPPROTO_*`).
pub(crate) fn addresses(bytes: &[u8]) -> Option<(IpAddr, IpAddr, u8)> {
    let packet = Network::of(bytes)?;
    Some((packet.from, packet.to, packet.protocol.0))
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
    protocol: IpNextHeaderProtocol,
    payload: &'a [u8],
}

impl<'a> Network<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        // Not `payload()` of either, which goes by the length that the header tells: on its way out a packet has none
        // before `__ip_local_out`.
        match bytes.first()? >> 4 {
            4 => {
                let packet = Ipv4Packet::new(bytes)?;
                let header = usize::from(packet.get_header_length()) * 4;
                Some(Self {
                    from: packet.get_source().into(),
                    to: packet.get_destination().into(),
                    protocol: packet.get_next_level_protocol(),
                    payload: bytes.get(header..).unwrap_or_default(),
                })
            }
            6 => {
                let packet = Ipv6Packet::new(bytes)?;
                let payload = bytes.get(IPV6..).unwrap_or_default();
                let (protocol, payload) = upper(packet.get_next_header(), payload);
                Some(Self {
                    from: packet.get_source().into(),
                    to: packet.get_destination().into(),
                    protocol,
                    payload,
                })
            }
            _ => None,
        }
    }
}

/// What follows the extension headers of IPv6 that tell their own length (RFC 8200, 4). Each has 8 bytes or more, so
/// this ends with the bytes.
fn upper(mut protocol: IpNextHeaderProtocol, mut payload: &[u8]) -> (IpNextHeaderProtocol, &[u8]) {
    while let IpNextHeaderProtocols::Hopopt
    | IpNextHeaderProtocols::Ipv6Route
    | IpNextHeaderProtocols::Ipv6Opts = protocol
        && let [next, length, ..] = payload
    {
        let header = (usize::from(*length) + 1) * 8;
        let Some(rest) = payload.get(header..) else {
            break;
        };
        (protocol, payload) = (IpNextHeaderProtocol::new(*next), rest);
    }
    (protocol, payload)
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
        assert_eq!(describe(&ipv6(0, &[17])), "::1 > ::2 protocol 0");
        assert_eq!(describe(&ipv6(0, &[17, 200, 0, 0])), "::1 > ::2 protocol 0");
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
}
