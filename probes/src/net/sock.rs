//! Sockets: `struct sock` (`include/net/sock.h`), with what `/proc/net/tcp` and its like say of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

use super::NetNamespace;
use super::table::{self, SocketTable};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{offset_of, settle};
use crate::{Listing, Result, text_of};

/// `AF_INET6` of `include/linux/socket.h`.
const AF_INET6: u16 = 10;
/// `SOCK_STREAM` of `include/linux/net.h`.
const SOCK_STREAM: u16 = 1;
/// The longest name of a unix socket: `sizeof(sun_path)`.
const UNIX_PATH_MAX: usize = 108;

/// A task that has a socket open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// The task.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Its descriptor.
    pub fd: u32,
}

/// `sk_state`: `TCP_*` of `include/net/tcp_states.h`; sockets that are not TCP's use some of them too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct TcpState(pub u8);

impl TcpState {
    /// The name without `TCP_`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            1 => "ESTABLISHED",
            2 => "SYN_SENT",
            3 => "SYN_RECV",
            4 => "FIN_WAIT1",
            5 => "FIN_WAIT2",
            6 => "TIME_WAIT",
            7 => "CLOSE",
            8 => "CLOSE_WAIT",
            9 => "LAST_ACK",
            10 => "LISTEN",
            11 => "CLOSING",
            12 => "NEW_SYN_RECV",
            13 => "BOUND_INACTIVE",
            _ => "?",
        }
    }

    /// Whether it is a whole `struct sock`: `sk_fullsock()`. The others are a `sock_common` and little more.
    const fn is_full(self) -> bool {
        !matches!(self.0, 6 | 12)
    }
}

impl std::fmt::Display for TcpState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Socket {
    /// Where its `struct sock` lies.
    pub at: GuestVirt,
    /// Which table it was found in.
    pub table: SocketTable,
    /// `AF_*`
    pub family: u16,
    /// `SOCK_*`; 0 of a TCP socket that only waits, or is only being asked for.
    #[serde(rename = "type")]
    pub type_: u16,
    /// Its state.
    pub state: TcpState,
    /// Its own end, of an IP socket; the port of a raw socket is its protocol.
    pub local: Option<SocketAddr>,
    /// The other end, of an IP socket; zeros without one.
    pub remote: Option<SocketAddr>,
    /// Of a unix socket its name, `@` for each NUL; of a packet socket the protocol and device it takes.
    pub name: String,
    /// Of a unix socket, the `sock` of the other end.
    pub peer: Option<GuestVirt>,
    /// Bytes that wait to be read; connections that wait to be accepted, where it listens.
    pub rx_queue: u32,
    /// Bytes that wait to be sent or acknowledged.
    pub tx_queue: u32,
    /// The user it belongs to.
    pub uid: u32,
    /// Its inode's number; `None` without a file.
    pub ino: Option<u64>,
    /// The inode number of its network namespace.
    pub netns: u32,
    /// The tasks that have it open.
    pub owners: Vec<Owner>,
}

