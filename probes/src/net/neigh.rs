//! Neighbours: which hardware address an address of the network has (`include/net/neighbour.h`).

use std::net::IpAddr;

use serde::Serialize;

use super::{NetNamespace, net_namespaces};
use crate::Listing;
use crate::cell::check_interrupt;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::{hlist_for_each_entry, offset_of, settle};
use crate::{Error, Result};

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
    /// Where its `neighbour` lies.
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

impl Guest {
    /// The neighbours by IPv4 (ARP) and IPv6, of all network namespaces: `ip neigh show nud all`.
    pub fn neighbours(&self) -> Result<Neighbours> {
        let kernel = self.kernel()?;
        let namespaces = net_namespaces(&kernel)?;
        let mut all = Vec::new();
        for symbol in ["arp_tbl", "nd_tbl"] {
            // IPv6 may be a module, or absent.
            if let Ok(table) = kernel.symbol(symbol) {
                all.extend(settle(&format!("the neighbours of {symbol}"), || {
                    read(&kernel, table, &namespaces)
                })?);
            }
        }
        Ok(Listing::from(all))
    }
}

/// `None` if a neighbour changed.
fn read(
    kernel: &Kernel,
    table: GuestVirt,
    namespaces: &[NetNamespace],
) -> Result<Option<Vec<Neighbour>>> {
    let plan = Plan::<Raw>::new(kernel)?;
    let key = offset_of(kernel, "struct neighbour", "primary_key")?;
    let len = kernel.read_u32(table.offset(offset_of(kernel, "struct neigh_table", "key_len")?))?;
    let mut all = Vec::new();
    for at in entries(kernel, table)? {
        let raw = plan.load(at)?;
        let device: Device = kernel.load(raw.dev)?;
        let mut bytes = [0; 16];
        let address = match len {
            4 => {
                let mut bytes = [0; 4];
                kernel.read(at.offset(key), &mut bytes)?;
                IpAddr::from(bytes)
            }
            16 => {
                kernel.read(at.offset(key), &mut bytes)?;
                IpAddr::from(bytes)
            }
            len => {
                let why = format!("its keys have {len} bytes");
                return Err(Error::Broken {
                    what: "table of neighbours",
                    at: table,
                    why,
                });
            }
        };
        let Some(net) = namespaces.iter().find(|net| net.at == device.net) else {
            return Ok(None);
        };
        if plan.load(at)? != raw {
            return Ok(None);
        }
        // NUD_VALID: the address is known, or none is needed.
        let valid = raw.nud_state & 0xde != 0;
        let known = if valid { device.addr_len } else { 0 };
        all.push(Neighbour {
            at,
            netns: net.inum,
            dev: device.name.to_str().into_owned(),
            address,
            hardware: raw.ha.iter().take(known.into()).copied().collect(),
            state: STATES
                .iter()
                .find(|(state, _)| *state == raw.nud_state)
                .map_or("?", |(_, name)| name),
        });
    }
    Ok(Some(all))
}

/// The entries of a hash table: on hlists since 6.13, one pointing to the next before.
fn entries(kernel: &Kernel, table: GuestVirt) -> Result<Vec<GuestVirt>> {
    let c = "struct neigh_hash_table";
    let nht = table.offset(offset_of(kernel, "struct neigh_table", "nht")?);
    let nht = GuestVirt(kernel.read_u64(nht)?);
    let shift = kernel.read_u32(nht.offset(offset_of(kernel, c, "hash_shift")?))?;
    if shift > SHIFT {
        let why = format!("it has 1 << {shift} buckets");
        return Err(Error::Broken {
            what: "table of neighbours",
            at: nht,
            why,
        });
    }
    let heads = offset_of(kernel, c, "hash_heads");
    let (buckets, hlists) = match heads {
        Ok(heads) => (heads, true),
        Err(_) => (offset_of(kernel, c, "hash_buckets")?, false),
    };
    let first = GuestVirt(kernel.read_u64(nht.offset(buckets))?);
    let mut all = Vec::new();
    for bucket in 0..1_u64 << shift {
        let head = first.offset(8 * bucket);
        if hlists {
            let member = offset_of(kernel, "struct neighbour", "hash")?;
            for at in hlist_for_each_entry(kernel, head, member).bound(BOUND) {
                all.push(at?);
            }
            continue;
        }
        let next = offset_of(kernel, "struct neighbour", "next")?;
        let mut at = GuestVirt(kernel.read_u64(head)?);
        while !at.is_null() {
            check_interrupt();
            if all.len() >= BOUND {
                return Err(Error::TooLong {
                    what: "list of neighbours",
                    at: head,
                    bound: BOUND,
                });
            }
            all.push(at);
            at = GuestVirt(kernel.read_u64(at.offset(next))?);
        }
    }
    Ok(all)
}
