//! `/sys/kernel/tracing`.

use super::*;

/// Things to trace: a tracer with a filter, functions of the kernel and of a module, probes of all kinds, events, and
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

pub(super) fn tracing(ground: &mut Ground, kernel: &str) {
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