/// Sockets, table by table.
pub type Sockets = Listing<Socket>;

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct sock_common")]
struct Common {
    skc_family: u16,
    skc_state: u8,
    skc_daddr: u32,
    skc_rcv_saddr: u32,
    skc_dport: u16,
    skc_num: u16,
    #[mirror(member = "skc_net.net")]
    net: GuestVirt,
    /// Not there without CONFIG_IPV6.
    #[mirror(member = "skc_v6_daddr.in6_u.u6_addr8")]
    v6_daddr: Option<[u8; 16]>,
    #[mirror(member = "skc_v6_rcv_saddr.in6_u.u6_addr8")]
    v6_rcv_saddr: Option<[u8; 16]>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct sock")]
struct Sock {
    sk_type: u16,
    #[mirror(member = "sk_uid.val")]
    sk_uid: u32,
    sk_socket: GuestVirt,
    sk_ack_backlog: u32,
    #[mirror(member = "sk_backlog.rmem_alloc.counter")]
    rmem_alloc: u32,
    #[mirror(member = "sk_wmem_alloc.refs.counter")]
    wmem_alloc: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct tcp_sock")]
struct TcpSock {
    rcv_nxt: u32,
    copied_seq: u32,
    write_seq: u32,
    snd_una: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct udp_sock")]
struct UdpSock {
    forward_deficit: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct unix_sock")]
struct UnixSock {
    addr: GuestVirt,
    peer: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct packet_sock")]
struct PacketSock {
    ifindex: i32,
    num: u16,
}

/// The sockets of these namespaces, without their owners.
pub(super) fn read(kernel: &Kernel, namespaces: &[NetNamespace]) -> Result<Sockets> {
    let common = Plan::<Common>::new(kernel)?;
    let mut all = Vec::new();
    for buckets in table::all(kernel, namespaces)? {
        let what = format!("the table of {:?} sockets", buckets.table);
        let found: Vec<Socket> = settle(&what, || {
            let mut found = Vec::new();
            for at in buckets.socks(kernel)? {
                let raw = common.load(at)?;
                let Some(net) = namespaces.iter().find(|net| net.at == raw.net) else {
                    return Ok(None);
                };
                found.push(socket(kernel, buckets.table, net, at, &raw)?);
                if common.load(at)? != raw {
                    return Ok(None);
                }
            }
            Ok(Some(found))
        })?;
        all.extend(found);
    }
    Ok(Listing::from(all))
}

fn socket(
    kernel: &Kernel,
    table: SocketTable,
    net: &NetNamespace,
    at: GuestVirt,
    raw: &Common,
) -> Result<Socket> {
    let is_ip = !matches!(table, SocketTable::Unix | SocketTable::Packet);
    let ends = is_ip.then(|| ends(raw));
    let mut socket = Socket {
        at,
        table,
        family: raw.skc_family,
        // A request or a socket that only waits is no whole one; TCP alone has those.
        type_: SOCK_STREAM,
        state: TcpState(raw.skc_state),
        local: ends.map(|ends| ends.0),
        remote: ends.map(|ends| ends.1),
        name: String::new(),
        peer: None,
        rx_queue: 0,
        tx_queue: 0,
        uid: 0,
        ino: None,
        netns: net.inum,
        owners: Vec::new(),
    };
    if !socket.state.is_full() {
        return Ok(socket);
    }
    let sock: Sock = kernel.load(at)?;
    socket.type_ = sock.sk_type;
    socket.uid = sock.sk_uid;
    if !sock.sk_socket.is_null() {
        let ino = offset_of(kernel, "struct socket_alloc", "vfs_inode.i_ino")?;
        socket.ino = Some(kernel.read_u64(sock.sk_socket.offset(ino))?);
    }
    socket.rx_queue = sock.rmem_alloc;
    // sk_wmem_alloc_get(): the socket itself holds one.
    socket.tx_queue = sock.wmem_alloc.saturating_sub(1);
    match table {
        // get_tcp4_sock() of net/ipv4/tcp_ipv4.c
        SocketTable::Listen => (socket.rx_queue, socket.tx_queue) = (sock.sk_ack_backlog, 0),
        SocketTable::Tcp => {
            let tcp: TcpSock = kernel.load(at)?;
            let waits = tcp.rcv_nxt.wrapping_sub(tcp.copied_seq);
            socket.rx_queue = if waits as i32 > 0 { waits } else { 0 };
            socket.tx_queue = tcp.write_seq.wrapping_sub(tcp.snd_una);
        }
        // udp_rqueue_get()
        SocketTable::Udp => {
            let deficit = kernel.load::<UdpSock>(at)?.forward_deficit;
            socket.rx_queue = sock.rmem_alloc.wrapping_sub(deficit);
        }
        SocketTable::Raw => {}
        SocketTable::Unix => {
            let unix: UnixSock = kernel.load(at)?;
            socket.name = unix_name(kernel, unix.addr)?;
            socket.peer = (!unix.peer.is_null()).then_some(unix.peer);
        }
        SocketTable::Packet => {
            let packet: PacketSock = kernel.load(at)?;
            let protocol = packet.num.swap_bytes();
            socket.name = format!("protocol {protocol:#06x} device {}", packet.ifindex);
        }
    }
    Ok(socket)
}

/// Both ends of an IP socket. Addresses and the other end's port are in network byte order, its own port is not.
fn ends(raw: &Common) -> (SocketAddr, SocketAddr) {
    let v4 = |address: u32| IpAddr::V4(Ipv4Addr::from(address.to_le_bytes()));
    let addresses = match (raw.v6_rcv_saddr, raw.v6_daddr) {
        (Some(local), Some(remote)) if raw.skc_family == AF_INET6 => (
            IpAddr::V6(Ipv6Addr::from(local)),
            IpAddr::V6(Ipv6Addr::from(remote)),
        ),
        _ => (v4(raw.skc_rcv_saddr), v4(raw.skc_daddr)),
    };
    (
        SocketAddr::new(addresses.0, raw.skc_num),
        SocketAddr::new(addresses.1, raw.skc_dport.swap_bytes()),
    )
}

/// The name of a unix socket as `/proc/net/unix` prints it: `@` for each NUL, so also for the first of an abstract name.
/// An `@` that is none is a byte, [`text_of`]'s way, where it could be taken for one.
fn unix_name(kernel: &Kernel, address: GuestVirt) -> Result<String> {
    if address.is_null() {
        return Ok(String::new());
    }
    let len = kernel.read_u32(address.offset(offset_of(kernel, "struct unix_address", "len")?))?;
    let path = offset_of(kernel, "struct sockaddr_un", "sun_path")?;
    let mut name = vec![0; (u64::from(len).saturating_sub(path) as usize).min(UNIX_PATH_MAX)];
    let at = address.offset(offset_of(kernel, "struct unix_address", "name")? + path);
    kernel.read(at, &mut name)?;
    // A path ends with its NUL, an abstract name with its length.
    if name.first() != Some(&0) {
        let end = name.iter().position(|byte| *byte == 0);
        name.truncate(end.unwrap_or(name.len()));
    }
    Ok(unix_text(&name))
}

fn unix_text(name: &[u8]) -> String {
    let text = text_of(name);
    match (text.contains('\0'), text.strip_prefix('@')) {
        (true, _) => text.replace('@', "\\x40").replace('\0', "@"),
        (false, Some(rest)) => format!("\\x40{rest}"),
        (false, None) => text,
    }
}

/// The name of an `AF_*` of `include/linux/socket.h`, without `AF_`.
#[must_use]
pub fn family(family: u16) -> String {
    let name = match family {
        1 => "UNIX",
        2 => "INET",
        10 => "INET6",
        16 => "NETLINK",
        17 => "PACKET",
        38 => "ALG",
        40 => "VSOCK",
        other => return other.to_string(),
    };
    name.to_owned()
}

/// The name of a `SOCK_*` of `include/linux/net.h`, without `SOCK_`.
#[must_use]
pub const fn socket_type(type_: u16) -> &'static str {
    match type_ {
        1 => "STREAM",
        2 => "DGRAM",
        3 => "RAW",
        4 => "RDM",
        5 => "SEQPACKET",
        10 => "PACKET",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_unix_sockets_are_told_apart() {
        let texts = [
            &b"\0name"[..],
            b"@name",
            b"\0na@me",
            b"\0na\0me",
            b"/run/a@b",
        ]
        .map(unix_text);
        let wanted = ["@name", "\\x40name", "@na\\x40me", "@na@me", "/run/a@b"];
        assert_eq!(texts, wanted);
    }

    #[test]
    fn ends_are_in_the_byte_order_that_people_write() {
        let raw = Common {
            skc_family: 2,
            skc_state: 1,
            // 127.0.0.1 and 10.0.2.15, as they lie in memory.
            skc_rcv_saddr: u32::from_le_bytes([127, 0, 0, 1]),
            skc_daddr: u32::from_le_bytes([10, 0, 2, 15]),
            skc_num: 8080,
            skc_dport: 443_u16.to_be(),
            net: GuestVirt(0),
            v6_daddr: None,
            v6_rcv_saddr: None,
        };
        let (local, remote) = ends(&raw);
        assert_eq!(local.to_string(), "127.0.0.1:8080");
        assert_eq!(remote.to_string(), "10.0.2.15:443");
    }
}
