//! The layouts as bytes: what the host copies out of a ring, and what it gives to the ioctls.

use core::mem::{offset_of, size_of};

use super::*;

pub(crate) fn bytes<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    let mut to = [0; N];
    if let Some(part) = from.get(at..at + N) {
        to.copy_from_slice(part);
    }
    to
}

fn u16_at(from: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(from, at))
}

pub(crate) fn u32_at(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(from, at))
}

pub(crate) fn u64_at(from: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(from, at))
}

impl Kind {
    /// From the commit word's byte; `None`: not yet whole, or of another version.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Entry,
            2 => Self::Exit,
            3 => Self::Tracepoint,
            4 => Self::Derived,
            5 => Self::Resized,
            6 => Self::Merged,
            7 => Self::Rule,
            8 => Self::Call,
            9 => Self::Return,
            10 => Self::Point,
            11 => Self::Stack,
            _ => return None,
        })
    }
}

impl Context {
    /// From the commit word's byte.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Task,
            1 => Self::Softirq,
            2 => Self::Hardirq,
            _ => Self::Nmi,
        }
    }
}

impl Record {
    /// Decodes a copied record.
    pub fn from_bytes(from: &[u8; RECORD]) -> Self {
        Self {
            commit: u64_at(from, 0),
            time: u64_at(from, 8),
            skb: u64_at(from, 16),
            head: u64_at(from, 24),
            arg: u64_at(from, 32),
            site: u32_at(from, 40),
            netns: u32_at(from, 44),
            ifindex: u32_at(from, 48),
            mark: u32_at(from, 52),
            pid: u32_at(from, 56),
            data: u32_at(from, 60),
            tail: u32_at(from, 64),
            end: u32_at(from, 68),
            len: u32_at(from, 72),
            mac_header: u16_at(from, 76),
            network_header: u16_at(from, 78),
            transport_header: u16_at(from, 80),
            protocol: u16_at(from, 82),
            vlan_protocol: u16_at(from, 84),
            vlan_tag: u16_at(from, 86),
            family: u16_at(from, 88),
            mac: bytes(from, 90),
            packet: bytes(from, 104),
        }
    }

    /// Low half of its sequence.
    pub const fn sequence(&self) -> u32 {
        self.commit as u32
    }

    /// Kind of event; `None`: not yet whole.
    pub const fn kind(&self) -> Option<Kind> {
        Kind::from_byte((self.commit >> 32) as u8)
    }

    /// In what the CPU was.
    pub const fn context(&self) -> Context {
        Context::from_byte((self.commit >> 40) as u8)
    }

    /// Tells whether `skb->sk` was set.
    pub const fn has_sock(&self) -> bool {
        (self.commit >> 56) as u8 & HAS_SOCK != 0
    }

    /// Tells whether the skb had its route.
    pub const fn has_dst(&self) -> bool {
        (self.commit >> 56) as u8 & HAS_DST != 0
    }

    /// Tells whether the memory is free from now on.
    pub const fn is_last(&self) -> bool {
        (self.commit >> 56) as u8 & IS_LAST != 0
    }

    /// The Ethernet header, where there is one.
    pub fn mac(&self) -> Option<[u8; MAC]> {
        ((self.commit >> 56) as u8 & HAS_MAC != 0).then_some(self.mac)
    }

    /// The tag that is not in the packet's bytes: its protocol and its `TCI`.
    pub fn vlan(&self) -> Option<(u16, u16)> {
        (self.vlan_protocol != 0).then_some((self.vlan_protocol, self.vlan_tag))
    }

    /// The packet's bytes, as many as there were.
    pub fn packet(&self) -> &[u8] {
        let len = usize::from((self.commit >> 48) as u8);
        self.packet.get(..len).unwrap_or(&self.packet)
    }

    /// The hooked function's whole address; of a tracepoint it has no meaning.
    pub const fn address(&self) -> u64 {
        0xffff_ffff_0000_0000 | self.site as u64
    }

