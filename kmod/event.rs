// SPDX-License-Identifier: GPL-2.0

//! Events that a hook saw: filtered, and written into the ring of its CPU.
//!
//! This runs in tasks, softirqs, hard IRQs and NMIs, each of which may interrupt another one here, with preemption
//! off: no lock, no allocation, no sleep, and no arithmetic that could overflow (the kernel is built with overflow checks).

use core::cell::UnsafeCell;
use core::mem::{offset_of, size_of};
use core::ptr;
use core::sync::atomic::{fence, AtomicU64, Ordering};

use crate::filter::Tuple;
use crate::ring::{commit, Filter, Kind, Record, RingHeader, Tracepoint, MAC, PACKET};
use crate::{rings, track};

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
    vlan_protocol: u16,
    vlan_tag: u16,
    family: u16,
    mac: [u8; MAC],
    packet: [u8; PACKET],
    sock_source: [u8; 16],
    sock_destination: [u8; 16],
    sock_source_port: u16,
    sock_destination_port: u16,
    sock_family: u8,
    sock_protocol: u8,
    flags: u8,
    last: u8,
}

const _: () = {
    assert!(size_of::<Event>() == 232);
    assert!(offset_of!(Event, cpu) == 76 && offset_of!(Event, vlan_protocol) == 84);
    assert!(offset_of!(Event, mac) == 90 && offset_of!(Event, packet) == 104);
    assert!(offset_of!(Event, sock_source) == 192 && offset_of!(Event, sock_family) == 228);
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
    track::clear();
}

/// Called by the hooks once they have the packet's first bytes: whether the filter may want it. Most do not, and then nothing
/// more is looked at.
///
/// # Safety
/// `event` must be valid for reads.
#[no_mangle]
pub(crate) unsafe extern "C" fn klab_may(event: *const Event) -> bool {
    // SAFETY: As the caller promises.
    let event = unsafe { &*event };
    // SAFETY: Not written while hooks are registered.
    let filter = unsafe { &*FILTER.0.get() };
    // A packet that was made from another may be followed by that other.
    let derived = event.kind == Kind::Derived as u8 || event.kind == Kind::Resized as u8;
    if !filter.asks_tuple() || derived {
        return true;
    }
    let wanted = match of_packet(event) {
        Some(tuple) => filter.matches(&tuple) || track::contains(event.head),
        None => true,
    };
    if let (false, Some((header, _))) = (wanted, rings::of(event.cpu)) {
        count(header, offset_of!(RingHeader, seen));
        count(header, offset_of!(RingHeader, rejected));
    }
    wanted
}

/// Called by every hook, with preemption off.
///
/// # Safety
/// `event` must be valid for reads.
#[no_mangle]
pub(crate) unsafe extern "C" fn klab_record(event: *const Event) -> bool {
    // SAFETY: As the caller promises.
    let event = unsafe { &*event };
    let Some((header, _)) = rings::of(event.cpu) else {
        return false;
    };
    count(header, offset_of!(RingHeader, seen));
    if event.readable == 0 {
        count(header, offset_of!(RingHeader, unreadable));
        return false;
    }
    // SAFETY: Not written while hooks are registered.
    let filter = unsafe { &*FILTER.0.get() };
    // An exit's entry was let through.
    if *filter != Filter::ANY && event.kind != Kind::Exit as u8 && !wanted(header, filter, event) {
        count(header, offset_of!(RingHeader, rejected));
        return false;
    }
    let Some((sequence, at)) = slot(event.cpu) else {
        return false;
    };
    write(at, sequence, event);
    true
}

/// The next sequence of a CPU's ring, and its slot, which is the caller's to write.
pub(crate) fn slot(cpu: u32) -> Option<(u64, *mut Record)> {
    let (header, records) = rings::of(cpu)?;
    let sequence = count(header, offset_of!(RingHeader, produced));
    // SAFETY: `slots` does not change while hooks are registered.
    let slots = u64::from(unsafe { (*header).slots });
    let index = sequence.checked_rem(slots)?;
    // SAFETY: The index is below `slots`; without any, nothing is written.
    Some((sequence, unsafe { records.add(index as usize) }))
}

