//! The whole ways of packets, on `lo`, veth and virtio-net: received, dropped, forwarded, sent.

mod lines;
mod local;
mod router;

use std::net::Ipv4Addr;
use std::time::Duration;

use probes::Guest;
use probes::skb::{Path, Paths, Profile};
use probes::traffic::{End, Frame, GUEST, HOST, Rule, Tcp};
use probes::view::View;
use vm::agent::SocketKind;

use crate::ground::Ground;
use crate::skb::{listen, sound, syn};
use crate::way::compare;

pub(crate) use local::{over_lo, over_veth, over_virtio_net};
pub(crate) use router::{from_the_wire_through_nat, through_a_router};

type Lines = &'static [&'static str];

/// The cases of a capture, and where they went wrong.
struct Cases<'a> {
    paths: &'a Paths,
    wrong: Vec<String>,
    right: usize,
}

impl<'a> Cases<'a> {
    fn new(paths: &'a Paths) -> Self {
        sound(paths);
        Self {
            paths,
            wrong: Vec::new(),
            right: 0,
        }
    }

    /// The first packet of this description has this way.
    fn case(&mut self, about: &str, parts: &[Lines]) {
        match self.paths.iter().find(|path| path.packet.contains(about)) {
            Some(path) => self.compare(about, path, parts),
            None => self.wrong.push(format!("{about}: not seen")),
        }
    }

    fn frame(&mut self, frame: &Frame, parts: &[Lines]) {
        match self.paths.one(frame) {
            Ok(path) => self.compare(&frame.to_string(), &path, parts),
            Err(error) => self.wrong.push(error.to_string()),
        }
    }

    fn compare(&mut self, about: &str, path: &Path, parts: &[Lines]) {
        match compare(path, &parts.concat()) {
            Ok(()) => self.right += 1,
            Err(why) => self.wrong.push(format!("{about}: {why}")),
        }
    }

    fn end(self, expected: usize) {
        // A way that is not what it should be is often explained by its neighbours, or by what was not recorded.
        let all = || {
            let lines = self.paths.iter().map(|path| {
                let more = path.dropped().unwrap_or("");
                format!(
                    "{} {}: {} stages {more}",
                    path.first,
                    path.packet,
                    path.len()
                )
            });
            let lines: Vec<String> = lines.collect();
            format!("{:?}\n{}", self.paths.tally, lines.join("\n"))
        };
        assert!(
            self.wrong.is_empty(),
            "{}\n{}",
            self.wrong.join("\n"),
            all()
        );
        assert_eq!(self.right, expected);
    }
}

/// So that no two packets are polled together.
fn pause() {
    std::thread::sleep(Duration::from_millis(80));
}

/// An IPv4 packet in hexadecimal, as `send raw` takes it.
fn hex(frame: &Frame) -> String {
    frame.0[14..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn end(ip: [u8; 4]) -> End {
    End {
        ip: Ipv4Addr::from(ip),
        ..HOST
    }
}

/// Packets that are sent on `lo` and on veth: to open and closed ports, with wrong check sums, and to a rule.
fn send_all(guest: &Guest, from: &str, to: [u8; 4], source: [u8; 4]) -> probes::Result<()> {
    let at = |port: u16| format!("{}:{port}", Ipv4Addr::from(to));
    guest.send_from(from, "udp", &at(53), "open")?;
    pause();
    guest.send_from(from, "udp", &at(54), "closed")?;
    pause();
    guest.send_from(from, "tcp", &at(80), "hello")?;
    pause();
    assert!(guest.send_from(from, "tcp", &at(81), "hello").is_err());
    pause();
    let bad = Frame::udp((end(source), 1000), (end(to), 53), b"bad sum")?.corrupted();
    guest.send_from(from, "raw", &at(0), &hex(&bad))?;
    pause();
    guest.send_from(from, "udp", &at(99), "to the rule")?;
    pause();
    let ping = format!("ping -c 1 -W 5 {}", Ipv4Addr::from(to));
    let enter = if from.is_empty() {
        String::new()
    } else {
        format!("ip netns exec {from} ")
    };
    guest.agent()?.shell(&format!("{enter}{ping}"))?;
    Ok(())
}
