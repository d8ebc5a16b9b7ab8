//! Netlink sockets: `nl_table`, an rhashtable for each protocol (`net/netlink/af_netlink.c`).

use super::table::{Buckets, Links, SocketTable, size_of};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::structures::offset_of;
use crate::{Error, Listing, Of as _, Result};

/// `MAX_LINKS` of `include/uapi/linux/netlink.h`: how many protocols there may be.
const MAX_LINKS: u64 = 32;
/// The table in use, and the one that it is being moved to.
const MAX_TABLES: usize = 8;
/// `NETLINK_*` of the same, by number; nothing for one that is free.
const PROTOCOLS: [&str; 23] = [
    "ROUTE",
    "",
    "USERSOCK",
    "FIREWALL",
    "SOCK_DIAG",
    "NFLOG",
    "XFRM",
    "SELINUX",
    "ISCSI",
    "AUDIT",
    "FIB_LOOKUP",
    "CONNECTOR",
    "NETFILTER",
    "IP6_FW",
    "DNRTMSG",
    "KOBJECT_UEVENT",
    "GENERIC",
    "",
    "SCSITRANSPORT",
    "ECRYPTFS",
    "RDMA",
    "CRYPTO",
    "SMC",
];

#[derive(Debug, Mirror)]
#[mirror(c = "struct netlink_sock")]
struct NetlinkSock {
    #[mirror(member = "sk.sk_protocol")]
    protocol: u16,
    portid: u32,
    groups: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct bucket_table")]
struct BucketTable {
    size: u32,
    nest: u32,
    future_tbl: GuestVirt,
}

/// The buckets of all protocols. A kernel without netlink has none.
pub(super) fn buckets(kernel: &Kernel) -> Result<Listing<Buckets>> {
    let mut all = Listing::new();
    let Some(table) = kernel.symbols()?.lookup("nl_table") else {
        return Ok(all);
    };
    let (first, size) = (
        GuestVirt(kernel.read_u64(table)?),
        size_of(kernel, "struct netlink_table")?,
    );
    if first.is_null() {
        return Ok(all);
    }
    let tbl = offset_of(kernel, "struct netlink_table", "hash.tbl")?;
    // It is one piece: what cannot be read of it is said once.
    let mut bytes = vec![0; (MAX_LINKS * size) as usize];
    kernel
        .read(first, &mut bytes)
        .of(|| format!("nl_table {first}"))?;
    for protocol in 0..MAX_LINKS {
        let at = first.offset(protocol * size + tbl);
        if let Err(error) = of_protocol(kernel, at, &mut all.items) {
            all.miss(format!("the netlink sockets of {}", name(protocol)), &error);
        }
    }
    Ok(all)
}

/// The buckets of an rhashtable; `at` is where its pointer to them lies.
fn of_protocol(kernel: &Kernel, at: GuestVirt, all: &mut Vec<Buckets>) -> Result<()> {
    let first = offset_of(kernel, "struct bucket_table", "buckets")?;
    let node = offset_of(kernel, "struct netlink_sock", "node")?;
    let mut table = GuestVirt(kernel.read_u64(at)?);
    for _ in 0..MAX_TABLES {
        if table.is_null() {
            return Ok(());
        }
        let raw: BucketTable = kernel
            .load(table)
            .of(|| format!("its bucket_table {table}"))?;
        if !raw.size.is_power_of_two() || raw.size > 1 << 24 {
            let why = format!("its size is {}", raw.size);
            return Err(Error::broken("bucket_table", table, why));
        }
        // rht_bucket_nested(): pages of buckets, where there was no memory for one piece.
        if raw.nest != 0 {
            let why = format!("the bucket_table at {table} is a nested one");
            return Err(Error::Unsupported(why));
        }
        all.push(Buckets {
            table: SocketTable::Netlink,
            first: table.offset(first),
            count: raw.size.into(),
            stride: 8,
            links: Links::Rhash { node },
        });
        table = raw.future_tbl;
    }
    Err(Error::TooLong {
        what: "list of bucket_tables",
        at: table,
        bound: MAX_TABLES,
    })
}

/// The protocol, port and groups of a socket: what `/proc/net/netlink` has in Eth, Pid and Groups.
pub(super) fn describe(kernel: &Kernel, at: GuestVirt) -> Result<String> {
    let sock: NetlinkSock = kernel.load(at)?;
    let groups = match sock.groups.is_null() {
        true => 0,
        false => kernel
            .read_u32(sock.groups)
            .of(|| format!("its groups {}", sock.groups))?,
    };
    let (name, portid) = (name(sock.protocol.into()), sock.portid);
    Ok(format!("{name} portid {portid} groups {groups:#x}"))
}

fn name(protocol: u64) -> String {
    let known = usize::try_from(protocol)
        .ok()
        .and_then(|at| PROTOCOLS.get(at));
    match known {
        Some(name) if !name.is_empty() => format!("NETLINK_{name}"),
        _ => format!("netlink protocol {protocol}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_have_their_names() {
        let names = [0, 1, 16, 22, 31].map(name);
        let wanted = [
            "NETLINK_ROUTE",
            "netlink protocol 1",
            "NETLINK_GENERIC",
            "NETLINK_SMC",
            "netlink protocol 31",
        ];
        assert_eq!(names, wanted);
    }
}
