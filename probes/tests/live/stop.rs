//! Stopping at a stage: what is walked in place is what was sent.

use std::process::Command;
use std::time::{Duration, Instant};

use probes::memory::GuestVirt;
use probes::skb::Filter;
use vm::State;
use vm::agent::{SocketKind, WorkloadKind};

use crate::ground::Ground;

crate::on_kernels!(in_place);

const SOON: Duration = Duration::from_secs(10);

pub(crate) fn in_place(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    let guest = ground.guest.clone();
    let net = guest.net().unwrap();
    let kind = SocketKind::Tcp { port: 80 };
    let netns = String::new();
    ground
        .agent
        .workload(WorkloadKind::Socket { kind, netns })
        .unwrap();
    net.ping(1, 0).unwrap();
    let mut connection = net.connect(40_000, 80).unwrap();
    // A hook that lets everything through, to be found in `nf_hook_entries`.
    ground.sh("nft 'table ip t { chain c { type filter hook input priority 7; }; }'");
    let said = ground.sh("cat /proc/self/net/dev; ip -o link show eth0");
    assert!(said.contains("eth0"));
    let ifindex: u64 = said
        .lines()
        .find_map(|line| line.split_once(": eth0:")?.0.parse().ok())
        .unwrap();
    let netns = ground.sh("readlink /proc/self/ns/net");

    // IP: the device, its namespace and its hooks, the route, the bytes. Pings meet the filter, what else is sent does not.
    let mut stop = guest
        .stop_at("ip_local_deliver", &Filter::new("icmp").unwrap())
        .unwrap();
    net.datagram(1000, 9, b"not this one").unwrap();
    let sent = net.ping(9, 1).unwrap();
    stop.wait(SOON, |stopped| {
        assert_eq!(stopped.guest().status()?.state, State::Paused);
        assert!(stopped.guest().agent().is_err(), "the agent cannot answer");
        let skb = stopped.sk_buff()?;
        assert_eq!(skb.data(), &sent.0[14..]);
        assert_eq!(skb.at.0, stopped.registers.argument(0).unwrap());
        let object = stopped.skb()?;
        let device = object.member("dev")?.deref()?;
        assert_eq!(device.member("name")?.string()?, "eth0");
        assert_eq!(device.member("ifindex")?.u64()?, ifindex);
        let net = device.member("nd_net.net")?.deref()?;
        let inum = net.member("ns.inum")?.u64()?;
        assert!(netns.contains(&format!("[{inum}]")), "{netns} {inum}");
        // NF_INET_LOCAL_IN; the entry's function and priority as they are registered.
        let entries = net.member("nf.hooks_ipv4")?.index(1)?.deref()?;
        assert_eq!(entries.member("num_hook_entries")?.u64()?, 1);
        let hooks = stopped.guest().nf_hooks()?;
        let hook = hooks
            .iter()
            .find(|hook| hook.family.name() == "ip" && hook.hook == 1)
            .unwrap();
        assert_eq!((hook.priority, hook.chain.as_deref()), (7, Some("t/c")));
        // dst_entry: for this host, so its device is `lo` and its input the function that we stand at.
        let dst = GuestVirt(object.member("_skb_refdst")?.u64()? & !1);
        let dst = stopped.guest().at("struct dst_entry", dst)?;
        let through = dst.member("dev")?.deref()?;
        assert_eq!(through.member("name")?.string()?, "lo");
        assert_eq!(dst.member("input")?.pointer()?, stopped.function.at);
        // How it came here.
        let stack = stopped.stack()?;
        let names: Vec<&str> = stack.frames.iter().map(|f| f.function.as_str()).collect();
        assert_eq!(names[0], "ip_local_deliver", "{names:?}");
        assert!(names.len() > 5, "{names:?}");
        let napi = names
            .iter()
            .any(|name| name.contains("napi") || name.contains("net_rx_action"));
        assert!(napi, "{names:?}");
        Ok(())
    })
    .unwrap();
    // It went on: the ping is answered, and the next one stops again.
    let reply = net.wait(SOON, |frame| frame.to_string().ends_with("ICMP echo reply"));
    assert!(reply.is_some());
    let again = net.ping(9, 2).unwrap();
    let data = stop
        .wait(SOON, |stopped| Ok(stopped.sk_buff()?.data().to_vec()))
        .unwrap();
    assert_eq!(data, again.0[14..]);
    drop(stop);

    // TCP: the socket, once the packet is with it.
    let mut stop = guest
        .stop_at(
            "tcp_rcv_established",
            &Filter::new("tcp port 40000").unwrap(),
        )
        .unwrap();
    let sent = connection.send(b"to be found").unwrap();
    stop.wait(SOON, |stopped| {
        let sk = GuestVirt(stopped.registers.argument(0).unwrap());
        let common = stopped
            .guest()
            .at("struct sock", sk)?
            .member("__sk_common")?;
        assert_eq!(common.member("skc_num")?.u64()?, 80);
        let port = common.member("skc_dport")?.u64()? as u16;
        assert_eq!(port.swap_bytes(), 40_000);
        let address = common.member("skc_daddr")?.u64()? as u32;
        assert_eq!(address.to_le_bytes(), [192, 0, 2, 1]);
        let skb = stopped.sk_buff()?;
        assert!(skb.data().ends_with(b"to be found"));
        assert_eq!(skb.data(), &sent.0[34..]);
        Ok(())
    })
    .unwrap();
    connection.acknowledged().unwrap();
    // On its way out a packet has its socket itself.
    drop(stop);
    let mut stop = guest
        .stop_at("ip_output", &Filter::new("tcp src port 80").unwrap())
        .unwrap();
    connection.send(b"more").unwrap();
    stop.wait(SOON, |stopped| {
        let sk = stopped.skb()?.member("sk")?.deref()?;
        assert_eq!(sk.member("__sk_common.skc_num")?.u64()?, 80);
        Ok(())
    })
    .unwrap();
    drop(stop);
    // Nothing is left of it.
    assert_eq!(guest.status().unwrap().state, State::Running);
    net.ping(9, 3).unwrap();
    ground.sh("true");
}

