//! Workqueues, and the pools of workers that do the work (`kernel/workqueue.c`).

mod view;

use std::collections::HashMap;
use std::ops::Deref;

use serde::Serialize;

use crate::kernel::{Function, Functions, Kernel};
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Object, Plan};
use crate::structures::{IdrLayout, idr_for_each, lacks, offset_of, settle_all, whole_list};
use crate::{Error, Listing, Missing, Of as _, Result};

/// Queues, pools, workers of a pool, and works of a list that are read at most, of each.
const BOUND: usize = 1 << 16;
/// `WORK_STRUCT_PWQ`: what is above the flags is the `pool_workqueue`.
const WORK_STRUCT_PWQ: u64 = 1 << 2;
/// Bytes of `worker.desc` that are read.
const DESC: usize = 32;

/// A piece of work that waits: a `struct work_struct`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Address.
    pub at: GuestVirt,
    /// Function that will be called.
    pub func: Function,
    /// The workqueue that it is on.
    pub workqueue: Option<String>,
}

/// A worker: a kernel thread, `kworker/..`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Worker {
    /// Address of its `struct worker`.
    pub at: GuestVirt,
    /// Its thread; workers of bottom halves have none.
    pub pid: Option<i32>,
    /// Its number in its pool.
    pub id: i32,
    /// The workqueue that it worked for last, or what the work says of itself.
    pub desc: String,
    /// Work under way: the function, and the workqueue.
    pub current: Option<Work>,
    /// Works that it will do after that one, before any other worker.
    pub scheduled: Vec<Work>,
}

/// A pool of workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerPool {
    /// Address of its `struct worker_pool`.
    pub at: GuestVirt,
    /// Its number.
    pub id: i32,
    /// The CPU that it is for; `None` for one of unbound workers.
    pub cpu: Option<u32>,
    /// The nice value of its workers.
    pub nice: i32,
    /// Workers of it that have nothing to do.
    pub nr_idle: u32,
    /// Its workers.
    pub workers: Vec<Worker>,
    /// Works that wait for a worker, the next one first.
    pub pending: Vec<Work>,
}

/// A workqueue's part in one pool: a `struct pool_workqueue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolWorkqueue {
    /// Address.
    pub at: GuestVirt,
    /// The pool.
    pub pool: i32,
    /// Works of it that wait in the pool or are being done.
    pub nr_active: u32,
    /// Works that wait here, since `max_active` are active.
    pub inactive: Vec<Work>,
}

/// A workqueue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Workqueue {
    /// Address of its `struct workqueue_struct`.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
    /// `WQ_*`
    pub flags: u32,
    /// Most of its works that may be active at once, on each CPU or in all: `max_active`.
    pub max_active: u32,
    /// The worker that saves it when no memory is left for new ones.
    pub rescuer: Option<i32>,
    /// Its parts in the pools.
    pub pools: Vec<PoolWorkqueue>,
}

/// The workqueues and the pools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Workqueues {
    /// The workqueues.
    pub workqueues: Vec<Workqueue>,
    /// The pools, by number.
    pub pools: Vec<WorkerPool>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

lacks!(Workqueues);

impl Deref for Workqueues {
    type Target = [Workqueue];

    fn deref(&self) -> &[Workqueue] {
        &self.workqueues
    }
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct workqueue_struct")]
struct RawQueue {
    flags: u32,
    saved_max_active: u32,
    rescuer: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct pool_workqueue")]
struct RawPoolQueue {
    pool: GuestVirt,
    nr_active: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct worker_pool")]
struct RawPool {
    cpu: i32,
    id: i32,
    nr_idle: u32,
    attrs: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct worker")]
struct RawWorker {
    current_work: GuestVirt,
    current_func: GuestVirt,
    current_pwq: GuestVirt,
    task: GuestVirt,
    id: i32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct work_struct")]
struct RawWork {
    #[mirror(member = "data.counter")]
    data: u64,
    func: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct Thread {
    pid: i32,
}

/// The workqueues, the pools of workers, what these are at, and what waits for them. Work comes and goes: pause the
/// guest for that of one instant.
pub(crate) fn workqueues(kernel: &Kernel) -> Result<Workqueues> {
    let reader = Reader::new(kernel)?;
    settle_all("the workqueues", || reader.read().map(Some))
}

struct Reader<'k> {
    kernel: &'k Kernel,
    functions: Functions<'k>,
    work: Plan<RawWork>,
    /// The bits of a work's `data` that are the address of its `pool_workqueue`.
    pwq: u64,
}

impl<'k> Reader<'k> {
    fn new(kernel: &'k Kernel) -> Result<Self> {
        // The flags and the colour lie below it: until 6.9 both were counted as flags.
        let shift = kernel
            .constant("WORK_STRUCT_PWQ_SHIFT")
            .or_else(|_| kernel.constant("WORK_STRUCT_FLAG_BITS"))?;
        Ok(Self {
            kernel,
            functions: Functions::new(kernel),
            work: Plan::new(kernel)?,
            pwq: u64::MAX
                .checked_shl(u32::try_from(shift).unwrap_or(64))
                .unwrap_or(0),
        })
    }

