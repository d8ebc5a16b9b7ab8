//! nftables and tracked connections: `nft --debug=netlink`, `/proc/net/nf_conntrack`.

use std::collections::{BTreeMap, BTreeSet};

use probes::Guest;
use probes::netfilter::{Conntracks, NftRuleset, Tuple};
use vm::agent::{SocketKind, WorkloadKind};

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_those_of_nft);

/// Rules with expressions of every kind that is known, in two network namespaces, and some of kinds that are not.
const RULES: &str = r#"
    modprobe nf_tables; modprobe nft_ct; modprobe nft_limit; modprobe nft_log; modprobe nft_nat; modprobe nft_masq
    ip link set lo up; mkdir -p /run/netns; ip netns add blue; ip -n blue link set lo up
    nft -f - <<'R' || exit 1
table inet klab {
  set bad { type ipv4_addr; size 64; elements = { 10.0.0.1, 10.0.0.2, 10.0.0.3 } }
  map ports { type inet_service : ipv4_addr; elements = { 80 : 10.0.0.9 } }
  chain other { counter; return; }
  chain in { type filter hook input priority 5; policy accept;
    iifname "lo" counter
    ip saddr @bad counter drop
    tcp dport 22 ct state new limit rate 10/second counter accept
    tcp dport 23 limit rate over 512 bytes/minute drop
    udp dport { 53, 67 } log prefix "klab" jump other
    ip daddr 10.1.0.0/16 meta mark set 7 counter
    tcp dport 1000-2000 reject
    ct mark 9 return
    ip6 daddr fd00::1 counter
    meta mark set meta mark | 0x10
    tcp flags & (syn | ack) == syn counter
  }
}
table ip natty {
  chain post {
    type nat hook postrouting priority 100
    oifname "x" masquerade
    ip saddr 10.3.0.0/24 tcp dport 9 snat to 1.2.3.4:1000-2000
  }
  chain pre {
    type nat hook prerouting priority -100
    tcp dport 8080 dnat to 127.0.0.1:7001
  }
}
table netdev dev {
  chain in { type filter hook ingress device lo priority 0; policy accept; meta length 100 counter; }
}
R
    ip netns exec blue nft add table ip inner
    ip netns exec blue nft add chain ip inner out '{ type filter hook output priority 0; policy drop; }'
    ip netns exec blue nft add rule ip inner out oifname lo accept
"#;

pub(crate) fn are_those_of_nft(kernel: &str) {
    let mut ground = Ground::bare(kernel, vm::Options::default().memory);
    ground.sh(RULES);
    let kind = SocketKind::Tcp { port: 7001 };
    let netns = String::new();
    ground
        .agent
        .workload(WorkloadKind::Socket { kind, netns })
        .unwrap();
    ground.sh("ping -q -c 2 127.0.0.1 >/dev/null; (sleep 5000 | nc 127.0.0.1 7001 >/dev/null 2>&1 &); /init send udp 127.0.0.1:9 x; true");
    let mut ledger = Ledger::new(format!("nftables on {kernel}"));
    let ask = |ground: &mut Ground| {
        let list = "nft --debug=netlink list ruleset";
        (
            ground.sh(list),
            ground.sh(&format!("ip netns exec blue {list}")),
        )
    };
    let (before, seen, after): (_, NftRuleset, _) = ground.sandwich(ask, Guest::nft_ruleset);
    let namespaces: BTreeSet<u32> = seen.iter().map(|table| table.netns).collect();
    ledger.same("two", "namespaces", &namespaces.len(), &2);
    let inner = seen
        .iter()
        .find(|table| table.name == "inner")
        .unwrap()
        .netns;
    for (memory, first, last) in [
        (rules(&seen, |netns| netns != inner), &before.0, &after.0),
        (rules(&seen, |netns| netns == inner), &before.1, &after.1),
    ] {
        let (first, last) = (said(first), said(last));
        let handles = |all: &BTreeMap<String, Vec<String>>| all.keys().cloned().collect::<Vec<_>>();
        ledger.same("all", "rules", &handles(&memory), &handles(&first));
        for (rule, expressions) in &memory {
            let none = Vec::new();
            let lines = (
                first.get(rule).unwrap_or(&none),
                last.get(rule).unwrap_or(&none),
            );
            ledger.same(rule, "expressions of", &expressions.len(), &lines.0.len());
            for (i, text) in expressions.iter().enumerate() {
                let line = |lines: &Vec<String>| lines.get(i).cloned().unwrap_or_default();
                let (first, last) = (line(lines.0), line(lines.1));
                // For a kind that is not known here, the name alone.
                let known = text.contains(' ') || text == "masq";
                let field = if known {
                    "expression"
                } else {
                    "name of an expression"
                };
                let cut = |line: String| {
                    if known {
                        line
                    } else {
                        line.split(' ').next().unwrap().to_owned()
                    }
                };
                ledger.steady(rule, field, text, (&cut(first), &cut(last)));
            }
        }
    }
    chains(&mut ledger, &seen);
    connections(&mut ledger, &mut ground);
    ledger.end(&[
        ("rules", 2),
        ("expression", 60),
        ("name of an expression", 1),
        ("chain", 4),
        ("connection", 3),
        ("state", 1),
    ]);
}

