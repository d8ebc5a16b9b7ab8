//! Network namespaces: `struct net` (`net/core/net_namespace.c`).

use serde::Serialize;

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{offset_of, settle_all, whole_list};
use crate::{Error, Listing, Result};

/// Network namespaces that are read at most.
const NAMESPACE_BOUND: usize = 1 << 16;

/// A network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NetNamespace {
    /// Address of its `struct net`.
    pub at: GuestVirt,
    /// Its inode number, as `/proc/PID/ns/net` shows it.
    pub inum: u32,
}

/// All network namespaces, the initial one first: `for_each_net()`.
///
/// # Errors
/// `Absent` on a kernel without networking; `Torn` if the list keeps changing. One that cannot be read is missing of
/// the list.
pub fn net_namespaces(kernel: &Kernel) -> Result<Listing<NetNamespace>> {
    let head = kernel.symbol("net_namespace_list")?;
    let list = offset_of(kernel, "struct net", "list")?;
    let inum = offset_of(kernel, "struct net", "ns.inum")?;
    let what = "the list of network namespaces";
    settle_all(what, || {
        let nodes = whole_list(kernel, head, list, NAMESPACE_BOUND, what);
        let name = |at| format!("the network namespace at {at}");
        Ok(Listing::each(nodes, name, |at| {
            let inum = kernel.read_u32(at.offset(inum))?;
            Ok(Some(NetNamespace { at, inum }))
        }))
    })
}

/// The number of a namespace that is on no list: one that ends still has sockets, neighbours, connections. What it is, its
/// operations tell.
pub(crate) fn ending(kernel: &Kernel, net: GuestVirt) -> Result<u32> {
    let offset = |member| offset_of(kernel, "struct net", member);
    let ops = GuestVirt(kernel.read_u64(net.offset(offset("ns.ops")?))?);
    if ops != kernel.symbol("netns_operations")? {
        let why = format!("it is on no list, and its ns.ops is {ops}");
        return Err(Error::broken("network namespace", net, why));
    }
    kernel.read_u32(net.offset(offset("ns.inum")?))
}
