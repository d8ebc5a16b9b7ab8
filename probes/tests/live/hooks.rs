//! Modules, BPF, tracing and the hooks of all of them: `/sys/module`, `/proc/PID/fdinfo`, `/sys/kernel/tracing`, nft.

use std::collections::{BTreeMap, BTreeSet};

use probes::audit::{Audit, HookPoint, Owner};
use probes::bpf::Bpf;
use probes::module::ModuleDetails;
use probes::skb::Profile;
use probes::trace::Tracing;
use vm::agent::WorkloadKind;

use crate::ground::Ground;
use crate::ledger::Ledger;

pub(crate) fn are_those_of_sys(kernel: &str) {
    let mut ground = Ground::bare(kernel, vm::Options::default().memory);
    command_line(&mut ground, kernel);
    let clean = ground.guest.paused(|guest| guest.audit()).unwrap();
    assert_eq!(clean.findings, [], "{kernel}");
    assert_eq!(clean.hooked_sites, 0);
    ground.sh(
        "modprobe loop max_loop=3 max_part=7; modprobe null_blk nr_devices=0 queue_mode=2 bs=4096; modprobe brd rd_nr=1 rd_size=77; \
         modprobe veth; nft add table inet t; nft add chain inet t c '{ type filter hook input priority 0; }'; \
         nft add rule inet t c ct state new accept; nft add table ip n; nft add chain ip n c '{ type nat hook output priority 0; }'",
    );
    modules(&mut ground, kernel);
    bpf(&mut ground, kernel);
    tracing(&mut ground, kernel);
    audit(&mut ground, kernel, &clean);
}

fn command_line(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("command line on {kernel}"));
    let seen = ground.guest.command_line().unwrap();
    let said = ground.sh("cat /proc/cmdline");
    ledger.same(
        "/proc/cmdline",
        "text",
        &seen.text.as_str(),
        &said.trim_end_matches('\n'),
    );
    let console = seen.parameters.iter().find(|word| word.name == "console");
    let console = console.and_then(|word| word.value.as_deref());
    ledger.same("console", "value", &console, &Some("ttyS0"));
    // Debian's kernels do not have their configuration in them.
    let error = ground.guest.kconfig().unwrap_err().to_string();
    ledger.same(
        "kconfig",
        "absent",
        &error.contains("CONFIG_IKCONFIG"),
        &true,
    );
    let proc = ground.sh("ls /proc/config.gz 2>/dev/null || true");
    ledger.same("kconfig", "absent", &proc.is_empty(), &true);
    ledger.end(&[("text", 1), ("value", 1), ("absent", 2)]);
}

/// Of each file of `/sys/module/*` that tells of one what is in it.
fn ask_modules(ground: &mut Ground) -> BTreeMap<String, String> {
    let said = ground.sh(
        "cd /sys/module && for m in $(cut -d' ' -f1 /proc/modules); do \
         grep -H '' $m/sections/* $m/sections/.[a-zA-Z_]* $m/parameters/* $m/refcnt $m/taint $m/srcversion $m/initstate $m/version 2>/dev/null; \
         for h in $m/holders/*; do echo $h:; done; done; sed 's/^/proc:/' /proc/modules",
    );
    let mut files = BTreeMap::new();
    for line in said.lines() {
        let (file, text) = line.split_once(':').unwrap();
        if file == "proc" {
            let (name, rest) = text.split_once(' ').unwrap();
            files.insert(format!("proc/{name}"), rest.to_owned());
        } else {
            files.insert(file.to_owned(), text.to_owned());
        }
    }
    files
}

