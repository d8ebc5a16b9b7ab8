//! The functions that take a `struct sk_buff *`, by argument, and those of them that ftrace can hook.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::Listing;
use crate::base::{Of as _, check_interrupt};
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::kernel::btf::{Btf, Kind, TypeId};
use crate::kmod::ring;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::{Error, Named, Result};

/// Bytes from a function's address to where it calls ftrace: nothing, or an `endbr64` (CONFIG_X86_KERNEL_IBT).
pub(crate) const ENTRIES: [u64; 2] = [0, 4];
/// Pages of `struct dyn_ftrace` that a kernel may have.
const MAX_PAGES: usize = 1 << 16;

/// A function that takes an `sk_buff`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SkbFunction {
    /// Its name.
    pub name: String,
    /// The module that it is in; `None` for the kernel itself.
    pub module: Option<String>,
    /// Its address.
    pub at: GuestVirt,
    /// Number of the argument that is the `sk_buff`, from 0.
    pub position: u8,
}

/// The functions of a kernel that take an `sk_buff` and can be hooked, by address.
pub type Functions = Listing<SkbFunction>;

impl Guest {
    /// Every function of the kernel and of its loaded modules that takes a `struct sk_buff *` among its first six
    /// arguments (by BTF), cut to what ftrace can hook (by its own table in memory).
    ///
    /// # Errors
    /// When the kernel has no BTF or no dynamic ftrace.
    pub fn skb_functions(&self) -> Result<Functions> {
        hookable(&self.kernel()?)
    }
}

/// `struct ftrace_page` (`kernel/trace/ftrace.c`).
#[derive(Debug, Mirror)]
#[mirror(c = "struct ftrace_page")]
struct FtracePage {
    next: GuestVirt,
    records: GuestVirt,
    index: i32,
}

/// The addresses of all call sites that ftrace knows.
pub(crate) fn call_sites(kernel: &Kernel) -> Result<HashSet<u64>> {
    let mut page = GuestVirt(kernel.read_u64(kernel.symbol("ftrace_pages_start")?)?);
    let size = kernel.c_type("struct dyn_ftrace")?.size()?;
    let mut sites = HashSet::new();
    for _ in 0..MAX_PAGES {
        if page.is_null() {
            return Ok(sites);
        }
        check_interrupt();
        let this: FtracePage = kernel.load(page)?;
        let count = usize::try_from(this.index)
            .ok()
            .filter(|count| *count <= 1 << 18)
            .ok_or_else(|| Error::Broken {
                what: "ftrace's table",
                at: page,
                why: format!("a page of it claims {} records", this.index),
            })?;
        let mut bytes = vec![0; count * size as usize];
        kernel.read(this.records, &mut bytes)?;
        // `ip` comes first (include/linux/ftrace.h).
        let ips = bytes
            .chunks_exact(size as usize)
            .filter_map(|record| Some(u64::from_le_bytes(record.get(..8)?.try_into().ok()?)));
        sites.extend(ips);
        page = this.next;
    }
    Err(Error::TooLong {
        what: "ftrace's table",
        at: page,
        bound: MAX_PAGES,
    })
}

/// The first argument of a function that is a `struct sk_buff *`.
///
/// By its name: a module's BTF has a `struct sk_buff` of its own where some type below it is complete there alone
/// (`nf_tables` of 7.3), and a forward declaration where it never looks inside.
fn position(btf: &Btf, function: TypeId) -> Option<u8> {
    let proto = btf.resolve(btf.get(function)?.target()?).ok()?;
    let is_skb = |ty: TypeId| -> Option<bool> {
        let pointer = btf.resolve(ty).ok()?;
        let to = btf.resolve(pointer.target()?).ok()?;
        let named = matches!(to.kind, Kind::Struct | Kind::Fwd) && to.name() == "sk_buff";
        Some(pointer.kind == Kind::Ptr && named)
    };
    for (index, param) in proto
        .params()
        .take(usize::from(ring::POSITIONS))
        .enumerate()
    {
        if is_skb(param.ty) == Some(true) {
            return u8::try_from(index).ok();
        }
        // A structure by value takes no register or several: what follows is not where its number says.
        if btf.resolve(param.ty).is_ok_and(|ty| ty.is_composite()) {
            return None;
        }
    }
    None
}

/// Name and argument of every function of `btf` itself that takes an `sk_buff`.
fn by_type(btf: &Btf) -> BTreeMap<String, u8> {
    let functions = btf
        .ids()
        .filter(|id| btf.get(*id).is_some_and(|ty| ty.kind == Kind::Func));
    functions
        .filter_map(|id| Some((btf.get(id)?.name().to_owned(), position(btf, id)?)))
        .collect()
}

/// The functions of a kernel that take an `sk_buff`, by address.
pub(super) fn hookable(kernel: &Kernel) -> Result<Functions> {
    let btf = kernel.btf()?;
    let sites = call_sites(kernel)?;
    let can = |at: GuestVirt| {
        ENTRIES
            .iter()
            .any(|entry| sites.contains(&at.offset(*entry).0))
    };
    let symbols = kernel.symbols()?;
    let mut found = Vec::new();
    for (name, position) in by_type(btf) {
        for at in symbols.lookup_all(&name).filter(|at| can(*at)) {
            found.push(SkbFunction {
                name: name.clone(),
                module: None,
                at,
                position,
            });
        }
    }
    let btfs = kernel.module_btfs()?;
    let modules = kernel.module_symbols()?;
    let mut missing = modules.missing;
    for module in modules.items {
        let Some(btf) = btfs.iter().find(|btf| btf.name == module.module) else {
            continue;
        };
        let what = || format!("module {}, its types", module.module);
        let Some(btf) = btf.btf.clone().or_miss(&mut missing, what) else {
            continue;
        };
        let wanted = by_type(&btf);
        for symbol in module.symbols.iter().filter(|symbol| can(symbol.at)) {
            if let Some(position) = wanted.get(&symbol.name) {
                found.push(SkbFunction {
                    name: symbol.name.clone(),
                    module: Some(module.module.clone()),
                    at: symbol.at,
                    position: *position,
                });
            }
        }
    }
    found.sort_by_key(|function| function.at);
    found.dedup_by_key(|function| function.at);
    Ok(Functions {
        items: found,
        missing,
    })
}

impl Named for SkbFunction {
    type Value<'a> = &'a Self;

    fn name(&self) -> &str {
        &self.name
    }

    fn value(&self) -> &Self {
        self
    }
}
