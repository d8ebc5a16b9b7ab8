//! One event on a packet's way.

use serde::Serialize;

use crate::kmod::ring::{self, Context};
use crate::memory::GuestVirt;
use crate::net::netfilter::nf_conn::NfConn;
use crate::skb::stages::Layer;
use crate::traffic::describe;

/// Place of an `sk_buff`'s data in its memory, in bytes from `head`: `headroom = data`, `tailroom = end - tail`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Geometry {
    /// `skb->data - skb->head`.
    pub data: u32,
    /// `skb->tail`.
    pub tail: u32,
    /// `skb->end`.
    pub end: u32,
    /// Bytes of the packet, with those in fragments: `skb->len`.
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
    /// True if that ends the chain, with a verdict.
    pub ends: bool,
}

/// A packet's connection: `skb->_nfct`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conntrack {
    /// `NEW`, `ESTABLISHED`, `RELATED`, `UNTRACKED`: at that moment.
    pub state: &'static str,
    /// True if it is of the direction that answers.
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
    /// True if it had its socket: `skb->sk`.
    pub sock: bool,
    /// True if it had its route: `skb_dst()`.
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

    /// Tells whether `packet` is from a network header on. Without one its bytes are from `data`, which may be anything
    /// before the `sk_buff` has its protocol.
    pub(in crate::skb) const fn is_placed(&self) -> bool {
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
