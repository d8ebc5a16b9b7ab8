//! Open files and mounts: `/proc/PID/fd`, `fdinfo` and `mountinfo`.

use std::collections::BTreeMap;

use probes::fs::{FileKind, Mounts, OpenFile, OpenFiles};
use probes::{Guest, Result};

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_those_of_proc);

/// Descriptors of every kind.
const OPENERS: &str = r"
    mkfifo /tmp/fifo; echo 0123456789 >/tmp/read; echo gone >/tmp/deleted
    setsid sh -c 'exec 7<>/tmp/fifo 8</tmp/read; read -n 4 x <&8; exec 9>>/tmp/deleted; rm /tmp/deleted; exec sleep 6001' \
        </dev/null >/dev/null 2>&1 &
    setsid sh -c '(echo abc; exec sleep 6002) | sleep 6003' </dev/null >/dev/null 2>&1 &
    setsid sh -c 'cd /; exec 5</tmp 6</proc/self/ns/net; exec sleep 6004' </dev/null >/dev/null 2>&1 &
    httpd -p 127.0.0.1:8080; syslogd
    mkdir -p /tmp/over /tmp/bound; mount -t tmpfs -o ro,nosuid,noexec over /tmp/over; mkdir -p /run/deep/er
    mount -o bind /run/deep/er /tmp/bound
    for i in $(seq 100); do
        pidof httpd >/dev/null && [ -S /dev/log ] && [ $(ps | grep -c 'root *sleep 600[1-4]') = 4 ] && exit
        sleep 0.1
    done
    exit 1
";

/// Link of each descriptor, by process, and the lines of its `fdinfo`.
type Said = BTreeMap<(i32, u32), (String, BTreeMap<String, String>)>;

