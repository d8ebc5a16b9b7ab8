//! Records of what happened: compared with the guest's own counters and tracer.

use crate::ring::{Filter, How, Kind, Tracepoint};
use crate::{Guest, TEST, arm, disarm, module, site};

const PING: &str = "ping -c 3 -i 0.2 -W 5 127.0.0.1 > /dev/null";

#[test]
fn pings_are_counted_as_the_kernels_own_tracer_counts_them() {
    let mut guest = Guest::up("count", 2);
    let names = [
        "ip_rcv",
        "ip_local_deliver",
        "icmp_rcv",
        "__skb_checksum_complete",
    ];
    let at = guest.addresses(&names[..3]);
    let sites: Vec<_> = at.iter().map(|at| site(*at, 0, How::Entry)).collect();
    arm(
        &mut guest,
        &sites,
        None,
        0,
        1 << Tracepoint::NetifReceiveSkb as u64,
    )
    .unwrap();
    guest.sh(
        "mount -t tracefs none /sys/kernel/tracing 2>/dev/null; cd /sys/kernel/tracing && \
         echo ip_rcv ip_local_deliver icmp_rcv > set_ftrace_filter && echo function > current_tracer",
    );
    guest.sh(PING);
    let trace =
        guest.sh("cat /sys/kernel/tracing/trace; echo nop > /sys/kernel/tracing/current_tracer");
    disarm(&mut guest);
    let (records, lost) = guest.records();
    assert_eq!(lost, 0);
    for (name, at) in names.iter().zip(&at) {
        let traced = trace
            .lines()
            .filter(|line| line.contains(&format!(": {name} <-")))
            .count();
        let ours: Vec<_> = records
            .iter()
            .filter(|r| r.kind() == Some(Kind::Entry) && r.address() == *at)
            .collect();
        // An echo request and its reply each pass all three; 3 pings are 6 packets.
        assert_eq!(
            (traced, ours.len()),
            (6, 6),
            "{name}\n{trace}\n{records:#?}"
        );
        for record in ours {
            assert_eq!(record.ifindex, 1, "{record:?}");
            assert_eq!(record.protocol, 0x0800);
            // IPv4, ICMP, 127.0.0.1 to 127.0.0.1.
            let packet = record.packet();
            assert_eq!(
                (packet[0] >> 4, packet[9], &packet[12..16], &packet[16..20]),
                (4, 1, &[127, 0, 0, 1][..], &[127, 0, 0, 1][..])
            );
            assert!(record.tail <= record.end && record.data <= record.tail);
        }
    }
    let netns = guest.sh("readlink /proc/self/ns/net");
    assert!(
        netns.contains(&format!("[{}]", records[0].netns)),
        "{netns} {}",
        records[0].netns
    );
    assert_eq!(
        records
            .iter()
            .filter(|r| r.kind() == Some(Kind::Tracepoint))
            .count(),
        6
    );
}

