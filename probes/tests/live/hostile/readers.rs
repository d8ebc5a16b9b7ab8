//! Every reader there is, over what it can reach.

use probes::search::Needle;
use probes::structures::{
    IdrLayout, MAPLE_BOUND, MapleLayout, XARRAY_BOUND, idr_for_each, offset_of, validate_idr,
    validate_list, validate_maple,
};
use probes::view::View;
use probes::what::Identifier;
use probes::{Error, Guest, Result, sched};

use super::Ram;

/// How the readers fared.
#[derive(Debug, Default)]
pub(super) struct Fared {
    pub(super) values: usize,
    pub(super) errors: Vec<Error>,
}

impl Fared {
    fn note<T>(&mut self, read: Result<T>) -> Option<T> {
        match read {
            Ok(value) => {
                self.values += 1;
                Some(value)
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                self.errors.push(error);
                None
            }
        }
    }
}

/// Every reader there is, over what it can reach.
pub(super) fn read_all(ram: &Ram) -> Fared {
    let mut fared = Fared::default();
    if let Some(guest) = fared.note(ram.guest()) {
        let read = read_guest(&guest, &mut fared);
        fared.note(read);
    }
    fared
}

fn read_guest(guest: &Guest, fared: &mut Fared) -> Result<()> {
    let kernel = guest.kernel()?;
    fared.note(
        kernel
            .symbols()
            .map(|symbols| symbols.iter().step_by(99).count()),
    );
    fared.note(kernel.module_symbols());
    fared.note(kernel.module_btfs());
    for c in [
        "struct task_struct",
        "struct mm_struct",
        "struct sk_buff",
        "union bpf_attr",
    ] {
        fared.note(guest.type_of(c).map(|ty| ty.to_string()));
    }
    for c in [
        "init_task.comm",
        "init_task.mm->pgd",
        "*init_task.real_parent",
        "modules.next",
    ] {
        fared.note(guest.eval(c).and_then(|object| object.to_c()));
    }
    fared.note(guest.log().map(|log| log.text()));
    fared.note(guest.modules());
    fared.note(guest.nf_hooks());
    fared.note(guest.nft_rules());
    fared.note(guest.thread_size());
    for cpu in 0..2 {
        fared.note(guest.current(cpu));
    }
    read_devices(guest, fared);
    read_processes(guest, fared);
    read_network(guest, fared);
    fared.note(
        guest
            .task_tree()
            .map(|tree| (tree.text(), tree.html(), tree.svg())),
    );
    for symbol in ["init_task", "modules", "__per_cpu_offset", "schedule"] {
        let walk = guest.symbol(symbol).and_then(|at| guest.page_walk(at));
        fared.note(walk.map(|walk| walk.text()));
    }
    memory_management(guest, fared);
    let containers = || -> Result<usize> {
        let idr = offset_of(&kernel, "struct pid_namespace", "idr")?;
        let idr = kernel.symbol("init_pid_ns")?.offset(idr);
        let layout = IdrLayout::of(&kernel)?;
        let entries = idr_for_each(&kernel, idr, layout)?.count();
        Ok(entries + validate_idr(&kernel, idr, layout, XARRAY_BOUND)?)
    };
    fared.note(containers());
    let head =
        kernel
            .symbol("init_task")?
            .offset(offset_of(&kernel, "struct task_struct", "tasks")?);
    fared.note(validate_list(&kernel, head, sched::TASK_BOUND));
    for task in guest.tasks()? {
        fared.note(guest.threads(task.pid));
        fared.note(guest.kernel_stack(&task));
        fared.note(sched::pid_numbers(&kernel, task.at));
        if task.mm.is_none() {
            continue;
        }
        let Some(mm) = fared.note(guest.mm_of(&task)) else {
            continue;
        };
        let tree = mm
            .at
            .offset(offset_of(&kernel, "struct mm_struct", "mm_mt")?);
        fared.note(validate_maple(
            &kernel,
            tree,
            MapleLayout::of(&kernel)?,
            MAPLE_BOUND,
        ));
        fared.note(
            guest
                .address_map(task.pid)
                .map(|map| (map.text(), map.svg())),
        );
        fared.note(guest.heap(task.pid).map(|heap| heap.text()));
        let space = guest.user_space(task.pid);
        let stack = space.and_then(|space| space.read_cstr(mm.arg_start, 100));
        fared.note(stack);
    }
    Ok(())
}

fn faces<V: View>(value: V) -> (String, Option<String>) {
    (value.text(), value.html())
}

