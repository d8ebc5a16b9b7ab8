//! Devices, and sockets with their owners: `ip`, `/proc/net/*` and `/proc/PID/fd`.

use std::collections::{BTreeMap, BTreeSet};

use probes::net::{NetDevices, Socket, SocketTable, Sockets};
use probes::{Guest, Result};
use vm::agent::{SocketKind, WorkloadKind};

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_those_of_proc, of_other_families);

/// Sockets of every kind.
const OPENERS: &str = r"
    ip link set lo up
    ip link add klab-dummy type dummy 2>/dev/null && ip addr add 10.9.8.7/20 dev klab-dummy && ip link set klab-dummy up
    httpd -p 127.0.0.1:8080; httpd -p '[::1]:8081'; syslogd
    (setsid nc -l -p 7001 </dev/zero >/dev/null 2>&1 &)
    for i in $(seq 200); do grep -qs ':1B59 [0-9A-F:]* 0A' /proc/net/tcp /proc/net/tcp6 && break; sleep 0.1; done
    (setsid sh -c 'sleep 5000 | nc 127.0.0.1 7001 | sleep 5001' >/dev/null 2>&1 &)
    printf 'start 10.9.0.2\nend 10.9.0.9\ninterface klab-dummy\nlease_file /tmp/leases\n' >/tmp/dhcpd.conf; >/tmp/leases
    (setsid udhcpd -f -S /tmp/dhcpd.conf >/dev/null 2>&1 &)
    (setsid ping -i 60 127.0.0.1 >/dev/null 2>&1 &)
    # A FIN_WAIT2 that nobody has open, and a request to a listener that is another user's.
    mkfifo /tmp/hold; echo u:x:1234:4321::/:/bin/sh >>/etc/passwd; echo g:x:4321: >>/etc/group
    setsid nc -l -p 7002 <>/tmp/hold >/dev/null 2>&1 & server=$!
    start-stop-daemon -S -b -p /tmp/none -c 1234:4321 -x /bin/busybox -a nc -- -l -p 7003
    for i in $(seq 200); do [ $(cat /proc/net/tcp /proc/net/tcp6 | grep -Ec ':1B5[AB] [0-9A-F:]* 0A') = 2 ] && break; sleep 0.1; done
    nft add table ip klab; nft add chain ip klab out '{ type filter hook output priority 0; }'
    nft add rule ip klab out tcp dport 7003 tcp flags '& (fin|syn|rst|ack) == ack' drop
    setsid nc 127.0.0.1 7002 <>/tmp/hold >/dev/null 2>&1 & client=$!
    for i in $(seq 200); do grep -q ':1B5A 01' /proc/net/tcp && break; sleep 0.1; done
    kill -STOP $server; kill $client
    setsid nc 127.0.0.1 7003 <>/tmp/hold >/dev/null 2>&1 &
    # A datagram that waits.
    kill -STOP $(pidof syslogd); logger 'what waits to be read'
    (setsid udhcpc -f -i klab-dummy -s /bin/true -t 100 -T 100 >/dev/null 2>&1 &)
    for i in $(seq 100); do
        [ -S /dev/log ] && [ $(cat /proc/net/udp /proc/net/raw /proc/net/packet | wc -l) -ge 6 ] &&
            grep -q ' 01 ' /proc/net/tcp && grep -q ':1B5A 05' /proc/net/tcp && cat /proc/net/tcp /proc/net/tcp6 | grep -q ' 03 ' && exit
        sleep 0.2
    done
    exit 1
";

fn ask(ground: &mut Ground) -> BTreeMap<String, String> {
    let tables = [
        "tcp", "tcp6", "udp", "udp6", "raw", "raw6", "unix", "packet",
    ];
    let mut said: BTreeMap<String, String> = tables
        .into_iter()
        .map(|table| {
            (
                table.to_owned(),
                ground.sh(&format!("cat /proc/net/{table} 2>/dev/null; true")),
            )
        })
        .collect();
    let fds =
        r#"for f in /proc/[0-9]*/fd/*; do echo "$f $(readlink $f)"; done | grep ' socket:'; true"#;
    said.insert("fds".to_owned(), ground.sh(fds));
    said.insert("unix queues".to_owned(), ground.sh("ss -xanH"));
    said
}

fn read(guest: &Guest) -> Result<(NetDevices, Sockets)> {
    Ok((guest.net_devices()?, guest.sockets()?))
}

