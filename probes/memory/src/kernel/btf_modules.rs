//! The BTF of loaded modules, found in guest memory.
//!
//! The kernel keeps a copy of each module's BTF as long as the module is loaded, in the list `btf_modules` of
//! `kernel/bpf/btf.c` (`struct btf_module`, `struct btf`; `btf_module_notify`). Its ids continue those of vmlinux,
//! also for a module built out of the tree, whose ids the kernel rewrites when it loads it (`btf_relocate`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Kernel;
use super::btf::{Btf, Kind, TypeId};
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// More modules than any kernel loads.
const MAX_MODULES: usize = 4096;
/// More bytes than any module's BTF has; those of the largest have 1 or 2 MiB.
const MAX_DATA: u32 = 64 << 20;

/// The BTF of a loaded module.
#[derive(Debug, Clone)]
pub struct ModuleBtf {
    /// The module's name.
    pub name: String,
    /// Its types, on top of the kernel's; or why they cannot be read.
    pub btf: Result<Arc<Btf>>,
}

/// Parsed types, by the address, the id and the data of a `struct btf`: ids are not used twice in a row.
type Known = HashMap<(GuestVirt, u32, GuestVirt), Arc<Btf>>;

#[derive(Default)]
struct Parsed(Mutex<Known>);

/// Offsets of the members that are read here.
struct Offsets {
    list: u64,
    btf: u64,
    data: u64,
    data_size: u64,
    id: u64,
    start_id: u64,
    name: u64,
}

impl Offsets {
    fn new(kernel: &Kernel) -> Result<Self> {
        let btf = kernel.btf()?;
        let offset = |structure: &str, member: &str| {
            let field = match btf.find(Kind::Struct, structure) {
                Some(id) => btf.member(id, member)?,
                None => None,
            };
            field
                .map(|field| field.offset())
                .ok_or_else(|| Error::NoMember {
                    ty: format!("struct {structure}"),
                    member: member.to_owned(),
                    release: kernel.release().to_owned(),
                    hint: String::new(),
                })
        };
        Ok(Self {
            list: offset("btf_module", "list")?,
            btf: offset("btf_module", "btf")?,
            data: offset("btf", "data")?,
            data_size: offset("btf", "data_size")?,
            id: offset("btf", "id")?,
            start_id: offset("btf", "start_id")?,
            name: offset("btf", "name")?,
        })
    }
}

impl ModuleBtf {
    /// One of which not even the name is known.
    fn unread(error: Error) -> Self {
        Self {
            name: "?".to_owned(),
            btf: Err(error),
        }
    }
}

impl Kernel {
    /// The BTF of each module that is loaded now; none where the kernel keeps none.
    ///
    /// # Errors
    /// `Absent` or `Unsupported` if BTF does not describe the list; `Unmapped` if the head is not in RAM. A module
    /// whose BTF cannot be read has its error in its [`ModuleBtf`].
    pub fn module_btfs(&self) -> Result<Vec<ModuleBtf>> {
        // Without CONFIG_DEBUG_INFO_BTF_MODULES there is no such list.
        let Ok(head) = self.symbol("btf_modules") else {
            return Ok(Vec::new());
        };
        let offsets = self.once(|| Offsets::new(self))?;
        let parsed = self.once(|| Ok(Parsed::default()))?;
        let mut modules = Vec::new();
        let mut node = GuestVirt(self.read_u64(head)?);
        while node != head {
            if modules.len() == MAX_MODULES {
                modules.push(ModuleBtf::unread(Error::TooLong {
                    what: "list of module BTFs",
                    at: head,
                    bound: MAX_MODULES,
                }));
                break;
            }
            let entry = node.back(offsets.list);
            let at = self.read_u64(entry.offset(offsets.btf)).map(GuestVirt);
            let named = at.and_then(|at| Ok((self.read_cstr(at.offset(offsets.name), 64)?, at)));
            modules.push(match named {
                Ok((name, at)) => ModuleBtf {
                    name,
                    btf: self.module_btf(at, &offsets, &parsed),
                },
                Err(error) => ModuleBtf::unread(error),
            });
            // The modules behind a break of the list cannot be read, and are one more of them.
            node = match self.read_u64(node) {
                Ok(next) => GuestVirt(next),
                Err(error) => {
                    modules.push(ModuleBtf::unread(error));
                    break;
                }
            };
        }
        Ok(modules)
    }

    /// Modules whose types cannot be read, or are nowhere, as the end of a sentence that says that something is not
    /// there.
    pub fn unread_types(&self) -> String {
        let all = match self.module_btfs() {
            Ok(all) => all,
            Err(error) => vec![ModuleBtf::unread(error)],
        };
        let unread = all.iter().filter_map(|module| {
            let error = module.btf.as_ref().err()?;
            Some(format!(
                "; the types of the module {} cannot be read: {error}",
                module.name
            ))
        });
        unread.collect::<String>() + &self.without_btf(&all)
    }

