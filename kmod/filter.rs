// SPDX-License-Identifier: GPL-2.0

//! Verdict of a filter on a packet, by its first bytes: the module asks for it in every hook, and the host's tests ask
//! the same file whether what they push down is ever too narrow. The layer above the network's, and whether the bytes
//! have it, is decided here alone: all code that describes a packet asks [`Upper`].
//!
//! Like `ring` it is `no_std`, without `unsafe` and without arithmetic that could overflow.

#![allow(dead_code)] // each side uses its half

use super::ring::{EITHER_WAY, Filter};

/// `ETH_P_IP`, `ETH_P_IPV6`, `ETH_P_ARP`.
const IP: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

/// `IPPROTO_*` of the extension headers of IPv6 (RFC 8200, 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// Bytes of IPv6's header.
const IPV6_HEADER: usize = 40;

/// A part of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Fragment {
    /// The datagram's identification: 16 bits of IPv4, 32 of IPv6.
    pub(crate) id: u32,
    /// Offset in the datagram's payload at which it begins, in bytes.
    pub(crate) offset: u16,
    /// True if others follow.
    pub(crate) more: bool,
}

/// Upper layer of an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Upper {
    /// `IPPROTO_*`: behind the extension headers of IPv6, as far as the bytes have them.
    pub(crate) protocol: u8,
    /// Offset of its header, in bytes; no bytes of it are here where the packet is a later fragment, and none that can
    /// be found where an extension header is cut off.
    pub(crate) at: Option<usize>,
    /// Fragment of a datagram that was cut into several.
    pub(crate) fragment: Option<Fragment>,
}

/// Sender and receiver, by the packet's headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuple {
    /// 4 or 6; 0 for ARP.
    pub(crate) family: u8,
    /// `IPPROTO_*`, behind the extension headers of IPv6; 0 for ARP.
    pub(crate) protocol: u8,
    /// IPv4: its first four bytes.
    pub(crate) source: [u8; 16],
    /// IPv4: its first four bytes.
    pub(crate) destination: [u8; 16],
    /// Source and destination; of no fragment but the first.
    pub(crate) ports: Option<(u16, u16)>,
    /// Fragment of a datagram that was cut into several.
    pub(crate) fragment: Option<Fragment>,
}

impl Filter {
    /// Tells whether any part of it looks at addresses, ports or protocols.
    pub(crate) fn asks_tuple(&self) -> bool {
        self.family != 0
            || self.protocol != 0
            || self.source_port != 0
            || self.destination_port != 0
            || self.source != [0; 16]
            || self.destination != [0; 16]
    }

    /// Tells whether these are its device, its network namespace and its mark.
    pub(crate) fn admits(&self, ifindex: u32, netns: u32, mark: u32) -> bool {
        (self.ifindex == 0 || self.ifindex == ifindex)
            && (self.netns == 0 || self.netns == netns)
            && mark & self.mark_mask == self.mark & self.mark_mask
    }

    /// Tells whether this is its packet. A later fragment has no ports, and may be of any: the host knows its first
    /// one.
    pub(crate) fn matches(&self, tuple: &Tuple) -> bool {
        if self.family != 0 && self.family != tuple.family
            || self.protocol != 0 && self.protocol != tuple.protocol
        {
            return false;
        }
        let unknown = tuple.ports.is_none() && tuple.is_later_fragment();
        let port = |wanted: u16, port: Option<u16>| wanted == 0 || unknown || Some(wanted) == port;
        let way = |source: (&[u8; 16], u16), destination: (&[u8; 16], u16)| {
            (*source.0 == [0; 16] || *source.0 == tuple.source)
                && (*destination.0 == [0; 16] || *destination.0 == tuple.destination)
                && port(source.1, tuple.ports.map(|ports| ports.0))
                && port(destination.1, tuple.ports.map(|ports| ports.1))
        };
        let source = (&self.source, self.source_port);
        let destination = (&self.destination, self.destination_port);
        way(source, destination) || self.flags & EITHER_WAY != 0 && way(destination, source)
    }
}

impl Tuple {
    /// Tuple of the bytes from the network header on. `protocol` is `skb->protocol`, which an skb on its way out gets
    /// late: 0 counts where the bytes are known to be from a network header.
    pub(crate) fn of(protocol: u16, packet: &[u8]) -> Option<Self> {
        let version = packet.first().map_or(0, |first| first >> 4);
        match (version, protocol) {
            (4, IP | 0) => Self::ipv4(packet),
            (6, IPV6 | 0) => Self::ipv6(packet),
            (_, ARP) => Self::arp(packet),
            _ => None,
        }
    }