pub(crate) fn are_those_of_proc(kernel: &str) {
    let mut ground = Ground::new(kernel);
    ground.sh(OPENERS);
    let init = ground.sh("readlink /proc/1/ns/net");
    let netns: u32 = init
        .trim()
        .trim_start_matches("net:[")
        .trim_end_matches(']')
        .parse()
        .unwrap();
    let (before, (devices, sockets), after) = ground.sandwich(ask, read);
    let mut ledger = Ledger::new(format!("net on {kernel}"));
    let mine: Vec<&Socket> = sockets
        .iter()
        .filter(|socket| socket.netns == netns)
        .collect();
    for (name, tables, v6) in [
        ("tcp", &[SocketTable::Tcp, SocketTable::Listen][..], false),
        ("tcp6", &[SocketTable::Tcp, SocketTable::Listen], true),
        ("udp", &[SocketTable::Udp], false),
        ("udp6", &[SocketTable::Udp], true),
        ("raw", &[SocketTable::Raw], false),
        ("raw6", &[SocketTable::Raw], true),
    ] {
        let seen: BTreeSet<_> = mine
            .iter()
            .filter(|s| tables.contains(&s.table) && (s.family == 10) == v6)
            .map(|s| ip_line(s))
            .collect();
        let said = |lines: &str| {
            lines
                .lines()
                .skip(1)
                .map(proc_ip_line)
                .collect::<BTreeSet<_>>()
        };
        both(
            &mut ledger,
            name,
            &seen,
            &said(&before[name]),
            &said(&after[name]),
        );
    }
    // Num RefCount Protocol Flags Type St Inode Path
    let unix: BTreeSet<_> = mine
        .iter()
        .filter(|s| s.table == SocketTable::Unix)
        .map(|s| (s.ino.unwrap_or(0), u64::from(s.type_), s.name.clone()))
        .collect();
    let said = |lines: &str| {
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let type_ = u64::from_str_radix(words[4], 16).unwrap();
            let path = words.get(7).copied().unwrap_or_default().to_owned();
            (words[6].parse().unwrap(), type_, path)
        };
        lines.lines().skip(1).map(line).collect::<BTreeSet<_>>()
    };
    both(
        &mut ledger,
        "unix",
        &unix,
        &said(&before["unix"]),
        &said(&after["unix"]),
    );
    queues(
        &mut ledger,
        &mine,
        (&before["unix queues"], &after["unix queues"]),
    );
    assert!(
        mine.iter()
            .any(|s| s.state.name() == "FIN_WAIT2" && s.ino.is_none())
    );
    let asked = mine.iter().find(|s| s.state.name() == "NEW_SYN_RECV");
    assert_eq!(asked.unwrap().uid, Some(1234));
    assert!(sockets.is_whole(), "{:?}", sockets.missing);
    // sk RefCnt Type Proto Iface R Rmem User Inode
    let packet: BTreeSet<_> = mine
        .iter()
        .filter(|s| s.table == SocketTable::Packet)
        .map(|s| (s.ino.unwrap_or(0), u64::from(s.type_), s.uid.unwrap()))
        .collect();
    let said = |lines: &str| {
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (
                words[8].parse().unwrap(),
                words[2].parse().unwrap(),
                words[7].parse().unwrap(),
            )
        };
        lines.lines().skip(1).map(line).collect::<BTreeSet<_>>()
    };
    both(
        &mut ledger,
        "packet",
        &packet,
        &said(&before["packet"]),
        &said(&after["packet"]),
    );
    owners(&mut ledger, &sockets, (&before["fds"], &after["fds"]));
    device_lines(&mut ledger, &mut ground, netns, &devices);
    ledger.end(&[
        ("tcp", 4),
        ("tcp6", 1),
        ("udp", 1),
        ("raw", 1),
        ("unix", 1),
        ("unix queue", 1),
        ("unix queue that is not empty", 1),
        ("packet", 1),
        ("owners", 8),
        ("device", 1),
    ]);
}

