//! Netfilter: the hooks, nftables, and the tracking of connections (`net/netfilter`).

mod conntrack;
mod expression;
mod hooks;
pub mod nf_conn;
mod nf_tables;
pub mod rule_blob;
mod view;

pub(crate) use conntrack::conntrack;

pub(crate) use nf_tables::nft_ruleset;

pub(crate) use hooks::nf_hooks;

pub use conntrack::{Conntrack, Conntracks, Tuple};
pub use expression::NftExpression;
pub use hooks::{Family, HookFunction, HookFunctions};
pub use nf_tables::{NftBase, NftChain, NftRule, NftRuleset, NftSet, NftTable};
