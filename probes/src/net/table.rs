//! The kernel's hash tables of sockets: one for each protocol, or for each namespace and protocol.

use std::iter::once;

use serde::Serialize;

use super::{NetNamespace, mptcp, netlink};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{array, hlist_for_each_entry, hlist_nulls_for_each_entry, offset_of};
use crate::{Error, Listing, Result};

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
    /// TCP sockets that have a port, and are neither connected nor listen.
    Bound,
    /// UDP sockets that have a port.
    Udp,
    /// Raw IP sockets.
    Raw,
    /// Unix sockets.
    Unix,
    /// Packet sockets.
    Packet,
    /// Datagram sockets of ICMP, whose port is the identifier of their echo requests.
    Ping,
    /// MPTCP sockets, whose subflows are TCP's.
    Mptcp,
    /// XDP sockets.
    Xdp,
    /// Netlink sockets, the kernel's own ends too.
    Netlink,
}

impl SocketTable {
    /// Tells whether its sockets have an IP address and a port.
    pub(super) const fn is_ip(self) -> bool {
        !matches!(self, Self::Unix | Self::Packet | Self::Xdp | Self::Netlink)
    }
}

/// Buckets that lie side by side, and what is on their lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Buckets {
    pub(super) table: SocketTable,
    pub(super) first: GuestVirt,
    pub(super) count: u64,
    pub(super) stride: u64,
    pub(super) links: Links,
}

/// The links between the sockets of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// `hlist_head`
    Hlist,
    /// `hlist_nulls_head`
    Nulls,
    /// `hlist_nulls_head`, whose end mark is the bucket's number.
    Numbered,
    /// `rhash_lock_head`: the first node, with bit 0 set while the bucket is locked; the end is odd.
    Rhash {
        /// Offset of the `rhash_head` in a `struct sock`, in bytes.
        node: u64,
    },
    /// The `inet_bind_hashbucket`s of TCP's `bhash2`: lists of `inet_bind2_bucket`, each with a list of its sockets.
    Bound {
        /// Offset of `inet_bind_hashbucket.chain`, in bytes.
        chain: u64,
        /// Offset of `inet_bind2_bucket.node`.
        node: u64,
        /// Offset of `inet_bind2_bucket.owners`, in bytes.
        owners: u64,
        /// Offset of the node in a `struct sock`.
        sock: u64,
    },
}

impl Buckets {
    /// The bucket's head.
    pub(super) fn head(&self, bucket: u64) -> GuestVirt {
        self.first.offset(bucket * self.stride)
    }

    /// Each `struct sock` of a bucket, as far as its list leads.
    pub(super) fn socks(&self, kernel: &Kernel, bucket: u64) -> Result<Listing<GuestVirt>> {
        let head = self.head(bucket);
        let what = format!("the list of bucket {bucket} at {head}");
        let node = offset_of(kernel, "struct sock_common", "skc_node")?;
        Ok(match self.links {
            Links::Hlist => Listing::walk(&what, hlist_for_each_entry(kernel, head, node)),
            Links::Nulls | Links::Numbered => {
                let mut walk = hlist_nulls_for_each_entry(kernel, head, node);
                let mut list = Listing::walk(&what, walk.by_ref());
                if let (Links::Numbered, Some(end)) = (self.links, walk.nulls_value())
                    && end != bucket
                {
                    let why = format!("it ends with the mark of bucket {end}");
                    list.miss(what, &Error::broken("table of sockets", head, why));
                }
                list
            }
            Links::Rhash { node } => {
                let first = GuestVirt(kernel.read_u64(head)? & !1);
                if first.is_null() {
                    return Ok(Listing::new());
                }
                let rest = hlist_nulls_for_each_entry(kernel, first, node);
                Listing::walk(&what, once(Ok(first.back(node))).chain(rest))
            }
            Links::Bound {
                chain,
                node,
                owners,
                sock,
            } => {
                let binds = hlist_for_each_entry(kernel, head.offset(chain), node);
                let binds = Listing::walk(&what, binds);
                let mut list = Listing::new();
                list.missing = binds.missing;
                for bind in binds.items {
                    let what = format!("the owners of the inet_bind2_bucket at {bind}");
                    let walk = hlist_for_each_entry(kernel, bind.offset(owners), sock);
                    list.append(Listing::walk(&what, walk));
                }
                list
            }
        })
    }
}

