//! Names, both ways: each that the kernel's and modules' tables have is found, told from others of its name, and read back
//! as it is printed; against `/proc/kallsyms` and `/proc/PID/comm`.

use std::collections::BTreeMap;

use probes::Error;
use probes::memory::GuestVirt;

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(last_of_a_section);

/// Two block drivers with names in common (`max_part`), and a module with names of the kernel's (`group_show`).
const MODULES: &str = "modprobe loop max_loop=1; modprobe brd rd_nr=1 rd_size=64; modprobe tun";

pub(crate) fn are_those_of_kallsyms(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    ground.agent.output(&["sh", "-c", MODULES]).unwrap();
    let mut ledger = Ledger::new(format!("names on {kernel}"));
    let kernel = ground.guest.kernel().unwrap();
    let mut wanted: BTreeMap<String, Vec<(u64, Option<String>)>> = BTreeMap::new();
    for said in ground.agent.kallsyms().unwrap() {
        // Code that runs as BPF is in no table that lies in memory.
        if said
            .module
            .as_deref()
            .is_none_or(|module| !module.starts_with("bpf") && !module.starts_with("__"))
        {
            let all = wanted.entry(said.name).or_default();
            all.push((said.address, said.module));
        }
    }
    let modules = |all: &Vec<(u64, Option<String>)>| all.iter().any(|(_, module)| module.is_some());
    let mut seen = 0;
    for (index, (name, all)) in wanted.iter_mut().enumerate() {
        // All that modules have, all that several have a little, the rest by samples.
        let sampled = index % 500 == 0 || (all.len() > 1 && index % 20 == 0);
        if !modules(all) && !sampled {
            continue;
        }
        seen += 1;
        all.sort_by(|a, b| (&a.1, a.0).cmp(&(&b.1, b.0)));
        all.dedup();
        let found = kernel.definitions(name).unwrap();
        let mut told: Vec<_> = found
            .iter()
            .map(|one| (one.symbol.at.0, one.module.clone()))
            .collect();
        told.sort_by(|a, b| (&a.1, a.0).cmp(&(&b.1, b.0)));
        ledger.same(name, "definitions", &told, all);
        let alone = kernel.resolve(name).map(|one| one.symbol.at.0);
        match alone {
            Ok(at) => ledger.same(
                name,
                "one",
                &vec![at],
                &all.iter().map(|one| one.0).collect(),
            ),
            Err(Error::Ambiguous { .. }) => ledger.same(name, "several", &(all.len() > 1), &true),
            Err(error) => panic!("{name}: {error}"),
        }
        for one in &found.items {
            let again = kernel.resolve(&one.spelling());
            ledger.same(
                name,
                "spelling",
                &again.map(|one| one.symbol.at),
                &Ok(one.symbol.at),
            );
            if !matches!(one.symbol.kind, 't' | 'T') {
                continue;
            }
            // As a stack prints it: of several that share a name the address is one of theirs.
            let at = one.symbol.at.offset(1);
            let printed = kernel.symbol_at(at).unwrap().unwrap().to_string();
            match kernel.resolve_at(&printed) {
                Ok(again) => ledger.same(&printed, "as printed", &again, &Some(at)),
                Err(error @ Error::Ambiguous { .. }) => {
                    let listed = error.to_string().contains("@") || error.to_string().contains(':');
                    ledger.same(&printed, "listed", &listed, &true);
                }
                Err(error) => panic!("{printed}: {error}"),
            }
        }
    }
    assert!(seen > 400, "{seen}");
    // Loading the second module is no silent change.
    let both = kernel.resolve("max_part").unwrap_err().to_string();
    assert!(
        both.contains("brd:max_part") && both.contains("loop:max_part"),
        "{both}"
    );
    let eval = ground.guest.eval("*(int *)&loop:max_part").unwrap();
    assert!(eval.i64().is_ok());
    ledger.end(&[("definitions", 400), ("spelling", 400), ("as printed", 100)]);
    whole_names(&mut ground);
}

/// The names of kernel threads, as `/proc/PID/comm` has them, while they stand still enough to be compared.
fn whole_names(ground: &mut Ground) {
    let script = "for p in /proc/[0-9]*; do echo ${p#/proc/} $(cat $p/comm); done";
    let names = |ground: &mut Ground| -> BTreeMap<i32, String> {
        let said = ground.agent.output(&["sh", "-c", script]).unwrap().text();
        let lines = said.lines().filter_map(|line| line.split_once(' '));
        lines
            .filter_map(|(pid, name)| Some((pid.parse().ok()?, name.to_owned())))
            .collect()
    };
    let before = names(ground);
    let tasks = ground.guest.tasks().unwrap();
    let after = names(ground);
    let (mut same, mut long) = (0, 0);
    for task in tasks.iter().filter(|task| task.kthread) {
        // A worker goes from one work to the next: only what it was before and after, it was between.
        let (Some(said), Some(still)) = (before.get(&task.pid), after.get(&task.pid)) else {
            continue;
        };
        if said == still && !said.starts_with("kworker/") {
            assert_eq!(task.name(), said, "{}", task.pid);
            same += 1;
            long += u32::from(said.len() > 15);
        } else if said == still {
            let id = |name: &str| name.split(['-', '+']).next().unwrap_or_default().to_owned();
            assert_eq!(id(task.name()), id(said), "{}", task.pid);
            same += u32::from(task.name() == said);
        }
    }
    assert!(
        same > 20,
        "{same} names of kernel threads are those of /proc"
    );
    println!("{same} names, {long} of more than 15 letters");
}

/// Functions end where the module's own table says.
pub(crate) fn last_of_a_section(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    ground.agent.output(&["sh", "-c", MODULES]).unwrap();
    let kernel = ground.guest.kernel().unwrap();
    let at = kernel.resolve("tun:cleanup_module").unwrap().symbol;
    let size = at.size.unwrap();
    let code = ground.guest.disassembly(at.at).unwrap();
    let last = code.instructions.last().unwrap();
    let end = last.at.offset(last.bytes.len() as u64);
    assert!(end <= at.at.offset(size) && size < 4096, "{end} {size:#x}");
    let several = ground.guest.symbols("cleanup_module").unwrap();
    let modules: Vec<_> = several
        .iter()
        .filter_map(|one| one.module.clone())
        .collect();
    for module in ["brd", "loop", "tun"] {
        assert!(modules.iter().any(|known| known == module), "{modules:?}");
    }
    let number = ground.guest.what(GuestVirt(-12_i64 as u64)).unwrap();
    assert!(number.brief().contains("-ENOMEM"), "{}", number.brief());
}