#[test]
fn verdicts_clones_and_the_filter() {
    let mut guest = Guest::up("verdicts", 2);
    guest.sh(
        "nft 'table ip t { chain c { type filter hook input priority 0; udp dport 9 drop; }; }' && \
         nft list ruleset",
    );
    let at = guest.addresses(&["nft_do_chain_ipv4", "skb_clone", "ip_rcv"]);
    let sites = [
        site(at[0], 1, How::Return),
        site(at[1], 0, How::Derive),
        site(at[2], 0, How::Entry),
    ];
    let filter = Filter {
        family: 4,
        protocol: 17,
        destination_port: 9,
        ..Filter::ANY
    };
    arm(
        &mut guest,
        &sites,
        Some(filter),
        0,
        1 << Tracepoint::KfreeSkb as u64,
    )
    .unwrap();
    guest.sh(PING);
    guest.sh("/init send udp 127.0.0.1:9 x");
    disarm(&mut guest);
    let counters = guest.counters();
    assert!(
        counters.rings.iter().map(|ring| ring.rejected).sum::<u64>() >= 6,
        "pings are rejected"
    );
    let (records, _) = guest.records();
    let kinds: Vec<_> = records
        .iter()
        .map(|record| (record.kind().unwrap(), record.site))
        .collect();
    let low = |i: usize| at[i] as u32;
    let kfree = Tracepoint::KfreeSkb as u32;
    let expected = [
        (Kind::Entry, low(2)),
        (Kind::Entry, low(0)),
        (Kind::Tracepoint, kfree),
        (Kind::Exit, low(0)),
    ];
    // NF_DROP with the reason in the verdict's upper half frees in the caller; a plain 0 frees in nf_hook_slow.
    assert!(
        kinds.starts_with(&expected[..2]) && kinds.len() == 4,
        "{records:#?}"
    );
    let exit = records
        .iter()
        .find(|record| record.kind() == Some(Kind::Exit))
        .unwrap();
    // NF_DROP_REASON() frees the packet itself and returns NF_STOLEN below an errno.
    let verdict = exit.arg as u32;
    assert!(
        matches!((verdict & 0xff, verdict >> 16), (0, _) | (2, 1..)),
        "{verdict:#x}"
    );
    assert_eq!(exit.skb, records[0].skb);

    // TCP sends clones, and keeps the originals until they are acknowledged.
    let clone = [site(at[1], 0, How::Derive)];
    arm(&mut guest, &clone, None, 0, 0).unwrap();
    guest.sh("timeout 5 nc -l -p 5000 > /dev/null & sleep 0.5; echo x | timeout 2 nc 127.0.0.1 5000; true");
    disarm(&mut guest);
    let (records, _) = guest.records();
    let derived: Vec<_> = records
        .iter()
        .filter(|record| record.kind() == Some(Kind::Derived))
        .collect();
    assert!(!derived.is_empty());
    for record in &derived {
        let original = records.iter().rev().find(|r| {
            r.kind() == Some(Kind::Entry) && r.time <= record.time && r.skb == record.arg
        });
        let original = original.expect("entered before");
        assert_eq!(original.head, record.head, "a clone shares its head");
        assert_ne!(record.skb, record.arg);
    }
}

/// The last records of a million are whole and in order: the caller numbers its calls in `skb->mark`.
#[test]
fn at_full_speed_records_are_whole_and_in_order() {
    const CALLS: u32 = 1_000_000;
    let mut guest = Guest::up("speed", 2);
    guest.push_file(module(&TEST), "/run/klab_test.ko").unwrap();
    guest.load_module("/run/klab_test.ko", "").unwrap();
    let at = guest.addresses(&["skb_pull"])[0];
    arm(&mut guest, &[site(at, 0, How::Entry)], None, 0, 0).unwrap();
    guest.sh(&format!(
        "for mask in 1 2; do taskset $mask sh -c 'echo {CALLS} >/sys/module/klab_test/parameters/hits' & done; wait"
    ));
    disarm(&mut guest);
    let counters = guest.counters();
    let (records, lost) = guest.records();
    for ring in &counters.rings[..2] {
        assert!(ring.produced >= u64::from(CALLS), "{}", ring.produced);
    }
    let slots = counters.slots as usize;
    assert_eq!(records.len(), 2 * slots);
    assert_eq!(
        lost + records.len() as u64,
        counters.rings.iter().map(|ring| ring.produced).sum::<u64>()
    );
    // Each caller's skb has one call after the other, up to the last.
    let skbs: std::collections::BTreeSet<u64> = records.iter().map(|record| record.skb).collect();
    assert_eq!(skbs.len(), 2);
    for skb in skbs {
        let marks: Vec<u32> = records
            .iter()
            .filter(|record| record.skb == skb)
            .map(|record| record.mark)
            .collect();
        let first = CALLS - marks.len() as u32;
        assert!(
            marks.iter().copied().eq(first..CALLS),
            "{:?}..",
            &marks[..8]
        );
    }
    guest.unload_module("klab_test").unwrap();
}
