//! Stopping the kernel: where it comes by, and where it has written.
//!
//! ```no_run
//! # use probes::prelude::*;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! // Who writes this word?
//! let write = guest.who_writes(&guest.eval("total_forks")?)?;
//! // What do these calls get, and give?
//! guest.break_at("vfs_read", |call| {
//!     println!("{} reads {}", call.task()?.comm, call.arg("count")?.u64()?);
//!     Ok(call.hits() < 3)
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! It is QEMU's gdbstub that stops the guest, so this works on every kernel, without the module, and also on attached machines that
//! have a gdbstub. Nothing is written into the guest. A stop is a lease: whatever ends the process that stops it, the guest runs again
//! and no breakpoint stays (`vm::Debugger`).
//!
//! A stop can also be kept, and gone on from step by step:
//!
//! ```no_run
//! # use probes::prelude::*;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! let mut stop = guest.breakpoint("vfs_read")?.shell("cat /etc/passwd").stay()?;
//! let count = stop.arg("count")?.u64()?;
//! stop.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! While the guest stands, all its CPUs stand, and every reader works on it. What a function is called with comes from BTF's
//! prototype and the System V calling convention, so it is right at the function's entry: before and after the `endbr64`,
//! before and after the call of ftrace.
//!
//! A function that the compiler has put into all its callers has no address; of one that it has put into some, only the other
//! calls are seen.

pub(crate) mod arguments;
mod breakpoint;
mod call;
mod calls;
pub(crate) mod function;
mod invocation;
mod moves;
mod rewind;
pub(crate) mod stop;
mod stopped;
mod traps;
mod view;
mod watchpoint;
mod whereabouts;
pub(crate) mod work;
mod writer;

pub use arguments::Argument;
pub use breakpoint::{Breakpoint, Ended, Hits, Onward};
pub use call::Call;
pub use calls::{CallRecord, Calls, Return};
pub use rewind::{History, Moment, PastWrite};
pub use stopped::Stopped;
pub use watchpoint::{Watchpoint, Write};
pub use whereabouts::{Args, Reason, Where};
pub use writer::Written;
