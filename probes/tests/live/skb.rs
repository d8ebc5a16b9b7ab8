//! The functions that are hooked, and what the guest's own tracer says of their calls.

use probes::skb::{Paths, Profile, What};
use probes::traffic::Tcp;
use vm::agent::{SocketKind, WorkloadKind};

use crate::ground::Ground;

const PORT: u16 = 80;

pub(crate) fn listen(ground: &mut Ground, kind: SocketKind, netns: &str) {
    let netns = netns.to_owned();
    let socket = WorkloadKind::Socket { kind, netns };
    ground.agent.workload(socket).unwrap();
}

pub(crate) fn sound(paths: &Paths) {
    let tally = paths.tally;
    assert_eq!((tally.lost, tally.missed), (0, 0), "{tally:?}");
    assert!(tally.delivered > 0);
}

pub(crate) fn syn(source: u16) -> Tcp {
    Tcp {
        source,
        destination: PORT,
        seq: 1,
        flags: Tcp::SYN,
        ..Tcp::default()
    }
}

/// The kernel's function tracer, on functions that only packets call: the same calls in the same order.
#[test]
fn the_function_tracer_agrees() {
    const WATCHED: [&str; 8] = [
        "ip_rcv_core",
        "ip_rcv_finish_core",
        "ip_local_deliver",
        "ip_local_deliver_finish",
        "tcp_v4_rcv",
        "udp_rcv",
        "icmp_rcv",
        "ip_output",
    ];
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let net = guest.net().unwrap();
    listen(&mut ground, SocketKind::Tcp { port: PORT }, "");
    net.ping(1, 0).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    // No SYN-ACK again a second later, when the capture has ended and the tracer has not.
    ground.sh("echo 0 >/proc/sys/net/ipv4/tcp_synack_retries");
    // One CPU, so that there is one order.
    ground.sh("echo 0 >/sys/devices/system/cpu/cpu1/online");
    let here = "cd /sys/kernel/tracing";
    ground.sh(&format!("{here}; echo '{}' >set_ftrace_filter; echo function >current_tracer; echo >trace; echo 1 >tracing_on", WATCHED.join(" ")));
    let paths = guest
        .paths(&Profile::Path, |_| {
            for n in 0..20 {
                net.segment(syn(41_000 + n), b"")?;
                net.ping(2, n)?;
                net.datagram(1000, 54, b"closed")?;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Ok(())
        })
        .unwrap();
    let trace = ground.sh(&format!(
        "{here}; echo 0 >tracing_on; cat trace; echo nop >current_tracer; echo >set_ftrace_filter"
    ));
    sound(&paths);
    let said: Vec<&str> = trace
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(": ").nth(1)?.split([' ', '<']).next())
        .filter(|name| WATCHED.contains(name))
        .collect();
    let mut seen: Vec<(u64, &str)> = paths
        .iter()
        .flat_map(|path| path.iter().map(|stage| (path.first + stage.ns, stage)))
        .filter(|(_, stage)| stage.what == What::Call && WATCHED.contains(&stage.name.as_str()))
        .map(|(time, stage)| (time, stage.name.as_str()))
        .collect();
    seen.sort_by_key(|(time, _)| *time);
    let seen: Vec<&str> = seen.into_iter().map(|(_, name)| name).collect();
    assert!(seen.len() > 200, "{}", seen.len());
    // The tracer is on before the capture is armed, and longer: what it has alone stands before or after.
    let same = said.windows(seen.len()).any(|part| part == seen);
    assert!(same, "seen {seen:?}\nsaid {said:?}");
}

/// Functions that ftrace itself says it can hook.
#[test]
fn functions() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let _net = guest.net().unwrap();
    let found = guest.skb_functions().unwrap();
    assert!(found.len() > 1000, "{}", found.len());
    let said = ground.sh("cat /sys/kernel/tracing/available_filter_functions_addrs");
    let said: std::collections::HashSet<u64> = said
        .lines()
        .filter_map(|line| {
            u64::from_str_radix(line.split(' ').next()?.trim_start_matches("0x"), 16).ok()
        })
        .collect();
    let missing: Vec<&str> = found
        .iter()
        .filter(|function| {
            !said.contains(&function.at.0) && !said.contains(&function.at.offset(4).0)
        })
        .map(|function| function.name.as_str())
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
    let module = found.iter().find(|function| {
        function.name == "receive_buf" || function.module.as_deref() == Some("virtio_net")
    });
    assert!(module.is_some());
    let position = |name: &str| found.named(name).next().unwrap().position;
    assert_eq!(
        (
            position("ip_rcv"),
            position("ip_rcv_finish_core"),
            position("ip_local_deliver")
        ),
        (0, 1, 0)
    );
}
