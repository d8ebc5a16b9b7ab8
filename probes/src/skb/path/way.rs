//! The stage of each record of a packet, one after the other: a new one, or more about the last one.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::{Conntrack, Geometry, Known, NetfilterHook, RuleHit, Site, Stage, What};
use crate::Result;
use crate::kmod::reader::Event;
use crate::kmod::ring::{How, Kind, Record, Tracepoint};
use crate::memory::GuestVirt;
use crate::net::netfilter::Family;
use crate::net::netfilter::nf_conn::NfConn;
use crate::net::netfilter::rule_blob::rule_at;
use crate::skb::filter::Seen;
use crate::skb::stages::{Layer, layer, nf_hook};
use crate::traffic::{addresses, fragment};

/// Statements of nftables that give a verdict.
const ENDING: [&str; 10] = [
    "drop", "accept", "stolen", "queue", "nat", "masq", "redir", "reject", "tproxy", "synproxy",
];

/// The stages of a packet so far.
pub(super) struct Way<'a> {
    pub(super) stages: Vec<Stage>,
    /// The fragments that were named, each at its first stage.
    fragments: HashSet<(GuestVirt, String)>,
    /// The hook that comes next, by the function that was last.
    hook: Option<(Family, usize)>,
    /// The connections that it was of, as they are now.
    conns: HashMap<GuestVirt, Option<NfConn>>,
    known: &'a Known<'a>,
}

impl<'a> Way<'a> {
    pub(super) fn new(known: &'a Known<'a>) -> Self {
        Self {
            stages: Vec::new(),
            fragments: HashSet::new(),
            hook: None,
            conns: HashMap::new(),
            known,
        }
    }
}

impl Way<'_> {
    pub(super) fn take(
        &mut self,
        event: &Event,
        began: u64,
        sites: &HashMap<u32, &Site>,
    ) -> Result<()> {
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
        let Some((rule, expression)) = rule_at(self.known.rules, GuestVirt(record.arg)) else {
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
