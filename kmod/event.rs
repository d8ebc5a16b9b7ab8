// SPDX-License-Identifier: GPL-2.0

//! What a hook saw: filtered, and written into the ring of its CPU.
//!
//! This runs in tasks, softirqs, hard IRQs and NMIs, each of which may interrupt another one here, with preemption
//! off: no lock, no allocation, no sleep, and no arithmetic that could overflow (the kernel is built with overflow checks).

use core::cell::UnsafeCell;
use core::mem::{offset_of, size_of};
use core::ptr;
use core::sync::atomic::{fence, AtomicU64, Ordering};

use crate::ring::{Filter, Record, RingHeader, EITHER_WAY, PACKET};
use crate::rings;

/// `struct klab_event` of hooks.h.
#[repr(C)]
pub(crate) struct Event {
    time: u64,
    skb: u64,
    head: u64,
    arg: u64,
    site: u32,
    netns: u32,
    ifindex: u32,
    mark: u32,
    pid: u32,
    data: u32,
    tail: u32,
    end: u32,
    len: u32,
    mac_header: u16,
    network_header: u16,
    transport_header: u16,
    protocol: u16,
    cpu: u32,
    kind: u8,
    context: u8,
    readable: u8,
    packet_len: u8,
    packet: [u8; PACKET],
    sock_source: [u8; 16],
    sock_destination: [u8; 16],
    sock_source_port: u16,
    sock_destination_port: u16,
    sock_family: u8,
    sock_protocol: u8,
    zero: [u8; 2],
}

const _: () = {
    assert!(size_of::<Event>() == 168);
    assert!(offset_of!(Event, cpu) == 76 && offset_of!(Event, packet) == 84);
    assert!(offset_of!(Event, sock_source) == 128 && offset_of!(Event, sock_family) == 164);
};

struct Shared(UnsafeCell<Filter>);

// SAFETY: Written only while no hook is registered (see `set_filter`), else read only.
unsafe impl Sync for Shared {}

static FILTER: Shared = Shared(UnsafeCell::new(Filter::ANY));

/// Sets what will be recorded.
///
/// # Safety
/// No hook may be registered, and the capture's lock is held. Registering a hook orders this write before its first run.
pub(crate) unsafe fn set_filter(filter: Filter) {
    // SAFETY: As the caller promises.
    unsafe { FILTER.0.get().write(filter) };
}

/// Called by every hook, with preemption off.
///
/// # Safety
/// `event` must be valid for reads.
#[no_mangle]
pub(crate) unsafe extern "C" fn klab_record(event: *const Event) -> bool {
    // SAFETY: As the caller promises.
    let event = unsafe { &*event };
    let Some((header, records)) = rings::of(event.cpu) else {
        return false;
    };
    count(header, offset_of!(RingHeader, seen));
    if event.readable == 0 {
        count(header, offset_of!(RingHeader, unreadable));
        return false;
    }
    // SAFETY: Not written while hooks are registered.
    let filter = unsafe { &*FILTER.0.get() };
    // What is only named was let through at its entry, or has no packet to match.
    if event.kind != crate::ring::Kind::Exit as u8 && !matches(filter, event) {
        count(header, offset_of!(RingHeader, rejected));
        return false;
    }
    let sequence = count(header, offset_of!(RingHeader, produced));
    // SAFETY: `slots` does not change while hooks are registered; it is a power of two, so the index is below it.
    let at =
        unsafe { records.add((sequence & u64::from((*header).slots).wrapping_sub(1)) as usize) };
    write(at, sequence, event);
    true
}

/// Adds 1 to one of the header's counters; gives what it was.
fn count(header: *mut RingHeader, at: usize) -> u64 {
    // SAFETY: `at` is the offset of a u64 of the header, which exists while hooks are registered.
    let counter = unsafe { AtomicU64::from_ptr(header.byte_add(at).cast()) };
    counter.fetch_add(1, Ordering::Relaxed)
}

/// See `ring`: 0 to `commit`, the record, `commit`.
fn write(at: *mut Record, sequence: u64, event: &Event) {
    let record = Record {
        commit: 0,
        time: event.time,
        skb: event.skb,
        head: event.head,
        arg: event.arg,
        site: event.site,
        netns: event.netns,
        ifindex: event.ifindex,
        mark: event.mark,
        pid: event.pid,
        data: event.data,
        tail: event.tail,
        end: event.end,
        len: event.len,
        mac_header: event.mac_header,
        network_header: event.network_header,
        transport_header: event.transport_header,
        protocol: event.protocol,
        packet: event.packet,
    };
    let whole = sequence & 0xffff_ffff
        | u64::from(event.kind) << 32
        | u64::from(event.context) << 40
        | u64::from(event.packet_len) << 48;
    // SAFETY: `at` is one of the ring's slots, which only this CPU writes; the host only reads it.
    unsafe {
        let commit = AtomicU64::from_ptr(&raw mut (*at).commit);
        commit.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        ptr::write_volatile(at, record);
        commit.store(whole, Ordering::Release);
    }
}

