//! Types that the module and the host share: the record of one event, the ring of one CPU, the ioctls of `/dev/klab`.
//!
//! The module (`kmod/`) and `probes` compile this same file. It is `no_std`, has no `unsafe` and no I/O. All numbers
//! are little-endian; the layout is asserted below, so a change that moves a member does not compile: bump
//! [`VERSION`] then.
//!
//! # A ring, as a reader sees it
//! Each CPU has a [`RingHeader`] page and `slots` records of [`RECORD`] bytes, both physically
//! contiguous; [`Counters`] gives the header's guest-physical address. Only its own CPU writes a ring, from a task, a
//! softirq, a hard IRQ or an NMI, each of which may interrupt another half-way through a record:
//! 1. the writer takes sequence `n = produced++`; its slot is `n % slots`;
//! 2. it stores 0 to the slot's `commit`, then the record, then `commit`, whose low half is `n as u32`.
//!
//! So to read record `n < produced`: load `commit` (acquire). Is its kind 0 or its low half that of an older lap
//! (`(n as u32).wrapping_sub(low) as i32 > 0`), the record is still being written: come again. Is it newer, the record
//! was overwritten: lost. Else copy the record and load `produced` (after an acquire fence): if that is more than `slots` ahead of `n`,
//! another took the slot meanwhile and the record is lost. Every `n` from the first to `produced` is thus either delivered or counted as
//! lost. Sequences go on over arming and disarming; begin at the `produced` of the moment.
#![allow(dead_code, unreachable_pub)] // each side uses its half, in a module of its own

use core::mem::{offset_of, size_of};

// By path: this file has another place in each crate that compiles it.
#[path = "bytes.rs"]
pub(crate) mod bytes;

/// `KLABRING` in memory.
pub const MAGIC: u64 = u64::from_le_bytes(*b"KLABRING");
/// Version of this file's layouts; a module and a host of different versions refuse each other.
pub const VERSION: u32 = 5;
/// Bytes of a record.
pub const RECORD: usize = size_of::<Record>();
/// Bytes of the packet in a record: an IPv6 header, some extension headers behind it, and what tells of the layer above.
pub const PACKET: usize = 88;
/// Bytes of an Ethernet header.
pub const MAC: usize = 14;
/// CPUs that a module serves.
pub const MAX_CPUS: usize = 64;
/// The most bytes of one CPU's records: what `alloc_pages_exact` gives in one piece.
pub const MAX_RING: u32 = 4 << 20;
/// The fewest.
pub const MIN_RING: u32 = 4096;
/// Sites of one [`Sites`] ioctl.
pub const SITES: usize = 512;
/// The most sites of one capture.
pub const MAX_SITES: usize = 16384;
/// Argument positions that are in registers.
pub const POSITIONS: u8 = 6;

/// One event, as it lies in the ring.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Sequence (low half), then one byte each: [`Kind`], [`Context`], bytes valid in `packet`, [`HAS_SOCK`],
    /// [`HAS_DST`], [`HAS_MAC`] and [`IS_LAST`]. See [`commit`].
    pub commit: u64,
    /// Time, in nanoseconds: `ktime_get_mono_fast_ns()`.
    pub time: u64,
    /// The `sk_buff`'s address.
    pub skb: u64,
    /// Address of its memory: `skb->head`.
    pub head: u64,
    /// Argument, by [`Kind`].
    pub arg: u64,
    /// Low half of the hooked function's address (kernel and module text lie in the top 2 GiB, so the high half
    /// is all ones); of a tracepoint its [`Tracepoint`].
    pub site: u32,
    /// `ns.inum` of the network namespace (of the device, else of the socket); 0 when neither is set.
    pub netns: u32,
    /// `skb->dev->ifindex`; 0 without a device.
    pub ifindex: u32,
    /// `skb->mark`.
    pub mark: u32,
    /// `current->pid`; says nothing of whose packet it is in an interrupt.
    pub pid: u32,
    /// `skb->data - skb->head`, in bytes.
    pub data: u32,
    /// `skb->tail`, in bytes from `head`.
    pub tail: u32,
    /// `skb->end`, in bytes from `head`.
    pub end: u32,
    /// `skb->len`, in bytes. `data_len` is `len - (tail - data)`, by definition of `skb_headlen()`.
    pub len: u32,
    /// `skb->mac_header`, in bytes from `head`; 0xffff: not set.
    pub mac_header: u16,
    /// `skb->network_header`, in bytes from `head`.
    pub network_header: u16,
    /// `skb->transport_header`, in bytes from `head`; 0xffff: not set.
    pub transport_header: u16,
    /// `skb->protocol` as a number (0x0800 is IPv4).
    pub protocol: u16,
    /// `skb->vlan_proto` as a number, of a tag that is not in the packet's bytes; 0: there is none.
    pub vlan_protocol: u16,
    /// `skb->vlan_tci` of that tag.
    pub vlan_tag: u16,
    /// `skb->sk->sk_family`; 0 without a socket.
    pub family: u16,
    /// The Ethernet header at `mac_header`, with [`HAS_MAC`].
    pub mac: [u8; MAC],
    /// From the network header if that lies within `data..tail` or was pulled, else from `data`; linear part only.
    pub packet: [u8; PACKET],
}

