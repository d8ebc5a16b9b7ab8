//! The page cache of files: what was written, synced, dropped and read again, and the frames that processes have mapped.

use probes::Guest;
use probes::filemap::PageCache;

use crate::ground::Ground;
use crate::ledger::Ledger;

/// Pages of the file that is written.
const PAGES: u64 = 1000;

pub(super) fn is_what_was_written(ground: &mut Ground, kernel: &str) {
    let mut ledger = Ledger::new(format!("page cache on {kernel}"));
    // No flusher in between.
    ground.sh("echo 60000 >/proc/sys/vm/dirty_expire_centisecs; echo 0 >/proc/sys/vm/dirty_writeback_centisecs; sync");
    ground.sh(&format!(
        "mkdir -p /disk/a; dd if=/dev/zero of=/disk/a/file bs=4k count={PAGES}; ln -s ../a/./file /disk/a/link"
    ));
    let read = |guest: &Guest| guest.page_cache("/disk/a/file");
    let written = ground.guest.paused(read).unwrap();
    ledger.same("written", "pages", &state(&written), &(PAGES, PAGES, 0));
    ledger.same(
        "size",
        "pages",
        &(written.size, written.nrpages),
        &(PAGES * 4096, PAGES),
    );
    ledger.same(
        "path",
        "name",
        &written.file.path.as_deref(),
        &Some("/a/file"),
    );
    let stat = ground.sh("stat -c %i /disk/a/file").trim().parse().unwrap();
    ledger.same("inode", "name", &written.file.ino, &stat);
    let by_link = ground
        .guest
        .paused(|guest| guest.page_cache("/tmp/.././disk//a/link"))
        .unwrap();
    ledger.same("link", "name", &by_link.file, &written.file);
    // The kernel's whole count is that of this file.
    let dirty = ground.sh("grep -w nr_dirty /proc/vmstat | cut -d' ' -f2");
    let counted: u64 = dirty.trim().parse().unwrap();
    ledger.same("nr_dirty", "pages", &(counted.abs_diff(PAGES) < 100), &true);
    ground.sh("sync");
    let synced = ground.guest.paused(read).unwrap();
    ledger.same("synced", "pages", &state(&synced), &(PAGES, 0, 0));
    ground.sh("echo 1 >/proc/sys/vm/drop_caches");
    let dropped = ground.guest.paused(read).unwrap();
    ledger.same("dropped", "pages", &state(&dropped), &(0, 0, 0));
    ground.sh("dd if=/disk/a/file of=/dev/null bs=4k skip=500 count=1");
    let again = ground.guest.paused(read).unwrap();
    ledger.same(
        "read",
        "pages",
        &(again.has(500), again.has(0), again.dirty()),
        &(true, false, 0),
    );
    // With what is read ahead.
    ledger.same("read", "pages", &(1..=64).contains(&again.cached()), &true);
    huge(&mut ledger, ground);
    mapped(&mut ledger, ground);
    absent(&mut ledger, ground);
    ledger.end(&[
        ("pages", 7),
        ("name", 3),
        ("huge", 1),
        ("mapped", 100),
        ("absent", 1),
    ]);
}

/// Cached, dirty, in writeback.
fn state(cache: &PageCache) -> (u64, u64, u64) {
    (cache.cached(), cache.dirty(), cache.writeback())
}

/// A file of hugetlbfs has its pages in folios of 512.
fn huge(ledger: &mut Ledger, ground: &mut Ground) {
    let cache = ground
        .guest
        .paused(|guest| guest.page_cache("/huge/file"))
        .unwrap();
    let pages: Vec<u64> = cache.folios.iter().map(|folio| folio.pages).collect();
    ledger.same("/huge/file", "huge", &pages, &vec![512, 512]);
}

/// The frames that `/proc/PID/pagemap` has for the mapped pages of a program are those of its page cache.
fn mapped(ledger: &mut Ledger, ground: &mut Ground) {
    let cache = ground
        .guest
        .paused(|guest| guest.page_cache("/bin/busybox"))
        .unwrap();
    let pid = ground
        .sh("pidof sleep | cut -d' ' -f1")
        .trim()
        .parse()
        .unwrap();
    let areas = ground.agent.proc_maps(pid).unwrap();
    for area in areas
        .iter()
        .filter(|area| area.path.ends_with("busybox") && !area.perms.contains('w'))
    {
        let pages = ((area.end - area.start) / 4096) as u32;
        for entry in ground.agent.proc_pagemap(pid, area.start, pages).unwrap() {
            if !entry.present || !entry.file {
                continue;
            }
            let index = (entry.address - area.start + area.offset) / 4096;
            let folio = cache
                .folios
                .iter()
                .find(|f| (f.index..f.index + f.pages).contains(&index));
            let frame = folio.map(|folio| folio.pfn + index - folio.index);
            ledger.same(index, "mapped", &frame, &Some(entry.pfn));
        }
    }
}

/// A thing that is not there is said with its cure.
fn absent(ledger: &mut Ledger, ground: &mut Ground) {
    let fault = ground.guest.page_cache("/disk/a/nothing").unwrap_err();
    let says = "`/disk/a/nothing` is not in the dentry cache";
    ledger.same(
        "nothing",
        "absent",
        &fault.to_string().contains(says),
        &true,
    );
}