fn ask(ground: &mut Ground) -> Said {
    let text = ground.sh(
        r#"for d in /proc/[0-9]*; do
            [ "$(cat $d/comm 2>/dev/null)" = klab-agent ] && continue
            [ ${d#/proc/} = $$ ] && continue
            for f in $d/fd/*; do [ -L $f ] || continue
                echo "@${f#/proc/} $(readlink $f)"; cat $d/fdinfo/${f##*/} 2>/dev/null; done; done; true"#,
    );
    let mut said = Said::new();
    let mut last = None;
    for line in text.lines() {
        if let Some(line) = line.strip_prefix('@') {
            let (place, path) = line.split_once(' ').unwrap();
            let mut numbers = place.split("/fd/");
            let mut number = || numbers.next().unwrap();
            let key = (number().parse().unwrap(), number().parse().unwrap());
            said.insert(key, (path.to_owned(), BTreeMap::new()));
            last = Some(key);
        } else if let (Some(key), Some((name, value))) = (last, line.split_once(':')) {
            let entry = said.get_mut(&key).unwrap();
            entry.1.insert(name.to_owned(), value.trim().to_owned());
        }
    }
    said
}

fn read(guest: &Guest) -> Result<BTreeMap<i32, OpenFiles>> {
    let mut all = BTreeMap::new();
    for task in guest.tasks()?.iter().filter(|task| task.mm.is_some()) {
        all.insert(task.pid, guest.files_of(task)?);
    }
    Ok(all)
}

pub(crate) fn are_those_of_proc(kernel: &str) {
    let mut ground = Ground::new(kernel);
    ground.sh(OPENERS);
    let (before, seen, after) = ground.sandwich(ask, read);
    let mut ledger = Ledger::new(format!("files on {kernel}"));
    for (key, first) in &before {
        let Some(last) = after.get(key) else { continue };
        let file = seen
            .get(&key.0)
            .and_then(|files| files.iter().find(|file| file.fd == key.1));
        let Some(file) = file else {
            if first == last {
                ledger.fault(format!("{key:?} {} is not in memory", first.0));
            }
            continue;
        };
        let who = format!("{key:?} {}", first.0);
        ledger.steady(&who, "path", &file.path, (&first.0, &last.0));
        let number = |said: &BTreeMap<String, String>, name: &str, radix| {
            said.get(name)
                .map(|text| u64::from_str_radix(text, radix).unwrap())
        };
        let of = |said: &BTreeMap<String, String>| {
            (
                number(said, "pos", 10),
                number(said, "flags", 8),
                number(said, "ino", 10),
            )
        };
        let (first, last) = (of(&first.1), of(&last.1));
        ledger.steady(&who, "pos", &Some(file.pos), (&first.0, &last.0));
        // seq_show() of fs/proc/fd.c
        let flags =
            u64::from(file.flags & !0o2_000_000) | if file.cloexec { 0o2_000_000 } else { 0 };
        ledger.steady(&who, "flags", &Some(flags), (&first.1, &last.1));
        ledger.steady(&who, "ino", &Some(file.ino), (&first.2, &last.2));
    }
    for (pid, files) in &seen {
        let said = before.keys().filter(|key| key.0 == *pid).count();
        if said == 0 || said != after.keys().filter(|key| key.0 == *pid).count() {
            continue;
        }
        ledger.same(pid, "open files of", &files.len(), &said);
    }
    kinds(
        &mut ledger,
        &seen
            .values()
            .flat_map(|files| files.iter())
            .collect::<Vec<_>>(),
    );
    mounts(&mut ledger, &mut ground);
    ledger.end(&[
        ("path", 90),
        ("pos", 90),
        ("flags", 90),
        ("ino", 90),
        ("open files of", 20),
        ("mount", 11),
    ]);
}

/// Files that must be there: one of each kind, with what only it has.
fn kinds(ledger: &mut Ledger, files: &[&OpenFile]) {
    let find = |test: &dyn Fn(&OpenFile) -> bool| files.iter().any(|file| test(file));
    let mut must = |what: &'static str, test: &dyn Fn(&OpenFile) -> bool| {
        ledger.same(what, "kind", &find(test), &true);
    };
    must("null device", &|f| {
        f.path == "/dev/null" && f.kind == FileKind::Char(1, 3)
    });
    must("directory", &|f| {
        f.path == "/tmp" && f.kind == FileKind::Directory
    });
    must("deleted", &|f| {
        f.path == "/tmp/deleted (deleted)" && f.kind == FileKind::Regular
    });
    must(
        "pipe",
        &|f| matches!(&f.kind, FileKind::Pipe(p) if p.used == 1 && p.bytes == 4 && p.ring_size >= 16 && p.readers > 0),
    );
    must("fifo", &|f| {
        matches!(&f.kind, FileKind::Fifo(p) if p.readers == 1 && p.writers == 1)
            && f.path == "/tmp/fifo"
    });
    let socket = |family, type_| move |f: &OpenFile| matches!(&f.kind, FileKind::Socket(s) if s.family == family && s.type_ == type_);
    must("unix socket", &socket(1, 2));
    must("TCP socket", &socket(2, 1));
    must("namespace", &|f| f.path.starts_with("net:["));
}

/// `mountinfo` of a task in the first namespace, and of one in a namespace of its own.
fn mounts(ledger: &mut Ledger, ground: &mut Ground) {
    let inner = ground
        .tasks()
        .into_iter()
        .find(|task| task.comm == "klab-ns-1");
    for pid in [1, inner.unwrap().pid] {
        let (before, seen, after): (String, Mounts, String) = ground.sandwich(
            |ground| ground.sh(&format!("cat /proc/{pid}/mountinfo")),
            |guest| guest.mounts(pid),
        );
        assert_eq!(before, after, "mounts are steady");
        let ids: Vec<i32> = seen.iter().map(|mount| mount.id).collect();
        let mut order = Vec::new();
        for line in before.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let dash = words.iter().position(|word| *word == "-").unwrap();
            let id: i32 = words[0].parse().unwrap();
            order.push(id);
            let Some(mount) = seen.iter().find(|mount| mount.id == id) else {
                ledger.fault(format!("mount {id} of {pid} is not in memory"));
                continue;
            };
            let memory = [
                mount.parent.to_string(),
                format!("{}:{}", mount.dev.0, mount.dev.1),
                mount.root.clone(),
                mount.path.clone(),
                mount.options.clone(),
                mount.fs_type.clone(),
                mount.source.clone(),
            ];
            let proc = [1, 2, 3, 4, 5, dash + 1, dash + 2].map(|i| words[i].to_owned());
            ledger.same(format!("{pid}: {id}"), "mount", &memory, &proc);
        }
        let shown: Vec<i32> = ids.into_iter().filter(|id| order.contains(id)).collect();
        ledger.same(pid, "order of mounts", &shown, &order);
    }
}
