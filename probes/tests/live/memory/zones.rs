//! Zones, free lists and counters: `/proc/zoneinfo`, `buddyinfo`, `pagetypeinfo`, `vmstat` and `meminfo`.

use std::collections::BTreeMap;

use probes::Guest;
use probes::meminfo::MemInfo;
use probes::mmzone::{Buddy, Zone, Zones};
use probes::vmstat::VmStat;

use super::table;
use crate::ground::Ground;
use crate::ledger::Ledger;

const FILES: [&str; 5] = ["zoneinfo", "buddyinfo", "pagetypeinfo", "vmstat", "meminfo"];

fn ask(ground: &mut Ground) -> [String; 5] {
    FILES.map(|name| {
        let bytes = ground.agent.read(&format!("/proc/{name}")).unwrap();
        String::from_utf8(bytes).unwrap()
    })
}

struct Read {
    zones: Zones,
    buddy: Buddy,
    vmstat: VmStat,
    meminfo: MemInfo,
}

fn read(guest: &Guest) -> probes::Result<Read> {
    Ok(Read {
        zones: guest.zones()?,
        buddy: guest.buddy()?,
        vmstat: guest.vmstat()?,
        meminfo: guest.meminfo()?,
    })
}

pub(super) fn are_those_of_proc(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("zones on {kernel}"));
    let mut rounds = Rounds::default();
    for _ in 0..4 {
        let (before, seen, after) = ground.sandwich(ask, read);
        zoneinfo(
            &mut ledger,
            &mut rounds,
            &seen.zones,
            (&before[0], &after[0]),
        );
        buddyinfo(&mut ledger, &seen.buddy, (&before[1], &after[1]));
        pagetypeinfo(&mut ledger, &seen.buddy, (&before[2], &after[2]));
        let names: Vec<String> = seen.vmstat.iter().map(|c| c.name.clone()).collect();
        let of_proc: Vec<String> = before[3]
            .lines()
            .filter_map(|line| Some(line.split_once(' ')?.0.to_owned()))
            .filter(|name| name != "nr_unstable")
            .collect();
        ledger.same("vmstat", "names", &names, &of_proc);
        let (first, last) = (table(&before[3]), table(&after[3]));
        for counter in seen.vmstat.iter() {
            let both = (first.get(&counter.name), last.get(&counter.name));
            rounds.note("vmstat", &counter.name, counter.value.cast_signed(), both);
        }
        // A line's name may hold a bracket and no blank.
        let names: Vec<&str> = seen.meminfo.iter().map(|line| line.name).collect();
        let of_proc: Vec<&str> = before[4]
            .lines()
            .filter_map(|l| Some(l.split_once(':')?.0))
            .collect();
        ledger.same("meminfo", "names", &names, &of_proc);
        let (first, last) = (table(&before[4]), table(&after[4]));
        for line in seen.meminfo.iter() {
            let both = (first.get(line.name), last.get(line.name));
            rounds.note("meminfo", line.name, line.value.cast_signed(), both);
        }
        let used = |name: &str| seen.meminfo.get(name).unwrap();
        assert!(
            used("SwapTotal") > used("SwapFree") && used("HugePages_Total") == 6,
            "as furnished"
        );
    }
    rounds.end(&mut ledger);
    ledger.end(&[
        ("zone", 40),
        ("zone stat", 20),
        ("node stat", 35),
        ("per-CPU pages", 12),
        ("buddyinfo", 4),
        ("pagetypeinfo", 15),
        ("pageblocks", 6),
        // Without transparent huge pages there are some thirty less.
        ("vmstat", 140),
        ("meminfo", 45),
    ]);
}

