//! The kernel's management of memory, against what it says of that in `/proc` and `/sys`: one guest for all, with a
//! swap area in use, a file system on a block device, pools of huge pages, and processes that fill memory.

mod cache;
mod huge;
mod pages;
mod search;
mod slab;
mod space;
mod what;
mod zones;

use std::collections::BTreeMap;

use crate::ground::Ground;

crate::on_kernels!(is_that_of_proc);

/// Things that the readers are to find. A process blocks on a pipe that nobody reads, with its buffer of 16 MiB in
/// memory.
const FURNISH: &str = r"
    set -e
    echo 1 >/proc/sys/kernel/kptr_restrict
    modprobe loop
    dd if=/dev/zero of=/tmp/swap bs=1M count=32 2>/dev/null; losetup /dev/loop0 /tmp/swap
    mkswap /dev/loop0 >/dev/null; swapon /dev/loop0
    dd if=/dev/zero of=/tmp/disk bs=1M count=48 2>/dev/null; losetup /dev/loop1 /tmp/disk
    mke2fs -F /dev/loop1 >/dev/null 2>&1; mkdir -p /disk /huge; mount -t ext4 /dev/loop1 /disk
    echo 6 >/proc/sys/vm/nr_hugepages
    mount -t hugetlbfs none /huge; fallocate -l 4M /huge/file
    [ ! -e /sys/kernel/mm/transparent_hugepage ] || echo always >/sys/kernel/mm/transparent_hugepage/enabled
    [ ! -e /sys/module/zswap ] || echo Y >/sys/module/zswap/parameters/enabled
    mkfifo /tmp/full
    setsid sleep 6001 <>/tmp/full >/dev/null 2>&1 &
    setsid dd if=/dev/zero of=/tmp/full bs=16M count=1 </dev/null >/dev/null 2>&1 &
    mkdir /sys/fs/cgroup/lean; echo +memory >/sys/fs/cgroup/cgroup.subtree_control
    echo 'x=$(dd if=/dev/urandom bs=1M count=6 2>/dev/null | base64); touch /tmp/held; while :; do sleep 6002; done' >/tmp/hold
    setsid sh -c 'echo $$ >/sys/fs/cgroup/lean/cgroup.procs; exec sh /tmp/hold' </dev/null >/dev/null 2>&1 &
    until [ -e /tmp/held ]; do sleep 0.2; done
    echo 4M >/sys/fs/cgroup/lean/memory.reclaim || true
";

pub(crate) fn is_that_of_proc(kernel: &str) {
    let mut ground = Ground::new(kernel);
    ground.sh(FURNISH);
    zones::are_those_of_proc(&mut ground, kernel);
    pages::are_those_of_proc(&mut ground, kernel);
    slab::is_that_of_proc(&mut ground, kernel);
    space::is_that_of_proc(&mut ground, kernel);
    cache::is_what_was_written(&mut ground, kernel);
    huge::pages_are_huge(&mut ground, kernel);
    what::is_what_is_there(&mut ground, kernel);
    search::finds_what_is_there(&mut ground, kernel);
}

/// `name value`, `name: value kB`: a line each.
fn table(text: &str) -> BTreeMap<String, i64> {
    let line = |line: &str| {
        let (name, value) = line.split_once([' ', ':'])?;
        let value = value.trim_start_matches([' ', ':']).split(' ').next()?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}
