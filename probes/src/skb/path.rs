//! The way of one packet, stage by stage, as Rust values.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Deref;

use serde::Serialize;

use super::filter::{Datagrams, Seen, Wanted};
use super::functions::SkbFunction;
use super::identity::{Packet, Tracker};
use super::reader::{CpuTally, Event, Tally};
use super::reason::Reasons;
use super::stages::{Layer, layer, nf_hook};
use crate::Result;
use crate::kernel::Kernel;
use crate::kmod::ring::{self, Context, How, Kind, Record, Tracepoint};
use crate::memory::GuestVirt;
use crate::net::netfilter::nf_conn::NfConn;
use crate::net::netfilter::rule_blob::NftRules;
use crate::net::netfilter::{Family, HookFunctions};
use crate::traffic::{Frame, addresses, describe, fragment};

/// Functions that end their `sk_buff`. Not `skb_attempt_defer_free`: the CPU that allocated it frees it later.
pub(super) const ENDS: [&str; 2] = ["skb_release_data", "kfree_skb_partial"];
/// Statements of nftables that give a verdict.
const ENDING: [&str; 10] = [
    "drop", "accept", "stolen", "queue", "nat", "masq", "redir", "reject", "tproxy", "synproxy",
];
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// A function that is hooked.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) function: SkbFunction,
    pub(super) how: How,
    pub(super) layer: Layer,
}

/// Facts for decoding records.
pub(super) struct Known<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) sites: &'a [Site],
    pub(super) hooks: &'a HookFunctions,
    pub(super) rules: &'a NftRules,
    pub(super) wanted: &'a Wanted,
    pub(super) reasons: Reasons,
    /// Whether messages of netlink and of unix sockets are wanted, too.
    pub(super) all_families: bool,
}

/// Place of an `sk_buff`'s data in its memory, in bytes from `head`: `headroom = data`, `tailroom = end - tail`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Geometry {
    /// `skb->data - skb->head`.
    pub data: u32,
    /// `skb->tail`.
    pub tail: u32,
    /// `skb->end`.
    pub end: u32,
    /// `skb->len`, with what is in fragments.
    pub len: u32,
    /// `skb->mac_header`; `None` when not set.
    pub mac_header: Option<u16>,
    /// `skb->network_header`.
    pub network_header: u16,
    /// `skb->transport_header`; `None` when not set.
    pub transport_header: Option<u16>,
}

/// A function on a netfilter hook, as it was called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetfilterHook {
    /// `PRE_ROUTING`, ..; `None` when the function that called the hook was not seen.
    pub hook: Option<&'static str>,
    /// Its priority there.
    pub priority: Option<i32>,
    /// `table/chain` of nftables.
    pub chain: Option<String>,
    /// `ACCEPT`, `DROP`, `STOLEN`, `QUEUE`, `REPEAT`; `None` when its return was not seen.
    pub verdict: Option<&'static str>,
    /// The rules of nftables whose statements it carried out, in order.
    pub rules: Vec<RuleHit>,
}

impl NetfilterHook {
    /// The rule that gave the verdict, by its own statement: `drop`, `accept`, NAT, .. `None` where that was the chain's policy or
    /// a verdict map, of which the kernel leaves no trace.
    #[must_use]
    pub fn rule(&self) -> Option<&RuleHit> {
        self.rules.iter().rev().find(|hit| hit.ends)
    }
}

/// A rule of nftables, one statement of which was carried out for the packet: so all before it in the rule matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleHit {
    /// `table/chain`
    pub chain: String,
    /// The rule's handle, as `nft -a list ruleset` shows it.
    pub handle: u64,
    /// `drop`, `accept`, `jump to CHAIN`, `counter`, `nat`, ..
    pub statement: String,
    /// Whether that ends the chain, with a verdict.
    pub ends: bool,
}