/// Whether the filter lets this through.
fn matches(filter: &Filter, event: &Event) -> bool {
    (filter.ifindex == 0 || filter.ifindex == event.ifindex)
        && (filter.netns == 0 || filter.netns == event.netns)
        && event.mark & filter.mark_mask == filter.mark & filter.mark_mask
        && matches_tuple(filter, event)
}

fn matches_tuple(filter: &Filter, event: &Event) -> bool {
    let asks_ports = filter.source_port != 0 || filter.destination_port != 0;
    let asks = filter.family != 0
        || filter.protocol != 0
        || asks_ports
        || filter.source != [0; 16]
        || filter.destination != [0; 16];
    if !asks {
        return true;
    }
    let Some(tuple) = Tuple::of(event) else {
        return false;
    };
    if filter.family != 0 && filter.family != tuple.family
        || filter.protocol != 0 && filter.protocol != tuple.protocol
    {
        return false;
    }
    let way = |source: (&[u8; 16], u16), destination: (&[u8; 16], u16)| {
        (*source.0 == [0; 16] || *source.0 == tuple.source)
            && (*destination.0 == [0; 16] || *destination.0 == tuple.destination)
            && (source.1 == 0 || Some(source.1) == tuple.ports.map(|ports| ports.0))
            && (destination.1 == 0 || Some(destination.1) == tuple.ports.map(|ports| ports.1))
    };
    let source = (&filter.source, filter.source_port);
    let destination = (&filter.destination, filter.destination_port);
    way(source, destination) || filter.flags & EITHER_WAY != 0 && way(destination, source)
}

/// What the packet's headers say; the socket where there are none yet.
struct Tuple {
    family: u8,
    protocol: u8,
    source: [u8; 16],
    destination: [u8; 16],
    ports: Option<(u16, u16)>,
}

impl Tuple {
    fn of(event: &Event) -> Option<Self> {
        let packet = event
            .packet
            .get(..usize::from(event.packet_len))
            .unwrap_or_default();
        match (packet.first().map_or(0, |first| first >> 4), event.protocol) {
            // On its way out an skb gets its protocol late.
            (4, 0x0800 | 0) => Self::ipv4(packet),
            (6, 0x86dd | 0) => Self::ipv6(packet),
            _ => None,
        }
        .or_else(|| Self::of_sock(event))
    }

    fn of_sock(event: &Event) -> Option<Self> {
        (event.sock_family != 0).then_some(Self {
            family: event.sock_family,
            protocol: event.sock_protocol,
            source: event.sock_source,
            destination: event.sock_destination,
            ports: Some((event.sock_source_port, event.sock_destination_port)),
        })
    }

    fn ipv4(packet: &[u8]) -> Option<Self> {
        let mut tuple = Self {
            family: 4,
            protocol: *packet.get(9)?,
            source: [0; 16],
            destination: [0; 16],
            ports: None,
        };
        tuple.source[..4].copy_from_slice(packet.get(12..16)?);
        tuple.destination[..4].copy_from_slice(packet.get(16..20)?);
        let first_fragment = (packet.get(6)? & 0x1f) == 0 && *packet.get(7)? == 0;
        if first_fragment {
            tuple.ports = ports(
                packet,
                usize::from(packet.first()? & 15).wrapping_mul(4),
                tuple.protocol,
            );
        }
        Some(tuple)
    }

    fn ipv6(packet: &[u8]) -> Option<Self> {
        let protocol = *packet.get(6)?;
        Some(Self {
            family: 6,
            protocol,
            source: packet.get(8..24)?.try_into().ok()?,
            destination: packet.get(24..40)?.try_into().ok()?,
            ports: ports(packet, 40, protocol),
        })
    }
}

/// TCP, UDP, DCCP, SCTP and UDP-Lite begin with their ports.
fn ports(packet: &[u8], at: usize, protocol: u8) -> Option<(u16, u16)> {
    if !matches!(protocol, 6 | 17 | 33 | 132 | 136) {
        return None;
    }
    let ports = packet.get(at..at.wrapping_add(4))?;
    Some((
        u16::from_be_bytes([ports[0], ports[1]]),
        u16::from_be_bytes([ports[2], ports[3]]),
    ))
}
