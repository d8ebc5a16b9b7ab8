//! A machine of two memory nodes: pages that the kernel has marked to see which task uses them (NUMA balancing) have
//! entries without access, and are there.

use std::time::{Duration, Instant};

use probes::memory::PAGE_SIZE;
use vm::{Kernel, KernelChoice, Silent};

use crate::sources::{Attached, Foreign};

/// The first program: a process that fills 48 MiB on the first node, then runs on the second without touching them until
/// most of its pages are marked: pages of the node that a process of one thread runs on are not
/// (`folio_can_map_prot_numa`, `mm/mempolicy.c:837@v7.3.4`). It is stopped then, and what `/proc` says of it goes to the console.
const INIT: &str = "\
    b=/bin/busybox; $b mount -t proc proc /proc; \
    $b taskset 1 $b awk 'BEGIN{s=1;for(i=0;i<20;i++)s=s s;for(i=0;i<48;i++)a[i]=s i;while(1)n++}' & p=$!; \
    while [ $($b grep VmRSS /proc/$p/status | $b tr -dc '0-9') -lt 50000 ]; do $b sleep 1; done; \
    echo FILLED; $b taskset -p 2 $p; \
    while m=$($b grep numa_pte_updates /proc/vmstat | $b cut -d' ' -f2); echo MARKED $m; [ $m -lt 9000 ]; do $b sleep 1; done; \
    $b kill -STOP $p; $b sleep 1; \
    n=0; for k in $($b grep ^Rss /proc/$p/smaps | $b tr -dc '0-9\\n'); do n=$((n+k)); done; \
    echo PID $p; echo RSS $n; \
    echo CMDLINE $($b tr '\\0' ' ' </proc/$p/cmdline | $b cut -c1-16); echo READY now; \
    while :; do $b sleep 100; done";

/// Text behind a word on a line of the console.
fn said(serial: &str, word: &str) -> Option<String> {
    let line = serial
        .lines()
        .find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    line.map(|rest| rest.trim().to_owned())
}

#[test]
fn marked_pages_are_there() {
    let choice: KernelChoice = "default".parse().unwrap();
    let kernel = Kernel::resolve(&choice, &mut Silent).unwrap();
    let initramfs = vm::initramfs::build(&kernel, &mut Silent).unwrap();
    let append = format!("console=ttyS0 quiet rdinit=/bin/sh -- -c \"{INIT}\"");
    let foreign = Foreign::start(&[
        "-M",
        "q35",
        "-accel",
        "tcg,thread=single",
        "-cpu",
        "max",
        "-m",
        "512M",
        "-smp",
        "2",
        "-object",
        "memory-backend-ram,id=m0,size=256M",
        "-object",
        "memory-backend-ram,id=m1,size=256M",
        "-numa",
        "node,memdev=m0,cpus=0",
        "-numa",
        "node,memdev=m1,cpus=1",
        "-kernel",
        kernel.vmlinuz.to_str().unwrap(),
        "-initrd",
        initramfs.to_str().unwrap(),
        "-append",
        &append,
    ]);
    let until = Instant::now() + Duration::from_secs(180);
    while said(&foreign.serial(), "READY").is_none() {
        assert!(
            Instant::now() < until,
            "the kernel marks no pages: {}",
            foreign.serial()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let serial = foreign.serial();
    let number = |word| {
        let number = said(&serial, word).and_then(|said| said.parse::<u64>().ok());
        number.unwrap_or_else(|| panic!("no {word}: {serial}"))
    };
    let (pid, rss) = (number("PID") as i32, number("RSS"));
    let attached = Attached::new("numa", &foreign.qmp(), None);
    let guest = &attached.guest;

    let space = guest.user_space(pid).unwrap();
    let vmas = guest.vmas(pid).unwrap();
    let pages = vmas.iter().flat_map(|vma| {
        let pages = space.present_pages(vma.start, vma.end.back(1)).unwrap();
        pages.map(Result::unwrap).collect::<Vec<_>>()
    });
    let marked = pages.filter(|page| !page.entry.present()).count();
    assert!(marked > 1000, "{marked} pages are marked");

    // The console's own pages of another program's text may be read in between: a stopped process changes nothing.
    let resident: u64 = vmas.iter().map(|vma| vma.resident.unwrap()).sum();
    assert_eq!(resident * PAGE_SIZE / 1024, rss, "{marked} are marked");
    let process = guest.process(pid).unwrap();
    let arguments = process.cmdline.unwrap().join(" ");
    let begins = said(&serial, "CMDLINE").unwrap();
    assert_eq!(begins, "/bin/busybox awk");
    assert!(arguments.starts_with(&begins), "{arguments}");
    assert!(process.missing.is_empty(), "{:?}", process.missing);
}
