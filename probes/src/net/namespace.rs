//! Network namespaces: `struct net` (`net/core/net_namespace.c`).

use serde::Serialize;

use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{list_for_each_entry, offset_of, settle};

/// Network namespaces that are read at most.
const NAMESPACE_BOUND: usize = 1 << 16;

/// A network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NetNamespace {
    /// Where its `struct net` lies.
    pub at: GuestVirt,
    /// Its inode number, as `/proc/PID/ns/net` shows it.
    pub inum: u32,
}

/// All network namespaces, the initial one first: `for_each_net()`.
pub fn net_namespaces(kernel: &Kernel) -> Result<Vec<NetNamespace>> {
    let head = kernel.symbol("net_namespace_list")?;
    let list = offset_of(kernel, "struct net", "list")?;
    let inum = offset_of(kernel, "struct net", "ns.inum")?;
    let read = || -> Result<Vec<NetNamespace>> {
        list_for_each_entry(kernel, head, list)
            .bound(NAMESPACE_BOUND)
            .map(|at| {
                let at = at?;
                let inum = kernel.read_u32(at.offset(inum))?;
                Ok(NetNamespace { at, inum })
            })
            .collect()
    };
    settle("the list of network namespaces", || {
        let namespaces = read()?;
        Ok((read()? == namespaces).then_some(namespaces))
    })
}
