//! The events that are of one packet: retis's identity, the head of the data and the time it was first seen.
//!
//! `skb->head` is shared by clones, so they are one packet; a copy, a grown head and the segments of a large packet
//! have heads of their own and are joined by the functions that made them. A head that is freed ends: the same
//! address later is another packet. The fragments of a datagram are one packet, which is cut and put together again: they
//! are joined by what their headers say.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use super::filter::{Datagram, Seen, datagram};
use crate::kmod::reader::Event;
use crate::kmod::ring::{Kind, Tracepoint};

/// Time in which a datagram's identification is its own, in nanoseconds: the kernel waits so long for missing fragments
/// (`IP_FRAG_TIME`, `include/net/ip.h`).
const FRAGMENTS: u64 = 30_000_000_000;

/// The events of one packet.
#[derive(Debug, Default)]
pub(super) struct Packet {
    pub(super) events: Vec<Event>,
    /// Number of its heads that are in use.
    live: usize,
}

impl Packet {
    /// Tells whether all its memory was freed before this time.
    pub(super) fn ended_before(&self, time: u64) -> bool {
        self.live == 0
            && self
                .events
                .last()
                .is_some_and(|event| event.record.time < time)
    }
}

#[derive(Debug, Default)]
pub(super) struct Tracker {
    packets: Vec<Packet>,
    /// The packet of a head that lives.
    heads: HashMap<u64, usize>,
    /// The `sk_buff`s of a head.
    users: HashMap<u64, BTreeSet<u64>>,
    /// The last packet and head of an `sk_buff`'s address.
    last: HashMap<u64, (usize, u64)>,
    /// The same of an `sk_buff` that was said to be freed and whose data is yet to be.
    freed: HashMap<u64, (usize, u64)>,
    /// The packet of a datagram's fragments, and when one of them was last seen.
    datagrams: HashMap<Datagram, (usize, u64)>,
    /// The packet that a packet turned out to be a part of; its own number where it is none.
    joined: Vec<usize>,
}

impl Tracker {
    /// Sorts events, in the order of their times, into packets. `ends` says of a hooked function, by the low half of
    /// its address, whether it frees its `sk_buff`.
    pub(super) fn sort(events: Vec<Event>, ends: impl Fn(u32) -> bool) -> Vec<Packet> {
        let mut tracker = Self::default();
        for event in events {
            tracker.take(event, &ends);
        }
        tracker.whole()
    }

    /// The packets, those that are parts of others in them.
    fn whole(mut self) -> Vec<Packet> {
        for index in 0..self.packets.len() {
            let root = self.root(index);
            if root != index {
                let part = std::mem::take(&mut self.packets[index]);
                let whole = &mut self.packets[root];
                whole.live += part.live;
                let all = &mut whole.events;
                all.extend(part.events);
                all.sort_by_key(|event| (event.record.time, event.cpu, event.sequence));
            }
        }
        self.packets.retain(|packet| !packet.events.is_empty());
        self.packets
    }

    /// The packet that this one is a part of. Each leads to one that is older, so this ends.
    fn root(&self, mut index: usize) -> usize {
        while self.joined[index] != index {
            index = self.joined[index];
        }
        index
    }

    /// Joins a packet with those of its datagram.
    fn join(&mut self, packet: usize, event: &Event) {
        let Some(key) = Seen::of(&event.record).tuple().as_ref().and_then(datagram) else {
            return;
        };
        let now = event.record.time;
        let known = self.datagrams.insert(key, (packet, now));
        if let Some((other, before)) = known
            && now.saturating_sub(before) < FRAGMENTS
        {
            let (one, other) = (self.root(packet), self.root(other));
            self.joined[one.max(other)] = one.min(other);
        }
    }