/// A packet's connection: `skb->_nfct`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conntrack {
    /// `NEW`, `ESTABLISHED`, `RELATED`, `UNTRACKED`: at that moment.
    pub state: &'static str,
    /// Whether it is of the direction that answers.
    pub reply: bool,
    /// The `struct nf_conn`.
    pub at: GuestVirt,
    /// The connection as it was when the capture ended; `None` when it was gone by then.
    pub conn: Option<NfConn>,
}

/// Kind of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum What {
    /// A call with this `sk_buff`.
    Call,
    /// A tracepoint.
    Tracepoint,
    /// A function on a netfilter hook.
    Hook(NetfilterHook),
    /// No call: nothing is registered on this hook, so the kernel goes past it.
    NoHook(&'static str),
    /// Dropped: `enum skb_drop_reason`, and where.
    Dropped {
        /// The reason's name.
        reason: String,
        /// The function that gave it up.
        location: String,
    },
    /// Freed at the end of its way.
    Consumed {
        /// The function that freed it.
        location: String,
    },
    /// This `sk_buff` was made from another of the same packet.
    Derived {
        /// The other.
        from: GuestVirt,
    },
    /// Its memory was replaced by larger one.
    Resized,
    /// It became part of another (GRO).
    Merged {
        /// The other.
        into: GuestVirt,
    },
}

/// One event on a packet's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// The function or tracepoint; a hook's name for [`What::NoHook`].
    pub name: String,
    /// The module that the function is in.
    pub module: Option<String>,
    /// The part of the kernel.
    pub layer: Layer,
    /// Kind of the stage.
    pub what: What,
    /// Nanoseconds since the packet was first seen.
    pub ns: u64,
    /// The CPU.
    pub cpu: u32,
    /// Context of the CPU.
    #[serde(serialize_with = "context")]
    pub context: Context,
    /// `current->pid`.
    pub pid: u32,
    /// `ns.inum` of the network namespace; 0 when it was not to be seen.
    pub netns: u32,
    /// The device's number; 0 without one.
    pub ifindex: u32,
    /// The `sk_buff`.
    pub skb: GuestVirt,
    /// Its memory.
    pub head: GuestVirt,
    /// Place of its data.
    pub geometry: Geometry,
    /// `skb->protocol` as a number; 0 where it is not set yet.
    pub protocol: u16,
    /// The first bytes from its network header on; from its data on where it has none yet.
    pub packet: Vec<u8>,
    /// Its Ethernet header, where it has one.
    pub mac: Option<[u8; ring::MAC]>,
    /// The VLAN tag that is not in its bytes: its protocol and its `TCI`.
    pub vlan: Option<(u16, u16)>,
    /// Whether it had its socket: `skb->sk`.
    pub sock: bool,
    /// Whether it had its route: `skb_dst()`.
    pub route: bool,
    /// Its connection; calls only.
    pub conntrack: Option<Conntrack>,
    /// A remark.
    pub note: Option<String>,
}

impl Stage {
    /// The packet in one line as it was here; `None` where its bytes are not known to be of the network layer.
    #[must_use]
    pub fn describe(&self) -> Option<String> {
        (!self.packet.is_empty() && self.is_placed()).then(|| describe(&self.packet))
    }

    /// Whether `packet` is from a network header on. Without one its bytes are from `data`, which may be anything
    /// before the `sk_buff` has its protocol.
    pub(super) const fn is_placed(&self) -> bool {
        let (header, tail) = (self.geometry.network_header, self.geometry.tail);
        self.protocol != 0 || header != 0 && (header as u32) < tail
    }
}

fn context<S: serde::Serializer>(context: &Context, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(context_name(*context))
}

pub(crate) fn context_name(context: Context) -> &'static str {
    match context {
        Context::Task => "task",
        Context::Softirq => "softirq",
        Context::Hardirq => "hardirq",
        Context::Nmi => "nmi",
    }
}