    fn read(&self) -> Result<Workqueues> {
        let kernel = self.kernel;
        let c = "struct workqueue_struct";
        let head = kernel.symbol("workqueues")?;
        let mut missing = Vec::new();
        let list = offset_of(kernel, c, "list")?;
        let all = whole_list(kernel, head, list, BOUND, "the list of workqueues");
        let (mut names, mut order) = (HashMap::new(), Vec::new());
        for at in all.into_items(&mut missing) {
            let name = || Object::at(kernel, c, at)?.member("name")?.string();
            match name() {
                Ok(name) => {
                    names.insert(at, name);
                    order.push(at);
                }
                Err(error) => missing.push(Missing::new(
                    format!("the workqueue at {at}, its name"),
                    &error,
                )),
            }
        }
        let mut workqueues = Listing::new();
        for at in order {
            let queue = self.workqueue(at, &names, &mut missing);
            workqueues.take(queue, || format!("the workqueue {} at {at}", names[&at]));
        }
        let idr = kernel.symbol("worker_pool_idr")?;
        let mut pools = Listing::new();
        for entry in idr_for_each(kernel, idr, IdrLayout::of(kernel)?)?.bound(BOUND) {
            let (id, at) = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    pools.miss("the rest of worker_pool_idr", &error);
                    break;
                }
            };
            let pool = self.pool(at, &names, &mut missing).and_then(|pool| {
                if i64::from(pool.id) == id as i64 {
                    return Ok(pool);
                }
                let why = format!("its id is {}, in the idr it is {id}", pool.id);
                Err(Error::broken("worker_pool", at, why))
            });
            pools.take(pool, || format!("the worker_pool {id} at {at}"));
        }
        Ok(Workqueues {
            workqueues: workqueues.into_items(&mut missing),
            pools: pools.into_items(&mut missing),
            missing,
        })
    }

    fn workqueue(
        &self,
        at: GuestVirt,
        names: &Names,
        missing: &mut Vec<Missing>,
    ) -> Result<Workqueue> {
        let kernel = self.kernel;
        let raw: RawQueue = kernel.load(at)?;
        let of = |member| offset_of(kernel, "struct pool_workqueue", member);
        let head = at.offset(offset_of(kernel, "struct workqueue_struct", "pwqs")?);
        let mut pools = Listing::new();
        let what = format!("the pwqs of the workqueue at {at}");
        let list = whole_list(kernel, head, of("pwqs_node")?, BOUND, &what);
        for at in list.into_items(missing) {
            let mut pool = || {
                let raw: RawPoolQueue = kernel.load(at)?;
                let pool = kernel.load::<RawPool>(raw.pool);
                Ok(PoolWorkqueue {
                    at,
                    pool: pool.of(|| format!("its pool {}", raw.pool))?.id,
                    nr_active: raw.nr_active,
                    inactive: self.works(at.offset(of("inactive_works")?), names, missing)?,
                })
            };
            pools.take(pool(), || format!("the pool_workqueue at {at}"));
        }
        let rescuer = match raw.rescuer.is_null() {
            true => None,
            false => {
                let rescuer = kernel.load::<RawWorker>(raw.rescuer);
                self.thread(rescuer.of(|| format!("its rescuer {}", raw.rescuer))?.task)?
            }
        };
        Ok(Workqueue {
            at,
            // It is one of those that have a name.
            name: names.get(&at).cloned().unwrap_or_default(),
            flags: raw.flags,
            max_active: raw.saved_max_active,
            rescuer,
            pools: pools.into_items(missing),
        })
    }

