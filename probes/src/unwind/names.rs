//! Names of addresses, each looked up once for a reading: thousands of tasks sleep in the same few functions.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use super::orc::Tables;
use super::trace::Name;
use crate::kernel::{Kernel, ModuleSymbols};
use crate::memory::GuestVirt;
use crate::{Listing, Result};

/// Addresses that are remembered at most: more are looked up again.
const KNOWN: usize = 1 << 16;

/// A function, how far into it an address is, and its module.
type At = (Name, u64, Option<Name>);

/// The symbols of the kernel, its modules, and of code that it made while it ran.
pub(super) struct Names<'k> {
    kernel: &'k Kernel,
    pub(super) modules: Listing<ModuleSymbols>,
    known: RefCell<HashMap<GuestVirt, At>>,
    shared: RefCell<HashSet<Name>>,
}

impl<'k> Names<'k> {
    pub(super) fn of(kernel: &'k Kernel) -> Result<Self> {
        kernel.symbols()?;
        Ok(Self {
            kernel,
            modules: kernel.module_symbols()?,
            known: RefCell::default(),
            shared: RefCell::default(),
        })
    }

    /// Function that an address is in; an empty name if that is not known, with the module whose memory it is in.
    pub(super) fn at(&self, at: GuestVirt, tables: &Tables<'_>) -> Result<At> {
        if let Some(known) = self.known.borrow().get(&at) {
            return Ok(known.clone());
        }
        let own = self.kernel.symbols()?.at(at);
        let symbol = own.or_else(|| self.modules.iter().find_map(|module| module.at(at)));
        let found = match (symbol, tables.made(at)) {
            (Some(symbol), _) => (
                self.share(&symbol.name),
                symbol.offset,
                symbol.module.as_deref().map(|module| self.share(module)),
            ),
            (None, Some(code)) => {
                let group = Some(self.share(code.group()));
                (self.share(&code.name), at.0 - code.start.0, group)
            }
            (None, None) => {
                // The module is known even where its symbols are not.
                let holder = self.modules.iter().find(|module| module.holds(at));
                let holder = holder.map(|module| self.share(&module.module));
                (self.share(""), 0, holder)
            }
        };
        let mut known = self.known.borrow_mut();
        if known.len() < KNOWN {
            known.insert(at, found.clone());
        }
        Ok(found)
    }

    fn share(&self, name: &str) -> Name {
        let mut shared = self.shared.borrow_mut();
        let name = Name::from(name);
        if let Some(known) = shared.get(&name) {
            return known.clone();
        }
        shared.insert(name.clone());
        name
    }
}
