//! Packets that a filter lets through, beside what tcpdump lets through of the same frames, and beside the whole
//! capture.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use probes::skb::{Filter, Paths, Profile};
use probes::traffic::{End, Frame, GUEST, HOST, Rule, Tcp};
use probes::view::View;
use vm::agent::{SocketKind, WorkloadKind};

use crate::ground::Ground;

/// Expressions, some that the module can check whole, some in part, some not at all.
const EXPRESSIONS: [&str; 14] = [
    "tcp",
    "udp port 53",
    "host 192.0.2.9",
    "src host 192.0.2.9 and tcp dst port 80",
    "net 192.0.2.8/30 and not icmp",
    "not tcp",
    "arp",
    "arp or icmp and host 192.0.2.1",
    "portrange 53-80 and (udp or src 192.0.2.10)",
    "ip proto 17 or tcp src port 1002",
    "src and dst net 192.0.2",
    "src port 1000 and dst port 53 or src port 53 and dst port 1000",
    "port 80 or 54",
    "ip6",
];

fn frames() -> Vec<Frame> {
    let mut frames = Vec::new();
    for (n, last) in [1_u8, 9, 10].into_iter().enumerate() {
        let from = End {
            ip: Ipv4Addr::new(192, 0, 2, last),
            ..HOST
        };
        for (i, port) in [80, 81].into_iter().enumerate() {
            let header = Tcp {
                source: 1000 + i as u16 + n as u16,
                destination: port,
                seq: 1,
                flags: Tcp::SYN,
                ..Tcp::default()
            };
            frames.push(Frame::tcp(from, GUEST, header, b"").unwrap());
        }
        for port in [53, 54] {
            frames.push(Frame::udp((from, 1000), (GUEST, port), b"klab").unwrap());
        }
        frames.push(Frame::echo(from, GUEST, 7, n as u16, b"klab").unwrap());
        // An ARP announcement of this address.
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend(from.mac);
        arp.extend(from.ip.octets());
        arp.extend([0; 6]);
        arp.extend(from.ip.octets());
        frames.push(Frame::ethernet(from.mac, [0xff; 6], 0x0806, &arp).unwrap());
    }
    frames
}

/// Frames that tcpdump shows, by number.
fn by_tcpdump(frames: &[Frame], expression: &str) -> BTreeSet<usize> {
    let mut file = Vec::new();
    let words = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1];
    file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    for (second, frame) in frames.iter().enumerate() {
        let length = frame.0.len() as u32;
        let words = [second as u32, 0, length, length];
        file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        file.extend(&frame.0);
    }
    let mut child = Command::new("tcpdump")
        .args(["-r", "-", "-tt", "-n", "-q", expression])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tcpdump is one of the tests' packages");
    child.stdin.take().unwrap().write_all(&file).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{expression}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split('.').next()?.parse().ok())
        .collect()
}

fn seen(paths: &Paths, frames: &[Frame]) -> BTreeSet<usize> {
    (0..frames.len())
        .filter(|index| !paths.of(&frames[*index]).is_empty())
        .collect()
}

#[test]
fn are_those_of_tcpdump() {
    let ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let net = guest.net().unwrap();
    let frames = frames();
    let (mut compared, mut refused) = (0, 0);
    for expression in EXPRESSIONS {
        let said = by_tcpdump(&frames, expression);
        let filter = Filter::new(expression).unwrap().interface("eth0");
        let profile = Profile::List(vec!["ip_rcv_core".to_owned(), "arp_rcv".to_owned()]);
        let paths = guest
            .paths(profile.only(filter), |_| {
                frames.iter().try_for_each(|frame| net.send(frame))
            })
            .unwrap();
        assert_eq!(seen(&paths, &frames), said, "`{expression}`");
        refused += paths.tally.seen - paths.tally.delivered;
        assert_eq!((paths.tally.lost, paths.tally.forgotten), (0, 0));
        compared += said.len();
    }
    // Packets that the module can check never came to the host.
    assert!(compared > 60 && refused > 100, "{compared} {refused}");
}

/// The echoes of a capture, each as one line.
fn echoes(paths: &Paths) -> Vec<String> {
    let lines = paths.iter().map(|path| path.packet.clone());
    let mut lines: Vec<String> = lines.filter(|line| line.contains("ICMP echo")).collect();
    lines.sort_unstable();
    lines
}

/// Packets of one ping: there and back.
fn echo_of([there, back]: [&str; 2]) -> Vec<String> {
    let mut lines = vec![
        format!("{there} ICMP echo request"),
        format!("{back} ICMP echo reply"),
    ];
    lines.sort_unstable();
    lines
}

