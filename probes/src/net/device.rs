//! Network devices: `struct net_device`, and the addresses they have (`include/linux/inetdevice.h`,
//! `include/net/if_inet6.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::NetNamespace;
use crate::base::check_interrupt;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::{list_for_each_entry, offset_of, settle_all, whole_list};
use crate::{Error, Listing, Missing, Of as _, Result};

/// Devices of one namespace, and addresses of one device, that are read at most.
const BOUND: usize = 1 << 16;
/// `MAX_ADDR_LEN` of `include/linux/netdevice.h`.
const MAX_ADDR_LEN: u8 = 32;

/// An address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DeviceAddress {
    /// The address.
    pub address: IpAddr,
    /// Length of the network's prefix, in bits.
    pub prefix: u32,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetDevice {
    /// Address of its `struct net_device`.
    pub at: GuestVirt,
    /// Its number in its namespace.
    pub ifindex: i32,
    /// Its name.
    pub name: String,
    /// The inode number of its network namespace.
    pub netns: u32,
    /// `IFF_*`
    pub flags: u32,
    /// The longest packet in bytes.
    pub mtu: u32,
    /// `ARPHRD_*`
    #[serde(rename = "type")]
    pub type_: u16,
    /// Its hardware address.
    pub address: Vec<u8>,
    /// Transmit queues in use.
    pub tx_queues: u32,
    /// Receive queues in use.
    pub rx_queues: u32,
    /// Name of its queueing discipline, in which packets wait.
    pub qdisc: String,
    /// Its IPv4 and IPv6 addresses.
    pub addresses: Vec<DeviceAddress>,
}

