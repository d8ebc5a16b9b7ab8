//! Tasks in full, namespaces and control groups: `/proc/PID/*` and `/sys/fs/cgroup`.

use std::collections::{BTreeMap, BTreeSet};

use probes::cgroup::{Cgroup, Hierarchies};
use probes::process::{Disposition, Namespaces, Process, SeccompMode};
use vm::agent::{WorkloadKind, values};

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_those_of_proc);

/// Control groups of both versions with processes in them, and processes in namespaces of every kind.
const POPULATION: &str = r"
    cd /sys/fs/cgroup; echo '+memory +pids' >cgroup.subtree_control; mkdir -p a/b 'c d' gone; echo +pids >a/cgroup.subtree_control
    start() { setsid sleep $1 </dev/null >/dev/null 2>&1 & last=$!; until grep -q sleep /proc/$last/comm; do sleep 0.1; done; }
    start 7001; echo $last >a/b/cgroup.procs
    start 7002; echo $last >'c d/cgroup.procs'; echo 1 >'c d/cgroup.freeze'
    mkdir -p /tmp/v1; mount -t cgroup -o none,name=named none /tmp/v1; mkdir /tmp/v1/x; echo $last >/tmp/v1/x/cgroup.procs
    setsid sh -c 'sleep 1 & echo $! >gone/cgroup.procs; exec sleep 7003' </dev/null >/dev/null 2>&1 &
    (setsid unshare -U -r -p -f -u -i -n -m sleep 7004 </dev/null >/dev/null 2>&1 &)
    (ulimit -n 77; ulimit -c 0; A='one two' B= setsid sleep 7005 </dev/null >/dev/null 2>&1 &)
    mkdir -p /run/netns; ip netns add blue
    for i in $(seq 100); do
        [ $(ps | grep -c 'root *sleep 700[1-5]') = 5 ] && grep -q 'frozen 1' 'c d/cgroup.events' && rmdir gone && exit
        sleep 0.1
    done
    exit 1
";

/// Lines by task and file.
type Lines = BTreeMap<(i32, String), Vec<String>>;

struct Said {
    tasks: BTreeMap<i32, values::Task>,
    lines: Lines,
}

fn ask(ground: &mut Ground) -> Said {
    let tasks = ground.tasks();
    let text = ground.sh(
        r#"cd /proc; grep -H '' [0-9]*/task/[0-9]*/status [0-9]*/task/[0-9]*/limits [0-9]*/task/[0-9]*/cgroup \
            [0-9]*/stat [0-9]*/io 2>/dev/null
        ls -l [0-9]*/task/[0-9]*/ns/* 2>/dev/null | sed -n 's,^.* \([0-9]*/task/[0-9]*/\)ns/\(.*\) -> [a-z]*:,\1ns:\2:,p'
        for p in [0-9]*; do tr '\0' '\n' 2>/dev/null <$p/environ | sed "s,^,$p/environ:,"; done; true"#,
    );
    let mut lines = Lines::new();
    for line in text.lines() {
        // PID/FILE or PID/task/TID/FILE, then the line.
        let Some((path, line)) = line.split_once(':') else {
            continue;
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (pid, file) = match parts.as_slice() {
            [pid, file] => (pid, (*file).to_owned()),
            [_, "task", tid, file] => (tid, (*file).to_owned()),
            other => panic!("{other:?}"),
        };
        let key = (pid.parse().unwrap(), file);
        lines.entry(key).or_default().push(line.to_owned());
    }
    Said {
        tasks: tasks.into_iter().map(|task| (task.pid, task)).collect(),
        lines,
    }
}

impl Said {
    fn file(&self, pid: i32, file: &str) -> Vec<String> {
        let lines = self.lines.get(&(pid, file.to_owned()));
        lines.cloned().unwrap_or_default()
    }

