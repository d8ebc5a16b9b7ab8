//! Sockets: `struct sock` (`include/net/sock.h`), with what `/proc/net/tcp` and its like say of them.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

use super::namespace::ending;
use super::table::{self, Buckets, SocketTable};
use super::{NetNamespace, device, mptcp, netlink};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{list_for_each_entry, offset_of, settle, settle_all};
use crate::{Error, Listing, Of as _, Result, text_of};

/// `AF_INET6` of `include/linux/socket.h`.
const AF_INET6: u16 = 10;
/// `SOCK_STREAM` of `include/linux/net.h`.
const SOCK_STREAM: u16 = 1;
/// `SOCK_SEQPACKET`
const SOCK_SEQPACKET: u16 = 5;
// include/net/tcp_states.h
const TCP_TIME_WAIT: u8 = 6;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;
const TCP_NEW_SYN_RECV: u8 = 12;
/// Packets of one queue that are walked at most.
const QUEUE_BOUND: usize = 1 << 20;
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
}

impl std::fmt::Display for TcpState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Socket {
    /// Address of its `struct sock`.
    pub at: GuestVirt,
    /// Table that it was found in.
    pub table: SocketTable,
    /// `AF_*`
    pub family: u16,
    /// `SOCK_*`
    #[serde(rename = "type")]
    pub type_: u16,
    /// Its state. Of a TCP socket that only waits, that for which it waits: `tw_substate`.
    pub state: TcpState,
    /// Its own end, of an IP socket; the port of a raw socket is its protocol.
    pub local: Option<SocketAddr>,
    /// The other end, of an IP socket; zeros without one.
    pub remote: Option<SocketAddr>,
    /// Name of a unix socket, `@` for each NUL; protocol and device of a packet socket; device and queue of an XDP
    /// socket; protocol, port and groups of a netlink socket.
    pub name: String,
    /// `struct sock` of the other end of a unix socket; of a subflow that of its MPTCP socket.
    pub peer: Option<GuestVirt>,
    /// The device it is bound to, by name; the device of its address, if that is a link-local one.
    pub device: Option<String>,
    /// Bytes that wait to be read; connections that wait to be accepted, where it listens. `None` where the kernel keeps
    /// no queues: of a TCP socket that only waits, or is only being asked for.
    pub rx_queue: Option<u32>,
    /// Bytes that wait to be sent or acknowledged.
    pub tx_queue: Option<u32>,
    /// The user it belongs to; of a TCP socket that is only being asked for, that of the one that listens. `None` of one
    /// that only waits: it is nobody's any more.
    pub uid: Option<u32>,
    /// Its inode's number; `None` without a file.
    pub ino: Option<u64>,
    /// The inode number of its network namespace.
    pub netns: u32,
    /// The tasks that have it open.
    pub owners: Box<[Owner]>,
}

