//! A capture as a pcapng file (draft-ietf-opsawg-pcapng): each stage of a packet is a packet there, with the function
//! as its comment, so that Wireshark and tshark show the way and decode what is in each stage.

use super::path::{Paths, Stage, What};
use super::view::path::remark;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const ENHANCED: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// `LINKTYPE_ETHERNET`: begins with an Ethernet header.
const ETHERNET: u16 = 1;
const OPT_COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const ISB_STARTTIME: u16 = 2;
const ISB_ENDTIME: u16 = 3;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;
/// Ten to the minus ninth.
const NANOSECONDS: u8 = 9;
/// `ETH_P_IP`, `ETH_P_IPV6`; `ETH_P_802_3_MIN`: what is below is no protocol of Ethernet.
const IP: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const LEAST: u16 = 0x0600;
/// Two addresses of six bytes.
const ADDRESSES: usize = 12;

impl Paths {
    /// The capture as a pcapng file. Packets are cut to the bytes that their records hold; one that has no Ethernet header where it
    /// was seen gets one with addresses of zeros. What has no protocol of Ethernet is no packet there.
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
        interface.extend(ETHERNET.to_le_bytes());
        interface.extend(0_u16.to_le_bytes());
        interface.extend(0_u32.to_le_bytes());
        option(&mut interface, IF_NAME, b"klab");
        option(&mut interface, IF_TSRESOL, &[NANOSECONDS]);
        option(&mut interface, 0, b"");
        block(&mut file, INTERFACE, &interface);
        let mut stages: Vec<(u64, &Stage)> = self
            .iter()
            .flat_map(|path| path.iter().map(|stage| (path.first + stage.ns, stage)))
            .filter(|(_, stage)| !matches!(stage.what, What::NoHook(_)))
            .collect();
        stages.sort_by_key(|(time, _)| *time);
        let wall = |time: u64| time.wrapping_add_signed(self.realtime);
        for (time, stage) in &stages {
            let Some((frame, length)) = frame(stage) else {
                continue;
            };
            let mut packet = Vec::new();
            packet.extend(0_u32.to_le_bytes());
            packet.extend(halves(wall(*time)));
            packet.extend((frame.len() as u32).to_le_bytes());
            packet.extend(length.to_le_bytes());
            padded(&mut packet, &frame);
            let mut comment = format!("{} skb {} cpu {}", stage.name, stage.skb, stage.cpu);
            let remark = remark(stage);
            if !remark.is_empty() {
                comment += &format!(": {remark}");
            }
            option(&mut packet, OPT_COMMENT, comment.as_bytes());
            option(&mut packet, 0, b"");
            block(&mut file, ENHANCED, &packet);
        }
        let times = (stages.first(), stages.last());
        if let (Some((first, _)), Some((last, _))) = times {
            block(
                &mut file,
                STATISTICS,
                &self.statistics(wall(*first), wall(*last)),
            );
        }
        file
    }

    /// The Interface Statistics Block: what was recorded, and what of it was lost.
    fn statistics(&self, first: u64, last: u64) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(0_u32.to_le_bytes());
        body.extend(halves(last));
        let by_cpu: Vec<String> = self
            .cpus
            .iter()
            .map(|cpu| format!("CPU {}: {} read, {} lost", cpu.cpu, cpu.delivered, cpu.lost))
            .collect();
        let comment = format!("records of calls, not packets. {}", by_cpu.join("; "));
        option(&mut body, OPT_COMMENT, comment.as_bytes());
        option(&mut body, ISB_STARTTIME, &halves(first));
        option(&mut body, ISB_ENDTIME, &halves(last));
        let tally = self.tally;
        let received = tally.delivered.wrapping_add(tally.lost);
        option(&mut body, ISB_IFRECV, &received.to_le_bytes());
        option(&mut body, ISB_IFDROP, &tally.lost.to_le_bytes());
        option(&mut body, 0, b"");
        body
    }
}

/// A time as the format has it: the upper half first.
fn halves(time: u64) -> [u8; 8] {
    let (high, low) = ((time >> 32) as u32, time as u32);
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&high.to_le_bytes());
    bytes[4..].copy_from_slice(&low.to_le_bytes());
    bytes
}

