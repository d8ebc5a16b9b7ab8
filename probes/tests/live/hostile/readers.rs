//! Every reader of the registry, and what else can be asked of a guest, over what it can reach.

use std::time::{Duration, Instant};

use probes::readers::READERS;
use probes::search::Needle;
use probes::structures::{
    IdrLayout, MAPLE_BOUND, MapleLayout, XARRAY_BOUND, idr_for_each, offset_of, validate_idr,
    validate_list, validate_maple,
};
use probes::view::View;
use probes::what::Identifier;
use probes::{Error, Guest, Missing, Result, sched};

use super::Ram;

/// Results of the readers.
#[derive(Debug, Default)]
pub(super) struct Fared {
    pub(super) values: usize,
    pub(super) errors: Vec<Error>,
    /// Parts that the listings name as missing.
    pub(super) missing: Vec<Missing>,
    /// The slowest reader, and its time.
    pub(super) slowest: (Duration, String),
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
    fn view<V: View>(&mut self, read: Result<V>) {
        if let Some(view) = self.note(read) {
            let _ = (view.text(), view.html(), view.svg());
            self.missing.extend(view.missing());
        }
    }

    fn took(&mut self, began: Instant, reader: &str) {
        if began.elapsed() > self.slowest.0 {
            self.slowest = (began.elapsed(), reader.to_owned());
        }
    }

    /// Number of things that were asked for and not given.
    pub(super) fn failed(&self) -> usize {
        self.errors.len() + self.missing.len()
    }
}

/// Every reader there is, over what it can reach.
pub(super) fn read_all(ram: &Ram) -> Fared {
    let mut fared = Fared::default();
    if let Some(guest) = fared.note(ram.guest()) {
        for reader in READERS {
            for sample in reader.samples {
                let words = reader.words(sample).unwrap();
                let began = Instant::now();
                if let Some(value) = fared.note(reader.read(&guest, &words)) {
                    let _ = (value.text(), value.html(), value.svg(), value.json());
                    fared.missing.extend(value.missing());
                }
                fared.took(began, reader.method);
            }
        }
        let began = Instant::now();
        let read = read_more(&guest, &mut fared);
        fared.took(began, "what the registry does not have");
        fared.note(read);
    }
    fared
}

/// Readings that the registry does not have, or has with one sample only.
fn read_more(guest: &Guest, fared: &mut Fared) -> Result<()> {
    let kernel = guest.kernel()?;
    let symbols = kernel.symbols();
    fared.note(symbols.map(|symbols| symbols.iter().step_by(99).count()));
    fared.note(kernel.module_symbols());
    fared.note(kernel.module_btfs());
    for c in ["struct mm_struct", "struct sk_buff", "union bpf_attr"] {
        fared.view(guest.type_of(c));
    }
    for c in [
        "init_task.mm->pgd",
        "*init_task.real_parent",
        "modules.next",
    ] {
        fared.note(guest.eval(c).and_then(|object| object.to_c()));
    }
    fared.view(guest.nft_rules());
    fared.note(guest.thread_size());
    for cpu in 0..2 {
        fared.note(guest.current(cpu));
    }
    for module in guest.modules().into_iter().flatten() {
        fared.view(guest.module(&module.name));
    }
    for symbol in ["modules", "__per_cpu_offset", "schedule"] {
        fared.view(guest.symbol(symbol).and_then(|at| guest.page_walk(at)));
    }
    for symbol in ["entry_SYSCALL_64", "init_task"] {
        fared.view(guest.symbol(symbol).and_then(|at| guest.disassembly(at)));
    }
    // Structures of one kind where those of another are asked for.
    if let Some(at) = fared.note(guest.symbol("rtnl_mutex")) {
        fared.view(guest.rwsem(at));
        fared.view(guest.rt_mutex(at));
        fared.view(guest.inode(at));
        fared.view(guest.completion(at));
        fared.view(guest.wait_queue(at));
    }
    for pfn in [0, 0x1_2345, 1 << 39, u64::MAX] {
        fared.view(guest.page(pfn));
    }
    let containers = || -> Result<usize> {
        let idr = offset_of(&kernel, "struct pid_namespace", "idr")?;
        let idr = kernel.symbol("init_pid_ns")?.offset(idr);
        let layout = IdrLayout::of(&kernel)?;
        let entries = idr_for_each(&kernel, idr, layout)?.count();
        Ok(entries + validate_idr(&kernel, idr, layout, XARRAY_BOUND)?)
    };
    fared.note(containers());
    identify(guest, fared);
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
        let layout = MapleLayout::of(&kernel)?;
        fared.note(validate_maple(&kernel, tree, layout, MAPLE_BOUND));
        fared.view(guest.address_map(task.pid));
        fared.view(guest.heap(task.pid));
        let space = guest.user_space(task.pid);
        fared.note(space.and_then(|space| space.read_cstr(mm.arg_start, 100)));
    }
    Ok(())
}

/// Identifies addresses of all sorts, and finds where they are pointed to from.
fn identify(guest: &Guest, fared: &mut Fared) {
    let Some(identifier) = fared.note(Identifier::new(guest)) else {
        return;
    };
    for symbol in ["init_task", "schedule", "runqueues"] {
        fared.view(guest.symbol(symbol).and_then(|at| identifier.what(at)));
    }
    if let Some(task) = fared.note(guest.task(1)) {
        for at in [task.at.offset(64), task.stack.offset(0x1000)] {
            fared.view(identifier.what(at));
        }
        let mm = guest.mm_of(&task);
        fared.view(mm.and_then(|mm| identifier.what_of(1, mm.start_code)));
        fared.view(guest.search(Needle::pointer(task.at)).limit(3).run());
        fared.view(guest.search("init").user(1).limit(3).run());
    }
}
