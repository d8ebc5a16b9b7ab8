//! Netfilter's hooks as each network namespace has them: `net.nf.hooks_ipv4` and its like
//! (`include/net/netns/netfilter.h`).

use std::ops::Deref;

use serde::Serialize;

use crate::kernel::{Functions, Kernel};
use crate::memory::GuestVirt;
use crate::net::{NetNamespace, net_namespaces};
use crate::object::Object;
use crate::structures::{array, offset_of};
use crate::{Error, Missing, Of as _, Result};

/// `enum nf_inet_hooks` (`include/uapi/linux/netfilter.h`), and of a bridge those of `netfilter_bridge.h`.
const HOOKS: [&str; 6] = [
    "PRE_ROUTING",
    "LOCAL_IN",
    "FORWARD",
    "LOCAL_OUT",
    "POST_ROUTING",
    "BROUTING",
];
/// `NF_ARP_IN` and its like (`include/uapi/linux/netfilter_arp.h`).
const ARP_HOOKS: [&str; 3] = ["IN", "OUT", "FORWARD"];
/// As many hooks as a protocol ever had (`include/linux/netfilter_defs.h`).
const NF_MAX_HOOKS: usize = 8;
/// `MAX_HOOK_COUNT` (`net/netfilter/core.c`).
const MAX_HOOKS: u64 = 1024;
/// `NF_HOOK_OP_NF_TABLES` (`include/linux/netfilter.h`).
const NF_TABLES: &str = "NF_HOOK_OP_NF_TABLES";

/// A protocol that has hooks of its own, as nftables names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// ARP.
    Arp,
    /// Frames that a bridge passes on.
    Bridge,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ip, Self::Ip6, Self::Arp, Self::Bridge];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Arp => "arp",
            Self::Bridge => "bridge",
        }
    }

    /// The name of one of its hooks.
    #[must_use]
    pub fn hook(self, number: usize) -> Option<&'static str> {
        let names: &[_] = match self {
            Self::Ip | Self::Ip6 => &HOOKS[..5],
            Self::Arp => &ARP_HOOKS,
            Self::Bridge => &HOOKS,
        };
        names.get(number).copied()
    }

    /// Number of its hooks; none in a kernel without the protocol.
    ///
    /// # Errors
    /// When the kernel's types claim more than any kernel has.
    pub(crate) fn count(self, kernel: &Kernel) -> Result<usize> {
        match array(kernel, "struct netns_nf", self.member()) {
            Ok((_, count, _)) if count > NF_MAX_HOOKS => Err(Error::Malformed {
                what: "BTF",
                why: format!("{} has {count} hooks", self.member()),
            }),
            Ok((_, count, _)) => Ok(count),
            Err(Error::NoMember { .. } | Error::NoType { .. }) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The member of `struct netns_nf` that has its hooks.
    pub(crate) const fn member(self) -> &'static str {
        match self {
            Self::Ip => "hooks_ipv4",
            Self::Ip6 => "hooks_ipv6",
            Self::Arp => "hooks_arp",
            Self::Bridge => "hooks_bridge",
        }
    }
}

/// A function that is registered on one of the hooks of a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HookFunction {
    /// `ns.inum` of the namespace.
    pub netns: u32,
    /// Protocol family of the hook.
    pub family: Family,
    /// The number of the hook (`enum nf_inet_hooks`): [`Family::hook`] has its name.
    pub hook: usize,
    /// Lower ones are called earlier.
    pub priority: i32,
    /// The function's address.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
    /// The module it is in; `None` for the kernel itself.
    pub module: Option<String>,
    /// `table/chain` of nftables, when it is one of its base chains.
    pub chain: Option<String>,
}

/// The hook functions of all network namespaces, by family and hook, in the order of their calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HookFunctions {
    /// Every namespace that was read, by `ns.inum`.
    pub namespaces: Vec<u32>,
    /// The functions.
    pub functions: Vec<HookFunction>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

impl Deref for HookFunctions {
    type Target = [HookFunction];

    fn deref(&self) -> &[HookFunction] {
        &self.functions
    }
}

/// Lists the functions on netfilter's hooks of IPv4, IPv6, ARP and bridges, in every network namespace.
///
/// # Errors
/// When a structure is not as netfilter keeps it.
pub(crate) fn nf_hooks(kernel: &Kernel) -> Result<HookFunctions> {
    HookFunctions::read(kernel)
}

