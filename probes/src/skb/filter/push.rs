//! The part of an expression that is pushed down to the module: its one 5-tuple. That part lets through
//! at least what the expression does; the expression itself is evaluated on the host, on what came.

use std::net::IpAddr;

use super::expression::{Direction, Expression, Net, Test};
use crate::kmod::ring::{self, EITHER_WAY};

impl Expression {
    /// Fills the tuple of a filter with what every packet of this expression has.
    pub(super) fn push_down(&self, filter: &mut ring::Filter) {
        let mut tests = Vec::new();
        self.conjuncts(&mut tests);
        if let Self::Or(left, right) = self
            && let (Some(one), Some(other)) = (left.flow(), right.flow())
            && one.reversed() == other
        {
            one.fill(filter);
            filter.flags = EITHER_WAY;
            return;
        }
        for test in &tests {
            match test {
                Test::Ip => filter.family = 4,
                Test::Ip6 => filter.family = 6,
                Test::Protocol(protocol) => filter.protocol = *protocol,
                _ => {}
            }
        }
        let fixed = Flow::of(&tests);
        if fixed != Flow::default() {
            fixed.fill(filter);
            return;
        }
        // Either way there is room for two addresses, or for two ports, but not for which belongs to which.
        let hosts = tests.iter().filter_map(|test| match test {
            Test::Net(Direction::Either, net) if net.is_host() => Some(*net),
            _ => None,
        });
        let ports = tests.iter().filter_map(|test| match test {
            Test::Ports(Direction::Either, first, last) if first == last && *first != 0 => {
                Some(*first)
            }
            _ => None,
        });
        // Named twice it is one of the two all the same.
        let (hosts, ports) = (two(hosts), two(ports));
        let flow = match (hosts, ports) {
            ([None, _], [None, _]) => return,
            ([None, _], [one, other]) => Flow {
                source_port: one.unwrap_or(0),
                destination_port: other.unwrap_or(0),
                ..Flow::default()
            },
            ([source, destination], _) => Flow {
                source,
                destination,
                ..Flow::default()
            },
        };
        flow.fill(filter);
        filter.flags = EITHER_WAY;
    }

    /// The tests that must all hold.
    fn conjuncts(&self, tests: &mut Vec<Test>) {
        match self {
            Self::And(left, right) => {
                left.conjuncts(tests);
                right.conjuncts(tests);
            }
            Self::Test(test) => tests.push(*test),
            Self::Or(..) | Self::Not(_) => {}
        }
    }

    /// This as one direction of a flow, if it is nothing else.
    fn flow(&self) -> Option<Flow> {
        let mut tests = Vec::new();
        self.conjuncts(&mut tests);
        let flow = Flow::of(&tests);
        (flow != Flow::default()).then_some(flow)
    }
}

/// The first two that differ.
fn two<T: PartialEq>(all: impl Iterator<Item = T>) -> [Option<T>; 2] {
    let mut found = [None, None];
    for one in all {
        match &mut found {
            [first @ None, _] => *first = Some(one),
            [Some(first), second @ None] if *first != one => *second = Some(one),
            _ => {}
        }
    }
    found
}

/// Addresses and ports of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Flow {
    protocol: u8,
    source: Option<Net>,
    destination: Option<Net>,
    source_port: u16,
    destination_port: u16,
}

impl Flow {
    fn of(tests: &[Test]) -> Self {
        let mut flow = Self::default();
        for test in tests {
            match test {
                Test::Net(Direction::Source, net) if net.is_host() => flow.source = Some(*net),
                Test::Net(Direction::Destination, net) if net.is_host() => {
                    flow.destination = Some(*net);
                }
                Test::Ports(Direction::Source, first, last) if first == last => {
                    flow.source_port = *first;
                }
                Test::Ports(Direction::Destination, first, last) if first == last => {
                    flow.destination_port = *first;
                }
                _ => {}
            }
        }
        // Alone it is no direction.
        if flow != Self::default() {
            for test in tests {
                if let Test::Protocol(protocol) = test {
                    flow.protocol = *protocol;
                }
            }
        }
        flow
    }

    fn reversed(self) -> Self {
        Self {
            protocol: self.protocol,
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }

    fn fill(self, filter: &mut ring::Filter) {
        let bytes = |net: Option<Net>| {
            let mut bytes = [0; 16];
            match net.map(|net| net.address) {
                Some(IpAddr::V4(address)) => bytes[..4].copy_from_slice(&address.octets()),
                Some(IpAddr::V6(address)) => bytes = address.octets(),
                None => {}
            }
            bytes
        };
        filter.source = bytes(self.source);
        filter.destination = bytes(self.destination);
        filter.source_port = self.source_port;
        filter.destination_port = self.destination_port;
        if self.protocol != 0 {
            filter.protocol = self.protocol;
        }
    }
}
