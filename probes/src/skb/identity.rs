//! Which events are of one packet: retis's identity, the head of the data and the time it was first seen.
//!
//! `skb->head` is shared by clones, so they are one packet; a copy, a grown head and the segments of a large packet
//! have heads of their own and are joined by the functions that made them. A head that is freed ends: the same
//! address later is another packet.

use std::collections::{BTreeSet, HashMap};

use super::reader::Event;
use super::ring::{Kind, Tracepoint};

/// The events of one packet.
#[derive(Debug, Default)]
pub(super) struct Packet {
    pub(super) events: Vec<Event>,
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
}

impl Tracker {
    /// Sorts events, in the order of their times, into packets. `ends` says of a hooked function, by the low half of
    /// its address, whether it frees its `sk_buff`.
    pub(super) fn sort(events: Vec<Event>, ends: impl Fn(u32) -> bool) -> Vec<Packet> {
        let mut tracker = Self::default();
        for event in events {
            tracker.take(event, &ends);
        }
        tracker.packets
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
            self.heads.insert(head, packet);
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
        self.packets[packet].events.push(event);
    }

    /// One user of a head less; without users it is free.
    fn leave(&mut self, skb: u64, head: u64) {
        if let Some(users) = self.users.get_mut(&head) {
            users.remove(&skb);
            if users.is_empty() {
                self.users.remove(&head);
                self.heads.remove(&head);
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
        self.packets.push(Packet::default());
        self.packets.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::{Context, RECORD, Record, commit};
    use super::*;

    const FREE: u32 = 99;

    fn event(kind: Kind, skb: u64, head: u64, arg: u64, site: u32) -> Event {
        let mut record = Record::from_bytes(&[0; RECORD]);
        record.commit = commit(0, kind, Context::Softirq, 0, 0);
        (record.skb, record.head, record.arg, record.site) = (skb, head, arg, site);
        Event {
            cpu: 0,
            sequence: 0,
            record,
        }
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
}
