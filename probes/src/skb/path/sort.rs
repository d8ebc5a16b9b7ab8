//! Sorting the records of a capture into packets.

use std::collections::HashMap;

use super::way::Way;
use super::{LeftOut, Path, Paths, Stage, What};
use crate::Result;
use crate::kernel::Kernel;
use crate::kmod::reader::{Event, Tally};
use crate::kmod::ring::{How, Record};
use crate::memory::GuestVirt;
use crate::net::netfilter::HookFunctions;
use crate::net::netfilter::rule_blob::NftRules;
use crate::skb::filter::{Datagrams, Seen, Wanted};
use crate::skb::functions::SkbFunction;
use crate::skb::identity::{Packet, Tracker};
use crate::skb::reason::Reasons;
use crate::skb::stages::Layer;
use crate::traffic::describe;

/// Functions that end their `sk_buff`. Not `skb_attempt_defer_free`: the CPU that allocated it frees it later.
pub(in crate::skb) const ENDS: [&str; 2] = ["skb_release_data", "kfree_skb_partial"];

/// A function that is hooked.
#[derive(Debug, Clone)]
pub(in crate::skb) struct Site {
    pub(in crate::skb) function: SkbFunction,
    pub(in crate::skb) how: How,
    pub(in crate::skb) layer: Layer,
}

/// Facts for decoding records.
pub(in crate::skb) struct Known<'a> {
    pub(in crate::skb) kernel: &'a Kernel,
    pub(in crate::skb) sites: &'a [Site],
    pub(in crate::skb) hooks: &'a HookFunctions,
    pub(in crate::skb) rules: &'a NftRules,
    pub(in crate::skb) wanted: &'a Wanted,
    pub(in crate::skb) reasons: Reasons,
    /// True if messages of netlink and of unix sockets are wanted, too.
    pub(in crate::skb) all_families: bool,
}

impl Paths {
    /// Sorts what was recorded into packets. Before `whole_until` nothing was lost.
    pub(in crate::skb) fn sort(
        mut events: Vec<Event>,
        tally: Tally,
        whole_until: Option<u64>,
        known: &Known<'_>,
    ) -> Result<Self> {
        // One clock for all CPUs; within a CPU the sequence decides.
        events.sort_by_key(|event| (event.record.time, event.cpu, event.sequence));
        let sites: HashMap<u32, &Site> = known
            .sites
            .iter()
            .map(|site| (site.function.at.0 as u32, site))
            .collect();
        let ends = |site: u32| sites.get(&site).is_some_and(|site| site.how == How::End);
        let datagrams = Datagrams::of(events.iter().map(|event| &event.record));
        let mut packets = Tracker::sort(events, ends);
        packets.retain(|packet| {
            known.wanted.is_all()
                || packet
                    .events
                    .iter()
                    .any(|event| known.wanted.matches(&event.record, &datagrams))
        });
        let incomplete = |packet: &Packet| {
            let lost = whole_until.is_some_and(|time| !packet.ended_before(time));
            lost || tally.missed > 0 || tally.forgotten > 0
        };
        let (mut paths, mut left_out, mut strays) = (Vec::new(), LeftOut::default(), 0);
        for packet in &packets {
            let path = path(packet, incomplete(packet), &sites, known)?;
            match socket_of(&path.packet) {
                // Only what was lost before it, or the end of what began before the capture.
                _ if path.stages.is_empty() => strays += packet.events.len(),
                Some(AF_NETLINK) if !known.all_families => left_out.netlink += 1,
                Some(AF_UNIX) if !known.all_families => left_out.unix += 1,
                _ => paths.push(path),
            }
        }
        paths.sort_by_key(|path| path.first);
        Ok(Self {
            paths,
            tally,
            cpus: Vec::new(),
            left_out,
            strays,
            realtime: 0,
            hooked: 0,
            absent: Vec::new(),
        })
    }
}

/// `AF_UNIX`, `AF_NETLINK` (`include/linux/socket.h`).
pub(super) const AF_UNIX: u16 = 1;
pub(super) const AF_NETLINK: u16 = 16;
/// Families whose messages never leave the machine, and what one is called.
pub(super) const SOCKETS: [(u16, &str); 2] =
    [(AF_NETLINK, "netlink message"), (AF_UNIX, "unix message")];

/// The family of a message, by its description.
pub(super) fn socket_of(packet: &str) -> Option<u16> {
    let found = SOCKETS.iter().find(|(_, name)| *name == packet);
    found.map(|(family, _)| *family)
}

/// Describes a packet without known headers: by its socket, else by the functions that had or freed it.
fn unknown(records: &[&Record], stages: &[Stage]) -> String {
    let by_name = |stage: &Stage| {
        let name = match &stage.what {
            What::Dropped { location, .. } | What::Consumed { location } => location,
            _ => &stage.name,
        };
        let starts = |start: &str| name.trim_start_matches('_').starts_with(start);
        match () {
            () if starts("netlink_") || starts("nfnetlink_") || starts("rtnetlink_") => {
                Some(AF_NETLINK)
            }
            () if starts("unix_") => Some(AF_UNIX),
            () => None,
        }
    };
    let families = || {
        let socks = records.iter().map(|record| record.family);
        socks.chain(stages.iter().filter_map(by_name))
    };
    let named = SOCKETS
        .iter()
        .find(|(family, _)| families().any(|other| other == *family));
    match (named, records.iter().find(|record| record.protocol != 0)) {
        (Some((_, name)), _) => (*name).to_owned(),
        (None, Some(record)) => format!("packet of protocol {:#06x}", record.protocol),
        (None, None) => "no IP or ARP packet (protocol 0x0000)".to_owned(),
    }
}

fn path(
    packet: &Packet,
    incomplete: bool,
    sites: &HashMap<u32, &Site>,
    known: &Known<'_>,
) -> Result<Path> {
    let records: Vec<&Record> = packet.events.iter().map(|event| &event.record).collect();
    let (began, head) = records
        .first()
        .map_or((0, 0), |first| (first.time, first.head));
    let mut way = Way::new(known);
    for event in &packet.events {
        way.take(event, began, sites)?;
    }
    // On its way out a packet gets its addresses first, and its ports later; a later fragment never has them.
    let known = |record: &Record| {
        let tuple = Seen::of(record).tuple()?;
        Some(tuple.ports != Some((0, 0)) && !tuple.is_later_fragment())
    };
    let best = records
        .iter()
        .find(|record| known(record) == Some(true))
        .or_else(|| records.iter().find(|record| known(record).is_some()));
    Ok(Path {
        first: began,
        head: GuestVirt(head),
        packet: best.map_or_else(
            || unknown(&records, &way.stages),
            |record| describe(record.packet()),
        ),
        stages: way.stages,
        incomplete,
    })
}
