//! Every reader there is, over what it can reach.

use probes::search::Needle;
use probes::structures::{
    IdrLayout, MAPLE_BOUND, MapleLayout, XARRAY_BOUND, idr_for_each, offset_of, validate_idr,
    validate_list, validate_maple,
};
use probes::view::View;
use probes::what::Identifier;
use probes::{Error, Guest, Missing, Result, sched};

use super::Ram;

/// How the readers fared.
#[derive(Debug, Default)]
pub(super) struct Fared {
    pub(super) values: usize,
    pub(super) errors: Vec<Error>,
    /// What the listings name as missing.
    pub(super) missing: Vec<Missing>,
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

    /// A value with all its faces, and with what it says is missing of it.
    fn view<V: View>(&mut self, read: Result<V>) -> Option<V> {
        let view = self.note(read)?;
        let _ = (view.text(), view.html(), view.svg());
        self.missing.extend(view.missing());
        Some(view)
    }

    /// How much of what was asked for was not given.
    pub(super) fn failed(&self) -> usize {
        self.errors.len() + self.missing.len()
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
    fared.view(guest.log());
    fared.view(guest.modules());
    fared.view(guest.nf_hooks());
    fared.view(guest.nft_rules());
    fared.note(guest.thread_size());
    for cpu in 0..2 {
        fared.note(guest.current(cpu));
    }
    read_devices(guest, fared);
    read_processes(guest, fared);
    read_network(guest, fared);
    fared.view(guest.task_tree());
    for symbol in ["init_task", "modules", "__per_cpu_offset", "schedule"] {
        let walk = guest.symbol(symbol).and_then(|at| guest.page_walk(at));
        fared.view(walk);
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
        fared.view(guest.threads(task.pid));
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
        fared.view(guest.address_map(task.pid));
        fared.view(guest.heap(task.pid));
        let space = guest.user_space(task.pid);
        let stack = space.and_then(|space| space.read_cstr(mm.arg_start, 100));
        fared.note(stack);
    }
    Ok(())
}

/// The readers of processes, of what they wait for, and of the files that they use.
fn read_processes(guest: &Guest, fared: &mut Fared) {
    for pid in [1, 2] {
        fared.view(guest.process(pid));
        fared.view(guest.auxv(pid));
        fared.view(guest.elf_images(pid));
        fared.view(guest.vdso(pid));
    }
    fared.view(guest.cgroups());
    fared.view(guest.all_namespaces());
    fared.view(guest.run_queues());
    fared.view(guest.filesystems());
    fared.view(guest.file_locks());
    fared.view(guest.path_lookup("/bin/sh", 1));
    for symbol in ["schedule", "entry_SYSCALL_64", "init_task"] {
        let code = guest.symbol(symbol).and_then(|at| guest.disassembly(at));
        fared.view(code);
    }
    if let Some(at) = fared.note(guest.symbol("log_wait")) {
        fared.view(guest.wait_queue(at));
        fared.view(guest.completion(at));
    }
    if let Some(at) = fared.note(guest.symbol("rtnl_mutex")) {
        fared.view(guest.mutex(at));
        fared.view(guest.rwsem(at));
        fared.view(guest.rt_mutex(at));
        fared.view(guest.inode(at));
    }
}

/// The readers of the network.
fn read_network(guest: &Guest, fared: &mut Fared) {
    fared.view(guest.net_device("lo"));
    fared.view(guest.routes());
    fared.view(guest.neighbours());
    fared.view(guest.packet_types());
    fared.view(guest.nft_ruleset());
    fared.view(guest.conntrack());
}

/// The readers of devices, of what interrupts and of what hooks.
fn read_devices(guest: &Guest, fared: &mut Fared) {
    fared.view(guest.devices());
    fared.view(guest.buses());
    fared.view(guest.pci_devices());
    fared.view(guest.disks());
    fared.view(guest.majors());
    fared.view(guest.iomem());
    fared.view(guest.ioports());
    fared.view(guest.irqs());
    fared.view(guest.idt());
    fared.view(guest.softirqs());
    fared.view(guest.workqueues());
    fared.view(guest.timers());
    fared.view(guest.clocks());
    fared.view(guest.rcu());
    fared.view(guest.bpf());
    fared.view(guest.tracing());
    fared.view(guest.audit());
    fared.view(guest.command_line());
    for module in guest.modules().into_iter().flatten() {
        fared.view(guest.module(&module.name));
    }
}

/// What is read of the kernel's management of memory.
fn memory_management(guest: &Guest, fared: &mut Fared) {
    fared.view(guest.zones());
    fared.view(guest.buddy());
    fared.view(guest.vmstat());
    fared.view(guest.meminfo());
    fared.view(guest.vmalloc_areas());
    fared.view(guest.swap_areas());
    fared.view(guest.huge_pools());
    fared.view(guest.slab_objects("task_struct"));
    fared.view(guest.page_cache("/bin/busybox"));
    for pfn in [0, 0x1000, 0x1_2345, 1 << 39, u64::MAX] {
        fared.view(guest.page(pfn));
    }
    let Some(identifier) = fared.note(Identifier::new(guest)) else {
        return;
    };
    for symbol in ["init_task", "schedule", "runqueues"] {
        let what = guest.symbol(symbol).and_then(|at| identifier.what(at));
        fared.view(what);
    }
    if let Some(task) = fared.note(guest.task(1)) {
        for at in [task.at.offset(64), task.stack.offset(0x1000)] {
            fared.view(identifier.what(at));
        }
        let mm = guest.mm_of(&task);
        let what = mm.and_then(|mm| identifier.what_of(1, mm.start_code));
        fared.view(what);
        let search = guest.search(Needle::pointer(task.at)).limit(3);
        fared.view(search.run());
        let search = guest.search("init").user(1).limit(3);
        fared.view(search.run());
    }
}
