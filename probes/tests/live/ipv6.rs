//! The way of IPv6 packets over `lo`, beside the kernel's own counters, nftables and `nft list hooks`.

use std::net::Ipv6Addr;

use probes::netfilter::Family;
use probes::skb::{Path, Profile, What};
use probes::view::View;

use crate::ground::Ground;

const RULES: &str = "nft 'table ip6 t { \
    chain i { type filter hook input priority 5; icmpv6 type echo-request meta length > 200 counter drop; }; \
    chain o { type filter hook output priority 9; ct state new counter; }; }'";

/// A counter of `/proc/net/snmp6`.
fn counted(ground: &mut Ground, name: &str) -> u64 {
    let said = ground.sh("cat /proc/net/snmp6");
    let mut lines = said.lines().map(str::split_whitespace);
    lines
        .find_map(|mut words| (words.next()? == name).then(|| words.next()?.parse().ok())?)
        .unwrap()
}

/// A hook function that a packet met: the hook, its priority, the chain, the verdict.
type Met<'a> = (
    &'static str,
    Option<i32>,
    Option<&'a str>,
    Option<&'static str>,
);

fn hooks(path: &Path) -> Vec<Met<'_>> {
    let met = |what| match what {
        &What::NoHook(name) => Some((name, None, None, None)),
        What::Hook(hook) => Some((
            hook.hook?,
            hook.priority,
            hook.chain.as_deref(),
            hook.verdict,
        )),
        _ => None,
    };
    path.iter().filter_map(|stage| met(&stage.what)).collect()
}

fn on_input(path: &Path) -> Vec<Met<'_>> {
    let mut met = hooks(path);
    met.retain(|hook| hook.0 == "LOCAL_IN");
    met
}

#[test]
fn takes_its_way() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    ground.sh("ip link set lo up");
    ground.sh(RULES);
    let before = counted(&mut ground, "Icmp6InEchos");
    let sent = "ping -6 -c 1 -W 5 ::1; ping -6 -c 1 -W 1 -s 300 ::1; nc -w 1 ::1 81 </dev/null";
    let paths = guest
        .paths(&Profile::Path, |guest| {
            guest.agent()?.shell(sent)?;
            Ok(())
        })
        .unwrap();

    let requests = paths.about("::1 > ::1 ICMPv6 echo request");
    assert_eq!(requests.len(), 2, "{}", paths.text());
    let way = [
        "__ip6_local_out",
        "ip6_output",
        "loopback_xmit",
        "ip6_rcv_core",
        "ip6_input",
    ];
    assert!(
        requests.iter().all(|path| path.passes(&way)),
        "{}",
        requests.text()
    );

    let (answered, dropped) = (&requests[0], &requests[1]);
    let input = |verdict| ("LOCAL_IN", Some(5), Some("t/i"), Some(verdict));
    assert_eq!(on_input(answered)[0], input("ACCEPT"));
    assert!(answered.passes(&["icmpv6_rcv"]), "{}", answered.text());
    // ipv6_conntrack_in, at NF_IP6_PRI_CONNTRACK.
    assert!(hooks(answered).contains(&("PRE_ROUTING", Some(-200), None, Some("ACCEPT"))));
    let conn = answered
        .iter()
        .find_map(|stage| stage.conntrack.as_ref()?.conn.as_ref());
    let conn = &conn.unwrap().original;
    assert_eq!(conn.protocol, 58);
    assert_eq!(conn.source.ip(), Ipv6Addr::LOCALHOST);
    assert_eq!(conn.destination.ip(), Ipv6Addr::LOCALHOST);
    assert_eq!(on_input(dropped), [input("DROP")]);
    assert!(!dropped.passes(&["icmpv6_rcv"]), "{}", dropped.text());
    let rules: Vec<_> = dropped
        .iter()
        .filter_map(|stage| match &stage.what {
            What::Hook(hook) => hook.rule(),
            _ => None,
        })
        .collect();
    assert_eq!((&*rules[0].chain, &*rules[0].statement), ("t/i", "drop"));
    assert_eq!(
        paths.about("::1 > ::1 ICMPv6 echo reply").len(),
        1,
        "{}",
        paths.text()
    );
    let syn = paths.about("> [::1]:81 TCP");
    assert!(
        syn.iter()
            .any(|path| path.passes(&["ip6_xmit", "tcp_v6_rcv"])),
        "{}",
        syn.text()
    );

    // The kernel counted one request that came through, its rule the other.
    assert_eq!(counted(&mut ground, "Icmp6InEchos") - before, 1);
    let rules = ground.sh("nft list ruleset");
    assert!(rules.contains("> 200 counter packets 1 bytes"), "{rules}");
    let functions = guest.nf_hooks().unwrap();
    let own = functions
        .iter()
        .find(|hook| hook.family == Family::Ip6 && hook.hook == 1)
        .unwrap();
    assert_eq!((own.priority, own.chain.as_deref()), (5, Some("t/i")));
    let said = ground.sh("nft list hooks ip6");
    assert!(said.contains("+0000000005 chain ip6 t i"), "{said}");
}
