//! The whole names of kernel threads: `comm` has 15 letters of them (`get_kthread_comm()` of `kernel/kthread.c`,
//! `wq_worker_comm()` of `kernel/workqueue.c`).

use super::PF_KTHREAD;
use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::offset_of;

/// `PF_WQ_WORKER` of `include/linux/sched.h`.
const PF_WQ_WORKER: u64 = 0x20;
/// Bytes that `/proc/PID/comm` shows of a name (`proc_task_name()`).
const MOST: usize = 63;

#[derive(Debug, Mirror)]
#[mirror(c = "struct kthread")]
struct Kthread {
    full_name: Option<GuestVirt>,
    data: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct worker")]
struct Worker {
    current_work: GuestVirt,
    pool: GuestVirt,
    id: i32,
    desc: FixedStr<64>,
    rescue_wq: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct worker_pool")]
struct Pool {
    cpu: i32,
    id: i32,
    attrs: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct workqueue_attrs")]
struct Attrs {
    nice: i32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct workqueue_struct")]
struct Queue {
    name: FixedStr<64>,
}

/// Reads the names.
#[derive(Debug)]
pub(crate) struct KthreadNames {
    kernel: Kernel,
    /// Offset in `task_struct` of the pointer to its `struct kthread`, in bytes.
    private: u64,
    kthread: Plan<Kthread>,
    worker: Plan<Worker>,
    pool: Plan<Pool>,
    attrs: Plan<Attrs>,
    queue: Plan<Queue>,
}

impl KthreadNames {
    pub(crate) fn new(kernel: &Kernel) -> Result<Self> {
        Ok(Self {
            kernel: kernel.clone(),
            private: offset_of(kernel, "struct task_struct", "worker_private")?,
            kthread: Plan::new(kernel)?,
            worker: Plan::new(kernel)?,
            pool: Plan::new(kernel)?,
            attrs: Plan::new(kernel)?,
            queue: Plan::new(kernel)?,
        })
    }

    /// The whole name of a kernel thread, where it says more than `comm`. What cannot be read of it leaves `comm`, which is
    /// its name too.
    pub(crate) fn of(&self, task: GuestVirt, flags: u64, comm: &str) -> Option<String> {
        if flags & PF_KTHREAD == 0 {
            return None;
        }
        let name = match flags & PF_WQ_WORKER {
            0 => self.whole(task),
            _ => self.of_worker(task, comm),
        };
        name.ok().flatten().filter(|name| name != comm)
    }

    fn kthread(&self, task: GuestVirt) -> Result<Option<Kthread>> {
        let at = GuestVirt(self.kernel.read_u64(task.offset(self.private))?);
        match at.is_null() {
            true => Ok(None),
            false => self.kthread.load(at).map(Some),
        }
    }

    fn whole(&self, task: GuestVirt) -> Result<Option<String>> {
        let kthread = self.kthread(task)?;
        let name = kthread.and_then(|kthread| kthread.full_name);
        match name.filter(|name| !name.is_null()) {
            Some(name) => self.kernel.read_cstr(name, MOST).map(Some),
            None => Ok(None),
        }
    }

    /// A worker is called by its pool and number, and by what it does (`+`) or did last (`-`).
    fn of_worker(&self, task: GuestVirt, comm: &str) -> Result<Option<String>> {
        let Some(kthread) = self.kthread(task)? else {
            return Ok(None);
        };
        let worker = self.worker.load(kthread.data)?;
        let id = match (worker.rescue_wq.is_null(), worker.pool.is_null()) {
            (false, _) => format!("kworker/R-{}", self.queue.load(worker.rescue_wq)?.name),
            (true, true) => "kworker/dying".to_owned(),
            (true, false) => {
                let pool = self.pool.load(worker.pool)?;
                let high = match self.attrs.load(pool.attrs)?.nice {
                    ..0 => "H",
                    _ => "",
                };
                match pool.cpu {
                    0.. => format!("kworker/{}:{}{high}", pool.cpu, worker.id),
                    _ => format!("kworker/u{}:{}", pool.id, worker.id),
                }
            }
        };
        // Kernels differ in what they call rescuers, and in whether they keep more of it than `comm`.
        let mut name = match id.starts_with(comm) {
            true => id,
            false => comm.to_owned(),
        };
        let desc = worker.desc.to_str();
        if !worker.pool.is_null() && !desc.is_empty() {
            name.push(if worker.current_work.is_null() {
                '-'
            } else {
                '+'
            });
            name.push_str(&desc);
        }
        Ok(Some(name.chars().take(MOST).collect()))
    }
}
