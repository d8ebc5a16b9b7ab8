//! Tracked connections: `struct nf_conn` (`include/net/netfilter/nf_conntrack.h`).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;

use crate::Listing;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::net::net_namespaces;
use crate::object::{Mirror, Plan};
use crate::structures::{array, hlist_nulls_for_each_entry, offset_of, settle};
use crate::{Error, Result};

/// Buckets of the hash table, at most.
const BUCKETS: u32 = 1 << 26;
/// `IPS_*` of `include/uapi/linux/netfilter/nf_conntrack_common.h`, by bit.
const STATUS: [&str; 15] = [
    "EXPECTED",
    "SEEN_REPLY",
    "ASSURED",
    "CONFIRMED",
    "SRC_NAT",
    "DST_NAT",
    "SEQ_ADJUST",
    "SRC_NAT_DONE",
    "DST_NAT_DONE",
    "DYING",
    "FIXED_TIMEOUT",
    "TEMPLATE",
    "UNTRACKED",
    "HELPER",
    "OFFLOAD",
];
/// `tcp_conntrack_names[]` of `net/netfilter/nf_conntrack_proto_tcp.c`.
const TCP_STATES: [&str; 10] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
];
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_ICMPV6: u8 = 58;

/// Sender and receiver in one direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Tuple {
    /// Source of its packets.
    pub source: IpAddr,
    /// Their destination.
    pub destination: IpAddr,
    /// The source's port, or the echo's number.
    pub source_port: u16,
    /// The destination's port; of ICMP its type in the upper byte, its code in the lower.
    pub destination_port: u16,
}

/// A tracked connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conntrack {
    /// Address of its `struct nf_conn`.
    pub at: GuestVirt,
    /// The inode number of its network namespace.
    pub netns: u32,
    /// `IPPROTO_*`
    pub protocol: u8,
    /// The direction in which it began.
    pub original: Tuple,
    /// The other one, as its packets come in: with the addresses that NAT has put there.
    pub reply: Tuple,
    /// TCP's state.
    pub state: Option<&'static str>,
    /// `IPS_*` without `IPS_`.
    pub status: Vec<&'static str>,
    /// Its mark.
    pub mark: u32,
    /// Its zone: two of the same tuples in different zones are two connections.
    pub zone: u16,
    /// Directions that the zone is part of: `both`, `orig`, `reply`.
    pub zone_dir: &'static str,
    /// True if its network namespace ends: it is no more among those of the kernel, and its connections are being
    /// removed.
    pub ending: bool,
    /// Time after which it is forgotten if nothing comes, in jiffies from now; negative if it is only left to be
    /// removed.
    pub timeout: i64,
}

/// The tracked connections of all network namespaces.
pub type Conntracks = Listing<Conntrack>;

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct nf_conn")]
struct NfConn {
    timeout: u32,
    status: u64,
    #[mirror(member = "ct_net.net")]
    net: GuestVirt,
    /// Absent without CONFIG_NF_CONNTRACK_MARK, and _ZONES.
    mark: Option<u32>,
    #[mirror(member = "zone.id")]
    zone: Option<u16>,
    #[mirror(member = "zone.dir")]
    zone_dir: Option<u8>,
    #[mirror(member = "proto.tcp.state")]
    state: u8,
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct nf_conntrack_tuple")]
struct RawTuple {
    #[mirror(member = "src.u3.all")]
    source: [u32; 4],
    #[mirror(member = "src.u.all")]
    source_port: u16,
    #[mirror(member = "src.l3num")]
    family: u16,
    #[mirror(member = "dst.u3.all")]
    destination: [u32; 4],
    #[mirror(member = "dst.u.all")]
    destination_port: u16,
    #[mirror(member = "dst.protonum")]
    protocol: u8,
    #[mirror(member = "dst.dir")]
    direction: u8,
}

/// The connections that netfilter tracks, in all network namespaces: `/proc/net/nf_conntrack`. None without its module.
pub(crate) fn conntrack(kernel: &Kernel) -> Result<Conntracks> {
    let Ok(hash) = kernel.symbol("nf_conntrack_hash") else {
        return Ok(Listing::from(Vec::new()));
    };
    read(kernel, hash)
}

/// The layouts for reading a bucket.
struct Reader<'a> {
    kernel: &'a Kernel,
    conn: Plan<NfConn>,
    tuple: Plan<RawTuple>,
    /// Offsets of `hnnode` and of `tuple` in a `nf_conntrack_tuple_hash`, of that in a `nf_conn` and of the next of the two.
    node: u64,
    inner: u64,
    hashes: u64,
    stride: u64,
    /// Offset of `ns.inum` in a `struct net`.
    inum: u64,
    /// The lower half of jiffies is what timeouts are compared with: `nfct_time_stamp`.
    jiffies: u32,
    namespaces: RefCell<BTreeSet<GuestVirt>>,
}