/// Adds 1 to one of the header's counters; gives what it was.
pub(crate) fn count(header: *mut RingHeader, at: usize) -> u64 {
    // SAFETY: `at` is the offset of a u64 of the header, which exists while hooks are registered.
    let counter = unsafe { AtomicU64::from_ptr(header.byte_add(at).cast()) };
    counter.fetch_add(1, Ordering::Relaxed)
}

/// Writes an event as a record.
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
        vlan_protocol: event.vlan_protocol,
        vlan_tag: event.vlan_tag,
        family: event.family,
        mac: event.mac,
        packet: event.packet,
    };
    let whole = commit(
        sequence,
        event.kind,
        event.context,
        event.packet_len,
        event.flags,
    );
    // SAFETY: `at` is a slot of this CPU's ring, and a `Record` begins with `commit`.
    unsafe { publish(at, record, whole) };
}

/// Writes a record as `ring` says: 0 to `commit`, the record, `commit`.
///
/// # Safety
/// `at` must be one of the slots of this CPU's ring, as long as an `R` at least; an `R` begins with `commit`, which is 0 in `record`.
pub(crate) unsafe fn publish<R>(at: *mut R, record: R, whole: u64) {
    // SAFETY: As the caller promises. Only this CPU writes the slot; the host only reads it.
    unsafe {
        let commit = AtomicU64::from_ptr(at.cast());
        commit.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        ptr::write_volatile(at, record);
        commit.store(whole, Ordering::Release);
    }
}

/// Tells whether the filter lets this through, or has let its packet through before.
fn wanted(header: *mut RingHeader, filter: &Filter, event: &Event) -> bool {
    let named = event.head == 0;
    if !matches(filter, event) {
        let derived = event.kind == Kind::Derived as u8 || event.kind == Kind::Resized as u8;
        let followed = track::contains(event.head)
            || named && track::contains(event.skb)
            || derived && track::contains(event.arg);
        if !followed {
            return false;
        }
    }
    for key in [event.head, event.skb] {
        if !track::insert(key) {
            count(header, offset_of!(RingHeader, forgotten));
        }
    }
    if event.kind == Kind::Tracepoint as u8
        && (event.site == Tracepoint::KfreeSkb as u32
            || event.site == Tracepoint::ConsumeSkb as u32)
    {
        track::remove(event.skb);
    }
    if event.last != 0 {
        track::remove(event.head);
        track::remove(event.skb);
    }
    true
}

fn matches(filter: &Filter, event: &Event) -> bool {
    filter.admits(event.ifindex, event.netns, event.mark)
        && (!filter.asks_tuple() || tuple(event).is_some_and(|tuple| filter.matches(&tuple)))
}

/// Tuple of the packet's headers; of the socket where there are none yet.
fn tuple(event: &Event) -> Option<Tuple> {
    of_packet(event).or_else(|| of_sock(event))
}

fn of_packet(event: &Event) -> Option<Tuple> {
    let packet = event
        .packet
        .get(..usize::from(event.packet_len))
        .unwrap_or_default();
    // Without a network header the bytes are from `data`, which may be anything before the skb has its protocol.
    let placed = event.protocol != 0
        || event.network_header != 0 && u32::from(event.network_header) < event.tail;
    placed.then(|| Tuple::of(event.protocol, packet)).flatten()
}

fn of_sock(event: &Event) -> Option<Tuple> {
    (event.sock_family != 0).then_some(Tuple {
        family: event.sock_family,
        protocol: event.sock_protocol,
        source: event.sock_source,
        destination: event.sock_destination,
        ports: Some((event.sock_source_port, event.sock_destination_port)),
        fragment: None,
    })
}
