//! Run queues: what each CPU has to run, and the load average (`kernel/sched/sched.h`, `kernel/sched/loadavg.c`).

use std::ops::Deref;

use serde::Serialize;

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::sched::cgroup::kernfs_path;
use crate::structures::{
    array, offset_of, online_cpus, per_cpu_ptr, rbtree_for_each_entry, settle_all, whole_list,
};
use crate::{Error, Listing, Missing, Of as _, Result};

/// Entities of one CPU that are read at most.
const QUEUE_BOUND: usize = 1 << 20;
/// Most levels of queues in queues: those of control groups, of which the kernel allows more than anyone has.
const DEPTH: u32 = 256;
/// `SCHED_FIXEDPOINT_SHIFT`: a 64-bit kernel keeps weights with so many bits more than a nice value's.
const WEIGHT_SHIFT: u32 = 10;

/// Subject of a `sched_entity`: a task or a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FairOf {
    /// A task.
    Task {
        /// Its pid.
        pid: i32,
        /// Its name.
        comm: String,
        /// Its `task_struct`.
        at: GuestVirt,
    },
    /// A group of tasks that has a queue of its own: what is on it follows, one level deeper.
    Group {
        /// The group's queue: its `cfs_rq`.
        cfs_rq: GuestVirt,
        /// Its name: the control group's path, or `/autogroup-N`.
        name: String,
    },
}

/// A `sched_entity` of the fair class (EEVDF since 6.6, CFS before).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FairEntity {
    /// Address.
    pub at: GuestVirt,
    /// Number of groups that it is queued in: 0 on the CPU's own queue, where newer kernels queue all tasks.
    pub depth: u32,
    /// Its subject: a task or a group.
    pub of: FairOf,
    /// The group that it belongs to: a control group's path, or `/autogroup-N`; `/` is none.
    pub group: String,
    /// True if the CPU runs it, or something in it.
    pub runs: bool,
    /// Its weight by its nice value, 1024 for 0, or by its group's shares.
    pub weight: u64,
    /// Its weight among all tasks of the CPU, by its groups' too, where those are queued together.
    pub h_weight: Option<u64>,
    /// Weighted run time, in nanoseconds; wraps: `vruntime`.
    pub vruntime: u64,
    /// `vruntime`, in nanoseconds, by which it should have run for `slice`; kernels before EEVDF have none.
    pub deadline: Option<u64>,
    /// Time that it asks for, in nanoseconds; kernels before EEVDF have none.
    pub slice: Option<u64>,
    /// True if it sleeps already, and stays queued only until it has paid for what it ran.
    pub delayed: bool,
}

/// A `sched_dl_entity` of the deadline class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DlEntity {
    /// Address.
    pub at: GuestVirt,
    /// Its task; 0 for a server, which runs tasks of another class so that they do not starve.
    pub pid: i32,
    /// Its task's name, or the server's.
    pub comm: String,
    /// True if the CPU runs it.
    pub runs: bool,
    /// Nanoseconds that are left to it until its deadline; negative if it ran for longer.
    pub runtime: i64,
    /// Its deadline, by the run queue's clock in nanoseconds.
    pub deadline: u64,
    /// Time that it may run in each period, in nanoseconds.
    pub dl_runtime: u64,
    /// Time after its period's begin within which it may run, in nanoseconds.
    pub dl_deadline: u64,
    /// Its period in nanoseconds.
    pub dl_period: u64,
}

/// A task on a run queue of the real-time class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RtTask {
    /// The task.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Its `task_struct`.
    pub at: GuestVirt,
    /// `prio`, 0 to 99: lower is more urgent.
    pub prio: i32,
}

/// The run queue of a CPU: its `struct rq`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunQueue {
    /// The CPU.
    pub cpu: u32,
    /// Address of its `struct rq`.
    pub at: GuestVirt,
    /// The running task, `curr`: pid 0 is the idle task.
    pub curr: i32,
    /// Its name.
    pub comm: String,
    /// Tasks that want to run, `curr` among them, in all classes.
    pub nr_running: u32,
    /// Context switches since boot.
    pub nr_switches: u64,
    /// Entities of the fair class, level by level, the next one first: by deadlines, else by `vruntime`.
    pub fair: Vec<FairEntity>,
    /// Tasks of the real-time class, the most urgent first.
    pub rt: Vec<RtTask>,
    /// Entities of the deadline class that are queued, the earliest deadline first.
    pub dl: Vec<DlEntity>,
    /// Number of entities by the deadline class's own count.
    pub dl_nr_running: u32,
}

