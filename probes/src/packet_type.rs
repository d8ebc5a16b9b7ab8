//! `struct packet_type` (`include/linux/netdevice.h`): who gets which packets of a device.
//!
//! A handler of one protocol is in the hash `ptype_base`, by its EtherType; one that wants everything, as tcpdump's
//! socket does, is in `ptype_all`; one that wants one device only is with that device. Since 6.15 those of packet
//! sockets are with their network namespace.

use serde::Serialize;

use crate::Listing;
use crate::Result;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Object;
use crate::structures::{list_for_each_entry, offset_of};
use crate::view::{Align, Table, View};

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
    /// Where it is registered: `ptype_base[0]`, `ptype_all`, `eth0 ptype_all`.
    pub chain: String,
    /// The EtherType as a number (`ETH_P_*`): 0x0800 is IPv4, 3 is every protocol.
    pub ethertype: u16,
    /// What gets each packet.
    pub func: String,
    /// What gets a list of packets at once, where it has that.
    pub list_func: Option<String>,
}

/// The handlers of packets.
pub type PacketTypes = Listing<PacketType>;

impl Guest {
    /// Every `packet_type` that is registered: `ptype_base`, `ptype_all`, those of each network namespace and device.
    ///
    /// # Errors
    /// When a list is not as the kernel keeps it.
    pub fn packet_types(&self) -> Result<PacketTypes> {
        let kernel = self.kernel()?;
        let mut found = Vec::new();
        let base = kernel.symbol("ptype_base")?;
        for bucket in 0..HASH {
            let chain = format!("ptype_base[{bucket}]");
            chain_of(&kernel, base.offset(bucket * HEAD), &chain, &mut found)?;
        }
        // Until 6.15 it was one list for all.
        if let Some(all) = kernel.symbols()?.lookup("ptype_all") {
            chain_of(&kernel, all, "ptype_all", &mut found)?;
        }
        let nets = kernel.symbol("net_namespace_list")?;
        let in_net = offset_of(&kernel, "struct net", "list")?;
        for net in list_for_each_entry(&kernel, nets, in_net).bound(MOST) {
            let net = Object::at(&kernel, "struct net", net?)?;
            let name = format!("netns {}", net.member("ns.inum")?.u64()?);
            members(&kernel, &net, &name, &mut found)?;
            let devices = net.member("dev_base_head")?.address().unwrap_or_default();
            let in_device = offset_of(&kernel, "struct net_device", "dev_list")?;
            for device in list_for_each_entry(&kernel, devices, in_device).bound(MOST) {
                let device = Object::at(&kernel, "struct net_device", device?)?;
                let name = format!("{name} {}", device.member("name")?.string()?);
                members(&kernel, &device, &name, &mut found)?;
            }
        }
        Ok(Listing::from(found))
    }
}

/// The lists of a namespace, where it has them, or of a device.
fn members(kernel: &Kernel, owner: &Object, name: &str, found: &mut Vec<PacketType>) -> Result<()> {
    for member in ["ptype_all", "ptype_specific"] {
        if let Ok(list) = owner.member(member) {
            let head = list.address().unwrap_or_default();
            chain_of(kernel, head, &format!("{name} {member}"), found)?;
        }
    }
    Ok(())
}

fn chain_of(
    kernel: &Kernel,
    head: GuestVirt,
    chain: &str,
    found: &mut Vec<PacketType>,
) -> Result<()> {
    let name = |at: GuestVirt| -> Result<Option<String>> {
        if at.is_null() {
            return Ok(None);
        }
        let symbol = kernel.symbol_at(at)?;
        Ok(Some(symbol.map_or_else(|| at.to_string(), |s| s.name)))
    };
    let member = offset_of(kernel, "struct packet_type", "list")?;
    for at in list_for_each_entry(kernel, head, member).bound(MOST) {
        let at = at?;
        let handler = Object::at(kernel, "struct packet_type", at)?;
        found.push(PacketType {
            at,
            chain: chain.to_owned(),
            ethertype: (handler.member("type")?.u64()? as u16).swap_bytes(),
            func: name(handler.member("func")?.pointer()?)?.unwrap_or_default(),
            list_func: name(handler.member("list_func")?.pointer()?)?,
        });
    }
    Ok(())
}

impl View for PacketTypes {
    fn text(&self) -> String {
        table(self).text()
    }

    fn html(&self) -> Option<String> {
        table(self).html()
    }
}

fn table(handlers: &PacketTypes) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("CHAIN", Left),
        ("TYPE", Right),
        ("FUNC", Left),
        ("LIST_FUNC", Left),
        ("PACKET_TYPE", Left),
    ];
    let mut table = Table::new(columns);
    for handler in handlers.iter() {
        table.row([
            handler.chain.clone(),
            format!("{:#06x}", handler.ethertype),
            handler.func.clone(),
            handler.list_func.clone().unwrap_or_default(),
            handler.at.to_string(),
        ]);
    }
    table
}

crate::displays!(PacketTypes);