    /// The modules that have none: Rust's have not, nor has what was built without the kernel's own types at hand.
    fn without_btf(&self, all: &[ModuleBtf]) -> String {
        if self.find_symbol("btf_modules").ok().flatten().is_none() {
            return String::new();
        }
        let modules = self.module_symbols().unwrap_or_default();
        let none = |name: &str| all.iter().all(|module| module.name != name);
        let names = modules.iter().map(|module| module.module.as_str());
        let names: Vec<&str> = names.filter(|name| none(name)).collect();
        match names.as_slice() {
            [] => String::new(),
            [one] => format!("; the module {one} has no BTF, so its types are not known"),
            several => format!(
                "; the modules {} have no BTF, so their types are not known",
                several.join(", ")
            ),
        }
    }

    fn module_btf(&self, at: GuestVirt, offsets: &Offsets, parsed: &Parsed) -> Result<Arc<Btf>> {
        let data = GuestVirt(self.read_u64(at.offset(offsets.data))?);
        let key = (at, self.read_u32(at.offset(offsets.id))?, data);
        let table = || parsed.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = table().get(&key) {
            return Ok(known.clone());
        }
        let malformed = |why: String| Error::Malformed {
            what: "BTF of a module",
            why,
        };
        let len = self.read_u32(at.offset(offsets.data_size))?;
        if len > MAX_DATA {
            return Err(malformed(format!("it claims {len} bytes")));
        }
        let mut bytes = vec![0; len as usize];
        self.read(data, &mut bytes)?;
        let btf = Arc::new(Btf::parse_split(bytes, self.btf()?.clone())?);
        let first = self.read_u32(at.offset(offsets.start_id))?;
        if btf.ids().next().is_some_and(|id| id.0 != first) {
            return Err(malformed(format!(
                "its types begin at {first}, which is not where those of the kernel end"
            )));
        }
        let mut table = table();
        if table.len() >= MAX_MODULES {
            table.clear();
        }
        table.insert(key, btf.clone());
        Ok(btf)
    }

    /// The type of one of these kinds and this name (without `struct`), and the BTF that has it, for code that knows the
    /// name: the kernel's, else that of the modules. Modules that define it differently are an error.
    ///
    /// # Errors
    /// As [`Self::find_types`]; `Invalid` if modules define it differently.
    pub fn find_type(&self, kinds: &[Kind], name: &str) -> Result<Option<(Arc<Btf>, TypeId)>> {
        let own = self.btf()?;
        if let Some(id) = own_type(own, kinds, name) {
            return Ok(Some((own.clone(), id)));
        }
        let mut all = self.find_types(kinds, name)?;
        match (all.len(), all.pop()) {
            (0 | 1, found) => Ok(found.map(|one| (one.btf, one.id))),
            (_, last) => {
                all.extend(last);
                let module = |one: &TypeNamed| one.module.clone().unwrap_or_default();
                Err(Error::Ambiguous {
                    name: name.to_owned(),
                    candidates: all
                        .iter()
                        .map(|one| format!("{}:{name}", module(one)))
                        .collect(),
                })
            }
        }
    }

    /// All types of one of these kinds and this name (without `struct`): the kernel's, then those that modules define
    /// themselves. Definitions that say the same are one.
    ///
    /// # Errors
    /// As [`Self::btf`] and [`Self::module_btfs`].
    pub fn find_types(&self, kinds: &[Kind], name: &str) -> Result<Vec<TypeNamed>> {
        let own = self.btf()?;
        let mut all: Vec<TypeNamed> = Vec::new();
        let mut add = |module: Option<String>, btf: &Arc<Btf>| {
            let Some(id) = own_type(btf, kinds, name) else {
                return;
            };
            let says = |btf: &Btf, id| btf.declaration(id).map(|lines| lines.to_string());
            let same = |one: &TypeNamed| match (says(&one.btf, one.id), says(btf, id)) {
                (Ok(one), Ok(other)) => one == other,
                _ => false,
            };
            if !all.iter().any(same) {
                let btf = btf.clone();
                all.push(TypeNamed { module, btf, id });
            }
        };
        add(None, own);
        // A module whose BTF cannot be read hides nothing of the others; `unread_types` names it.
        for module in self.module_btfs()? {
            if let Ok(btf) = module.btf {
                add(Some(module.name), &btf);
            }
        }
        Ok(all)
    }
}

/// A type, and the module that defines it.
#[derive(Debug, Clone)]
pub struct TypeNamed {
    /// The module; `None` for the kernel itself.
    pub module: Option<String>,
    /// The BTF that has it.
    pub btf: Arc<Btf>,
    /// Its id there.
    pub id: TypeId,
}

impl TypeNamed {
    /// Tells whether it is that of a module of this name, or the kernel's own (`vmlinux`).
    #[must_use]
    pub fn is_of(&self, module: &str) -> bool {
        self.module.as_deref().unwrap_or("vmlinux") == module
    }
}

/// The type that a BTF defines itself, not the one below it.
fn own_type(btf: &Btf, kinds: &[Kind], name: &str) -> Option<TypeId> {
    let first = btf.ids().next()?;
    let own = |kind: &Kind| {
        btf.named(name)
            .find(|ty| ty.kind == *kind && ty.id >= first)
    };
    kinds.iter().find_map(own).map(|ty| ty.id)
}