/// Sockets, table by table. Those of other families (vsock, ALG, ..), IP sockets without a port, and MPTCP sockets that are
/// neither connected nor listen are in none of these tables; the [open files](crate::Guest::files) of a task have all of its
/// sockets.
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
    skc_bound_dev_if: i32,
    #[mirror(member = "skc_net.net")]
    net: GuestVirt,
    /// Absent without CONFIG_IPV6.
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

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct sk_buff_head")]
struct SkBuffHead {
    next: GuestVirt,
    qlen: u32,
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
    /// Bytes of a stream that wait; older kernels count them when they are asked.
    inq_len: Option<u32>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct xdp_sock")]
struct XdpSock {
    dev: GuestVirt,
    queue_id: u16,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct packet_sock")]
struct PacketSock {
    ifindex: i32,
    num: u16,
}

/// The sockets of these namespaces, without their owners.
pub(super) fn read(kernel: &Kernel, namespaces: &[NetNamespace]) -> Result<Sockets> {
    let reader = Reader::new(kernel, namespaces)?;
    let tables = table::all(kernel, namespaces);
    let mut all = Sockets::new();
    all.missing = tables.missing;
    for buckets in tables.items {
        // Place of each one in the list, and its bucket.
        let mut met: HashMap<GuestVirt, (usize, u64)> = HashMap::new();
        for bucket in 0..buckets.count {
            let at = buckets.head(bucket);
            let what = format!("bucket {bucket} of the {:?} sockets at {at}", buckets.table);
            let found = match settle_all(&what, || reader.bucket(&buckets, bucket)) {
                Ok(found) => found,
                Err(error) => {
                    all.miss(what, &error);
                    continue;
                }
            };
            all.missing.extend(found.missing);
            for socket in found.items {
                let Some(&(index, other)) = met.get(&socket.at) else {
                    met.insert(socket.at, (all.len(), bucket));
                    all.items.push(socket);
                    continue;
                };
                let still = buckets.socks(kernel, other)?.contains(&socket.at)
                    && buckets.socks(kernel, bucket)?.contains(&socket.at);
                if still {
                    let why = format!("it is in bucket {other} and in bucket {bucket}");
                    let error = Error::broken("table of sockets", socket.at, why);
                    all.miss(format!("sock {}", socket.at), &error);
                } else {
                    // Freed and used again meanwhile: the later one is there.
                    all.items[index] = socket;
                }
            }
        }
    }
    reader.listening_mptcp(&mut all);
    Ok(all)
}

/// Layouts for reading the sockets of all tables.
struct Reader<'k> {
    kernel: &'k Kernel,
    common: Plan<Common>,
    sock: Plan<Sock>,
    namespaces: HashMap<GuestVirt, u32>,
    /// The devices' names, by namespace and number. One that cannot be read is shown by its number.
    devices: HashMap<(u32, i32), String>,
}

impl<'k> Reader<'k> {
    fn new(kernel: &'k Kernel, namespaces: &[NetNamespace]) -> Result<Self> {
        let devices = device::read(kernel, namespaces)?;
        Ok(Self {
            kernel,
            common: Plan::new(kernel)?,
            sock: Plan::new(kernel)?,
            namespaces: namespaces.iter().map(|net| (net.at, net.inum)).collect(),
            devices: devices
                .into_iter()
                .map(|device| ((device.netns, device.ifindex), device.name))
                .collect(),
        })
    }

    /// `None` if the bucket or a socket of it changed.
    fn bucket(&self, buckets: &Buckets, bucket: u64) -> Result<Option<Sockets>> {
        let socks = buckets.socks(self.kernel, bucket)?;
        if socks.is_empty() && socks.is_whole() {
            return Ok(Some(Sockets::new()));
        }
        let mut found = Sockets::new();
        for at in &socks.items {
            match self.one(buckets.table, *at) {
                Ok(Some(Some(socket))) => found.items.push(socket),
                Ok(Some(None)) => {}
                Ok(None) => return Ok(None),
                Err(error) => found.miss(format!("sock {at}"), &error),
            }
        }
        let same = buckets.socks(self.kernel, bucket)? == socks;
        found.missing.extend(socks.missing);
        Ok(same.then_some(found))
    }

    /// `None` if it changed; nothing of a socket that another table has.
    fn one(&self, table: SocketTable, at: GuestVirt) -> Result<Option<Option<Socket>>> {
        let raw = self.common.load(at)?;
        // inet_diag_dump_icsk() of net/ipv4/inet_diag.c: of those with a port, those that do nothing with it.
        if table == SocketTable::Bound && (raw.skc_state != TCP_CLOSE || raw.skc_num == 0) {
            return Ok(Some(None));
        }
        let netns = match self.namespaces.get(&raw.net) {
            Some(inum) => *inum,
            None => {
                ending(self.kernel, raw.net).of(|| format!("its network namespace {}", raw.net))?
            }
        };
        let socket = self.socket(table, netns, at, &raw)?;
        Ok((self.common.load(at)? == raw).then_some(Some(socket)))
    }

