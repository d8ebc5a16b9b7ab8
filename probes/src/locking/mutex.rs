//! `struct mutex` (`include/linux/mutex_types.h`, `kernel/locking/mutex.c`).

use serde::Serialize;

use super::{Contender, rt_mutex, waiters};
use crate::Result;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{offset_of, twice};

/// `MUTEX_FLAG_*` of `kernel/locking/mutex.h`: the lower bits of `owner`.
const FLAGS: [(u64, &str); 3] = [(1, "WAITERS"), (2, "HANDOFF"), (4, "PICKUP")];

/// A mutex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mutex {
    /// Address.
    pub at: GuestVirt,
    /// Owner; `None` if nobody has it.
    pub owner: Option<Contender>,
    /// `MUTEX_FLAG_*` without `MUTEX_FLAG_`; a kernel with PREEMPT_RT has none.
    pub flags: Vec<&'static str>,
    /// Waiters, in the order in which they came.
    pub waiters: Vec<Contender>,
}

impl Guest {
    /// Reads the `struct mutex` at an address: its owner and its waiters.
    pub fn mutex(&self, at: GuestVirt) -> Result<Mutex> {
        let kernel = self.kernel()?;
        twice(&format!("the mutex at {at}"), || read(&kernel, at))
    }
}

fn read(kernel: &Kernel, at: GuestVirt) -> Result<Mutex> {
    if let Ok(base) = offset_of(kernel, "struct mutex", "rtmutex") {
        let base = rt_mutex::read(kernel, at.offset(base))?;
        return Ok(Mutex {
            at,
            owner: base.owner,
            flags: Vec::new(),
            waiters: base.waiters.into_iter().map(|waiter| waiter.task).collect(),
        });
    }
    let owner = at.offset(offset_of(kernel, "struct mutex", "owner.counter")?);
    let owner = kernel.read_u64(owner)?;
    let task = offset_of(kernel, "struct mutex_waiter", "task")?;
    let waiters = waiters(kernel, at, "struct mutex", "struct mutex_waiter")?;
    let waiters = waiters.into_iter().map(|waiter| {
        let task = kernel.read_u64(waiter.offset(task))?;
        Contender::read(kernel, GuestVirt(task))
    });
    let set = FLAGS.iter().filter(|(bit, _)| owner & bit != 0);
    Ok(Mutex {
        at,
        owner: Contender::of_word(kernel, owner, 7)?,
        flags: set.map(|(_, name)| *name).collect(),
        waiters: waiters.collect::<Result<_>>()?,
    })
}
