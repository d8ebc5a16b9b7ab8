//! Network devices and sockets.

use std::net::SocketAddr;

use crate::net::{
    AllDeviceDetails, DeviceDetails, Neighbour, Neighbours, NetDevice, NetDevices, Route, Routes,
    Socket, SocketTable, Sockets, family, socket_type,
};
use crate::view::sections::{Sections, fields};
use crate::view::{Align, Table};

/// `IFF_*` worth a word (`include/uapi/linux/if.h`).
const FLAGS: [(u32, &str); 5] = [
    (0x1, "UP"),
    (0x8, "LOOPBACK"),
    (0x40, "RUNNING"),
    (0x100, "PROMISC"),
    (0x1_0000, "LOWER_UP"),
];

crate::lists! { NetDevice => devices }

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

crate::lists! { Socket => sockets }

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
        let of_mptcp = socket.peer.filter(|_| socket.table.is_ip());
        let owners = match of_mptcp {
            Some(socket) => format!("subflow of {socket}"),
            None => owners.join(", "),
        };
        table.row([
            socket.netns.to_string(),
            family(socket.family),
            kind(socket),
            socket.state.to_string(),
            number(socket.rx_queue),
            number(socket.tx_queue),
            local,
            remote,
            number(socket.uid),
            number(socket.ino),
            socket.at.to_string(),
            owners,
        ]);
    }
    let s = if sockets.len() == 1 { "" } else { "s" };
    table.note(format!(
        "{} socket{s} of TCP, MPTCP, UDP, raw IP, ping, unix, packets, XDP and netlink; not listed: other families (vsock, ALG, ..), IP sockets without a port, and MPTCP sockets that are neither connected nor listen (the open files of a task have all of its sockets)",
        sockets.len()
    ));
    table
}

/// The type, with the protocol where that is another than the one that the type alone means.
fn kind(socket: &Socket) -> String {
    let protocol = match socket.table {
        SocketTable::Mptcp => " MPTCP",
        SocketTable::Ping => " ICMP",
        _ => "",
    };
    format!("{}{protocol}", socket_type(socket.type_))
}

/// Nothing where the kernel keeps no such number.
fn number<T: std::fmt::Display>(number: Option<T>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}

/// Both ends; the device stands where `ss` has it: `127.0.0.1%lo:22`.
fn ends(socket: &Socket) -> (String, String) {
    match (socket.local, socket.remote) {
        (Some(local), Some(remote)) => {
            let local = match (&socket.device, local) {
                (None, local) => local.to_string(),
                (Some(device), SocketAddr::V4(at)) => {
                    format!("{}%{device}:{}", at.ip(), at.port())
                }
                (Some(device), SocketAddr::V6(at)) => {
                    format!("[{}]%{device}:{}", at.ip(), at.port())
                }
            };
            (local, remote.to_string())
        }
        _ => (
            socket.name.clone(),
            socket
                .peer
                .map_or_else(String::new, |peer| peer.to_string()),
        ),
    }
}

crate::lists! {
    DeviceDetails => details,
    Route => routes,
    Neighbour => neighbours,
}

