//! A stack trace: frames, their functions and stacks, and how it ends.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::stacks::StackKind;
use crate::Listing;
use crate::kernel::shown;
use crate::memory::GuestVirt;
use crate::sched::TaskState;

/// The name of a function or module. Frames of one reading share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// One frame: an address in the kernel, a module, or code that the kernel made while it ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// Address at which the function goes on; of a CPU's first frame and of an interrupted one, the address where it is.
    pub ip: GuestVirt,
    /// Its stack pointer there.
    pub sp: GuestVirt,
    /// The function; nothing for an address of no symbol.
    pub function: Name,
    /// Offset in the function, in bytes.
    pub offset: u64,
    /// The function's module; what the kernel made while it ran has the names of `/proc/kallsyms`: `__builtin__ftrace`,
    /// `__builtin__kprobes`, `bpf`.
    pub module: Option<Name>,
    /// The stack that it is on.
    pub stack: StackKind,
    /// True if it called nothing: an interrupt, an exception or a probe broke into it, and saved all its registers.
    pub interrupted: bool,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.function.is_empty() {
            true => write!(f, "{} ?", self.ip)?,
            false => {
                let (name, offset) = (shown(&self.function), self.offset);
                write!(f, "{} {name}+{offset:#x}", self.ip)?;
            }
        }
        if let Some(module) = &self.module {
            write!(f, " [{module}]")?;
        }
        match self.interrupted {
            true => f.write_str(" (interrupted)"),
            false => Ok(()),
        }
    }
}

/// Reasons why a trace has no more frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum TraceEnd {
    /// Before it there was user space.
    User,
    /// It is where the task began.
    Start,
    /// The task has exited: its stack is freed.
    Freed,
    /// It could not be followed: why.
    Lost(String),
}

/// The frames of a task, the innermost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StackTrace {
    /// The task.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Its state.
    pub state: TaskState,
    /// The CPU that runs it: whose stack pointer is in its stack. `None` for one that does not run, and for one that a CPU
    /// is about to run, or has just left, in the middle of `__switch_to()`.
    pub cpu: Option<u32>,
    /// Its frames.
    pub frames: Vec<Frame>,
    /// Reason why there are no more.
    pub end: TraceEnd,
}

/// The traces of many tasks, and the tasks that have none because something of them could not be read.
pub type StackTraces = Listing<StackTrace>;