fn modules(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("modules on {kernel}"));
    let (before, seen, after): (_, Vec<ModuleDetails>, _) = ground.sandwich(ask_modules, |guest| {
        let modules = guest.modules()?;
        modules
            .iter()
            .map(|module| guest.module(&module.name))
            .collect()
    });
    ledger.same("/sys/module", "same twice", &(before == after), &true);
    let of = |prefix: &str| -> BTreeMap<String, String> {
        let all = before
            .iter()
            .filter_map(|(file, text)| Some((file.strip_prefix(prefix)?.to_owned(), text.clone())));
        // Where there is nothing, the shell leaves the pattern.
        all.filter(|(name, _)| name != "*").collect()
    };
    for module in &seen {
        let name = &module.module.name;
        let sections = module
            .sections
            .iter()
            .map(|section| (section.name.clone(), format!("{:#018x}", section.at.0)));
        ledger.same(
            name,
            "sections",
            &sections.collect(),
            &of(&format!("{name}/sections/")),
        );
        let shown = module
            .parameters
            .iter()
            .filter(|parameter| parameter.perm != 0);
        let mut parameters = of(&format!("{name}/parameters/"));
        // Those that nobody may read.
        let unreadable = shown
            .clone()
            .filter(|parameter| parameter.perm & 0o444 == 0);
        let unreadable: BTreeSet<String> = unreadable.map(|p| p.name.clone()).collect();
        parameters.retain(|name, _| !unreadable.contains(name));
        let readable = shown.filter(|parameter| parameter.perm & 0o444 != 0);
        let names: BTreeSet<String> = readable.clone().map(|p| p.name.clone()).collect();
        ledger.same(
            name,
            "parameters",
            &names,
            &parameters.keys().cloned().collect(),
        );
        for parameter in readable {
            if let Some(value) = &parameter.value {
                let said = parameters.get(&parameter.name);
                ledger.same(
                    format!("{name}.{}", parameter.name),
                    "value",
                    &Some(value),
                    &said,
                );
            }
        }
        let holders: BTreeSet<String> = of(&format!("{name}/holders/")).into_keys().collect();
        let users: BTreeSet<String> = module.used_by.iter().cloned().collect();
        ledger.same(name, "holders", &users, &holders);
        let said = |file: &str| {
            before
                .get(&format!("{name}/{file}"))
                .cloned()
                .unwrap_or_default()
        };
        ledger.same(
            name,
            "refcnt",
            &module.module.refcnt.to_string(),
            &said("refcnt"),
        );
        ledger.same(name, "taint", &module.module.taints, &said("taint"));
        let srcversion = module.srcversion.clone().unwrap_or_default();
        ledger.same(name, "srcversion", &srcversion, &said("srcversion"));
        let version = module.version.clone().unwrap_or_default();
        ledger.same(name, "version", &version, &said("version"));
        // `413696 1 nft_ct, Live 0xffffffffc081c000`
        let proc = &before[&format!("proc/{name}")];
        let size: u64 = module.areas.iter().map(|area| area.size).sum();
        ledger.same(
            name,
            "size",
            &size.to_string().as_str(),
            &proc.split(' ').next().unwrap(),
        );
        for needed in &module.needs {
            let there = before.contains_key(&format!("{needed}/holders/{name}"));
            ledger.same(format!("{name} {needed}"), "needs", &there, &true);
        }
        let text = module
            .sections
            .iter()
            .find(|section| section.name == ".text");
        let inside = module
            .areas
            .iter()
            .any(|area| Some(area.base) == text.map(|text| text.at));
        ledger.same(name, "text", &inside, &text.is_some());
    }
    ledger.end(&[
        ("same twice", 1),
        ("sections", 8),
        ("parameters", 8),
        ("value", 12),
        ("holders", 8),
        ("needs", 4),
        ("size", 8),
        ("text", 8),
    ]);
}

type Fdinfo = Vec<BTreeMap<String, String>>;

fn ask_bpf(ground: &mut Ground, pid: i32) -> Fdinfo {
    let said = ground.sh(&format!(
        "for f in /proc/{pid}/fdinfo/*; do echo =; cat $f; done"
    ));
    let all = said.split("=\n").map(|text| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let lines = lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        lines.collect::<BTreeMap<_, _>>()
    });
    all.filter(|file| {
        ["prog_id", "map_id", "link_id"]
            .iter()
            .any(|id| file.contains_key(*id))
    })
    .collect()
}

