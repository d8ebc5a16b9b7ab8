//! `struct rw_semaphore` (`include/linux/rwsem.h`, `kernel/locking/rwsem.c`).

use serde::Serialize;

use super::{Contender, each, rt_mutex, waiters};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{enumerator, offset_of, twice};
use crate::{Error, Missing, Result};

// kernel/locking/rwsem.c: bits of `count`, and of `owner`.
const WRITER_LOCKED: u64 = 1;
const HANDOFF: u64 = 4;
const READER_SHIFT: u32 = 8;
const READFAIL: u64 = 1 << 63;
const READER_OWNED: u64 = 1;
const OWNER_FLAGS: u64 = 3;
// Other values of `readers` beside their number: `READER_BIAS` (`include/linux/rwbase_rt.h:8@v7.3.4`) and the next.
const READER_BIAS: u32 = 1 << 31;
const WRITER_BIAS: u32 = 1 << 30;

/// State of a semaphore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum RwState {
    /// By nobody.
    Free,
    /// By so many readers.
    Readers(u64),
    /// By a writer.
    Writer,
}

/// A task that waits for a semaphore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RwSemWaiter {
    /// The task.
    pub task: Contender,
    /// True if it wants to write. `None` if the lock does not say: with PREEMPT_RT readers and writers queue up for one
    /// rt_mutex, whose waiters have no mark of it (`struct rt_mutex_waiter`, `kernel/locking/rtmutex_common.h:52@v7.3.4`).
    pub writer: Option<bool>,
}

/// A semaphore for one writer or many readers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RwSem {
    /// Address.
    pub at: GuestVirt,
    /// State of the semaphore.
    pub state: RwState,
    /// The writer that holds it; of readers the one that took it last, which may have left it since. With PREEMPT_RT no
    /// reader is known: they are counted (`rwbase_read_trylock`, `kernel/locking/rwbase_rt.c:53@v7.3.4`).
    pub owner: Option<Contender>,
    /// True if the first waiter is to have it next, before any task that does not sleep.
    pub handoff: bool,
    /// Waiters, in the order in which they came; with PREEMPT_RT the most urgent first, after the one that
    /// has the rt_mutex already.
    pub waiters: Vec<RwSemWaiter>,
    /// Parts that could not be read: where it is the owner, `owner` is `None` too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// Reads the `struct rw_semaphore` at an address: its owner and its waiters.
pub(crate) fn rwsem(kernel: &Kernel, at: GuestVirt) -> Result<RwSem> {
    twice(&format!("the rw_semaphore at {at}"), || read(kernel, at))
}

fn read(kernel: &Kernel, at: GuestVirt) -> Result<RwSem> {
    let c = "struct rw_semaphore";
    if let Ok(readers) = offset_of(kernel, c, "rwbase.readers.counter") {
        return rt(kernel, at, readers);
    }
    let word = |member: &str| kernel.read_u64(at.offset(offset_of(kernel, c, member)?));
    let (count, owner) = (word("count.counter")?, word("owner.counter")?);
    let state = match (count & WRITER_LOCKED, (count & !READFAIL) >> READER_SHIFT) {
        (0, 0) => RwState::Free,
        (0, readers) => RwState::Readers(readers),
        _ => RwState::Writer,
    };
    let task = offset_of(kernel, "struct rwsem_waiter", "task")?;
    let kind = offset_of(kernel, "struct rwsem_waiter", "type")?;
    let writes = enumerator(kernel, "RWSEM_WAITING_FOR_WRITE")?.ok_or_else(|| {
        Error::Absent("this kernel has no enumerator RWSEM_WAITING_FOR_WRITE".to_owned())
    })?;
    let waiters = waiters(kernel, at, c, "struct rwsem_waiter")?;
    let mut missing = Vec::new();
    let waiters = each(waiters, &mut missing, |waiter| {
        let at = GuestVirt(kernel.read_u64(waiter.offset(task))?);
        Ok(RwSemWaiter {
            task: Contender::read(kernel, at)?,
            writer: Some(i64::from(kernel.read_u32(waiter.offset(kind))?) == writes),
        })
    });
    // The word that readers leave there may be a task that is gone.
    let stale = state == RwState::Free && owner & READER_OWNED != 0;
    Ok(RwSem {
        at,
        state,
        owner: match stale {
            true => None,
            false => Contender::of_word(kernel, owner, OWNER_FLAGS, &mut missing),
        },
        handoff: count & HANDOFF != 0,
        waiters,
        missing,
    })
}

/// With PREEMPT_RT: a count of readers, and an rt_mutex. A writer takes the rt_mutex, then the readers' bias away, so that
/// readers that come now queue up behind it, and waits until the last reader left; only then is it the one that holds the
/// semaphore (`rwbase_write_lock`, `kernel/locking/rwbase_rt.c:244@v7.3.4`). A reader that had to queue up has the rt_mutex
/// for a moment too, until it is counted (`__rwbase_read_lock`, `kernel/locking/rwbase_rt.c:68@v7.3.4`).
fn rt(kernel: &Kernel, at: GuestVirt, readers: u64) -> Result<RwSem> {
    let count = kernel.read_u32(at.offset(readers))?;
    let base = offset_of(kernel, "struct rw_semaphore", "rwbase.rtmutex")?;
    let base = rt_mutex::read(kernel, at.offset(base))?;
    let state = match (count, count & !READER_BIAS) {
        (WRITER_BIAS, _) => RwState::Writer,
        (_, 0) => RwState::Free,
        (_, readers) => RwState::Readers(readers.into()),
    };
    let (owner, next) = match state {
        RwState::Writer => (base.owner, None),
        _ => (None, base.owner),
    };
    // None but a writer takes the bias away.
    let writer = (count & READER_BIAS == 0).then_some(true);
    let next = next.map(|task| RwSemWaiter { task, writer });
    let waiters = base.waiters.into_iter().map(|waiter| RwSemWaiter {
        task: waiter.task,
        writer: None,
    });
    Ok(RwSem {
        at,
        state,
        owner,
        handoff: false,
        waiters: next.into_iter().chain(waiters).collect(),
        missing: base.missing,
    })
}