fn read(kernel: &Kernel, hash: GuestVirt) -> Result<Conntracks> {
    let first = GuestVirt(kernel.read_u64(hash)?);
    let size = kernel.read_u32(kernel.symbol("nf_conntrack_htable_size")?)?;
    if size > BUCKETS {
        let why = format!("it has {size} buckets");
        return Err(Error::Broken {
            what: "table of connections",
            at: hash,
            why,
        });
    }
    let (hashes, _, stride) = array(kernel, "struct nf_conn", "tuplehash")?;
    let reader = Reader {
        kernel,
        conn: Plan::new(kernel)?,
        tuple: Plan::new(kernel)?,
        node: offset_of(kernel, "struct nf_conntrack_tuple_hash", "hnnode")?,
        inner: offset_of(kernel, "struct nf_conntrack_tuple_hash", "tuple")?,
        hashes,
        stride,
        inum: offset_of(kernel, "struct net", "ns.inum")?,
        jiffies: kernel.read_u32(kernel.symbol("jiffies")?)?,
        namespaces: RefCell::default(),
    };
    let mut all = Conntracks::new();
    for bucket in 0..u64::from(size) {
        let head = first.offset(8 * bucket);
        // An empty one has its own number, and is odd.
        if kernel.read_u64(head)? & 1 == 1 {
            continue;
        }
        // Each for itself: where much comes and goes the whole table never stands still.
        match settle("a bucket of tracked connections", || reader.bucket(head)) {
            Ok(some) => all.items.extend(some),
            Err(error) => all.miss(format!("bucket {bucket} of nf_conntrack_hash"), &error),
        }
    }
    Ok(all)
}

impl Reader<'_> {
    /// `None` if a connection changed while it was read.
    fn bucket(&self, head: GuestVirt) -> Result<Option<Vec<Conntrack>>> {
        let mut all = Vec::new();
        for hash in hlist_nulls_for_each_entry(self.kernel, head, self.node) {
            let hash = hash?;
            let original = self.tuple.load(hash.offset(self.inner))?;
            // Each is there twice, once a direction.
            if original.direction != 0 {
                continue;
            }
            let at = hash.back(self.hashes);
            let raw = self.conn.load(at)?;
            let reply = at.offset(self.hashes + self.stride + self.inner);
            let reply = self.tuple.load(reply)?;
            // A namespace that ends is in no list any more, and stays until its last connection is gone.
            let netns = self.kernel.read_u32(raw.net.offset(self.inum));
            let ending = !self.is_listed(raw.net)?;
            let same = self.tuple.load(hash.offset(self.inner))? == original
                && self.conn.load(at)?.net == raw.net;
            if !same {
                return Ok(None);
            }
            let set = STATUS.iter().enumerate();
            let left = raw.timeout.wrapping_sub(self.jiffies).cast_signed();
            all.push(Conntrack {
                at,
                netns: netns?,
                ending,
                protocol: original.protocol,
                state: (original.protocol == IPPROTO_TCP)
                    .then(|| TCP_STATES.get(usize::from(raw.state)).copied())
                    .flatten(),
                original: original.addresses(),
                reply: reply.addresses(),
                status: set
                    .filter(|(bit, _)| raw.status >> bit & 1 == 1)
                    .map(|(_, name)| *name)
                    .collect(),
                mark: raw.mark.unwrap_or(0),
                zone: raw.zone.unwrap_or(0),
                // NF_CT_ZONE_DIR_ORIG and _REPL of include/net/netfilter/nf_conntrack_zones.h, by bit.
                zone_dir: match raw.zone_dir.unwrap_or(3) & 3 {
                    1 => "orig",
                    2 => "reply",
                    _ => "both",
                },
                timeout: left.into(),
            });
        }
        Ok(Some(all))
    }

    /// Tells whether a namespace is among those of the kernel: looked for again where it was not there before, since it
    /// may be new.
    fn is_listed(&self, net: GuestVirt) -> Result<bool> {
        if self.namespaces.borrow().contains(&net) {
            return Ok(true);
        }
        let now: BTreeSet<_> = net_namespaces(self.kernel)?
            .iter()
            .map(|one| one.at)
            .collect();
        let listed = now.contains(&net);
        self.namespaces.replace(now);
        Ok(listed)
    }
}

impl RawTuple {
    fn addresses(&self) -> Tuple {
        let address = |words: &[u32; 4]| {
            // Network byte order, in memory order.
            let mut bytes = [0; 16];
            for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
                to.copy_from_slice(&word.to_le_bytes());
            }
            // AF_INET
            match self.family {
                2 => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
                _ => IpAddr::from(bytes),
            }
        };
        Tuple {
            source: address(&self.source),
            destination: address(&self.destination),
            source_port: self.source_port.swap_bytes(),
            destination_port: self.destination_port.swap_bytes(),
        }
    }
}

impl Conntrack {
    /// Tells whether its "ports" are a type, a code and a number.
    #[must_use]
    pub const fn is_icmp(&self) -> bool {
        matches!(self.protocol, IPPROTO_ICMP | IPPROTO_ICMPV6)
    }
}
