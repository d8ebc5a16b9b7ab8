//! `struct rt_mutex_base`: a lock that lends its owner the priority of its waiters (`include/linux/rtmutex.h`,
//! `kernel/locking/rtmutex_common.h`).

use serde::Serialize;

use super::{BOUND, Contender, each};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::structures::{offset_of, rbtree_for_each_entry, twice};
use crate::{Listing, Missing, Result};

/// `RT_MUTEX_HAS_WAITERS`: the lowest bit of `owner`.
const HAS_WAITERS: u64 = 1;

/// A task that waits for an `rt_mutex`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RtWaiter {
    /// The task.
    pub task: Contender,
    /// The priority that it waits with, and lends: lower is more urgent.
    pub prio: i32,
    /// Its deadline, if its priority is -1.
    pub deadline: u64,
}

/// A mutex with priority inheritance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RtMutex {
    /// Address.
    pub at: GuestVirt,
    /// True if somebody has it.
    pub locked: bool,
    /// Owner; `None` if nobody has it, or if that task could not be read.
    pub owner: Option<Contender>,
    /// Waiters, the most urgent first.
    pub waiters: Vec<RtWaiter>,
    /// Parts that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct rt_mutex_waiter")]
struct Waiter {
    task: GuestVirt,
    #[mirror(member = "tree.prio", or = "prio")]
    prio: i32,
    #[mirror(member = "tree.deadline", or = "deadline")]
    deadline: u64,
}

/// Reads the `struct rt_mutex` or `rt_mutex_base` at an address: its owner and its waiters.
pub(crate) fn rt_mutex(kernel: &Kernel, at: GuestVirt) -> Result<RtMutex> {
    twice(&format!("the rt_mutex at {at}"), || read(kernel, at))
}

pub(super) fn read(kernel: &Kernel, at: GuestVirt) -> Result<RtMutex> {
    let c = "struct rt_mutex_base";
    let owner = kernel.read_u64(at.offset(offset_of(kernel, c, "owner")?))?;
    let root = at.offset(offset_of(kernel, c, "waiters.rb_root")?);
    let node = offset_of(kernel, "struct rt_mutex_waiter", "tree.entry")
        .or_else(|_| offset_of(kernel, "struct rt_mutex_waiter", "tree_entry"))?;
    let walk = rbtree_for_each_entry(kernel, root, node).bound(BOUND);
    let mut missing = Vec::new();
    let waiters = each(Listing::walk("waiters", walk), &mut missing, |waiter| {
        let waiter: Waiter = kernel.load(waiter)?;
        Ok(RtWaiter {
            task: Contender::read(kernel, waiter.task)?,
            prio: waiter.prio,
            deadline: waiter.deadline,
        })
    });
    Ok(RtMutex {
        at,
        locked: owner & !HAS_WAITERS != 0,
        owner: Contender::of_word(kernel, owner, HAS_WAITERS, &mut missing),
        waiters,
        missing,
    })
}