impl HookFunctions {
    pub(crate) fn read(kernel: &Kernel) -> Result<Self> {
        let namespaces = net_namespaces(kernel)?;
        let mut all = Self {
            missing: namespaces.missing,
            ..Self::default()
        };
        let functions = Functions::new(kernel);
        for NetNamespace { at, inum: netns } in namespaces.items {
            let net = Object::at(kernel, "struct net", at)?;
            all.namespaces.push(netns);
            for family in Family::ALL {
                let count = family.count(kernel)?;
                if count == 0 {
                    continue;
                }
                let hooks = net.member(&format!("nf.{}", family.member()))?;
                for hook in 0..count {
                    let place = (netns, family, hook);
                    if let Err(error) = entries_of(&functions, &hooks, place, &mut all) {
                        let family = family.name();
                        let what =
                            format!("netns {netns}, the functions at {family}'s hook {hook}");
                        all.missing.push(Missing::new(what, &error));
                    }
                }
            }
        }
        Ok(all)
    }
}

/// `struct nf_hook_entries`: a count, as many `nf_hook_entry`, an rcu_head's room, as many `nf_hook_ops *`.
fn entries_of(
    functions: &Functions<'_>,
    hooks: &Object,
    place: (u32, Family, usize),
    found: &mut HookFunctions,
) -> Result<()> {
    let kernel = functions.kernel();
    let (netns, family, hook) = place;
    let entries = hooks.index(hook as i64)?;
    if entries.pointer()?.is_null() {
        return Ok(());
    }
    let entries = entries.deref()?;
    let count = entries.member("num_hook_entries")?.u64()?;
    let at = entries.address().unwrap_or_default();
    if count > MAX_HOOKS {
        return Err(Error::Broken {
            what: "nf_hook_entries",
            at,
            why: format!("it claims {count} hooks"),
        });
    }
    let first = at.offset(offset_of(kernel, "struct nf_hook_entries", "hooks")?);
    let size = kernel.c_type("struct nf_hook_entry")?.size()?;
    // nf_hook_entries_get_hook_ops() of include/linux/netfilter.h: they follow the entries.
    let ops = first.offset(count * size);
    for index in 0..count {
        let at = (first.offset(index * size), ops.offset(index * 8));
        let what = || {
            let family = family.name();
            format!("netns {netns}, function {index} at {family}'s hook {hook}")
        };
        let one = function(functions, place, at, &mut found.missing);
        let one = one.or_miss(&mut found.missing, what);
        found.functions.extend(one);
    }
    Ok(())
}

/// The function of an entry; `at` is where that is, and where the pointer to its `nf_hook_ops` is.
fn function(
    functions: &Functions<'_>,
    (netns, family, hook): (u32, Family, usize),
    at: (GuestVirt, GuestVirt),
    missing: &mut Vec<Missing>,
) -> Result<HookFunction> {
    let kernel = functions.kernel();
    let entry = Object::at(kernel, "struct nf_hook_entry", at.0)?;
    let function = functions.at(entry.member("hook")?.pointer()?)?;
    let ops = GuestVirt(kernel.read_u64(at.1)?);
    let ops = Object::at(kernel, "struct nf_hook_ops", ops)?;
    let name = match function.name {
        Some(name) if function.offset == 0 => name,
        _ => function.at.to_string(),
    };
    // An entry that is being unregistered is `accept_all` with `dummy_ops` for a while.
    let chain = match ops.member("hook_ops_type")?.enumerator()? {
        Some(kind) if kind == NF_TABLES => {
            chain(&ops).or_miss(missing, || format!("the chain of {name} in netns {netns}"))
        }
        _ => None,
    };
    Ok(HookFunction {
        netns,
        family,
        hook,
        priority: ops.member("priority")?.i64()? as i32,
        at: function.at,
        name,
        module: function.module,
        chain,
    })
}

/// `table/chain` of a base chain, in which nftables keeps the `nf_hook_ops`.
fn chain(ops: &Object) -> Result<String> {
    let chain = ops
        .container_of("struct nft_base_chain", "ops")?
        .member("chain")?;
    let table = chain.member("table")?.deref()?.member("name")?.string()?;
    Ok(format!("{table}/{}", chain.member("name")?.string()?))
}
