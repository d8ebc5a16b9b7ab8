//! Rules of the packet path in a table.

use crate::net::netfilter::rule_blob::{NftRule, NftRules};
use crate::view::{Align, Table};

crate::lists! { NftRule => table }

fn table(rules: &NftRules) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("NETNS", Right),
        ("FAMILY", Left),
        ("TABLE", Left),
        ("CHAIN", Left),
        ("HANDLE", Right),
        ("EXPRESSIONS", Left),
    ];
    let mut table = Table::new(columns);
    for rule in rules.iter() {
        let expressions: Vec<&str> = rule
            .expressions
            .iter()
            .map(|e| e.verdict.as_deref().unwrap_or(&e.name))
            .collect();
        table.row([
            rule.netns.to_string(),
            rule.family.clone(),
            rule.table.clone(),
            rule.chain.clone(),
            rule.handle.to_string(),
            expressions.join(", "),
        ]);
    }
    table.note(format!("{} rules", rules.len()));
    table
}