fn bpf(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("BPF on {kernel}"));
    ground.sh("sysctl -q -w kernel.bpf_stats_enabled=1");
    let load = ground.agent.uptime().unwrap();
    let pid = ground.agent.workload(WorkloadKind::Bpf).unwrap().pid;
    let loaded = ground.agent.uptime().unwrap();
    ground.sh("ping -c 3 -i 0.1 127.0.0.1 >/dev/null");
    let (before, seen, after): (Fdinfo, Bpf, Fdinfo) =
        ground.sandwich(|ground| ask_bpf(ground, pid), |guest| guest.bpf());
    ledger.same("fdinfo", "same twice", &before, &after);
    let ids = |field: &str| {
        let ids = before
            .iter()
            .filter_map(|file| file.get(field).filter(|_| file.len() > 4));
        ids.filter_map(|id| id.parse::<u32>().ok())
            .collect::<BTreeSet<_>>()
    };
    let programs = seen.programs.iter().map(|program| program.id).collect();
    ledger.same("programs", "ids", &programs, &ids("prog_id"));
    ledger.same(
        "maps",
        "ids",
        &seen.maps.iter().map(|map| map.id).collect(),
        &ids("map_id"),
    );
    ledger.same(
        "links",
        "ids",
        &seen.links.iter().map(|link| link.id).collect(),
        &ids("link_id"),
    );
    // enum bpf_prog_type and enum bpf_map_type of include/uapi/linux/bpf.h
    let kinds = [("SOCKET_FILTER", "1"), ("XDP", "6")];
    let map_kinds = [("HASH", "1"), ("ARRAY", "2")];
    for program in &seen.programs {
        let id = program.id.to_string();
        let file = before
            .iter()
            .find(|f| f.contains_key("prog_type") && f.get("prog_id") == Some(&id));
        let Some(file) = file else { continue };
        let kind = kinds
            .iter()
            .find(|(name, _)| *name == program.kind)
            .map(|(_, number)| *number);
        for (field, own) in [
            ("prog_type", kind.unwrap_or_default().to_owned()),
            ("prog_jited", u8::from(program.jited).to_string()),
            ("prog_tag", program.tag.clone()),
            ("memlock", program.memlock.to_string()),
            ("run_cnt", program.run_cnt.to_string()),
            ("run_time_ns", program.run_time_ns.to_string()),
            ("verified_insns", program.verified_insns.to_string()),
        ] {
            ledger.same(
                &program.name,
                "program",
                &(field, own),
                &(field, file[field].clone()),
            );
        }
        let when = program.load_time as f64 / 1e9;
        ledger.same(
            &program.name,
            "load time",
            &(load - 0.1..=loaded + 0.1).contains(&when),
            &true,
        );
        let code = ground
            .guest
            .kernel()
            .unwrap()
            .read_u8(program.bpf_func)
            .is_ok();
        ledger.same(&program.name, "code", &code, &true);
    }
    for map in &seen.maps {
        let id = map.id.to_string();
        let Some(file) = before.iter().find(|f| f.get("map_id") == Some(&id)) else {
            continue;
        };
        let kind = map_kinds
            .iter()
            .find(|(name, _)| *name == map.kind)
            .map(|(_, number)| *number);
        for (field, own) in [
            ("map_type", kind.unwrap_or_default().to_owned()),
            ("key_size", map.key_size.to_string()),
            ("value_size", map.value_size.to_string()),
            ("max_entries", map.max_entries.to_string()),
            ("map_flags", format!("{:#x}", map.flags)),
            ("frozen", u8::from(map.frozen).to_string()),
        ] {
            ledger.same(
                &map.name,
                "map",
                &(field, own),
                &(field, file[field].clone()),
            );
        }
    }
    let named = |name: &str| {
        seen.programs
            .iter()
            .find(|program| program.name == name)
            .unwrap()
    };
    let array = seen
        .maps
        .iter()
        .find(|map| map.name == "klab_array")
        .unwrap();
    ledger.same(
        "klab_filter",
        "maps",
        &named("klab_filter").maps,
        &vec![array.id],
    );
    ledger.same("klab_filter", "insns", &named("klab_filter").len, &4);
    ledger.same("klab_xdp", "ran", &(named("klab_xdp").run_cnt > 0), &true);
    for link in &seen.links {
        ledger.same(link.id, "link", &link.kind.as_str(), &"XDP");
        ledger.same(link.id, "link", &link.program, &Some(named("klab_xdp").id));
    }
    ledger.end(&[
        ("ids", 3),
        ("program", 14),
        ("map", 12),
        ("link", 2),
        ("load time", 2),
        ("code", 2),
    ]);
}

