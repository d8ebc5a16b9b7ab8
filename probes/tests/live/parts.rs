//! Damages of parts of things, one at a time in a guest that stands still: each hides itself alone, and is named.

use probes::memory::GuestVirt;
use probes::{Guest, Missing, Result};

use crate::damage::Ram;
use crate::ground::Ground;

crate::on_kernels!(hide_themselves_alone);

/// A pointer that leads nowhere.
const NOWHERE: u64 = 0x1234;

const POPULATION: &str = r"
    ip link set lo up
    ip link add klab-dummy type dummy 2>/dev/null; ip addr add 10.9.8.7/20 dev klab-dummy; ip link set klab-dummy up
    nft add table ip klab; nft add chain ip klab out '{ type filter hook output priority 0; }'
    nft add chain ip klab in '{ type filter hook input priority 0; }'
    for port in 1 2 3; do nft add rule ip klab out tcp dport $port counter accept; done
";

/// Number of things that are shown, and what is said to be missing.
type Seen = (usize, Vec<Missing>);

/// A thing to damage, and what must be named then.
struct Case {
    what: &'static str,
    at: GuestVirt,
    /// Things that are gone.
    gone: usize,
    /// A part of what is said to be missing.
    named: &'static str,
    read: fn(&Guest) -> Result<Seen>,
}

fn cases(guest: &Guest) -> Vec<Case> {
    let at = |expression: &str| guest.eval(expression).unwrap().pointer().unwrap();
    let lo = guest.net_devices().unwrap()[0].at;
    let member = |member: &str| at(&format!("&((struct net_device *){lo:?})->{member}"));
    let hooks = at("init_net.nf.hooks_ipv4[3]");
    let ops = at(&format!(
        "(void *)&((struct nf_hook_entries *){hooks:?})->hooks[((struct nf_hook_entries *){hooks:?})->num_hook_entries]"
    ));
    let node = at("&((struct trie *)init_net.ipv4.fib_main->tb_data)->kv[0].tnode[0]");
    let node = GuestVirt(guest.kernel().unwrap().read_u64(node).unwrap());
    let mut children = (0..2).map(|child| at(&format!("&((struct key_vector *){node:?})->tnode[{child}]")));
    let child = children.rfind(|child| guest.kernel().unwrap().read_u64(*child).unwrap() != 0);
    let module = |name: &str| {
        let modules = guest.modules().unwrap();
        modules.iter().find(|module| module.name == name).unwrap().at
    };
    let tables = module("nf_tables");
    let conntrack = module("nf_conntrack");
    vec![
        Case {
            what: "the addresses of a device",
            at: member("ip_ptr"),
            gone: 0,
            named: "its ip_ptr",
            read: |guest| guest.net_devices().map(|all| (all.len(), all.missing)),
        },
        Case {
            what: "the kind of a device",
            at: member("rtnl_link_ops"),
            gone: 0,
            named: "its rtnl_link_ops",
            read: |guest| guest.net_device("lo").map(|all| (all.len(), all.missing)),
        },
        Case {
            what: "the nf_hook_ops of a hook",
            at: ops,
            gone: 1,
            named: "function 0 at ip's hook 3",
            read: |guest| guest.nf_hooks().map(|all| (all.len(), all.missing)),
        },
        Case {
            what: "an expression of a rule",
            at: guest.nft_rules().unwrap()[1].expressions[1].at,
            gone: 1,
            named: "the rule ",
            read: |guest| guest.nft_rules().map(|all| (all.len(), all.missing)),
        },
        Case {
            what: "a node of the trie of routes",
            at: child.unwrap(),
            gone: usize::MAX,
            named: "what is below the key_vector",
            read: |guest| guest.routes().map(|all| (all.len(), all.missing)),
        },
        Case {
            what: "the symbols of a module",
            at: at(&format!("&((struct module *){tables:?})->kallsyms")),
            gone: 0,
            named: "module nf_tables, its symbols",
            read: |guest| {
                let modules = guest.kernel()?.module_symbols()?;
                Ok((modules.len(), modules.missing))
            },
        },
        Case {
            what: "the patches of a module",
            at: at(&format!("&((struct module *){tables:?})->jump_entries")),
            gone: 0,
            named: "the table of patches at 0x",
            read: |guest| {
                let schedule = guest.disassembly(guest.symbol("schedule")?)?;
                Ok((schedule.instructions.len(), schedule.missing))
            },
        },
        Case {
            what: "a namespace of a task",
            at: at("&init_task.nsproxy->uts_ns"),
            gone: 0,
            named: "its uts namespace",
            read: |guest| guest.namespaces().map(|all| (all.len(), all.missing)),
        },
        Case {
            what: "a zone",
            at: at(&format!("&((struct zone *){:?})->name", guest.zones().unwrap()[0].zones[0].at)),
            gone: 0,
            named: "the zone at 0x",
            read: |guest| guest.zones().map(|all| (all.len(), all.missing)),
        },
        Case {
            what: "a parameter of a module",
            at: at(&format!("&((struct module *){conntrack:?})->kp[0].ops")),
            gone: 1,
            named: "the parameter ",
            read: |guest| {
                let module = guest.module("nf_conntrack")?;
                Ok((module.parameters.len(), module.missing))
            },
        },
    ]
}

pub(crate) fn hide_themselves_alone(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    for module in ["nf_tables", "nf_conntrack", "dummy"] {
        ground.agent.load_module(module, "").unwrap();
    }
    ground.sh(POPULATION);
    let guest = &ground.guest;
    let machine = guest.machine().unwrap();
    machine.pause().unwrap();
    let ram = Ram::of(&machine);
    for case in cases(guest) {
        let what = format!("{} on {kernel}", case.what);
        let (before, missing) = (case.read)(guest).unwrap();
        assert!(before > 0 && missing.is_empty(), "{what}: {missing:?}");
        let old = ram.put(guest, case.at, NOWHERE);
        let read = (case.read)(guest);
        ram.put(guest, case.at, old);
        let (after, missing) = read.unwrap_or_else(|error| panic!("{what} hides all: {error}"));
        match case.gone {
            usize::MAX => assert!((1..before).contains(&after), "{what}: {after} of {before}"),
            gone => assert_eq!(after, before - gone, "{what}: {missing:?}"),
        }
        let named = missing.iter().any(|one| one.what.contains(case.named));
        assert!(named, "{what} is not named: {missing:?}");
    }
    machine.resume().unwrap();
}
