//! Connection tracking: `struct nf_conn` (`include/net/netfilter/nf_conntrack.h`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Object;

/// `AF_INET`, `AF_INET6`
const INET: u64 = 2;
const INET6: u64 = 10;
/// `IPS_*` (`include/uapi/linux/netfilter/nf_conntrack_common.h`).
const STATUS: [(u64, &str); 7] = [
    (1 << 0, "expected"),
    (1 << 1, "seen reply"),
    (1 << 2, "assured"),
    (1 << 3, "confirmed"),
    (1 << 4, "source NAT"),
    (1 << 5, "destination NAT"),
    (1 << 9, "dying"),
];

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NfTuple {
    /// Source of its packets; the port of ICMP is its identifier.
    pub source: SocketAddr,
    /// Their destination; the port of ICMP is its type and code.
    pub destination: SocketAddr,
    /// `IPPROTO_*`
    pub protocol: u8,
}

impl fmt::Display for NfTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.source, self.destination)
    }
}

/// A connection of IPv4 or IPv6.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NfConn {
    /// Its `struct nf_conn`.
    pub at: GuestVirt,
    /// Packets of the direction that began it, as they came.
    pub original: NfTuple,
    /// Packets of the other direction, as they come; with NAT not the original the other way round.
    pub reply: NfTuple,
    /// `IPS_*`
    pub status: Vec<&'static str>,
}

impl NfConn {
    /// The connection at an address; `None` when there is none of IP. It may be another's memory by now: the caller
    /// compares the tuples with what it knows.
    pub(crate) fn read(kernel: &Kernel, at: GuestVirt) -> Result<Option<Self>> {
        let conn = Object::at(kernel, "struct nf_conn", at)?;
        let hashes = conn.member("tuplehash")?;
        let tuple = |direction: i64| -> Result<Option<NfTuple>> {
            let tuple = hashes.index(direction)?.member("tuple")?;
            let family = tuple.member("src.l3num")?.u64()?;
            if ![INET, INET6].contains(&family) {
                return Ok(None);
            }
            let end = |end: &str| -> Result<SocketAddr> {
                // union nf_inet_addr: one word or four, as they are sent.
                let all = tuple.member(&format!("{end}.u3.all"))?;
                let mut words = [0; 16];
                for (index, word) in words.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    *word = (all.index(index as i64)?.u64()? as u32).to_le_bytes();
                }
                let address = match words {
                    [a, b, c, d, ..] if family == INET => IpAddr::from(Ipv4Addr::new(a, b, c, d)),
                    words => Ipv6Addr::from(words).into(),
                };
                let port = tuple.member(&format!("{end}.u.all"))?.u64()? as u16;
                Ok(SocketAddr::new(address, port.swap_bytes()))
            };
            Ok(Some(NfTuple {
                source: end("src")?,
                destination: end("dst")?,
                protocol: tuple.member("dst.protonum")?.u64()? as u8,
            }))
        };
        let (Some(original), Some(reply)) = (tuple(0)?, tuple(1)?) else {
            return Ok(None);
        };
        let status = conn.member("status")?.u64()?;
        Ok(Some(Self {
            at,
            original,
            reply,
            status: STATUS
                .iter()
                .filter(|(bit, _)| status & bit != 0)
                .map(|(_, name)| *name)
                .collect(),
        }))
    }
}
