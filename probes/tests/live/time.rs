//! Timers, clocks and RCU: `/proc/timer_list`, the tracer, `/sys/devices/system/clocksource`, `/proc/uptime`.

use std::collections::{BTreeMap, BTreeSet};

use probes::rcu::Rcu;
use probes::time::{Clocks, Serves, Timers};

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(is_that_of_proc);

pub(crate) fn is_that_of_proc(kernel: &str) {
    let mut ground = Ground::bare(kernel, vm::Options::default().memory);
    hrtimers(&mut ground, kernel);
    wheel(&mut Ground::to_trace(kernel), kernel);
    clocks(&mut ground, kernel);
    rcu(&mut ground, kernel);
}

/// An hrtimer as `/proc/timer_list` shows it: CPU, clock, function, when it may and when it must be due.
type Queued = (u32, u64, String, i64, i64);

fn ask_hrtimers(ground: &mut Ground) -> (BTreeSet<Queued>, BTreeMap<String, String>) {
    let text = ground.sh("cat /proc/timer_list");
    let (mut cpu, mut clock, mut function) = (0, 0, String::new());
    let mut queued = BTreeSet::new();
    let mut device = BTreeMap::new();
    let mut whose = String::new();
    for line in text.lines() {
        let line = line.trim();
        let number = |text: &str| text.trim().parse().unwrap();
        if let Some(rest) = line.strip_prefix("cpu: ") {
            cpu = number(rest) as u32;
        } else if let Some(rest) = line.strip_prefix("clock ") {
            clock = number(rest.trim_end_matches(':')) as u64;
        } else if line.starts_with('#') && line.contains(", S:") {
            line.split(", ").nth(1).unwrap().clone_into(&mut function);
        } else if let Some(rest) = line.strip_prefix("# expires at ") {
            let (soft, rest) = rest.split_once('-').unwrap();
            let hard = rest.split(' ').next().unwrap();
            queued.insert((cpu, clock, function.clone(), number(soft), number(hard)));
        } else if let Some(rest) = line.strip_prefix("Per CPU device: ") {
            rest.trim().clone_into(&mut whose);
        } else if line == "Broadcast device" {
            "any".clone_into(&mut whose);
        } else if let Some((name, value)) = line.split_once(':')
            && ["Clock Event Device", "mult", "shift", "event_handler"].contains(&name)
            && !whose.is_empty()
        {
            device.insert(format!("{whose} {name}"), value.trim().to_owned());
        }
    }
    (queued, device)
}

fn hrtimers(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("hrtimers on {kernel}"));
    let pids = ground.sh(
        "for i in 1 2 3 4 5 6; do sleep $((1000 + i)) >/dev/null 2>&1 & echo $!; done; sleep 1",
    );
    for _ in 0..4 {
        let (before, seen, after): (_, (Timers, Clocks), _) =
            ground.sandwich(ask_hrtimers, |guest| Ok((guest.timers()?, guest.clocks()?)));
        let bases = [
            "MONOTONIC",
            "REALTIME",
            "BOOTTIME",
            "TAI",
            "MONOTONIC_SOFT",
            "REALTIME_SOFT",
            "BOOTTIME_SOFT",
            "TAI_SOFT",
        ];
        let own: BTreeSet<Queued> = seen
            .0
            .hrtimers
            .iter()
            .map(|timer| {
                let clock = bases.iter().position(|base| *base == timer.clock).unwrap();
                let function = timer.function.name.clone().unwrap();
                (
                    timer.cpu,
                    clock as u64,
                    function,
                    timer.soft_expires,
                    timer.expires,
                )
            })
            .collect();
        // A timer that was queued before and after was queued between.
        for timer in before.0.intersection(&after.0) {
            ledger.same(format!("{timer:?}"), "queued", &own.contains(timer), &true);
        }
        for timer in &own {
            // A CPU's tick waits long while it idles, and is set anew when it wakes, as for the agent.
            let tick = ["tick_nohz_handler", "tick_sched_timer"].contains(&timer.2.as_str());
            // Some came and went; those due much later must be in both.
            if !tick && timer.3 > seen.0.monotonic as i64 + 60_000_000_000 {
                ledger.same(
                    format!("{timer:?}"),
                    "listed",
                    &after.0.contains(timer),
                    &true,
                );
            }
        }
        for pid in pids.lines() {
            let task = Some(Serves::Task(pid.parse().unwrap()));
            let found = seen.0.hrtimers.iter().filter(|timer| timer.serves == task);
            ledger.same(pid, "sleeper", &found.count(), &1);
        }
        for event in &seen.1.events {
            let whose = event
                .cpu
                .map_or_else(|| "any".to_owned(), |cpu| cpu.to_string());
            let said = |name: &str| {
                before
                    .1
                    .get(&format!("{whose} {name}"))
                    .cloned()
                    .unwrap_or_default()
            };
            ledger.same(&whose, "device", &event.name, &said("Clock Event Device"));
            ledger.same(&whose, "mult", &event.mult.to_string(), &said("mult"));
            ledger.same(&whose, "shift", &event.shift.to_string(), &said("shift"));
            ledger.same(
                &whose,
                "handler",
                &event.event_handler.to_string(),
                &said("event_handler"),
            );
        }
    }
    ledger.end(&[
        ("queued", 24),
        ("listed", 24),
        ("sleeper", 24),
        ("device", 12),
        ("handler", 12),
    ]);
}

