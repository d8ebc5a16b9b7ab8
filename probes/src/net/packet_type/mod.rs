//! `struct packet_type` (`include/linux/netdevice.h`): the functions that get packets of a device.
//!
//! A handler of one protocol is in the hash `ptype_base`, by its EtherType; one that wants everything, as tcpdump's
//! socket does, is in `ptype_all`; one that wants one device only is with that device. Since 6.15 those of packet
//! sockets are with their network namespace.

mod view;

use serde::Serialize;

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::net::net_namespaces;
use crate::object::Object;
use crate::structures::{offset_of, whole_list};
use crate::{Error, Listing, Result};

/// `PTYPE_HASH_SIZE` (`include/linux/netdevice.h`).
const HASH: u64 = 16;
/// Bytes of a `struct list_head`.
const HEAD: u64 = 16;
/// The most handlers, devices or namespaces on one list.
const MOST: usize = 4096;

/// One handler of packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PacketType {
    /// Its address.
    pub at: GuestVirt,
    /// List that it is on: `ptype_base[0]`, `ptype_all`, `eth0 ptype_all`.
    pub chain: String,
    /// The EtherType as a number (`ETH_P_*`): 0x0800 is IPv4, 3 is every protocol.
    pub ethertype: u16,
    /// Function that gets each packet: `packet_type.func`.
    pub func: String,
    /// Function that gets a list of packets at once, if it has one: `packet_type.list_func`.
    pub list_func: Option<String>,
}

/// The handlers of packets.
pub type PacketTypes = Listing<PacketType>;

/// Every `packet_type` that is registered: `ptype_base`, `ptype_all`, those of each network namespace and device.
///
/// # Errors
/// When a list is not as the kernel keeps it.
pub(crate) fn packet_types(kernel: &Kernel) -> Result<PacketTypes> {
    let mut found = PacketTypes::new();
    let base = kernel.symbol("ptype_base")?;
    for bucket in 0..HASH {
        let chain = format!("ptype_base[{bucket}]");
        chain_of(kernel, base.offset(bucket * HEAD), &chain, &mut found)?;
    }
    // Until 6.15 it was one list for all.
    if let Some(all) = kernel.symbols()?.lookup("ptype_all") {
        chain_of(kernel, all, "ptype_all", &mut found)?;
    }
    let namespaces = net_namespaces(kernel)?;
    found.missing.extend(namespaces.missing);
    let devices = offset_of(kernel, "struct net", "dev_base_head")?;
    let in_device = offset_of(kernel, "struct net_device", "dev_list")?;
    for net in namespaces.items {
        let name = format!("netns {}", net.inum);
        members(kernel, ("struct net", net.at), &name, &mut found)?;
        let what = format!("{name}, the list of devices");
        let devices = net.at.offset(devices);
        let devices = whole_list(kernel, devices, in_device, MOST, &what);
        found.missing.extend(devices.missing);
        for at in devices.items {
            let device = Object::at(kernel, "struct net_device", at)?;
            match device.member("name")?.string() {
                Ok(device) => {
                    let name = format!("{name} {device}");
                    members(kernel, ("struct net_device", at), &name, &mut found)?;
                }
                Err(error) => found.miss(format!("{name}, the net_device at {at}"), &error),
            }
        }
    }
    Ok(found)
}

/// The lists of a namespace, where it has them, or of a device.
fn members(
    kernel: &Kernel,
    (c, at): (&str, GuestVirt),
    name: &str,
    found: &mut PacketTypes,
) -> Result<()> {
    for member in ["ptype_all", "ptype_specific"] {
        match offset_of(kernel, c, member) {
            Ok(head) => chain_of(kernel, at.offset(head), &format!("{name} {member}"), found)?,
            Err(Error::NoMember { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn chain_of(kernel: &Kernel, head: GuestVirt, chain: &str, found: &mut PacketTypes) -> Result<()> {
    let name = |at: GuestVirt| -> Result<Option<String>> {
        if at.is_null() {
            return Ok(None);
        }
        let symbol = kernel.symbol_at(at)?;
        Ok(Some(symbol.map_or_else(|| at.to_string(), |s| s.name)))
    };
    let member = offset_of(kernel, "struct packet_type", "list")?;
    let nodes = whole_list(kernel, head, member, MOST, chain);
    found.missing.extend(nodes.missing);
    for at in nodes.items {
        let handler = || {
            let handler = Object::at(kernel, "struct packet_type", at)?;
            Ok(PacketType {
                at,
                chain: chain.to_owned(),
                ethertype: (handler.member("type")?.u64()? as u16).swap_bytes(),
                // NULL of one that is being taken out.
                func: name(handler.member("func")?.pointer()?)?.unwrap_or_default(),
                list_func: name(handler.member("list_func")?.pointer()?)?,
            })
        };
        found.take(handler(), || format!("{chain}, the packet_type at {at}"));
    }
    Ok(())
}