impl RunQueue {
    /// The tasks of the fair class: pid and entity.
    pub fn fair_tasks(&self) -> impl Iterator<Item = (i32, &FairEntity)> {
        self.fair.iter().filter_map(|entity| match entity.of {
            FairOf::Task { pid, .. } => Some((pid, entity)),
            FairOf::Group { .. } => None,
        })
    }
}

/// The run queues of all CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunQueues {
    /// The load average over 1, 5 and 15 minutes, in hundredths.
    pub load: [u64; 3],
    /// One a CPU.
    pub queues: Vec<RunQueue>,
    /// Parts that could not be read, and queues that a CPU stands in the middle of changing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

impl Deref for RunQueues {
    type Target = [RunQueue];

    fn deref(&self) -> &[RunQueue] {
        &self.queues
    }
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct rq")]
struct Rq {
    nr_running: u32,
    nr_switches: u64,
    curr: GuestVirt,
    #[mirror(member = "dl.dl_nr_running")]
    dl_nr_running: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct Queued {
    pid: i32,
    comm: FixedStr<16>,
    prio: i32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct sched_entity")]
struct SchedEntity {
    #[mirror(member = "load.weight")]
    weight: u64,
    #[mirror(member = "h_load.weight")]
    h_weight: Option<u64>,
    vruntime: u64,
    deadline: Option<u64>,
    slice: Option<u64>,
    #[mirror(member = "sched_delayed")]
    delayed: Option<u8>,
    /// These two not without CONFIG_FAIR_GROUP_SCHED.
    cfs_rq: Option<GuestVirt>,
    my_q: Option<GuestVirt>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct cfs_rq")]
struct CfsRq {
    curr: GuestVirt,
    /// `nr_running` in kernels before 6.14.
    #[mirror(member = "nr_queued", or = "nr_running")]
    nr_queued: u32,
    /// With what is in groups below, `h_nr_running` in kernels before 6.14.
    #[mirror(member = "h_nr_queued", or = "h_nr_running")]
    h_nr_queued: u32,
    tg: Option<GuestVirt>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct sched_dl_entity")]
struct SchedDlEntity {
    runtime: i64,
    deadline: u64,
    dl_runtime: u64,
    dl_deadline: u64,
    dl_period: u64,
    dl_server: Option<bool>,
}

/// The run queue of each CPU that is online, and the load average. What is on a queue changes all the time: pause the
/// guest for a picture of one instant.
pub(crate) fn run_queues(kernel: &Kernel) -> Result<RunQueues> {
    let mut queues = Listing::new();
    for cpu in online_cpus(kernel)? {
        let name = format!("the run queue of CPU {cpu}");
        let queue = settle_all(&name, || read(kernel, cpu)).map(|(queue, missing)| {
            queues
                .missing
                .extend(missing.into_iter().map(|part| part.of(&name)));
            queue
        });
        queues.take(queue, || name);
    }
    Ok(RunQueues {
        load: load(kernel)?,
        queues: queues.items,
        missing: queues.missing,
    })
}

/// `get_avenrun()` with the offset that `/proc/loadavg` takes: fixed point with 11 bits.
fn load(kernel: &Kernel) -> Result<[u64; 3]> {
    let at = kernel.symbol("avenrun")?;
    let mut load = [0; 3];
    for (i, load) in load.iter_mut().enumerate() {
        let raw = kernel.read_u64(at.offset(8 * i as u64))?;
        // FIXED_1 / 200, then LOAD_INT and LOAD_FRAC of include/linux/sched/loadavg.h.
        *load = (raw.wrapping_add(10)).wrapping_mul(100) >> 11;
    }
    Ok(load)
}

/// `None` if the queue changed.
fn read(kernel: &Kernel, cpu: u32) -> Result<Option<(RunQueue, Vec<Missing>)>> {
    let at = per_cpu_ptr(kernel, "runqueues", cpu)?;
    let plan = Plan::<Queued>::new(kernel)?;
    let rq: Rq = kernel.load(at)?;
    let curr = plan.load(rq.curr)?;
    let mut walk = Fair {
        kernel,
        task: Plan::new(kernel)?,
        entity: Plan::new(kernel)?,
        fair: Vec::new(),
        missing: Vec::new(),
    };
    let cfs = at.offset(offset_of(kernel, "struct rq", "cfs")?);
    let fair = walk.queue(cfs, 0);
    let missing = &mut walk.missing;
    fair.or_miss(missing, || format!("its cfs_rq {cfs}"));
    let rt = rt(kernel, at, &plan, missing)?;
    let dl = dl(kernel, at, rq.curr, &plan, missing)?;
    let queue = RunQueue {
        cpu,
        at,
        curr: curr.pid,
        comm: curr.comm.to_str().into_owned(),
        nr_running: rq.nr_running,
        nr_switches: rq.nr_switches,
        fair: walk.fair,
        rt,
        dl,
        dl_nr_running: rq.dl_nr_running,
    };
    Ok((kernel.load::<Rq>(at)? == rq).then_some((queue, walk.missing)))
}

/// Walks the queues of the fair class.
struct Fair<'k> {
    kernel: &'k Kernel,
    task: Plan<Queued>,
    entity: Plan<SchedEntity>,
    fair: Vec<FairEntity>,
    missing: Vec<Missing>,
}

impl Fair<'_> {
    /// Lists the entities on the `cfs_rq` at `at`, and below it.
    fn queue(&mut self, at: GuestVirt, depth: u32) -> Result<()> {
        let kernel = self.kernel;
        if depth >= DEPTH || self.fair.len() > QUEUE_BOUND {
            return Err(Error::TooLong {
                what: "hierarchy of run queues",
                at,
                bound: QUEUE_BOUND,
            });
        }
        let queue: CfsRq = kernel.load(at)?;
        let root = at.offset(offset_of(
            kernel,
            "struct cfs_rq",
            "tasks_timeline.rb_root",
        )?);
        let node = offset_of(kernel, "struct sched_entity", "run_node")?;
        let queued = rbtree_for_each_entry(kernel, root, node).bound(QUEUE_BOUND);
        let queued = Listing::walk(&format!("the tasks_timeline of {at}"), queued);
        let whole = queued.is_whole();
        let mut queued = queued.into_items(&mut self.missing);
        // The task that runs is not in the tree meanwhile; where groups have queues, it runs on each level.
        if !queue.curr.is_null() && !queued.contains(&queue.curr) {
            queued.push(queue.curr);
        }
        // Where the tasks of all groups are on the CPU's own queue, that has two counts, and the other is of its own members.
        let count = match offset_of(kernel, "struct sched_entity", "h_load") {
            Ok(_) => queue.h_nr_queued,
            Err(_) => queue.nr_queued,
        };
        if whole && queued.len() != count as usize {
            let why = format!(
                "{} entities are in tasks_timeline or its curr, its count says {}: it is damaged, or a CPU that holds its \
                 lock is in the middle of a change",
                queued.len(),
                count
            );
            let what = "cfs_rq";
            let broken: Result<()> = Err(Error::Broken { what, at, why });
            broken.or_miss(&mut self.missing, || "");
        }
        let mut loaded = Vec::new();
        for at in queued {
            let raw = self.entity.load(at);
            let raw = raw.or_miss(&mut self.missing, || format!("the sched_entity {at}"));
            loaded.extend(raw.map(|raw| (at, raw)));
        }
        // Both wrap, and are compared by their differences.
        let due = |entity: &SchedEntity| entity.deadline.unwrap_or(entity.vruntime);
        let base = loaded.first().map_or(0, |(_, entity)| due(entity));
        loaded.sort_by_key(|(_, entity)| due(entity).wrapping_sub(base).cast_signed());
        for (at, raw) in loaded {
            let mine = raw.my_q.filter(|queue| !queue.is_null());
            let one = self.fair(at, &raw, mine, (depth, at == queue.curr));
            let one = one.or_miss(&mut self.missing, || format!("the sched_entity {at}"));
            self.fair.extend(one);
            if let Some(queue) = mine {
                let below = self.queue(queue, depth + 1);
                below.or_miss(&mut self.missing, || format!("the cfs_rq {queue}"));
            }
        }
        Ok(())
    }

    fn fair(
        &self,
        at: GuestVirt,
        raw: &SchedEntity,
        mine: Option<GuestVirt>,
        (depth, runs): (u32, bool),
    ) -> Result<FairEntity> {
        let kernel = self.kernel;
        let of = match mine {
            Some(cfs_rq) => FairOf::Group {
                cfs_rq,
                name: group(kernel, Some(cfs_rq))?,
            },
            None => {
                let at = at.back(offset_of(kernel, "struct task_struct", "se")?);
                let task = self.task.load(at)?;
                FairOf::Task {
                    pid: task.pid,
                    comm: task.comm.to_str().into_owned(),
                    at,
                }
            }
        };
        Ok(FairEntity {
            at,
            depth,
            of,
            group: group(kernel, raw.cfs_rq)?,
            runs,
            weight: raw.weight >> WEIGHT_SHIFT,
            h_weight: raw.h_weight.map(|weight| weight >> WEIGHT_SHIFT),
            vruntime: raw.vruntime,
            deadline: raw.deadline,
            slice: raw.slice,
            delayed: raw.delayed.is_some_and(|delayed| delayed != 0),
        })
    }
}

/// The name of the task group of a `cfs_rq`: `task_group_path()` of `kernel/sched/debug.c`.
fn group(kernel: &Kernel, cfs_rq: Option<GuestVirt>) -> Result<String> {
    let tg = match cfs_rq {
        Some(at) => kernel.load::<CfsRq>(at)?.tg,
        None => None,
    };
    let root = kernel.symbols()?.lookup("root_task_group");
    let Some(tg) = tg.filter(|tg| !tg.is_null() && Some(*tg) != root) else {
        return Ok("/".to_owned());
    };
    let pointer = |at: GuestVirt, c: &str, member: &str| -> Result<GuestVirt> {
        let at = at.offset(offset_of(kernel, c, member)?);
        kernel.read_u64(at).map(GuestVirt)
    };
    match pointer(tg, "struct task_group", "autogroup") {
        Ok(autogroup) if !autogroup.is_null() => {
            let id = pointer(autogroup, "struct autogroup", "id")?.0;
            return Ok(format!("/autogroup-{id}"));
        }
        Ok(_) | Err(Error::NoMember { .. }) => {}
        Err(error) => return Err(error),
    }
    let cgroup = pointer(tg, "struct task_group", "css.cgroup")?;
    if cgroup.is_null() {
        return Ok("/".to_owned());
    }
    kernfs_path(kernel, pointer(cgroup, "struct cgroup", "kn")?)
}

/// The tree of `dl_rq`: what runs stays in it.
fn dl(
    kernel: &Kernel,
    rq: GuestVirt,
    curr: GuestVirt,
    plan: &Plan<Queued>,
    missing: &mut Vec<Missing>,
) -> Result<Vec<DlEntity>> {
    let root = rq.offset(offset_of(kernel, "struct rq", "dl.root.rb_root")?);
    let node = offset_of(kernel, "struct sched_dl_entity", "rb_node")?;
    let member = offset_of(kernel, "struct task_struct", "dl")?;
    let server = |name: &str| Ok::<_, Error>(rq.offset(offset_of(kernel, "struct rq", name)?));
    let one = |at: GuestVirt| -> Result<DlEntity> {
        let raw: SchedDlEntity = kernel.load(at)?;
        let task = at.back(member);
        let (pid, comm) = match raw.dl_server {
            Some(true) if server("fair_server").is_ok_and(|fair| fair == at) => {
                (0, "fair_server".to_owned())
            }
            Some(true) if server("ext_server").is_ok_and(|ext| ext == at) => {
                (0, "ext_server".to_owned())
            }
            Some(true) => (0, "server".to_owned()),
            _ => {
                let task = plan.load(task)?;
                (task.pid, task.comm.to_str().into_owned())
            }
        };
        Ok(DlEntity {
            at,
            pid,
            comm,
            runs: pid != 0 && task == curr,
            runtime: raw.runtime,
            deadline: raw.deadline,
            dl_runtime: raw.dl_runtime,
            dl_deadline: raw.dl_deadline,
            dl_period: raw.dl_period,
        })
    };
    let queued = rbtree_for_each_entry(kernel, root, node).bound(QUEUE_BOUND);
    let mut all = Vec::new();
    for at in Listing::walk("the tree of its dl_rq", queued).into_items(missing) {
        all.extend(one(at).or_miss(missing, || format!("the sched_dl_entity {at}")));
    }
    Ok(all)
}

/// The lists of `rt_prio_array`, one a priority.
fn rt(
    kernel: &Kernel,
    rq: GuestVirt,
    plan: &Plan<Queued>,
    missing: &mut Vec<Missing>,
) -> Result<Vec<RtTask>> {
    let (queue, count, stride) = array(kernel, "struct rq", "rt.active.queue")?;
    let member = offset_of(kernel, "struct task_struct", "rt.run_list")?;
    let mut tasks = Vec::new();
    for prio in 0..count as u64 {
        let head = rq.offset(queue + prio * stride);
        let what = format!("its list of priority {prio}");
        let queued = whole_list(kernel, head, member, QUEUE_BOUND, &what);
        for at in queued.into_items(missing) {
            let task = plan.load(at);
            let task = task.or_miss(missing, || format!("the task at {at} of priority {prio}"));
            tasks.extend(task.map(|task| RtTask {
                pid: task.pid,
                comm: task.comm.to_str().into_owned(),
                at,
                prio: task.prio,
            }));
        }
    }
    Ok(tasks)
}