    /// The words after `NAME:` of a file.
    fn words(&self, pid: i32, file: &str, name: &str) -> Option<Vec<String>> {
        let lines = self.file(pid, file);
        let line = lines
            .iter()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_whitespace().map(str::to_owned).collect())
    }

    /// The numbers of `/proc/PID/stat` from the state on, which is number 3.
    fn stat(&self, pid: i32, numbers: &[usize]) -> Option<Vec<u64>> {
        let line = self.file(pid, "stat").concat();
        let (_, rest) = line.rsplit_once(") ")?;
        let words: Vec<&str> = rest.split(' ').collect();
        numbers
            .iter()
            .map(|number| words.get(number - 3)?.parse().ok())
            .collect()
    }
}

pub(crate) fn are_those_of_proc(kernel: &str) {
    let mut ground = Ground::new(kernel);
    ground.sh(POPULATION);
    let confined = ground.agent.workload(WorkloadKind::Confined).unwrap().pid;
    let (before, (seen, namespaces), after) = ground.sandwich(ask, |guest| {
        let mut seen = BTreeMap::new();
        for process in guest.tasks()? {
            for task in guest.threads(process.pid)? {
                seen.insert(task.pid, guest.process(task.pid)?);
            }
        }
        Ok((seen, guest.namespaces()?))
    });
    let mut ledger = Ledger::new(format!("processes on {kernel}"));
    for (pid, process) in &seen {
        if before.tasks.contains_key(pid) && after.tasks.contains_key(pid) {
            compare(&mut ledger, process, &before, &after);
        }
    }
    known(&mut ledger, &seen[&confined]);
    let strict = seen
        .values()
        .find(|process| process.task.comm == "klab-confined-s")
        .unwrap();
    let mode = strict.credentials.as_ref().unwrap().seccomp.mode;
    ledger.same("the thread", "seccomp mode", &mode, &SeccompMode::Strict);
    all_namespaces(&mut ledger, &namespaces, &before, &after);
    let all = 80;
    ledger.end(&[
        ("ids", all),
        ("capabilities", all),
        ("signals", all),
        ("limits", all),
        ("cgroup", all),
        ("namespaces", all),
        ("switches", 60),
        ("times", 50),
        ("faults", 50),
        ("io", 40),
        ("environ", 10),
        ("cmdline", 15),
        ("namespace", 12),
    ]);
    control_groups(&mut ground, kernel);
}

