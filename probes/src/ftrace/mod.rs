//! The calls of functions and the events of tracepoints while something runs: arguments, return value and duration of each, without
//! stopping the guest.
//!
//! ```no_run
//! # use probes::prelude::*;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! let reads = guest.trace(["vfs_read", "do_sys_openat2"])?.shell("cat /etc/passwd").calls()?;
//! println!("{}", reads.latencies().text());
//! // Only these, and the guest does not even write down the others:
//! // Tracepoints by the same call; of the tasks that their arguments point to, name and PID are copied.
//! guest.trace(["sched_switch"])?.when("next->pid == 1").calls()?;
//! guest.trace(["vfs_read"])?.when("count > 4096").during(|| Ok(()))?;
//! # Ok(())
//! # }
//! ```
//!
//! The module of `kmod/` hooks the functions by ftrace, registers a probe on the tracepoints, and writes a record for each call,
//! each return and each event into rings in the guest's RAM, which are read here through the mapping. Which functions, and how their arguments are typed, is decided here: by
//! BTF's prototype, and ftrace's own table of what it can hook. A comparison of an argument with a number is made in the
//! guest; the rest of a condition is evaluated here. What a pointer leads to is read when the trace has ended, so only text is
//! shown: that of a `const char *`, a `struct filename`, a `struct dentry` or a `struct qstr`, which the module copies at the call;
//! and the members that the user names, the condition mentions, or that say which task a `struct task_struct` is.

mod calls;
mod condition;
mod decode;
mod function;
mod member;
mod pairs;
mod perfetto;
mod point;
mod record;
mod stacks;
mod sums;
mod text;
mod timeline;
mod trace;
mod tree;
mod view;

pub use calls::{CallStack, CallText, Gap, TraceTally, Traced, TracedCall};
pub use stacks::{StackCount, Stacks};
pub use sums::{Counts, Latencies, Latency};
pub use timeline::{Slice, TaskTime, Timeline, Unknown};
pub use trace::Trace;
pub use tree::CallTree;
