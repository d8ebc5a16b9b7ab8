//! Packets that a capture is about.
//!
//! ```no_run
//! # use probes::prelude::*;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! let filter = Filter::new("tcp port 80 and not host 10.0.0.7")?.interface("eth0");
//! let paths = guest.paths(Profile::Path.only(filter), |guest| {
//!     guest.agent()?.shell("wget -q -O - 10.0.0.1")?;
//!     Ok(())
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! A packet is shown with its whole way if it passes at one of its stages; it is followed from there on, also under
//! other addresses NAT gives it. What the module can check by itself is checked in the guest, so that what is not
//! wanted takes no room in the rings; the rest, and all of it once more, on the host.

mod expression;
mod parse;
mod push;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::str::FromStr;

use self::expression::{Direction, Expression, Net, Test};
use crate::guest::Guest;
use crate::kmod::ring::{self, Record};
use crate::kmod::tuple::Tuple;
use crate::object::Object;
use crate::structures::offset_of;
use crate::{Error, Result};

/// `PROC_DYNAMIC_FIRST` (`fs/proc/generic.c`): no namespace has a lower inode number, and no task a higher pid.
const FIRST_INUM: u32 = 0xf000_0000;
/// Folder of the names of `ip netns`.
const NAMED: &str = "/run/netns/";

/// A network namespace, by one of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Netns {
    /// The namespace of a task.
    Pid(i32),
    /// By its inode number, as `/proc/PID/ns/net` shows it.
    Inum(u32),
    /// As `ip netns` calls it.
    Named(String),
}

impl FromStr for Netns {
    type Err = std::convert::Infallible;

    /// A number is an inode number where it can be one, else a pid; all else is a name of `ip netns`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.parse::<u32>() {
            Ok(inum) if inum >= FIRST_INUM => Self::Inum(inum),
            Ok(pid) => Self::Pid(i32::try_from(pid).unwrap_or(i32::MAX)),
            Err(_) => Self::Named(text.to_owned()),
        })
    }
}

impl From<i32> for Netns {
    fn from(pid: i32) -> Self {
        Self::Pid(pid)
    }
}

impl From<&str> for Netns {
    fn from(text: &str) -> Self {
        let Ok(netns) = text.parse();
        netns
    }
}

/// Conditions on packets; one that is not set lets everything through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    expression: Option<Expression>,
    interface: Option<String>,
    netns: Option<Netns>,
    /// The mark and which of its bits count.
    mark: Option<(u32, u32)>,
}

impl Filter {
    /// Packets of a pcap-filter(7) expression, in its usual subset: `host`, `net`, `port`, `portrange`, `proto`, with `src` and `dst`,
    /// `ip`, `ip6`, `arp`, `tcp`, `udp`, `sctp`, `icmp`, `icmp6`; `and`, `or`, `not`, parentheses. Addresses and ports are numbers.
    ///
    /// # Errors
    /// [`Error::Expression`], which points at what is not understood.
    pub fn new(expression: &str) -> Result<Self> {
        Ok(Self {
            expression: Some(parse::parse(expression)?),
            ..Self::default()
        })
    }

    /// Packets of one flow, both ways: `IPPROTO_*` and the two ends.
    #[must_use]
    pub fn flow(protocol: u8, one: SocketAddr, other: SocketAddr) -> Self {
        let end = |direction, end: SocketAddr| {
            let prefix = if end.is_ipv4() { 32 } else { 128 };
            let address = end.ip();
            let net = Expression::Test(Test::Net(direction, Net { address, prefix }));
            let port = Expression::Test(Test::Ports(direction, end.port(), end.port()));
            Expression::And(Box::new(net), Box::new(port))
        };
        let way = |from, to| {
            let ends = Expression::And(
                Box::new(end(Direction::Source, from)),
                Box::new(end(Direction::Destination, to)),
            );
            let protocol = Expression::Test(Test::Protocol(protocol));
            Expression::And(Box::new(protocol), Box::new(ends))
        };
        let both = Expression::Or(Box::new(way(one, other)), Box::new(way(other, one)));
        Self {
            expression: Some(both),
            ..Self::default()
        }
    }

