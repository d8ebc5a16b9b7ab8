//! Signals: what waits, what is blocked, what is done about each (`include/linux/sched/signal.h`, `kernel/signal.c`).

use std::borrow::Cow;

use serde::Serialize;

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::sched::Task;
use crate::structures::{array, enumerator, list_for_each_entry, offset_of};
use crate::{Error, Result};

/// Signals by number from 1, of `arch/x86/include/uapi/asm/signal.h`; from 32 on they have numbers only.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// `SA_*` of `include/uapi/asm-generic/signal-defs.h`.
const FLAGS: [(u64, &str); 9] = [
    (0x1, "NOCLDSTOP"),
    (0x2, "NOCLDWAIT"),
    (0x4, "SIGINFO"),
    (0x800, "EXPOSE_TAGBITS"),
    (0x0400_0000, "RESTORER"),
    (0x0800_0000, "ONSTACK"),
    (0x1000_0000, "RESTART"),
    (0x4000_0000, "NODEFER"),
    (0x8000_0000, "RESETHAND"),
];
/// Signals that may wait in a queue, as far as we read: `RLIMIT_SIGPENDING` bounds them.
const QUEUE_BOUND: usize = 1 << 20;

/// A signal's name without `SIG`; from 32 on its number.
#[must_use]
pub fn signal_name(number: u32) -> Cow<'static, str> {
    let name = (number as usize)
        .checked_sub(1)
        .and_then(|i| NAMES.get(i).copied());
    name.map_or_else(|| number.to_string().into(), Cow::Borrowed)
}

/// A set of signals: a `sigset_t`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignalSet {
    /// Its bits, as `/proc/PID/status` prints them in hexadecimal: bit 0 is signal 1.
    pub bits: u64,
    /// The names without `SIG`.
    pub names: Vec<Cow<'static, str>>,
}

impl SignalSet {
    fn new(bits: u64) -> Self {
        let names = (1..=64).filter(|number| bits >> (number - 1) & 1 == 1);
        Self {
            bits,
            names: names.map(signal_name).collect(),
        }
    }
}

/// A signal that waits with its `siginfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueuedSignal {
    /// Its number.
    pub number: u32,
    /// Its name without `SIG`.
    pub name: Cow<'static, str>,
    /// `si_code`: where it comes from.
    pub code: i32,
    /// The process that sent it, as far as one did: `si_pid`, for codes from `kill()` and its like.
    pub from: Option<i32>,
    /// True if it is for the whole process.
    pub shared: bool,
}

/// Action on a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Disposition {
    /// `SIG_IGN`
    Ignore,
    /// The process's function at this address.
    Handler(GuestVirt),
}

/// A process's `sigaction` for one signal, if it is not the default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignalAction {
    /// The signal's number.
    pub number: u32,
    /// Its name without `SIG`.
    pub name: Cow<'static, str>,
    /// Action.
    pub does: Disposition,
    /// `SA_*` without `SA_`.
    pub flags: Vec<&'static str>,
    /// Signals that are blocked meanwhile: `sa_mask`.
    pub mask: SignalSet,
}

