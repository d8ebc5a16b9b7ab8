//! The functions and tracepoints that are traced: found by name, held against ftrace's table, typed by BTF.

use std::collections::{BTreeMap, HashSet};

use super::member::Member;
use super::point::{self, Point};
use super::text::{self, TextPlan};
use crate::debug::arguments::{Passed, is_composite, passed};
use crate::debug::function::{Prototype, prototype, resolve};
use crate::kernel::{Kernel, place};
use crate::memory::GuestVirt;
use crate::skb::functions::{ENTRIES, call_sites};
use crate::{Error, Result};

/// Functions of one trace.
const MOST: usize = 1024;
/// The module's own name: what it calls in its hooks must not be hooked.
const OWN: &str = "klab";
/// What stands before a name that is to mean a tracepoint, whatever its system is.
pub(super) const POINT: &str = "tracepoint";
/// What stands before a name that is to mean a function.
const FUNCTION: &str = "function";

/// A function or a tracepoint that is traced.
#[derive(Debug, Clone)]
pub(super) struct Function {
    /// As views print it.
    pub(super) name: String,
    /// Address of the function, or of the `struct tracepoint`.
    pub(super) at: GuestVirt,
    /// True for a tracepoint: it has no return.
    pub(super) point: bool,
    /// Prototype; `None` for what BTF does not have.
    pub(super) prototype: Option<Prototype>,
    pub(super) params: Vec<Param>,
    /// The argument whose text is copied at the call.
    pub(super) text: Option<TextPlan>,
    /// The members of what arguments point to that are copied at the call.
    pub(super) members: Vec<Member>,
}

/// Bytes from the return address to the first argument on the stack.
const STACK: u64 = 8;
/// Number of the argument of a tracepoint that is there.
const SIXTH: usize = 5;

/// A parameter.
#[derive(Debug, Clone)]
pub(super) struct Param {
    pub(super) name: String,
    /// Its type in C.
    pub(super) ty: String,
    pub(super) place: Passed,
    /// True if it points to characters.
    pub(super) chars: bool,
}

/// The functions and tracepoints of these names; a `*` in one stands for any characters.
pub(super) fn find(kernel: &Kernel, names: &[String]) -> Result<Vec<Function>> {
    let sites = call_sites(kernel)?;
    let mut found = BTreeMap::new();
    for name in names {
        let points = points(kernel, name, &sites)?;
        let function = meant(name, FUNCTION).unwrap_or(name);
        match (name.contains('*'), points.is_empty()) {
            (true, true) => several(kernel, function, &sites, &mut found)?,
            (false, true) => {
                let function = one(kernel, function, &sites)?;
                found.insert(function.at, function);
            }
            (_, false) => {
                for point in points {
                    found.insert(point.at, Function::of_point(kernel, &point)?);
                }
            }
        }
        if found.len() > MOST {
            return Err(Error::Invalid(format!(
                "more than {MOST} functions are meant: a trace of so many is mostly of its own making"
            )));
        }
    }
    match found.is_empty() {
        true => Err(Error::Invalid("no function is named".to_owned())),
        false => Ok(found.into_values().collect()),
    }
}

/// The rest of a name that begins with such a word and a colon.
fn meant<'a>(name: &'a str, word: &str) -> Option<&'a str> {
    name.strip_prefix(word)?.strip_prefix(':')
}

/// The tracepoints that a name means, if it means any: `sched_switch`, `sched:sched_*`, `tracepoint:pelt_cfs_tp`.
fn points(kernel: &Kernel, name: &str, sites: &HashSet<u64>) -> Result<Vec<Point>> {
    if meant(name, FUNCTION).is_some() {
        return Ok(Vec::new());
    }
    let (system, plain) = match name.split_once(':') {
        Some((system, plain)) => (Some(system), plain),
        None => (None, name),
    };
    let any = system == Some(POINT);
    let mut found = match (plain.contains('*'), system) {
        // Of functions, which are what most patterns are for.
        (true, None) => return Ok(Vec::new()),
        (true, Some(_)) => point::several(kernel, plain)?,
        (false, _) => point::named(kernel, plain)?,
    };
    if let (Some(system), false) = (system, any) {
        found.retain(|point| point.system.as_deref() == Some(system));
    }
    if found.is_empty() && any {
        return Err(Error::Absent(format!(
            "no tracepoint is called {plain}: neither the kernel nor a loaded module has the variable __tracepoint_{plain}"
        )));
    }
    if let ([point, ..], false) = (found.as_slice(), plain.contains('*')) {
        if found.len() > 1 {
            return Err(point::ambiguous(plain, &found));
        }
        let function = kernel.definitions(name)?;
        let functions = function.items.iter();
        if !any && functions.filter(|one| can(sites, one.symbol.at)).count() > 0 {
            return Err(Error::Invalid(format!(
                "{name} is a tracepoint and a function: say {} or {FUNCTION}:{name}",
                match system {
                    None => point.spelling(),
                    Some(_) => format!("{POINT}:{plain}"),
                }
            )));
        }
    }
    Ok(found)
}

