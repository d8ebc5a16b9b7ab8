//! `/sys/module`, and the command line.

use super::*;

pub(super) fn command_line(ground: &mut Ground, kernel: &str) {
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

/// Content of each file of `/sys/module/*` that tells of one.
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

pub(super) fn modules(ground: &mut Ground, kernel: &str) {
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
        // If there is nothing, the shell leaves the pattern.
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
