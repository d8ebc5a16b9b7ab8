//! Facts about a kernel, read once for looking up many addresses.

use std::cell::OnceCell;
use std::collections::HashMap;

use super::region::{self, Region};
use crate::core::trace::{self, MadeCode};
use crate::guest::Guest;
use crate::kernel::{Kernel, ModuleSymbols};
use crate::memory::{GuestPhys, GuestVirt, PAGE_SIZE};
use crate::mm::vmalloc::{self, VmallocAreas};
use crate::object::{FixedStr, Mirror, Plan};
use crate::sched::for_each_thread;
use crate::structures::{offset_of, online_cpus, per_cpu_ptr, possible_cpus};
use crate::{Listing, Missing, Of as _, Result};

/// Tasks whose stacks are noted at most.
const STACK_BOUND: usize = 1 << 20;
/// Page frames of the vmalloc space that are noted at most: 64 GiB.
const MAPPED_BOUND: usize = 1 << 24;

#[derive(Debug, Clone)]
pub(super) struct Stack {
    pub(super) start: GuestVirt,
    pub(super) end: GuestVirt,
    pub(super) pid: i32,
    pub(super) comm: String,
}

/// The per-CPU areas of the first chunk.
#[derive(Debug)]
pub(super) struct PerCpu {
    /// Start of the variables, as symbols have it.
    pub(super) start: u64,
    pub(super) end: u64,
    /// Bytes of a CPU's area.
    pub(super) unit: u64,
    pub(super) offsets: Vec<(u32, u64)>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct StackOwner {
    pid: i32,
    comm: FixedStr<16>,
    stack: GuestVirt,
}

/// Where the vmalloc space and the modules map page frames.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    pub(super) frames: HashMap<u64, GuestVirt>,
    /// The first table of theirs that could not be read.
    pub(super) missing: Option<Missing>,
}

/// The value of a cell, made at first use, or why it could not be: a search asks for thousands of addresses.
fn once<T>(cell: &OnceCell<Result<T>>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    cell.get_or_init(make).as_ref().map_err(Clone::clone)
}

/// Read at first use, then kept.
#[derive(Debug)]
pub(super) struct Known {
    guest: Guest,
    pub(super) kernel: Kernel,
    pub(super) regions: Vec<Region>,
    modules: OnceCell<Result<Listing<ModuleSymbols>>>,
    made: OnceCell<Listing<MadeCode>>,
    areas: OnceCell<Result<VmallocAreas>>,
    stacks: OnceCell<Result<Listing<Stack>>>,
    per_cpu: OnceCell<Result<Option<PerCpu>>>,
    mapped: OnceCell<Result<Mapped>>,
}

impl Known {
    pub(super) fn new(guest: &Guest) -> Result<Self> {
        let kernel = guest.kernel()?;
        Ok(Self {
            guest: guest.clone(),
            regions: region::regions(&kernel)?,
            kernel,
            modules: OnceCell::new(),
            made: OnceCell::new(),
            areas: OnceCell::new(),
            stacks: OnceCell::new(),
            per_cpu: OnceCell::new(),
            mapped: OnceCell::new(),
        })
    }

    pub(super) fn modules(&self) -> Result<&Listing<ModuleSymbols>> {
        once(&self.modules, || self.kernel.module_symbols())
    }

    /// The code that the kernel made while it ran.
    pub(super) fn made(&self) -> &Listing<MadeCode> {
        self.made.get_or_init(|| trace::made_code(&self.kernel))
    }

    pub(super) fn areas(&self) -> Result<&VmallocAreas> {
        let modules = self.modules()?;
        once(&self.areas, || vmalloc::areas(&self.kernel, modules))
    }

    /// Addresses of the page frames that the vmalloc space and the modules map.
    pub(super) fn mapped(&self) -> Result<&Mapped> {
        once(&self.mapped, || {
            let mut mapped = Mapped::default();
            let ram = self.kernel.space().memory().ranges();
            let is_ram = |phys: GuestPhys| {
                ram.iter()
                    .any(|range| phys.0.wrapping_sub(range.start.0) < range.len)
            };
            let mut left = MAPPED_BOUND;
            for region in &self.regions {
                if !["vmalloc", "modules"]
                    .iter()
                    .any(|name| region.name.starts_with(name))
                {
                    continue;
                }
                for page in self
                    .kernel
                    .space()
                    .present_pages(region.start, region.last)?
                {
                    let page = match page {
                        Ok(page) => page,
                        Err(error) => {
                            mapped.missing.get_or_insert_with(|| Missing::from(&error));
                            continue;
                        }
                    };
                    if !is_ram(page.phys) {
                        continue;
                    }
                    for i in 0..page.size / PAGE_SIZE {
                        if left == 0 {
                            return Ok(mapped);
                        }
                        left -= 1;
                        let at = page.at.offset(i * PAGE_SIZE);
                        mapped
                            .frames
                            .entry(page.phys.0 / PAGE_SIZE + i)
                            .or_insert(at);
                    }
                }
            }
            Ok(mapped)
        })
    }

    /// The stacks of all threads and of the idle tasks.
    pub(super) fn stacks(&self) -> Result<&Listing<Stack>> {
        once(&self.stacks, || {
            let kernel = &self.kernel;
            let size = self.guest.thread_size()?;
            let plan = Plan::<StackOwner>::new(kernel)?;
            let mut stacks = Listing::new();
            let mut missing = Vec::new();
            let mut note = |owner: StackOwner| {
                if !owner.stack.is_null() {
                    stacks.items.push(Stack {
                        start: owner.stack,
                        end: owner.stack.offset(size),
                        pid: owner.pid,
                        comm: owner.comm.to_str().into_owned(),
                    });
                }
                stacks.len() < STACK_BOUND
            };
            for leader in self.guest.tasks()?.into_items(&mut missing) {
                // Of a running guest it may have exited meanwhile: it is asked only where no stack was found.
                let what = || format!("threads of process {} ({})", leader.pid, leader.comm);
                for thread in for_each_thread(kernel, leader.signal)? {
                    let thread = thread.and_then(|thread| plan.load(thread));
                    let Some(thread) = thread.or_miss(&mut missing, what) else {
                        break;
                    };
                    if !note(thread) {
                        break;
                    }
                }
            }
            let idle = offset_of(kernel, "struct rq", "idle")?;
            for cpu in online_cpus(kernel)? {
                let rq = per_cpu_ptr(kernel, "runqueues", cpu)?;
                let task = kernel.read_u64(rq.offset(idle)).map(GuestVirt);
                let task = task.and_then(|task| plan.load(task));
                if let Some(task) = task.or_miss(&mut missing, || format!("idle of CPU {cpu}")) {
                    note(task);
                }
            }
            stacks.missing = missing;
            Ok(stacks)
        })
    }

    pub(super) fn areas_per_cpu(&self) -> Result<&Option<PerCpu>> {
        once(&self.per_cpu, || {
            let kernel = &self.kernel;
            let symbols = kernel.symbols()?;
            let bounds = (
                symbols.lookup("__per_cpu_start"),
                symbols.lookup("__per_cpu_end"),
            );
            let (Some(start), Some(end)) = bounds else {
                return Ok(None);
            };
            let offsets = possible_cpus(kernel)?
                .into_iter()
                .map(|cpu| Ok((cpu, kernel.per_cpu_offset(cpu)?)));
            Ok(Some(PerCpu {
                start: start.0,
                end: end.0,
                unit: kernel.read_u32(kernel.symbol("pcpu_unit_size")?)?.into(),
                offsets: offsets.collect::<Result<_>>()?,
            }))
        })
    }
}
