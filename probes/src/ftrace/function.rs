//! The functions that are traced: found by name, held against ftrace's table, typed by BTF.

use std::collections::{BTreeMap, HashSet};

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

/// A function that is traced.
#[derive(Debug, Clone)]
pub(super) struct Function {
    /// As views print it.
    pub(super) name: String,
    pub(super) at: GuestVirt,
    /// Prototype; `None` for what BTF does not have.
    pub(super) prototype: Option<Prototype>,
    pub(super) params: Vec<Param>,
    /// The argument whose text is copied at the call.
    pub(super) text: Option<TextPlan>,
}

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

/// The functions of these names; a `*` in one stands for any characters.
pub(super) fn find(kernel: &Kernel, names: &[String]) -> Result<Vec<Function>> {
    let sites = call_sites(kernel)?;
    let mut found = BTreeMap::new();
    for name in names {
        match name.contains('*') {
            true => several(kernel, name, &sites, &mut found)?,
            false => {
                let function = one(kernel, name, &sites)?;
                found.insert(function.at, function);
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
fn matches(pattern: &str, name: &str) -> bool {
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
        let params = prototype.as_ref().map(params).transpose()?;
        let params = params.unwrap_or_default();
        let text = match &prototype {
            Some(prototype) => text::plan(prototype, &params)?,
            None => None,
        };
        Ok(Self {
            name: place(name, 0, module),
            at,
            prototype,
            params,
            text,
        })
    }
}

fn params(prototype: &Prototype) -> Result<Vec<Param>> {
    let btf = &prototype.btf;
    let mut sizes = Vec::new();
    for (_, ty) in &prototype.parameters {
        let size = btf.size_of(*ty)?.unwrap_or(8);
        sizes.push((size, is_composite(prototype, *ty)?));
    }
    let each = prototype.parameters.iter().zip(passed(sizes));
    each.map(|((name, ty), place)| {
        Ok(Param {
            name: name.clone(),
            ty: btf.declarator(*ty, "")?,
            place,
            chars: text::is_chars(btf, *ty),
        })
    })
    .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A function of a prototype, at an address.
    pub(in crate::ftrace) fn typed(prototype: Prototype) -> Function {
        let params = params(&prototype).unwrap();
        Function {
            name: "f".to_owned(),
            at: GuestVirt(0xffff_ffff_8100_0000),
            text: text::plan(&prototype, &params).unwrap(),
            params,
            prototype: Some(prototype),
        }
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