/// The way of one packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Path {
    /// When it was first seen, `CLOCK_MONOTONIC` of the guest in nanoseconds; with `head` its identity.
    pub first: u64,
    /// Its memory then.
    pub head: GuestVirt,
    /// Describes the packet by its first bytes.
    pub packet: String,
    /// Stages, in order.
    pub stages: Vec<Stage>,
    /// Whether records were lost before it ended: then stages may be missing.
    pub incomplete: bool,
}

impl Deref for Path {
    type Target = [Stage];

    fn deref(&self) -> &[Stage] {
        &self.stages
    }
}

impl Path {
    /// The names of its stages, in order.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.stages
            .iter()
            .map(|stage| stage.name.as_str())
            .collect()
    }

    /// The first stage of this name.
    #[must_use]
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Whether its stages have these names among them, in this order.
    #[must_use]
    pub fn passes(&self, names: &[&str]) -> bool {
        let mut stages = self.stages.iter();
        names
            .iter()
            .all(|name| stages.any(|stage| stage.name == *name))
    }

    /// Why it was dropped; `None` if it was not.
    #[must_use]
    pub fn dropped(&self) -> Option<&str> {
        self.stages.iter().find_map(|stage| match &stage.what {
            What::Dropped { reason, .. } => Some(reason.as_str()),
            _ => None,
        })
    }

    /// Nanoseconds from its first stage to its last.
    #[must_use]
    pub fn duration(&self) -> u64 {
        self.stages.last().map_or(0, |stage| stage.ns)
    }
}

/// The packets of a capture, in the order in which they were first seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Paths {
    /// The packets.
    pub paths: Vec<Path>,
    /// Counts of the records.
    pub tally: Tally,
    /// The same by CPU.
    pub cpus: Vec<CpuTally>,
    /// Messages of sockets of this machine alone, which are not among the packets: see [`CaptureOptions::all_families`].
    ///
    /// [`CaptureOptions::all_families`]: super::CaptureOptions::all_families
    pub left_out: LeftOut,
    /// Returns of functions whose calls were not seen, so that nobody knows of which packet they are.
    pub strays: usize,
    /// Nanoseconds from 1970 to the zero of the packets' times, by the guest's own clock.
    pub realtime: i64,
    /// Number of functions that were hooked.
    pub hooked: usize,
    /// Functions that were asked for and are not to be had in this kernel.
    pub absent: Vec<String>,
}

/// Messages that are no packets, as many as were recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Messages of netlink sockets.
    pub netlink: usize,
    /// Messages of unix sockets.
    pub unix: usize,
}

impl Deref for Paths {
    type Target = [Path];

    fn deref(&self) -> &[Path] {
        &self.paths
    }
}

impl Paths {
    /// Those whose description has this in it at any stage: `192.0.2.1:40000`, `UDP`, `SYN`.
    #[must_use]
    pub fn about(&self, text: &str) -> Self {
        self.only(|path| {
            let of_socket = socket_of(&path.packet).is_some() && path.packet.contains(text);
            of_socket
                || path
                    .iter()
                    .filter_map(Stage::describe)
                    .any(|line| line.contains(text))
        })
    }

    /// The way of a frame that was sent: the packets that had its bytes.
    #[must_use]
    pub fn of(&self, frame: &Frame) -> Self {
        let sent = frame.0.get(ETHERNET..).unwrap_or_default();
        let same = |bytes: &[u8]| bytes.len() >= 28 && sent.get(..bytes.len()) == Some(bytes);
        self.only(|path| {
            path.iter().any(|stage| {
                let most = stage.packet.len().min(sent.len());
                same(stage.packet.get(..most).unwrap_or_default())
            })
        })
    }

