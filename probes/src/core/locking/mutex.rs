//! `struct mutex` (`include/linux/mutex_types.h`, `kernel/locking/mutex.c`).

use serde::Serialize;

use super::{Contender, each, rt_mutex, waiters};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{offset_of, twice};
use crate::{Missing, Result};

/// `MUTEX_FLAG_*` of `kernel/locking/mutex.h`: the lower bits of `owner`.
const FLAGS: [(u64, &str); 3] = [(1, "WAITERS"), (2, "HANDOFF"), (4, "PICKUP")];

/// A mutex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mutex {
    /// Address.
    pub at: GuestVirt,
    /// True if somebody has it.
    pub locked: bool,
    /// Owner; `None` if nobody has it, or if that task could not be read.
    pub owner: Option<Contender>,
    /// `MUTEX_FLAG_*` without `MUTEX_FLAG_`; a kernel with PREEMPT_RT has none.
    pub flags: Vec<&'static str>,
    /// Waiters, in the order in which they came.
    pub waiters: Vec<Contender>,
    /// Parts that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// Reads the `struct mutex` at an address: its owner and its waiters.
pub(crate) fn mutex(kernel: &Kernel, at: GuestVirt) -> Result<Mutex> {
    twice(&format!("the mutex at {at}"), || read(kernel, at))
}

fn read(kernel: &Kernel, at: GuestVirt) -> Result<Mutex> {
    if let Ok(base) = offset_of(kernel, "struct mutex", "rtmutex") {
        let base = rt_mutex::read(kernel, at.offset(base))?;
        return Ok(Mutex {
            at,
            locked: base.locked,
            owner: base.owner,
            flags: Vec::new(),
            waiters: base.waiters.into_iter().map(|waiter| waiter.task).collect(),
            missing: base.missing,
        });
    }
    let owner = at.offset(offset_of(kernel, "struct mutex", "owner.counter")?);
    let owner = kernel.read_u64(owner)?;
    let task = offset_of(kernel, "struct mutex_waiter", "task")?;
    let waiters = waiters(kernel, at, "struct mutex", "struct mutex_waiter")?;
    let mut missing = Vec::new();
    let waiters = each(waiters, &mut missing, |waiter| {
        let task = kernel.read_u64(waiter.offset(task))?;
        Contender::read(kernel, GuestVirt(task))
    });
    let set = FLAGS.iter().filter(|(bit, _)| owner & bit != 0);
    Ok(Mutex {
        at,
        locked: owner & !7 != 0,
        owner: Contender::of_word(kernel, owner, 7, &mut missing),
        flags: set.map(|(_, name)| *name).collect(),
        waiters,
        missing,
    })
}
