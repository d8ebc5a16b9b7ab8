//! Connection tracking: `struct nf_conn` (`include/net/netfilter/nf_conntrack.h`).

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::Serialize;

use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Object;

/// `AF_INET`
const INET: u64 = 2;
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
    /// Where its packets come from; the port of ICMP is its identifier.
    pub source: SocketAddrV4,
    /// Where they go; the port of ICMP is its type and code.
    pub destination: SocketAddrV4,
    /// `IPPROTO_*`
    pub protocol: u8,
}

impl fmt::Display for NfTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.source, self.destination)
    }
}

/// A connection of IPv4.
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
    /// The connection at an address; `None` when there is none of IPv4. It may be another's memory by now: the caller
    /// compares the tuples with what it knows.
    pub(crate) fn read(kernel: &Kernel, at: GuestVirt) -> Result<Option<Self>> {
        let conn = Object::at(kernel, "struct nf_conn", at)?;
        let hashes = conn.member("tuplehash")?;
        let tuple = |direction: i64| -> Result<Option<NfTuple>> {
            let tuple = hashes.index(direction)?.member("tuple")?;
            if tuple.member("src.l3num")?.u64()? != INET {
                return Ok(None);
            }
            let end = |end: &str| -> Result<SocketAddrV4> {
                let address = tuple.member(&format!("{end}.u3.ip"))?.u64()? as u32;
                let port = tuple.member(&format!("{end}.u.all"))?.u64()? as u16;
                Ok(SocketAddrV4::new(
                    Ipv4Addr::from(address.to_le_bytes()),
                    port.swap_bytes(),
                ))
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
