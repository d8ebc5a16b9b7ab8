//! Rules of the packet path in a table.

use crate::net::netfilter::rule_blob::NftRules;
use crate::view::{Align, Table, View};

impl View for NftRules {
    fn text(&self) -> String {
        table(self).text()
    }

    fn html(&self) -> Option<String> {
        table(self).html()
    }

    fn missing(&self) -> Vec<crate::Missing> {
        table(self).missing()
    }
}

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

crate::displays!(NftRules);
