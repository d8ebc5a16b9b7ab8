//! The hooks of all, and whose they are.

use super::*;

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

pub(super) fn audit(ground: &mut Ground, kernel: &str, clean: &Audit) {
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
    // A function that a function tracer hooks begins with a call to its trampoline, and that is no finding.
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
