//! Modules, and the tools that need them.

use crate::Guest;

#[test]
fn modules_come_with_what_they_depend_on() {
    let mut guest = Guest::up("modules");
    let before: Vec<String> = guest
        .modules()
        .unwrap()
        .into_iter()
        .map(|m| m.name)
        .collect();
    let loaded = guest.load_module("nft-ct", "").unwrap();
    assert_eq!(loaded.last().unwrap(), "nft_ct");
    assert!(loaded.iter().any(|m| m == "nf_conntrack"), "{loaded:?}");
    let modules = guest.modules().unwrap();
    for name in &loaded {
        assert!(!before.contains(name));
        let module = modules.iter().find(|m| m.name == *name).unwrap();
        assert!(
            module.state == "Live" && module.address > 1 << 63 && module.size > 0,
            "{module:?}"
        );
    }
    let tables = modules.iter().find(|m| m.name == "nf_tables").unwrap();
    assert!(tables.used_by.contains(&"nft_ct".to_owned()), "{tables:?}");
    // Once more: nothing to do.
    assert!(guest.load_module("nft_ct", "").unwrap().is_empty());

    let message = guest.unload_module("nf_tables").unwrap_err().to_string();
    assert!(
        message.contains("nf_tables is in use")
            && message.contains("EAGAIN")
            && !message.contains('\n'),
        "{message}"
    );
    guest.unload_module("nft_ct").unwrap();
    assert!(guest.modules().unwrap().iter().all(|m| m.name != "nft_ct"));

    let message = guest
        .load_module("no-such-module", "")
        .unwrap_err()
        .to_string();
    assert!(message.contains("no_such_module"), "{message}");
    assert_eq!(
        guest.load_module("dummy", "numdummies=3").unwrap(),
        ["dummy"]
    );
    assert_eq!(guest.sh("ls -d /sys/class/net/dummy* | wc -l"), "3\n");
}

#[test]
fn the_network_tools_work() {
    let mut guest = Guest::up("nettools");
    // The kernel asks for its modules by alias while these run.
    guest.sh("ip link add v0 type veth peer name v1 && ip link set v0 up");
    assert!(guest.sh("ip -o link show type veth").contains("v0@v1"));
    guest.sh("nft 'table ip t { chain c { type nat hook postrouting priority 100; oifname v0 ct state new counter masquerade; }; }'");
    assert!(guest.sh("nft list ruleset").contains("masquerade"));
    guest.sh("tc qdisc add dev v0 root netem delay 1ms");
    assert!(guest.sh("tc qdisc show dev v0").contains("netem"));
    assert!(guest.sh("ss -a").lines().count() > 1);
    assert!(
        guest
            .sh("ping -c 1 -W 5 127.0.0.1")
            .contains("1 packets received")
    );
}