/// Tells whether ftrace has a place to hook in the function.
fn can(sites: &HashSet<u64>, at: GuestVirt) -> bool {
    let mut entries = ENTRIES.iter();
    entries.any(|entry| sites.contains(&at.offset(*entry).0))
}

fn one(kernel: &Kernel, name: &str, sites: &HashSet<u64>) -> Result<Function> {
    let found = resolve(kernel, name)?;
    if found.module.as_deref() == Some(OWN) {
        return Err(Error::Unsupported(format!("{name} is part of what traces")));
    }
    if !can(sites, found.symbol.at) {
        return Err(Error::Unsupported(format!(
            "ftrace cannot hook {name}: its table has no such place (`notrace`, no function, or code of the boot); `break` stops there all the same"
        )));
    }
    Function::of(
        kernel,
        &found.symbol.name,
        found.module.as_deref(),
        found.symbol.at,
    )
}

fn several(
    kernel: &Kernel,
    pattern: &str,
    sites: &HashSet<u64>,
    found: &mut BTreeMap<GuestVirt, Function>,
) -> Result<()> {
    let before = found.len();
    for symbol in kernel.symbols()?.iter() {
        if matches(pattern, &symbol.name) && can(sites, symbol.at) {
            found.insert(
                symbol.at,
                Function::of(kernel, &symbol.name, None, symbol.at)?,
            );
        }
        if found.len() > MOST {
            return Ok(());
        }
    }
    match found.len() == before {
        true => Err(Error::Absent(format!(
            "no function of the kernel that ftrace can hook is called {pattern}"
        ))),
        false => Ok(()),
    }
}

/// Tells whether a name is one of a pattern.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl Function {
    fn of(kernel: &Kernel, name: &str, module: Option<&str>, at: GuestVirt) -> Result<Self> {
        let prototype = prototype(kernel, name, module)?;
        Self::typed(place(name, 0, module), at, false, prototype)
    }

    fn of_point(kernel: &Kernel, point: &Point) -> Result<Self> {
        Self::typed(point.spelling(), point.at, true, point.prototype(kernel)?)
    }

    fn typed(
        name: String,
        at: GuestVirt,
        point: bool,
        prototype: Option<Prototype>,
    ) -> Result<Self> {
        let params = prototype.as_ref().map(|one| params(one, point));
        let params = params.transpose()?.unwrap_or_default();
        let text = match &prototype {
            Some(prototype) => text::plan(prototype, &params)?,
            None => None,
        };
        Ok(Self {
            name,
            at,
            point,
            prototype,
            params,
            text,
            members: Vec::new(),
        })
    }
}

fn params(prototype: &Prototype, point: bool) -> Result<Vec<Param>> {
    let btf = &prototype.btf;
    // The probe of a tracepoint gets its own data first.
    let mut sizes = vec![(8, false); usize::from(point)];
    for (_, ty) in &prototype.parameters {
        let size = btf.size_of(*ty)?.unwrap_or(8);
        sizes.push((size, is_composite(prototype, *ty)?));
    }
    let places = passed(sizes).into_iter().skip(usize::from(point));
    let each = prototype.parameters.iter().zip(places);
    each.map(|((name, ty), place)| {
        Ok(Param {
            name: name.clone(),
            ty: btf.declarator(*ty, "")?,
            place: if point { recorded(place) } else { place },
            chars: text::is_chars(btf, *ty),
        })
    })
    .collect()
}

/// Place of a tracepoint's argument among those that are recorded: behind its probe's data are five in registers, and the
/// sixth is the first word on the stack.
fn recorded(place: Passed) -> Passed {
    match place {
        Passed::Registers(register, words) => Passed::Registers(register.saturating_sub(1), words),
        Passed::Stack(STACK) => Passed::Registers(SIXTH, 1),
        other => other,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A function of a prototype, at an address.
    pub(in crate::ftrace) fn typed(prototype: Prototype) -> Function {
        let at = GuestVirt(0xffff_ffff_8100_0000);
        Function::typed("f".to_owned(), at, false, Some(prototype)).unwrap()
    }

    #[test]
    fn a_star_is_any_characters() {
        for (pattern, name, is) in [
            ("vfs_*", "vfs_read", true),
            ("vfs_*", "__vfs_read", false),
            ("*read", "vfs_read", true),
            ("*read", "vfs_reads", false),
            ("vfs_*at*", "vfs_statx", true),
            ("a*a", "a", false),
            ("*", "anything", true),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }
}
