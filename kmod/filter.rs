// SPDX-License-Identifier: GPL-2.0

//! Whether a filter lets a packet through, by its first bytes: the module asks this in every hook, and the host's tests
//! ask the same file whether what they push down is ever too narrow.
//!
//! Like `ring` it is `no_std`, without `unsafe` and without arithmetic that could overflow.

#![allow(dead_code)] // each side uses its half

use super::ring::{EITHER_WAY, Filter};

/// `ETH_P_IP`, `ETH_P_IPV6`, `ETH_P_ARP`.
const IP: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

/// Who sends to whom, by the packet's headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuple {
    /// 4 or 6; 0 for ARP.
    pub(crate) family: u8,
    /// `IPPROTO_*`; 0 for ARP.
    pub(crate) protocol: u8,
    /// IPv4: its first four bytes.
    pub(crate) source: [u8; 16],
    /// IPv4: its first four bytes.
    pub(crate) destination: [u8; 16],
    /// Source and destination; of no packet but the first fragment.
    pub(crate) ports: Option<(u16, u16)>,
}

impl Filter {
    /// Whether any part of it looks at addresses, ports or protocols.
    pub(crate) fn asks_tuple(&self) -> bool {
        self.family != 0
            || self.protocol != 0
            || self.source_port != 0
            || self.destination_port != 0
            || self.source != [0; 16]
            || self.destination != [0; 16]
    }

    /// Whether these are its device, its network namespace and its mark.
    pub(crate) fn admits(&self, ifindex: u32, netns: u32, mark: u32) -> bool {
        (self.ifindex == 0 || self.ifindex == ifindex)
            && (self.netns == 0 || self.netns == netns)
            && mark & self.mark_mask == self.mark & self.mark_mask
    }

    /// Whether this is its packet.
    pub(crate) fn matches(&self, tuple: &Tuple) -> bool {
        if self.family != 0 && self.family != tuple.family
            || self.protocol != 0 && self.protocol != tuple.protocol
        {
            return false;
        }
        let way = |source: (&[u8; 16], u16), destination: (&[u8; 16], u16)| {
            (*source.0 == [0; 16] || *source.0 == tuple.source)
                && (*destination.0 == [0; 16] || *destination.0 == tuple.destination)
                && (source.1 == 0 || Some(source.1) == tuple.ports.map(|ports| ports.0))
                && (destination.1 == 0 || Some(destination.1) == tuple.ports.map(|ports| ports.1))
        };
        let source = (&self.source, self.source_port);
        let destination = (&self.destination, self.destination_port);
        way(source, destination) || self.flags & EITHER_WAY != 0 && way(destination, source)
    }
}

impl Tuple {
    /// That of the bytes from the network header on. `protocol` is `skb->protocol`, which an skb on its way out gets late:
    /// 0 counts where the bytes are known to be from a network header.
    pub(crate) fn of(protocol: u16, packet: &[u8]) -> Option<Self> {
        let version = packet.first().map_or(0, |first| first >> 4);
        match (version, protocol) {
            (4, IP | 0) => Self::ipv4(packet),
            (6, IPV6 | 0) => Self::ipv6(packet),
            (_, ARP) => Self::arp(packet),
            _ => None,
        }
    }

    fn ipv4(packet: &[u8]) -> Option<Self> {
        let mut tuple = Self {
            family: 4,
            protocol: *packet.get(9)?,
            source: first4(packet.get(12..16)?),
            destination: first4(packet.get(16..20)?),
            ports: None,
        };
        let first_fragment = (packet.get(6)? & 0x1f) == 0 && *packet.get(7)? == 0;
        if first_fragment {
            let header = usize::from(packet.first()? & 15).wrapping_mul(4);
            tuple.ports = ports(packet, header, tuple.protocol);
        }
        Some(tuple)
    }

    fn ipv6(packet: &[u8]) -> Option<Self> {
        let protocol = *packet.get(6)?;
        Some(Self {
            family: 6,
            protocol,
            source: packet.get(8..24)?.try_into().ok()?,
            destination: packet.get(24..40)?.try_into().ok()?,
            ports: ports(packet, 40, protocol),
        })
    }

    /// Of Ethernet and IPv4: hardware type 1, 6 bytes; protocol 0x0800, 4 bytes.
    fn arp(packet: &[u8]) -> Option<Self> {
        if packet.get(..6)? != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        Some(Self {
            family: 0,
            protocol: 0,
            source: first4(packet.get(14..18)?),
            destination: first4(packet.get(24..28)?),
            ports: None,
        })
    }
}

fn first4(bytes: &[u8]) -> [u8; 16] {
    let mut all = [0; 16];
    for (to, from) in all.iter_mut().zip(bytes) {
        *to = *from;
    }
    all
}

/// TCP, UDP, DCCP, SCTP and UDP-Lite begin with their ports.
fn ports(packet: &[u8], at: usize, protocol: u8) -> Option<(u16, u16)> {
    if !matches!(protocol, 6 | 17 | 33 | 132 | 136) {
        return None;
    }
    let ports = packet.get(at..at.wrapping_add(4))?;
    Some((
        u16::from_be_bytes([ports[0], ports[1]]),
        u16::from_be_bytes([ports[2], ports[3]]),
    ))
}