/// The Ethernet frame of a stage, as much of it as was recorded, and how long it was; `None` where it is none.
fn frame(stage: &Stage) -> Option<(Vec<u8>, u32)> {
    let at = stage.geometry;
    let version = stage.packet.first()? >> 4;
    if !stage.is_placed() {
        return None;
    }
    let protocol = match (stage.protocol, version) {
        // An skb on its way out gets its protocol late.
        (0, 4) => IP,
        (0, 6) => IPV6,
        (protocol, _) if protocol >= LEAST => protocol,
        _ => return None,
    };
    let mut frame = vec![0; ADDRESSES];
    if let Some(mac) = stage.mac {
        frame.copy_from_slice(&mac[..ADDRESSES]);
    }
    // A tag that the card takes off, or puts in, lies beside the packet.
    if let Some((tag, control)) = stage.vlan {
        frame.extend(tag.to_be_bytes());
        frame.extend(control.to_be_bytes());
    }
    frame.extend(protocol.to_be_bytes());
    let before = frame.len() as u32;
    frame.extend(&stage.packet);
    // `len` counts from `data` on, with what is in fragments; the bytes are from the network header on, if there is one.
    let header = u32::from(at.network_header);
    let from = if header != 0 && header < at.tail {
        header
    } else {
        at.data
    };
    let behind = i64::from(at.len) + i64::from(at.data) - i64::from(from);
    let behind = u32::try_from(behind)
        .unwrap_or(0)
        .max(stage.packet.len() as u32);
    Some((frame, before.saturating_add(behind)))
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
    use super::super::{Geometry, Layer, LeftOut, Path, Tally};
    use super::*;
    use crate::kmod::ring::Context;
    use crate::memory::GuestVirt;

    #[test]
    fn blocks_follow_each_other_to_the_end() {
        let stage = |protocol: u16, packet: &[u8]| Stage {
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
            geometry: Geometry {
                data: 100,
                network_header: 100,
                tail: 140,
                len: 1400,
                ..Geometry::default()
            },
            protocol,
            packet: packet.to_vec(),
            mac: None,
            vlan: None,
            sock: false,
            route: false,
            conntrack: None,
            note: None,
        };
        let arp = [0, 1, 8, 0, 6, 4, 0, 1];
        let tagged = Stage {
            mac: Some([2; 14]),
            vlan: Some((0x8100, 7)),
            what: What::Dropped {
                reason: "NO_SOCKET".to_owned(),
                location: "udp_rcv".to_owned(),
            },
            ..stage(0x0806, &arp)
        };
        let paths = Paths {
            paths: vec![Path {
                first: 1 << 33,
                head: GuestVirt(2),
                packet: String::new(),
                // One without bytes, one that is no packet.
                stages: vec![
                    stage(0, &[0x45, 0, 0, 40, 1]),
                    stage(0, b""),
                    stage(15, &[0x45, 0]),
                    tagged,
                ],
                incomplete: false,
            }],
            tally: Tally {
                delivered: 40,
                lost: 2,
                ..Tally::default()
            },
            cpus: Vec::new(),
            left_out: LeftOut::default(),
            strays: 0,
            realtime: 1 << 32,
            hooked: 1,
            absent: Vec::new(),
        };
        let file = paths.pcapng();
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let (mut at, mut blocks) = (0, Vec::new());
        while at < file.len() {
            let length = word(at + 4) as usize;
            assert_eq!(word(at + length - 4) as usize, length);
            assert_eq!(length % 4, 0);
            blocks.push((word(at), at));
            at += length;
        }
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SECTION, INTERFACE, ENHANCED, ENHANCED, STATISTICS]);
        let (one, other, statistics) = (blocks[2].1, blocks[3].1, blocks[4].1);
        // The wall's clock; 14 bytes of Ethernet before the packet's 5 of 1400.
        let (captured, original) = (word(one + 20), word(one + 24));
        assert_eq!((word(one + 12), captured, original), (3, 19, 1414));
        assert_eq!(
            file[one + 28..one + 47],
            [&[0; 12][..], &[8, 0, 0x45, 0, 0, 40, 1]].concat()
        );
        assert_eq!((word(other + 20), word(other + 24)), (26, 1418));
        let tagged = [&[2; 12][..], &[0x81, 0, 0, 7, 8, 6], &arp].concat();
        assert_eq!(file[other + 28..other + 54], tagged);
        let text = String::from_utf8_lossy(&file[other..statistics]);
        assert!(text.contains("DROPPED NO_SOCKET in udp_rcv"), "{text}");
        let end = &file[statistics..];
        for value in [42_u64, 2] {
            assert!(end.windows(8).any(|bytes| bytes == value.to_le_bytes()));
        }
    }
}