/// A timer's start, as the tracer wrote it.
#[derive(Debug, Clone)]
struct Start {
    at: f64,
    function: String,
    expires: u64,
    cpu: u32,
}

/// The timers of the wheel against what the tracer saw: one that was started before the pause, and not cancelled, expired
/// or started anew before it, must be pending.
fn wheel(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("timers on {kernel}"));
    ground.sh("cd /sys/kernel/tracing && echo 0 >options/hash-ptr && echo mono >trace_clock \
        && for e in timer_start timer_cancel timer_expire_entry; do echo 1 >events/timer/$e/enable; done");
    for _ in 0..4 {
        ground.sh("echo >/sys/kernel/tracing/trace; ip link add t0 type dummy; ip link set t0 up; sleep 2; ip link del t0");
        let seen: Timers = ground.guest.paused(|guest| guest.timers()).unwrap();
        let trace = ground.sh("grep timer= /sys/kernel/tracing/trace");
        // The clock is that of the last tick: what happened near the pause is left out.
        let now = seen.monotonic as f64 / 1e9;
        let mut last: BTreeMap<u64, Option<Start>> = BTreeMap::new();
        let mut near = BTreeSet::new();
        for line in trace.lines() {
            let (head, rest) = line.split_once("timer=").unwrap();
            let stamp = head.split_whitespace().rev().nth(1).unwrap();
            let at: f64 = stamp.trim_end_matches(':').parse().unwrap();
            let word = |name: &str| {
                let (_, value) = rest.split_once(&format!("{name}="))?;
                value.split([' ', ']']).next()
            };
            let timer = rest.split_whitespace().next().unwrap();
            let timer = u64::from_str_radix(timer.trim_start_matches("0x"), 16).unwrap();
            if at > now - 0.02 && at < now + 0.5 {
                near.insert(timer);
            } else if at <= now {
                let start = head.contains("timer_start:").then(|| Start {
                    at,
                    function: word("function").unwrap().to_owned(),
                    expires: word("expires").unwrap().parse().unwrap(),
                    cpu: word("cpu").unwrap().parse().unwrap(),
                });
                last.insert(timer, start);
            }
        }
        for (timer, start) in last {
            if near.contains(&timer) {
                continue;
            }
            let found = seen.wheel.iter().find(|own| own.at.0 == timer);
            let who = format!("{timer:#x} {start:?}");
            let Some(start) = start else {
                ledger.same(who, "gone", &found.is_none(), &true);
                continue;
            };
            ledger.same(&who, "pending", &found.is_some(), &true);
            if let Some(found) = found {
                let function = found.function.name.clone().unwrap_or_default();
                ledger.same(&who, "function", &function, &start.function);
                ledger.same(&who, "expires", &found.expires, &start.expires);
                ledger.same(&who, "cpu", &found.cpu, &start.cpu);
                ledger.same(&who, "started", &(start.at <= now), &true);
            }
        }
        for timer in &seen.wheel {
            if let Some(Serves::Work(work)) = &timer.serves {
                ledger.same(timer.at, "work", &work.name.is_some(), &true);
            }
        }
    }
    ground.sh("echo 0 >/sys/kernel/tracing/events/enable");
    ledger.end(&[
        ("pending", 8),
        ("function", 8),
        ("expires", 8),
        ("cpu", 8),
        ("gone", 4),
        ("work", 20),
    ]);
}

fn ask_clocks(ground: &mut Ground) -> [String; 5] {
    [
        "cd /sys/devices/system/clocksource/clocksource0; cat available_clocksource current_clocksource",
        "cut -d' ' -f1 /proc/uptime",
        "sed -n 's/^btime //p' /proc/stat",
        "sed -n 's/^jiffies: //p' /proc/timer_list | head -1",
        "date +%s",
    ]
    .map(|line| ground.sh(line).trim().to_owned())
}