/// The readers of processes, of what they wait for, and of the files that they use.
fn read_processes(guest: &Guest, fared: &mut Fared) {
    for pid in [1, 2] {
        fared.note(guest.process(pid).map(faces));
        fared.note(guest.auxv(pid).map(faces));
        fared.note(guest.elf_images(pid).map(faces));
        fared.note(guest.vdso(pid).map(faces));
    }
    fared.note(guest.cgroups().map(faces));
    fared.note(guest.all_namespaces().map(faces));
    fared.note(guest.run_queues().map(faces));
    fared.note(guest.filesystems().map(faces));
    fared.note(guest.file_locks().map(faces));
    fared.note(guest.path_lookup("/bin/sh", 1).map(faces));
    for symbol in ["schedule", "entry_SYSCALL_64", "init_task"] {
        let code = guest.symbol(symbol).and_then(|at| guest.disassembly(at));
        fared.note(code.map(faces));
    }
    if let Some(at) = fared.note(guest.symbol("log_wait")) {
        fared.note(guest.wait_queue(at).map(faces));
        fared.note(guest.completion(at).map(faces));
    }
    if let Some(at) = fared.note(guest.symbol("rtnl_mutex")) {
        fared.note(guest.mutex(at).map(faces));
        fared.note(guest.rwsem(at).map(faces));
        fared.note(guest.rt_mutex(at).map(faces));
        fared.note(guest.inode(at).map(faces));
    }
}

/// The readers of the network.
fn read_network(guest: &Guest, fared: &mut Fared) {
    fared.note(guest.net_device("lo").map(faces));
    fared.note(guest.routes().map(faces));
    fared.note(guest.neighbours().map(faces));
    fared.note(guest.packet_types().map(faces));
    fared.note(guest.nft_ruleset().map(faces));
    fared.note(guest.conntrack().map(faces));
}

/// The readers of devices, of what interrupts and of what hooks.
fn read_devices(guest: &Guest, fared: &mut Fared) {
    fared.note(guest.devices().map(faces));
    fared.note(guest.buses().map(faces));
    fared.note(guest.pci_devices().map(faces));
    fared.note(guest.disks().map(faces));
    fared.note(guest.majors().map(faces));
    fared.note(guest.iomem().map(faces));
    fared.note(guest.ioports().map(faces));
    fared.note(guest.irqs().map(faces));
    fared.note(guest.idt().map(faces));
    fared.note(guest.softirqs().map(faces));
    fared.note(guest.workqueues().map(faces));
    fared.note(guest.timers().map(faces));
    fared.note(guest.clocks().map(faces));
    fared.note(guest.rcu().map(faces));
    fared.note(guest.bpf().map(faces));
    fared.note(guest.tracing().map(faces));
    fared.note(guest.audit().map(faces));
    fared.note(guest.command_line().map(faces));
    for module in guest.modules().into_iter().flatten() {
        fared.note(guest.module(&module.name).map(faces));
    }
}

/// What is read of the kernel's management of memory.
fn memory_management(guest: &Guest, fared: &mut Fared) {
    fared.note(guest.zones().map(|zones| zones.text()));
    fared.note(guest.buddy().map(|buddy| buddy.text()));
    fared.note(guest.vmstat().map(|stat| stat.text()));
    fared.note(guest.meminfo().map(|info| info.text()));
    fared.note(guest.vmalloc_areas().map(|areas| areas.text()));
    fared.note(guest.swap_areas().map(|areas| areas.text()));
    fared.note(guest.huge_pools().map(|pools| pools.text()));
    fared.note(guest.slab_objects("task_struct").map(|all| all.text()));
    fared.note(guest.page_cache("/bin/busybox").map(|cache| cache.text()));
    for pfn in [0, 0x1000, 0x1_2345, 1 << 39, u64::MAX] {
        fared.note(guest.page(pfn).map(|page| page.text()));
    }
    let Some(identifier) = fared.note(Identifier::new(guest)) else {
        return;
    };
    for symbol in ["init_task", "schedule", "runqueues"] {
        let what = guest.symbol(symbol).and_then(|at| identifier.what(at));
        fared.note(what.map(|what| what.text()));
    }
    if let Some(task) = fared.note(guest.task(1)) {
        for at in [task.at.offset(64), task.stack.offset(0x1000)] {
            fared.note(identifier.what(at).map(|what| what.text()));
        }
        let mm = guest.mm_of(&task);
        let what = mm.and_then(|mm| identifier.what_of(1, mm.start_code));
        fared.note(what.map(|what| what.text()));
        let search = guest.search(Needle::pointer(task.at)).limit(3);
        fared.note(search.run().map(|hits| hits.text()));
        let search = guest.search("init").user(1).limit(3);
        fared.note(search.run().map(|hits| hits.text()));
    }
}
