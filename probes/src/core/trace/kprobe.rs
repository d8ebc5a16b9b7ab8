//! Kprobes: `struct kprobe` (`include/linux/kprobes.h`, `kernel/kprobes.c`).

use serde::Serialize;

use super::{BOUND, NAME};
use crate::kernel::{Function, Functions, Kernel};
use crate::memory::GuestVirt;
use crate::object::{Mirror, Object, Plan};
use crate::structures::{hlist_for_each_entry, offset_of, whole_list};
use crate::{Error, Listing, Result};

/// `KPROBE_TABLE_SIZE` of `kernel/kprobes.c`.
const BUCKETS: u64 = 64;
/// `KPROBE_FLAG_*` of `include/linux/kprobes.h`.
const FLAGS: [(u32, &str); 4] = [
    (1, "GONE"),
    (2, "DISABLED"),
    (4, "OPTIMIZED"),
    (8, "FTRACE"),
];

/// A probe at an instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kprobe {
    /// Address of its `struct kprobe`.
    pub at: GuestVirt,
    /// The instruction.
    pub place: Function,
    /// Function that is called there.
    pub handler: Option<Function>,
    /// True if it is about the function's return.
    pub is_return: bool,
    /// `GONE`, `DISABLED`, `OPTIMIZED` for a jump instead of a breakpoint, `FTRACE` for a hook at a function's entry.
    pub flags: Vec<&'static str>,
    /// Number of hits that were missed because a probe was already at work: `nmissed`.
    pub nmissed: u64,
    /// The event that it was made for: `kprobes:myprobe`.
    pub event: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct kprobe")]
struct Raw {
    addr: GuestVirt,
    pre_handler: GuestVirt,
    nmissed: u64,
    flags: u32,
}

/// The probes.
pub(crate) fn read(kernel: &Kernel, functions: &Functions<'_>) -> Result<Listing<Kprobe>> {
    // A kernel without CONFIG_KPROBES has none.
    let Some(table) = kernel.symbols()?.lookup("kprobe_table") else {
        return Ok(Listing::new());
    };
    let of = |member| offset_of(kernel, "struct kprobe", member);
    let (node, list) = (of("hlist")?, of("list")?);
    let symbol = |name| kernel.symbols().map(|symbols| symbols.lookup(name));
    // Several probes at one place are on the list of one that stands for all of them.
    let many = symbol("aggr_pre_handler")?;
    let plan = Plan::<Raw>::new(kernel)?;
    let mut probes = Listing::new();
    for bucket in 0..BUCKETS {
        let head = table.offset(bucket * 8);
        let what = format!("the kprobes of bucket {bucket} at {head}");
        let nodes = Listing::walk(&what, hlist_for_each_entry(kernel, head, node).bound(BOUND));
        probes.missing.extend(nodes.missing);
        for at in nodes.items {
            let raw = match plan.load(at) {
                Ok(raw) => raw,
                Err(error) => {
                    probes.miss(format!("the kprobe at {at}"), &error);
                    continue;
                }
            };
            let all = match Some(raw.pre_handler) == many {
                true => {
                    let what = format!("the kprobes at one place, of {at}");
                    whole_list(kernel, at.offset(list), list, BOUND, &what)
                }
                false => vec![at].into(),
            };
            probes.missing.extend(all.missing);
            for own in all.items {
                let probe = probe(kernel, functions, own, raw.flags);
                probes.take(probe, || format!("the kprobe at {own}"));
            }
        }
    }
    probes.sort_by_key(|probe| (probe.place.at, probe.at));
    Ok(probes)
}

/// One probe; how it is done is said by the flags of the one that stands for all at its place.
fn probe(kernel: &Kernel, functions: &Functions<'_>, at: GuestVirt, shared: u32) -> Result<Kprobe> {
    let raw: Raw = kernel.load(at)?;
    let own = FLAGS[..2].iter().filter(|(flag, _)| raw.flags & flag != 0);
    let how = FLAGS[2..].iter().filter(|(flag, _)| shared & flag != 0);
    let handler = functions.of(raw.pre_handler)?;
    let is = |name: &str| {
        let function = handler.as_ref().filter(|handler| handler.offset == 0);
        function.and_then(|handler| handler.name.as_deref()) == Some(name)
    };
    let is_return = is("pre_handler_kretprobe");
    Ok(Kprobe {
        at,
        place: functions.at(raw.addr)?,
        is_return,
        flags: own.chain(how).map(|(_, name)| *name).collect(),
        nmissed: raw.nmissed,
        event: match is("kprobe_dispatcher") || is_return {
            true => event(kernel, at, is_return)?,
            false => None,
        },
        handler,
    })
}

/// The event of a probe that user space made: the probe is in a `struct trace_kprobe`.
fn event(kernel: &Kernel, at: GuestVirt, is_return: bool) -> Result<Option<String>> {
    let c = "struct trace_kprobe";
    let inside = match offset_of(kernel, c, "rp.kp") {
        Ok(inside) => inside,
        // A kernel without CONFIG_KPROBE_EVENTS.
        Err(Error::NoType { .. } | Error::NoMember { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let probe = Object::at(kernel, c, at.back(inside))?;
    if is_return {
        // Others use return probes, too.
        let handler = probe.member("rp.handler")?.pointer()?;
        if Some(handler) != kernel.symbols()?.lookup("kretprobe_dispatcher") {
            return Ok(None);
        }
    }
    let call = probe.member("tp.event")?.deref()?.member("call")?;
    let system = call.member("class")?.member("system")?.string()?;
    let name = kernel.read_cstr(call.member("name")?.pointer()?, NAME)?;
    Ok(Some(format!("{system}:{name}")))
}