    fn socket(
        &self,
        table: SocketTable,
        netns: u32,
        at: GuestVirt,
        raw: &Common,
    ) -> Result<Socket> {
        let kernel = self.kernel;
        let is_ip = table.is_ip();
        let ends = is_ip.then(|| ends(raw));
        let device = (is_ip && raw.skc_bound_dev_if != 0).then(|| {
            let known = self.devices.get(&(netns, raw.skc_bound_dev_if));
            known.map_or_else(|| raw.skc_bound_dev_if.to_string(), Clone::clone)
        });
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
            device,
            rx_queue: None,
            tx_queue: None,
            uid: None,
            ino: None,
            netns,
            owners: Box::default(),
        };
        match socket.state {
            TcpState(TCP_TIME_WAIT) => {
                let state = offset_of(kernel, "struct inet_timewait_sock", "tw_substate")?;
                let mut byte = [0];
                kernel
                    .read(at.offset(state), &mut byte)
                    .of(|| "its tw_substate")?;
                socket.state = TcpState(byte[0]);
                return Ok(socket);
            }
            TcpState(TCP_NEW_SYN_RECV) => {
                let listener = offset_of(kernel, "struct sock_common", "skc_listener")?;
                let listener = GuestVirt(kernel.read_u64(at.offset(listener))?);
                // NULL for a request by a SYN cookie: there was no listener to hold.
                if !listener.is_null() {
                    let listener = self
                        .sock
                        .load(listener)
                        .of(|| format!("its rsk_listener {listener}"))?;
                    socket.uid = Some(listener.sk_uid);
                }
                return Ok(socket);
            }
            _ => {}
        }
        let sock = self.sock.load(at)?;
        socket.type_ = sock.sk_type;
        socket.uid = Some(sock.sk_uid);
        if !sock.sk_socket.is_null() {
            let ino = offset_of(kernel, "struct socket_alloc", "vfs_inode.i_ino")?;
            let ino = kernel
                .read_u64(sock.sk_socket.offset(ino))
                .of(|| format!("its sk_socket {}", sock.sk_socket))?;
            socket.ino = Some(ino);
        }
        let mut rx_queue = sock.rmem_alloc;
        // sk_wmem_alloc_get(): the socket itself holds one.
        let mut tx_queue = sock.wmem_alloc.saturating_sub(1);
        match table {
            // get_tcp4_sock() of net/ipv4/tcp_ipv4.c
            SocketTable::Listen => (rx_queue, tx_queue) = (sock.sk_ack_backlog, 0),
            SocketTable::Tcp | SocketTable::Bound => {
                let tcp: TcpSock = kernel.load(at)?;
                let waits = tcp.rcv_nxt.wrapping_sub(tcp.copied_seq);
                rx_queue = if waits as i32 > 0 { waits } else { 0 };
                tx_queue = tcp.write_seq.wrapping_sub(tcp.snd_una);
            }
            // udp_rqueue_get()
            SocketTable::Udp => {
                let deficit = kernel.load::<UdpSock>(at)?.forward_deficit;
                rx_queue = sock.rmem_alloc.wrapping_sub(deficit);
            }
            SocketTable::Raw | SocketTable::Ping => {}
            // mptcp_diag_get_info(): `ss` has the connections that wait, where it listens.
            SocketTable::Mptcp if raw.skc_state == TCP_LISTEN => {
                (rx_queue, tx_queue) = (sock.sk_ack_backlog, 0);
            }
            SocketTable::Mptcp => {}
            SocketTable::Netlink => socket.name = netlink::describe(kernel, at)?,
            SocketTable::Xdp => socket.name = self.xdp(netns, at)?,
            SocketTable::Unix => {
                let unix: UnixSock = kernel.load(at)?;
                socket.name =
                    unix_name(kernel, unix.addr).of(|| format!("its addr {}", unix.addr))?;
                socket.peer = (!unix.peer.is_null()).then_some(unix.peer);
                let listens = raw.skc_state == TCP_LISTEN;
                rx_queue =
                    unix_queue(kernel, at, &sock, &unix, listens).of(|| "its sk_receive_queue")?;
            }
            SocketTable::Packet => {
                let packet: PacketSock = kernel.load(at)?;
                let protocol = packet.num.swap_bytes();
                socket.name = format!("protocol {protocol:#06x} device {}", packet.ifindex);
            }
        }
        if matches!(table, SocketTable::Tcp | SocketTable::Listen) {
            socket.peer = mptcp::of_subflow(kernel, at).of(|| "its icsk_ulp_data")?;
        }
        (socket.rx_queue, socket.tx_queue) = (Some(rx_queue), Some(tx_queue));
        Ok(socket)
    }

