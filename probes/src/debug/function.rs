//! The place where the guest is to stop: its function, and how that is called.

use std::sync::Arc;

use crate::guest::Guest;
use crate::kernel::btf::{Btf, Kind, TypeId};
use crate::kernel::{Definition, Kernel, Spelling, place};
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// `endbr64`, and what newer and older kernels write in its place where nobody jumps to it (`gen_endbr_poison()`,
/// arch/x86/include/asm/ibt.h).
const ENDBRS: [u32; 3] = [0xfa1e_0ff3, 0xd640_1f0f, 0x001f_0f66];
/// Its length in bytes.
const ENDBR: u64 = 4;
/// The length of the instruction that calls ftrace, or would (`MCOUNT_INSN_SIZE`).
const FTRACE: u64 = 5;

/// Place at which the guest is to stop.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The function's name, as its table has it.
    pub(crate) name: String,
    pub(crate) module: Option<String>,
    /// Address at which the guest stops.
    pub(crate) at: GuestVirt,
    /// Offset of that in the function, in bytes.
    pub(crate) offset: u64,
    /// True if it stops before the function has done anything: the registers are those of its caller.
    pub(crate) entry: bool,
    /// Prototype, as BTF has it; `None` for what BTF does not have.
    pub(crate) prototype: Option<Prototype>,
}

/// A function's type.
#[derive(Debug, Clone)]
pub(crate) struct Prototype {
    pub(crate) btf: Arc<Btf>,
    /// Type of the return value; [`TypeId::VOID`] for nothing.
    pub(crate) returns: TypeId,
    pub(crate) parameters: Vec<(String, TypeId)>,
}

impl Place {
    /// `vfs_read`, `tun:group_show`, `name_show@2`, `vfs_read+0x25d`, an address.
    pub(crate) fn find(guest: &Guest, text: &str) -> Result<Self> {
        let kernel = guest.kernel()?;
        let (name, module, start, offset) = match GuestVirt::parse(text) {
            Some(at) => {
                let nowhere = || {
                    Error::Absent(format!(
                        "{at} lies in no function of the kernel or a module"
                    ))
                };
                let symbol = kernel.symbol_at(at)?.ok_or_else(nowhere)?;
                (
                    symbol.name,
                    symbol.module,
                    at.back(symbol.offset),
                    symbol.offset,
                )
            }
            None => {
                let found = resolve(&kernel, text)?;
                let offset = Spelling::parse(text).map_or(0, |spelling| spelling.offset);
                (found.symbol.name, found.module, found.symbol.at, offset)
            }
        };
        let code = kernel.space().walk(start)?;
        if code.steps.iter().any(|step| step.entry.no_execute()) {
            return Err(Error::Invalid(format!(
                "`{name}` is no code, or was given back after the boot: its page may not be executed"
            )));
        }
        let endbr = ENDBRS.contains(&kernel.read_u32(start)?);
        let skip = if endbr { ENDBR } else { 0 };
        // A direct call may leave the endbr64 out: behind it all come by.
        let offset = if offset == 0 { skip } else { offset };
        let after_ftrace = || {
            let all = guest.disassembly(start)?.instructions;
            let mut first = all.iter().filter(|one| one.offset == skip);
            Ok::<_, Error>(first.any(|one| {
                let patched = one.patched.as_deref();
                patched.is_some_and(|what| what.starts_with("ftrace"))
            }))
        };
        let entry = offset == skip || (offset == skip + FTRACE && after_ftrace()?);
        Ok(Self {
            at: start.offset(offset),
            prototype: prototype(&kernel, &name, module.as_deref())?,
            offset,
            entry,
            name,
            module,
        })
    }

    /// The function as views print it.
    pub(crate) fn function(&self) -> String {
        place(&self.name, 0, self.module.as_deref())
    }

    /// Its prototype, or why it has no arguments here.
    pub(crate) fn arguments(&self) -> Result<&Prototype> {
        let name = self.function();
        if !self.entry {
            return Err(Error::Unsupported(format!(
                "the arguments of {name} are known at its entry alone, and this is {:#x} bytes into it: `call.registers()` has what is where here",
                self.offset
            )));
        }
        self.prototype()
    }

    pub(crate) fn prototype(&self) -> Result<&Prototype> {
        self.prototype.as_ref().ok_or_else(|| {
            let name = self.function();
            Error::Unsupported(match name.contains('.') {
                true => format!(
                    "the compiler has made {name} of another function, with other arguments, and BTF does not have it: `call.registers()` has the registers"
                ),
                false => format!(
                    "BTF does not say how {name} is called: `call.registers()` has the registers"
                ),
            })
        })
    }
}

/// The function that a name means. One that has no address of its own may be there under a name that the compiler made, or be a part of its
/// callers.
pub(crate) fn resolve(kernel: &Kernel, text: &str) -> Result<Definition> {
    let error = match kernel.resolve(text) {
        Ok(found) => return Ok(found),
        Err(error @ Error::NoSymbol { .. }) => error,
        Err(error) => return Err(error),
    };
    let name = Spelling::parse(text).map_or(text, |spelling| spelling.name());
    let prefix = format!("{name}.");
    let made: Vec<String> = kernel
        .symbols()?
        .iter()
        .filter(|symbol| symbol.name.starts_with(&prefix))
        .map(|symbol| symbol.name)
        .take(8)
        .collect();
    Err(Error::Absent(match made.is_empty() {
        false => format!(
            "`{name}` has no address of its own: the compiler made {} of it, where a breakpoint can be",
            made.join(", ")
        ),
        true => format!(
            "{error}; a function that the compiler has put into all its callers has no address: break at one of those (`klab search --as text`, or the kernel's source, tells them)"
        ),
    }))
}

/// The BTF of a module, or the kernel's own; `None` for a module without one.
pub(crate) fn btf_of(kernel: &Kernel, module: Option<&str>) -> Result<Option<Arc<Btf>>> {
    let Some(module) = module else {
        return Ok(Some(kernel.btf()?.clone()));
    };
    let all = kernel.module_btfs()?;
    let found = all.into_iter().find(|btf| btf.name == module);
    found.map(|found| found.btf).transpose()
}

/// The type that BTF has of a function.
pub(crate) fn prototype(
    kernel: &Kernel,
    name: &str,
    module: Option<&str>,
) -> Result<Option<Prototype>> {
    let Some(btf) = btf_of(kernel, module)? else {
        return Ok(None);
    };
    let own = |id: TypeId| module.is_none() || btf.ids().any(|own| own == id);
    let function = btf
        .named(name)
        .find(|ty| ty.kind == Kind::Func && own(ty.id));
    match function.and_then(|ty| ty.target()) {
        Some(proto) => of_type(&btf, proto),
        None => Ok(None),
    }
}

/// The prototype that a type of a BTF is; `None` where it is another type.
pub(crate) fn of_type(btf: &Arc<Btf>, proto: TypeId) -> Result<Option<Prototype>> {
    let proto = btf.resolve(proto)?;
    let Some(returns) = proto.target().filter(|_| proto.kind == Kind::FuncProto) else {
        return Ok(None);
    };
    let parameters = proto
        .params()
        .enumerate()
        // The one without a type is `...`.
        .filter(|(_, parameter)| parameter.ty != TypeId::VOID)
        .map(|(index, parameter)| {
            let name = match parameter.name {
                "" => format!("arg{index}"),
                name => name.to_owned(),
            };
            (name, parameter.ty)
        })
        .collect();
    Ok(Some(Prototype {
        btf: btf.clone(),
        returns,
        parameters,
    }))
}
