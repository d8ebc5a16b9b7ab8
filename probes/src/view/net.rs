//! Network devices and sockets.

use super::{Align, Table, View};
use crate::net::{NetDevices, Socket, Sockets, family, socket_type};

/// `IFF_*` worth a word (`include/uapi/linux/if.h`).
const FLAGS: [(u32, &str); 5] = [
    (0x1, "UP"),
    (0x8, "LOOPBACK"),
    (0x40, "RUNNING"),
    (0x100, "PROMISC"),
    (0x1_0000, "LOWER_UP"),
];

impl View for NetDevices {
    fn text(&self) -> String {
        devices(self).text()
    }

    fn html(&self) -> Option<String> {
        devices(self).html()
    }
}

fn devices(devices: &NetDevices) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("NETNS", Right),
        ("IF", Right),
        ("NAME", Left),
        ("NET_DEVICE", Left),
        ("MTU", Right),
        ("FLAGS", Left),
        ("HARDWARE", Left),
        ("QDISC", Left),
        ("TX", Right),
        ("RX", Right),
        ("ADDRESSES", Left),
    ];
    let mut table = Table::new(columns);
    for device in devices.iter() {
        let flags = FLAGS.iter().filter(|(bit, _)| device.flags & bit != 0);
        let hardware: Vec<String> = device
            .address
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let addresses: Vec<String> = device
            .addresses
            .iter()
            .map(|address| format!("{}/{}", address.address, address.prefix))
            .collect();
        table.row([
            device.netns.to_string(),
            device.ifindex.to_string(),
            device.name.clone(),
            device.at.to_string(),
            device.mtu.to_string(),
            flags.map(|(_, name)| *name).collect::<Vec<_>>().join(","),
            hardware.join(":"),
            device.qdisc.clone(),
            device.tx_queues.to_string(),
            device.rx_queues.to_string(),
            addresses.join(" "),
        ]);
    }
    let s = if devices.len() == 1 { "" } else { "s" };
    table.note(format!("{} device{s}", devices.len()));
    table
}

impl View for Sockets {
    fn text(&self) -> String {
        sockets(self).text()
    }

    fn html(&self) -> Option<String> {
        sockets(self).html()
    }
}

fn sockets(sockets: &Sockets) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("NETNS", Right),
        ("FAMILY", Left),
        ("TYPE", Left),
        ("STATE", Left),
        ("RECV", Right),
        ("SEND", Right),
        ("LOCAL", Left),
        ("REMOTE", Left),
        ("UID", Right),
        ("INODE", Right),
        ("SOCK", Left),
        ("OWNERS", Left),
    ];
    let mut table = Table::new(columns);
    for socket in sockets.iter() {
        let (local, remote) = ends(socket);
        let owners: Vec<String> = socket
            .owners
            .iter()
            .map(|owner| format!("{} {} fd {}", owner.pid, owner.comm, owner.fd))
            .collect();
        table.row([
            socket.netns.to_string(),
            family(socket.family),
            socket_type(socket.type_).to_owned(),
            socket.state.to_string(),
            socket.rx_queue.to_string(),
            socket.tx_queue.to_string(),
            local,
            remote,
            socket.uid.to_string(),
            socket.ino.map_or_else(String::new, |ino| ino.to_string()),
            socket.at.to_string(),
            owners.join(", "),
        ]);
    }
    let s = if sockets.len() == 1 { "" } else { "s" };
    table.note(format!("{} socket{s}", sockets.len()));
    table
}

fn ends(socket: &Socket) -> (String, String) {
    match (socket.local, socket.remote) {
        (Some(local), Some(remote)) => (local.to_string(), remote.to_string()),
        _ => (
            socket.name.clone(),
            socket
                .peer
                .map_or_else(String::new, |peer| peer.to_string()),
        ),
    }
}

crate::displays!(NetDevices, Sockets);