    /// The device and the queue that an XDP socket is bound to.
    fn xdp(&self, netns: u32, at: GuestVirt) -> Result<String> {
        let xdp: XdpSock = self.kernel.load(at)?;
        if xdp.dev.is_null() {
            return Ok("no device".to_owned());
        }
        let ifindex = offset_of(self.kernel, "struct net_device", "ifindex")?;
        let ifindex = self.kernel.read_u32(xdp.dev.offset(ifindex));
        let ifindex = ifindex.of(|| format!("its dev {}", xdp.dev))? as i32;
        let known = self.devices.get(&(netns, ifindex));
        let device = known.map_or_else(|| ifindex.to_string(), Clone::clone);
        Ok(format!("device {device} queue {}", xdp.queue_id))
    }

    /// MPTCP sockets that are in no table, and have a subflow that listens.
    fn listening_mptcp(&self, all: &mut Sockets) {
        let of = |socket: &Socket| socket.peer.filter(|_| socket.table == SocketTable::Listen);
        let mut wanted: Vec<GuestVirt> = all.iter().filter_map(of).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let known: HashSet<GuestVirt> = all.iter().map(|socket| socket.at).collect();
        wanted.retain(|at| !known.contains(at));
        for at in wanted {
            let what = format!("the MPTCP sock {at}");
            match settle(&what, || self.one(SocketTable::Mptcp, at)) {
                Ok(socket) => all.items.extend(socket),
                Err(error) => all.miss(what, &error),
            }
        }
    }
}

/// Reads the queue of a unix socket: sent bytes are charged to the sender, so the receiver counts none. The connections
/// of one that listens (`unix_diag_show`), all bytes of a stream, the first datagram: `unix_inq_len()` of `net/unix/af_unix.c`.
fn unix_queue(
    kernel: &Kernel,
    at: GuestVirt,
    sock: &Sock,
    unix: &UnixSock,
    listens: bool,
) -> Result<u32> {
    let head = at.offset(offset_of(kernel, "struct sock", "sk_receive_queue")?);
    let queue: SkBuffHead = kernel.load(head)?;
    if listens {
        return Ok(queue.qlen);
    }
    match (sock.sk_type, unix.inq_len) {
        (SOCK_STREAM, Some(len)) => return Ok(len),
        _ if queue.qlen == 0 && queue.next == head => return Ok(0),
        _ => {}
    }
    let len = offset_of(kernel, "struct sk_buff", "len")?;
    if !matches!(sock.sk_type, SOCK_STREAM | SOCK_SEQPACKET) {
        return kernel.read_u32(queue.next.offset(len));
    }
    // UNIXCB()
    let consumed = offset_of(kernel, "struct sk_buff", "cb")?
        + offset_of(kernel, "struct unix_skb_parms", "consumed")?;
    let (mut bytes, mut seen) = (0_u32, 0);
    for skb in list_for_each_entry(kernel, head, 0).bound(QUEUE_BOUND) {
        let skb = skb?;
        let left = kernel
            .read_u32(skb.offset(len))?
            .wrapping_sub(kernel.read_u32(skb.offset(consumed))?);
        bytes = bytes.wrapping_add(left);
        seen += 1;
    }
    if seen != queue.qlen {
        let why = format!("it has {seen} packets, its qlen says {}", queue.qlen);
        return Err(Error::broken("queue of packets", head, why));
    }
    Ok(bytes)
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
    // A path that fills sun_path has its NUL behind it.
    let room = u64::from(len)
        .checked_sub(path)
        .and_then(|len| usize::try_from(len).ok())
        .filter(|len| *len <= UNIX_PATH_MAX + 1);
    let Some(room) = room else {
        let why = format!("its len is {len}");
        return Err(Error::broken("unix_address", address, why));
    };
    let mut name = vec![0; room];
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
            skc_bound_dev_if: 0,
            net: GuestVirt(0),
            v6_daddr: None,
            v6_rcv_saddr: None,
        };
        let (local, remote) = ends(&raw);
        assert_eq!(local.to_string(), "127.0.0.1:8080");
        assert_eq!(remote.to_string(), "10.0.2.15:443");
    }
}
