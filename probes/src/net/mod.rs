//! Networks: namespaces, devices and sockets (`include/net/net_namespace.h`, `include/linux/netdevice.h`,
//! `include/net/sock.h`).
//!
//! ```no_run
//! # use probes::Guest;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! for socket in guest.sockets()? {
//!     println!("{} {:?} {:?}", socket.state, socket.local, socket.owners);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The tables of sockets are walked without their locks: a socket that is not the same after it was read is read again,
//! with its bucket. Pause the guest for a picture of one instant.

mod details;
mod device;
mod mptcp;
mod namespace;
mod neigh;
pub mod netfilter;
mod netlink;
pub mod packet_type;
mod route;
mod sock;
mod stall;
mod stats;
mod table;
mod view;

pub(crate) use neigh::neighbours;

pub(crate) use route::routes;

pub(crate) use details::net_device;
pub(crate) use stall::stalled_queues;

pub use details::{AllDeviceDetails, DeviceDetails, Napi, TxQueue};
pub use device::{DeviceAddress, NetDevice, NetDevices};
pub use namespace::{NetNamespace, net_namespaces};
pub use neigh::{Neighbour, Neighbours};
pub use route::{NextHop, Route, Routes};
pub use sock::{Owner, Socket, Sockets, TcpState};
pub use stall::StalledQueue;
pub use stats::DeviceStats;
pub use table::SocketTable;

pub use crate::fs::{family, socket_type};

use std::collections::HashMap;

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::{ErrorKind, Missing, Result};

impl Guest {
    /// Finds the tasks that have each `struct sock` open. A task that exits meanwhile is left out.
    fn socket_owners(&self, missing: &mut Vec<Missing>) -> Result<HashMap<GuestVirt, Vec<Owner>>> {
        let mut owners: HashMap<GuestVirt, Vec<Owner>> = HashMap::new();
        for task in self.tasks()?.into_items(missing) {
            if task.kthread {
                continue;
            }
            let files = match self.sockets_of(&task) {
                Ok(files) => files,
                // It has no files any more: it has exited.
                Err(error) if error.kind() == ErrorKind::Absent => continue,
                Err(error) => {
                    let what = format!("open files of task {} ({})", task.pid, task.comm);
                    missing.push(Missing::new(what, &error));
                    continue;
                }
            };
            for one in files.missing {
                let what = format!("task {} ({}), {}", task.pid, task.comm, one.what);
                missing.push(Missing { what, ..one });
            }
            for (fd, sk) in files.items {
                owners.entry(sk).or_default().push(Owner {
                    pid: task.pid,
                    comm: task.comm.clone(),
                    fd,
                });
            }
        }
        Ok(owners)
    }
}

/// The IP, MPTCP, unix, packet, XDP and netlink sockets of all network namespaces, each with the tasks that have it open.
pub(crate) fn sockets(guest: &Guest) -> Result<Sockets> {
    let kernel = guest.kernel()?;
    let namespaces = net_namespaces(&kernel)?;
    let mut sockets = sock::read(&kernel, &namespaces)?;
    let mut missing = namespaces.missing;
    let mut owners = guest.socket_owners(&mut missing)?;
    for socket in sockets.iter_mut() {
        // A socket that no task has open has no entry.
        if let Some(owners) = owners.remove(&socket.at) {
            socket.owners = owners.into();
        }
    }
    sockets.missing.extend(missing);
    Ok(sockets)
}

/// The network devices of all network namespaces, with their addresses.
pub(crate) fn net_devices(kernel: &Kernel) -> Result<NetDevices> {
    let namespaces = net_namespaces(kernel)?;
    let mut devices = device::read(kernel, &namespaces)?;
    devices.missing.extend(namespaces.missing);
    Ok(devices)
}
