//! A pcap-filter(7) expression as a tree of tests on the packet's headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::kmod::tuple::Tuple;

/// `IPPROTO_*` of the protocols that have ports, as pcap-filter sees it.
const WITH_PORTS: [u8; 3] = [6, 17, 132];

/// An expression. `and` and `or` bind equally and to the left, `not` binds tighter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Test(Test),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Ip,
    Ip6,
    Arp,
    /// Protocol of IPv4 and of IPv6, by number.
    Protocol(u8),
    /// An address in this network; of IPv4 and ARP, or of IPv6.
    Net(Direction, Net),
    /// A port from the first to the last.
    Ports(Direction, u16, u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Source,
    Destination,
    Either,
    Both,
}

/// An address and how many of its bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Net {
    pub(super) address: IpAddr,
    pub(super) prefix: u32,
}

impl Expression {
    pub(super) fn matches(&self, tuple: &Tuple) -> bool {
        match self {
            Self::And(left, right) => left.matches(tuple) && right.matches(tuple),
            Self::Or(left, right) => left.matches(tuple) || right.matches(tuple),
            Self::Not(inner) => !inner.matches(tuple),
            Self::Test(test) => test.matches(tuple),
        }
    }
}

impl Test {
    fn matches(self, tuple: &Tuple) -> bool {
        match self {
            Self::Ip => tuple.family == 4,
            Self::Ip6 => tuple.family == 6,
            Self::Arp => tuple.family == 0,
            Self::Protocol(protocol) => tuple.family != 0 && tuple.protocol == protocol,
            Self::Net(direction, net) => direction.of(
                || net.holds(tuple.family, &tuple.source),
                || net.holds(tuple.family, &tuple.destination),
            ),
            Self::Ports(direction, first, last) => {
                let ports = tuple.ports.filter(|_| WITH_PORTS.contains(&tuple.protocol));
                let within = |port: u16| (first..=last).contains(&port);
                ports.is_some_and(|(source, destination)| {
                    direction.of(|| within(source), || within(destination))
                })
            }
        }
    }
}

impl Direction {
    fn of(self, source: impl Fn() -> bool, destination: impl Fn() -> bool) -> bool {
        match self {
            Self::Source => source(),
            Self::Destination => destination(),
            Self::Either => source() || destination(),
            Self::Both => source() && destination(),
        }
    }
}

impl Net {
    fn holds(self, family: u8, address: &[u8; 16]) -> bool {
        match self.address {
            IpAddr::V4(net) => {
                let [a, b, c, d, ..] = *address;
                let mask = u32::MAX.checked_shl(32 - self.prefix).unwrap_or(0);
                let bits = Ipv4Addr::new(a, b, c, d).to_bits() ^ net.to_bits();
                family != 6 && bits & mask == 0
            }
            IpAddr::V6(net) => {
                let mask = u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0);
                let bits = Ipv6Addr::from(*address).to_bits() ^ net.to_bits();
                family == 6 && bits & mask == 0
            }
        }
    }

    /// Tells whether it is one address.
    pub(super) fn is_host(self) -> bool {
        self.prefix == if self.address.is_ipv4() { 32 } else { 128 }
    }
}
