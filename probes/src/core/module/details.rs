//! One module in detail: its memory, sections, parameters, users and dependencies.

use serde::Serialize;

use super::{MODULE_BOUND, Module, Raw, one};
use crate::base::parts;
use crate::guest::Guest;
use crate::kernel::{Function, Functions, Kernel};
use crate::memory::GuestVirt;
use crate::object::{FixedStr, Mirror, Object, Plan};
use crate::structures::{array, offset_of, settle, whole_list};
use crate::{Error, Listing, Missing, Of as _, Result};

/// Sections and parameters that are read at most, of each.
const BOUND: u64 = 1 << 12;
/// Elements of one parameter that are read at most, and bytes of one value.
const ELEMENTS: u64 = 1 << 10;
const VALUE: usize = 4096;

/// A part of a module's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleArea {
    /// Kind of content: `MOD_TEXT`, `MOD_RODATA`; `core_layout` in kernels before 6.4, which have it all in one.
    pub kind: String,
    /// Address of its first byte.
    pub base: GuestVirt,
    /// Its size in bytes.
    pub size: u64,
}

/// A section of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleSection {
    /// Its name.
    pub name: String,
    /// Address that it was loaded at.
    pub at: GuestVirt,
}

/// A parameter of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleParameter {
    /// Its name.
    pub name: String,
    /// Mode of its file in `/sys/module`; 0 if it has none.
    pub perm: u16,
    /// Its type: `int`, `charp`; for one that has code of its own to print it, the name of that.
    pub kind: String,
    /// Its value, as sysfs prints it; `None` for one that has code of its own to print it.
    pub value: Option<String>,
}

/// A module, its memory and what sysfs shows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleDetails {
    /// The module.
    #[serde(flatten)]
    pub module: Module,
    /// Its version, where its author gave it one.
    pub version: Option<String>,
    /// A checksum of its source.
    pub srcversion: Option<String>,
    /// Function that removes it, `module.exit`; `None` for a module that cannot be removed.
    pub exit: Option<Function>,
    /// Symbols that it offers to others.
    pub exports: u32,
    /// Its memory.
    pub areas: Vec<ModuleArea>,
    /// Its sections: `/sys/module/NAME/sections`.
    pub sections: Vec<ModuleSection>,
    /// Its parameters: `/sys/module/NAME/parameters`.
    pub parameters: Vec<ModuleParameter>,
    /// The modules that it needs.
    pub needs: Vec<String>,
    /// The modules that need it: `/sys/module/NAME/holders`.
    pub used_by: Vec<String>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct module")]