/// What there is to trace: a tracer with a filter, functions of the kernel and of a module, probes of all kinds, events, and
/// an instance.
const TRACE: &str = r#"
    cd /sys/kernel/tracing
    echo 'p:klab/entry do_nanosleep' >kprobe_events
    echo 'r:klab/back kernel_clone' >>kprobe_events
    echo 'p:klab/also do_nanosleep' >>kprobe_events
    echo 'p:klab/deep proc_pid_status+15' >>kprobe_events 2>/dev/null || echo 'p:klab/deep cmdline_proc_show+9' >>kprobe_events 2>/dev/null || true
    echo 1 >events/klab/entry/enable
    echo 1 >events/klab/back/enable
    echo 1 >events/klab/also/enable
    echo 1 >events/sched/sched_process_exec/enable
    echo 1 >events/kmem/mm_page_alloc/enable
    echo 'tcp_v4_* vfs_* *:mod:nf_tables' >set_ftrace_filter
    echo function >current_tracer
    mkdir -p instances/second
    echo 1 >instances/second/events/sched/sched_process_fork/enable
"#;

/// `enabled_functions`: name, users, flags, trampoline; then the list of kprobes; events and tracers by instance.
fn ask_tracing(ground: &mut Ground) -> [Vec<String>; 3] {
    let functions = ground.sh("cat /sys/kernel/tracing/enabled_functions");
    let functions = functions
        .lines()
        .filter(|line| line.contains(" ("))
        .map(|line| {
            let (name, rest) = line.split_once(" (").unwrap();
            let (count, rest) = rest.split_once(')').unwrap();
            let (flags, rest) = rest.split_at(rest.find('\t').unwrap_or(rest.len()));
            let flags: String = flags.chars().filter(|c| "RID".contains(*c)).collect();
            let tramp = rest
                .split_once("tramp: ")
                .map_or("", |(_, rest)| rest.split(' ').next().unwrap());
            format!("{name} {count} {flags} {tramp}")
        });
    let mut functions: Vec<String> = functions.collect();
    functions.sort();
    let probes = ground.sh("cat /sys/kernel/debug/kprobes/list");
    let probes = probes
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut probes: Vec<String> = probes.collect();
    probes.sort();
    let instances = ground.sh(
        "cd /sys/kernel/tracing; for i in . instances/*; do [ -d $i ] && echo $i $(cat $i/current_tracer) $(cat $i/set_event | sort); done; true",
    );
    [
        functions,
        probes,
        instances.lines().map(str::to_owned).collect(),
    ]
}

