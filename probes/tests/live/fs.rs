//! Paths, inodes, file systems and file locks: `stat`, `realpath`, `/proc/filesystems`, `/proc/locks`.

use std::collections::{BTreeMap, BTreeSet};

use probes::Guest;
use probes::fs::{FileLock, FileLocks, FileSystems, Inode};
use vm::agent::WorkloadKind;

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_those_of_stat);

/// Files of every type, links of every kind, a file system on a device, mounts on mounts.
const FILES: &str = r"
    cd /tmp; mkdir -p deep/er/still; echo 0123456789 >deep/file; ln deep/file hard; mknod deep/null c 1 3; mkfifo deep/fifo
    ln -s deep/er relative; ln -s /tmp/deep absolute; ln -s relative/../file twice; ln -s ../tmp/absolute/er/still up
    touch gone; chmod 4751 deep/file; chown 12:34 deep/er; dd if=/dev/zero of=pages bs=4096 count=37 2>/dev/null
    mkdir -p mnt over bound; dd if=/dev/zero of=image bs=1M count=4 2>/dev/null; modprobe loop; losetup /dev/loop0 image
    mke2fs /dev/loop0 >/dev/null; mount -t ext2 /dev/loop0 mnt || exit 1
    mkdir -p mnt/dir; dd if=/dev/zero of=mnt/dir/cached bs=4096 count=9 2>/dev/null; sync
    mount -t tmpfs one over; mkdir over/inner; mount -t tmpfs two over; mkdir over/outer; mount -o bind deep bound; touch over/outer/x
";

/// Paths to look up, and of each what `stat -L` and `realpath` say of it.
const ASK: &str = r#"
    for p in / /bin /bin/sh /tmp/deep /tmp/deep/file /tmp/hard /tmp/deep/null /tmp/deep/fifo /tmp/relative /tmp/absolute \
        /tmp/twice /tmp/up /tmp/pages /tmp/mnt /tmp/mnt/dir /tmp/mnt/dir/cached /tmp/over /tmp/over/outer /tmp/over/outer/x \
        /tmp/over/outer/../../deep/../deep/er/./still /tmp/bound/er/still /dev/null /dev/pts /dev/shm /sys/class/net /sys/fs/cgroup \
        /proc/sys/kernel/ostype /tmp/bound/../hard /../../tmp//deep/// $(find /etc /usr/sbin /bin | head -60); do
        echo "$p|$(realpath $p)|$(stat -L -c '%i|%f|%u|%g|%h|%s|%b|%X|%Y|%Z|%t|%T|%d' $p)"; done
"#;

fn ask(ground: &mut Ground) -> BTreeMap<String, Vec<String>> {
    let text = ground.sh(ASK);
    let line = |line: &str| {
        let mut words = line.split('|').map(str::to_owned);
        (words.next().unwrap(), words.collect())
    };
    text.lines().map(line).collect()
}

/// The words of `stat -c '%i|%f|%u|%g|%h|%s|%b|%X|%Y|%Z|%t|%T|%d'`.
fn words(path: &str, inode: &Inode) -> Vec<String> {
    // new_encode_dev()
    let (major, minor) = inode.dev.unwrap();
    let dev = (minor & 0xff) | major << 8 | (minor & !0xff) << 12;
    vec![
        path.to_owned(),
        inode.ino.to_string(),
        format!("{:x}", inode.mode),
        inode.uid.to_string(),
        inode.gid.to_string(),
        inode.nlink.to_string(),
        inode.size.to_string(),
        inode.blocks.to_string(),
        inode.atime.sec.to_string(),
        inode.mtime.sec.to_string(),
        inode.ctime.sec.to_string(),
        format!("{:x}", inode.rdev.0),
        format!("{:x}", inode.rdev.1),
        dev.to_string(),
    ]
}

pub(crate) fn are_those_of_stat(kernel: &str) {
    let mut ground = Ground::bare(kernel, vm::Options::default().memory);
    ground.sh(FILES);
    ground.agent.workload(WorkloadKind::Contended).unwrap();
    let mut ledger = Ledger::new(format!("paths on {kernel}"));
    let paths: Vec<String> = ask(&mut ground).into_keys().collect();
    let (before, seen, after) = ground.sandwich(ask, |guest| {
        Ok(paths
            .iter()
            .map(|path| (path.clone(), guest.path_lookup(path, 1)))
            .collect::<Vec<_>>())
    });
    for (path, found) in &seen {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                ledger.fault(format!("{path}: {error}"));
                continue;
            }
        };
        let memory = words(&found.path, &found.inode);
        let (first, last) = (&before[path], &after[path]);
        for (i, memory) in memory.iter().enumerate() {
            // sysfs and proc say when somebody asks what their inodes' times are.
            let volatile = ["sysfs", "proc", "cgroup2"]
                .contains(&found.inode.fs_type.as_deref().unwrap())
                && (5..=10).contains(&i);
            if !volatile {
                let field = if i == 0 { "path" } else { "inode" };
                ledger.steady(format!("{path} {i}"), field, memory, (&first[i], &last[i]));
            }
        }
        let kernel = ground.guest.kernel().unwrap();
        let inode = probes::object::Object::at(&kernel, "struct dentry", found.dentry).unwrap();
        let inode = inode.member("d_inode").unwrap().pointer().unwrap();
        ledger.same(path, "dentry", &inode, &found.inode.at);
        // A file of a tmpfs is its pages.
        if found.inode.fs_type.as_deref() == Some("tmpfs") && found.inode.mode & 0xf000 == 0x8000 {
            ledger.same(
                path,
                "cached",
                &(found.inode.cached_pages.unwrap() * 8),
                &found.inode.blocks,
            );
        }
    }
    errors(&mut ledger, &mut ground);
    pages(&mut ledger, &mut ground);
    filesystems(&mut ledger, &mut ground);
    locks(&mut ledger, &mut ground);
    ledger.end(&[
        ("path", 60),
        ("inode", 700),
        ("dentry", 60),
        ("cached", 6),
        ("error", 3),
        ("page cache", 3),
        ("type", 20),
        ("file system", 8),
        ("lock", 2),
    ]);
}