/// Rules by memory: `family table chain handle`, and the expressions.
fn rules(ruleset: &NftRuleset, wanted: impl Fn(u32) -> bool) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for table in ruleset.iter().filter(|table| wanted(table.netns)) {
        for chain in &table.chains {
            for rule in &chain.rules {
                let key = format!(
                    "{} {} {} {}",
                    table.family, table.name, chain.name, rule.handle
                );
                let texts = rule.expressions.iter().map(|one| one.text.clone());
                all.insert(key, texts.collect());
            }
        }
    }
    all
}

/// The same of what nft was told by netlink: a line `family table chain handle ..`, then one `[ .. ]` an expression.
fn said(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut rule = None;
    for line in text.lines() {
        if line.starts_with("table ") {
            // The ruleset in nft's own language follows.
            break;
        }
        let inner = line
            .trim()
            .strip_prefix("[ ")
            .and_then(|line| line.strip_suffix(" ]"));
        if let (Some(inner), Some(rule)) = (inner, &rule) {
            let lines: &mut Vec<String> = all.entry(String::clone(rule)).or_default();
            lines.push(inner.trim().to_owned());
        } else if !line.starts_with([' ', '\t']) {
            let words: Vec<&str> = line.split(' ').collect();
            rule = (words.len() >= 4 && !words[2].starts_with('@')).then(|| words[..4].join(" "));
        }
    }
    all
}

fn chains(ledger: &mut Ledger, seen: &NftRuleset) {
    let base = |table: &str, chain: &str| {
        let table = seen.iter().find(|one| one.name == table).unwrap();
        let chain = table.chains.iter().find(|one| one.name == chain).unwrap();
        chain.base.as_ref().map(|base| {
            let (kind, hook) = (&base.kind, &base.hook);
            format!("{kind} {hook} {} {}", base.priority, base.policy)
        })
    };
    for (table, chain, said) in [
        ("klab", "in", Some("filter input 5 accept")),
        ("klab", "other", None),
        ("natty", "post", Some("nat postrouting 100 accept")),
        ("natty", "pre", Some("nat prerouting -100 accept")),
        ("dev", "in", Some("filter ingress 0 accept")),
        ("inner", "out", Some("filter output 0 drop")),
    ] {
        let memory = base(table, chain);
        ledger.same(chain, "chain", &memory.as_deref(), &said);
    }
    let klab = seen.iter().find(|table| table.name == "klab").unwrap();
    let bad = klab.sets.iter().find(|set| set.name == "bad").unwrap();
    ledger.same("bad", "set", &(bad.elements, bad.key_len), &(3, 4));
    let map = klab.sets.iter().find(|set| set.name == "ports").unwrap();
    ledger.same("ports", "set", &map.flags.contains(&"map"), &true);
}

/// Zones tell two connections of the same addresses apart.
const ZONES: &str = "modprobe nft_ct; ip link set lo up; \
     echo 6000 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout; \
     nft 'table ip z { chain o { type filter hook output priority -300; \
         udp dport 5 ct zone set 9; udp dport 6 ct original zone set 8; }; \
       chain s { type filter hook output priority 0; ct state new counter; }; }'; \
     for port in 5 6 7; do /init send udp 127.0.0.1:$port x; done; true";

/// Namespaces that come and go, each with connections in it.
const COMINGS: &str = "while :; do unshare -n sh -c 'ip link set lo up; \
       nft \"table ip z { chain s { type filter hook output priority 0; ct state new counter; }; }\"; \
       for port in 1 2 3 4 5 6 7 8; do /init send udp 127.0.0.1:$port x; done'; done >/dev/null 2>&1";

