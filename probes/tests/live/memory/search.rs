//! Searches: against `grep` on the guest's RAM file, and against what is known to lie somewhere.

use std::process::Command;

use probes::memory::GuestVirt;
use probes::search::{Hits, Needle};
use probes::structures::offset_of;
use probes::{Guest, Result};

use crate::ground::Ground;
use crate::ledger::Ledger;

/// Hits of `grep` in the RAM file: physical addresses, as klab's guests have their RAM from 0 on.
fn grep(guest: &Guest, options: &str, pattern: &str) -> Vec<u64> {
    let machine = guest.machine().unwrap();
    let ram = machine.ram().unwrap();
    assert!(ram.ranges.len() == 1 && ram.ranges[0].gpa == 0);
    let output = Command::new("grep")
        .args([
            "--only-matching",
            "--byte-offset",
            "--text",
            options,
            "--",
            pattern,
        ])
        .arg(&ram.path)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let line = |line: &[u8]| {
        let end = line.iter().position(|byte| *byte == b':')?;
        std::str::from_utf8(&line[..end]).ok()?.parse().ok()
    };
    output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(line)
        .collect()
}

fn places(hits: &Hits) -> Vec<u64> {
    assert!(!hits.more && hits.searched == hits.total, "{hits:?}");
    hits.iter().map(|hit| hit.phys.0).collect()
}

pub(super) fn finds_what_is_there(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("search on {kernel}"));
    // The pattern itself is in memory: what is asked for, and what the shell and the agent have of it.
    ground.sh("for i in 1 2 3; do echo \"=klab-pla\"\"nted-$i-mark=\" >>/tmp/planted; done");
    let start = "KLAB_ENV=mark-in-env setsid sh -c 'echo $$ >/tmp/marked; exec sleep 6003' </dev/null >/dev/null 2>&1 &";
    ground.sh(start);
    let named = "until grep -q sleep /proc/$(cat /tmp/marked)/comm 2>/dev/null; do sleep 0.1; done; cat /tmp/marked";
    let pid = ground.sh(named).trim().parse().unwrap();
    let guest = ground.guest.clone();
    guest
        .paused(|guest| {
            physical(&mut ledger, guest)?;
            in_kernel(&mut ledger, guest)?;
            in_process(&mut ledger, guest, pid)
        })
        .unwrap();
    ledger.end(&[
        ("as grep", 4),
        ("planted", 3),
        ("pointer", 2),
        ("read back", 100),
        ("environment", 1),
    ]);
}

fn physical(ledger: &mut Ledger, guest: &Guest) -> Result<()> {
    let all = |needle: Needle| guest.search(needle).physical().limit(100_000).run();
    for text in ["klab-planted", "task_struct", "Linux version"] {
        let hits = all(Needle::text(text))?;
        ledger.same(text, "as grep", &places(&hits), &grep(guest, "-F", text));
    }
    let pattern = "klab-planted-[0-9]-mark";
    let hits = all(Needle::regex(pattern))?;
    ledger.same(
        pattern,
        "as grep",
        &places(&hits),
        &grep(guest, "-E", pattern),
    );
    // The file's page has all three.
    let page = guest.page_cache("/tmp/planted")?.folios[0].pfn;
    for i in 0..3 {
        let at = page * 4096 + 1 + i * "=klab-planted-1-mark=\n".len() as u64;
        ledger.same(
            i,
            "planted",
            &hits
                .iter()
                .any(|hit| hit.phys.0 == at && hit.what.contains("/planted")),
            &true,
        );
    }
    let some = guest
        .search(Needle::text("task_struct"))
        .physical()
        .limit(3)
        .run()?;
    ledger.same("limit", "limit", &(some.len(), some.more), &(3, true));
    let within = guest
        .search(Needle::regex(pattern))
        .physical()
        .within(page * 4096, page * 4096 + 4095)
        .run()?;
    ledger.same("within", "limit", &within.len(), &3);
    Ok(())
}

fn in_kernel(ledger: &mut Ledger, guest: &Guest) -> Result<()> {
    let kernel = guest.kernel()?;
    let init_task = kernel.symbol("init_task")?;
    let hits = guest
        .search(Needle::pointer(init_task))
        .limit(10_000)
        .run()?;
    let parent = offset_of(&kernel, "struct task_struct", "real_parent")?;
    for pid in [1, 2] {
        let at = guest.task(pid)?.at.offset(parent);
        let hit = hits.iter().find(|hit| hit.at == Some(at));
        let told = hit.is_some_and(|hit| hit.what.contains("real_parent"));
        ledger.same(format!("{hit:?}"), "pointer", &told, &true);
    }
    for hit in hits.iter() {
        let at = hit.at.unwrap();
        let there = (kernel.read_u64(at)?, kernel.virt_to_phys(at)?);
        ledger.same(at, "read back", &there, &(init_task.0, hit.phys));
    }
    // Into the whole of it: more than to its beginning.
    let into = guest
        .search(Needle::pointer_into(init_task, 0x2000))
        .limit(10_000)
        .run()?;
    let has = |hits: &Hits, at: Option<GuestVirt>| hits.iter().any(|hit| hit.at == at);
    let all = hits.iter().all(|hit| has(&into, hit.at)) && into.len() > hits.len();
    ledger.same("pointers into it", "pointer", &all, &true);
    for hit in into.iter() {
        let value = kernel.read_u64(hit.at.unwrap())?;
        ledger.same(
            value,
            "read back",
            &(value.wrapping_sub(init_task.0) < 0x2000),
            &true,
        );
    }
    Ok(())
}

fn in_process(ledger: &mut Ledger, guest: &Guest, pid: i32) -> Result<()> {
    let hits = guest.search("KLAB_ENV=mark-in-env").user(pid).run()?;
    let mm = guest.mm(pid)?;
    let env = mm.env_start.0..mm.env_end.0;
    let here = hits
        .iter()
        .filter(|hit| env.contains(&hit.at.unwrap().0))
        .count();
    ledger.same(format!("{hits:?}"), "environment", &here, &1);
    let stack = hits.iter().any(|hit| hit.what.contains("[stack]"));
    ledger.same(format!("{hits:?}"), "environment", &stack, &true);
    Ok(())
}
