//! Where the kernel keeps its sockets: hash tables, one a protocol or one a namespace and protocol.

use serde::Serialize;

use super::NetNamespace;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{array, hlist_for_each_entry, hlist_nulls_for_each_entry, offset_of};
use crate::{Error, Result};

/// Buckets that a table may have, as far as we read: the kernel makes `1 << 24` at most.
const BUCKET_BOUND: u64 = 1 << 24;
/// `UNIX_HASH_SIZE` of `include/net/af_unix.h`.
const UNIX_HASH_SIZE: u64 = 512;

/// The table that a socket was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketTable {
    /// TCP sockets that are connected, or about to be.
    Tcp,
    /// TCP sockets that listen.
    Listen,
    /// UDP sockets that have a port.
    Udp,
    /// Raw IP sockets.
    Raw,
    /// Unix sockets.
    Unix,
    /// Packet sockets.
    Packet,
}

/// Buckets that lie side by side, and what is on their lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Buckets {
    pub(super) table: SocketTable,
    first: GuestVirt,
    count: u64,
    stride: u64,
    nulls: bool,
}

impl Buckets {
    /// Each `struct sock` in them.
    pub(super) fn socks(&self, kernel: &Kernel) -> Result<Vec<GuestVirt>> {
        let node = offset_of(kernel, "struct sock_common", "skc_node")?;
        let mut socks = Vec::new();
        for bucket in 0..self.count {
            let head = self.first.offset(bucket * self.stride);
            if self.nulls {
                for sock in hlist_nulls_for_each_entry(kernel, head, node) {
                    socks.push(sock?);
                }
            } else {
                for sock in hlist_for_each_entry(kernel, head, node) {
                    socks.push(sock?);
                }
            }
        }
        Ok(socks)
    }
}

/// All tables that sockets of these namespaces may be in, each once.
pub(super) fn all(kernel: &Kernel, namespaces: &[NetNamespace]) -> Result<Vec<Buckets>> {
    let mut tables: Vec<Buckets> = Vec::new();
    for net in namespaces {
        for buckets in [
            tcp(kernel, net.at)?,
            unix(kernel, net.at)?,
            packet(kernel, net.at)?,
        ] {
            tables.extend(buckets);
        }
        tables.push(udp(kernel, net.at)?);
    }
    for symbol in ["raw_v4_hashinfo", "raw_v6_hashinfo"] {
        // IPv6 may be a module, or absent.
        if let Ok(at) = kernel.symbol(symbol) {
            tables.push(raw(kernel, at)?);
        }
    }
    // Namespaces without tables of their own share them.
    let mut once: Vec<Buckets> = Vec::new();
    for table in tables {
        if !once.contains(&table) {
            once.push(table);
        }
    }
    Ok(once)
}

fn pointer(kernel: &Kernel, at: GuestVirt, c: &str, member: &str) -> Result<GuestVirt> {
    let at = at.offset(offset_of(kernel, c, member)?);
    kernel.read_u64(at).map(GuestVirt)
}

/// The size of a structure.
fn size_of(kernel: &Kernel, c: &str) -> Result<u64> {
    let (btf, id) = kernel.find_composite(c)?;
    Ok(btf.size_of(id)?.unwrap_or(0))
}

/// One more than a mask.
fn buckets(kernel: &Kernel, at: GuestVirt, c: &str, mask: &str) -> Result<u64> {
    let at = at.offset(offset_of(kernel, c, mask)?);
    let count = u64::from(kernel.read_u32(at)?) + 1;
    if count > BUCKET_BOUND || !count.is_power_of_two() {
        let why = format!("its {mask} is {:#x}", count - 1);
        return Err(Error::Broken {
            what: "table of sockets",
            at,
            why,
        });
    }
    Ok(count)
}

/// `tcp_hashinfo`, or the namespace's own.
fn tcp(kernel: &Kernel, net: GuestVirt) -> Result<Vec<Buckets>> {
    let c = "struct inet_hashinfo";
    let info = pointer(kernel, net, "struct net", "ipv4.tcp_death_row.hashinfo")?;
    let listen = offset_of(kernel, "struct inet_listen_hashbucket", "nulls_head")?;
    Ok(vec![
        Buckets {
            table: SocketTable::Tcp,
            first: pointer(kernel, info, c, "ehash")?,
            count: buckets(kernel, info, c, "ehash_mask")?,
            stride: size_of(kernel, "struct inet_ehash_bucket")?,
            nulls: true,
        },
        Buckets {
            table: SocketTable::Listen,
            first: pointer(kernel, info, c, "lhash2")?.offset(listen),
            count: buckets(kernel, info, c, "lhash2_mask")?,
            stride: size_of(kernel, "struct inet_listen_hashbucket")?,
            nulls: true,
        },
    ])
}

/// The `udp_table`, or the namespace's own.
fn udp(kernel: &Kernel, net: GuestVirt) -> Result<Buckets> {
    let table = match pointer(kernel, net, "struct net", "ipv4.udp_table") {
        Ok(table) => table,
        Err(Error::NoMember { .. }) => kernel.symbol("udp_table")?,
        Err(error) => return Err(error),
    };
    let head = offset_of(kernel, "struct udp_hslot", "head")?;
    Ok(Buckets {
        table: SocketTable::Udp,
        first: pointer(kernel, table, "struct udp_table", "hash")?.offset(head),
        count: buckets(kernel, table, "struct udp_table", "mask")?,
        stride: size_of(kernel, "struct udp_hslot")?,
        nulls: false,
    })
}

fn raw(kernel: &Kernel, info: GuestVirt) -> Result<Buckets> {
    let (ht, count, stride) = array(kernel, "struct raw_hashinfo", "ht")?;
    let first = info.offset(ht);
    // Lists of either kind, from kernel to kernel; an empty one of the nulls kind has an odd head.
    let mut nulls = false;
    for bucket in 0..count as u64 {
        nulls |= kernel.read_u64(first.offset(bucket * stride))? & 1 != 0;
    }
    Ok(Buckets {
        table: SocketTable::Raw,
        first,
        count: count as u64,
        stride,
        nulls,
    })
}

/// The namespace's own.
fn unix(kernel: &Kernel, net: GuestVirt) -> Result<Vec<Buckets>> {
    let first = pointer(kernel, net, "struct net", "unx.table.buckets")?;
    Ok(Vec::from([Buckets {
        table: SocketTable::Unix,
        first,
        count: UNIX_HASH_SIZE,
        stride: 8,
        nulls: false,
    }]))
}

/// One list a namespace. Kernels without packet sockets have none.
fn packet(kernel: &Kernel, net: GuestVirt) -> Result<Vec<Buckets>> {
    let Ok(list) = offset_of(kernel, "struct net", "packet.sklist") else {
        return Ok(Vec::new());
    };
    Ok(Vec::from([Buckets {
        table: SocketTable::Packet,
        first: net.offset(list),
        count: 1,
        stride: 8,
        nulls: false,
    }]))
}
