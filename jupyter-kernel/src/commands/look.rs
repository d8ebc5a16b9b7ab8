//! The commands that read a guest's memory: each reads one value and shows its faces.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use probes::guest::Guest;
use probes::kernel::Kernel;
use probes::kernel::btf::Declaration;
use probes::memory::GuestVirt;
use probes::skb::{Filter, Paths, Profile};
use probes::view::View;
use serde::Serialize;
use serde_json::json;

use super::cli::{Look, PacketFilter, Source};
use super::code;
use super::output::{Context, Output, Stream};
use super::read::Place;
use super::search;

/// The guests that lines of this notebook looked into. A [`Guest`] follows one of klab's own when it is reset or started
/// anew; under the name of one that someone else started there may be another machine by the next line.
static KNOWN: Mutex<BTreeMap<String, Guest>> = Mutex::new(BTreeMap::new());

/// Runs one of them.
pub(crate) fn run(command: &Look, cx: &mut Context<'_>) -> Result<Output> {
    if let Look::Struct {
        ty,
        source: source @ Source { code: true, .. },
    } = command
    {
        // Which of struct, union, enum and typedef a bare name is, the guest's BTF says.
        let ty = vec![c_type(&guest(source, cx)?, &ty.join(" "))?.name];
        return code(&Look::Struct {
            ty,
            source: source.clone(),
        });
    }
    if command.source().code {
        return code(command);
    }
    let guest = guest(command.source(), cx)?;
    match command {
        Look::Read(read) => read.run(&guest),
        Look::Stack { pid: None, .. } => shown(&guest.stack_traces()?),
        Look::Stack { pid: Some(pid), .. } => shown(&guest.stack_trace(*pid)?),
        Look::Vtop { address, pid, .. } => translate(&guest, address, *pid, cx),
        Look::What { address, pid, .. } => {
            let at = address.resolve(&guest)?;
            shown(&match pid {
                Some(pid) => guest.what_of(*pid, at)?,
                None => guest.what(at)?,
            })
        }
        Look::Search(what) => search::run(what, &guest, cx),
        Look::Slab { cache: None, .. } => shown(&guest.slab_caches()?),
        Look::Slab {
            cache: Some(cache), ..
        } => shown(&guest.slab_objects(cache)?),
        Look::Sym { what, .. } => symbol(&guest.kernel()?, what),
        Look::Struct { ty, .. } => shown(&c_type(&guest, &ty.join(" "))?),
        Look::P { expression, .. } => evaluate(&guest, &expression.join(" ")),
        Look::List {
            expression,
            of,
            show,
            ..
        } => list(&guest, &expression.join(" "), of.as_deref(), show),
        Look::Skb {
            profile,
            filter,
            about,
            pcapng,
            command,
            ..
        } => {
            let paths = paths(&guest, profile, filter, about.as_deref(), command)?;
            if let Some(file) = pcapng {
                std::fs::write(file, paths.pcapng())
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
            shown(&paths)
        }
    }
}

/// The packets that the guest's kernel handles while a command runs in it.
fn paths(
    guest: &Guest,
    profile: &str,
    wanted: &PacketFilter,
    about: Option<&str>,
    command: &[String],
) -> Result<Paths> {
    let Ok(profile) = profile.parse::<Profile>();
    let mut filter = match &wanted.filter {
        Some(expression) => Filter::new(expression)?,
        None => Filter::default(),
    };
    if let Some(name) = &wanted.interface {
        filter = filter.interface(name);
    }
    if let Some(netns) = &wanted.netns {
        filter = filter.netns(netns.as_str());
    }
    if let Some((mark, mask)) = wanted.mark {
        filter = filter.mark(mark, mask);
    }
    let paths = guest.paths(profile.only(filter), |guest| {
        guest.agent()?.output(command)?;
        Ok(())
    })?;
    Ok(match about {
        Some(text) => paths.about(text),
        None => paths,
    })
}

fn code(command: &Look) -> Result<Output> {
    let cell = code::cell(command)?;
    Output::new(cell.clone(), &json!({ "code": cell }))
}

/// The guest that a command looks into. What is to be said of all that is read in it is said first.
fn guest(source: &Source, cx: &mut Context<'_>) -> Result<Guest> {
    let guest = find(source, cx)?;
    if let Some(note) = guest.note()? {
        (cx.sink)(Stream::Stderr, format!("{note}\n").as_bytes());
    }
    Ok(guest)
}

fn find(source: &Source, cx: &Context<'_>) -> Result<Guest> {
    if let Some(file) = &source.core {
        return Ok(match source.kernel_at {
            Some(at) => Guest::open_core_kernel(file, at)?,
            None => Guest::open_core(file)?,
        });
    }
    let name = source.guest.as_deref().unwrap_or(&cx.guest);
    if let Some(at) = source.kernel_at {
        return Ok(Guest::attach_kernel(name, at)?);
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let still = |guest: &Guest| {
        guest.kernel().is_ok() && guest.machine().is_ok_and(|machine| machine.is_own())
    };
    if let Some(guest) = known.remove(name).filter(still) {
        known.insert(name.to_owned(), guest.clone());
        return Ok(guest);
    }
    let guest = Guest::attach(name)?;
    if guest.machine()?.is_own() {
        known.insert(name.to_owned(), guest.clone());
    }
    Ok(guest)
}

/// All faces of one value.
pub(super) fn shown<V: View + Serialize>(value: &V) -> Result<Output> {
    Ok(Output {
        html: value.html(),
        svg: value.svg(),
        code: u8::from(!value.missing().is_empty()),
        ..Output::new(value.text(), value)?
    })
}

/// An address as people write it: hexadecimal, with or without 0x.
pub(super) fn address(text: &str) -> Option<GuestVirt> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| Some(text).filter(|text| text.len() == 16))?;
    u64::from_str_radix(digits, 16).ok().map(GuestVirt)
}

