//! One `struct sk_buff` (`include/linux/skbuff.h`), read in place: the memory that it describes, and its payload.

use serde::Serialize;

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::traffic::describe;
use crate::{Error, Result};

/// No linear part of an `sk_buff` is longer: `SKB_MAX_ALLOC` is four pages.
const MOST: u64 = 1 << 20;

#[derive(Debug, Mirror)]
#[mirror(c = "struct sk_buff")]
struct Raw {
    head: GuestVirt,
    data: GuestVirt,
    tail: u32,
    end: u32,
    len: u32,
    data_len: u32,
    truesize: u32,
    mac_header: u16,
    network_header: u16,
    transport_header: u16,
    #[mirror(member = "protocol")]
    protocol: u16,
    #[mirror(member = "users.refs.counter")]
    users: i32,
    dev: GuestVirt,
    sk: GuestVirt,
    cloned: bool,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct skb_shared_info")]
struct Shared {
    nr_frags: u8,
    gso_size: u16,
    gso_segs: u16,
    #[mirror(member = "dataref.counter")]
    dataref: i32,
}

/// One `sk_buff`. Offsets are bytes from `head`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkBuff {
    /// Its own address.
    pub at: GuestVirt,
    /// The memory that it describes.
    pub head: GuestVirt,
    /// Start of the data of the layer at work: `data`.
    pub data: u64,
    /// End of the data: `tail`.
    pub tail: u32,
    /// End of the memory, where `skb_shared_info` begins: `end`.
    pub end: u32,
    /// Bytes of the packet, in fragments too.
    pub len: u32,
    /// Bytes that are in fragments.
    pub data_len: u32,
    /// Bytes that it is charged with.
    pub truesize: u32,
    /// The Ethernet header; `None` when not set.
    pub mac_header: Option<u16>,
    /// The IP header.
    pub network_header: u16,
    /// The TCP or UDP header; `None` when not set.
    pub transport_header: Option<u16>,
    /// The EtherType as a number.
    pub protocol: u16,
    /// References to the `sk_buff`.
    pub users: i32,
    /// References to its memory (`dataref`), from clones too.
    pub dataref: i32,
    /// True if another `sk_buff` may share the memory.
    pub cloned: bool,
    /// Fragments.
    pub nr_frags: u8,
    /// Segments that it stands for, and the size of each; 0: one.
    pub gso: (u16, u16),
    /// `struct net_device`; NULL once it is in a socket.
    pub dev: GuestVirt,
    /// `struct sock` that it is charged to.
    pub sk: GuestVirt,
    /// The memory from `head` to `tail`.
    pub bytes: Vec<u8>,
}

impl Guest {
    /// The `sk_buff` at an address.
    ///
    /// # Errors
    /// When what lies there is none: its offsets must be in order.
    pub fn sk_buff(&self, at: GuestVirt) -> Result<SkBuff> {
        SkBuff::read(&self.kernel()?, at)
    }
}

impl SkBuff {
    fn read(kernel: &Kernel, at: GuestVirt) -> Result<Self> {
        let raw: Raw = kernel.load(at)?;
        let data = raw.data.0.wrapping_sub(raw.head.0);
        let in_order = data <= u64::from(raw.tail) && raw.tail <= raw.end;
        if !in_order || u64::from(raw.end) > MOST {
            return Err(Error::Broken {
                what: "sk_buff",
                at,
                why: format!(
                    "data, tail and end are at {data}, {} and {} of its memory",
                    raw.tail, raw.end
                ),
            });
        }
        let shared: Shared = kernel.load(raw.head.offset(u64::from(raw.end)))?;
        let mut bytes = vec![0; raw.tail as usize];
        kernel.read(raw.head, &mut bytes)?;
        let set = |offset: u16| (offset != u16::MAX).then_some(offset);
        Ok(Self {
            at,
            head: raw.head,
            data,
            tail: raw.tail,
            end: raw.end,
            len: raw.len,
            data_len: raw.data_len,
            truesize: raw.truesize,
            mac_header: set(raw.mac_header),
            network_header: raw.network_header,
            transport_header: set(raw.transport_header),
            protocol: raw.protocol.swap_bytes(),
            users: raw.users,
            dataref: shared.dataref & 0xffff,
            cloned: raw.cloned,
            nr_frags: shared.nr_frags,
            gso: (shared.gso_segs, shared.gso_size),
            dev: raw.dev,
            sk: raw.sk,
            bytes,
        })
    }

    /// The bytes of the layer at work: `data` to `tail`.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.bytes
            .get(usize::try_from(self.data).unwrap_or(usize::MAX)..)
            .unwrap_or_default()
    }

    /// The packet in one line.
    #[must_use]
    pub fn packet(&self) -> String {
        // A new one's network header is at 0, where there is headroom, and its data may be anything before it has a protocol.
        let header = u32::from(self.network_header);
        let from = match (header != 0 && header < self.tail, self.protocol) {
            (true, _) => Some(u64::from(header)),
            (false, 0) => None,
            (false, _) => Some(self.data),
        };
        let bytes = |from: u64| self.bytes.get(usize::try_from(from).ok()?..);
        from.and_then(bytes).map_or_else(
            || "no network header yet (protocol 0x0000)".to_owned(),
            describe,
        )
    }

    /// The marks in its memory, in the order of their offsets.
    pub(super) fn marks(&self) -> Vec<(&'static str, u64)> {
        let mut marks = vec![
            ("head", 0),
            ("data", self.data),
            ("tail", u64::from(self.tail)),
            ("end", u64::from(self.end)),
            ("network_header", u64::from(self.network_header)),
        ];
        marks.extend(self.mac_header.map(|at| ("mac_header", u64::from(at))));
        marks.extend(
            self.transport_header
                .map(|at| ("transport_header", u64::from(at))),
        );
        marks.sort_by_key(|(_, at)| *at);
        marks
    }
}
