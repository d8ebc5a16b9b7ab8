//! Netfilter's hooks as each network namespace has them: `net.nf.hooks_ipv4` (`include/net/netns/netfilter.h`).

use std::ops::Deref;

use serde::Serialize;

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Object;
use crate::structures::{list_for_each_entry, offset_of};
use crate::view::{Align, Table, View};
use crate::{Error, Result};

/// `enum nf_inet_hooks` (`include/uapi/linux/netfilter.h`).
pub const HOOKS: [&str; 5] = [
    "PRE_ROUTING",
    "LOCAL_IN",
    "FORWARD",
    "LOCAL_OUT",
    "POST_ROUTING",
];
/// `MAX_HOOK_COUNT` (`net/netfilter/core.c`).
const MAX_HOOKS: u64 = 1024;
/// `NF_HOOK_OP_NF_TABLES` (`include/linux/netfilter.h`).
const NF_TABLES: &str = "NF_HOOK_OP_NF_TABLES";
/// The most network namespaces that are walked.
const MAX_NAMESPACES: usize = 4096;

/// A function that is registered on one of IPv4's hooks of a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HookFunction {
    /// `ns.inum` of the namespace.
    pub netns: u32,
    /// Index in [`HOOKS`].
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

/// The hook functions of IPv4 of all network namespaces, in the order of their calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HookFunctions {
    /// Every namespace that was read, by `ns.inum`.
    pub namespaces: Vec<u32>,
    /// The functions.
    pub functions: Vec<HookFunction>,
}

impl Deref for HookFunctions {
    type Target = [HookFunction];

    fn deref(&self) -> &[HookFunction] {
        &self.functions
    }
}

impl Guest {
    /// What is registered on netfilter's five IPv4 hooks, in every network namespace.
    ///
    /// # Errors
    /// When a structure is not as netfilter keeps it.
    pub fn nf_hooks(&self) -> Result<HookFunctions> {
        HookFunctions::read(&self.kernel()?)
    }
}

impl HookFunctions {
    pub(crate) fn read(kernel: &Kernel) -> Result<Self> {
        let head = kernel.symbol("net_namespace_list")?;
        let mut all = Self::default();
        for net in list_for_each_entry(kernel, head, offset_of(kernel, "struct net", "list")?)
            .bound(MAX_NAMESPACES)
        {
            let net = Object::at(kernel, "struct net", net?)?;
            let netns = net.member("ns.inum")?.u64()? as u32;
            all.namespaces.push(netns);
            let hooks = net.member("nf.hooks_ipv4")?;
            for hook in 0..HOOKS.len() {
                let entries = hooks.index(hook as i64)?;
                if !entries.pointer()?.is_null() {
                    entries_of(kernel, &entries.deref()?, (netns, hook), &mut all.functions)?;
                }
            }
        }
        Ok(all)
    }
}

/// `struct nf_hook_entries`: a count, as many `nf_hook_entry`, an rcu_head's room, as many `nf_hook_ops *`.
fn entries_of(
    kernel: &Kernel,
    entries: &Object,
    (netns, hook): (u32, usize),
    found: &mut Vec<HookFunction>,
) -> Result<()> {
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
        let entry = Object::at(kernel, "struct nf_hook_entry", first.offset(index * size))?;
        let function = entry.member("hook")?.pointer()?;
        let ops = Object::at(
            kernel,
            "struct nf_hook_ops",
            GuestVirt(kernel.read_u64(ops.offset(index * 8))?),
        )?;
        let symbol = kernel.symbol_at(function)?;
        let (name, module) = match symbol {
            Some(symbol) if symbol.offset == 0 => (symbol.name, symbol.module),
            _ => (function.to_string(), None),
        };
        // An entry that is being unregistered is `accept_all` with `dummy_ops` for a while.
        let chain = match ops.member("hook_ops_type")?.enumerator()? {
            Some(kind) if kind == NF_TABLES => chain(&ops).ok(),
            _ => None,
        };
        found.push(HookFunction {
            netns,
            hook,
            priority: ops.member("priority")?.i64()? as i32,
            at: function,
            name,
            module,
            chain,
        });
    }
    Ok(())
}

/// `table/chain` of a base chain, in which nftables keeps the `nf_hook_ops`.
fn chain(ops: &Object) -> Result<String> {
    let chain = ops
        .container_of("struct nft_base_chain", "ops")?
        .member("chain")?;
    let table = chain.member("table")?.deref()?.member("name")?.string()?;
    Ok(format!("{table}/{}", chain.member("name")?.string()?))
}

impl View for HookFunctions {
    fn text(&self) -> String {
        table(self).text()
    }

    fn html(&self) -> Option<String> {
        table(self).html()
    }
}

fn table(hooks: &HookFunctions) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("NETNS", Right),
        ("HOOK", Left),
        ("PRIORITY", Right),
        ("FUNCTION", Left),
        ("MODULE", Left),
        ("CHAIN", Left),
    ];
    let mut table = Table::new(columns);
    for function in hooks.iter() {
        table.row([
            function.netns.to_string(),
            HOOKS.get(function.hook).copied().unwrap_or("?").to_owned(),
            function.priority.to_string(),
            function.name.clone(),
            function.module.clone().unwrap_or_default(),
            function.chain.clone().unwrap_or_default(),
        ]);
    }
    table.note(format!(
        "{} functions in {} network namespaces; a hook without one is not called at all",
        hooks.len(),
        hooks.namespaces.len()
    ));
    table
}

crate::displays!(HookFunctions);