fn tracing(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("tracing on {kernel}"));
    ground.sh(TRACE);
    let (before, seen, after): (_, Tracing, _) =
        ground.sandwich(ask_tracing, |guest| guest.tracing());
    let module = |module: &Option<String>| match module {
        Some(module) => format!(" [{module}]"),
        None => String::new(),
    };
    let own = seen.functions.iter().map(|traced| {
        let function = &traced.function;
        let name = function.name.clone().unwrap_or_default();
        // One that is shared has no trampoline of its own.
        let calls = traced.calls.as_ref();
        let tramp = calls
            .filter(|calls| calls.name.is_none())
            .map(|calls| calls.to_string());
        format!(
            "{name}{} {} {} {}",
            module(&function.module),
            traced.count,
            traced.flags,
            tramp.unwrap_or_default()
        )
    });
    let mut own: Vec<String> = own.collect();
    own.sort();
    ledger.same("enabled_functions", "count", &own.len(), &before[0].len());
    for ((own, first), second) in own.iter().zip(&before[0]).zip(&after[0]) {
        ledger.steady("enabled_functions", "functions", own, (first, second));
    }
    let own = seen.kprobes.iter().map(|probe| {
        let place = &probe.place;
        let kind = if probe.is_return { 'r' } else { 'k' };
        let flags: String = probe.flags.iter().map(|flag| format!("[{flag}]")).collect();
        format!(
            "{:016x} {kind} {}+{:#x} {flags}",
            place.at.0,
            place.name.as_deref().unwrap_or_default(),
            place.offset
        )
        .trim_end()
        .to_owned()
    });
    let mut own: Vec<String> = own.collect();
    own.sort();
    ledger.steady("kprobes/list", "probes", &own, (&before[1], &after[1]));
    let events: BTreeSet<&str> = seen
        .kprobes
        .iter()
        .filter_map(|p| p.event.as_deref())
        .collect();
    for event in ["klab:entry", "klab:back", "klab:also"] {
        ledger.same(event, "event", &events.contains(event), &true);
    }
    let own = seen.instances.iter().map(|instance| {
        let name = instance
            .name
            .as_ref()
            .map_or_else(|| ".".to_owned(), |name| format!("instances/{name}"));
        let mut events = instance.events.clone();
        events.sort();
        format!("{name} {} {}", instance.tracer, events.join(" "))
            .trim_end()
            .to_owned()
    });
    let own: Vec<String> = own.collect();
    ledger.steady("tracing", "instances", &own, (&before[2], &after[2]));
    let of_module = seen
        .functions
        .iter()
        .filter(|f| f.function.module.as_deref() == Some("nf_tables"));
    ledger.same("nf_tables", "of a module", &(of_module.count() > 20), &true);
    let global = seen
        .ops
        .iter()
        .find(|ops| ops.name.name.as_deref() == Some("global_ops"))
        .unwrap();
    ledger.same(
        "global_ops",
        "func",
        &global.func.to_string().as_str(),
        &"function_trace_call",
    );
    let filter = global.filter.iter().filter_map(|f| f.name.as_deref());
    let filter = filter.filter(|name| name.starts_with("tcp_v4_")).count();
    let said = before[0]
        .iter()
        .filter(|line| line.starts_with("tcp_v4_"))
        .count();
    ledger.same("global_ops", "filter", &filter, &said);
    ledger.end(&[
        ("count", 1),
        ("functions", 60),
        ("probes", 1),
        ("event", 3),
        ("instances", 1),
        ("of a module", 1),
        ("func", 1),
        ("filter", 1),
    ]);
}

/// The hooks that nft lists, by family and hook: each as its function and module, or `chain` and the module.
fn nft_hooks(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut hooks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut family, mut hook) = (String::new(), String::new());
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["family", name, "{"] => (*name).clone_into(&mut family),
            ["hook", name, "{"] => (*name).clone_into(&mut hook),
            ["}"] | [] => {}
            [_, "chain", .., module] => {
                let all = hooks.entry(format!("{family} {hook}")).or_default();
                all.push(format!("chain {module}"));
            }
            [_, function @ ..] => {
                let all = hooks.entry(format!("{family} {hook}")).or_default();
                all.push(function.join(" "));
            }
        }
    }
    hooks
}