/// Walks the page tables; a walk that ends early is shown before it is an error.
fn translate(
    guest: &Guest,
    place: &Place,
    pid: Option<i32>,
    cx: &mut Context<'_>,
) -> Result<Output> {
    let at = place.resolve(guest)?;
    let walk = match pid {
        Some(pid) => guest.page_walk_of(pid, at)?,
        None => guest.page_walk(at)?,
    };
    if walk.phys.is_none() {
        (cx.sink)(Stream::Stderr, walk.text().as_bytes());
        let level = walk.steps.last().map_or("pgd", |step| step.level.name());
        match pid {
            Some(pid) => bail!(
                "{at} is not mapped, the walk ends at the {level}: `vma {pid}` lists what process {pid} maps"
            ),
            None => bail!(
                "{at} is not mapped, the walk ends at the {level}: an address of a process needs `--pid PID`"
            ),
        }
    }
    shown(&walk)
}

/// Whether it is an identifier of C.
pub(super) fn is_name(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A name gives all symbols that have it, an address the symbol that it lies in.
fn symbol(kernel: &Kernel, what: &str) -> Result<Output> {
    if let Some(at) = address(what) {
        let Some(symbol) = kernel.symbol_at(at)? else {
            bail!("{at} lies in no symbol of the kernel: `%sym NAME` looks one up by its name");
        };
        let text = format!("{at} {}+{:#x}\n", symbol.name, symbol.offset);
        let value = json!({ "address": at, "symbol": symbol.name, "offset": symbol.offset, "module": symbol.module });
        return Output::new(text, &value);
    }
    let first = kernel.symbol(what)?;
    let ty = kernel.object(what).ok().map(|object| object.type_name());
    let mut all: Vec<GuestVirt> = kernel.symbols()?.lookup_all(what).collect();
    if all.is_empty() {
        // A module's.
        all.push(first);
    }
    all.sort_unstable_by_key(|at| (*at != first, at.0));
    let suffix = ty.as_ref().map(|ty| format!(": {ty}")).unwrap_or_default();
    let text: String = all
        .iter()
        .map(|at| format!("{at} {what}{suffix}\n"))
        .collect();
    Output::new(
        text,
        &json!({ "symbol": what, "addresses": all, "type": ty }),
    )
}

fn evaluate(guest: &Guest, expression: &str) -> Result<Output> {
    let object = guest.eval(expression)?;
    let value = json!({
        "expression": expression,
        "type": object.type_name(),
        "address": object.address(),
        "value": object.to_value()?,
    });
    Ok(Output {
        html: object.html(),
        ..Output::new(format!("{}\n", object.text()), &value)?
    })
}

/// Walks a list; each node is shown as the structure that holds it, where that is said.
fn list(guest: &Guest, expression: &str, of: Option<&str>, show: &[String]) -> Result<Output> {
    let (container, member) = container(of)?;
    let ring = guest.eval(expression)?.ring(&container, member, |entry| {
        let texts = show
            .iter()
            .map(|name| Ok(entry.member(name)?.to_value()?.to_string()));
        Ok(texts.collect::<probes::Result<Vec<String>>>()?.join(" "))
    })?;
    shown(&ring)
}

/// `task_struct.tasks` -> `struct task_struct`, `tasks`.
pub(super) fn container(of: Option<&str>) -> Result<(String, &str)> {
    let Some(of) = of else {
        return Ok(("struct list_head".to_owned(), "next"));
    };
    let Some((ty, member)) = of.split_once('.') else {
        bail!("`--of {of}` names no member: write TYPE.MEMBER, as in task_struct.tasks");
    };
    let ty = ty.trim_start_matches("struct ");
    Ok((format!("struct {ty}"), member))
}

/// A type as C writes it: a bare name is a typedef's where there is one, else a structure's.
pub(super) fn c_type(guest: &Guest, name: &str) -> Result<Declaration> {
    match guest.type_of(name) {
        Ok(declaration) => Ok(declaration),
        Err(error) if name.contains(' ') => Err(error.into()),
        Err(_) => ["struct", "union", "enum"]
            .iter()
            .find_map(|kind| guest.type_of(&format!("{kind} {name}")).ok())
            .map_or_else(|| Ok(guest.type_of(&format!("struct {name}"))?), Ok),
    }
}