    /// On a device of this name.
    #[must_use]
    pub fn interface(mut self, name: impl Into<String>) -> Self {
        self.interface = Some(name.into());
        self
    }

    /// In a network namespace.
    #[must_use]
    pub fn netns(mut self, netns: impl Into<Netns>) -> Self {
        self.netns = Some(netns.into());
        self
    }

    /// With these bits of `skb->mark`: those that are set in `mask` count.
    #[must_use]
    pub fn mark(mut self, mark: u32, mask: u32) -> Self {
        self.mark = Some((mark, mask));
        self
    }

    /// Resolves it in this guest.
    pub(super) fn resolve(&self, guest: &Guest) -> Result<Wanted> {
        let netns = match &self.netns {
            Some(netns) => Some(netns.inum(guest)?),
            None => None,
        };
        let devices = match &self.interface {
            Some(name) => Some(devices(guest, name, netns)?),
            None => None,
        };
        Ok(Wanted {
            expression: self.expression.clone(),
            netns,
            devices,
            mark: self.mark,
        })
    }
}

/// Number and namespace of each device of this name.
fn devices(guest: &Guest, name: &str, netns: Option<u32>) -> Result<Vec<(u32, u32)>> {
    let all = guest.net_devices()?;
    let here = || {
        all.iter()
            .filter(|device| netns.is_none_or(|netns| device.netns == netns))
    };
    let found: Vec<(u32, u32)> = here()
        .filter(|device| device.name == name)
        .map(|device| (device.ifindex.cast_unsigned(), device.netns))
        .collect();
    if found.is_empty() {
        let mut names: Vec<&str> = here().map(|device| device.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        return Err(Error::Absent(format!(
            "the guest has no network device `{name}`: there are {}",
            names.join(", ")
        )));
    }
    Ok(found)
}

impl Netns {
    fn inum(&self, guest: &Guest) -> Result<u32> {
        match self {
            Self::Inum(inum) => Ok(*inum),
            Self::Pid(pid) => {
                let task = guest.task(*pid)?;
                let kernel = guest.kernel()?;
                let nsproxy = guest.task_pointer(&task, "nsproxy", "namespaces")?;
                let nsproxy = Object::at(&kernel, "struct nsproxy", nsproxy)?;
                Ok(nsproxy
                    .member("net_ns")?
                    .deref()?
                    .member("ns.inum")?
                    .u64()? as u32)
            }
            Self::Named(name) => {
                let path = format!("{NAMED}{name}");
                let mounts = guest.mounts(1)?;
                let mount = mounts
                    .iter()
                    .find(|mount| mount.path == path && mount.fs_type == "nsfs")
                    .ok_or_else(|| {
                        Error::Absent(format!(
                            "the guest has no network namespace `{name}`: `ip netns` in it lists those with a name"
                        ))
                    })?;
                let kernel = guest.kernel()?;
                let root = mount
                    .at
                    .offset(offset_of(&kernel, "struct mount", "mnt.mnt_root")?);
                let root = Object::at(&kernel, "struct dentry *", root)?.deref()?;
                // An inode of nsfs has the namespace's number (fs/nsfs.c).
                Ok(root.member("d_inode")?.deref()?.member("i_ino")?.u64()? as u32)
            }
        }
    }
}

/// A filter as it is in one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    expression: Option<Expression>,
    netns: Option<u32>,
    devices: Option<Vec<(u32, u32)>>,
    mark: Option<(u32, u32)>,
}

impl Wanted {
    /// Tells whether it wants everything.
    pub(super) fn is_all(&self) -> bool {
        self.expression.is_none()
            && self.netns.is_none()
            && self.devices.is_none()
            && self.mark.is_none()
    }

