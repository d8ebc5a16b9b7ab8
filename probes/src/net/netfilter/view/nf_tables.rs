//! nftables and tracked connections.

use crate::net::netfilter::{Conntrack, Conntracks, NftRuleset, NftTable, Tuple};
use crate::view::sections::{Sections, lacking};
use crate::view::{Align, Table};

crate::lists! {
    NftTable => ruleset,
    Conntrack => conntracks,
}

fn ruleset(ruleset: &NftRuleset) -> Sections {
    use Align::{Left, Right};
    let mut sections = Vec::new();
    for table in ruleset.iter() {
        let place = format!("{} {} ({})", table.family, table.name, table.netns);
        if !table.sets.is_empty() {
            let mut sets = Table::new([
                ("SET", Left),
                ("KEPT BY", Left),
                ("KEY", Right),
                ("ELEMENTS", Right),
                ("", Left),
                ("NFT_SET", Left),
            ]);
            for set in &table.sets {
                sets.row([
                    set.name.clone(),
                    set.ops.clone(),
                    format!("{} bytes", set.key_len),
                    set.elements.to_string(),
                    set.flags.join(" "),
                    set.at.to_string(),
                ]);
            }
            sections.push((format!("{place}: sets"), sets));
        }
        for chain in &table.chains {
            let base = match &chain.base {
                Some(base) => format!(
                    ": {} {} priority {}, else {}",
                    base.kind, base.hook, base.priority, base.policy
                ),
                None => String::new(),
            };
            let mut rules = Table::new([("RULE", Right), ("NFT_RULE", Left), ("EXPRESSION", Left)]);
            for rule in &chain.rules {
                let mut first = [rule.handle.to_string(), rule.at.to_string()];
                for expression in &rule.expressions {
                    let [handle, at] = first;
                    rules.row([handle, at, expression.text.clone()]);
                    first = [String::new(), String::new()];
                }
            }
            sections.push((format!("{place} {}{base}", chain.name), rules));
        }
    }
    lacking(&mut sections, &ruleset.missing);
    if sections.is_empty() {
        let mut none = Table::new([("TABLES", Left)]);
        none.row(["none"]);
        sections.push(("nftables".to_owned(), none));
    }
    Sections(sections)
}

fn conntracks(all: &Conntracks) -> Table {
    use Align::{Left, Right};
    let zones = all.iter().any(|one| one.zone != 0);
    let mut columns = vec![
        ("NETNS", Right),
        ("PROTO", Left),
        ("STATE", Left),
        ("ORIGINAL", Left),
        ("REPLY", Left),
        ("MARK", Right),
        ("JIFFIES", Right),
        ("STATUS", Left),
        ("NF_CONN", Left),
    ];
    if zones {
        columns.insert(1, ("ZONE", Left));
    }
    let mut table = Table::new(columns);
    for one in all.iter() {
        let protocol = match one.protocol {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "icmpv6".to_owned(),
            other => other.to_string(),
        };
        let ends = |tuple: &Tuple| match one.is_icmp() {
            true => format!(
                "{} > {} type {} code {} id {}",
                tuple.source,
                tuple.destination,
                tuple.destination_port >> 8,
                tuple.destination_port & 0xff,
                tuple.source_port
            ),
            false => format!(
                "{}:{} > {}:{}",
                tuple.source, tuple.source_port, tuple.destination, tuple.destination_port
            ),
        };
        let netns = match one.ending {
            true => format!("{} ending", one.netns),
            false => one.netns.to_string(),
        };
        let mut row = vec![
            netns,
            protocol,
            one.state.unwrap_or_default().to_owned(),
            ends(&one.original),
            ends(&one.reply),
            one.mark.to_string(),
            one.timeout.to_string(),
            one.status.join(" "),
            one.at.to_string(),
        ];
        if zones {
            let zone = match (one.zone, one.zone_dir) {
                (0, _) => String::new(),
                (zone, "both") => zone.to_string(),
                (zone, direction) => format!("{zone} {direction}"),
            };
            row.insert(1, zone);
        }
        table.row(row);
    }
    let s = if all.len() == 1 { "" } else { "s" };
    table.note(format!("{} connection{s}", all.len()));
    table.lacks(&all.missing);
    table
}