/// The signals of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signals {
    /// Signals that are pending for this thread: `SigPnd`.
    pub pending: SignalSet,
    /// Signals that are pending for any thread of the process: `ShdPnd`.
    pub shared_pending: SignalSet,
    /// Signals that this thread blocks: `SigBlk`.
    pub blocked: SignalSet,
    /// Signals that the process ignores: `SigIgn`.
    pub ignored: SignalSet,
    /// Signals that the process has handlers for: `SigCgt`.
    pub caught: SignalSet,
    /// Each signal that waits; one that waits twice is listed twice where the kernel queued it twice.
    pub queue: Vec<QueuedSignal>,
    /// Actions that are not the default.
    pub actions: Vec<SignalAction>,
    /// Signals that are queued for this user, and how many may be.
    pub queued: (u64, u64),
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct TaskStruct {
    sighand: GuestVirt,
    #[mirror(member = "blocked.sig")]
    blocked: [u64; 1],
    #[mirror(member = "pending.signal.sig")]
    pending: [u64; 1],
    real_cred: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct sigaction")]
struct Sigaction {
    sa_handler: GuestVirt,
    sa_flags: u64,
    #[mirror(member = "sa_mask.sig")]
    mask: [u64; 1],
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct sigqueue")]
struct Sigqueue {
    #[mirror(member = "info.si_signo")]
    number: u32,
    #[mirror(member = "info.si_code")]
    code: i32,
    #[mirror(member = "info._sifields._kill._pid")]
    pid: i32,
}

impl Guest {
    /// The signals of the task `pid`: `SigQ` to `SigCgt` of `/proc/PID/status`, with what is queued and every handler.
    ///
    /// # Errors
    /// `Absent` if there is no such task, or it has exited; `Broken` if a queue is damaged; `Torn` if they keep
    /// changing.
    pub fn signals(&self, pid: i32) -> Result<Signals> {
        self.of_task(pid, "the signals", read)
    }
}

fn read(kernel: &Kernel, task: &Task) -> Result<Signals> {
    let raw: TaskStruct = kernel.load(task.at)?;
    if raw.sighand.is_null() {
        return Err(Error::Absent(format!(
            "task {} ({}) has exited: it has no signals any more",
            task.pid, task.comm
        )));
    }
    let (mut ignored, mut caught, mut actions) = (0, 0, Vec::new());
    let (first, count, stride) = array(kernel, "struct sighand_struct", "action")?;
    for i in 0..count.min(64) as u64 {
        let sa: Sigaction = kernel.load(raw.sighand.offset(first + stride * i))?;
        // SIG_DFL and SIG_IGN of include/uapi/asm-generic/signal-defs.h.
        let does = match sa.sa_handler.0 {
            0 => continue,
            1 => {
                ignored |= 1 << i;
                Disposition::Ignore
            }
            _ => {
                caught |= 1 << i;
                Disposition::Handler(sa.sa_handler)
            }
        };
        let number = i as u32 + 1;
        let set = FLAGS.iter().filter(|(bit, _)| sa.sa_flags & bit != 0);
        actions.push(SignalAction {
            number,
            name: signal_name(number),
            does,
            flags: set.map(|(_, name)| *name).collect(),
            mask: SignalSet::new(sa.mask[0]),
        });
    }
    let shared = offset_of(kernel, "struct signal_struct", "shared_pending")?;
    let own = offset_of(kernel, "struct task_struct", "pending")?;
    let mut queue = Vec::new();
    queued(kernel, task.at.offset(own), false, &mut queue)?;
    queued(kernel, task.signal.offset(shared), true, &mut queue)?;
    let bits = offset_of(kernel, "struct sigpending", "signal")?;
    let shared = kernel.read_u64(task.signal.offset(shared + bits))?;
    Ok(Signals {
        pending: SignalSet::new(raw.pending[0]),
        shared_pending: SignalSet::new(shared),
        blocked: SignalSet::new(raw.blocked[0]),
        ignored: SignalSet::new(ignored),
        caught: SignalSet::new(caught),
        queue,
        actions,
        queued: (
            of_user(kernel, raw.real_cred)?,
            // RLIMIT_SIGPENDING is 11.
            kernel.read_u64(task.signal.offset(limit(kernel)?))?,
        ),
    })
}

fn limit(kernel: &Kernel) -> Result<u64> {
    let (rlim, _, stride) = array(kernel, "struct signal_struct", "rlim")?;
    Ok(rlim + 11 * stride)
}

/// `get_rlimit_value(task_ucounts(p), UCOUNT_RLIMIT_SIGPENDING)`, as `task_sig()` of `fs/proc/array.c` shows it.
fn of_user(kernel: &Kernel, cred: GuestVirt) -> Result<u64> {
    let at = cred.offset(offset_of(kernel, "struct cred", "ucounts")?);
    let ucounts = GuestVirt(kernel.read_u64(at)?);
    let (counts, _, stride) = array(kernel, "struct ucounts", "rlimit")?;
    let index = enumerator(kernel, "UCOUNT_RLIMIT_SIGPENDING")?;
    let index = index.map_or(0, i64::unsigned_abs);
    kernel.read_u64(ucounts.offset(counts + stride * index))
}

/// The `sigqueue`s of a `sigpending`.
fn queued(
    kernel: &Kernel,
    pending: GuestVirt,
    shared: bool,
    queue: &mut Vec<QueuedSignal>,
) -> Result<()> {
    let head = pending.offset(offset_of(kernel, "struct sigpending", "list")?);
    let member = offset_of(kernel, "struct sigqueue", "list")?;
    for at in list_for_each_entry(kernel, head, member).bound(QUEUE_BOUND) {
        let raw: Sigqueue = kernel.load(at?)?;
        queue.push(QueuedSignal {
            number: raw.number,
            name: signal_name(raw.number),
            code: raw.code,
            // SI_USER, SI_QUEUE, SI_TKILL; of what the kernel sends by itself the field is another.
            from: matches!(raw.code, 0 | -1 | -6).then_some(raw.pid),
            shared,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_begin_with_signal_1() {
        assert_eq!(SignalSet::new(0x4001).names, ["HUP", "TERM"]);
        assert_eq!(SignalSet::new(1 << 63 | 1 << 31).names, ["32", "64"]);
        assert_eq!(
            (signal_name(31), signal_name(0)),
            ("SYS".into(), "0".into())
        );
    }
}
