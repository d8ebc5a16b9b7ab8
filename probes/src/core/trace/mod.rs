//! Tracing of the kernel: ftrace's users and the functions that they hook, kprobes, events (`kernel/trace`).

mod code;
mod ftrace;
mod instance;
mod kprobe;
mod view;

pub(crate) use code::{MadeCode, Maker, made_code};
pub use ftrace::{FtraceOps, TracedFunction};
pub(crate) use ftrace::{Record, call_at, ops, records};
pub use instance::TraceInstance;
pub use kprobe::Kprobe;
pub(crate) use kprobe::read as kprobes;
use serde::Serialize;

use crate::base::parts;
use crate::kernel::Functions;
use crate::kernel::Kernel;
use crate::structures::{lacks, settle_all};
use crate::{Missing, Result};

/// Instances, events, users of ftrace and kprobes that are read at most, of each.
const BOUND: usize = 1 << 16;
/// Bytes of the longest name.
const NAME: usize = 512;

/// The tracers of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tracing {
    /// True if functions may be hooked: `kernel.ftrace_enabled`.
    pub ftrace_enabled: bool,
    /// The buffers that traces go to, with their tracers and events; the first is `/sys/kernel/tracing` itself.
    pub instances: Vec<TraceInstance>,
    /// Users that have hooked functions: the list `ftrace_ops_list`.
    pub ops: Vec<FtraceOps>,
    /// The functions that are hooked: `enabled_functions`.
    pub functions: Vec<TracedFunction>,
    /// The kprobes.
    pub kprobes: Vec<Kprobe>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

lacks!(Tracing);

/// Tracers and events, functions that users of ftrace hook, kprobes: `/sys/kernel/tracing`.
pub(crate) fn tracing(kernel: &Kernel) -> Result<Tracing> {
    settle_all("what is traced", || {
        let functions = Functions::new(kernel);
        let enabled = kernel.symbol("ftrace_enabled")?;
        let mut missing = Vec::new();
        Ok(Some(Tracing {
            ftrace_enabled: kernel.read_u32(enabled)? != 0,
            instances: parts(&mut missing, "instances", instance::read(kernel)),
            ops: parts(&mut missing, "users of ftrace", ops(kernel, &functions)),
            functions: parts(
                &mut missing,
                "hooked functions",
                ftrace::enabled(kernel, &functions),
            ),
            kprobes: parts(&mut missing, "kprobes", kprobe::read(kernel, &functions)),
            missing,
        }))
    })
}
