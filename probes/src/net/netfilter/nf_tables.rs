//! nftables: tables, chains, rules (`include/net/netfilter/nf_tables.h`).

use std::cell::RefCell;

use serde::Serialize;

use super::expression::{NftExpression, expressions};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::net::{NetNamespace, net_namespaces};
use crate::object::{Mirror, Object};
use crate::structures::{offset_of, twice, whole_list};
use crate::{Error, Listing, Missing, Result};

/// Tables, chains, rules, sets: of each so many at most on one list.
const BOUND: usize = 1 << 20;
/// The longest name.
const NAME: usize = 256;
/// `NFT_CHAIN_BASE` of `include/uapi/linux/netfilter/nf_tables.h`.
const NFT_CHAIN_BASE: u8 = 1;
/// `NFT_SET_ANONYMOUS`, and others, without `NFT_SET_`, in lower case.
const SET_FLAGS: [(u16, &str); 6] = [
    (0x1, "anonymous"),
    (0x2, "constant"),
    (0x4, "interval"),
    (0x8, "map"),
    (0x10, "timeout"),
    (0x20, "eval"),
];

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NftRule {
    /// Address of its `struct nft_rule`.
    pub at: GuestVirt,
    /// Its number, by which `nft` deletes it.
    pub handle: u64,
    /// Expressions, evaluated one after another for each packet until one does not match.
    pub expressions: Vec<NftExpression>,
}