    /// Tells whether what tells of the layer above is in another packet.
    pub(crate) fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset != 0)
    }

    fn ipv4(packet: &[u8]) -> Option<Self> {
        let upper = Upper::of_ipv4(packet)?;
        Some(Self {
            family: 4,
            protocol: upper.protocol,
            source: first4(packet.get(12..16)?),
            destination: first4(packet.get(16..20)?),
            ports: upper.ports(packet),
            fragment: upper.fragment,
        })
    }

    fn ipv6(packet: &[u8]) -> Option<Self> {
        let upper = Upper::of_ipv6(packet)?;
        Some(Self {
            family: 6,
            protocol: upper.protocol,
            source: packet.get(8..24)?.try_into().ok()?,
            destination: packet.get(24..40)?.try_into().ok()?,
            ports: upper.ports(packet),
            fragment: upper.fragment,
        })
    }

    /// Tuple of ARP for Ethernet and IPv4: hardware type 1, 6 bytes; protocol 0x0800, 4 bytes.
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
            fragment: None,
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

impl Upper {
    /// Upper layer of an IPv4 packet.
    pub(crate) fn of_ipv4(packet: &[u8]) -> Option<Self> {
        let [id_high, id_low, place_high, place_low] = *packet.get(4..8)? else {
            return None;
        };
        let id = u16::from_be_bytes([id_high, id_low]);
        let place = u16::from_be_bytes([place_high, place_low]);
        // Three bits of flags, of which the last is MF; the offset counts eights of bytes.
        let (more, offset) = (place & 0x2000 != 0, (place & 0x1fff).wrapping_mul(8));
        let fragment = (more || offset != 0).then_some(Fragment {
            id: id.into(),
            offset,
            more,
        });
        let header = usize::from(packet.first()? & 15).wrapping_mul(4);
        Some(Self {
            protocol: *packet.get(9)?,
            at: (offset == 0 && header >= 20).then_some(header),
            fragment,
        })
    }

    /// Upper layer of an IPv6 packet. Each extension header has 8 bytes or more, so this ends with the bytes.
    pub(crate) fn of_ipv6(packet: &[u8]) -> Option<Self> {
        let mut upper = Self {
            protocol: *packet.get(6)?,
            at: Some(IPV6_HEADER),
            fragment: None,
        };
        while let Some(at) = upper.at {
            let header = packet.get(at..).unwrap_or_default();
            let size = match (upper.protocol, header) {
                (HOP_BY_HOP | ROUTING | DESTINATION, [_, length, ..]) => {
                    usize::from(*length).wrapping_add(1).wrapping_mul(8)
                }
                // Its length counts fours of bytes (RFC 4302, 2.2).
                (AUTHENTICATION, [_, length, ..]) => {
                    usize::from(*length).wrapping_add(2).wrapping_mul(4)
                }
                (FRAGMENT, [_, _, high, low, a, b, c, d, ..]) => {
                    let place = u16::from_be_bytes([*high, *low]);
                    let fragment = Fragment {
                        id: u32::from_be_bytes([*a, *b, *c, *d]),
                        offset: place & 0xfff8,
                        more: place & 1 != 0,
                    };
                    // One that is the whole datagram is no fragment (RFC 6946).
                    if fragment.more || fragment.offset != 0 {
                        upper.fragment = Some(fragment);
                    }
                    8
                }
                (HOP_BY_HOP | ROUTING | DESTINATION | AUTHENTICATION | FRAGMENT, _) => {
                    upper.at = None;
                    break;
                }
                _ => break,
            };
            let next = at.wrapping_add(size);
            if next > packet.len() {
                // The header that says what it is ends behind these bytes.
                upper.at = None;
                break;
            }
            upper.protocol = *header.first()?;
            // A later fragment begins in the middle of what the first one names.
            upper.at = match upper.fragment {
                Some(fragment) if fragment.offset != 0 => None,
                _ => Some(next),
            };
        }
        Some(upper)
    }

    /// TCP, UDP, DCCP, SCTP and UDP-Lite begin with their ports.
    pub(crate) fn ports(&self, packet: &[u8]) -> Option<(u16, u16)> {
        if !matches!(self.protocol, 6 | 17 | 33 | 132 | 136) {
            return None;
        }
        match packet.get(self.at?..)? {
            [a, b, c, d, ..] => Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))),
            _ => None,
        }
    }
}