    fn take(&mut self, event: Event, ends: &impl Fn(u32) -> bool) {
        let record = &event.record;
        let (skb, head, arg) = (record.skb, record.head, record.arg);
        let ending = record.kind() == Some(Kind::Entry) && ends(record.site);
        // The tracepoints fire first, then the function that frees the data is called.
        if let Some((packet, before)) = self.freed.remove(&skb)
            && ending
            && before == head
        {
            if !event.record.is_last() {
                self.keep(head, packet);
            }
            self.packets[packet].events.push(event);
            return;
        }
        let packet = match record.kind() {
            // Named only: its memory may have been freed by then.
            Some(Kind::Exit) => self.last_of(skb),
            Some(Kind::Tracepoint) if head == 0 => self.last_of(skb),
            Some(Kind::Derived) => {
                let from = self.last.get(&arg).map(|(packet, _)| *packet);
                from.unwrap_or_else(|| self.of_head(head))
            }
            Some(Kind::Resized) => self
                .heads
                .get(&arg)
                .copied()
                .or_else(|| self.last.get(&skb).map(|(packet, _)| *packet))
                .unwrap_or_else(|| self.of_head(head)),
            _ => self.of_head(head),
        };
        if head != 0 && record.kind() != Some(Kind::Exit) {
            if let Some((_, before)) = self.last.insert(skb, (packet, head))
                && before != head
            {
                self.leave(skb, before);
            }
            if let Some(before) = self.heads.insert(head, packet) {
                self.packets[before].live -= 1;
            }
            self.packets[packet].live += 1;
            self.users.entry(head).or_default().insert(skb);
        }
        let said = record.kind() == Some(Kind::Tracepoint)
            && (record.site == Tracepoint::KfreeSkb as u32
                || record.site == Tracepoint::ConsumeSkb as u32);
        // kfree_skb_partial() calls skb_release_data() where the memory was not taken by another.
        if (said || ending) && head != 0 {
            self.freed.insert(skb, (packet, head));
        }
        if said || ending {
            self.leave(skb, head);
        }
        if ending && head != 0 && !record.is_last() {
            self.keep(head, packet);
        }
        self.join(packet, &event);
        self.packets[packet].events.push(event);
    }

    /// A head that another `sk_buff` has, which no record has shown yet: the datagram that was put together has the memory of
    /// its first fragment (`skb_morph()`).
    fn keep(&mut self, head: u64, packet: usize) {
        if let Entry::Vacant(free) = self.heads.entry(head) {
            free.insert(packet);
            self.packets[packet].live += 1;
        }
    }

    /// One user of a head less; without users it is free.
    fn leave(&mut self, skb: u64, head: u64) {
        if let Some(users) = self.users.get_mut(&head) {
            users.remove(&skb);
            if users.is_empty() {
                self.users.remove(&head);
                if let Some(packet) = self.heads.remove(&head) {
                    self.packets[packet].live -= 1;
                }
            }
        }
    }

    fn last_of(&mut self, skb: u64) -> usize {
        match self.last.get(&skb) {
            Some((packet, _)) => *packet,
            None => self.fresh(),
        }
    }

    fn of_head(&mut self, head: u64) -> usize {
        match self.heads.get(&head) {
            Some(packet) => *packet,
            None => self.fresh(),
        }
    }

