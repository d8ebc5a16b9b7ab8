//! The rules of nftables as the packet path has them: `struct nft_rule_blob` of each chain (`net/netfilter/nf_tables_core.c`).

use serde::Serialize;

use crate::Listing;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::net::{NetNamespace, net_namespaces};
use crate::object::Object;
use crate::structures::{offset_of, settle, whole_list};
use crate::{Error, Result};

/// Tables of a namespace, chains of a table, rules of a chain, expressions of a rule that are read at most.
const BOUND: usize = 1 << 16;
const MAX_EXPRESSIONS: usize = 128;
/// `struct nft_rule_blob` and `struct nft_rule_dp` have a word before their data.
const WORD: u64 = 8;
/// `NFPROTO_*` (`include/uapi/linux/netfilter.h`), as nft writes them.
const FAMILIES: [(u64, &str); 6] = [
    (1, "inet"),
    (2, "ip"),
    (3, "arp"),
    (5, "netdev"),
    (7, "bridge"),
    (10, "ip6"),
];

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NftExpression {
    /// Its `struct nft_expr`.
    pub at: GuestVirt,
    /// The function that evaluates it.
    pub eval: GuestVirt,
    /// Name of that function without `nft_` and `_eval`: `cmp_fast`, `counter`, `immediate`, `nat`.
    pub name: String,
    /// The verdict that an `immediate` gives: `accept`, `drop`, `jump to CHAIN`; `None` for one that only loads a value.
    pub verdict: Option<String>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NftRule {
    /// `ns.inum` of its network namespace.
    pub netns: u32,
    /// `ip`, `inet`, ..
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its handle, as `nft -a list ruleset` shows it.
    pub handle: u64,
    /// Its expressions.
    pub expressions: Vec<NftExpression>,
}

/// The rules of all network namespaces, in the order of their evaluation within a chain.
pub type NftRules = Listing<NftRule>;

impl Guest {
    /// The rules of nftables in every network namespace; none while `nf_tables` is not loaded.
    ///
    /// # Errors
    /// When a structure is not as nftables keeps it.
    pub fn nft_rules(&self) -> Result<NftRules> {
        rules(&self.kernel()?)
    }
}

/// The rules as the packet path has them.
pub(crate) fn rules(kernel: &Kernel) -> Result<NftRules> {
    // The module's own variable: without it there are no rules.
    let id = match kernel.symbol("nf_tables_net_id") {
        Ok(id) => id,
        Err(Error::NoSymbol { .. }) => return Ok(NftRules::default()),
        Err(error) => return Err(error),
    };
    settle("the rules of nftables", || {
        let rules = read(kernel, id)?;
        Ok((read(kernel, id)? == rules).then_some(rules))
    })
}

/// The rule that holds the expression at an address, and which of its expressions that is.
pub(crate) fn rule_at(rules: &NftRules, at: GuestVirt) -> Option<(&NftRule, &NftExpression)> {
    rules.iter().find_map(|rule| {
        let found = rule.expressions.iter().find(|e| e.at == at)?;
        Some((rule, found))
    })
}

fn read(kernel: &Kernel, id: GuestVirt) -> Result<NftRules> {
    let id = u64::from(kernel.read_u32(id)?);
    let namespaces = net_namespaces(kernel)?;
    let mut rules = NftRules::new();
    rules.missing = namespaces.missing;
    for net in namespaces.items {
        if let Err(error) = of_namespace(kernel, id, &net, &mut rules) {
            rules.miss(format!("the rules of netns {}", net.inum), &error);
        }
    }
    Ok(rules)
}

fn of_namespace(kernel: &Kernel, id: u64, net: &NetNamespace, rules: &mut NftRules) -> Result<()> {
    // net_generic() of include/net/netns/generic.h: `ptr[id]`, and `ptr` is where the structure begins.
    let generic = Object::at(kernel, "struct net", net.at)?
        .member("gen")?
        .pointer()?;
    let own = GuestVirt(kernel.read_u64(generic.offset(id.min(BOUND as u64) * 8))?);
    if own.is_null() {
        return Ok(());
    }
    let tables = own.offset(offset_of(kernel, "struct nftables_pernet", "tables")?);
    for table in entries(kernel, tables, "struct nft_table", rules)? {
        let chains = table.member("chains")?;
        let chains = chains.address().unwrap_or_default();
        for chain in entries(kernel, chains, "struct nft_chain", rules)? {
            if let Err(error) = of_chain(kernel, net.inum, &table, &chain, rules) {
                let at = chain.address().unwrap_or_default();
                rules.miss(format!("rules of the chain at {at}"), &error);
            }
        }
    }
    Ok(())
}

fn entries(
    kernel: &Kernel,
    head: GuestVirt,
    c_type: &str,
    rules: &mut NftRules,
) -> Result<Vec<Object>> {
    let member = offset_of(kernel, c_type, "list")?;
    let what = format!("the list of {c_type} at {head}");
    let all = whole_list(kernel, head, member, BOUND, &what);
    let all = all.into_items(&mut rules.missing).into_iter();
    all.map(|at| Object::at(kernel, c_type, at)).collect()
}

/// The rules of both generations, which are one but while a change is under way.
fn of_chain(
    kernel: &Kernel,
    netns: u32,
    table: &Object,
    chain: &Object,
    rules: &mut NftRules,
) -> Result<()> {
    let family = table.member("family")?.u64()?;
    let family = FAMILIES
        .iter()
        .find(|(number, _)| *number == family)
        .map_or_else(|| family.to_string(), |(_, name)| (*name).to_owned());
    let (table, name) = (
        table.member("name")?.string()?,
        chain.member("name")?.string()?,
    );
    let mut seen = GuestVirt(0);
    for generation in ["blob_gen_0", "blob_gen_1"] {
        let blob = chain.member(generation)?.pointer()?;
        if blob.is_null() || blob == seen {
            continue;
        }
        seen = blob;
        let end = blob.offset(WORD).0.saturating_add(kernel.read_u64(blob)?);
        let mut at = blob.offset(WORD);
        for _ in 0..BOUND {
            if at.0.saturating_add(WORD) > end {
                break;
            }
            let rule = Object::at(kernel, "struct nft_rule_dp", at)?;
            if rule.member("is_last")?.u64()? != 0 {
                break;
            }
            let length = rule.member("dlen")?.u64()?;
            let data = at.offset(WORD);
            let handle = rule.member("handle")?.u64()?;
            let one = expressions(kernel, data, length).map(|expressions| NftRule {
                netns,
                family: family.clone(),
                table: table.clone(),
                chain: name.clone(),
                handle,
                expressions,
            });
            let what = || format!("the rule {handle} of {family} {table} {name} in netns {netns}");
            rules.take(one, what);
            at = data.offset(length);
        }
    }
    Ok(())
}

/// `nft_rule_dp_for_each_expr()`.
fn expressions(kernel: &Kernel, data: GuestVirt, length: u64) -> Result<Vec<NftExpression>> {
    let end = data.offset(length);
    let (mut at, mut found) = (data, Vec::new());
    while at.0 < end.0 {
        let ops = Object::at(kernel, "struct nft_expr", at)?
            .member("ops")?
            .deref()?;
        let size = ops.member("size")?.u64()?;
        if size < WORD || found.len() == MAX_EXPRESSIONS {
            return Err(Error::Broken {
                what: "nft_rule_dp",
                at,
                why: format!("an expression of {size} bytes, after {}", found.len()),
            });
        }
        let eval = ops.member("eval")?.pointer()?;
        let symbol = kernel.symbol_at(eval)?.map(|symbol| symbol.name);
        let name = symbol.as_deref().map_or("?", short).to_owned();
        found.push(NftExpression {
            at,
            eval,
            verdict: match name.as_str() {
                "immediate" => verdict(kernel, at)?,
                _ => None,
            },
            name,
        });
        at = at.offset(size);
    }
    Ok(found)
}

fn short(name: &str) -> &str {
    let name = name.strip_prefix("nft_").unwrap_or(name);
    name.strip_suffix("_eval").unwrap_or(name)
}

/// Reads the verdict of an `immediate`, if it writes to the verdict's register.
fn verdict(kernel: &Kernel, at: GuestVirt) -> Result<Option<String>> {
    // NFT_REG_VERDICT
    let own = Object::at(kernel, "struct nft_immediate_expr", at.offset(WORD))?;
    if own.member("dreg")?.u64()? != 0 {
        return Ok(None);
    }
    let given = own.member("data.verdict")?;
    let chain = || -> Result<String> { given.member("chain")?.deref()?.member("name")?.string() };
    // enum nft_verdicts, and those of include/uapi/linux/netfilter.h below them.
    let code = given.member("code")?.u64()? as u32 as i32;
    Ok(Some(match code {
        -1 => "continue".to_owned(),
        -2 => "break".to_owned(),
        -3 => format!("jump to {}", chain()?),
        -4 => format!("goto {}", chain()?),
        -5 => "return".to_owned(),
        0 => "drop".to_owned(),
        1 => "accept".to_owned(),
        2 => "stolen".to_owned(),
        _ if code & 0xff == 3 => "queue".to_owned(),
        other => format!("verdict {other}"),
    }))
}