#[test]
fn by_place_and_mark() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    guest.veth().unwrap();
    ground.sh("ip netns exec left ping -c 1 -W 5 10.1.0.2");
    let pings = "ping -c 1 -W 5 127.0.0.1; ip netns exec left ping -c 1 -W 5 10.1.0.2";
    let of = |filter: Filter| {
        let paths = guest
            .paths(Profile::Path.only(filter), |guest| {
                guest.agent()?.shell(pings)?;
                Ok(())
            })
            .unwrap();
        assert!(!paths.iter().any(|path| path.incomplete));
        paths
    };
    let said = ground.sh("ip netns exec left readlink /proc/self/ns/net");
    let left: u32 = said
        .trim()
        .trim_start_matches("net:[")
        .trim_end_matches(']')
        .parse()
        .unwrap();

    let inside = of(Filter::default().netns("left"));
    assert!(inside.len() >= 2, "{}", inside.text());
    for path in inside.iter() {
        assert!(path.iter().any(|stage| stage.netns == left));
    }
    // What began in `left` is followed into `right`.
    let request = inside.about("10.1.0.1 > 10.1.0.2 ICMP echo request");
    assert!(request[0].passes(&["ip_output", "veth_xmit", "ip_rcv", "icmp_echo"]));
    assert!(
        request[0]
            .iter()
            .any(|stage| stage.netns != left && stage.netns != 0)
    );
    let others = |path: &&probes::skb::Path| path.packet.contains("127.0.0.1");
    assert_eq!(inside.iter().find(others), None);
    // Not the count of all packets: ARP asks again when it has to, in one capture and not in another.
    let veth = ["10.1.0.1 > 10.1.0.2", "10.1.0.2 > 10.1.0.1"];
    assert_eq!(echoes(&inside), echo_of(veth), "{}", inside.text());
    let by_inum = of(Filter::default().netns(probes::skb::Netns::Inum(left)));
    assert_eq!(echoes(&by_inum), echo_of(veth), "{}", by_inum.text());
    for path in by_inum.iter() {
        assert!(path.iter().any(|stage| stage.netns == left));
    }

    let lo = ["127.0.0.1 > 127.0.0.1"; 2];
    let own = of(Filter::new("icmp").unwrap().interface("lo"));
    assert_eq!(echoes(&own), echo_of(lo), "{}", own.text());
    assert_eq!(own.len(), own.about("127.0.0.1 > 127.0.0.1").len());
    let first = of(Filter::default().netns(1).interface("lo"));
    assert_eq!(echoes(&first), echo_of(lo), "{}", first.text());
    let wrong = guest.capture(Profile::Path.only(Filter::default().interface("nope")));
    let wrong = wrong.unwrap_err().to_string();
    assert!(
        wrong.contains("`nope`") && wrong.contains("veth0"),
        "{wrong}"
    );
    let wrong = guest.capture(Profile::Path.only(Filter::default().netns("nope")));
    assert!(wrong.unwrap_err().to_string().contains("`nope`"));

    ground.sh("nft 'table ip m { chain o { type route hook output priority 0; udp dport 9 meta mark set 0x17; }; }'");
    let both = "/init send udp 127.0.0.1:9 x; /init send udp 127.0.0.1:10 x";
    let marked = guest
        .paths(
            Profile::Path.only(Filter::default().mark(0x17, 0xff)),
            |guest| {
                guest.agent()?.shell(both)?;
                Ok(())
            },
        )
        .unwrap();
    assert_eq!(
        marked.about("127.0.0.1:9 UDP").len(),
        1,
        "{}",
        marked.text()
    );
    assert!(marked.about("127.0.0.1:10 UDP").is_empty());
}

/// The filter names what only the first leg of the way has.
#[test]
fn follow_through_nat() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    guest.router().unwrap();
    let kind = SocketKind::Tcp { port: 80 };
    let netns = "outside".to_owned();
    ground
        .agent
        .workload(WorkloadKind::Socket { kind, netns })
        .unwrap();
    let to = Ipv4Addr::new(10, 2, 0, 2);
    let rules = [
        Rule::Dnat { port: 80, to },
        Rule::Masquerade { out: "out0" },
    ];
    guest.nftables("router", &rules).unwrap();
    let send = |guest: &probes::Guest| guest.send_from("inside", "tcp", "10.1.0.1:80", "hello");
    send(&guest).unwrap();
    let filter = Filter::new("tcp and dst host 10.1.0.1").unwrap();
    let paths = guest.paths(Profile::Path.only(filter), send).unwrap();
    let syn = paths.about("TCP SYN");
    assert_eq!(syn.len(), paths.about("tcp syn").len());
    let path = syn
        .iter()
        .find(|path| path.packet.contains("> 10.1.0.1:80"))
        .unwrap();
    let way = [
        "ip_output",
        "veth_xmit",
        "ip_rcv",
        "ip_forward",
        "veth_xmit",
        "ip_rcv",
        "tcp_v4_rcv",
    ];
    assert!(path.passes(&way), "{}", path.text());
    let last = path.stage("tcp_v4_rcv").unwrap();
    let last = probes::traffic::describe(&last.packet);
    assert!(
        last.starts_with("10.2.0.1:") && last.contains("> 10.2.0.2:80"),
        "{last}"
    );
    assert!(!path.incomplete);

    // One flow, both ways, and nothing else.
    let at = |ip: [u8; 4], port| SocketAddr::from((ip, port));
    let flow = Filter::flow(17, at([10, 1, 0, 2], 53), at([10, 1, 0, 1], 53));
    let paths = guest.paths(Profile::Path.only(flow), send).unwrap();
    assert!(paths.is_empty(), "{}", paths.text());
}