/// All tables that sockets of these namespaces may be in, each once.
pub(super) fn all(kernel: &Kernel, namespaces: &[NetNamespace]) -> Listing<Buckets> {
    let mut tables: Listing<Buckets> = Listing::new();
    let of = |kind: &str, net: &NetNamespace| {
        format!(
            "the {kind} sockets of the network namespace {} at {}",
            net.inum, net.at
        )
    };
    for net in namespaces {
        for (kind, found) in [
            ("TCP", tcp(kernel, net.at)),
            ("bound TCP", bound(kernel, net.at)),
            ("unix", unix(kernel, net.at)),
            ("packet", packet(kernel, net.at)),
            ("UDP", udp(kernel, net.at)),
            ("XDP", xdp(kernel, net.at)),
        ] {
            match found {
                Ok(buckets) => tables.items.extend(buckets),
                Err(error) => tables.miss(of(kind, net), &error),
            }
        }
    }
    for (symbol, table, c, member) in [
        (
            "raw_v4_hashinfo",
            SocketTable::Raw,
            "struct raw_hashinfo",
            "ht",
        ),
        (
            "raw_v6_hashinfo",
            SocketTable::Raw,
            "struct raw_hashinfo",
            "ht",
        ),
        ("ping_table", SocketTable::Ping, "struct ping_table", "hash"),
    ] {
        // IPv6 may be a module, or absent.
        if let Ok(at) = kernel.symbol(symbol) {
            tables.take(in_array(kernel, table, at, (c, member)), || symbol);
        }
    }
    match mptcp::buckets(kernel) {
        Ok(buckets) => tables.items.extend(buckets),
        Err(error) => tables.miss("the MPTCP sockets", &error),
    }
    match netlink::buckets(kernel) {
        Ok(buckets) => tables.append(buckets),
        Err(error) => tables.miss("the netlink sockets", &error),
    }
    // Namespaces without tables of their own share them.
    let mut all: Vec<Buckets> = Vec::new();
    for table in tables.items {
        if !all.contains(&table) {
            all.push(table);
        }
    }
    Listing {
        items: all,
        missing: tables.missing,
    }
}

fn pointer(kernel: &Kernel, at: GuestVirt, c: &str, member: &str) -> Result<GuestVirt> {
    let at = at.offset(offset_of(kernel, c, member)?);
    kernel.read_u64(at).map(GuestVirt)
}

/// The size of a structure.
pub(super) fn size_of(kernel: &Kernel, c: &str) -> Result<u64> {
    let (btf, id) = kernel.find_composite(c)?;
    btf.size_of(id)?
        .ok_or_else(|| Error::Unsupported(format!("`{c}` has no size in BTF")))
}

/// One more than a mask.
fn buckets(kernel: &Kernel, at: GuestVirt, c: &str, mask: &str) -> Result<u64> {
    let at = at.offset(offset_of(kernel, c, mask)?);
    let count = u64::from(kernel.read_u32(at)?) + 1;
    if count > BUCKET_BOUND || !count.is_power_of_two() {
        let why = format!("its {mask} is {:#x}", count - 1);
        return Err(Error::broken("table of sockets", at, why));
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
            links: Links::Numbered,
        },
        Buckets {
            table: SocketTable::Listen,
            first: pointer(kernel, info, c, "lhash2")?.offset(listen),
            count: buckets(kernel, info, c, "lhash2_mask")?,
            stride: size_of(kernel, "struct inet_listen_hashbucket")?,
            links: Links::Nulls,
        },
    ])
}

