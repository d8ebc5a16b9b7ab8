//! Sockets: a process that keeps one open and reads it, and one that sends once and ends.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use klab_wire::SocketKind;
use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
    },
};
use rustix::net;

use crate::error::{Context as _, Error, Result};

/// The argument that makes this binary send once: `send tcp|udp ADDRESS:PORT TEXT`, or `send raw ADDRESS:0 HEX`, an IPv4
/// packet from its header on.
pub(crate) const SEND: &str = "send";
/// The argument that makes this binary send so many bytes to itself: `stream BYTES`.
pub(crate) const STREAM: &str = "stream";
/// Bytes of one read and one write of a stream.
const CHUNK: usize = 64 << 10;
/// Time that a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// Opens the socket in a network namespace, and leaves a thread that reads it.
pub(super) fn open(kind: SocketKind, netns: &str) -> Result<()> {
    if netns.contains(['/', '\0']) {
        return Err(Error(format!("`{netns}` is no name of a namespace")));
    }
    if !netns.is_empty() {
        let file = File::open(format!("/run/netns/{netns}"))
            .context(format_args!("cannot open the network namespace `{netns}`"))?;
        setns(file, CloneFlags::CLONE_NEWNET)?;
    }
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    match kind {
        SocketKind::Tcp { port } => {
            let listener = TcpListener::bind(any(port)).context("cannot listen")?;
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    drain(stream);
                }
            });
        }
        SocketKind::Udp { port } => {
            let bound = UdpSocket::bind(any(port)).context("cannot bind")?;
            forget(bound.into());
        }
        SocketKind::RawIcmp => raw(AddressFamily::Inet, SockProtocol::Icmp)?,
        SocketKind::RawTcp => raw(AddressFamily::Inet, SockProtocol::Tcp)?,
        SocketKind::Packet => raw(AddressFamily::Packet, SockProtocol::EthAll)?,
        SocketKind::Mptcp { port } => mptcp(port)?,
        SocketKind::Ping { port } => ping(port)?,
        SocketKind::Xdp => forget(net::socket(
            net::AddressFamily::XDP,
            net::SocketType::RAW,
            None,
        )?),
    }
    Ok(())
}

fn mptcp(port: u16) -> Result<()> {
    let local = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let new = || {
        net::socket(
            net::AddressFamily::INET,
            net::SocketType::STREAM,
            Some(net::ipproto::MPTCP),
        )
    };
    let (listener, connected) = (new()?, new()?);
    net::bind(&listener, &local)?;
    net::listen(&listener, 8)?;
    net::connect(&connected, &local)?;
    forget(connected);
    forget(listener);
    Ok(())
}

fn ping(port: u16) -> Result<()> {
    // Whose group may have one: nobody's, unless this says otherwise.
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")?;
    let socket = net::socket(
        net::AddressFamily::INET,
        net::SocketType::DGRAM,
        Some(net::ipproto::ICMP),
    )?;
    net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    forget(socket);
    Ok(())
}

fn raw(family: AddressFamily, protocol: SockProtocol) -> Result<()> {
    forget(socket(
        family,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )?);
    Ok(())
}

/// Leaves a thread that receives for ever.
fn forget(socket: OwnedFd) {
    thread::spawn(move || {
        let mut packet = [0; 4096];
        loop {
            // An error is a message too: a port that was unreachable. One that comes at once, always, is no reason to spin.
            if recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()).is_err() {
                thread::sleep(Duration::from_millis(10));
            }
        }
    });
}

fn drain(mut stream: TcpStream) {
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while matches!(stream.read(&mut bytes), Ok(1..)) {}
    });
}

/// Sends a text to an address once.
pub(crate) fn send(args: &[String]) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let sent = match args.as_slice() {
        [kind @ ("tcp" | "udp"), to, text] => to
            .parse()
            .map_err(|_| Error(format!("`{to}` is no ADDRESS:PORT")))
            .and_then(|to| once(kind, to, text)),
        ["raw", to, hex] => packet(to, hex),
        _ => Err(Error(
            "send tcp|udp ADDRESS:PORT TEXT, or raw ADDRESS:0 HEX".to_owned(),
        )),
    };
    if let Err(e) = sent {
        eprintln!("{}", e.0);
        std::process::exit(1);
    }
}

/// Sends a packet as it is, with any addresses and check sums (`IPPROTO_RAW`, raw(7)).
fn packet(to: &str, hex: &str) -> Result<()> {
    let to: SocketAddrV4 = to
        .parse()
        .map_err(|_| Error(format!("`{to}` is no ADDRESS:PORT")))?;
    let bytes: Option<Vec<u8>> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let bytes = bytes.ok_or_else(|| Error("the packet is not in hexadecimal".to_owned()))?;
    let socket = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    )?;
    let to = SockaddrIn::from(to);
    sendto(socket.as_raw_fd(), &bytes, &to, MsgFlags::empty())?;
    Ok(())
}

fn once(kind: &str, to: SocketAddr, text: &str) -> Result<()> {
    if kind == "udp" {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.send_to(text.as_bytes(), to).context("cannot send")?;
    } else {
        let mut stream = TcpStream::connect_timeout(&to, CONNECT).context("cannot connect")?;
        stream.write_all(text.as_bytes()).context("cannot send")?;
    }
    Ok(())
}

/// Sends bytes to itself by TCP over the loopback device, and prints how many nanoseconds that took.
pub(crate) fn stream(args: &[String]) {
    let took = args
        .first()
        .and_then(|bytes| bytes.parse().ok())
        .ok_or_else(|| Error("stream BYTES".to_owned()))
        .and_then(through_loopback);
    match took {
        Ok(took) => println!("{}", took.as_nanos()),
        Err(e) => {
            eprintln!("{}", e.0);
            std::process::exit(1);
        }
    }
}

fn through_loopback(bytes: usize) -> Result<Duration> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut sender = TcpStream::connect_timeout(&listener.local_addr()?, CONNECT)?;
    let (mut receiver, _) = listener.accept()?;
    let began = Instant::now();
    let writing = thread::spawn(move || -> std::io::Result<()> {
        let chunk = vec![0x6b; CHUNK];
        let mut left = bytes;
        while left > 0 {
            let some = left.min(CHUNK);
            sender.write_all(chunk.get(..some).unwrap_or_default())?;
            left -= some;
        }
        Ok(())
    });
    let (mut chunk, mut came) = (vec![0; CHUNK], 0);
    loop {
        match receiver.read(&mut chunk)? {
            0 => break,
            some => came += some,
        }
    }
    let took = began.elapsed();
    match writing.join() {
        Ok(written) => written?,
        Err(_) => return Err(Error("the sender failed".to_owned())),
    }
    if came != bytes {
        return Err(Error(format!("{came} bytes came of {bytes}")));
    }
    Ok(took)
}
