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
//! with its whole table. Pause the guest for a picture of one instant.

mod details;
mod device;
mod namespace;
mod neigh;
mod route;
mod sock;
mod stats;
mod table;

pub use details::{AllDeviceDetails, DeviceDetails, Napi, TxQueue};
pub use device::{DeviceAddress, NetDevice, NetDevices};
pub use namespace::{NetNamespace, net_namespaces};
pub use neigh::{Neighbour, Neighbours};
pub use route::{NextHop, Route, Routes};
pub use sock::{Owner, Socket, Sockets, TcpState, family, socket_type};
pub use stats::DeviceStats;
pub use table::SocketTable;

use std::collections::HashMap;

use crate::Result;
use crate::fs::FileKind;
use crate::guest::Guest;
use crate::memory::GuestVirt;

impl Guest {
    /// The network devices of all network namespaces, with their addresses.
    pub fn net_devices(&self) -> Result<NetDevices> {
        let kernel = self.kernel()?;
        device::read(&kernel, &net_namespaces(&kernel)?)
    }

    /// The TCP, UDP, raw, unix and packet sockets of all network namespaces, each with the tasks that have it open.
    pub fn sockets(&self) -> Result<Sockets> {
        let kernel = self.kernel()?;
        let mut sockets = sock::read(&kernel, &net_namespaces(&kernel)?)?;
        let mut owners = self.socket_owners()?;
        for socket in sockets.iter_mut() {
            socket.owners = owners.remove(&socket.at).unwrap_or_default();
        }
        Ok(sockets)
    }

    /// Who has which `struct sock` open. A task that exits meanwhile is left out.
    fn socket_owners(&self) -> Result<HashMap<GuestVirt, Vec<Owner>>> {
        let mut owners: HashMap<GuestVirt, Vec<Owner>> = HashMap::new();
        for task in self.tasks()?.iter().filter(|task| !task.kthread) {
            for file in self.files_of(task).into_iter().flatten() {
                if let FileKind::Socket(socket) = &file.kind {
                    owners.entry(socket.sk).or_default().push(Owner {
                        pid: task.pid,
                        comm: task.comm.clone(),
                        fd: file.fd,
                    });
                }
            }
        }
        Ok(owners)
    }
}