/// Counters that are compared in several rounds. Between the agent's two readings a process may take pages and give them
/// back: a counter must agree in one round of those in which both readings of the agent do.
#[derive(Default)]
struct Rounds(BTreeMap<(&'static str, String), (bool, String)>);

impl Rounds {
    fn note(
        &mut self,
        field: &'static str,
        name: &str,
        memory: i64,
        (before, after): (Option<&i64>, Option<&i64>),
    ) {
        // A counter that this kernel has and does not show.
        let Some(first) = before.filter(|_| before == after) else {
            return;
        };
        let known = self.0.entry((field, name.to_owned())).or_default();
        known.0 |= *first == memory;
        known.1 += &format!(" {memory}/{first}");
    }

    fn end(&self, ledger: &mut Ledger) {
        for ((field, name), (agreed, seen)) in &self.0 {
            ledger.same(format!("{name}{seen}"), field, agreed, &true);
        }
    }
}

/// The stretches of `zoneinfo`, one a zone.
fn stretches(text: &str) -> BTreeMap<String, &str> {
    let mut starts: Vec<usize> = text.match_indices("Node ").map(|(at, _)| at).collect();
    starts.push(text.len());
    let zone = |pair: &[usize]| {
        let stretch = &text[pair[0]..pair[1]];
        let name = stretch
            .lines()
            .next()
            .unwrap()
            .split_whitespace()
            .last()
            .unwrap();
        (name.to_owned(), stretch)
    };
    starts.windows(2).map(zone).collect()
}

/// The number after `key`, the first of these.
fn number(text: &str, key: &str) -> Option<i64> {
    let lines = text.lines().map(str::trim);
    let mut rest = lines.filter_map(|line| {
        let rest = line.strip_prefix(key)?;
        rest.starts_with([' ', ':']).then_some(rest)
    });
    rest.next()?.trim_start_matches([' ', ':']).parse().ok()
}

fn zoneinfo(ledger: &mut Ledger, rounds: &mut Rounds, seen: &Zones, (before, after): (&str, &str)) {
    let (before, after) = (stretches(before), stretches(after));
    assert_eq!(seen.len(), 1, "klab's guests have one node");
    let node = &seen[0];
    ledger.same("node", "zones", &node.zones.len(), &before.len());
    for zone in &node.zones {
        let (first, last) = (before[&zone.name], after[&zone.name]);
        let both = |key: &str| (number(first, key), number(last, key));
        let mut steady = |field: &'static str, key: &str, value: i64| {
            let (first, last) = both(key);
            let name = format!("{} {key}", zone.name);
            rounds.note(field, &name, value, (first.as_ref(), last.as_ref()));
        };
        for (key, value) in fields(zone) {
            steady("zone", key, value);
        }
        for stat in &zone.stats {
            steady("zone stat", &stat.name, stat.value.cast_signed());
        }
        if first.contains("per-node stats") {
            for stat in &node.stats {
                steady("node stat", &stat.name, stat.value.cast_signed());
            }
        }
        let reserve = zone.lowmem_reserve.iter().map(i64::to_string);
        let reserve = format!("({})", reserve.collect::<Vec<_>>().join(", "));
        let printed = first
            .lines()
            .find_map(|line| line.trim().strip_prefix("protection: "));
        ledger.same(&zone.name, "protection", &&*reserve, &printed.unwrap());
        per_cpu(ledger, rounds, zone, (first, last));
    }
}

fn fields(zone: &Zone) -> Vec<(&'static str, i64)> {
    let marks = &zone.watermarks;
    let mut fields = vec![
        ("pages free", zone.free),
        ("boost", marks.boost),
        ("min", marks.min),
        ("low", marks.low),
        ("high", marks.high),
        ("spanned", zone.spanned),
        ("present", zone.present),
        ("managed", zone.managed),
        ("cma", zone.cma),
        ("start_pfn", zone.start_pfn),
        ("reserved_highatomic", zone.nr_reserved_highatomic),
    ];
    fields.extend(marks.promo.map(|promo| ("promo", promo)));
    fields
        .into_iter()
        .map(|(key, value)| (key, value.cast_signed()))
        .collect()
}

fn per_cpu(ledger: &mut Ledger, rounds: &mut Rounds, zone: &Zone, (before, after): (&str, &str)) {
    let cpus =
        |text: &str| -> Vec<String> { text.split("cpu: ").skip(1).map(str::to_owned).collect() };
    let (before, after) = (cpus(before), cpus(after));
    ledger.same(&zone.name, "CPUs", &zone.per_cpu.len(), &before.len());
    for ((pages, first), last) in zone.per_cpu.iter().zip(before).zip(after) {
        let mut values = vec![
            ("count", Some(pages.count)),
            ("high", Some(pages.high)),
            ("batch", Some(pages.batch)),
            ("high_min", pages.high_min),
            ("high_max", pages.high_max),
        ];
        values.push(("vm stats threshold", pages.stat_threshold.map(i32::from)));
        for (key, value) in values {
            let (first, last) = (number(&first, key), number(&last, key));
            let name = format!("{} CPU {} {key}", zone.name, pages.cpu);
            if let Some(value) = value {
                rounds.note(
                    "per-CPU pages",
                    &name,
                    value.into(),
                    (first.as_ref(), last.as_ref()),
                );
            }
        }
    }
}

fn buddyinfo(ledger: &mut Ledger, seen: &Buddy, (before, after): (&str, &str)) {
    ledger.same("buddyinfo", "zones", &seen.len(), &before.lines().count());
    for ((zone, first), last) in seen.iter().zip(before.lines()).zip(after.lines()) {
        let counts = zone.areas.iter().map(|area| area.nr_free.to_string());
        let line = format!(
            "Node {}, zone {} {}",
            zone.node,
            zone.zone,
            counts.collect::<Vec<_>>().join(" ")
        );
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        ledger.steady(
            &zone.zone,
            "buddyinfo",
            &line,
            (&words(first), &words(last)),
        );
    }
}

fn pagetypeinfo(ledger: &mut Ledger, seen: &Buddy, (before, after): (&str, &str)) {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = |text: &str| -> Vec<String> { text.lines().map(words).collect() };
    let (before, after) = (lines(before), lines(after));
    for zone in seen.iter() {
        let head = format!("Node {}, zone {}", zone.node, zone.zone);
        for (i, ty) in seen.types.iter().enumerate() {
            let start = format!("{head}, type {ty} ");
            let Some(at) = before.iter().position(|line| line.starts_with(&start)) else {
                ledger.fault(format!("pagetypeinfo has no line {start}"));
                continue;
            };
            let counts = zone
                .areas
                .iter()
                .map(|area| area.by_type[i].unwrap().to_string());
            let line = start.clone() + &counts.collect::<Vec<_>>().join(" ");
            ledger.steady(start, "pagetypeinfo", &line, (&before[at], &after[at]));
        }
        let counts = zone.blocks.iter().flatten().map(u64::to_string);
        let line = format!("{head} {}", counts.collect::<Vec<_>>().join(" "));
        let end = before
            .iter()
            .position(|line| line.starts_with("Number of blocks"));
        let printed = before[end.unwrap()..]
            .iter()
            .find(|line| line.starts_with(&format!("{head} ")));
        ledger.same(&head, "pageblocks", &Some(&line), &printed);
    }
}
