//! The file for other programs, read back by one of them: tcpdump.

use std::process::Command;

use probes::skb::Profile;
use probes::view::View;

use crate::ground::Ground;

#[test]
fn is_what_tcpdump_reads() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    guest.veth().unwrap();
    for (netns, last) in [("left", 1), ("right", 2)] {
        ground.sh(&format!(
            "ip -n {netns} link add link veth0 name v7 type vlan id 7; \
             ip netns exec {netns} sh -c 'echo 1 >/proc/sys/net/ipv6/conf/v7/disable_ipv6'; \
             ip -n {netns} address add 10.7.0.{last}/24 dev v7; ip -n {netns} link set v7 up"
        ));
    }
    let hardware = ground.sh("ip netns exec left cat /sys/class/net/veth0/address");
    let clock = |ground: &mut Ground| -> f64 { ground.sh("date +%s").trim().parse().unwrap() };
    let before = clock(&mut ground);
    // Both need ARP first.
    let paths = guest
        .paths(&Profile::Path, |guest| {
            let line = "ip netns exec left ping -c 1 -W 5 10.1.0.2; \
                        ip netns exec left ping -c 1 -W 5 10.7.0.2; \
                        ip netns exec left /init send udp 10.1.0.2:54 closed";
            guest.agent()?.shell(line)?;
            Ok(())
        })
        .unwrap();
    let after = clock(&mut ground) + 1.0;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), paths.pcapng()).unwrap();
    let output = Command::new("tcpdump")
        .args(["-n", "-e", "-tt", "-vv", "-r"])
        .arg(file.path())
        .output()
        .expect("tcpdump is one of the tests' packages");
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("link-type EN10MB"), "{errors}");
    for line in [
        "Request who-has 10.1.0.2 tell 10.1.0.1",
        "Reply 10.1.0.2 is-at ",
        "10.1.0.1 > 10.1.0.2: ICMP echo request",
        "vlan 7, p 0, ethertype IPv4",
        "Request who-has 10.7.0.2 tell 10.7.0.1",
    ] {
        assert!(said.contains(line), "{line}: {said}\n{}", paths.text());
    }
    // The sender's own address, where the kernel had put it there.
    assert!(said.contains(&format!("{} > ", hardware.trim())), "{said}");
    assert!(!said.contains("unknown ip"), "{said}");
    // The guest's own clock.
    let times = said.lines().filter_map(|line| {
        let (time, rest) = line.split_once(' ')?;
        rest.contains("ethertype")
            .then(|| time.parse::<f64>().ok())?
    });
    let times: Vec<f64> = times.collect();
    assert!(times.len() > 20, "{said}");
    for time in times {
        assert!((before..=after).contains(&time), "{before} {time} {after}");
    }
    // Why one was dropped is in its comment.
    let text = String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned();
    assert!(text.contains("DROPPED NO_SOCKET in "));
}
