//! Ethernet frames: built to be sent, parsed to be told.

use std::fmt;
use std::net::Ipv4Addr;

use pnet_base::MacAddr;
use pnet_packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket, MutableArpPacket};
use pnet_packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet_packet::icmp::echo_request::MutableEchoRequestPacket;
use pnet_packet::icmp::{IcmpPacket, IcmpTypes};
use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet_packet::ipv4::{Ipv4Packet, MutableIpv4Packet};
use pnet_packet::tcp::{MutableTcpPacket, TcpFlags, TcpPacket};
use pnet_packet::udp::MutableUdpPacket;
use pnet_packet::{Packet, icmp, ipv4, tcp, udp};
use serde::Serialize;

use super::describe;
use crate::{Error, Result};

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const TCP: usize = 20;
const UDP: usize = 8;
const ECHO: usize = 8;
const ARP: usize = 28;

/// One end of a frame's way: the addresses of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct End {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// IPv4 address.
    pub ip: Ipv4Addr,
}

/// Header of a TCP segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tcp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// `FIN` 1, `SYN` 2, `RST` 4, `PSH` 8, `ACK` 16.
    pub flags: u8,
}

impl Tcp {
    /// No more data will come.
    pub const FIN: u8 = TcpFlags::FIN;
    /// Begins a connection.
    pub const SYN: u8 = TcpFlags::SYN;
    /// Refuses one.
    pub const RST: u8 = TcpFlags::RST;
    /// Data to hand on now.
    pub const PSH: u8 = TcpFlags::PSH;
    /// `ack` counts.
    pub const ACK: u8 = TcpFlags::ACK;
}

/// An Ethernet frame: destination, source, type, payload.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Frame(pub Vec<u8>);

impl Frame {
    /// A TCP segment.
    ///
    /// # Errors
    /// When it would be longer than an IPv4 packet can be.
    pub fn tcp(from: End, to: End, header: Tcp, payload: &[u8]) -> Result<Self> {
        let mut bytes = vec![0; TCP + payload.len()];
        let mut packet = MutableTcpPacket::new(&mut bytes).ok_or_else(short)?;
        packet.set_source(header.source);
        packet.set_destination(header.destination);
        packet.set_sequence(header.seq);
        packet.set_acknowledgement(header.ack);
        packet.set_data_offset(5);
        packet.set_flags(header.flags);
        packet.set_window(64_240);
        packet.set_payload(payload);
        packet.set_checksum(tcp::ipv4_checksum(&packet.to_immutable(), &from.ip, &to.ip));
        Self::ipv4(from, to, IpNextHeaderProtocols::Tcp, &bytes)
    }

    /// A UDP datagram.
    ///
    /// # Errors
    /// When it would be longer than an IPv4 packet can be.
    pub fn udp(from: (End, u16), to: (End, u16), payload: &[u8]) -> Result<Self> {
        let mut bytes = vec![0; UDP + payload.len()];
        let length = length(bytes.len())?;
        let mut packet = MutableUdpPacket::new(&mut bytes).ok_or_else(short)?;
        packet.set_source(from.1);
        packet.set_destination(to.1);
        packet.set_length(length);
        packet.set_payload(payload);
        packet.set_checksum(udp::ipv4_checksum(
            &packet.to_immutable(),
            &from.0.ip,
            &to.0.ip,
        ));
        Self::ipv4(from.0, to.0, IpNextHeaderProtocols::Udp, &bytes)
    }

    /// An ICMP echo request, as `ping` sends it.
    ///
    /// # Errors
    /// When it would be longer than an IPv4 packet can be.
    pub fn echo(from: End, to: End, id: u16, seq: u16, payload: &[u8]) -> Result<Self> {
        let mut bytes = vec![0; ECHO + payload.len()];
        let mut packet = MutableEchoRequestPacket::new(&mut bytes).ok_or_else(short)?;
        packet.set_icmp_type(IcmpTypes::EchoRequest);
        packet.set_identifier(id);
        packet.set_sequence_number(seq);
        packet.set_payload(payload);
        let sum = icmp::checksum(&IcmpPacket::new(packet.packet()).ok_or_else(short)?);
        packet.set_checksum(sum);
        Self::ipv4(from, to, IpNextHeaderProtocols::Icmp, &bytes)
    }

    fn ipv4(from: End, to: End, protocol: IpNextHeaderProtocol, payload: &[u8]) -> Result<Self> {
        let mut bytes = vec![0; IPV4 + payload.len()];
        let length = length(bytes.len())?;
        let mut packet = MutableIpv4Packet::new(&mut bytes).ok_or_else(short)?;
        packet.set_version(4);
        packet.set_header_length(5);
        packet.set_total_length(length);
        packet.set_ttl(64);
        packet.set_next_level_protocol(protocol);
        packet.set_source(from.ip);
        packet.set_destination(to.ip);
        packet.set_checksum(ipv4::checksum(&packet.to_immutable()));
        packet.set_payload(payload);
        Self::ethernet(from.mac, to.mac, EtherTypes::Ipv4.0, &bytes)
    }

    /// A frame of any type (`ETH_P_*`).
    ///
    /// # Errors
    /// Never but for a payload that cannot be held.
    pub fn ethernet(from: [u8; 6], to: [u8; 6], ethertype: u16, payload: &[u8]) -> Result<Self> {
        let mut bytes = vec![0; ETHERNET + payload.len()];
        let mut packet = MutableEthernetPacket::new(&mut bytes).ok_or_else(short)?;
        packet.set_destination(MacAddr::from(to));
        packet.set_source(MacAddr::from(from));
        packet.set_ethertype(pnet_packet::ethernet::EtherType(ethertype));
        packet.set_payload(payload);
        Ok(Self(bytes))
    }

