//! Disassembled functions: against objdump on the same bytes, against the frames of stacks, and against what the guest
//! switches on in its own code.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use probes::Guest;
use probes::text::{Disassembly, Instruction};
use probes::unwind::TraceEnd;

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(is_what_objdump_says);

/// Functions with branches of `sched_schedstats`, in one kernel or another.
const SCHEDSTATS: [&str; 8] = [
    "try_to_wake_up",
    "ttwu_do_activate",
    "enqueue_task_fair",
    "enqueue_entity",
    "dequeue_entity",
    "set_next_entity",
    "put_prev_entity",
    "update_curr",
];

pub(crate) fn is_what_objdump_says(kernel: &str) {
    let mut ground = Ground::bare(kernel, vm::Options::default().memory);
    ground.sh("modprobe dummy; modprobe nf_tables; setsid sleep 9000 </dev/null >/dev/null 2>&1 &");
    let mut ledger = Ledger::new(format!("code on {kernel}"));
    let guest = ground.guest.clone();
    let mut seen = BTreeMap::new();
    let init = guest.symbol("_sinittext").unwrap()..guest.symbol("_einittext").unwrap();
    for trace in guest.paused(Guest::stack_traces).unwrap().iter() {
        let lost = matches!(trace.end, TraceEnd::Lost(_));
        for frames in trace.frames.windows(2).filter(|_| !lost) {
            let [inner, frame] = frames else { continue };
            // The place of an interrupt is not after a call; a task that sleeps may have been preempted by one.
            let interrupted = inner.function.starts_with("asm_");
            let at = frame.ip.back(u64::from(!interrupted));
            // The first idle task's oldest frames are of code that was given back after the boot.
            if init.contains(&at) {
                ledger.same(frame, "refused", &guest.disassembly(at).is_err(), &true);
                continue;
            }
            let function = guest
                .disassembly(at)
                .unwrap_or_else(|error| panic!("{frame} under {inner}: {error}"));
            let name = frame.function.as_str();
            ledger.same(frame, "function", &function.function.as_str(), &name);
            let module = frame.module.as_ref().map(|name| name.as_str());
            ledger.same(frame, "module", &function.module.as_deref(), &module);
            let ends = |one: &&Instruction| one.at.offset(one.bytes.len() as u64) == frame.ip;
            let before = function.instructions.iter().find(ends);
            let calls = before.is_some_and(|one| one.text.starts_with("call"));
            if trace.cpu.is_none() && !interrupted {
                ledger.same(frame, "frame after a call", &calls, &true);
            }
            seen.insert(function.start, function);
        }
    }
    let kernel = guest.kernel().unwrap();
    let text = guest.symbol("_stext").unwrap()..guest.symbol("_etext").unwrap();
    let symbols = kernel.symbols().unwrap().iter();
    for symbol in symbols
        .filter(|symbol| text.contains(&symbol.at))
        .step_by(700)
    {
        let function = guest.disassembly(symbol.at).unwrap();
        seen.insert(function.start, function);
    }
    for name in ["dummy_xmit", "nft_do_chain"] {
        let function = guest.disassembly(guest.symbol(name).unwrap()).unwrap();
        ledger.same(name, "module", &function.module.is_some(), &true);
        let calls = function
            .instructions
            .iter()
            .filter(|one| one.text.starts_with("call"));
        let named = calls.clone().filter(|one| !one.text.contains("0x"));
        ledger.same(name, "calls by name", &(named.count() > 0), &true);
        seen.insert(function.start, function);
    }
    objdump(&mut ledger, &seen.into_values().collect::<Vec<_>>());
    patched(&mut ledger, &mut ground);
    ledger.end(&[
        ("function", 200),
        ("frame after a call", 180),
        ("instruction", 5000),
        ("mnemonic", 5000),
        ("static key", 2),
        ("ftrace", 2),
        ("module", 200),
    ]);
}