fn audit(ground: &mut Ground, kernel: &str, clean: &Audit) {
    let mut ledger = Ledger::new(format!("audit on {kernel}"));
    let ask = |ground: &mut Ground| {
        let nft = ground.sh("nft list hooks 2>/dev/null || true");
        let enabled = ground.sh("grep -c ' (' /sys/kernel/tracing/enabled_functions");
        (nft_hooks(&nft), enabled.trim().to_owned())
    };
    let (before, seen, after): (_, Audit, _) = ground.sandwich(ask, |guest| guest.audit());
    ledger.same("audit", "same twice", &(before == after), &true);
    for finding in &seen.findings {
        ledger.fault(format!("{finding:?}"));
    }
    ledger.same(
        "ftrace",
        "hooked",
        &seen.hooked_sites.to_string(),
        &before.1,
    );
    // More is hooked in than before, and by whom.
    let owners = |point: HookPoint| -> BTreeSet<String> {
        let hooks = seen.hooks.iter().filter(|hook| hook.point == point);
        hooks.map(|hook| format!("{:?}", hook.owner)).collect()
    };
    let has = |point, owner: &Owner| owners(point).contains(&format!("{owner:?}"));
    let nf_tables = Owner::Module("nf_tables".to_owned());
    ledger.same(
        "nft",
        "owner",
        &has(HookPoint::Netfilter, &nf_tables),
        &true,
    );
    ledger.same(
        "notifier",
        "owner",
        &has(HookPoint::Notifier, &nf_tables),
        &true,
    );
    for point in [
        HookPoint::Ftrace,
        HookPoint::Kprobe,
        HookPoint::Tracepoint,
        HookPoint::Idt,
        HookPoint::Syscall,
    ] {
        ledger.same(
            format!("{point:?}"),
            "owner",
            &has(point, &Owner::Image),
            &true,
        );
    }
    for point in [HookPoint::Ftrace, HookPoint::Kprobe, HookPoint::Tracepoint] {
        let was = clean.hooks.iter().any(|hook| hook.point == point);
        ledger.same(format!("{point:?}"), "new", &was, &false);
    }
    // What a function tracer hooks begins with a call to its trampoline, and that is no finding.
    let called = seen.hooks.iter().any(|hook| {
        hook.detour
            .as_ref()
            .is_some_and(|d| d.how == "call" && d.owner == Owner::Ftrace)
    });
    ledger.same("tracer", "detour", &called, &true);
    // The same by netlink, where the kernel has that.
    let names = ["prerouting", "input", "forward", "output", "postrouting"];
    for (family, member) in [("ip", "hooks_ipv4"), ("ip6", "hooks_ipv6")] {
        for (index, name) in names.iter().enumerate() {
            let place = format!("{member}[{index}]");
            let own = seen
                .hooks
                .iter()
                .filter(|hook| hook.point == HookPoint::Netfilter && hook.place.ends_with(&place));
            let own = own.map(|hook| match &hook.owner {
                Owner::Module(module)
                    if hook.function.name.as_deref().is_some_and(|name| {
                        name.starts_with("nft_do_chain") || name.starts_with("nft_nat_do_chain")
                    }) =>
                {
                    format!("chain [{module}]")
                }
                _ => hook.function.to_string(),
            });
            // NAT has one hook for all its chains, which some kernels show instead of it.
            let nat =
                |hook: &String| hook.ends_with("[nf_nat]") || hook.ends_with("[nft_chain_nat]");
            let own: Vec<String> = own.filter(|hook| !nat(hook)).collect();
            if let Some(said) = before.0.get(&format!("{family} {name}")) {
                let said: Vec<String> = said.iter().filter(|hook| !nat(hook)).cloned().collect();
                ledger.same(format!("{family} {name}"), "netlink", &own, &said);
            }
        }
    }
    // Debian's 6.1 has no module that lists hooks.
    let least = if kernel == "6.1" || kernel.starts_with("6.1-") {
        0
    } else {
        6
    };
    ledger.end(&[
        ("same twice", 1),
        ("hooked", 1),
        ("owner", 7),
        ("new", 3),
        ("detour", 1),
        ("netlink", least),
    ]);
}

/// klab's own module hooks functions of the whole network stack: all of it is a module's, and nothing is wrong.
pub(crate) fn of_klabs_own_module() {
    let ground = Ground::bare("default", vm::Options::default().memory);
    let mut seen: Option<Audit> = None;
    let paths = ground.guest.paths(&Profile::Path, |guest| {
        seen = Some(guest.audit()?);
        Ok(())
    });
    paths.unwrap();
    let seen = seen.unwrap();
    assert_eq!(seen.findings, []);
    assert!(seen.hooked_sites > 50, "{}", seen.hooked_sites);
    let own = Owner::Module("klab".to_owned());
    for point in [HookPoint::Ftrace, HookPoint::Tracepoint] {
        let hooks = seen
            .hooks
            .iter()
            .filter(|hook| hook.point == point && hook.owner == own);
        assert!(hooks.count() > 0, "{point:?}: {:?}", seen.hooks);
    }
}