    /// The same with another bit in the last byte of its payload: no check sum over it is right any more.
    #[must_use]
    pub fn corrupted(mut self) -> Self {
        if let Some(last) = self.0.last_mut() {
            *last ^= 1;
        }
        self
    }

    /// The answer of `me` if this frame asks for its address by ARP.
    pub(super) fn arp_answer(&self, me: End) -> Option<Self> {
        let ethernet = EthernetPacket::new(&self.0)?;
        if ethernet.get_ethertype() != EtherTypes::Arp {
            return None;
        }
        let asked = ArpPacket::new(ethernet.payload())?;
        if asked.get_operation() != ArpOperations::Request || asked.get_target_proto_addr() != me.ip
        {
            return None;
        }
        let mut bytes = vec![0; ARP];
        let mut answer = MutableArpPacket::new(&mut bytes)?;
        answer.set_hardware_type(ArpHardwareTypes::Ethernet);
        answer.set_protocol_type(EtherTypes::Ipv4);
        answer.set_hw_addr_len(6);
        answer.set_proto_addr_len(4);
        answer.set_operation(ArpOperations::Reply);
        answer.set_sender_hw_addr(MacAddr::from(me.mac));
        answer.set_sender_proto_addr(me.ip);
        answer.set_target_hw_addr(asked.get_sender_hw_addr());
        answer.set_target_proto_addr(asked.get_sender_proto_addr());
        let to = asked.get_sender_hw_addr().octets();
        Self::ethernet(me.mac, to, EtherTypes::Arp.0, &bytes).ok()
    }

    /// The IPv4 packet in it; `None` when there is none.
    #[must_use]
    pub fn packet(&self) -> Option<Ipv4Packet<'_>> {
        let bytes = self.0.get(ETHERNET..)?;
        let is_ip = EthernetPacket::new(&self.0)?.get_ethertype() == EtherTypes::Ipv4;
        Ipv4Packet::new(bytes).filter(|_| is_ip)
    }

    /// The TCP header in it; `None` when there is none.
    #[must_use]
    pub fn tcp_header(&self) -> Option<Tcp> {
        let packet = self.packet()?;
        if packet.get_next_level_protocol() != IpNextHeaderProtocols::Tcp {
            return None;
        }
        let tcp = TcpPacket::new(packet.payload())?;
        Some(Tcp {
            source: tcp.get_source(),
            destination: tcp.get_destination(),
            seq: tcp.get_sequence(),
            ack: tcp.get_acknowledgement(),
            flags: tcp.get_flags(),
        })
    }
}

fn short() -> Error {
    Error::Invalid("a packet is too short for its own header".to_owned())
}

fn length(bytes: usize) -> Result<u16> {
    u16::try_from(bytes)
        .map_err(|_| Error::Invalid(format!("{bytes} bytes are too long for an IPv4 packet")))
}

/// As tcpdump would put it: `192.0.2.1:40000 > 192.0.2.2:80 TCP SYN`.
impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ethertype = EthernetPacket::new(&self.0).map(|frame| frame.get_ethertype());
        match (ethertype, self.0.get(ETHERNET..)) {
            (Some(EtherTypes::Ipv4 | EtherTypes::Ipv6), Some(packet)) => {
                f.write_str(&describe(packet))
            }
            _ => {
                let ethertype = ethertype.map_or(0, |ethertype| ethertype.0);
                write!(f, "{} bytes of type {ethertype:#06x}", self.0.len())
            }
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: End = End {
        mac: [2; 6],
        ip: Ipv4Addr::new(192, 0, 2, 1),
    };
    const YOU: End = End {
        mac: [4; 6],
        ip: Ipv4Addr::new(192, 0, 2, 2),
    };

    #[test]
    fn what_is_built_is_parsed() {
        let header = Tcp {
            source: 40_000,
            destination: 80,
            seq: 7,
            ack: 9,
            flags: Tcp::SYN | Tcp::ACK,
        };
        let frame = Frame::tcp(ME, YOU, header, b"hello").unwrap();
        assert_eq!(frame.0.len(), ETHERNET + IPV4 + TCP + 5);
        assert_eq!(frame.tcp_header(), Some(header));
        assert_eq!(
            frame.to_string(),
            "192.0.2.1:40000 > 192.0.2.2:80 TCP SYN ACK"
        );
        // RFC 791: the sum over a header with a right check sum is 0xffff.
        let sum = frame.0[14..34]
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum::<u32>();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        let udp = Frame::udp((ME, 1), (YOU, 53), b"x").unwrap();
        assert_eq!(udp.to_string(), "192.0.2.1:1 > 192.0.2.2:53 UDP");
        assert_eq!(udp.tcp_header(), None);
    }

    #[test]
    fn any_bytes_are_described() {
        for length in 0..80 {
            for byte in [0_u8, 0x45, 0x4f, 0x60, 0xff] {
                let bytes = vec![byte; length];
                let _ = (describe(&bytes), Frame(bytes.clone()).to_string());
                let _ = (
                    Frame(bytes.clone()).tcp_header(),
                    Frame(bytes).arp_answer(ME),
                );
            }
        }
    }
}