/// Paths that are not there, and what memory cannot tell.
fn errors(ledger: &mut Ledger, ground: &mut Ground) {
    ground.sh("rm -f /tmp/gone; ls /tmp/gone; [ -e /tmp/never ]; cat /proc/self/stat; true");
    for (path, says) in [
        ("/tmp/gone", "/tmp/gone"),
        ("/tmp/nobody-asked", "not in the dentry cache"),
        (
            "/proc/self/stat",
            "`/proc/self` is a symbolic link that its file system makes up",
        ),
    ] {
        let error = ground.guest.path_lookup(path, 1).unwrap_err().to_string();
        ledger.same(
            format!("{path}: {error}"),
            "error",
            &error.contains(says),
            &true,
        );
    }
}

/// Pages of a file on a device: all that were written, and none once the cache was dropped.
fn pages(ledger: &mut Ledger, ground: &mut Ground) {
    let cached = |guest: &Guest| {
        guest
            .path_lookup("/tmp/mnt/dir/cached", 1)
            .unwrap()
            .inode
            .cached_pages
    };
    let inode = ground
        .guest
        .path_lookup("/tmp/mnt/dir/cached", 1)
        .unwrap()
        .inode;
    ledger.same(
        "cached",
        "page cache",
        &inode.fs_type.as_deref(),
        &Some("ext2"),
    );
    ledger.same("cached", "page cache", &cached(&ground.guest), &Some(9));
    ground.sh("for i in 1 2 3; do sync; echo 3 >/proc/sys/vm/drop_caches; sleep 0.2; done; stat /tmp/mnt/dir/cached");
    ledger.same("dropped", "page cache", &cached(&ground.guest), &Some(0));
}

fn filesystems(ledger: &mut Ledger, ground: &mut Ground) {
    let ask =
        |ground: &mut Ground| ground.sh("cat /proc/filesystems; echo @; cat /proc/1/mountinfo");
    let (before, seen, after): (_, FileSystems, _) = ground.sandwich(ask, Guest::filesystems);
    assert_eq!(before, after);
    let (types, mounts) = before.split_once('@').unwrap();
    let said: Vec<(bool, &str)> = types
        .lines()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(nodev, name)| (nodev.is_empty(), name))
        .collect();
    let memory: Vec<(bool, &str)> = seen
        .iter()
        .filter(|one| one.registered)
        .map(|one| (one.requires_dev, one.name.as_str()))
        .collect();
    for (memory, said) in memory.iter().zip(&said) {
        ledger.same(said.1, "type", memory, said);
    }
    ledger.same("all", "types", &memory.len(), &said.len());
    let supers: BTreeSet<(String, String)> = seen
        .iter()
        .flat_map(|one| {
            one.supers
                .iter()
                .map(|sb| (format!("{}:{}", sb.dev.0, sb.dev.1), one.name.clone()))
        })
        .collect();
    for line in mounts.lines().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        let dash = words.iter().position(|word| *word == "-").unwrap();
        let name = words[dash + 1];
        let found = supers.contains(&(words[2].to_owned(), name.to_owned()));
        ledger.same(line, "file system", &found, &true);
    }
}

/// The lines of `/proc/locks`, those that wait among them.
fn locks(ledger: &mut Ledger, ground: &mut Ground) {
    let ask = |ground: &mut Ground| ground.sh("cat /proc/locks");
    let (before, seen, after): (_, FileLocks, _) = ground.sandwich(ask, Guest::file_locks);
    let said = |text: &str| -> BTreeSet<String> {
        // 1: POSIX  ADVISORY  WRITE 123 00:1f:45 0 EOF, or 1: -> FLOCK ..
        let line = |line: &str| {
            line.split_whitespace()
                .skip(1)
                .filter(|word| *word != "ADVISORY")
                .collect::<Vec<_>>()
                .join(" ")
        };
        text.lines().map(line).collect()
    };
    let mut memory = BTreeSet::new();
    let mut work: Vec<(bool, &FileLock)> = seen.iter().map(|lock| (false, lock)).collect();
    while let Some((waits, lock)) = work.pop() {
        let arrow = if waits { "-> " } else { "" };
        let access = if lock.write { "WRITE" } else { "READ" };
        let end = lock
            .end
            .map_or_else(|| "EOF".to_owned(), |end| end.to_string());
        memory.insert(format!(
            "{arrow}{} {access} {} {:02x}:{:02x}:{} {} {end}",
            lock.kind, lock.pid, lock.dev.0, lock.dev.1, lock.ino, lock.start
        ));
        work.extend(lock.waiters.iter().map(|lock| (true, lock)));
    }
    ledger.steady("all", "locks", &memory, (&said(&before), &said(&after)));
    for lock in &memory {
        ledger.same(lock, "lock", &said(&before).contains(lock), &true);
    }
    let waits = memory.iter().any(|lock| lock.starts_with("-> FLOCK"));
    ledger.same(format!("{memory:?}"), "lock that waits", &waits, &true);
    let posix = memory
        .iter()
        .any(|lock| lock.starts_with("POSIX WRITE") && lock.ends_with(" 10 29"));
    ledger.same(format!("{memory:?}"), "lock of a range", &posix, &true);
}
