//! The kernel's log, its modules and its symbols: all of them.

use std::collections::BTreeMap;

use probes::printk::Caller;
use vm::agent::values;

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(records, modules_and_symbols);

/// Levels, facilities, and bytes that `/dev/kmsg` escapes.
const LINES: &str = r"
    echo on >/proc/sys/kernel/printk_devkmsg
    for i in 0 1 2 3 4 5 6 7; do echo \<$i\>level $i >/dev/kmsg; done
    echo '<165>a backslash \\ and an umlaut ü, facility 20' >/dev/kmsg
    printf '<3>%0900d' 7 >/dev/kmsg
    printf '<4>two\nlines\n' >/dev/kmsg
    sh -c 'echo the caller is $$ >/dev/kmsg'
";

pub(crate) fn records(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    ground.sh(LINES);
    ground.agent.load_module("veth", "").unwrap();
    let ask = |ground: &mut Ground| -> BTreeMap<u64, values::KmsgRecord> {
        let log = ground.agent.kmsg().unwrap();
        log.into_iter().map(|record| (record.seq, record)).collect()
    };
    let (before, log, after) = ground.sandwich(ask, probes::Guest::log);
    let mut ledger = Ledger::new(format!("log on {kernel}"));
    let seen: BTreeMap<u64, _> = log.iter().map(|record| (record.seq, record)).collect();
    assert_eq!(seen.len(), log.len(), "records with one number");
    for (seq, said) in before.iter().filter(|(seq, _)| after.contains_key(seq)) {
        let Some(record) = seen.get(seq) else {
            ledger.fault(format!("record {seq} is not found: {}", said.text));
            continue;
        };
        ledger.same(seq, "time", &(record.ts_nsec / 1000), &said.time_us);
        ledger.same(seq, "level", &record.level, &said.level);
        ledger.same(seq, "facility", &u32::from(record.facility), &said.facility);
        let cont = if record.cont { 'c' } else { '-' };
        ledger.same(seq, "continues", &cont, &said.cont);
        ledger.same(seq, "text", &escape(&record.text), &said.text);
        let dict = |key: &str| {
            let pair = said.dict.iter().find(|(name, _)| name == key);
            pair.map_or(String::new(), |(_, value)| value.clone())
        };
        ledger.same(seq, "SUBSYSTEM", &record.subsystem, &dict("SUBSYSTEM"));
        ledger.same(seq, "DEVICE", &record.device, &dict("DEVICE"));
    }
    for seq in seen.keys() {
        if !before.contains_key(seq) && !after.contains_key(seq) {
            ledger.fault(format!("record {seq} is not in /dev/kmsg"));
        }
    }
    let levels: std::collections::BTreeSet<u8> = log.iter().map(|record| record.level).collect();
    assert_eq!(levels.len(), 8);
    assert!(log.iter().any(|record| record.facility == 20));
    assert!(log.iter().any(|record| record.text.contains('ü')));
    assert!(log.iter().any(|record| record.text == "two\nlines"));
    assert!(log.iter().any(|record| !record.device.is_empty()));
    let own = log.iter().find_map(|record| {
        let pid = record.text.strip_prefix("the caller is ")?.parse().ok()?;
        Some((record.caller, Caller::Task(pid)))
    });
    let (caller, said) = own.unwrap();
    assert_eq!(caller, said);
    let warnings = ground.guest.log_of(Some("warn"), Some("level")).unwrap();
    for level in 0..8 {
        let line = format!("level {level}");
        let there = warnings.iter().any(|record| record.text == line);
        assert_eq!(there, level <= 4, "{line}");
    }
    ledger.end(&[("text", 250)]);
}

/// `msg_add_ext_text()` of `kernel/printk/printk.c`.
fn escape(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b' '..127 if byte != b'\\' => char::from(byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    };
    text.bytes().map(byte).collect()
}

pub(crate) fn modules_and_symbols(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    for module in ["nft-ct", "veth", "dummy"] {
        ground.agent.load_module(module, "").unwrap();
    }
    let mut ledger = Ledger::new(format!("modules and symbols on {kernel}"));

    let ask = |ground: &mut Ground| ground.agent.modules().unwrap();
    let (before, modules, after) = ground.sandwich(ask, probes::Guest::modules);
    ledger.same("modules", "modules", &modules.len(), &before.len());
    assert_eq!(before.len(), after.len());
    for ((module, said), later) in modules.iter().zip(&before).zip(&after) {
        let who = &said.name;
        ledger.same(who, "module", &module.name, &said.name);
        ledger.same(who, "module size", &module.size, &said.size);
        ledger.same(who, "module address", &module.base.0, &said.address);
        // The users of it may come and go.
        ledger.steady(
            who,
            "refcount",
            &Some(i64::from(module.refcnt)),
            (&said.refcount, &later.refcount),
        );
        let state = format!("{:?}", module.state);
        ledger.same(who, "module state", &state, &said.state);
    }

    let kernel = ground.guest.kernel().unwrap();
    let said = ground.agent.kallsyms().unwrap();
    let (core, of_modules): (Vec<_>, Vec<_>) =
        said.into_iter().partition(|symbol| symbol.module.is_none());
    let symbols = kernel.symbols().unwrap();
    ledger.same("kernel", "symbols of", &symbols.len(), &core.len());
    for (symbol, said) in symbols.iter().zip(&core) {
        let memory = (&*symbol.name, symbol.at.0, symbol.kind);
        let proc = (&*said.name, said.address, said.kind);
        ledger.same(&said.name, "symbol", &memory, &proc);
    }
    for module in kernel.module_symbols().unwrap() {
        let said: Vec<_> = of_modules
            .iter()
            .filter(|symbol| symbol.module.as_ref() == Some(&module.module))
            .collect();
        ledger.same(
            &module.module,
            "symbols of",
            &module.symbols.len(),
            &said.len(),
        );
        for (symbol, said) in module.symbols.iter().zip(said) {
            // Exported ones are upper case there: that is in another table.
            let lower = |kind: char| kind.to_ascii_lowercase();
            let memory = (&*symbol.name, symbol.at.0, lower(symbol.kind));
            let proc = (&*said.name, said.address, lower(said.kind));
            ledger.same(&module.module, "symbol of a module", &memory, &proc);
        }
    }
    ledger.end(&[
        ("module", 5),
        ("symbol", 50_000),
        ("symbol of a module", 300),
    ]);
}
