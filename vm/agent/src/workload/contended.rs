//! What the scheduler and its locks have to do: threads at one lock, and a deadline.
//!
//! With `unsafe`, for sched_setattr(2) has no safe form. It is sound because the structure lives through the call, which
//! only reads it, and states its own size.
#![allow(unsafe_code)]

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use rustix::thread::futex::{Flags, lock_pi};

use crate::error::{Error, Result, reason};

/// Threads at the lock, the one that has it too.
pub(super) const THREADS: usize = 3;
/// The deadline's period and half of it, in nanoseconds.
const PERIOD: u64 = 20_000_000;

/// The lock: 0, or the thread that has it.
static LOCK: AtomicU32 = AtomicU32::new(0);

/// Leaves threads that take a lock with priority inheritance and keep it.
pub(super) fn queue() -> Result<()> {
    for i in 0..THREADS {
        thread::Builder::new()
            .name(format!("klab-lock-{i}"))
            .spawn(|| {
                // The kernel leaves it locked by whom it returns to.
                if lock_pi(&LOCK, Flags::PRIVATE, None).is_ok() {
                    loop {
                        thread::park();
                    }
                }
            })?;
        while LOCK.load(Ordering::Relaxed) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Lets the calling thread run half of each period.
pub(super) fn deadline() -> Result<()> {
    // `struct sched_attr` of include/uapi/linux/sched/types.h, as of its first version.
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: 6,
        flags: 0,
        nice: 0,
        priority: 0,
        runtime: PERIOD / 2,
        deadline: PERIOD,
        period: PERIOD,
    };
    // SAFETY: the kernel reads `size` bytes at the pointer, which is to as many.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if done == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Error(format!("no deadline: {}", reason(&error))))
}