/// Netlink, ping, XDP and MPTCP sockets. Of the latter two `/proc` says nothing: the files of their processes do.
pub(crate) fn of_other_families(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    ground.sh("ip link set lo up");
    for kind in [
        SocketKind::Mptcp { port: 7010 },
        SocketKind::Ping { port: 77 },
        SocketKind::Xdp,
    ] {
        let netns = String::new();
        let kind = WorkloadKind::Socket { kind, netns };
        ground.agent.workload(kind).unwrap();
    }
    let ask = |ground: &mut Ground| {
        let all = ["netlink", "icmp"].map(|table| ground.sh(&format!("cat /proc/net/{table}")));
        (all, ground.sh("for f in /proc/[0-9]*/fd/*; do readlink $f; done; true"))
    };
    let (([netlink, icmp], fds), sockets, _) = ground.sandwich(ask, Guest::sockets);
    assert!(sockets.is_whole(), "{:?}", sockets.missing);
    let of = |table| sockets.iter().filter(move |socket| socket.table == table);
    let mut ledger = Ledger::new(format!("sockets of other families on {kernel}"));
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
    let said: BTreeSet<_> = netlink
        .lines()
        .skip(1)
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let groups = u32::from_str_radix(words[3], 16).unwrap();
            let name = format!("portid {} groups {groups:#x}", words[2]);
            (words[9].parse::<u64>().unwrap(), name)
        })
        .collect();
    let seen: BTreeSet<_> = of(SocketTable::Netlink)
        .map(|socket| {
            let (_, name) = socket.name.split_once(' ').unwrap();
            (socket.ino.unwrap_or(0), name.to_owned())
        })
        .collect();
    both(&mut ledger, "netlink", &seen, &said, &said);
    let said: BTreeSet<_> = icmp.lines().skip(1).map(proc_ip_line).collect();
    let seen: BTreeSet<_> = of(SocketTable::Ping).map(ip_line).collect();
    both(&mut ledger, "ping", &seen, &said, &said);
    let open = |socket: &Socket| fds.contains(&format!("socket:[{}]", socket.ino.unwrap()));
    for socket in of(SocketTable::Xdp) {
        ledger.same(&socket.name, "xdp", &open(socket), &true);
    }
    // Both are MPTCP's, what comes of the connection is not accepted yet; each has a subflow among TCP's sockets.
    let mptcp: Vec<&Socket> = of(SocketTable::Mptcp).collect();
    for socket in &mptcp {
        let (at, state) = (socket.at, socket.state);
        if socket.ino.is_some() {
            ledger.same(at, "mptcp", &open(socket), &true);
        }
        let subflow = sockets.iter().any(|tcp| tcp.peer == Some(at) && tcp.state == state);
        ledger.same(at, "subflow of mptcp", &subflow, &true);
    }
    let states: BTreeSet<_> = mptcp.iter().map(|socket| socket.state.name()).collect();
    assert_eq!(states, BTreeSet::from(["ESTABLISHED", "LISTEN"]));
    ledger.end(&[("netlink", 8), ("ping", 1), ("xdp", 1), ("mptcp", 2)]);
}

/// What both readings of `/proc` have, memory has; and it has nothing that neither of them has.
fn both<T: Ord + std::fmt::Debug>(
    ledger: &mut Ledger,
    name: &'static str,
    seen: &BTreeSet<T>,
    before: &BTreeSet<T>,
    after: &BTreeSet<T>,
) {
    for line in before.intersection(after) {
        ledger.same(
            format!("{line:?} of {seen:?}"),
            name,
            &seen.contains(line),
            &true,
        );
    }
    for line in seen {
        let known = before.contains(line) || after.contains(line);
        ledger.same(format!("{line:?} seen"), name, &known, &true);
    }
}

/// Bytes that wait to be read of each unix socket, by its inode: Netid State Recv-Q Send-Q Path Inode Peer Peer-Inode
/// of `ss`.
fn queues(ledger: &mut Ledger, mine: &[&Socket], said: (&str, &str)) {
    let of = |text: &str| -> BTreeMap<u64, u32> {
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let inode = words[words.len() - 3].parse().unwrap();
            (inode, words[2].parse().unwrap())
        };
        text.lines().map(line).collect()
    };
    let (before, after) = (of(said.0), of(said.1));
    for socket in mine.iter().filter(|s| s.table == SocketTable::Unix) {
        let Some(ino) = socket.ino else { continue };
        if let (Some(first), Some(last)) = (before.get(&ino), after.get(&ino)) {
            ledger.steady(ino, "unix queue", &socket.rx_queue.unwrap(), (first, last));
        }
    }
    let waits = before.values().any(|waits| *waits > 0);
    ledger.same("ss", "unix queue that is not empty", &waits, &true);
}

