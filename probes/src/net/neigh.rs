//! Neighbours: which hardware address an address of the network has (`include/net/neighbour.h`).

use std::net::IpAddr;

use serde::Serialize;

use super::namespace::ending;
use super::{NetNamespace, net_namespaces};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::{chain, hlist_for_each_entry, offset_of, settle_all};
use crate::{Error, Listing, Of as _, Result};

/// Neighbours of one table that are read at most.
const BOUND: usize = 1 << 20;
/// Hash tables have `1 << SHIFT` buckets at most.
const SHIFT: u32 = 24;
/// `NUD_*` of `include/uapi/linux/neighbour.h`.
const STATES: [(u8, &str); 9] = [
    (0x00, "NONE"),
    (0x01, "INCOMPLETE"),
    (0x02, "REACHABLE"),
    (0x04, "STALE"),
    (0x08, "DELAY"),
    (0x10, "PROBE"),
    (0x20, "FAILED"),
    (0x40, "NOARP"),
    (0x80, "PERMANENT"),
];

/// A neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Neighbour {
    /// Address of its `struct neighbour`.
    pub at: GuestVirt,
    /// The inode number of its network namespace.
    pub netns: u32,
    /// Its device.
    pub dev: String,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address; nothing while it is not known.
    pub hardware: Vec<u8>,
    /// `NUD_*` without `NUD_`: how much of it is known.
    pub state: &'static str,
}

/// The neighbours of all network namespaces.
pub type Neighbours = Listing<Neighbour>;

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct neighbour")]
struct Raw {
    dev: GuestVirt,
    nud_state: u8,
    ha: [u8; 32],
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct net_device")]
struct Device {
    name: FixedStr<16>,
    addr_len: u8,
    #[mirror(member = "nd_net.net")]
    net: GuestVirt,
}

/// The neighbours by IPv4 (ARP) and IPv6, of all network namespaces: `ip neigh show nud all`.
pub(crate) fn neighbours(kernel: &Kernel) -> Result<Neighbours> {
    let namespaces = net_namespaces(kernel)?;
    let mut all = Neighbours::new();
    for symbol in ["arp_tbl", "nd_tbl"] {
        // IPv6 may be a module, or absent.
        let Some(table) = kernel.symbols()?.lookup(symbol) else {
            continue;
        };
        let what = format!("the neighbours of {symbol}");
        match settle_all(&what, || read(kernel, table, &namespaces)) {
            Ok(found) => all.append(found),
            Err(error) => all.miss(what, &error),
        }
    }
    all.missing.extend(namespaces.missing);
    Ok(all)
}

/// `None` if a neighbour changed.
fn read(
    kernel: &Kernel,
    table: GuestVirt,
    namespaces: &[NetNamespace],
) -> Result<Option<Neighbours>> {
    let plan = Plan::<Raw>::new(kernel)?;
    let key = offset_of(kernel, "struct neighbour", "primary_key")?;
    let len = kernel.read_u32(table.offset(offset_of(kernel, "struct neigh_table", "key_len")?))?;
    if !matches!(len, 4 | 16) {
        let why = format!("its keys have {len} bytes");
        return Err(Error::broken("table of neighbours", table, why));
    }
    let name = |at| format!("the neighbour at {at}");
    Ok(Listing::each(entries(kernel, table)?, name, |at| {
        let raw = plan.load(at)?;
        let device: Device = kernel.load(raw.dev).of(|| format!("its dev {}", raw.dev))?;
        let mut bytes = [0; 16];
        kernel.read(at.offset(key), &mut bytes[..len as usize])?;
        let address = match len {
            4 => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
            _ => IpAddr::from(bytes),
        };
        let netns = match namespaces.iter().find(|net| net.at == device.net) {
            Some(net) => net.inum,
            None => ending(kernel, device.net)
                .of(|| format!("its dev's network namespace {}", device.net))?,
        };
        if plan.load(at)? != raw {
            return Ok(None);
        }
        // NUD_VALID: the address is known, or none is needed.
        let valid = raw.nud_state & 0xde != 0;
        let known = usize::from(if valid { device.addr_len } else { 0 });
        let Some(hardware) = raw.ha.get(..known) else {
            let why = format!("its dev's addr_len is {known}");
            return Err(Error::broken("neighbour", at, why));
        };
        Ok(Some(Neighbour {
            at,
            netns,
            dev: device.name.to_str().into_owned(),
            address,
            hardware: hardware.to_vec(),
            state: STATES
                .iter()
                .find(|(state, _)| *state == raw.nud_state)
                .map_or("?", |(_, name)| name),
        }))
    }))
}

/// The entries of a hash table: on hlists since 6.13, one pointing to the next before.
fn entries(kernel: &Kernel, table: GuestVirt) -> Result<Listing<GuestVirt>> {
    let c = "struct neigh_hash_table";
    let nht = table.offset(offset_of(kernel, "struct neigh_table", "nht")?);
    let nht = GuestVirt(kernel.read_u64(nht)?);
    let shift = kernel.read_u32(nht.offset(offset_of(kernel, c, "hash_shift")?))?;
    if shift > SHIFT {
        let why = format!("it has 1 << {shift} buckets");
        return Err(Error::broken("table of neighbours", nht, why));
    }
    let heads = offset_of(kernel, c, "hash_heads");
    let (buckets, hlists) = match heads {
        Ok(heads) => (heads, true),
        Err(Error::NoMember { .. }) => (offset_of(kernel, c, "hash_buckets")?, false),
        Err(error) => return Err(error),
    };
    let first = GuestVirt(kernel.read_u64(nht.offset(buckets))?);
    let mut all = Listing::new();
    for bucket in 0..1_u64 << shift {
        let head = first.offset(8 * bucket);
        let what = format!("the neighbours of bucket {bucket} at {head}");
        if hlists {
            let member = offset_of(kernel, "struct neighbour", "hash")?;
            let walk = hlist_for_each_entry(kernel, head, member).bound(BOUND);
            all.append(Listing::walk(&what, walk));
            continue;
        }
        let next = offset_of(kernel, "struct neighbour", "next")?;
        let first = kernel.read_u64(head).map(GuestVirt);
        match first {
            Ok(first) => all.append(Listing::walk(&what, chain(kernel, first, next))),
            Err(error) => all.miss(what, &error),
        }
    }
    Ok(all)
}