/// The rows of zones beside `/proc/net/nf_conntrack`; and a namespace that ends hides nobody's connections.
#[test]
fn connections_of_zones_and_of_what_ends() {
    let mut ground = Ground::bare("default", vm::Options::default().memory);
    ground.sh(ZONES);
    let said = ground.sh("cat /proc/net/nf_conntrack");
    let mut ledger = Ledger::new("zones");
    connections(&mut ledger, &mut ground);
    ledger.end(&[("connection", 3)]);
    let seen = ground.guest.conntrack().unwrap();
    let zones: BTreeSet<(u16, &str)> = seen
        .iter()
        .filter(|one| one.zone != 0)
        .map(|one| (one.zone, one.zone_dir))
        .collect();
    assert_eq!(zones, BTreeSet::from([(8, "orig"), (9, "both")]), "{said}");
    let shown = probes::view::View::text(&seen);
    assert!(
        shown.contains("ZONE") && shown.contains("8 orig"),
        "{shown}"
    );

    ground.sh(&format!("({COMINGS}) &"));
    let (mut own, mut ending) = (0, 0);
    for _ in 0..30 {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let still = ground.guest.paused(Guest::conntrack).unwrap();
        assert!(still.is_whole(), "{:?}", still.missing);
        own += still.iter().filter(|one| one.zone == 9).count();
        ending += still.iter().filter(|one| one.ending).count();
    }
    println!("{ending} rows of namespaces that end");
    assert_eq!(own, 30);
}

/// The lines of `/proc/net/nf_conntrack`, but for the seconds that are left, which are counted in jiffies here.
fn connections(ledger: &mut Ledger, ground: &mut Ground) {
    let ask = |ground: &mut Ground| ground.sh("cat /proc/net/nf_conntrack");
    let (before, seen, after): (_, Conntracks, _) = ground.sandwich(ask, Guest::conntrack);
    let said = |text: &str| -> BTreeMap<String, i64> {
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // ipv4 2 tcp 6 431999 ESTABLISHED src=.. [UNREPLIED] src=.. [ASSURED] mark=0 zone=0 use=2
            let rest = words
                .iter()
                .enumerate()
                .filter(|(i, word)| *i > 4 && !word.starts_with("use="));
            let rest: Vec<&str> = rest.map(|(_, word)| *word).collect();
            (
                format!("{} {}", words[3], rest.join(" ")),
                words[4].parse().unwrap(),
            )
        };
        text.lines().map(line).collect()
    };
    let (before, after) = (said(&before), said(&after));
    for one in seen.iter() {
        let tuple = |tuple: &Tuple| {
            let ends = format!("src={} dst={}", tuple.source, tuple.destination);
            let ports = match one.is_icmp() {
                true => format!(
                    "type={} code={} id={}",
                    tuple.destination_port >> 8,
                    tuple.destination_port & 0xff,
                    tuple.source_port
                ),
                false => format!(
                    "sport={} dport={}",
                    tuple.source_port, tuple.destination_port
                ),
            };
            format!("{ends} {ports}")
        };
        let is = |status: &str| one.status.contains(&status);
        let mut words = vec![one.protocol.to_string()];
        words.extend(one.state.map(str::to_owned));
        // ct_show_zone() of net/netfilter/nf_conntrack_standalone.c: behind the direction that the zone is part of.
        let zone = |direction: &str, name: &str| {
            (one.zone_dir == direction).then(|| format!("{name}={}", one.zone))
        };
        words.push(tuple(&one.original));
        words.extend(zone("orig", "zone-orig"));
        words.extend((!is("SEEN_REPLY")).then(|| "[UNREPLIED]".to_owned()));
        words.push(tuple(&one.reply));
        words.extend(zone("reply", "zone-reply"));
        words.extend(is("ASSURED").then(|| "[ASSURED]".to_owned()));
        words.push(format!("mark={}", one.mark));
        words.extend(zone("both", "zone"));
        let line = words.join(" ");
        let known = before.contains_key(&line) || after.contains_key(&line);
        ledger.same(format!("{line} of {before:?}"), "connection", &known, &true);
        if let Some(state) = one.state {
            ledger.same(&line, "state", &state, &"ESTABLISHED");
        }
        // 250 jiffies a second, in Debian's kernels.
        if let (Some(first), Some(last)) = (before.get(&line), after.get(&line)) {
            let seconds = one.timeout / 250;
            let between = (last - 1..=first + 1).contains(&seconds);
            ledger.same(
                format!("{line}: {last} {seconds} {first}"),
                "time left",
                &between,
                &true,
            );
        }
    }
    for line in before.keys().filter(|line| after.contains_key(*line)) {
        let count = seen.len();
        ledger.same(
            line,
            "connections",
            &(count >= before.len().min(after.len())),
            &true,
        );
    }
}
