//! The commands that read a guest's memory: each reads one value and shows its faces.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use probes::cell::check_interrupt;
use probes::guest::Guest;
use probes::kernel::btf::Declaration;
use probes::kernel::{demangled, place};
use probes::memory::GuestVirt;
use probes::skb::{Filter, Profile};
use probes::view::{View, clean};
use serde::Serialize;
use serde_json::json;
use vm::UserFile;

use super::cli::{Look, PacketFilter, Source};
use super::code;
use super::output::{Context, Face, INTERRUPTED, Output, Stream};
use super::read::Place;
use super::record;
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
        Look::Sym { what, .. } => symbol(&guest, what),
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
            all_families,
            pcapng,
            command,
            ..
        } => {
            // Before the recording: whether it can be written is not to be found out afterwards.
            let open = |path| UserFile::stream(path, &check_interrupt);
            let file = pcapng.as_deref().map(open);
            let file = file.transpose()?;
            let Ok(profile) = profile.parse::<Profile>();
            let mut options = profile.only(packets(filter)?);
            options.all_families = *all_families;
            let (mut paths, interrupted) = record::run(&guest, options, command, cx)?;
            if let Some(text) = about {
                paths = paths.about(text);
            }
            if let Some(file) = file {
                let written = (&file).write_all(&paths.pcapng());
                written.map_err(|error| file.fault(error))?;
                file.place()?;
            }
            let mut output = shown(&paths)?;
            if interrupted {
                output.code = INTERRUPTED;
            }
            Ok(output)
        }
    }
}

/// The packets that a capture is about.
fn packets(wanted: &PacketFilter) -> Result<Filter> {
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
    Ok(filter)
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
    let text = match Face::Text.is_wanted() {
        true => value.text(),
        false => String::new(),
    };
    Ok(Output {
        html: if Face::all() { value.html() } else { None },
        svg: if Face::all() { value.svg() } else { None },
        code: u8::from(!value.missing().is_empty()),
        ..Output::new(text, value)?
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
                "{at} is not mapped, the walk ends at the {level}: `klab vma {pid}` lists what process {pid} maps"
            ),
            None => bail!(
                "{at} is not mapped, the walk ends at the {level}: an address of a process needs `--pid PID`"
            ),
        }
    }
    shown(&walk)
}

/// A name gives all symbols that have it, an address the symbol that it lies in.
fn symbol(guest: &Guest, what: &str) -> Result<Output> {
    if let Some(at) = address(what) {
        let Some(symbol) = guest.kernel()?.symbol_at(at)? else {
            bail!("{at} lies in no symbol of the kernel: `klab sym NAME` looks one up by its name");
        };
        // In a symbol, also at its beginning: `+0x0` says that it was asked for by its address.
        let name = place(&symbol.name, 0, None);
        let module = symbol.module.as_ref().map(|module| format!(" [{module}]"));
        let text = format!(
            "{at} {name}+{:#x}{}",
            symbol.offset,
            module.unwrap_or_default()
        );
        let value = json!({
            "address": at,
            "symbol": symbol.name,
            "demangled": demangled(&symbol.name),
            "offset": symbol.offset,
            "module": symbol.module,
        });
        return Output::new(format!("{}\n", clean(&text)), &value);
    }
    let all = guest.symbols(what)?;
    let addresses: Vec<GuestVirt> = all.iter().map(|one| one.at).collect();
    let ty = all.first().and_then(|one| one.c_type.clone());
    let value = json!({ "symbol": what, "addresses": addresses, "type": ty, "definitions": all });
    Ok(Output {
        html: all.html(),
        ..Output::new(all.text(), &value)?
    })
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
    let error = match guest.type_of(name) {
        Ok(declaration) => return Ok(declaration),
        Err(error) => error,
    };
    // Built in, or ambiguous: what is wrong with it is said. A name that no typedef has may be another type's.
    let bare = name.split(':').all(|part| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    if !bare || !error.to_string().contains("has no type `") {
        return Err(error.into());
    }
    let kinds = ["struct", "union", "enum"].map(|kind| guest.type_of(&format!("{kind} {name}")));
    let mut first = None;
    for found in kinds {
        match found {
            Ok(declaration) => return Ok(declaration),
            Err(error) if !error.to_string().contains("has no type `") => return Err(error.into()),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or(error).into())
}
