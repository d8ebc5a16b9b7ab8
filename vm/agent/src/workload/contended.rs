//! Work for the scheduler and its locks: threads at one lock, and a deadline.
//!
//! With `unsafe`, for sched_setattr(2) has no safe form. It is sound because the structure lives through the call, which
//! only reads it, and states its own size.
#![allow(unsafe_code)]

use std::{
    fs::OpenOptions,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use rustix::thread::futex::{Flags, lock_pi};

use crate::error::{Error, Result, reason};

/// Threads at the lock, the one that has it too.
const AT_LOCK: usize = 3;
/// All threads but the main one.
pub(super) const THREADS: usize = AT_LOCK + 2;
/// The deadline's period and half of it, in nanoseconds.
const PERIOD: u64 = 20_000_000;

/// The lock: 0, or the thread that has it.
static LOCK: AtomicU32 = AtomicU32::new(0);

/// Leaves threads that take a lock with priority inheritance and keep it, one that has a lock on a file and on a range of
/// it, and one that waits for the file.
pub(super) fn queue() -> Result<()> {
    on_file()?;
    for i in 0..AT_LOCK {
        thread::Builder::new()
            .name(format!("klab-lock-{i}"))
            .spawn(|| {
                // The kernel leaves it locked by the thread that it returns to.
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

/// A file that is locked as a whole by one thread, which another waits for, and whose bytes 10 to 29 are the process's.
fn on_file() -> Result<()> {
    let path = format!("/tmp/klab-lock.{}", std::process::id());
    let open = || {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
    };
    let range = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 10,
        l_len: 20,
        l_pid: 0,
    };
    let first = open()?;
    fcntl(&first, FcntlArg::F_SETLK(&range))?;
    let first = Flock::lock(first, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let second = open()?;
    for (name, work) in [
        (
            "klab-lock-f",
            Box::new(move || keep(first)) as Box<dyn FnOnce() + Send>,
        ),
        (
            "klab-lock-w",
            Box::new(move || keep(Flock::lock(second, FlockArg::LockExclusive))),
        ),
    ] {
        thread::Builder::new().name(name.to_owned()).spawn(work)?;
    }
    Ok(())
}

/// Keeps something for ever.
fn keep<T>(thing: T) {
    loop {
        thread::park();
        std::hint::black_box(&thing);
    }
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