    fn fresh(&mut self) -> usize {
        self.joined.push(self.packets.len());
        self.packets.push(Packet::default());
        self.packets.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmod::ring::{Context, IS_LAST, RECORD, Record, commit};

    const FREE: u32 = 99;

    fn event(kind: Kind, skb: u64, head: u64, arg: u64, site: u32) -> Event {
        let mut record = Record::from_bytes(&[0; RECORD]);
        let flags = if site == FREE { IS_LAST } else { 0 };
        record.commit = commit(0, kind as u8, Context::Softirq as u8, 0, flags);
        (record.skb, record.head, record.arg, record.site) = (skb, head, arg, site);
        Event {
            cpu: 0,
            sequence: 0,
            record,
        }
    }

    #[test]
    fn a_packet_has_ended_when_all_its_memory_is_free() {
        use Kind::{Derived, Entry};
        let mut events = vec![
            event(Entry, 1, 0x10, 0, 7),
            event(Derived, 3, 0x30, 1, 8), // a copy
            event(Entry, 1, 0x10, 0, FREE),
        ];
        let ended = |events: &[Event]| {
            let packets = Tracker::sort(events.to_vec(), |site| site == FREE);
            packets[0].ended_before(1)
        };
        assert!(!ended(&events));
        events.push(event(Entry, 3, 0x30, 0, FREE));
        assert!(ended(&events));
    }

    fn sizes(events: Vec<Event>) -> Vec<usize> {
        let packets = Tracker::sort(events, |site| site == FREE);
        packets.iter().map(|packet| packet.events.len()).collect()
    }

    #[test]
    fn clones_copies_and_grown_heads_are_one_packet() {
        use Kind::{Derived, Entry, Resized};
        let events = vec![
            event(Entry, 1, 0x10, 0, 7),
            event(Derived, 2, 0x10, 1, 8), // a clone
            event(Derived, 3, 0x30, 1, 8), // a copy
            event(Resized, 3, 0x40, 0x30, 8),
            event(Entry, 3, 0x40, 0, 7),
            event(Entry, 2, 0x10, 0, 7),
            event(Entry, 5, 0x50, 0, 7), // another
        ];
        assert_eq!(sizes(events), [6, 1]);
    }

    #[test]
    fn a_freed_head_is_another_packet_and_an_exit_is_of_the_old_one() {
        use Kind::{Entry, Exit, Tracepoint as Point};
        let events = vec![
            event(Entry, 1, 0x10, 0, 7),
            event(Point, 1, 0x10, 0, Tracepoint::KfreeSkb as u32),
            event(Exit, 1, 0x10, 0, 7),
            event(Entry, 1, 0x10, 0, 7),
            event(Entry, 1, 0x10, 0, FREE),
            event(Entry, 2, 0x10, 0, 7),
        ];
        assert_eq!(sizes(events), [3, 2, 1]);
    }

    #[test]
    fn data_is_freed_after_the_packet_was_said_to_be() {
        use Kind::{Entry, Tracepoint as Point};
        let events = vec![
            event(Entry, 1, 0x10, 0, 7),
            event(Point, 1, 0x10, 0, Tracepoint::ConsumeSkb as u32),
            event(Entry, 1, 0x10, 0, FREE),
            event(Entry, 1, 0x10, 0, 7),
        ];
        assert_eq!(sizes(events), [3, 1]);
    }

    #[test]
    fn a_packet_that_was_freed_in_two_steps_is_one() {
        use Kind::Entry;
        let events = vec![
            event(Entry, 1, 0x10, 0, 7),
            event(Entry, 1, 0x10, 0, FREE),
            event(Entry, 1, 0x10, 0, FREE),
            event(Entry, 1, 0x10, 0, 7),
        ];
        assert_eq!(sizes(events), [3, 1]);
    }

    #[test]
    fn memory_that_another_has_goes_on_without_the_one_that_was_seen() {
        use Kind::{Entry, Tracepoint as Point};
        let consumed = event(Point, 1, 0x10, 0, Tracepoint::ConsumeSkb as u32);
        let mut released = event(Entry, 1, 0x10, 0, FREE);
        released.record.commit = commit(0, Entry as u8, Context::Softirq as u8, 0, 0);
        let events = vec![
            event(Entry, 1, 0x10, 0, 7),
            consumed,
            released,
            event(Entry, 2, 0x10, 0, 7),
            event(Entry, 2, 0x10, 0, FREE),
            event(Entry, 3, 0x10, 0, 7),
        ];
        assert_eq!(sizes(events), [5, 1]);
    }

    #[test]
    fn a_clone_keeps_the_head_alive() {
        use Kind::{Derived, Entry};
        let events = vec![
            event(Entry, 1, 0x10, 0, 7),
            event(Derived, 2, 0x10, 1, 8),
            event(Entry, 1, 0x10, 0, FREE),
            event(Entry, 2, 0x10, 0, 7),
        ];
        assert_eq!(sizes(events), [4]);
    }

    #[test]
    fn fragments_of_a_datagram_are_one_packet() {
        let fragment = |skb: u64, id: u8, place: u16, time| {
            let mut event = event(Kind::Entry, skb, skb << 4, 0, 7);
            let record = &mut event.record;
            record.commit = commit(0, Kind::Entry as u8, Context::Softirq as u8, 24, 0);
            (record.time, record.protocol) = (time, 0x0800);
            let header = [
                0x45, 0, 0, 40, 0, id, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
            ];
            record.packet[..20].copy_from_slice(&header);
            record.packet[6..8].copy_from_slice(&place.to_be_bytes());
            event
        };
        let second = 1_000_000_000;
        let events = vec![
            // Without its network header nobody knows it yet.
            event(Kind::Entry, 2, 0x20, 0, 7),
            fragment(1, 5, 0x2000, 1),
            fragment(2, 5, 122, 2),
            fragment(3, 6, 122, 3),
            fragment(3, 5, 0, 4),
            // The number is another datagram's by now.
            fragment(4, 5, 122, 60 * second),
        ];
        // The fourth has the memory of the third, whose datagram is another: two datagrams are not one.
        let packets = Tracker::sort(events, |site| site == FREE);
        let times: Vec<Vec<u64>> = packets
            .iter()
            .map(|packet| {
                packet
                    .events
                    .iter()
                    .map(|event| event.record.time)
                    .collect()
            })
            .collect();
        assert_eq!(times, [vec![0, 1, 2], vec![3, 4], vec![60 * second]]);
    }
}