    /// `skb->data_len`, in bytes.
    pub const fn data_len(&self) -> u32 {
        self.len.wrapping_sub(self.tail.wrapping_sub(self.data))
    }
}

impl RingHeader {
    /// Decodes a copied header.
    pub fn from_bytes(from: &[u8; size_of::<Self>()]) -> Self {
        Self {
            magic: u64_at(from, 0),
            version: u32_at(from, 8),
            record: u32_at(from, 12),
            cpu: u32_at(from, 16),
            slots: u32_at(from, 20),
            records: u64_at(from, 24),
            generation: u64_at(from, 32),
            produced: u64_at(from, 40),
            seen: u64_at(from, 48),
            rejected: u64_at(from, 56),
            unreadable: u64_at(from, 64),
            missed: u64_at(from, 72),
            forgotten: u64_at(from, 80),
        }
    }
}

impl Counters {
    /// Decodes the ioctl's answer; its `magic`, `version` and `cpus` are the caller's to check.
    pub fn from_bytes(from: &[u8; size_of::<Self>()]) -> Self {
        let ring = |i: usize| {
            let at = offset_of!(Self, rings) + i * size_of::<RingInfo>();
            RingInfo {
                header: u64_at(from, at),
                records: u64_at(from, at + 8),
                produced: u64_at(from, at + 16),
                seen: u64_at(from, at + 24),
                rejected: u64_at(from, at + 32),
                unreadable: u64_at(from, at + 40),
            }
        };
        Self {
            magic: u64_at(from, 0),
            version: u32_at(from, 8),
            cpus: u32_at(from, 12),
            slots: u32_at(from, 16),
            armed: u32_at(from, 20),
            sites: u32_at(from, 24),
            zero: u32_at(from, 28),
            missed: u64_at(from, 32),
            owner: u64_at(from, 40),
            age: u64_at(from, 48),
            rings: core::array::from_fn(ring),
        }
    }
}

impl Sites {
    /// The ioctl's bytes for at most [`SITES`] functions; more are left out.
    pub fn to_bytes(sites: &[Site]) -> [u8; size_of::<Self>()] {
        let mut to = [0; size_of::<Self>()];
        let count = sites.len().min(SITES);
        to[..4].copy_from_slice(&VERSION.to_le_bytes());
        to[4..8].copy_from_slice(&(count as u32).to_le_bytes());
        for (to, site) in to[16..].chunks_exact_mut(size_of::<Site>()).zip(sites) {
            to[..8].copy_from_slice(&site.address.to_le_bytes());
            to[8] = site.position;
            to[9] = site.how;
        }
        to
    }
}

impl Arm {
    /// The ioctl's bytes.
    pub fn to_bytes(self) -> [u8; size_of::<Self>()] {
        let mut to = [0; size_of::<Self>()];
        to[..4].copy_from_slice(&self.version.to_le_bytes());
        to[4..8].copy_from_slice(&self.ring.to_le_bytes());
        to[8..16].copy_from_slice(&self.tracepoints.to_le_bytes());
        to[16..24].copy_from_slice(&self.owner.to_le_bytes());
        to
    }
}

impl Filter {
    /// The ioctl's bytes.
    pub fn to_bytes(self) -> [u8; size_of::<Self>()] {
        let mut to = [0; size_of::<Self>()];
        let words = [
            self.version,
            self.flags,
            self.ifindex,
            self.netns,
            self.mark,
            self.mark_mask,
        ];
        for (to, word) in to.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        to[24] = self.family;
        to[25] = self.protocol;
        to[26..28].copy_from_slice(&self.source_port.to_le_bytes());
        to[28..30].copy_from_slice(&self.destination_port.to_le_bytes());
        to[32..48].copy_from_slice(&self.source);
        to[48..64].copy_from_slice(&self.destination);
        to
    }
}