const _: () = {
    assert!(size_of::<Record>() == 192);
    assert!(offset_of!(Record, time) == 8 && offset_of!(Record, skb) == 16);
    assert!(offset_of!(Record, head) == 24 && offset_of!(Record, arg) == 32);
    assert!(offset_of!(Record, site) == 40 && offset_of!(Record, netns) == 44);
    assert!(offset_of!(Record, ifindex) == 48 && offset_of!(Record, mark) == 52);
    assert!(offset_of!(Record, pid) == 56 && offset_of!(Record, data) == 60);
    assert!(offset_of!(Record, tail) == 64 && offset_of!(Record, end) == 68);
    assert!(offset_of!(Record, len) == 72 && offset_of!(Record, mac_header) == 76);
    assert!(offset_of!(Record, network_header) == 78 && offset_of!(Record, transport_header) == 80);
    assert!(offset_of!(Record, protocol) == 82 && offset_of!(Record, vlan_protocol) == 84);
    assert!(offset_of!(Record, vlan_tag) == 86 && offset_of!(Record, family) == 88);
    assert!(offset_of!(Record, mac) == 90 && offset_of!(Record, packet) == 104);
    assert!(size_of::<RingHeader>() == 88 && offset_of!(RingHeader, produced) == 40);
    assert!(size_of::<Site>() == 16 && size_of::<Sites>() == 16 + SITES * 16);
    assert!(size_of::<Arm>() == 24 && size_of::<Filter>() == 64);
    assert!(size_of::<RingInfo>() == 48 && size_of::<Counters>() == 56 + MAX_CPUS * 48);
    // The size has 14 bits in an ioctl's number.
    assert!(size_of::<Sites>() < 1 << 14 && size_of::<Counters>() < 1 << 14);
};

/// The word that makes a record whole.
pub const fn commit(sequence: u64, kind: u8, context: u8, packet: u8, flags: u8) -> u64 {
    sequence & 0xffff_ffff
        | (kind as u64) << 32
        | (context as u64) << 40
        | (packet as u64) << 48
        | (flags as u64) << 56
}

/// `skb->sk` was set.
pub const HAS_SOCK: u8 = 1;
/// The skb had its route: `skb_dst()`.
pub const HAS_DST: u8 = 2;
/// The skb has an Ethernet header right before its network header.
pub const HAS_MAC: u8 = 4;
/// Flag of a function of [`How::End`]: nobody else has the memory, so it is free from now on.
pub const IS_LAST: u8 = 8;

/// Kinds of events.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A function was called with this skb. `arg`: `skb->_nfct`, the `nf_conn` with `enum ip_conntrack_info` in its low
    /// three bits.
    Entry = 1,
    /// A function of [`How::Return`] came back. `arg`: its return value. The skb may be freed by then, so it is not
    /// read: the record has its address and `head` of the entry, the rest is 0.
    Exit = 2,
    /// A tracepoint fired. `arg`: by [`Tracepoint`].
    Tracepoint = 3,
    /// A function of [`How::Derive`] made this skb. `arg`: the skb it was made from.
    Derived = 4,
    /// A function of [`How::Resize`] came back. `arg`: `skb->head` before.
    Resized = 5,
    /// A function of [`How::Merge`] was called: this skb is about to become part of the one in `arg`.
    Merged = 6,
    /// A function of [`How::Rule`] was called for this skb. `arg`: its `struct nft_expr`, which lies in a rule.
    Rule = 7,
    /// A function of [`How::Call`] was called: the record is a `CallRecord`.
    Call = 8,
    /// A function of [`How::Call`] came back: the record is a `CallRecord`.
    Return = 9,
    /// A tracepoint of [`How::Point`] fired: the record is a `CallRecord`.
    Point = 10,
    /// The stack of the call or the tracepoint with the same site, PID and `entered`: a `CallRecord`, whose `text` has return
    /// addresses.
    Stack = 11,
}

