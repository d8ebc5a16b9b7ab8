//! Calls of functions and events of tracepoints, as values.

use serde::Serialize;

use crate::debug::arguments::Argument;
use crate::debug::{Ended, Return};
use crate::kernel::Function as Place;
use crate::kmod::reader::CpuTally;
use crate::kmod::ring::Context;
use crate::object::Value;

/// Counts of a trace's records; a call has one, its return another, and each stack a third. An event of a tracepoint has one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TraceTally {
    /// Records that were read whole.
    pub delivered: u64,
    /// Records that were overwritten before they were read, or while.
    pub lost: u64,
    /// Calls, returns or events that the kernel could not watch.
    pub missed: u64,
    /// Records that were read, and not kept: there were too many.
    pub left_out: u64,
    /// Calls that did not meet the condition.
    pub passed: u64,
    /// Calls for which the condition could not be evaluated: what a pointer led to cannot be read.
    pub undecided: u64,
    /// `delivered` and `lost` by CPU.
    pub cpus: Vec<CpuTally>,
}

/// Text that was copied at a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallText {
    /// The argument that leads to it.
    pub arg: String,
    /// The text, its first 80 bytes at most.
    pub text: String,
    /// True if that is all of it.
    pub whole: bool,
}

/// Records of a CPU that are not there: lost, or left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The CPU.
    pub cpu: u32,
    /// Time of its last record before, in nanoseconds; `None`: there is none.
    pub after: Option<u64>,
    /// Time of its next record, in nanoseconds; `None`: there is none.
    pub before: Option<u64>,
    /// Number of the records.
    pub records: u64,
}

/// A call of a traced function, or an event of a traced tracepoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TracedCall {
    /// Time at which it began, in nanoseconds of the guest's monotonic clock.
    pub time: u64,
    /// The CPU that it began on.
    pub cpu: u32,
    /// Work of the CPU; in an interrupt the task is only the one that was interrupted.
    #[serde(serialize_with = "context")]
    pub context: Context,
    /// `current->pid`.
    pub pid: u32,
    /// `current->tgid`.
    pub tgid: u32,
    /// `current->comm`.
    pub comm: String,
    /// The function or the tracepoint, as views print it: `vfs_read`, `sched:sched_switch`.
    pub function: String,
    /// True for an event of a tracepoint, which returns nothing and takes no time.
    pub point: bool,
    /// Its arguments; none where BTF has no prototype.
    pub args: Vec<Argument>,
    /// The text that an argument leads to, as it was at the call.
    pub text: Option<CallText>,
    /// Members of what arguments point to, as they were at the call: `next->pid`.
    pub members: Vec<Argument>,
    /// The kernel stack, from the caller on, or from where a tracepoint lies; `None` where it was not asked for, or its record was
    /// lost.
    pub stack: Option<CallStack>,
    /// Return value.
    pub returned: Return,
    /// Duration, in nanoseconds; `None` where its return was not seen, and for a tracepoint.
    pub duration: Option<u64>,
}

/// The kernel stack of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct CallStack {
    /// Where each frame goes on, the innermost first.
    pub frames: Vec<Place>,
    /// True if these are all.
    pub whole: bool,
}

fn context<S: serde::Serializer>(context: &Context, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(crate::skb::context_name(*context))
}

/// The calls of some functions and the events of some tracepoints while they were traced, in the order in which they began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Traced {
    /// The functions and tracepoints.
    pub functions: Vec<String>,
    /// Number of these that are tracepoints.
    pub points: usize,
    /// The calls and events.
    pub calls: Vec<TracedCall>,
    /// Times in which records of a CPU are not there.
    pub gaps: Vec<Gap>,
    /// Numbers of lost calls.
    pub tally: TraceTally,
    /// Reason for the end.
    pub ended: Ended,
}

impl TracedCall {
    /// The value of the argument of a name, or of a member that was copied: `count`, `next->pid`.
    #[must_use]
    pub fn arg(&self, name: &str) -> Option<&Value> {
        let mut args = self.args.iter().chain(&self.members);
        Some(&args.find(|arg| arg.name == name)?.value)
    }

    /// The same as a number; `None` for what is none.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<i64> {
        match self.arg(name)? {
            Value::Int(number) | Value::Enum(number, _) => Some(*number),
            Value::Uint(number) => Some(number.cast_signed()),
            Value::Bool(set) => Some(i64::from(*set)),
            Value::Pointer { at, .. } => Some(at.0.cast_signed()),
            _ => None,
        }
    }
}
