//! Run queues: what each CPU has to run, and the load average (`kernel/sched/sched.h`, `kernel/sched/loadavg.c`).

use std::ops::Deref;

use serde::Serialize;

use crate::Result;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::{array, list_for_each_entry, offset_of, online_cpus, per_cpu_ptr, settle};

/// Tasks of one queue that are read at most.
const QUEUE_BOUND: usize = 1 << 20;
/// `SCHED_FIXEDPOINT_SHIFT`: a 64-bit kernel keeps weights with so many bits more than a nice value's.
const WEIGHT_SHIFT: u32 = 10;

/// A task that is on a run queue of the fair class (EEVDF since 6.6, CFS before): its `sched_entity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FairTask {
    /// The task.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Its `task_struct`.
    pub at: GuestVirt,
    /// Its weight by its nice value: 1024 for 0.
    pub weight: u64,
    /// How long it ran, weighted, in nanoseconds.
    pub vruntime: u64,
    /// By which `vruntime` it should have run for `slice`; kernels before EEVDF have none.
    pub deadline: Option<u64>,
    /// For how many nanoseconds it asks; kernels before EEVDF have none.
    pub slice: Option<u64>,
    /// Whether it sleeps already, and stays queued only until it has paid for what it ran.
    pub delayed: bool,
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
    /// Where its `struct rq` lies.
    pub at: GuestVirt,
    /// What it runs: `curr`, 0 is the idle task.
    pub curr: i32,
    /// Its name.
    pub comm: String,
    /// Tasks that want to run, `curr` among them, in all classes.
    pub nr_running: u32,
    /// Context switches since boot.
    pub nr_switches: u64,
    /// Tasks of the fair class by what they are due: by their deadlines, else by `vruntime`.
    pub fair: Vec<FairTask>,
    /// Tasks of the real-time class, the most urgent first.
    pub rt: Vec<RtTask>,
    /// Entities of the deadline class.
    pub dl_nr_running: u32,
}

/// The run queues of all CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunQueues {
    /// The load average over 1, 5 and 15 minutes, in hundredths.
    pub load: [u64; 3],
    /// One a CPU.
    pub queues: Vec<RunQueue>,
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
    #[mirror(member = "se.load.weight")]
    weight: u64,
    #[mirror(member = "se.vruntime")]
    vruntime: u64,
    #[mirror(member = "se.deadline")]
    deadline: Option<u64>,
    #[mirror(member = "se.slice")]
    slice: Option<u64>,
    #[mirror(member = "se.sched_delayed")]
    delayed: Option<u8>,
}

impl Guest {
    /// The run queue of each CPU that is online, and the load average. What is on a queue changes all the time: pause the
    /// guest for a picture of one instant.
    pub fn run_queues(&self) -> Result<RunQueues> {
        let kernel = self.kernel()?;
        let queues = online_cpus(&kernel)?
            .into_iter()
            .map(|cpu| {
                settle(&format!("the run queue of CPU {cpu}"), || {
                    read(&kernel, cpu)
                })
            })
            .collect::<Result<_>>()?;
        Ok(RunQueues {
            load: load(&kernel)?,
            queues,
        })
    }
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
fn read(kernel: &Kernel, cpu: u32) -> Result<Option<RunQueue>> {
    let at = per_cpu_ptr(kernel, "runqueues", cpu)?;
    let plan = Plan::<Queued>::new(kernel)?;
    let rq: Rq = kernel.load(at)?;
    let curr = plan.load(rq.curr)?;
    let mut fair = Vec::new();
    let head = at.offset(offset_of(kernel, "struct rq", "cfs_tasks")?);
    let member = offset_of(kernel, "struct task_struct", "se.group_node")?;
    for task in list_for_each_entry(kernel, head, member).bound(QUEUE_BOUND) {
        let at = task?;
        let task = plan.load(at)?;
        fair.push(FairTask {
            pid: task.pid,
            comm: task.comm.to_str().into_owned(),
            at,
            weight: task.weight >> WEIGHT_SHIFT,
            vruntime: task.vruntime,
            deadline: task.deadline,
            slice: task.slice,
            delayed: task.delayed.is_some_and(|delayed| delayed != 0),
        });
    }
    fair.sort_by_key(|task| task.deadline.unwrap_or(task.vruntime));
    let queue = RunQueue {
        cpu,
        at,
        curr: curr.pid,
        comm: curr.comm.to_str().into_owned(),
        nr_running: rq.nr_running,
        nr_switches: rq.nr_switches,
        fair,
        rt: rt(kernel, at, &plan)?,
        dl_nr_running: rq.dl_nr_running,
    };
    Ok((kernel.load::<Rq>(at)? == rq).then_some(queue))
}

/// The lists of `rt_prio_array`, one a priority.
fn rt(kernel: &Kernel, rq: GuestVirt, plan: &Plan<Queued>) -> Result<Vec<RtTask>> {
    let (queue, count, stride) = array(kernel, "struct rq", "rt.active.queue")?;
    let member = offset_of(kernel, "struct task_struct", "rt.run_list")?;
    let mut tasks = Vec::new();
    for prio in 0..count as u64 {
        let head = rq.offset(queue + prio * stride);
        for at in list_for_each_entry(kernel, head, member).bound(QUEUE_BOUND) {
            let at = at?;
            let task = plan.load(at)?;
            tasks.push(RtTask {
                pid: task.pid,
                comm: task.comm.to_str().into_owned(),
                at,
                prio: task.prio,
            });
        }
    }
    Ok(tasks)
}