#[test]
fn survives() {
    let ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let net = guest.net().unwrap();
    let icmp = Filter::new("icmp").unwrap();
    // Nothing comes: an end in time, and the guest runs.
    let mut stop = guest.stop_at("icmp_rcv", &icmp).unwrap();
    let error = stop
        .wait(Duration::from_millis(500), |_| Ok(()))
        .unwrap_err();
    assert!(error.to_string().contains("icmp_rcv"), "{error}");
    // One waits at a time.
    let second = guest.stop_at("icmp_rcv", &icmp).unwrap_err().to_string();
    assert!(second.contains("another"), "{second}");
    // A look that fails, and one that panics.
    net.ping(1, 1).unwrap();
    let failed = stop.wait(SOON, |_| -> probes::Result<()> {
        Err(probes::Error::Invalid("no".to_owned()))
    });
    assert_eq!(failed.unwrap_err().to_string(), "no");
    net.ping(1, 2).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        stop.wait(SOON, |_| -> probes::Result<()> { panic!("in the look") })
    }));
    assert!(panicked.is_err());
    drop(stop);
    assert_eq!(guest.status().unwrap().state, State::Running);
    guest.agent().unwrap();
    // Somebody pauses and resumes it while it is waited for.
    let mut stop = guest.stop_at("icmp_rcv", &icmp).unwrap();
    guest.paused(|_| Ok(())).unwrap();
    net.ping(1, 3).unwrap();
    stop.wait(SOON, |_| Ok(())).unwrap();
    // A reset while it is waited for, and while it stands.
    let machine = guest.machine().unwrap();
    let resetting = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        let mut machine = machine;
        machine.reset()
    });
    let error = stop.wait(SOON, |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("reset"), "{error}");
    resetting.join().unwrap().unwrap();
    drop(stop);
    let net = guest.net().unwrap();
    let mut stop = guest.stop_at("icmp_rcv", &icmp).unwrap();
    net.ping(1, 4).unwrap();
    let error = stop.wait(SOON, |_| guest.reset()).unwrap_err().to_string();
    assert!(error.contains("reset"), "{error}");
    drop(stop);
    assert_eq!(guest.status().unwrap().state, State::Running);
    let refused = guest.stop_at("no_such_function", &icmp).unwrap_err();
    assert!(refused.to_string().contains("no_such_function"));
    guest
        .paused(|guest| {
            let error = guest.stop_at("icmp_rcv", &icmp).unwrap_err().to_string();
            assert!(error.contains("held still"), "{error}");
            Ok(())
        })
        .unwrap();
}

/// Program that [`a_killed_waiter`] starts: this test program once more, in a guest that is there. It waits to be
/// killed.
const KILLED: &str = "KLAB_TEST_STOP";

#[test]
fn killed_in_the_middle() {
    if let Ok(name) = std::env::var(KILLED) {
        let guest = probes::Guest::attach(&name).unwrap();
        let mut stop = guest.stop_at("icmp_rcv", &Filter::default()).unwrap();
        println!("armed");
        let _ = stop.wait(Duration::from_secs(60), |_| {
            println!("stopped");
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        });
        return;
    }
    let ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let net = guest.net().unwrap();
    let machine = guest.machine().unwrap();
    for when in ["armed", "stopped"] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "stop::killed_in_the_middle",
                "--nocapture",
            ])
            .env(KILLED, machine.name())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let out = std::io::BufReader::new(child.stdout.take().unwrap());
        for line in std::io::BufRead::lines(out) {
            let line = line.unwrap();
            if line.contains("armed") && when == "stopped" {
                net.ping(1, 1).unwrap();
            }
            if line.contains(when) {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // Neither its breakpoint nor its stop outlives it.
        let until = Instant::now() + SOON;
        let left = || machine.run_dir().join("holds").exists();
        while left() || guest.status().unwrap().state != State::Running {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(100));
        }
        net.clear();
        for seq in 10..15 {
            net.ping(1, seq).unwrap();
            let reply = net.wait(SOON, |frame| frame.to_string().ends_with("ICMP echo reply"));
            assert!(reply.is_some());
        }
        assert_eq!(guest.status().unwrap().state, State::Running);
    }
}