/// In what the CPU was.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Context {
    /// A task, `current`.
    Task = 0,
    /// A softirq.
    Softirq = 1,
    /// A hardware interrupt.
    Hardirq = 2,
    /// A non-maskable interrupt.
    Nmi = 3,
}

/// The tracepoints that a module knows; [`Arm::tracepoints`] has bit `1 << id` for each that is wanted.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tracepoint {
    /// `netif_receive_skb(skb)`.
    NetifReceiveSkb = 1,
    /// `netif_rx(skb)`.
    NetifRx = 2,
    /// `net_dev_queue(skb)`.
    NetDevQueue = 3,
    /// `net_dev_start_xmit(skb, dev)`.
    NetDevStartXmit = 4,
    /// `net_dev_xmit(skb, rc, dev, len)`. `arg`: `rc`. The skb may be freed by then: it is only named, `head` is 0.
    NetDevXmit = 5,
    /// `kfree_skb(skb, location, reason, rx_sk)`. `arg`: `reason`, and in its high half the low half of `location`.
    KfreeSkb = 6,
    /// `consume_skb(skb, location)`. `arg`: `location`.
    ConsumeSkb = 7,
    /// `napi_gro_receive_entry(skb)`.
    NapiGroReceiveEntry = 8,
}

impl Tracepoint {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::NetifReceiveSkb,
        Self::NetifRx,
        Self::NetDevQueue,
        Self::NetDevStartXmit,
        Self::NetDevXmit,
        Self::KfreeSkb,
        Self::ConsumeSkb,
        Self::NapiGroReceiveEntry,
    ];

    /// The kernel's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetifReceiveSkb => "netif_receive_skb",
            Self::NetifRx => "netif_rx",
            Self::NetDevQueue => "net_dev_queue",
            Self::NetDevStartXmit => "net_dev_start_xmit",
            Self::NetDevXmit => "net_dev_xmit",
            Self::KfreeSkb => "kfree_skb",
            Self::ConsumeSkb => "consume_skb",
            Self::NapiGroReceiveEntry => "napi_gro_receive_entry",
        }
    }
}

/// Ways to hook a function.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum How {
    /// [`Kind::Entry`].
    Entry = 0,
    /// [`Kind::Entry`] and [`Kind::Exit`]: a netfilter hook function and its verdict.
    Return = 1,
    /// [`Kind::Entry`] and, for each skb of the list it returns, [`Kind::Derived`]: `skb_clone`, `skb_copy`, `skb_segment`.
    Derive = 2,
    /// [`Kind::Entry`] and [`Kind::Resized`]: `pskb_expand_head`.
    Resize = 3,
    /// [`Kind::Merged`], into the skb of argument 0: `skb_gro_receive`.
    Merge = 4,
    /// [`Kind::Entry`], and the memory of the skb is free if nothing else has it: `skb_release_data`.
    End = 5,
    /// [`Kind::Rule`]: evaluates an expression of nftables, argument 0, for the packet of a `struct nft_pktinfo`, which is
    /// the argument at the position.
    Rule = 6,
    /// [`Kind::Call`] and [`Kind::Return`], of any function. The position is the number of its plan: see `call`.
    Call = 7,
    /// [`Kind::Point`], of any tracepoint: the address is that of its `struct tracepoint`. The position is as of [`How::Call`].
    Point = 8,
}

impl How {
    /// The last of them.
    pub const LAST: Self = Self::Point;
}

/// The first page of a ring; the counters are each written by the ring's CPU only.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingHeader {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// [`RECORD`].
    pub record: u32,
    /// CPU of the ring.
    pub cpu: u32,
    /// Number of records that fit.
    pub slots: u32,
    /// Guest-physical address of the first record.
    pub records: u64,
    /// Counts the armings; odd while armed.
    pub generation: u64,
    /// Sequences given out: the next record's.
    pub produced: u64,
    /// Times a hook was called; of [`How::Call`] not its returns.
    pub seen: u64,
    /// Times the filter said no.
    pub rejected: u64,
    /// Times an argument was no readable `sk_buff` (NULL, mostly).
    pub unreadable: u64,
    /// Exits that the kernel's fprobe could not watch (`nmissed`); counted in CPU 0's ring, when asked by ioctl.
    pub missed: u64,
    /// Packets that the filter had let through and that could be followed no more: the table was full.
    pub forgotten: u64,
}