/// All functions by one run of objdump: addresses, bytes and mnemonics.
fn objdump(ledger: &mut Ledger, functions: &[Disassembly]) {
    for function in functions.iter().filter(|one| !one.instructions.is_empty()) {
        let bytes: Vec<u8> = function
            .instructions
            .iter()
            .flat_map(|one| one.bytes.clone())
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let said = Command::new("objdump")
            .args([
                "-D",
                "-w",
                "-b",
                "binary",
                "-m",
                "i386:x86-64",
                "--insn-width=15",
            ])
            .arg(format!("--adjust-vma={:#x}", function.start.0))
            .arg(file.path())
            .output()
            .unwrap();
        assert!(said.status.success(), "{said:?}");
        let said = String::from_utf8(said.stdout).unwrap();
        // "ffffffff81000000:\t48 89 e5     \tmov    %rsp,%rbp"
        let lines = said.lines().filter_map(|line| {
            let mut parts = line.split('\t');
            let at = u64::from_str_radix(parts.next()?.trim().strip_suffix(':')?, 16).ok()?;
            Some((
                at,
                parts.next()?.trim().to_owned(),
                parts.next()?.to_owned(),
            ))
        });
        let lines: BTreeMap<u64, (String, String)> =
            lines.map(|(at, bytes, text)| (at, (bytes, text))).collect();
        ledger.same(
            &function.function,
            "instructions of",
            &function.instructions.len(),
            &lines.len(),
        );
        for one in &function.instructions {
            let Some((bytes, text)) = lines.get(&one.at.0) else {
                ledger.fault(format!(
                    "{} {} begins nowhere for objdump",
                    function.function, one.at
                ));
                continue;
            };
            let mut mine = String::new();
            for byte in &one.bytes {
                write!(mine, "{byte:02x} ").unwrap();
            }
            ledger.same(one.at, "instruction", &mine.trim(), &bytes.as_str());
            let who = format!("{} {} | {text}", function.function, one.text);
            ledger.same(who, "mnemonic", &mnemonic(&one.text), &mnemonic(text));
        }
    }
}

/// The mnemonic without prefixes, and without the letter for its size, which one or the other leaves out.
fn mnemonic(text: &str) -> String {
    const PREFIXES: [&str; 14] = [
        "lock", "rep", "repz", "repe", "repnz", "repne", "notrack", "data16", "cs", "ds", "es",
        "gs", "rex.W", "bnd",
    ];
    let words = text.split_whitespace();
    let word = words
        .map(|word| word.split(',').next().unwrap())
        .find(|word| !PREFIXES.contains(word));
    let word = word.unwrap_or_default();
    word.trim_end_matches(['b', 'w', 'l', 'q']).to_owned()
}

/// Code that a sysctl and the function tracer change, before, meanwhile and after.
fn patched(ledger: &mut Ledger, ground: &mut Ground) {
    let says = |ground: &Ground, name: &str, what: &str| -> Vec<String> {
        let guest = &ground.guest;
        let Ok(at) = guest.symbol(name) else {
            return Vec::new();
        };
        let function = guest.disassembly(at).unwrap();
        let patched = function
            .instructions
            .into_iter()
            .filter_map(|one| one.patched);
        patched.filter(|text| text.contains(what)).collect()
    };
    let keys = |ground: &Ground| {
        let all = SCHEDSTATS
            .iter()
            .flat_map(|name| says(ground, name, "sched_schedstats"));
        let all: Vec<String> = all.collect();
        assert!(!all.is_empty());
        (
            all.len(),
            all.iter().filter(|text| text.ends_with(": jumps")).count(),
        )
    };
    let (count, off) = keys(ground);
    ledger.same("sched_schedstats", "static key", &off, &0);
    ground.sh("echo 1 >/proc/sys/kernel/sched_schedstats");
    ledger.same(
        "sched_schedstats",
        "static key",
        &keys(ground),
        &(count, count),
    );
    let ftrace = |ground: &Ground| says(ground, "ip_rcv", "ftrace");
    ledger.same(
        "ip_rcv",
        "ftrace",
        &ftrace(ground),
        &vec!["ftrace: off".to_owned()],
    );
    ground.sh(
        "cd /sys/kernel/tracing; echo ip_rcv >set_ftrace_filter; echo function >current_tracer",
    );
    ledger.same(
        "ip_rcv",
        "ftrace",
        &ftrace(ground),
        &vec!["ftrace: on".to_owned()],
    );
}
