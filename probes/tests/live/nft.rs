//! The rules of nftables in memory, beside those that `nft` lists.

use std::collections::BTreeSet;

use crate::ground::Ground;

crate::on_kernels!(are_those_of_nft);

const RULES: &str = "
table ip klab {
    chain input {
        type filter hook input priority 0; policy drop;
        tcp dport 80 counter accept
        udp dport { 53, 54 } meta mark set 7 counter
        ip saddr 192.0.2.9 jump more
        tcp dport vmap { 22 : accept, 23 : drop }
    }
    chain more {
        icmp type echo-request limit rate 5/second accept
        counter return
        goto end
    }
    chain end { drop; }
    chain nat { type nat hook prerouting priority -100; tcp dport 81 dnat to 10.2.0.2; }
    chain post { type nat hook postrouting priority 100; oifname eth0 masquerade; }
}
table inet other {
    chain c {
        type filter hook forward priority 5;
        ct state established accept
        reject
    }
}
table ip6 six {
    chain c {
        queue num 3
    }
}
";

/// The word of `nft -j` that a rule ends with, and what memory calls it.
const ENDS: [(&str, &str); 10] = [
    ("accept", "accept"),
    ("drop", "drop"),
    ("return", "return"),
    ("jump", "jump to more"),
    ("goto", "goto end"),
    ("dnat", "nat"),
    ("masquerade", "masq"),
    ("reject", "reject_inet"),
    ("queue", "queue"),
    ("vmap", "lookup"),
];

pub(crate) fn are_those_of_nft(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    assert!(ground.guest.nft_rules().unwrap().is_empty());
    ground.sh(&format!("nft -f - <<'END'\n{RULES}END"));
    ground.sh("ip netns add inner; ip netns exec inner nft 'table ip t { chain c { counter; }; }'");
    let mut compared = 0;
    for (enter, rules) in [("", 13), ("ip netns exec inner ", 1)] {
        let netns = ground.sh(&format!("{enter}readlink /proc/self/ns/net"));
        let said = ground.sh(&format!("{enter}nft -j -a list ruleset"));
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        let said: Vec<&serde_json::Value> = said["nftables"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|entry| entry.get("rule"))
            .collect();
        let all = ground.guest.nft_rules().unwrap();
        let own: Vec<_> = all
            .iter()
            .filter(|rule| netns.contains(&format!("[{}]", rule.netns)))
            .collect();
        assert_eq!((own.len(), said.len()), (rules, rules), "{own:#?}");
        for (rule, said) in own.iter().zip(&said) {
            let text = |name: &str| said[name].as_str().unwrap();
            assert_eq!(
                (
                    rule.family.as_str(),
                    rule.table.as_str(),
                    rule.chain.as_str(),
                    rule.handle
                ),
                (
                    text("family"),
                    text("table"),
                    text("chain"),
                    said["handle"].as_u64().unwrap()
                )
            );
            let words: BTreeSet<&str> = said["expr"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|statement| statement.as_object().unwrap().keys().map(String::as_str))
                .collect();
            let here: BTreeSet<&str> = rule
                .expressions
                .iter()
                .map(|e| e.verdict.as_deref().unwrap_or(&e.name))
                .collect();
            assert_eq!(
                words.contains("counter"),
                here.contains("counter"),
                "{rule:?}"
            );
            assert_eq!(
                words.contains("limit"),
                here.iter().any(|name| name.starts_with("limit"))
            );
            for (word, name) in ENDS {
                if words.contains(word) {
                    assert!(
                        here.iter().any(|here| here.starts_with(name)),
                        "{word}: {rule:?}"
                    );
                    compared += 1;
                }
            }
        }
    }
    assert!(compared >= 11, "{compared}");
}
