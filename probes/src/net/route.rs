//! Routes: the tables that say where a packet goes (`net/ipv4/fib_trie.c`, `net/ipv6/ip6_fib.c`).

use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use super::{NetNamespace, net_namespaces};
use crate::base::check_interrupt;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::{hlist_for_each_entry, offset_of, twice};
use crate::{Error, Listing, Of as _, Result};

/// Routes and nodes of one table, and ways of one route, that are read at most.
const BOUND: usize = 1 << 22;
const WAYS: u32 = 4096;
/// `FIB_TABLE_HASHSZ` and `FIB6_TABLE_HASHSZ`, with CONFIG_IP_MULTIPLE_TABLES.
const TABLES: u64 = 256;
/// `RTN_*` of `include/uapi/linux/rtnetlink.h`, in lower case.
const TYPES: [&str; 12] = [
    "unspec",
    "unicast",
    "local",
    "broadcast",
    "anycast",
    "multicast",
    "blackhole",
    "unreachable",
    "prohibit",
    "throw",
    "nat",
    "xresolve",
];
/// `RTNH_F_*` of `include/uapi/linux/rtnetlink.h`, in lower case.
const FLAGS: [(u8, &str); 6] = [
    (0x01, "dead"),
    (0x02, "pervasive"),
    (0x04, "onlink"),
    (0x08, "offload"),
    (0x10, "linkdown"),
    (0x20, "unresolved"),
];

/// One way that a route has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NextHop {
    /// The next station; `None` if the destination itself is on the device's network.
    pub gateway: Option<IpAddr>,
    /// The device; nothing where packets are not sent on.
    pub dev: String,
    /// Weight among several next hops.
    pub weight: u32,
    /// `RTNH_F_*` in lower case, without `RTNH_F_`.
    pub flags: Vec<&'static str>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Address of its `struct fib_info` or `fib6_info`.
    pub at: GuestVirt,
    /// The inode number of its network namespace.
    pub netns: u32,
    /// Its table: 255 is `local`, 254 `main`, 253 `default`.
    pub table: u32,
    /// The destinations that it is for.
    pub destination: IpAddr,
    /// Length of the prefix, in bits.
    pub prefix: u8,
    /// Type of the route, `RTN_*` in lower case: what becomes of a packet.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Origin of the route: `RTPROT_*` as a number; 2 is the kernel.
    pub protocol: u8,
    /// Scope of the destination: `RT_SCOPE_*` as a number; 0 is anywhere, 253 the device's network, 254 this machine.
    /// IPv6 has none.
    pub scope: Option<u8>,
    /// The lower, the better.
    pub metric: u32,
    /// The address that packets are sent from.
    pub source: Option<IpAddr>,
    /// Its ways.
    pub ways: Vec<NextHop>,
    /// The nexthop object that has its ways instead.
    pub nexthop: Option<u32>,
}

/// The routes of all network namespaces, table by table.
pub type Routes = Listing<Route>;