    fn pool(&self, at: GuestVirt, names: &Names, missing: &mut Vec<Missing>) -> Result<WorkerPool> {
        let kernel = self.kernel;
        let raw: RawPool = kernel.load(at)?;
        let of = |member| offset_of(kernel, "struct worker_pool", member);
        let node = offset_of(kernel, "struct worker", "node")?;
        let mut workers = Listing::new();
        let what = format!("the workers of the worker_pool {} at {at}", raw.id);
        let list = whole_list(kernel, at.offset(of("workers")?), node, BOUND, &what);
        for at in list.into_items(missing) {
            let worker = self.worker(at, names, missing);
            workers.take(worker, || format!("the worker at {at}"));
        }
        let attrs = Object::at(kernel, "struct workqueue_attrs", raw.attrs)?;
        let nice = attrs.member("nice")?.i64();
        Ok(WorkerPool {
            at,
            id: raw.id,
            // -1 of a pool that is of no CPU.
            cpu: u32::try_from(raw.cpu).ok(),
            nice: nice.of(|| format!("its attrs {}", raw.attrs))? as i32,
            nr_idle: raw.nr_idle,
            workers: workers.into_items(missing),
            pending: self.works(at.offset(of("worklist")?), names, missing)?,
        })
    }

    fn worker(&self, at: GuestVirt, names: &Names, missing: &mut Vec<Missing>) -> Result<Worker> {
        let kernel = self.kernel;
        let raw: RawWorker = kernel.load(at)?;
        let of = |member| offset_of(kernel, "struct worker", member);
        let current = match raw.current_work.is_null() {
            true => None,
            false => Some(Work {
                at: raw.current_work,
                func: self.functions.at(raw.current_func)?,
                workqueue: self.workqueue_of(raw.current_pwq, names)?,
            }),
        };
        let mut desc = FixedStr([0; DESC]);
        // As long as the kernel's release has it: 24 or 32 bytes.
        let len = Object::at(kernel, "struct worker", at)?
            .member("desc")?
            .size()?;
        let len = usize::try_from(len).unwrap_or(DESC).min(DESC);
        kernel.read(at.offset(of("desc")?), &mut desc.0[..len])?;
        Ok(Worker {
            at,
            pid: self
                .thread(raw.task)
                .of(|| format!("its task {}", raw.task))?,
            id: raw.id,
            desc: desc.to_str().into_owned(),
            current,
            scheduled: self.works(at.offset(of("scheduled")?), names, missing)?,
        })
    }

    fn thread(&self, task: GuestVirt) -> Result<Option<i32>> {
        match task.is_null() {
            true => Ok(None),
            false => Ok(Some(self.kernel.load::<Thread>(task)?.pid)),
        }
    }

    /// The works on a list.
    fn works(
        &self,
        head: GuestVirt,
        names: &Names,
        missing: &mut Vec<Missing>,
    ) -> Result<Vec<Work>> {
        let entry = offset_of(self.kernel, "struct work_struct", "entry")?;
        let what = format!("the works on the list at {head}");
        let mut works = Listing::new();
        for at in whole_list(self.kernel, head, entry, BOUND, &what).into_items(missing) {
            let work = || {
                let raw = self.work.load(at)?;
                let pwq = match raw.data & WORK_STRUCT_PWQ {
                    0 => GuestVirt(0),
                    _ => GuestVirt(raw.data & self.pwq),
                };
                Ok(Work {
                    at,
                    func: self.functions.at(raw.func)?,
                    workqueue: self.workqueue_of(pwq, names)?,
                })
            };
            works.take(work(), || format!("the work_struct at {at}"));
        }
        Ok(works.into_items(missing))
    }

    fn workqueue_of(&self, pwq: GuestVirt, names: &Names) -> Result<Option<String>> {
        if pwq.is_null() {
            return Ok(None);
        }
        let wq = offset_of(self.kernel, "struct pool_workqueue", "wq")?;
        let wq = self.kernel.read_u64(pwq.offset(wq));
        let wq = GuestVirt(wq.of(|| format!("its pool_workqueue {pwq}"))?);
        match names.get(&wq) {
            Some(name) => Ok(Some(name.clone())),
            None => Err(Error::Broken {
                what: "pool_workqueue",
                at: pwq,
                why: format!("its workqueue is {wq}, which is not on the list of them"),
            }),
        }
    }
}

/// The workqueues' names, by their addresses.
type Names = HashMap<GuestVirt, String>;
