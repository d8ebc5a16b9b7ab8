//! pwru of Debian 13, in the same guest, on the same packets: the functions that it sees called with an `sk_buff` are those
//! that klab sees, in the same order.

use std::fs;

use probes::skb::{Filter, Profile, What};
use probes::view::View;
use vm::Silent;
use vm::kernels::{self, Suite};

use crate::ground::Ground;
use crate::skb::sound;

const AT: &str = "/opt/pwru";
const PINGS: usize = 5;

#[test]
fn agrees() {
    let mut ground = Ground::bare("default", 512 << 20);
    let root = kernels::debs(&["pwru"], Suite::Trixie, &mut Silent).unwrap();
    let push = |ground: &mut Ground, from: &std::path::Path| {
        let name = from.file_name().unwrap().to_str().unwrap();
        ground
            .agent
            .push_file(from, &format!("{AT}/{name}"))
            .unwrap();
    };
    push(&mut ground, &root.join("usr/bin/pwru"));
    for entry in fs::read_dir(root.join("usr/lib/x86_64-linux-gnu")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let wanted = [
            "libpcap.",
            "libdbus-1.",
            "libsystemd.",
            "libcap.",
            "libgcc_s.",
        ];
        if wanted.iter().any(|wanted| name.starts_with(wanted)) {
            push(&mut ground, &path);
        }
    }
    let guest = ground.guest.clone();
    guest.load_kmod().unwrap();
    // One CPU, so that there is one order.
    ground.sh("echo 0 >/sys/devices/system/cpu/cpu1/online");
    ground.sh(&format!(
        "cd {AT}; export LD_LIBRARY_PATH={AT}; setsid ./pwru --output-file {AT}/out --ready-file {AT}/ready icmp >log 2>&1 & \
         echo $! >{AT}/pid; n=0; until [ -e {AT}/ready ]; do sleep 0.1; n=$((n+1)); [ $n -lt 600 ]; done"
    ));
    let filter = Filter::new("icmp").unwrap();
    let paths = guest
        .paths(Profile::All.only(filter), |guest| {
            let line = format!("ping -c {PINGS} -i 0.2 -W 5 127.0.0.1");
            guest.agent()?.shell(&line)?;
            Ok(())
        })
        .unwrap();
    sound(&paths);
    ground.sh(&format!(
        "kill -INT $(cat {AT}/pid); while kill -0 $(cat {AT}/pid) 2>/dev/null; do sleep 0.1; done"
    ));
    let said = ground.sh(&format!("cat {AT}/out"));
    // `ADDRESS CPU PROCESS FUNCTION ..`, the address with 0x.
    let theirs: Vec<(u64, &str)> = said
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let skb = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
            Some((
                skb,
                words.find(|word| {
                    !word.contains(['[', ']', '(', ')', '<', '>']) && word.parse::<u32>().is_err()
                })?,
            ))
        })
        .collect();
    let mut ours: Vec<(u64, u64, &str)> = paths
        .iter()
        .flat_map(|path| path.iter().map(|stage| (path.first + stage.ns, stage)))
        .filter(|(_, stage)| matches!(stage.what, What::Call | What::Hook(_)))
        .map(|(time, stage)| (time, stage.skb.0, stage.name.as_str()))
        .collect();
    ours.sort_by_key(|(time, ..)| *time);
    // Functions that both hook, and packets that both follow.
    let both: std::collections::HashSet<&str> = ours.iter().map(|(.., name)| *name).collect();
    let both: std::collections::HashSet<&str> = theirs
        .iter()
        .map(|(_, name)| *name)
        .filter(|name| both.contains(name))
        .collect();
    assert!(both.len() > 60, "{} in {said}", both.len());
    let skbs: std::collections::BTreeSet<u64> = theirs.iter().map(|(skb, _)| *skb).collect();
    let mut compared = 0;
    for skb in skbs {
        let of = |list: &mut dyn Iterator<Item = (u64, &'_ str)>| -> Vec<String> {
            list.filter(|(at, name)| *at == skb && both.contains(name))
                .map(|(_, name)| name.to_owned())
                .collect()
        };
        let theirs = of(&mut theirs.iter().copied());
        let ours = of(&mut ours.iter().map(|(_, skb, name)| (*skb, *name)));
        // pwru loses a packet's beginning and end where klab does not: one is within the other.
        let mut rest = ours.iter();
        let within = theirs.iter().all(|name| rest.any(|own| own == name));
        assert!(
            within,
            "{skb:#x}: {theirs:?}\nis not in\n{ours:?}\n{}",
            paths.text()
        );
        compared += theirs.len();
    }
    assert!(compared > PINGS * 2 * 40, "{compared}");
}