#[derive(Debug, Mirror)]
#[mirror(c = "struct key_vector")]
struct KeyVector {
    key: u32,
    bits: u8,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct fib_alias")]
struct FibAlias {
    fa_info: GuestVirt,
    fa_type: u8,
    fa_slen: u8,
    tb_id: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct fib_info")]
struct FibInfo {
    fib_protocol: u8,
    fib_scope: u8,
    fib_prefsrc: u32,
    fib_priority: u32,
    fib_nhs: u32,
    nh: Option<GuestVirt>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct fib_nh_common")]
struct FibNh {
    #[mirror(member = "nhc_dev")]
    dev: GuestVirt,
    #[mirror(member = "nhc_gw_family")]
    family: u8,
    #[mirror(member = "nhc_flags")]
    flags: u8,
    #[mirror(member = "nhc_weight")]
    weight: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct fib6_node")]
struct Fib6Node {
    left: GuestVirt,
    right: GuestVirt,
    /// Absent without CONFIG_IPV6_SUBTREES.
    subtree: Option<GuestVirt>,
    leaf: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct fib6_info")]
struct Fib6Info {
    fib6_next: GuestVirt,
    #[mirror(member = "fib6_dst.addr.in6_u.u6_addr8")]
    destination: [u8; 16],
    #[mirror(member = "fib6_dst.plen")]
    prefix: u32,
    #[mirror(member = "fib6_prefsrc.addr.in6_u.u6_addr8")]
    source: [u8; 16],
    #[mirror(member = "fib6_prefsrc.plen")]
    source_prefix: u32,
    fib6_metric: u32,
    fib6_protocol: u8,
    fib6_type: u8,
    nh: Option<GuestVirt>,
}

/// The routes of IPv4 and IPv6 of all network namespaces: `ip route show table all`.
pub(crate) fn routes(kernel: &Kernel) -> Result<Routes> {
    let namespaces = net_namespaces(kernel)?;
    let mut all = Routes::new();
    all.missing = namespaces.missing;
    for net in namespaces.items {
        let what = format!("the routes of the network namespace {}", net.inum);
        match twice(&what, || Reader::new(kernel, net)?.all()) {
            Ok(found) => all.append(found),
            Err(error) => all.miss(what, &error),
        }
    }
    Ok(all)
}

struct Reader<'k> {
    kernel: &'k Kernel,
    net: NetNamespace,
    vector: Plan<KeyVector>,
    alias: Plan<FibAlias>,
    info: Plan<FibInfo>,
    way: Plan<FibNh>,
    routes: Routes,
}

impl<'k> Reader<'k> {
    fn new(kernel: &'k Kernel, net: NetNamespace) -> Result<Self> {
        Ok(Self {
            kernel,
            net,
            vector: Plan::new(kernel)?,
            alias: Plan::new(kernel)?,
            info: Plan::new(kernel)?,
            way: Plan::new(kernel)?,
            routes: Routes::new(),
        })
    }

    fn all(mut self) -> Result<Routes> {
        for table in self.tables(
            "ipv4.fib_table_hash",
            "ipv4.rules_ops",
            "struct fib_table",
            "tb_hlist",
        )? {
            if let Err(error) = self.ipv4(table) {
                self.miss(format!("the rest of the fib_table at {table}"), &error);
            }
        }
        if self.has("ipv6.fib_table_hash")? {
            for table in self.tables(
                "ipv6.fib_table_hash",
                "ipv6.fib6_rules_ops",
                "struct fib6_table",
                "tb6_hlist",
            )? {
                if let Err(error) = self.ipv6(table) {
                    self.miss(format!("the rest of the fib6_table at {table}"), &error);
                }
            }
        }
        Ok(self.routes)
    }

    fn miss(&mut self, what: String, error: &Error) {
        let what = format!("network namespace {}, {what}", self.net.inum);
        self.routes.miss(what, error);
    }