fn hardware(address: &[u8]) -> String {
    let bytes: Vec<String> = address.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

fn details(all: &AllDeviceDetails) -> Sections {
    use Align::{Left, Right};
    let mut sections = Vec::new();
    for one in all.iter() {
        let device = &one.device;
        let mut rows = vec![
            ("net_device", device.at.to_string()),
            ("namespace", device.netns.to_string()),
            ("kind", one.kind.clone()),
            ("functions", one.ops.clone()),
            ("hardware", hardware(&device.address)),
            ("state", one.operstate.to_owned()),
            ("carrier changes", one.carrier_changes.to_string()),
            (
                "queues",
                format!(
                    "{} to send, {} packets each; {} to receive",
                    one.tx.len(),
                    one.tx_queue_len,
                    one.rx.len()
                ),
            ),
            ("features", one.features.join(" ")),
        ];
        match &one.stats {
            Some(stats) => {
                let counted = [
                    (
                        "received",
                        (stats.rx_packets, stats.rx_bytes),
                        (stats.rx_errors, stats.rx_dropped),
                    ),
                    (
                        "sent",
                        (stats.tx_packets, stats.tx_bytes),
                        (stats.tx_errors, stats.tx_dropped),
                    ),
                ];
                for (name, (packets, bytes), (errors, dropped)) in counted {
                    rows.push((
                        name,
                        format!(
                            "{packets} packets, {bytes} bytes, {errors} errors, {dropped} dropped"
                        ),
                    ));
                }
                rows.push(("counted by", one.stats_by.clone()));
            }
            None => rows.push((
                "counted by",
                format!("{}, which is not known here", one.stats_by),
            )),
        }
        rows.retain(|(_, text)| !text.is_empty());
        sections.push((device.name.clone(), fields(rows)));
        let mut queues = Table::new([
            ("TX", Right),
            ("QDISC", Left),
            ("HANDLE", Left),
            ("PACKETS", Right),
            ("BYTES", Right),
            ("DROPPED", Right),
            ("STOPPED BY", Left),
            ("NETDEV_QUEUE", Left),
        ]);
        for (i, queue) in one.tx.iter().enumerate() {
            queues.row([
                i.to_string(),
                queue.qdisc.clone(),
                format!("{:x}:", queue.handle >> 16),
                queue.qlen.to_string(),
                queue.backlog.to_string(),
                queue.drops.to_string(),
                queue.stopped.join(", "),
                queue.at.to_string(),
            ]);
        }
        sections.push((format!("{}: queues", device.name), queues));
        if !one.napi.is_empty() {
            let mut napi = Table::new([
                ("NAPI", Right),
                ("POLL", Left),
                ("WEIGHT", Right),
                ("STATE", Left),
                ("THREAD", Right),
                ("NAPI_STRUCT", Left),
            ]);
            for poller in &one.napi {
                napi.row([
                    poller.id.to_string(),
                    poller.poll.clone(),
                    poller.weight.to_string(),
                    poller.state.join(" "),
                    poller
                        .thread
                        .map_or_else(String::new, |pid| pid.to_string()),
                    poller.at.to_string(),
                ]);
            }
            sections.push((format!("{}: NAPI", device.name), napi));
        }
    }
    Sections(sections)
}

/// A table's name in `/etc/iproute2/rt_tables`.
fn table_name(table: u32) -> String {
    match table {
        255 => "local".to_owned(),
        254 => "main".to_owned(),
        253 => "default".to_owned(),
        other => other.to_string(),
    }
}

/// `RTPROT_*` and `RT_SCOPE_*` as `ip route` has them.
fn protocol(protocol: u8) -> String {
    match protocol {
        0 => "unspec".to_owned(),
        1 => "redirect".to_owned(),
        2 => "kernel".to_owned(),
        3 => "boot".to_owned(),
        4 => "static".to_owned(),
        9 => "ra".to_owned(),
        16 => "dhcp".to_owned(),
        other => other.to_string(),
    }
}

fn scope(scope: u8) -> String {
    match scope {
        0 => "global".to_owned(),
        200 => "site".to_owned(),
        253 => "link".to_owned(),
        254 => "host".to_owned(),
        255 => "nowhere".to_owned(),
        other => other.to_string(),
    }
}

fn routes(routes: &Routes) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("NETNS", Right),
        ("TABLE", Left),
        ("TYPE", Left),
        ("DESTINATION", Left),
        ("VIA", Left),
        ("DEV", Left),
        ("SOURCE", Left),
        ("METRIC", Right),
        ("BY", Left),
        ("SCOPE", Left),
        ("", Left),
        ("FIB_INFO", Left),
    ]);
    for route in routes.iter() {
        let ways: Vec<String> = route
            .ways
            .iter()
            .filter_map(|way| way.gateway.map(|gateway| gateway.to_string()))
            .collect();
        let mut devices: Vec<&str> = route.ways.iter().map(|way| way.dev.as_str()).collect();
        devices.dedup();
        let mut flags: Vec<String> = route
            .ways
            .iter()
            .flat_map(|way| way.flags.iter().map(|flag| (*flag).to_owned()))
            .collect();
        flags.extend(route.nexthop.map(|id| format!("nexthop {id}")));
        table.row([
            route.netns.to_string(),
            table_name(route.table),
            route.kind.to_owned(),
            format!("{}/{}", route.destination, route.prefix),
            ways.join(" "),
            devices.join(" "),
            route.source.map_or_else(String::new, |at| at.to_string()),
            route.metric.to_string(),
            protocol(route.protocol),
            route.scope.map_or_else(String::new, scope),
            flags.join(" "),
            route.at.to_string(),
        ]);
    }
    let s = if routes.len() == 1 { "" } else { "s" };
    table.note(format!("{} route{s}", routes.len()));
    table
}

fn neighbours(neighbours: &Neighbours) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("NETNS", Right),
        ("DEV", Left),
        ("ADDRESS", Left),
        ("HARDWARE", Left),
        ("STATE", Left),
        ("NEIGHBOUR", Left),
    ]);
    for one in neighbours.iter() {
        table.row([
            one.netns.to_string(),
            one.dev.clone(),
            one.address.to_string(),
            hardware(&one.hardware),
            one.state.to_owned(),
            one.at.to_string(),
        ]);
    }
    let s = if neighbours.len() == 1 { "" } else { "s" };
    table.note(format!("{} neighbour{s}", neighbours.len()));
    table
}