type IpLine = (String, String, u64, u64, u64, u64, u64);

fn ip_line(socket: &Socket) -> IpLine {
    let hex = |end: std::net::SocketAddr| {
        let words = |bytes: &[u8]| -> String {
            bytes
                .chunks(4)
                .map(|word| format!("{:08X}", u32::from_le_bytes(word.try_into().unwrap())))
                .collect()
        };
        let address = match end.ip() {
            std::net::IpAddr::V4(v4) => words(&v4.octets()),
            std::net::IpAddr::V6(v6) => words(&v6.octets()),
        };
        format!("{address}:{:04X}", end.port())
    };
    (
        hex(socket.local.unwrap()),
        hex(socket.remote.unwrap()),
        match socket.state.0 {
            // get_openreq4() calls it SYN_RECV.
            12 => 3,
            state => state.into(),
        },
        socket.tx_queue.unwrap_or(0).into(),
        socket.rx_queue.unwrap_or(0).into(),
        socket.uid.unwrap_or(0).into(),
        socket.ino.unwrap_or(0),
    )
}

/// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
fn proc_ip_line(line: &str) -> IpLine {
    let words: Vec<&str> = line.split_whitespace().collect();
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let (tx, rx) = words[4].split_once(':').unwrap();
    (
        words[1].to_owned(),
        words[2].to_owned(),
        hex(words[3]),
        hex(tx),
        hex(rx),
        words[7].parse().unwrap(),
        words[9].parse().unwrap(),
    )
}

/// Every process that has a socket open, by its inode's number.
fn owners(ledger: &mut Ledger, sockets: &Sockets, fds: (&str, &str)) {
    let of = |text: &str| {
        let mut owners: BTreeMap<u64, BTreeSet<(i32, u32)>> = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(['/', ' ', '[', ']']).collect();
            // "" proc PID fd FD "socket:" INODE ""
            let (pid, fd) = (words[2].parse().unwrap(), words[4].parse().unwrap());
            owners
                .entry(words[6].parse().unwrap())
                .or_default()
                .insert((pid, fd));
        }
        owners
    };
    let (before, after) = (of(fds.0), of(fds.1));
    for socket in sockets.iter() {
        let Some(ino) = socket.ino else { continue };
        let seen: BTreeSet<_> = socket.owners.iter().map(|o| (o.pid, o.fd)).collect();
        let (first, last) = (before.get(&ino).cloned(), after.get(&ino).cloned());
        let steady = (&first.unwrap_or_default(), &last.unwrap_or_default());
        ledger.steady(ino, "owners", &seen, steady);
    }
}

/// Each line of `ip -o addr` and `ip -o link`, of the first namespace.
fn device_lines(ledger: &mut Ledger, ground: &mut Ground, netns: u32, devices: &NetDevices) {
    let addresses = ground.sh("ip -o addr");
    let links = ground.sh("ip -o link");
    for device in devices.iter().filter(|device| device.netns == netns) {
        let said: BTreeSet<&str> = addresses
            .lines()
            .filter(|line| line.split_whitespace().nth(1) == Some(&device.name))
            .filter_map(|line| line.split_whitespace().nth(3))
            .collect();
        let seen: Vec<String> = device
            .addresses
            .iter()
            .map(|a| format!("{}/{}", a.address, a.prefix))
            .collect();
        let seen: BTreeSet<&str> = seen.iter().map(String::as_str).collect();
        ledger.same(&device.name, "addresses", &seen, &said);
        let number = format!("{}:", device.ifindex);
        let link = links
            .lines()
            .find(|line| line.split_whitespace().next() == Some(&number))
            .unwrap_or_default();
        let mac: Vec<String> = device
            .address
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        for word in [
            format!(" {}:", device.name),
            format!(" mtu {} ", device.mtu),
            format!(" qdisc {} ", device.qdisc),
            format!(" {} ", mac.join(":")),
        ] {
            ledger.same(
                format!("{word:?} in {link}"),
                "device",
                &link.contains(&word),
                &true,
            );
        }
    }
    ledger.same(
        "devices",
        "device",
        &devices
            .iter()
            .filter(|device| device.netns == netns)
            .count(),
        &links.lines().count(),
    );
    // The namespaces of the crowd have devices of their own.
    assert!(devices.iter().any(|device| device.netns != netns));
}
