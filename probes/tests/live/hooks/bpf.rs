//! BPF programs, maps and links: `/proc/PID/fdinfo`.

use super::*;

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

pub(super) fn bpf(ground: &mut Ground, kernel: &str) {
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