    /// The part that the module can check: it lets through what passes here, and more.
    pub(super) fn to_ring(&self) -> ring::Filter {
        let mut filter = ring::Filter::ANY;
        if let Some(expression) = &self.expression {
            expression.push_down(&mut filter);
        }
        filter.netns = self.netns.unwrap_or(0);
        if let Some([(ifindex, netns), more @ ..]) = self.devices.as_deref() {
            if more.is_empty() {
                (filter.ifindex, filter.netns) = (*ifindex, *netns);
            } else if more.iter().all(|(other, _)| other == ifindex) {
                filter.ifindex = *ifindex;
            }
        }
        if let Some((mark, mask)) = self.mark {
            (filter.mark, filter.mark_mask) = (mark & mask, mask);
        }
        filter
    }

    /// Tells whether a packet passes at this record. A fragment has the ports of its datagram.
    pub(super) fn matches(&self, record: &Record, datagrams: &Datagrams) -> bool {
        self.sees(&Seen {
            datagrams: Some(datagrams),
            ..Seen::of(record)
        })
    }

    /// Tells whether a packet passes that is seen so.
    pub(super) fn sees(&self, seen: &Seen<'_>) -> bool {
        self.netns.is_none_or(|netns| netns == seen.netns)
            && self
                .devices
                .as_ref()
                .is_none_or(|devices| devices.contains(&(seen.ifindex, seen.netns)))
            && self
                .mark
                .is_none_or(|(mark, mask)| seen.mark & mask == mark & mask)
            && self.expression.as_ref().is_none_or(|expression| {
                seen.tuple().is_some_and(|tuple| expression.matches(&tuple))
            })
    }
}

/// Facts about a packet at one place.
#[derive(Debug, Default)]
pub(super) struct Seen<'a> {
    pub(super) netns: u32,
    pub(super) ifindex: u32,
    pub(super) mark: u32,
    /// `skb->protocol` as a number.
    pub(super) protocol: u16,
    /// True if the bytes are known to be of that protocol. Without a network header they are from `data`, which may be
    /// anything before the skb has its protocol.
    pub(super) placed: bool,
    pub(super) packet: Cow<'a, [u8]>,
    /// Ports of datagrams, by their first fragments.
    pub(super) datagrams: Option<&'a Datagrams>,
}

/// A datagram that was cut into fragments: its sender, its receiver, its protocol, and its identification.
pub(super) type Datagram = ([u8; 16], [u8; 16], u8, u32);

/// Datagram of a fragment.
pub(super) fn datagram(tuple: &Tuple) -> Option<Datagram> {
    let fragment = tuple.fragment?;
    // The protocol is not part of it where IPv6's first fragment alone has the headers that lead to it (RFC 8200, 4.5).
    let protocol = if tuple.family == 4 { tuple.protocol } else { 0 };
    Some((tuple.source, tuple.destination, protocol, fragment.id))
}

/// The ports of the datagrams whose first fragment was seen.
#[derive(Debug, Default)]
pub(super) struct Datagrams(HashMap<Datagram, (u8, (u16, u16))>);

impl Datagrams {
    pub(super) fn of<'a>(records: impl Iterator<Item = &'a Record>) -> Self {
        let first = |record: &Record| {
            let tuple = Seen::of(record).tuple()?;
            Some((datagram(&tuple)?, (tuple.protocol, tuple.ports?)))
        };
        Self(records.filter_map(first).collect())
    }
}

impl<'a> Seen<'a> {
    pub(super) fn of(record: &'a Record) -> Self {
        Self {
            netns: record.netns,
            ifindex: record.ifindex,
            mark: record.mark,
            protocol: record.protocol,
            placed: record.protocol != 0
                || record.network_header != 0 && u32::from(record.network_header) < record.tail,
            packet: record.packet().into(),
            datagrams: None,
        }
    }

    /// Sender and receiver; `None` if the bytes do not say.
    pub(super) fn tuple(&self) -> Option<Tuple> {
        let mut tuple = self
            .placed
            .then(|| Tuple::of(self.protocol, &self.packet))
            .flatten()?;
        if tuple.is_later_fragment()
            && let Some(known) = self.datagrams
            && let Some((protocol, ports)) = known.0.get(&datagram(&tuple)?)
        {
            (tuple.protocol, tuple.ports) = (*protocol, Some(*ports));
        }
        Some(tuple)
    }
}