/// Hook of a base chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NftBase {
    /// `filter`, `nat`, `route`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The hook: `prerouting`, `input`, ..
    pub hook: String,
    /// Lower ones are called earlier.
    pub priority: i32,
    /// Policy for packets that no rule decided: `accept`, `drop`.
    pub policy: &'static str,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NftChain {
    /// Address of its `struct nft_chain`.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
    /// Its number.
    pub handle: u64,
    /// Its hook; `None` for a chain that rules jump to.
    pub base: Option<NftBase>,
    /// Its rules.
    pub rules: Vec<NftRule>,
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NftSet {
    /// Address of its `struct nft_set`.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
    /// Structure of its elements, by the name of its operations.
    pub ops: String,
    /// `anonymous`, `constant`, ..
    pub flags: Vec<&'static str>,
    /// Bytes of a key.
    pub key_len: u32,
    /// Its elements, those too that are about to be removed; older kernels count those of sets of a limited size only.
    pub elements: u32,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NftTable {
    /// Address of its `struct nft_table`.
    pub at: GuestVirt,
    /// The inode number of its network namespace.
    pub netns: u32,
    /// `ip`, `ip6`, `inet`, `arp`, `bridge`, `netdev`.
    pub family: &'static str,
    /// Its name.
    pub name: String,
    /// Its number.
    pub handle: u64,
    /// Its sets and maps.
    pub sets: Vec<NftSet>,
    /// Its chains.
    pub chains: Vec<NftChain>,
}

/// The tables of all network namespaces.
pub type NftRuleset = Listing<NftTable>;

#[derive(Debug, Mirror)]
#[mirror(c = "struct nft_table")]
struct RawTable {
    handle: u64,
    family: u32,
    genmask: u8,
    name: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct nft_chain")]
struct RawChain {
    handle: u64,
    flags: u8,
    genmask: u8,
    name: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct nft_rule")]
struct RawRule {
    handle: u64,
    genmask: u8,
    dlen: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct nft_set")]
struct RawSet {
    name: GuestVirt,
    ops: GuestVirt,
    flags: u16,
    genmask: u8,
    klen: u32,
    #[mirror(member = "nelems.counter")]
    elements: u32,
}

/// The tables, chains, rules and sets of nftables, of all network namespaces: `nft list ruleset`. None without its
/// module.
pub(crate) fn nft_ruleset(kernel: &Kernel) -> Result<NftRuleset> {
    let id = match kernel.symbol("nf_tables_net_id") {
        Ok(id) => kernel.read_u32(id)?,
        Err(Error::NoSymbol { .. }) => return Ok(NftRuleset::new()),
        Err(error) => return Err(error),
    };
    let namespaces = net_namespaces(kernel)?;
    let mut all = NftRuleset::new();
    all.missing = namespaces.missing;
    for net in namespaces.items {
        let what = format!("the tables of the network namespace {}", net.inum);
        match twice(&what, || tables(kernel, net, id)) {
            Ok(found) => all.append(found),
            Err(error) => all.miss(what, &error),
        }
    }
    Ok(all)
}

/// A reader of rules. During a change there are two generations; it takes the members of the valid one.
struct Reader<'k> {
    kernel: &'k Kernel,
    netns: u32,
    /// The bit of the generation: what has it in its mask is not active.
    inactive: u8,
    /// Parts that could not be read, each with the reason.
    missing: RefCell<Vec<Missing>>,
}

fn pointer(kernel: &Kernel, at: GuestVirt, c: &str, member: &str) -> Result<GuestVirt> {
    let at = at.offset(offset_of(kernel, c, member)?);
    kernel.read_u64(at).map(GuestVirt)
}

fn tables(kernel: &Kernel, net: NetNamespace, id: u32) -> Result<NftRuleset> {
    // net_generic(): an array of pointers, whose first ones are its head.
    let generic = pointer(kernel, net.at, "struct net", "gen")?;
    let own = GuestVirt(kernel.read_u64(generic.offset(8 * u64::from(id)))?);
    if own.is_null() {
        return Ok(NftRuleset::new());
    }
    let generation = net
        .at
        .offset(offset_of(kernel, "struct net", "nft.gencursor")?);
    let reader = Reader {
        kernel,
        netns: net.inum,
        inactive: 1 << (kernel.read_u8(generation)? & 1),
        missing: RefCell::default(),
    };
    let head = own.offset(offset_of(kernel, "struct nftables_pernet", "tables")?);
    Ok(Listing {
        items: reader.each(head, "struct nft_table", |at| reader.table(at))?,
        missing: reader.missing.into_inner(),
    })
}

impl Reader<'_> {
    /// Lists the active entries of a list. Those that cannot be read are noted.
    fn each<T>(
        &self,
        head: GuestVirt,
        c: &str,
        read: impl Fn(GuestVirt) -> Result<Option<T>>,
    ) -> Result<Vec<T>> {
        let member = offset_of(self.kernel, c, "list")?;
        let what = format!("netns {}, the list of {c} at {head}", self.netns);
        let all = whole_list(self.kernel, head, member, BOUND, &what);
        self.missing.borrow_mut().extend(all.missing);
        let mut items = Vec::new();
        for at in all.items {
            match read(at) {
                Ok(item) => items.extend(item),
                Err(error) => {
                    let what = format!("netns {}, the {c} at {at}", self.netns);
                    self.missing.borrow_mut().push(Missing::new(what, &error));
                }
            }
        }
        Ok(items)
    }

    fn table(&self, at: GuestVirt) -> Result<Option<NftTable>> {
        let raw: RawTable = self.kernel.load(at)?;
        if raw.genmask & self.inactive != 0 {
            return Ok(None);
        }
        let c = "struct nft_table";
        let list = |member| Ok::<_, Error>(at.offset(offset_of(self.kernel, c, member)?));
        Ok(Some(NftTable {
            at,
            netns: self.netns,
            family: family(raw.family),
            name: self.kernel.read_cstr(raw.name, NAME)?,
            handle: raw.handle,
            sets: self.each(list("sets")?, "struct nft_set", |at| self.set(at))?,
            chains: self.each(list("chains")?, "struct nft_chain", |at| {
                self.chain(at, raw.family)
            })?,
        }))
    }

    fn set(&self, at: GuestVirt) -> Result<Option<NftSet>> {
        let raw: RawSet = self.kernel.load(at)?;
        if raw.genmask & self.inactive != 0 {
            return Ok(None);
        }
        // The operations are a member of the type, which has the symbol.
        let symbol = self.kernel.symbol_at(raw.ops)?;
        let set = SET_FLAGS.iter().filter(|(bit, _)| raw.flags & bit != 0);
        Ok(Some(NftSet {
            at,
            name: self.kernel.read_cstr(raw.name, NAME)?,
            ops: symbol.map_or_else(|| raw.ops.to_string(), |symbol| symbol.name),
            flags: set.map(|(_, name)| *name).collect(),
            key_len: raw.klen,
            elements: raw.elements,
        }))
    }

    fn chain(&self, at: GuestVirt, family: u32) -> Result<Option<NftChain>> {
        let kernel = self.kernel;
        let raw: RawChain = kernel.load(at)?;
        if raw.genmask & self.inactive != 0 {
            return Ok(None);
        }
        let base = match raw.flags & NFT_CHAIN_BASE != 0 {
            true => Some(base(kernel, at, family)?),
            false => None,
        };
        let rules = at.offset(offset_of(kernel, "struct nft_chain", "rules")?);
        Ok(Some(NftChain {
            at,
            name: kernel.read_cstr(raw.name, NAME)?,
            handle: raw.handle,
            base,
            rules: self.each(rules, "struct nft_rule", |at| self.rule(at))?,
        }))
    }

    fn rule(&self, at: GuestVirt) -> Result<Option<NftRule>> {
        let raw: RawRule = self.kernel.load(at)?;
        if raw.genmask & self.inactive != 0 {
            return Ok(None);
        }
        let data = at.offset(offset_of(self.kernel, "struct nft_rule", "data")?);
        Ok(Some(NftRule {
            at,
            handle: raw.handle,
            expressions: expressions(self.kernel, data, raw.dlen.into())?,
        }))
    }
}

fn base(kernel: &Kernel, chain: GuestVirt, family: u32) -> Result<NftBase> {
    let at = chain.back(offset_of(kernel, "struct nft_base_chain", "chain")?);
    let base = Object::at(kernel, "struct nft_base_chain", at)?;
    let hook = base.member("ops.hooknum")?.u64()?;
    // NFPROTO_ARP and NFPROTO_NETDEV have hooks of their own; NFPROTO_INET has one more than IP.
    let names: &[&str] = match family {
        3 => &["input", "output", "forward"],
        5 => &["ingress", "egress"],
        _ => &[
            "prerouting",
            "input",
            "forward",
            "output",
            "postrouting",
            "ingress",
        ],
    };
    let name = names.get(hook as usize);
    let hook = name.map_or_else(|| hook.to_string(), |name| (*name).to_owned());
    Ok(NftBase {
        kind: base.member("type")?.deref()?.member("name")?.string()?,
        hook,
        priority: base.member("ops.priority")?.i64()? as i32,
        // NF_ACCEPT is 1, NF_DROP 0.
        policy: match base.member("policy")?.u64()? {
            0 => "drop",
            _ => "accept",
        },
    })
}

/// `NFPROTO_*` of `include/uapi/linux/netfilter.h`.
const fn family(family: u32) -> &'static str {
    match family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "?",
    }
}