    /// Tells whether a namespace has this: not without IPv6, or without rules.
    fn has(&self, member: &str) -> Result<bool> {
        match offset_of(self.kernel, "struct net", member) {
            Ok(_) => Ok(true),
            Err(Error::NoMember { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn pointer(&self, at: GuestVirt, c: &str, member: &str) -> Result<GuestVirt> {
        let at = at.offset(offset_of(self.kernel, c, member)?);
        self.kernel.read_u64(at).map(GuestVirt)
    }

    /// The tables of a hash of them, by their numbers. Kernels without rules have two tables.
    fn tables(&mut self, hash: &str, rules: &str, c: &str, member: &str) -> Result<Vec<GuestVirt>> {
        let first = self.pointer(self.net.at, "struct net", hash)?;
        if first.is_null() {
            return Ok(Vec::new());
        }
        let many = self.has(rules)?;
        let member = offset_of(self.kernel, c, member)?;
        let mut all = Vec::new();
        for bucket in 0..if many { TABLES } else { 2 } {
            let head = first.offset(8 * bucket);
            let what = format!("network namespace {}, {hash}[{bucket}]", self.net.inum);
            let walk = hlist_for_each_entry(self.kernel, head, member).bound(BOUND);
            all.extend(Listing::walk(&what, walk).into_items(&mut self.routes.missing));
        }
        Ok(all)
    }

    /// The trie of a table; `local` and `main` may share one, whose entries then say whose they are.
    fn ipv4(&mut self, table: GuestVirt) -> Result<()> {
        let kernel = self.kernel;
        let id = kernel.read_u32(table.offset(offset_of(kernel, "struct fib_table", "tb_id")?))?;
        let trie = self.pointer(table, "struct fib_table", "tb_data")?;
        let child = offset_of(kernel, "struct key_vector", "tnode")?;
        let leaf = offset_of(kernel, "struct key_vector", "leaf")?;
        let list = offset_of(kernel, "struct fib_alias", "fa_list")?;
        let root = trie.offset(offset_of(kernel, "struct trie", "kv")?);
        // The root has one child, whatever it says of its bits.
        let mut work = vec![GuestVirt(kernel.read_u64(root.offset(child))?)];
        let mut seen = 0;
        while let Some(at) = work.pop() {
            check_interrupt();
            if at.is_null() {
                continue;
            }
            seen += 1;
            let node = match self.vector.load(at) {
                Ok(node) => node,
                Err(error) => {
                    self.miss(format!("what is below the key_vector {at}"), &error);
                    continue;
                }
            };
            if node.bits > 31 || seen > BOUND || work.len() > BOUND {
                return Err(Error::TooLong {
                    what: "trie of routes",
                    at: trie,
                    bound: BOUND,
                });
            }
            if node.bits > 0 {
                for i in (0..1_u64 << node.bits).rev() {
                    let child = kernel.read_u64(at.offset(child + 8 * i))?;
                    if child != 0 {
                        work.push(GuestVirt(child));
                    }
                }
                continue;
            }
            let what = format!("network namespace {}, the leaf {at}", self.net.inum);
            let walk = hlist_for_each_entry(kernel, at.offset(leaf), list).bound(BOUND);
            for at in Listing::walk(&what, walk).into_items(&mut self.routes.missing) {
                let route = self
                    .alias
                    .load(at)
                    .and_then(|alias| match alias.tb_id == id {
                        true => self.ipv4_route(id, node.key, &alias),
                        false => Ok(()),
                    });
                if let Err(error) = route {
                    self.miss(format!("the fib_alias at {at}"), &error);
                }
            }
        }
        Ok(())
    }

    fn ipv4_route(&mut self, table: u32, key: u32, alias: &FibAlias) -> Result<()> {
        let kernel = self.kernel;
        let info = self.info.load(alias.fa_info);
        let info = info.of(|| format!("its fa_info {}", alias.fa_info))?;
        if info.fib_nhs > WAYS {
            let why = format!("its fib_nhs is {}", info.fib_nhs);
            return Err(Error::broken("fib_info", alias.fa_info, why));
        }
        if alias.fa_slen > 32 {
            let why = format!("its fa_slen is {}", alias.fa_slen);
            return Err(Error::broken("fib_alias", alias.fa_info, why));
        }
        let nexthop = self.nexthop(info.nh)?;
        let mut ways = Vec::new();
        if nexthop.is_none() {
            let c = "struct fib_nh";
            let first = alias
                .fa_info
                .offset(offset_of(kernel, "struct fib_info", "fib_nh")?);
            let common = offset_of(kernel, c, "nh_common")?;
            let size = kernel.c_type(c)?.size()?;
            for i in 0..u64::from(info.fib_nhs) {
                ways.push(self.way(first.offset(i * size + common))?);
            }
        }
        let source = info.fib_prefsrc;
        self.routes.items.push(Route {
            at: alias.fa_info,
            netns: self.net.inum,
            table,
            destination: Ipv4Addr::from(key).into(),
            prefix: 32 - alias.fa_slen,
            kind: kind(alias.fa_type),
            protocol: info.fib_protocol,
            scope: Some(info.fib_scope),
            metric: info.fib_priority,
            // Network byte order, in memory order.
            source: (source != 0).then(|| Ipv4Addr::from(source.to_le_bytes()).into()),
            ways,
            nexthop,
        });
        Ok(())
    }

    /// The tree of a table.
    fn ipv6(&mut self, table: GuestVirt) -> Result<()> {
        let kernel = self.kernel;
        let c = "struct fib6_table";
        let id = kernel.read_u32(table.offset(offset_of(kernel, c, "tb6_id")?))?;
        // An entry that says that there is no route is no route.
        let null = self.pointer(self.net.at, "struct net", "ipv6.fib6_null_entry")?;
        let mut work = vec![table.offset(offset_of(kernel, c, "tb6_root")?)];
        let mut seen = 0;
        while let Some(at) = work.pop() {
            check_interrupt();
            if at.is_null() {
                continue;
            }
            let node = kernel.load::<Fib6Node>(at);
            let node = node.and_then(|node| Ok((self.fn_flags(at)?, node)));
            let (flags, node) = match node {
                Ok(read) => read,
                Err(error) => {
                    self.miss(format!("what is below the fib6_node {at}"), &error);
                    continue;
                }
            };
            work.extend([node.right, node.left]);
            work.extend(node.subtree);
            let mut leaf = node.leaf;
            // A node without a route of its own points to one below it, where it is found again.
            let own = RTN_RTINFO & flags != 0;
            while own && !leaf.is_null() {
                seen += 1;
                if seen > BOUND {
                    break;
                }
                let info: Fib6Info = match kernel.load(leaf) {
                    Ok(info) => info,
                    Err(error) => {
                        self.miss(format!("the fib6_info {leaf}, and those behind it"), &error);
                        break;
                    }
                };
                if leaf != null
                    && let Err(error) = self.ipv6_route(id, leaf, &info)
                {
                    self.miss(format!("the fib6_info at {leaf}"), &error);
                }
                leaf = info.fib6_next;
            }
            seen += 1;
            if seen > BOUND {
                return Err(Error::TooLong {
                    what: "tree of routes",
                    at: table,
                    bound: BOUND,
                });
            }
        }
        Ok(())
    }

    fn fn_flags(&self, at: GuestVirt) -> Result<u16> {
        let flags = offset_of(self.kernel, "struct fib6_node", "fn_flags")?;
        self.kernel.read_u16(at.offset(flags))
    }

    fn ipv6_route(&mut self, table: u32, at: GuestVirt, info: &Fib6Info) -> Result<()> {
        let kernel = self.kernel;
        let Some(prefix) = u8::try_from(info.prefix).ok().filter(|bits| *bits <= 128) else {
            let why = format!("its fib6_dst.plen is {}", info.prefix);
            return Err(Error::broken("fib6_info", at, why));
        };
        let nexthop = self.nexthop(info.nh)?;
        let mut ways = Vec::new();
        if nexthop.is_none() {
            let first = at.offset(offset_of(kernel, "struct fib6_info", "fib6_nh")?);
            ways.push(self.way(first.offset(offset_of(kernel, "struct fib6_nh", "nh_common")?))?);
        }
        self.routes.items.push(Route {
            at,
            netns: self.net.inum,
            table,
            destination: info.destination.into(),
            prefix,
            kind: kind(info.fib6_type),
            protocol: info.fib6_protocol,
            scope: None,
            metric: info.fib6_metric,
            source: (info.source_prefix != 0).then(|| info.source.into()),
            ways,
            nexthop,
        });
        Ok(())
    }

    fn nexthop(&self, nh: Option<GuestVirt>) -> Result<Option<u32>> {
        match nh.filter(|nh| !nh.is_null()) {
            Some(nh) => {
                let id = nh.offset(offset_of(self.kernel, "struct nexthop", "id")?);
                self.kernel.read_u32(id).map(Some)
            }
            None => Ok(None),
        }
    }

    fn way(&self, at: GuestVirt) -> Result<NextHop> {
        let kernel = self.kernel;
        let raw = self.way.load(at)?;
        let gateway = at.offset(offset_of(kernel, "struct fib_nh_common", "nhc_gw")?);
        let gateway = match raw.family {
            2 => {
                let mut bytes = [0; 4];
                kernel.read(gateway, &mut bytes)?;
                Some(IpAddr::from(bytes))
            }
            10 => {
                let mut bytes = [0; 16];
                kernel.read(gateway, &mut bytes)?;
                Some(IpAddr::from(bytes))
            }
            _ => None,
        };
        let dev = match raw.dev.is_null() {
            true => String::new(),
            false => {
                let dev = kernel.load::<Named>(raw.dev);
                let dev = dev.of(|| format!("its nhc_dev {}", raw.dev))?;
                dev.name.to_str().into_owned()
            }
        };
        let set = FLAGS.iter().filter(|(bit, _)| raw.flags & bit != 0);
        Ok(NextHop {
            gateway,
            dev,
            weight: raw.weight,
            flags: set.map(|(_, name)| *name).collect(),
        })
    }
}

/// `RTN_RTINFO` of `include/net/ip6_fib.h`: the node has routes of its own.
const RTN_RTINFO: u16 = 4;

#[derive(Debug, Mirror)]
#[mirror(c = "struct net_device")]
struct Named {
    name: FixedStr<16>,
}

fn kind(number: u8) -> &'static str {
    TYPES.get(usize::from(number)).copied().unwrap_or("?")
}
