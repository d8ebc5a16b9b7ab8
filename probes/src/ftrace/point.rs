//! Tracepoints by name: `sched_switch`, `sched:sched_switch`, `tracepoint:pelt_cfs_tp`, those of modules too.

use super::function::matches;
use crate::debug::function::{Prototype, btf_of, of_type, prototype};
use crate::kernel::btf::Kind;
use crate::kernel::{Definition, Kernel};
use crate::memory::GuestVirt;
use crate::object::Object;
use crate::{Error, Result};

/// What stands before the name of the variable that is a tracepoint.
const VARIABLE: &str = "__tracepoint_";
/// What stands before the name of the function that calls its probes, which has their parameters with their names.
const CALLER: &str = "__traceiter_";
/// What stands before the name of the type of its probes, whose parameters have no names.
const TYPE: &str = "btf_trace_";
/// What stands before the name of its `struct trace_event_call`.
const EVENT: &str = "event_";
/// Bytes of the longest name.
const NAME: usize = 128;

/// A tracepoint.
#[derive(Debug, Clone)]
pub(super) struct Point {
    /// `name` of its `struct tracepoint`.
    pub(super) name: String,
    /// Address of its `struct tracepoint`.
    pub(super) at: GuestVirt,
    /// The module that has it.
    pub(super) module: Option<String>,
    /// `system` of its event, as in `/sys/kernel/tracing/events`; `None` for one that has no event.
    pub(super) system: Option<String>,
}

impl Point {
    /// As views print it, and a trace takes it.
    pub(super) fn spelling(&self) -> String {
        let system = self.system.as_deref().unwrap_or(super::function::POINT);
        format!("{system}:{}", self.name)
    }

    /// Its prototype, without the probe's own data; `None` where BTF does not have it.
    pub(super) fn prototype(&self, kernel: &Kernel) -> Result<Option<Prototype>> {
        let module = self.module.as_deref();
        let mut found = prototype(kernel, &format!("{CALLER}{}", self.name), module)?;
        if found.is_none() {
            found = self.type_of_probes(kernel)?;
        }
        if let Some(prototype) = &mut found {
            prototype
                .parameters
                .drain(..prototype.parameters.len().min(1));
        }
        Ok(found)
    }

    fn type_of_probes(&self, kernel: &Kernel) -> Result<Option<Prototype>> {
        let Some(btf) = btf_of(kernel, self.module.as_deref())? else {
            return Ok(None);
        };
        let Some(ty) = btf.find(Kind::Typedef, &format!("{TYPE}{}", self.name)) else {
            return Ok(None);
        };
        match btf.resolve(ty)?.target() {
            Some(proto) => of_type(&btf, proto),
            None => Ok(None),
        }
    }
}

/// The tracepoints of a name: more than one, where modules have some of the same name.
pub(super) fn named(kernel: &Kernel, name: &str) -> Result<Vec<Point>> {
    let all = kernel.definitions(&format!("{VARIABLE}{name}"))?;
    let each = all.items.iter().map(|one| point(kernel, name, one));
    each.filter_map(Result::transpose).collect()
}

/// The tracepoints whose names are of a pattern, in which `*` stands for any characters.
pub(super) fn several(kernel: &Kernel, pattern: &str) -> Result<Vec<Point>> {
    let meant = |symbol: &str| {
        let name = symbol.strip_prefix(VARIABLE)?;
        matches(pattern, name).then(|| name.to_owned())
    };
    let mut names: Vec<String> = kernel
        .symbols()?
        .iter()
        .filter_map(|symbol| meant(&symbol.name))
        .collect();
    for module in &kernel.module_symbols()?.items {
        names.extend(
            module
                .with_elf()
                .filter_map(|(symbol, _)| meant(&symbol.name)),
        );
    }
    names.sort();
    names.dedup();
    let mut points = Vec::new();
    for name in names {
        points.extend(named(kernel, &name)?);
    }
    Ok(points)
}

/// The tracepoint that a symbol is; `None` for a variable that only has such a name.
fn point(kernel: &Kernel, name: &str, symbol: &Definition) -> Result<Option<Point>> {
    let at = symbol.symbol.at;
    // There are functions of such names, too.
    let page = kernel.space().walk(at)?;
    if !page.steps.iter().any(|step| step.entry.no_execute()) {
        return Ok(None);
    }
    let said = Object::at(kernel, "struct tracepoint", at)?.member("name")?;
    let said = said.pointer()?;
    if said.is_null() || kernel.read_cstr(said, NAME)? != name {
        return Ok(None);
    }
    let module = symbol.module.clone();
    Ok(Some(Point {
        name: name.to_owned(),
        at,
        system: system(kernel, name, module.as_deref(), at)?,
        module,
    }))
}

/// The system of the event that belongs to a tracepoint.
fn system(
    kernel: &Kernel,
    name: &str,
    module: Option<&str>,
    at: GuestVirt,
) -> Result<Option<String>> {
    let all = kernel.definitions(&format!("{EVENT}{name}"))?;
    let same = all
        .items
        .iter()
        .filter(|one| one.module.as_deref() == module);
    for event in same {
        let call = Object::at(kernel, "struct trace_event_call", event.symbol.at)?;
        // Any variable may be called so.
        if call.member("tp")?.pointer().ok() != Some(at) {
            continue;
        }
        let class = call.member("class")?.pointer()?;
        if class.is_null() {
            continue;
        }
        let class = Object::at(kernel, "struct trace_event_class", class)?;
        let system = class.member("system")?.pointer()?;
        if !system.is_null() {
            return kernel.read_cstr(system, NAME).map(Some);
        }
    }
    Ok(None)
}

/// Several tracepoints of one name, of which one must be chosen.
pub(super) fn ambiguous(name: &str, points: &[Point]) -> Error {
    let each: Vec<String> = points
        .iter()
        .map(|point| match &point.module {
            Some(module) => format!("{} of the module {module}", point.spelling()),
            None => format!("{} of the kernel", point.spelling()),
        })
        .collect();
    Error::Invalid(format!(
        "several tracepoints are called {name}: {}",
        each.join(", ")
    ))
}
