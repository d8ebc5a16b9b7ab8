//! The kernel's containers where they are: lists, maple trees, red-black trees, xarrays, idrs.

use std::collections::BTreeSet;

use probes::memory::{GuestVirt, PAGE_SIZE};
use probes::sched::TASK_BOUND;
use probes::structures::{
    IdrLayout, MAPLE_BOUND, MapleLayout, RBTREE_BOUND, XARRAY_BOUND, XarrayLayout, idr_for_each,
    offset_of, rbtree_for_each_entry, validate_idr, validate_list, validate_maple, validate_rbtree,
    validate_xarray, xa_for_each,
};

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_sound);

pub(crate) fn are_sound(kernel: &str) {
    let mut ground = Ground::new(kernel);
    ground.agent.load_module("nft-ct", "").unwrap();
    ground.sh("dd if=/dev/zero of=/tmp/pages bs=4096 count=700 2>/dev/null");
    let mut ledger = Ledger::new(format!("containers on {kernel}"));
    let modules = ground.agent.modules().unwrap().len();
    let sys: BTreeSet<String> = ground.sh("ls -A /sys").lines().map(str::to_owned).collect();
    let ask = |ground: &mut Ground| -> BTreeSet<i32> {
        let tasks = ground.tasks();
        tasks.iter().map(|task| task.pid).collect()
    };
    let before = ask(&mut ground);
    let mut in_idr = BTreeSet::new();
    ground
        .guest
        .paused(|guest| {
            let kernel = guest.kernel()?;
            let offset = |c: &str, path: &str| offset_of(&kernel, c, path);

            let list = validate_list(&kernel, kernel.symbol("modules")?, 10_000)?;
            ledger.same("modules", "list", &list, &modules);
            let head = kernel
                .symbol("init_task")?
                .offset(offset("struct task_struct", "tasks")?);
            let list = validate_list(&kernel, head, TASK_BOUND)?;
            ledger.same("tasks", "list", &list, &guest.tasks()?.len());

            let layout = MapleLayout::of(&kernel)?;
            for task in guest.tasks()?.iter().filter(|task| task.mm.is_some()) {
                let mm = guest.mm_of(task)?;
                let tree = mm.at.offset(offset("struct mm_struct", "mm_mt")?);
                let entries = validate_maple(&kernel, tree, layout, MAPLE_BOUND)?;
                ledger.same(
                    task.pid,
                    "maple tree",
                    &(entries as i64),
                    &i64::from(mm.map_count),
                );
            }

            // All that is in /sys, in the tree of its root.
            let root = GuestVirt(kernel.read_u64(kernel.symbol("sysfs_root_kn")?)?);
            let children = root.offset(offset("struct kernfs_node", "dir.children")?);
            let node = offset("struct kernfs_node", "rb")?;
            let name = offset("struct kernfs_node", "name")?;
            let mut names = BTreeSet::new();
            for entry in rbtree_for_each_entry(&kernel, children, node) {
                let at = GuestVirt(kernel.read_u64(entry?.offset(name))?);
                names.insert(kernel.read_cstr(at, 256)?);
            }
            ledger.same("/sys", "rbtree", &names, &sys);
            let count = validate_rbtree(&kernel, children, RBTREE_BOUND)?;
            ledger.same("/sys", "rbtree", &count, &sys.len());

            // Numbers of tasks, and of groups and sessions whose leader is gone.
            let layout = IdrLayout::of(&kernel)?;
            let idr = kernel
                .symbol("init_pid_ns")?
                .offset(offset("struct pid_namespace", "idr")?);
            let mut numbers = BTreeSet::new();
            for entry in idr_for_each(&kernel, idr, layout)? {
                let (number, _) = entry?;
                numbers.insert(number as i32);
            }
            ledger.same(
                "pids",
                "idr",
                &validate_idr(&kernel, idr, layout, XARRAY_BOUND)?,
                &numbers.len(),
            );
            in_idr = numbers;

            // The page cache of each mapped file: as many pages as it says, at indices that ascend.
            let layout = XarrayLayout::of(&kernel)?;
            let mut files = BTreeSet::new();
            for task in guest.tasks()?.iter().filter(|task| task.mm.is_some()) {
                files.extend(guest.vmas_of(task)?.iter().filter_map(|vma| vma.file));
            }
            for file in files {
                let mapping = guest
                    .at("struct file", file)?
                    .member("f_mapping")?
                    .deref()?;
                let pages = mapping.member("i_pages")?.address().unwrap();
                let nrpages = mapping.member("nrpages")?.u64()?;
                let mut counted = 0;
                for entry in xa_for_each(&kernel, pages, layout) {
                    let entry = entry?;
                    counted += entry.last - entry.index + 1;
                }
                ledger.same(file, "xarray", &counted, &nrpages);
                validate_xarray(&kernel, pages, layout, XARRAY_BOUND)?;
                let size = mapping.member("host")?.deref()?.member("i_size")?.u64()?;
                ledger.same(
                    file,
                    "xarray",
                    &(nrpages <= size.div_ceil(PAGE_SIZE)),
                    &true,
                );
            }
            Ok(())
        })
        .unwrap();
    // Every task that was there before and after.
    for pid in before.intersection(&ask(&mut ground)) {
        ledger.same(pid, "idr", &in_idr.contains(pid), &true);
    }
    ledger.end(&[
        ("list", 2),
        ("maple tree", 25),
        ("rbtree", 2),
        ("idr", 90),
        ("xarray", 6),
    ]);
}