fn clocks(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("clocks on {kernel}"));
    for _ in 0..3 {
        let (before, seen, after): (_, Clocks, _) =
            ground.sandwich(ask_clocks, |guest| guest.clocks());
        // `CLOCK_SOURCE_VALID_FOR_HRES`: the file has those that high resolution can do with.
        let able = seen
            .sources
            .iter()
            .filter(|source| source.flags & 0x20 != 0);
        let able: Vec<&str> = able.map(|source| source.name.as_str()).collect();
        let current = seen.sources.iter().find(|source| source.current).unwrap();
        let own = format!("{} \n{}", able.join(" "), current.name);
        ledger.steady("clocksource0", "sources", &own, (&before[0], &after[0]));
        ledger.steady(
            "/proc/stat",
            "btime",
            &seen.btime.unwrap().to_string(),
            (&before[2], &after[2]),
        );
        let between = |said: usize, own: f64, slack: f64| {
            let [first, second] =
                [&before, &after].map(|asked| asked[said].parse::<f64>().unwrap());
            first - slack <= own && own <= second + slack
        };
        // Times are those of the last tick, and whole seconds are cut off.
        let boottime = seen.boottime.unwrap() as f64 / 1e9;
        ledger.same(
            format!("{boottime} {before:?} {after:?}"),
            "uptime",
            &between(1, boottime, 0.3),
            &true,
        );
        let realtime = seen.realtime.unwrap() as f64 / 1e9;
        ledger.same(
            format!("{realtime} {before:?} {after:?}"),
            "date",
            &between(4, realtime, 1.0),
            &true,
        );
        let jiffies = seen.jiffies.unwrap() as f64;
        ledger.same(
            format!("{jiffies} {before:?} {after:?}"),
            "jiffies",
            &between(3, jiffies, 50.0),
            &true,
        );
    }
    ledger.end(&[
        ("sources", 3),
        ("btime", 3),
        ("uptime", 3),
        ("date", 3),
        ("jiffies", 3),
    ]);
}

/// Grace periods by the tracer: each ends in `rcu_gp_cleanup()` once, and a probe counts that.
fn rcu(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("RCU on {kernel}"));
    ground.sh("cd /sys/kernel/tracing && echo 'p:klab/gp rcu_gp_cleanup' >kprobe_events && echo 1 >events/klab/gp/enable");
    let ask = |ground: &mut Ground| -> u64 {
        let profile = ground.sh("cat /sys/kernel/tracing/kprobe_profile");
        profile.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let thread = ground.sh("for p in /proc/[0-9]*; do grep -q '^rcu_[ps][a-z]*$' $p/comm && echo ${p#/proc/} $(cat $p/comm); done 2>/dev/null; true");
    let mut known = Vec::new();
    for round in 0..12 {
        let (before, seen, after): (_, Rcu, _) = ground.sandwich(ask, |guest| guest.rcu());
        known.push((before, seen.gp, after));
        let name = seen.name.as_deref().unwrap_or_default();
        let named = format!("{} {name}", seen.gp_kthread.unwrap_or(0));
        ledger.same("thread", "thread", &named.as_str(), &thread.trim());
        let state = seen.state.as_deref().unwrap_or_default();
        ledger.same("state", "state", &state.starts_with("RCU_GP_"), &true);
        for cpu in &seen.cpus {
            let all: usize = cpu.callbacks.iter().map(|kind| kind.count).sum();
            let segments: u64 = cpu.segments.iter().sum();
            // Callbacks that are being invoked are counted until they are done.
            ledger.same(
                format!("{cpu:?}"),
                "callbacks",
                &(all as u64 <= cpu.len),
                &true,
            );
            ledger.same(format!("{cpu:?}"), "segments", &segments, &(all as u64));
            ledger.same(cpu.cpu, "known", &(cpu.gp <= seen.gp + 1), &true);
        }
        ground.sh(&format!("for i in 1 2 3; do ip link add r{round} type dummy; ip link del r{round}; done; ip netns add n{round}; ip netns del n{round}"));
    }
    // As many grace periods ended between two readings as were counted between them, give or take those that ended while
    // they were counted.
    for gap in [1, 4, 8] {
        for pair in known.windows(gap + 1) {
            let ((first, gp, then), (begin, later, end)) = (pair[0], pair[gap]);
            let passed = later - gp;
            let fits =
                begin as i64 - then as i64 - 1 <= passed && passed <= (end - first) as i64 + 1;
            ledger.same(format!("{pair:?}"), "periods", &fits, &true);
        }
    }
    let (first, last) = (known[0], known[known.len() - 1]);
    ledger.same(
        "periods",
        "passed",
        &(last.1 - first.1 > 20),
        &(last.0 - first.0 > 20),
    );
    ground.sh("cd /sys/kernel/tracing && echo 0 >events/enable; echo >kprobe_events");
    ledger.end(&[
        ("thread", 12),
        ("callbacks", 24),
        ("segments", 24),
        ("periods", 20),
        ("passed", 1),
    ]);
}
