//! The instances of the tracer: `struct trace_array` (`kernel/trace/trace.h`).

use serde::Serialize;

use super::{BOUND, NAME};
use crate::base::parts;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Object, Plan};
use crate::structures::{offset_of, whole_list};
use crate::{Listing, Of as _, Result};

/// A buffer with its tracer and events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TraceInstance {
    /// Address of its `struct trace_array`.
    pub at: GuestVirt,
    /// Its name; `None` for the one of `/sys/kernel/tracing` itself.
    pub name: Option<String>,
    /// Its tracer: `current_tracer`.
    pub tracer: String,
    /// The events that are written to it: `set_event`.
    pub events: Vec<String>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct trace_array")]
struct Raw {
    name: GuestVirt,
    current_trace: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct trace_event_file")]
struct File {
    event_call: GuestVirt,
    flags: u64,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct trace_event_call")]
struct Call {
    class: GuestVirt,
    name: GuestVirt,
    flags: u32,
}

/// Bits of flags.
struct Flags {
    /// Bits in `flags` of a `trace_event_file`.
    enabled: u64,
    /// Bits in `flags` of a `trace_event_call`: its name is that of its tracepoint, unless it is custom.
    tracepoint: u32,
    custom: u32,
}

impl Flags {
    fn of(kernel: &Kernel) -> Result<Self> {
        Ok(Self {
            enabled: kernel.constant("EVENT_FILE_FL_ENABLED")? as u64,
            tracepoint: kernel.constant("TRACE_EVENT_FL_TRACEPOINT")? as u32,
            custom: kernel
                .constant("TRACE_EVENT_FL_CUSTOM")
                .map_or(0, |flag| flag as u32),
        })
    }
}

/// The instances, that of `/sys/kernel/tracing` first.
pub(super) fn read(kernel: &Kernel) -> Result<Listing<TraceInstance>> {
    let flags = kernel.once(|| Flags::of(kernel))?;
    let head = kernel.symbol("ftrace_trace_arrays")?;
    let of = |member| offset_of(kernel, "struct trace_array", member);
    let mut instances = Listing::new();
    let nodes = whole_list(kernel, head, of("list")?, BOUND, "ftrace_trace_arrays");
    instances.missing = nodes.missing;
    for at in nodes.items {
        let mut missing = Vec::new();
        let mut instance = || {
            let raw: Raw = kernel.load(at)?;
            let tracer = Object::at(kernel, "struct tracer", raw.current_trace)?;
            let tracer = tracer.member("name")?.string();
            let events = events(kernel, &flags, at.offset(of("events")?));
            Ok(TraceInstance {
                at,
                name: match raw.name.is_null() {
                    true => None,
                    false => Some(kernel.read_cstr(raw.name, NAME)?),
                },
                tracer: tracer.of(|| format!("its current_trace {}", raw.current_trace))?,
                events: parts(&mut missing, &format!("events of {at}"), events),
            })
        };
        instances.take(instance(), || format!("the trace_array at {at}"));
        instances.missing.extend(missing);
    }
    // The kernel adds to the list's front.
    instances.reverse();
    Ok(instances)
}

/// The events on a list that are enabled, as `system:name`.
fn events(kernel: &Kernel, flags: &Flags, head: GuestVirt) -> Result<Listing<String>> {
    let (file, call) = (Plan::<File>::new(kernel)?, Plan::<Call>::new(kernel)?);
    let list = offset_of(kernel, "struct trace_event_file", "list")?;
    let mut events = Listing::new();
    let nodes = whole_list(kernel, head, list, BOUND, "the list of events");
    events.missing = nodes.missing;
    for at in nodes.items {
        let event = || {
            let raw = file.load(at)?;
            if raw.flags & flags.enabled == 0 {
                return Ok(None);
            }
            let call = call
                .load(raw.event_call)
                .of(|| format!("its event_call {}", raw.event_call))?;
            let tracepoint = call.flags & flags.tracepoint != 0 && call.flags & flags.custom == 0;
            let name = match tracepoint {
                true => {
                    let tracepoint = Object::at(kernel, "struct tracepoint", call.name)?;
                    tracepoint.member("name")?.string()?
                }
                false => kernel.read_cstr(call.name, NAME)?,
            };
            let class = Object::at(kernel, "struct trace_event_class", call.class)?;
            let system = class.member("system")?.string()?;
            Ok(Some(format!("{system}:{name}")))
        };
        match event() {
            Ok(event) => events.items.extend(event),
            Err(error) => events.miss(format!("the trace_event_file at {at}"), &error),
        }
    }
    Ok(events)
}
