//! A capture as a pcapng file (draft-ietf-opsawg-pcapng): each stage of a packet is a packet there, with the function
//! as its comment, so that Wireshark and tshark show the way and decode what is in each stage.

use super::path::{Paths, Stage, What};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// `LINKTYPE_RAW`: begins with an IP header.
const RAW: u16 = 101;
const OPT_COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
/// Ten to the minus ninth.
const NANOSECONDS: u8 = 9;

impl Paths {
    /// The capture as a pcapng file. Packets are cut to the bytes that their records hold.
    #[must_use]
    pub fn pcapng(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let mut header = Vec::new();
        header.extend(BYTE_ORDER.to_le_bytes());
        header.extend(1_u16.to_le_bytes());
        header.extend(0_u16.to_le_bytes());
        header.extend(u64::MAX.to_le_bytes());
        block(&mut file, SECTION, &header);
        let mut interface = Vec::new();
        interface.extend(RAW.to_le_bytes());
        interface.extend(0_u16.to_le_bytes());
        interface.extend(0_u32.to_le_bytes());
        option(&mut interface, IF_NAME, b"klab");
        option(&mut interface, IF_TSRESOL, &[NANOSECONDS]);
        option(&mut interface, 0, b"");
        block(&mut file, INTERFACE, &interface);
        let mut stages: Vec<(u64, &Stage)> = self
            .iter()
            .flat_map(|path| path.iter().map(|stage| (path.first + stage.ns, stage)))
            .filter(|(_, stage)| !stage.packet.is_empty() && !matches!(stage.what, What::NoHook(_)))
            .collect();
        stages.sort_by_key(|(time, _)| *time);
        for (time, stage) in stages {
            let mut packet = Vec::new();
            packet.extend(0_u32.to_le_bytes());
            packet.extend(((time >> 32) as u32).to_le_bytes());
            packet.extend((time as u32).to_le_bytes());
            packet.extend((stage.packet.len() as u32).to_le_bytes());
            packet.extend((stage.packet.len() as u32).max(whole(stage)).to_le_bytes());
            padded(&mut packet, &stage.packet);
            let comment = format!("{} skb {} cpu {}", stage.name, stage.skb, stage.cpu);
            option(&mut packet, OPT_COMMENT, comment.as_bytes());
            option(&mut packet, 0, b"");
            block(&mut file, ENHANCED, &packet);
        }
        file
    }
}

/// The packet's own length, by its header: IPv4's tells all, IPv6's what follows its own 40 bytes.
fn whole(stage: &Stage) -> u32 {
    match stage.packet.as_slice() {
        [first, _, high, low, ..] if first >> 4 == 4 => {
            u32::from(u16::from_be_bytes([*high, *low]))
        }
        [first, _, _, _, high, low, ..] if first >> 4 == 6 => {
            40 + u32::from(u16::from_be_bytes([*high, *low]))
        }
        _ => 0,
    }
}

fn padded(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(bytes);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn option(to: &mut Vec<u8>, code: u16, value: &[u8]) {
    to.extend(code.to_le_bytes());
    to.extend((value.len() as u16).to_le_bytes());
    padded(to, value);
}

fn block(file: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let length = body.len() as u32 + 12;
    file.extend(kind.to_le_bytes());
    file.extend(length.to_le_bytes());
    file.extend(body);
    file.extend(length.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::ring::Context;
    use super::super::{Geometry, Layer, Path, Tally};
    use super::*;
    use crate::memory::GuestVirt;

    #[test]
    fn blocks_follow_each_other_to_the_end() {
        let stage = |packet: &[u8]| Stage {
            name: "ip_rcv".to_owned(),
            module: None,
            layer: Layer::Ip,
            what: What::Call,
            ns: 5,
            cpu: 1,
            context: Context::Softirq,
            pid: 0,
            netns: 0,
            ifindex: 0,
            skb: GuestVirt(1),
            head: GuestVirt(2),
            geometry: Geometry::default(),
            packet: packet.to_vec(),
            sock: false,
            route: false,
            conntrack: None,
            note: None,
        };
        let paths = Paths {
            paths: vec![Path {
                first: 1 << 33,
                head: GuestVirt(2),
                packet: String::new(),
                stages: vec![stage(&[0x45, 0, 0, 40, 1]), stage(b"")],
                incomplete: false,
            }],
            tally: Tally::default(),
            hooked: 1,
            absent: Vec::new(),
        };
        let file = paths.pcapng();
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let (mut at, mut kinds) = (0, Vec::new());
        while at < file.len() {
            let length = word(at + 4) as usize;
            assert_eq!(word(at + length - 4) as usize, length);
            assert_eq!(length % 4, 0);
            kinds.push(word(at));
            at += length;
        }
        assert_eq!(kinds, [SECTION, INTERFACE, ENHANCED]);
        let packet = file.len() - word(file.len() - 4) as usize;
        let (captured, original) = (word(packet + 20), word(packet + 24));
        assert_eq!((word(packet + 12), captured, original), (2, 5, 40));
    }
}