fn compare(ledger: &mut Ledger, process: &Process, before: &Said, after: &Said) {
    let pid = process.task.pid;
    let leader = pid == process.task.tgid;
    let who = format!("{pid} ({})", process.task.comm);
    let mut steady = |field, memory: Vec<String>, of: &dyn Fn(&Said) -> Option<Vec<String>>| {
        if let (Some(first), Some(last)) = (of(before), of(after)) {
            ledger.steady(&who, field, &memory, (&first, &last));
        }
    };
    let status = |names: &'static [&'static str]| {
        move |said: &Said| {
            let of = |name: &&str| said.words(pid, "status", name).map(|words| words.join(" "));
            names.iter().map(of).collect::<Option<Vec<String>>>()
        }
    };
    let cred = process.credentials.as_ref().unwrap();
    let ids = |ids: &probes::process::Ids| {
        format!("{} {} {} {}", ids.real, ids.effective, ids.saved, ids.fs)
    };
    let groups: Vec<String> = cred.groups.iter().map(ToString::to_string).collect();
    steady(
        "ids",
        vec![ids(&cred.uid), ids(&cred.gid), groups.join(" ")],
        &status(&["Uid", "Gid", "Groups"]),
    );
    let hex = |bits: u64| format!("{bits:016x}");
    let mode = match cred.seccomp.mode {
        SeccompMode::Disabled => 0,
        SeccompMode::Strict => 1,
        SeccompMode::Filter => 2,
        SeccompMode::Dead => 3,
    };
    steady(
        "capabilities",
        vec![
            hex(cred.inheritable.bits),
            hex(cred.permitted.bits),
            hex(cred.effective.bits),
            hex(cred.bounding.bits),
            hex(cred.ambient.bits),
            u32::from(cred.no_new_privs).to_string(),
            mode.to_string(),
            cred.seccomp.filters.to_string(),
        ],
        &status(&[
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
            "Seccomp_filters",
        ]),
    );
    if let Some(signals) = &process.signals {
        steady(
            "signals",
            vec![
                format!("{}/{}", signals.queued.0, signals.queued.1),
                hex(signals.pending.bits),
                hex(signals.shared_pending.bits),
                hex(signals.blocked.bits),
                hex(signals.ignored.bits),
                hex(signals.caught.bits),
            ],
            &status(&["SigQ", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"]),
        );
    }
    steady(
        "switches",
        vec![
            process.times.as_ref().unwrap().nvcsw.to_string(),
            process.times.as_ref().unwrap().nivcsw.to_string(),
        ],
        &status(&["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]),
    );
    let limit =
        |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    let limits = process.rlimits.iter().map(|one| {
        let words = [one.what, &limit(one.soft), &limit(one.hard), one.unit];
        words.join(" ").trim().to_owned()
    });
    steady("limits", limits.collect(), &|said| {
        let lines = said.file(pid, "limits").into_iter().skip(1);
        let joined = |line: String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        Some(lines.map(joined).collect::<Vec<_>>()).filter(|lines| !lines.is_empty())
    });
    let groups = process.cgroups.iter().map(|group| {
        let mut controllers = group.controllers.clone();
        if !group.name.is_empty() {
            controllers.push(format!("name={}", group.name));
        }
        let deleted = if group.deleted { " (deleted)" } else { "" };
        let (id, path) = (group.hierarchy, &group.path);
        format!("{id}:{}:{path}{deleted}", controllers.join(","))
    });
    steady("cgroup", groups.collect(), &|said| {
        Some(said.file(pid, "cgroup"))
    });
    steady(
        "namespaces",
        process
            .namespaces
            .iter()
            .map(|one| format!("{}:[{}]", one.kind, one.inum))
            .collect(),
        // /proc shows none of a zombie.
        &|said| Some(said.file(pid, "ns")).filter(|lines| !lines.is_empty()),
    );
    if !leader {
        return;
    }
    let ticks = |ns: u64| (ns / 10_000_000).to_string();
    let times = process.times.as_ref().unwrap();
    let stat = |numbers: &'static [usize]| {
        move |said: &Said| {
            let numbers = said.stat(pid, numbers)?;
            Some(numbers.iter().map(ToString::to_string).collect())
        }
    };
    steady(
        "times",
        vec![
            ticks(times.process.user),
            ticks(times.process.system),
            ticks(times.children.user),
            ticks(times.children.system),
        ],
        &stat(&[14, 15, 16, 17]),
    );
    steady(
        "faults",
        [times.min_flt, times.cmin_flt, times.maj_flt, times.cmaj_flt]
            .map(|n| n.to_string())
            .to_vec(),
        &stat(&[10, 11, 12, 13]),
    );
    steady(
        "group and session",
        [process.pgrp, process.session]
            .map(|n| n.unwrap().to_string())
            .to_vec(),
        &stat(&[5, 6]),
    );
    if let Some(io) = &times.io {
        steady(
            "io",
            [
                io.rchar,
                io.wchar,
                io.syscr,
                io.syscw,
                io.read_bytes,
                io.write_bytes,
                io.cancelled_write_bytes,
            ]
            .map(|n| n.to_string())
            .to_vec(),
            &|said| {
                let lines = said.file(pid, "io");
                let number = |line: &String| Some(line.split_once(": ")?.1.to_owned());
                let numbers = lines.iter().map(number).collect::<Option<Vec<String>>>();
                numbers.filter(|numbers| !numbers.is_empty())
            },
        );
    }
    if process.task.mm.is_some() {
        let lines = process
            .environ
            .iter()
            .flatten()
            .flat_map(|line| line.lines());
        steady("environ", lines.map(str::to_owned).collect(), &|said| {
            Some(said.file(pid, "environ"))
        });
        steady("cmdline", process.cmdline.clone().unwrap(), &|said| {
            Some(said.tasks[&pid].cmdline.clone())
        });
        let exe = process.exe.clone().into_iter().collect();
        steady("exe", exe, &|said| {
            Some(said.tasks[&pid].exe.clone().into_iter().collect())
        });
    }
    let parents: Vec<String> = process
        .ancestry
        .iter()
        .map(|one| one.pid.to_string())
        .collect();
    steady("ancestry", parents, &|said| {
        let mut parents = Vec::new();
        let mut at = said.tasks[&pid].ppid;
        while at != 0 {
            parents.push(at.to_string());
            at = said.tasks.get(&at)?.ppid;
        }
        Some(parents)
    });
}

/// Values that the workload `Confined` gave itself, as it says in its source.
fn known(ledger: &mut Ledger, process: &Process) {
    let cred = process.credentials.as_ref().unwrap();
    let mut same = |what: &'static str, memory: &[String], made: &[&str]| {
        let made: Vec<String> = made.iter().map(|&name| name.to_owned()).collect();
        ledger.same(what, "confined", &memory, &&*made);
    };
    same(
        "securebits",
        &cred.securebits,
        &["NO_SETUID_FIXUP", "KEEP_CAPS_LOCKED"],
    );
    same(
        "effective",
        &cred.effective.names,
        &["KILL", "NET_RAW", "CHECKPOINT_RESTORE"],
    );
    same(
        "inheritable",
        &cred.inheritable.names,
        &["NET_ADMIN", "NET_RAW"],
    );
    same("ambient", &cred.ambient.names, &["NET_RAW"]);
    let signals = process.signals.as_ref().unwrap();
    let waits: Vec<_> = signals
        .queue
        .iter()
        .map(|one| (one.name.as_ref(), one.shared, one.from))
        .collect();
    let pid = Some(process.task.pid);
    let made = vec![("USR1", false, pid), ("USR2", true, pid)];
    ledger.same("queue", "confined", &waits, &made);
    let blocked: Vec<&str> = signals.blocked.names.iter().map(AsRef::as_ref).collect();
    ledger.same(
        "blocked",
        "confined",
        &blocked,
        &vec!["HUP", "USR1", "USR2"],
    );
    let pipe = signals
        .actions
        .iter()
        .find(|one| one.name == "PIPE")
        .unwrap();
    ledger.same("SIGPIPE", "confined", &pipe.does, &Disposition::Ignore);
    let nofile = process.rlimits.get("nofile").unwrap();
    let limits = (nofile.soft, nofile.hard);
    ledger.same("nofile", "confined", &limits, &(Some(100), Some(200)));
}

/// Each namespace that a task of `/proc` is in, with the processes in it.
fn all_namespaces(ledger: &mut Ledger, seen: &Namespaces, before: &Said, after: &Said) {
    let of = |said: &Said| {
        let mut all: BTreeMap<(String, u64), BTreeSet<i32>> = BTreeMap::new();
        for task in said.tasks.values().filter(|task| task.is_leader()) {
            for (kind, inum) in &task.namespaces {
                if !kind.ends_with("_for_children") {
                    let members = all.entry((kind.clone(), *inum)).or_default();
                    members.insert(task.pid);
                }
            }
        }
        all
    };
    let (before, after) = (of(before), of(after));
    for (key, first) in &before {
        let Some(last) = after.get(key) else { continue };
        let found = seen
            .iter()
            .find(|one| one.namespace.kind == key.0 && u64::from(one.namespace.inum) == key.1);
        let Some(found) = found else {
            ledger.fault(format!("{key:?} is not in memory"));
            continue;
        };
        let members: BTreeSet<i32> = found.members.iter().map(|member| member.pid).collect();
        // Zombies are in their user namespace still, where /proc does not show it; kernel workers come and go.
        let missing: Vec<&i32> = first
            .intersection(last)
            .filter(|pid| !members.contains(pid))
            .collect();
        ledger.same(format!("{key:?}"), "namespace", &missing, &Vec::new());
    }
    let count = |kind: &str| seen.iter().filter(|one| one.namespace.kind == kind).count();
    for (kind, least) in [
        ("user", 2),
        ("pid", 3),
        ("net", 4),
        ("uts", 3),
        ("mnt", 3),
        ("ipc", 3),
    ] {
        ledger.same(kind, "namespaces of a kind", &(count(kind) >= least), &true);
    }
    // The one that `ip netns` holds by a mount.
    let empty = seen
        .iter()
        .any(|one| one.namespace.kind == "net" && one.members.is_empty());
    ledger.same("blue", "namespace", &empty, &true);
}

/// Processes of each group, and what its files say, by hierarchy and path.
fn groups(ground: &mut Ground) -> BTreeMap<(bool, String), BTreeMap<String, String>> {
    let text = ground.sh(
        r#"for top in /sys/fs/cgroup /tmp/v1; do find $top -type d | while read d; do
            echo "@$d"; echo "ino $(stat -c %i "$d")"; cd "$d"
            for f in cgroup.procs cgroup.threads cgroup.subtree_control memory.current pids.current cgroup.events; do
                [ -f $f ] && echo "$f $(cat $f 2>/dev/null | tr '\n' ' ')"; done; done; done; true"#,
    );
    let mut all = BTreeMap::new();
    let mut last = None;
    for line in text.lines() {
        if let Some(path) = line.strip_prefix('@') {
            let (two, rest) = match path.strip_prefix("/sys/fs/cgroup") {
                Some(rest) => (true, rest),
                None => (false, path.strip_prefix("/tmp/v1").unwrap()),
            };
            let path = if rest.is_empty() { "/" } else { rest };
            let key = (two, path.to_owned());
            all.insert(key.clone(), BTreeMap::new());
            last = Some(key);
        } else if let (Some(key), Some((file, value))) = (&last, line.split_once(' ')) {
            let group: &mut BTreeMap<_, _> = all.get_mut(key).unwrap();
            group.insert(file.to_owned(), value.trim().to_owned());
        }
    }
    all
}

fn control_groups(ground: &mut Ground, kernel: &str) {
    let (before, seen, after): (_, Hierarchies, _) =
        ground.sandwich(groups, |guest| guest.cgroups());
    let mut ledger = Ledger::new(format!("control groups on {kernel}"));
    let seen: BTreeMap<(bool, &str), &Cgroup> = seen
        .iter()
        .flat_map(|one| one.cgroups.iter().map(move |group| (one.id == 0, group)))
        .filter(|(_, group)| group.online)
        .map(|(two, group)| ((two, group.path.as_str()), group))
        .collect();
    let paths: BTreeSet<(bool, &str)> = before
        .keys()
        .map(|(two, path)| (*two, path.as_str()))
        .collect();
    ledger.same("all", "groups", &seen.keys().copied().collect(), &paths);
    for ((two, path), first) in &before {
        let (Some(last), Some(group)) = (
            after.get(&(*two, path.clone())),
            seen.get(&(*two, path.as_str())),
        ) else {
            continue;
        };
        let mut steady = |field, file: &str, memory: Option<String>| {
            if let (Some(first), Some(last), Some(memory)) =
                (first.get(file), last.get(file), memory)
            {
                ledger.steady(path, field, &memory, (first, last));
            }
        };
        steady("ino", "ino", Some(group.id.to_string()));
        let sorted: Vec<String> = group.procs.iter().map(ToString::to_string).collect();
        // The shell that asks is in a root group, and the agent's threads come and go there.
        if path != "/" {
            steady("procs", "cgroup.procs", Some(sorted.join(" ")));
            steady("pids", "pids.current", group.pids.map(|n| n.to_string()));
            steady(
                "memory",
                "memory.current",
                group.memory.map(|n| n.to_string()),
            );
            let (first, last) = (&first["cgroup.procs"], &last["cgroup.procs"]);
            if first == last && first.split_whitespace().count() == 1 {
                ledger.same(path, "tasks", &group.tasks, &Some(1));
            }
            if let Some(events) = before[&(*two, path.clone())].get("cgroup.events") {
                let frozen = events.contains("frozen 1");
                ledger.same(path, "frozen", &group.frozen, &frozen);
            }
        }
        if *two {
            let (first, last) = (
                &first["cgroup.subtree_control"],
                &last["cgroup.subtree_control"],
            );
            let memory = group.subtree_control.join(" ");
            ledger.steady(path, "gives", &memory, (first, last));
        }
    }
    ledger.end(&[
        ("groups", 1),
        ("ino", 6),
        ("procs", 4),
        ("pids", 3),
        ("memory", 2),
        ("tasks", 3),
        ("gives", 4),
        ("frozen", 3),
    ]);
}