/// Network devices, namespace by namespace.
pub type NetDevices = Listing<NetDevice>;

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct net_device")]
struct Raw {
    ifindex: i32,
    name: FixedStr<16>,
    #[mirror(member = "nd_net.net")]
    net: GuestVirt,
    flags: u32,
    mtu: u32,
    #[mirror(member = "type")]
    type_: u16,
    addr_len: u8,
    dev_addr: GuestVirt,
    real_num_tx_queues: u32,
    /// Absent without CONFIG_SYSFS.
    real_num_rx_queues: Option<u32>,
    qdisc: GuestVirt,
    ip_ptr: GuestVirt,
    ip6_ptr: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct in_ifaddr")]
struct InIfaddr {
    ifa_next: GuestVirt,
    ifa_local: u32,
    ifa_prefixlen: u8,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct inet6_ifaddr")]
struct Inet6Ifaddr {
    #[mirror(member = "addr.in6_u.u6_addr8")]
    addr: [u8; 16],
    prefix_len: u32,
}

/// The devices of these namespaces.
pub(super) fn read(kernel: &Kernel, namespaces: &[NetNamespace]) -> Result<NetDevices> {
    let plan = Plan::<Raw>::new(kernel)?;
    let head = offset_of(kernel, "struct net", "dev_base_head")?;
    let list = offset_of(kernel, "struct net_device", "dev_list")?;
    let mut devices = NetDevices::new();
    for net in namespaces {
        let what = format!("the devices of the network namespace {}", net.inum);
        let found = settle_all(&what, || {
            let nodes = whole_list(kernel, net.at.offset(head), list, BOUND, &what);
            let mut parts = Vec::new();
            let found = Listing::each(
                nodes,
                |at| name(kernel, at),
                |at| {
                    let raw = plan.load(at)?;
                    let device = device(kernel, net, at, &raw, &mut parts)?;
                    if raw.net != net.at && plan.load(at)? == raw {
                        let why = format!(
                            "its nd_net is {}, but it is on the list of {}",
                            raw.net, net.at
                        );
                        return Err(Error::broken("net_device", at, why));
                    }
                    Ok((plan.load(at)? == raw).then_some(device))
                },
            );
            Ok(found.map(|mut found| {
                found.missing.append(&mut parts);
                found
            }))
        });
        match found {
            Ok(found) => devices.append(found),
            Err(error) => devices.miss(what, &error),
        }
    }
    Ok(devices)
}

/// The device as an error names it.
pub(super) fn name(kernel: &Kernel, at: GuestVirt) -> String {
    let read = || {
        let name = offset_of(kernel, "struct net_device", "name")?;
        kernel.read_cstr(at.offset(name), 16)
    };
    match read() {
        Ok(name) => format!("device {name} at {at}"),
        // The error that is being told says more.
        Err(_) => format!("the net_device at {at}"),
    }
}

/// The device; what cannot be read of what it points to is missing, and empty.
fn device(
    kernel: &Kernel,
    net: &NetNamespace,
    at: GuestVirt,
    raw: &Raw,
    missing: &mut Vec<Missing>,
) -> Result<NetDevice> {
    if raw.addr_len > MAX_ADDR_LEN {
        let why = format!("its addr_len is {}", raw.addr_len);
        return Err(Error::broken("net_device", at, why));
    }
    let name = raw.name.to_str().into_owned();
    let its = |member: &str, to: GuestVirt| format!("device {name} at {at}, its {member} {to}");
    let mut address = vec![0; raw.addr_len.into()];
    if kernel
        .read(raw.dev_addr, &mut address)
        .or_miss(missing, || its("dev_addr", raw.dev_addr))
        .is_none()
    {
        address.clear();
    }
    let mut addresses = Vec::new();
    ipv4(kernel, raw.ip_ptr, &mut addresses).or_miss(missing, || its("ip_ptr", raw.ip_ptr));
    ipv6(kernel, raw.ip6_ptr, &mut addresses).or_miss(missing, || its("ip6_ptr", raw.ip6_ptr));
    let qdisc = qdisc(kernel, raw.qdisc).or_miss(missing, || its("qdisc", raw.qdisc));
    Ok(NetDevice {
        at,
        ifindex: raw.ifindex,
        netns: net.inum,
        flags: raw.flags,
        mtu: raw.mtu,
        type_: raw.type_,
        address,
        tx_queues: raw.real_num_tx_queues,
        rx_queues: raw.real_num_rx_queues.unwrap_or(1),
        qdisc: qdisc.unwrap_or_default(),
        addresses,
        name,
    })
}

/// `qdisc->ops->id`; nothing for a device without one.
pub(super) fn qdisc(kernel: &Kernel, qdisc: GuestVirt) -> Result<String> {
    if qdisc.is_null() {
        return Ok(String::new());
    }
    let ops = qdisc.offset(offset_of(kernel, "struct Qdisc", "ops")?);
    let id = offset_of(kernel, "struct Qdisc_ops", "id")?;
    kernel.read_cstr(GuestVirt(kernel.read_u64(ops)?).offset(id), 16)
}

/// `in_dev_for_each_ifa_rcu()`, as far as the list leads.
fn ipv4(kernel: &Kernel, in_device: GuestVirt, addresses: &mut Vec<DeviceAddress>) -> Result<()> {
    if in_device.is_null() {
        return Ok(());
    }
    let first = in_device.offset(offset_of(kernel, "struct in_device", "ifa_list")?);
    let mut next = GuestVirt(kernel.read_u64(first)?);
    while !next.is_null() {
        check_interrupt();
        if addresses.len() == BOUND {
            return Err(Error::TooLong {
                what: "list of addresses",
                at: first,
                bound: BOUND,
            });
        }
        let raw: InIfaddr = kernel.load(next)?;
        // Network byte order, in memory order.
        addresses.push(DeviceAddress {
            address: Ipv4Addr::from(raw.ifa_local.to_le_bytes()).into(),
            prefix: raw.ifa_prefixlen.into(),
        });
        next = raw.ifa_next;
    }
    Ok(())
}

fn ipv6(kernel: &Kernel, inet6_dev: GuestVirt, addresses: &mut Vec<DeviceAddress>) -> Result<()> {
    if inet6_dev.is_null() {
        return Ok(());
    }
    let head = inet6_dev.offset(offset_of(kernel, "struct inet6_dev", "addr_list")?);
    let member = offset_of(kernel, "struct inet6_ifaddr", "if_list")?;
    for at in list_for_each_entry(kernel, head, member).bound(BOUND) {
        let raw: Inet6Ifaddr = kernel.load(at?)?;
        addresses.push(DeviceAddress {
            address: Ipv6Addr::from(raw.addr).into(),
            prefix: raw.prefix_len,
        });
    }
    Ok(())
}