/// `bhash2` of the same. TCP's sockets all are in it while they have a port; kernels before it give none.
fn bound(kernel: &Kernel, net: GuestVirt) -> Result<Vec<Buckets>> {
    let c = "struct inet_hashinfo";
    let info = pointer(kernel, net, "struct net", "ipv4.tcp_death_row.hashinfo")?;
    let first = match pointer(kernel, info, c, "bhash2") {
        Ok(first) => first,
        Err(Error::NoMember { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let at = info.offset(offset_of(kernel, c, "bhash_size")?);
    let count = u64::from(kernel.read_u32(at)?);
    if count > BUCKET_BOUND {
        let why = format!("its bhash_size is {count}");
        return Err(Error::broken("table of sockets", at, why));
    }
    let tb = "struct inet_bind2_bucket";
    // A list of its own, until both tables shared one node.
    let sock = match offset_of(kernel, "struct sock", "sk_bind2_node") {
        Ok(node) => node,
        Err(Error::NoMember { .. }) => offset_of(kernel, "struct sock_common", "skc_bind_node")?,
        Err(error) => return Err(error),
    };
    Ok(Vec::from([Buckets {
        table: SocketTable::Bound,
        first,
        count,
        stride: size_of(kernel, "struct inet_bind_hashbucket")?,
        links: Links::Bound {
            chain: offset_of(kernel, "struct inet_bind_hashbucket", "chain")?,
            node: offset_of(kernel, tb, "node")?,
            owners: offset_of(kernel, tb, "owners")?,
            sock,
        },
    }]))
}

/// The `udp_table`, or the namespace's own.
fn udp(kernel: &Kernel, net: GuestVirt) -> Result<Vec<Buckets>> {
    let table = match pointer(kernel, net, "struct net", "ipv4.udp_table") {
        Ok(table) => table,
        Err(Error::NoMember { .. }) => kernel.symbol("udp_table")?,
        Err(error) => return Err(error),
    };
    let head = offset_of(kernel, "struct udp_hslot", "head")?;
    Ok(Vec::from([Buckets {
        table: SocketTable::Udp,
        first: pointer(kernel, table, "struct udp_table", "hash")?.offset(head),
        count: buckets(kernel, table, "struct udp_table", "mask")?,
        stride: size_of(kernel, "struct udp_hslot")?,
        links: Links::Hlist,
    }]))
}

/// Buckets that are an array in a structure.
fn in_array(
    kernel: &Kernel,
    table: SocketTable,
    at: GuestVirt,
    (c, member): (&str, &str),
) -> Result<Buckets> {
    let (offset, count, stride) = array(kernel, c, member)?;
    let first = at.offset(offset);
    // Lists of either kind, from kernel to kernel. An empty one of the nulls kind has an odd head, of the other NULL.
    let (mut odd, mut null) = (0, 0);
    for bucket in 0..count as u64 {
        let head = kernel.read_u64(first.offset(bucket * stride))?;
        odd += head & 1;
        null += u64::from(head == 0);
    }
    Ok(Buckets {
        table,
        first,
        count: count as u64,
        stride,
        links: if odd > null {
            Links::Nulls
        } else {
            Links::Hlist
        },
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
        links: Links::Hlist,
    }]))
}

/// One list a namespace. Kernels without packet sockets have none.
fn packet(kernel: &Kernel, net: GuestVirt) -> Result<Vec<Buckets>> {
    of_namespace(kernel, net, SocketTable::Packet, "packet.sklist")
}

/// The same of XDP.
fn xdp(kernel: &Kernel, net: GuestVirt) -> Result<Vec<Buckets>> {
    of_namespace(kernel, net, SocketTable::Xdp, "xdp.list")
}

fn of_namespace(
    kernel: &Kernel,
    net: GuestVirt,
    table: SocketTable,
    member: &str,
) -> Result<Vec<Buckets>> {
    let list = match offset_of(kernel, "struct net", member) {
        Ok(list) => list,
        Err(Error::NoMember { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(Vec::from([Buckets {
        table,
        first: net.offset(list),
        count: 1,
        stride: 8,
        links: Links::Hlist,
    }]))
}