    /// The way of one frame that was sent.
    ///
    /// # Errors
    /// When it was not seen, or several packets had its bytes.
    pub fn one(&self, frame: &Frame) -> Result<Path> {
        let mut these = self.of(frame).paths;
        match (these.pop(), these.len()) {
            (Some(path), 0) => Ok(path),
            (None, _) => Err(crate::Error::Absent(format!(
                "{frame} was not seen among {} packets",
                self.paths.len()
            ))),
            (_, more) => Err(crate::Error::Invalid(format!(
                "{} packets were {frame}",
                more + 1
            ))),
        }
    }

    fn only(&self, wanted: impl Fn(&Path) -> bool) -> Self {
        Self {
            paths: self
                .paths
                .iter()
                .filter(|path| wanted(path))
                .cloned()
                .collect(),
            ..self.clone()
        }
    }

    /// Sorts what was recorded into packets. Before `whole_until` nothing was lost.
    pub(super) fn sort(
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
const AF_UNIX: u16 = 1;
const AF_NETLINK: u16 = 16;
/// Families whose messages never leave the machine, and what one is called.
const SOCKETS: [(u16, &str); 2] = [(AF_NETLINK, "netlink message"), (AF_UNIX, "unix message")];

/// The family of a message, by its description.
fn socket_of(packet: &str) -> Option<u16> {
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
    let mut way = Way {
        stages: Vec::new(),
        fragments: HashSet::new(),
        hook: None,
        conns: HashMap::new(),
        known,
    };
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

/// The stages of a packet so far.
struct Way<'a> {
    stages: Vec<Stage>,
    /// The fragments that were named, each at its first stage.
    fragments: HashSet<(GuestVirt, String)>,
    /// The hook that comes next, by the function that was last.
    hook: Option<(Family, usize)>,
    /// The connections that it was of, as they are now.
    conns: HashMap<GuestVirt, Option<NfConn>>,
    known: &'a Known<'a>,
}

impl Way<'_> {
    fn take(&mut self, event: &Event, began: u64, sites: &HashMap<u32, &Site>) -> Result<()> {
        let record = &event.record;
        let site = sites.get(&record.site).copied();
        let (name, module, layer, what) = match record.kind() {
            Some(Kind::Exit) => {
                self.verdict(record, event.cpu, site);
                return Ok(());
            }
            Some(Kind::Rule) => {
                self.rule(record, event.cpu);
                return Ok(());
            }
            Some(Kind::Tracepoint) => {
                let Some(point) = Tracepoint::ALL
                    .into_iter()
                    .find(|id| *id as u32 == record.site)
                else {
                    return Ok(());
                };
                (
                    point.name().to_owned(),
                    None,
                    layer(point.name()),
                    self.tracepoint(point, record)?,
                )
            }
            kind => {
                let Some(site) = site else {
                    return Ok(());
                };
                let what = match kind {
                    Some(Kind::Derived) => What::Derived {
                        from: GuestVirt(record.arg),
                    },
                    Some(Kind::Resized) => What::Resized,
                    Some(Kind::Merged) => What::Merged {
                        into: GuestVirt(record.arg),
                    },
                    _ if site.how == How::Return => What::Hook(self.called(site, record.netns)),
                    _ => What::Call,
                };
                (
                    site.function.name.clone(),
                    site.function.module.clone(),
                    site.layer,
                    what,
                )
            }
        };
        self.went_past(&name, record);
        let conntrack = self.conntrack(record);
        let part = Seen::of(record)
            .placed
            .then(|| fragment(record.packet()))
            .flatten()
            .filter(|part| self.fragments.insert((GuestVirt(record.skb), part.clone())));
        self.stages.push(Stage {
            note: part,
            sock: record.has_sock(),
            route: record.has_dst(),
            conntrack,
            module,
            layer,
            what,
            ns: record.time.saturating_sub(began),
            cpu: event.cpu,
            context: record.context(),
            pid: record.pid,
            netns: record.netns,
            ifindex: record.ifindex,
            skb: GuestVirt(record.skb),
            head: GuestVirt(record.head),
            geometry: geometry(record),
            protocol: record.protocol,
            packet: record.packet().to_vec(),
            mac: record.mac(),
            vlan: record.vlan(),
            name: name.clone(),
        });
        if let Some(hook) = nf_hook(&name) {
            self.hook = Some(hook);
            self.no_hook(hook, record);
        }
        Ok(())
    }

    /// Nothing is registered on the hook that comes now.
    fn no_hook(&mut self, (family, hook): (Family, usize), record: &Record) {
        let hooks = self.known.hooks;
        let here = |netns: u32| record.netns == 0 || netns == record.netns;
        let known = record.netns != 0 && hooks.namespaces.contains(&record.netns);
        let registered = hooks.iter().any(|function| {
            (function.family, function.hook) == (family, hook) && here(function.netns)
        });
        if known
            && !registered
            && let (Some(stage), Some(name)) = (self.stages.last().cloned(), family.hook(hook))
        {
            self.stages.push(Stage {
                name: name.to_owned(),
                module: None,
                layer: Layer::Netfilter,
                what: What::NoHook(name),
                note: None,
                ..stage
            });
        }
    }

    /// Facts about a stage that the next one shows.
    fn went_past(&mut self, next: &str, record: &Record) {
        let looks = |name: &str| {
            self.known
                .sites
                .iter()
                .any(|site| site.function.name == name)
        };
        let Some(before) = self
            .stages
            .iter_mut()
            .rev()
            .find(|stage| stage.what == What::Call)
        else {
            return;
        };
        // What ip_rcv_finish_core() of net/ipv4/ip_input.c does instead of ip_route_input_noref().
        if before.name == "ip_rcv_finish_core"
            && matches!(next, "ip_local_deliver" | "ip_forward")
            && looks("ip_route_input_noref")
        {
            before.note = Some(
                if before.route {
                    "no route lookup: it came with its route"
                } else if record.has_sock() {
                    "no route lookup: early demux found its socket, which knows the route"
                } else {
                    "no route lookup: a hint, the route of the packet before it"
                }
                .to_owned(),
            );
        }
        if before.name == "ip_route_use_hint" {
            before.note = Some("a hint: the route of the packet before it".to_owned());
        }
    }

    /// Connection tracking in the record of a call.
    fn conntrack(&mut self, record: &Record) -> Option<Conntrack> {
        // NFCT_INFOMASK of include/linux/skbuff.h.
        let (at, info) = (GuestVirt(record.arg & !7), record.arg & 7);
        if record.kind() != Some(Kind::Entry) || record.arg == 0 {
            return None;
        }
        // enum ip_conntrack_info of include/uapi/linux/netfilter/nf_conntrack_common.h.
        let (state, reply) = match info {
            0 => ("ESTABLISHED", false),
            1 => ("RELATED", false),
            2 => ("NEW", false),
            3 => ("ESTABLISHED", true),
            4 => ("RELATED", true),
            7 => ("UNTRACKED", false),
            _ => return None,
        };
        Some(Conntrack {
            state,
            reply,
            at,
            conn: self.conn(at, record.packet()),
        })
    }

    /// The connection, if it is still the one that this packet is of.
    fn conn(&mut self, at: GuestVirt, packet: &[u8]) -> Option<NfConn> {
        let kernel = self.known.kernel;
        let read = || NfConn::read(kernel, at).ok().flatten();
        let conn = self.conns.entry(at).or_insert_with(read).as_ref()?;
        let (source, destination, protocol) = addresses(packet)?;
        // Its addresses change from those of one tuple to the other's, turned round.
        let ends =
            [&conn.original, &conn.reply].map(|tuple| [tuple.source.ip(), tuple.destination.ip()]);
        let known = |address: IpAddr| ends.iter().flatten().any(|end| *end == address);
        let same = protocol == conn.original.protocol && known(source) && known(destination);
        same.then(|| conn.clone())
    }

    /// A statement of a rule, within the call of a hook function that is not over yet.
    fn rule(&mut self, record: &Record, cpu: u32) {
        let Some((rule, expression)) = self.known.rules.at(GuestVirt(record.arg)) else {
            return;
        };
        // An `immediate` that only loads a value for what follows.
        if expression.name == "immediate" && expression.verdict.is_none() {
            return;
        }
        let called = self
            .stages
            .iter_mut()
            .rev()
            .find_map(|stage| match &mut stage.what {
                What::Hook(hook)
                    if hook.verdict.is_none() && stage.cpu == cpu && stage.skb.0 == record.skb =>
                {
                    Some(hook)
                }
                _ => None,
            });
        if let Some(hook) = called {
            let statement = expression.verdict.as_ref().unwrap_or(&expression.name);
            hook.rules.push(RuleHit {
                chain: format!("{}/{}", rule.table, rule.chain),
                handle: rule.handle,
                statement: statement.clone(),
                ends: ENDING
                    .iter()
                    .any(|ending| statement == ending || expression.name.starts_with(ending)),
            });
        }
    }

    /// The hook function of a site, as it is registered where the packet is.
    fn called(&self, site: &Site, netns: u32) -> NetfilterHook {
        let registered = self.known.hooks.iter().find(|function| {
            function.at == site.function.at
                && self
                    .hook
                    .is_none_or(|hook| hook == (function.family, function.hook))
                && (netns == 0 || function.netns == netns)
        });
        NetfilterHook {
            hook: registered.and_then(|function| function.family.hook(function.hook)),
            priority: registered.map(|function| function.priority),
            chain: registered.and_then(|function| function.chain.clone()),
            verdict: None,
            rules: Vec::new(),
        }
    }

    /// Gives the last call of a hook function its return value.
    fn verdict(&mut self, record: &Record, cpu: u32, site: Option<&Site>) {
        let Some(site) = site else { return };
        let called = self
            .stages
            .iter_mut()
            .rev()
            .find_map(|stage| match &mut stage.what {
                What::Hook(hook)
                    if hook.verdict.is_none()
                        && stage.cpu == cpu
                        && stage.skb.0 == record.skb
                        && stage.name == site.function.name =>
                {
                    Some(hook)
                }
                _ => None,
            });
        if let Some(hook) = called {
            // NF_VERDICT_MASK of include/uapi/linux/netfilter.h. A hook that frees the packet itself to say why
            // returns NF_STOLEN and an errno above it: NF_DROP_REASON() of include/linux/netfilter.h.
            hook.verdict = Some(match record.arg & 0xff {
                0 => "DROP",
                2 if record.arg >> 16 & 0xffff != 0 => "DROP",
                1 => "ACCEPT",
                2 => "STOLEN",
                3 => "QUEUE",
                4 => "REPEAT",
                _ => "?",
            });
        }
    }

    fn tracepoint(&self, point: Tracepoint, record: &Record) -> Result<What> {
        let location = |at: u64| -> Result<String> {
            let symbol = self.known.kernel.symbol_at(GuestVirt(at))?;
            Ok(symbol.map_or_else(|| format!("{at:#x}"), |symbol| symbol.name))
        };
        Ok(match point {
            Tracepoint::KfreeSkb => What::Dropped {
                reason: self.known.reasons.name(record.arg as u32),
                location: location(0xffff_ffff_0000_0000 | record.arg >> 32)?,
            },
            Tracepoint::ConsumeSkb => What::Consumed {
                location: location(record.arg)?,
            },
            _ => What::Tracepoint,
        })
    }
}

fn geometry(record: &Record) -> Geometry {
    let set = |offset: u16| (offset != u16::MAX).then_some(offset);
    Geometry {
        data: record.data,
        tail: record.tail,
        end: record.end,
        len: record.len,
        mac_header: set(record.mac_header),
        network_header: record.network_header,
        transport_header: set(record.transport_header),
    }
}
