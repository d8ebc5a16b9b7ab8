//! Keys and keyrings, against `/proc/keys`.

use std::collections::BTreeMap;

use probes::security::keys::Key;

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(keys_are_those_of_proc_keys);

/// Line of a key in `/proc/keys`: its flags, usage, permissions, uid, gid, type and description.
type Said = (String, i32, u32, u32, u32, String, String);

fn ask(ground: &mut Ground) -> BTreeMap<i32, Said> {
    let text = ground.sh("cat /proc/keys");
    let line = |line: &str| {
        let (head, rest) = line.split_at(line.find(['-', 'I']).unwrap());
        let serial = u32::from_str_radix(head.trim(), 16).unwrap().cast_signed();
        let mut words = rest.split_whitespace();
        let mut word = || words.next().unwrap().to_owned();
        let (flags, usage, _expiry) = (word(), word().parse().unwrap(), word());
        let perm = u32::from_str_radix(&word(), 16).unwrap();
        let (uid, gid, kind) = (word().parse().unwrap(), word().parse().unwrap(), word());
        let description = words.collect::<Vec<_>>().join(" ");
        (serial, (flags, usage, perm, uid, gid, kind, description))
    };
    text.lines().map(line).collect()
}

/// Output of `describe()` of the key's type: `keyring_describe()`, `user_describe()`; of others, how it begins.
fn described(key: &Key) -> String {
    let name = match key.description.as_str() {
        "" => "[anon]",
        name => name,
    };
    match (key.links, key.kind.as_str()) {
        (Some(0), _) => format!("{name}: empty"),
        (Some(links), _) => format!("{name}: {links}"),
        (None, "user" | "logon") => format!("{name}: {}", key.datalen),
        (None, _) => name.to_owned(),
    }
}

fn keys_are_those_of_proc_keys(kernel: &str) {
    let mut ground = Ground::new(kernel);
    let before = ask(&mut ground);
    let seen = ground.guest.paused(|guest| guest.keyrings()).unwrap();
    let after = ask(&mut ground);
    let mut ledger = Ledger::new(format!("keys on {kernel}"));
    assert_eq!(seen.missing, [], "{kernel}");
    let by_serial: BTreeMap<i32, &Key> = seen.iter().map(|key| (key.serial, key)).collect();
    for (serial, said) in &before {
        let Some(later) = after.get(serial) else {
            continue;
        };
        let Some(key) = by_serial.get(serial) else {
            ledger.fault(format!("key {serial:08x} of /proc/keys is not in the tree"));
            continue;
        };
        let who = format!("key {serial:08x}");
        // The reading of /proc itself holds references.
        ledger.steady(&who, "flags", &key.letters(), (&said.0, &later.0));
        ledger.steady(&who, "perm", &key.perm, (&said.2, &later.2));
        ledger.steady(&who, "uid", &key.uid, (&said.3, &later.3));
        // from_kgid_munged()
        let gid = if key.gid == u32::MAX { 65534 } else { key.gid };
        ledger.steady(&who, "gid", &gid, (&said.4, &later.4));
        // `%-9.9s`
        let kind = key.kind.chars().take(9).collect();
        ledger.steady(&who, "type", &kind, (&said.5, &later.5));
        let description = described(key);
        let whole = key.links.is_some() || ["user", "logon"].contains(&key.kind.as_str());
        match whole {
            true => ledger.steady(&who, "description", &description, (&said.6, &later.6)),
            false => ledger.same(&who, "begins", &said.6.starts_with(&description), &true),
        }
    }
    ledger.end(&[("flags", 3), ("perm", 3), ("type", 3), ("description", 2)]);
}