struct More {
    version: GuestVirt,
    srcversion: GuestVirt,
    exit: GuestVirt,
    num_syms: u32,
    /// Kernels before 7.0 keep those for modules under the GPL alone apart.
    num_gpl_syms: Option<u32>,
    kp: GuestVirt,
    num_kp: u32,
    sect_attrs: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct kernel_param")]
struct Param {
    name: GuestVirt,
    ops: GuestVirt,
    perm: u16,
    arg: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct kparam_string")]
struct ParamString {
    maxlen: u32,
    string: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct kparam_array")]
struct ParamArray {
    max: u32,
    elemsize: u32,
    num: GuestVirt,
    ops: GuestVirt,
    elem: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct module")]
struct Name {
    name: FixedStr<56>,
}

/// The module of this name in detail: `/sys/module/NAME`.
///
/// # Errors
/// When no such module is loaded.
pub(crate) fn module(guest: &Guest, name: &str) -> Result<ModuleDetails> {
    let kernel = guest.kernel()?;
    let modules = guest.modules()?;
    // The kernel writes `_` where a file's name has `-`.
    let wanted = name.replace('-', "_");
    let found = modules.iter().find(|module| module.name == wanted);
    let Some(found) = found else {
        return Err(Error::Absent(format!(
            "no module `{wanted}` is loaded: `klab modules` lists those that are"
        )));
    };
    settle(&format!("the module {wanted}"), || {
        read(&kernel, found.at, found.listed).map(Some)
    })
}

fn read(kernel: &Kernel, at: GuestVirt, listed: bool) -> Result<ModuleDetails> {
    let raw: Raw = kernel.load(at)?;
    let more: More = kernel.load(at)?;
    let text = |at: GuestVirt| match at.is_null() {
        true => Ok(None),
        false => kernel.read_cstr(at, VALUE).map(Some),
    };
    let functions = Functions::new(kernel);
    let mut missing = Vec::new();
    let to = &mut missing;
    let version = text(more.version).or_miss(to, || "its version");
    let srcversion = text(more.srcversion).or_miss(to, || "its srcversion");
    let areas = areas(kernel, at).or_miss(to, || "its memory");
    let mut found = Vec::new();
    sections(kernel, more.sect_attrs, &mut found).or_miss(to, || "its sections, from there on");
    let parameters = parameters(kernel, more.kp, more.num_kp);
    let needs = uses(kernel, at, ("target_list", "target"));
    let used_by = uses(kernel, at, ("source_list", "source"));
    Ok(ModuleDetails {
        module: one(kernel, at, &raw, listed)?,
        version: version.flatten(),
        srcversion: srcversion.flatten(),
        exit: functions.of(more.exit)?,
        exports: more.num_syms.saturating_add(more.num_gpl_syms.unwrap_or(0)),
        areas: areas.unwrap_or_default(),
        sections: found,
        parameters: parts(to, "its parameters", parameters),
        needs: parts(to, "what it needs", needs),
        used_by: parts(to, "what needs it", used_by),
        missing,
    })
}

/// The parts of its memory that are in use.
fn areas(kernel: &Kernel, at: GuestVirt) -> Result<Vec<ModuleArea>> {
    let object = Object::at(kernel, "struct module", at)?;
    let mut areas = Vec::new();
    let mut area = |kind: String, memory: &Object| -> Result<()> {
        let size = memory.member("size")?.u64()?;
        if size > 0 {
            areas.push(ModuleArea {
                kind,
                base: memory.member("base")?.pointer()?,
                size,
            });
        }
        Ok(())
    };
    match array(kernel, "struct module", "mem") {
        Ok((_, count, _)) => {
            let mem = object.member("mem")?;
            for index in 0..count as i64 {
                let kind = kernel.enumerator("mod_mem_type", index)?;
                area(kind, &mem.index(index)?)?;
            }
        }
        Err(_) => {
            for layout in ["core_layout", "init_layout"] {
                area(layout.to_owned(), &object.member(layout)?)?;
            }
        }
    }
    Ok(areas)
}

/// Address and size of each part of its code.
pub(crate) fn text(kernel: &Kernel, at: GuestVirt) -> Result<Vec<(GuestVirt, u64)>> {
    let module = Object::at(kernel, "struct module", at)?;
    if array(kernel, "struct module", "mem").is_ok() {
        let areas = areas(kernel, at)?.into_iter();
        let text = areas.filter(|area| ["MOD_TEXT", "MOD_INIT_TEXT"].contains(&&*area.kind));
        return Ok(text.map(|area| (area.base, area.size)).collect());
    }
    // In one with the rest, and first.
    let layouts = ["core_layout", "init_layout"].into_iter().map(|layout| {
        let layout = module.member(layout)?;
        let size = layout.member("text_size")?.u64()?;
        Ok((layout.member("base")?.pointer()?, size))
    });
    layouts.collect()
}

/// Its sections, by the attributes that sysfs has for them: an array of pointers that ends with NULL.
fn sections(kernel: &Kernel, attrs: GuestVirt, sections: &mut Vec<ModuleSection>) -> Result<()> {
    // Without CONFIG_KALLSYMS there are none.
    if attrs.is_null() {
        return Ok(());
    }
    let group = offset_of(kernel, "struct module_sect_attrs", "grp.bin_attrs")?;
    let first = GuestVirt(kernel.read_u64(attrs.offset(group))?);
    let name = offset_of(kernel, "struct bin_attribute", "attr.name")?;
    // Behind the attribute, or since 6.14 in it.
    let address = offset_of(kernel, "struct module_sect_attr", "address")
        .or_else(|_| offset_of(kernel, "struct bin_attribute", "private"))?;
    for index in 0.. {
        let attribute = GuestVirt(kernel.read_u64(first.offset(index * 8))?);
        if attribute.is_null() {
            break;
        }
        if index == BOUND {
            return Err(Error::TooLong {
                what: "array of sections",
                at: first,
                bound: BOUND as usize,
            });
        }
        let name = GuestVirt(kernel.read_u64(attribute.offset(name))?);
        sections.push(ModuleSection {
            name: kernel.read_cstr(name, VALUE)?,
            at: GuestVirt(kernel.read_u64(attribute.offset(address))?),
        });
    }
    Ok(())
}

/// The modules at the other end of the uses on one of its lists (`struct module_use`).
fn uses(kernel: &Kernel, at: GuestVirt, (list, end): (&str, &str)) -> Result<Listing<String>> {
    let head = at.offset(offset_of(kernel, "struct module", list)?);
    let c = "struct module_use";
    let (member, end) = (offset_of(kernel, c, list)?, offset_of(kernel, c, end)?);
    let plan = Plan::<Name>::new(kernel)?;
    let nodes = whole_list(kernel, head, member, MODULE_BOUND, list);
    let mut names = Listing::new();
    for at in nodes.into_items(&mut names.missing) {
        let module = kernel.read_u64(at.offset(end)).map(GuestVirt);
        let name = module.and_then(|module| plan.load(module));
        let name = name.map(|read| read.name.to_str().into_owned());
        names.take(name, || format!("the module of the module_use {at}"));
    }
    Ok(names)
}

fn parameters(kernel: &Kernel, first: GuestVirt, count: u32) -> Result<Listing<ModuleParameter>> {
    if u64::from(count) > BOUND {
        return Err(Error::TooLong {
            what: "array of parameters",
            at: first,
            bound: BOUND as usize,
        });
    }
    let plan = Plan::<Param>::new(kernel)?;
    let functions = Functions::new(kernel);
    let mut parameters = Listing::new();
    for index in 0..u64::from(count) {
        let at = first.offset(index * plan.size());
        let one = parameter(kernel, &functions, &plan, at);
        parameters.take(one, || format!("the kernel_param {at}"));
    }
    Ok(parameters)
}

fn parameter(
    kernel: &Kernel,
    functions: &Functions<'_>,
    plan: &Plan<Param>,
    at: GuestVirt,
) -> Result<ModuleParameter> {
    let raw = plan.load(at)?;
    let name = kernel.read_cstr(raw.name, VALUE)?;
    let its = || format!("the parameter {name}");
    let get = getter(kernel, functions, raw.ops).of(its)?;
    let (kind, value) = match standard(get.as_ref()) {
        Some("array") => by_element(kernel, functions, raw.arg).of(its)?,
        Some(kind) => (kind.to_owned(), value(kernel, kind, raw.arg).of(its)?),
        None => (get.map_or_else(String::new, |get| get.to_string()), None),
    };
    Ok(ModuleParameter {
        name,
        perm: raw.perm,
        kind,
        value,
    })
}

/// Function that prints a parameter's value: `kernel_param_ops.get`.
fn getter(kernel: &Kernel, functions: &Functions<'_>, ops: GuestVirt) -> Result<Option<Function>> {
    let get = offset_of(kernel, "struct kernel_param_ops", "get")?;
    functions.of(GuestVirt(kernel.read_u64(ops.offset(get))?))
}

/// Kind among the kernel's own (`kernel/params.c`): `int` for `param_get_int`, `array` for `param_array_get`.
fn standard(get: Option<&Function>) -> Option<&str> {
    let get = get.filter(|get| get.module.is_none() && get.offset == 0)?;
    match get.name.as_deref()? {
        "param_array_get" => Some("array"),
        name => name.strip_prefix("param_get_"),
    }
}

/// The kind and value of a parameter that is an array.
fn by_element(
    kernel: &Kernel,
    functions: &Functions<'_>,
    at: GuestVirt,
) -> Result<(String, Option<String>)> {
    let array: ParamArray = kernel.load(at)?;
    let count = match array.num.is_null() {
        true => array.max,
        false => kernel.read_u32(array.num)?,
    };
    let get = getter(kernel, functions, array.ops)?;
    let Some(kind) = standard(get.as_ref()) else {
        return Ok(("array".to_owned(), None));
    };
    if u64::from(count) > ELEMENTS {
        return Err(Error::TooLong {
            what: "parameter of a module",
            at,
            bound: ELEMENTS as usize,
        });
    }
    let mut values = Vec::new();
    for index in 0..u64::from(count) {
        let element = array.elem.offset(index * u64::from(array.elemsize));
        match value(kernel, kind, element)? {
            Some(value) => values.push(value),
            None => return Ok((format!("array of {kind}"), None)),
        }
    }
    Ok((format!("array of {kind}"), Some(values.join(","))))
}

/// Prints a parameter of the kernel's own kinds as sysfs does; `None` for a parameter with its own way to print.
fn value(kernel: &Kernel, kind: &str, at: GuestVirt) -> Result<Option<String>> {
    let yes = |yes: bool| if yes { "Y" } else { "N" }.to_owned();
    Ok(Some(match kind {
        "byte" => kernel.read_u8(at)?.to_string(),
        "short" => (kernel.read_u16(at)? as i16).to_string(),
        "ushort" => kernel.read_u16(at)?.to_string(),
        "int" => (kernel.read_u32(at)? as i32).to_string(),
        "uint" => kernel.read_u32(at)?.to_string(),
        "hexint" => format!("{:#08x}", kernel.read_u32(at)?),
        "long" => (kernel.read_u64(at)? as i64).to_string(),
        "ulong" | "ullong" => kernel.read_u64(at)?.to_string(),
        "bool" => yes(kernel.read_u8(at)? != 0),
        "invbool" => yes(kernel.read_u8(at)? == 0),
        "charp" => match GuestVirt(kernel.read_u64(at)?) {
            at if at.is_null() => "(null)".to_owned(),
            at => kernel.read_cstr(at, VALUE)?,
        },
        "string" => {
            let string: ParamString = kernel.load(at)?;
            kernel.read_cstr(string.string, VALUE.min(string.maxlen as usize))?
        }
        _ => return Ok(None),
    }))
}