/// A function to hook.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// Its address, as in kallsyms.
    pub address: u64,
    /// Number of the argument that is the skb, from 0; below [`POSITIONS`]. Of [`How::Call`] and [`How::Point`] the plan.
    pub position: u8,
    /// [`How`].
    pub how: u8,
    /// 0.
    pub zero: [u8; 6],
}

/// Adds functions to those that [`Arm`] will hook; the first makes this open file the armer, until it disarms or closes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sites {
    /// [`VERSION`].
    pub version: u32,
    /// Number of `sites` that are meant.
    pub count: u32,
    /// 0.
    pub zero: u64,
    /// The functions.
    pub sites: [Site; SITES],
}

/// Begins.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arm {
    /// [`VERSION`].
    pub version: u32,
    /// Bytes of each CPU's records, a power of two from [`MIN_RING`] to [`MAX_RING`]; 0: [`MAX_RING`].
    pub ring: u32,
    /// Bit `1 << id` for each [`Tracepoint`].
    pub tracepoints: u64,
    /// The process that records, as the host numbers it: for a client that finds the device busy.
    pub owner: u64,
}

/// Packets to record; a part that is zero matches anything. Set before arming, forgotten by disarming.
///
/// A packet that matched once is followed, also with other addresses, until its memory is free.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    /// [`VERSION`].
    pub version: u32,
    /// [`EITHER_WAY`].
    pub flags: u32,
    /// The device's.
    pub ifindex: u32,
    /// `ns.inum` of the network namespace.
    pub netns: u32,
    /// `skb->mark & mark_mask` must be this.
    pub mark: u32,
    /// 0: any mark.
    pub mark_mask: u32,
    /// 4 or 6.
    pub family: u8,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// As a number.
    pub source_port: u16,
    /// As a number.
    pub destination_port: u16,
    /// 0.
    pub zero: u16,
    /// IPv4: its first four bytes.
    pub source: [u8; 16],
    /// IPv4: its first four bytes.
    pub destination: [u8; 16],
}

/// [`Filter::flags`]: packets of the opposite direction too.
pub const EITHER_WAY: u32 = 1;

/// One ring, in [`Counters`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingInfo {
    /// Guest-physical address of its [`RingHeader`].
    pub header: u64,
    /// Guest-physical address of its records.
    pub records: u64,
    /// [`RingHeader::produced`].
    pub produced: u64,
    /// [`RingHeader::seen`].
    pub seen: u64,
    /// [`RingHeader::rejected`].
    pub rejected: u64,
    /// [`RingHeader::unreadable`].
    pub unreadable: u64,
}

/// State of the module. Anyone who opened the device may ask.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// Number of `rings` there are; 0 before the first arming.
    pub cpus: u32,
    /// Records of each ring.
    pub slots: u32,
    /// 1 while armed.
    pub armed: u32,
    /// Functions that are hooked.
    pub sites: u32,
    /// 0.
    pub zero: u32,
    /// Exits that fprobe could not watch.
    pub missed: u64,
    /// [`Arm::owner`] of the client that armed.
    pub owner: u64,
    /// Time since it was armed, in nanoseconds.
    pub age: u64,
    /// By CPU.
    pub rings: [RingInfo; MAX_CPUS],
}

pub const fn ioctl(direction: u32, number: u32, size: usize) -> u32 {
    direction << 30 | (size as u32) << 16 | (b'K' as u32) << 8 | number
}

/// Takes [`Sites`].
pub const KLAB_SITES: u32 = ioctl(1, 1, size_of::<Sites>());
/// Takes [`Arm`].
pub const KLAB_ARM: u32 = ioctl(1, 2, size_of::<Arm>());
/// Takes [`Filter`].
pub const KLAB_FILTER: u32 = ioctl(1, 3, size_of::<Filter>());
/// Ends a capture, and forgets sites, filter and plans; the rings stay readable until the next arming or unloading.
pub const KLAB_DISARM: u32 = ioctl(0, 4, 0);
/// Gives [`Counters`].
pub const KLAB_COUNTERS: u32 = ioctl(2, 5, size_of::<Counters>());

impl Filter {
    /// Everything.
    pub const ANY: Self = Self {
        version: VERSION,
        flags: 0,
        ifindex: 0,
        netns: 0,
        mark: 0,
        mark_mask: 0,
        family: 0,
        protocol: 0,
        source_port: 0,
        destination_port: 0,
        zero: 0,
        source: [0; 16],
        destination: [0; 16],
    };
}

impl RingInfo {
    /// Counters of a CPU that is not there.
    pub const NONE: Self = Self {
        header: 0,
        records: 0,
        produced: 0,
        seen: 0,
        rejected: 0,
        unreadable: 0,
    };
}
