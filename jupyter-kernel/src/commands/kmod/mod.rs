//! Kernel modules: klab's own, built, loaded and unloaded, and those of `%%kmod` cells.

mod source;
mod words;

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use probes::Guest;
use probes::printk::Log;
use probes::view::{View, escape};
use serde_json::{Value, json};
use vm::agent::{self, Call, Client, ModuleError};
use vm::toolchain::{self, Toolchain};
use vm::{Kernel, KernelChoice, Machine, Progress as _};

use super::cli::{Kmod, KmodCell};
use super::machine::attach;
use super::output::{Context, Output, Stream};
use super::progress::Shown;

/// Runs one of them.
pub(crate) fn run(command: &Kmod, cx: &mut Context<'_>) -> Result<Output> {
    match command {
        Kmod::Build { guest, source } => build(guest.as_deref(), source.as_deref(), cx),
        Kmod::Load { guest } => load(guest.as_deref(), cx),
        Kmod::Unload { module, guest } => unload(module, guest.as_deref(), cx),
        Kmod::Status { guest } => status(guest.as_deref(), cx),
    }
}

/// `%%kmod`: the body as a module, and the kernel's log of that time; `%kmod COMMAND` without a body.
pub(crate) fn cell(cell: &KmodCell, body: &str, cx: &mut Context<'_>) -> Result<Output> {
    match (&cell.command, body.trim().is_empty()) {
        (Some(command), true) => return run(command, cx),
        (None, false) => {}
        (Some(_), false) => {
            bail!("this command takes no body: `%%kmod` alone stands above a module's source")
        }
        (None, true) => {
            bail!("`%%kmod` has nothing to compile: write a kernel module in Rust below the line")
        }
    }
    no_guests(&cell.parameters)?;
    let parameters = words::parameters(&cell.parameters)?;
    // On the lines where it stands in the cell, since the compiler names them.
    let source = source::read(&format!("\n{body}"))?;
    let machine = attach(cell.guest.as_deref(), cx)?;
    let built = machine.build_source(&source.name, &source.text, &mut Shown::on(cx));
    let built = built.map_err(in_cell)?;
    if !built.warnings.is_empty() {
        let warnings = words::of_the_cell(&built.warnings);
        (cx.sink)(Stream::Stderr, format!("{warnings}\n").as_bytes());
    }
    let logged = Logged::begin(machine.name());
    let mut client = machine.agent()?;
    let loaded = machine.load_built(&mut client, &built, &parameters, &mut Shown::on(cx));
    let (note, log) = logged.end();
    match loaded {
        Ok(()) => Ok(Output {
            html: log.html().map(|html| format!("{}{html}", as_html(&note))),
            ..Output::new(
                words::text(&note, &log),
                &json!({ "module": built.name, "log": log, "note": note.trim() }),
            )?
        }),
        Err(error) => {
            (cx.sink)(Stream::Stderr, words::text(&note, &log).as_bytes());
            Err(explained(in_cell(error), machine.name(), &log))
        }
    }
}

/// Refuses a word without `=` that is a guest's name: it was meant as one.
fn no_guests(parameters: &[String]) -> Result<()> {
    let bare: Vec<&String> = parameters
        .iter()
        .filter(|word| !word.contains('='))
        .collect();
    if bare.is_empty() {
        return Ok(());
    }
    let guests = Machine::list()?;
    match bare
        .iter()
        .find(|word| guests.iter().any(|guest| guest.name == ***word))
    {
        Some(word) => {
            bail!("`{word}` is a guest, and would be a parameter here: write `--guest {word}`")
        }
        None => Ok(()),
    }
}

/// The compiler's error, with the cell's lines in it.
fn in_cell(error: vm::Error) -> anyhow::Error {
    match error {
        vm::Error::Step { what, why, .. }
            if why.starts_with("error") || why.contains("ERROR: modpost") =>
        {
            anyhow!("{what} failed:\n{}", words::of_the_cell(&why))
        }
        vm::Error::Mismatch(text) => anyhow!("{}", words::demangled(&text)),
        error => error.into(),
    }
}

/// The guest's log from now on. A log that cannot be read keeps nobody from loading a module.
struct Logged(Result<(Guest, u64)>);

impl Logged {
    fn begin(name: &str) -> Self {
        let next = || -> Result<(Guest, u64)> {
            let guest = Guest::attach(name)?;
            let next = guest.log()?.last().map_or(0, |record| record.seq + 1);
            Ok((guest, next))
        };
        Self(next())
    }

    /// Text that the log got, and what of it is not shown or not known.
    fn end(self) -> (String, Log) {
        let read = self.0.and_then(|(guest, next)| Ok((guest.log()?, next)));
        match read {
            Ok((log, next)) => words::since(log, next),
            Err(error) => (
                format!("(the kernel's log cannot be read: {error})\n"),
                Log::from_iter([]),
            ),
        }
    }
}

fn as_html(note: &str) -> String {
    if note.is_empty() {
        return String::new();
    }
    format!("<p>{}</p>", escape(note.trim()))
}

/// The module's error, with the guest's knowledge of it: the users of a module, the message of a panic.
fn explained(error: anyhow::Error, guest: &str, log: &Log) -> anyhow::Error {
    let module = error.chain().find_map(of_a_module);
    let more = match module {
        Some(ModuleError::Died { .. }) => words::of_the_fault(log),
        Some(ModuleError::Refused {
            module,
            call: Call::Exit,
            errno,
        }) if *errno == nix::errno::Errno::EAGAIN as i32 => Some(users(guest, module)),
        _ => None,
    };
    match more {
        Some(more) => anyhow!("{error}: {more}"),
        None => error,
    }
}

/// Message of an error about a module.
pub(super) fn of_a_module<'e>(
    cause: &'e (dyn std::error::Error + 'static),
) -> Option<&'e ModuleError> {
    match cause.downcast_ref() {
        Some(vm::Error::Agent(agent::Error::Module(error))) => Some(error),
        _ => match cause.downcast_ref() {
            Some(agent::Error::Module(error)) => Some(error),
            _ => None,
        },
    }
}

/// The users of a module, as far as memory tells.
fn users(guest: &str, module: &str) -> String {
    let read = || -> probes::Result<String> {
        let guest = Guest::attach(guest)?;
        let details = guest.module(module)?;
        let files = guest.module_users(module)?;
        let mut parts = vec![format!("uses {}", details.module.refcnt)];
        parts.extend(
            files
                .iter()
                .map(|user| format!("{} ({}) has {} open", user.comm, user.pid, user.path)),
        );
        if !details.used_by.is_empty() {
            parts.push(format!("needed by {}", details.used_by.join(", ")));
        }
        if parts.len() == 1 {
            parts.push("by no process's open file and by no other module".to_owned());
        }
        parts.extend(files.missing.iter().map(ToString::to_string));
        Ok(parts.join("; "))
    };
    read().unwrap_or_else(|error| format!("by whom cannot be read: {error}"))
}

fn unload(module: &str, guest: Option<&str>, cx: &mut Context<'_>) -> Result<Output> {
    let (machine, mut client) = connect(guest, cx)?;
    let logged = Logged::begin(machine.name());
    let mut shown = Shown::on(cx);
    shown.step(&format!("unloading {module}"));
    let unloaded = client.unload_module_with(module, &mut shown);
    drop(shown);
    let (note, log) = logged.end();
    let said = words::text(&note, &log);
    if let Err(error) = unloaded {
        (cx.sink)(Stream::Stderr, said.as_bytes());
        return Err(explained(error.into(), machine.name(), &log));
    }
    Output::new(
        format!(
            "{said}the module {module} is no longer in {}\n",
            machine.name()
        ),
        &json!({ "name": machine.name(), "module": module, "loaded": false, "log": log }),
    )
}

/// The kernel of the guest that is meant, else the one that `klab up` would boot.
pub(super) fn kernel(guest: Option<&str>, cx: &mut Context<'_>) -> Result<Kernel> {
    match attach(guest, cx) {
        Ok(machine) => Ok(machine.kernel()?.clone()),
        Err(error) if guest.is_none() && is_down(&error) => {
            Ok(Kernel::resolve(&KernelChoice::Default, &mut Shown::on(cx))?)
        }
        Err(error) => Err(error),
    }
}

/// Tells whether the error says that there is no such guest.
fn is_down(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(vm::Error::UnknownGuest { .. }))
}

fn connect(guest: Option<&str>, cx: &Context<'_>) -> Result<(Machine, Client)> {
    let machine = attach(guest, cx)?;
    let client = machine.agent()?;
    Ok((machine, client))
}

fn build(guest: Option<&str>, source: Option<&Path>, cx: &mut Context<'_>) -> Result<Output> {
    let kernel = kernel(guest, cx)?;
    let toolchain = Toolchain::of(&kernel)?;
    let source = source.map_or_else(toolchain::source, Path::to_owned);
    let mut shown = Shown::on(cx);
    toolchain.ensure(&mut shown)?;
    let start = Instant::now();
    let module = toolchain.build(toolchain::NAME, &source, &mut shown)?;
    drop(shown);
    let seconds = start.elapsed().as_secs_f64();
    let text = format!(
        "{} for linux {} ({seconds:.1} s)\n",
        module.display(),
        kernel.release
    );
    Output::new(
        text,
        &json!({ "module": module, "kernel": kernel.release, "seconds": seconds }),
    )
}

fn load(guest: Option<&str>, cx: &mut Context<'_>) -> Result<Output> {
    let (machine, mut client) = connect(guest, cx)?;
    let new = machine.load_kmod(&mut client, &mut Shown::on(cx))?;
    let (name, already) = (machine.name(), if new { "" } else { " already" });
    Output::new(
        format!("the module is loaded in {name}{already}\n"),
        &json!({ "name": name, "loaded": true, "new": new }),
    )
}

fn status(guest: Option<&str>, cx: &mut Context<'_>) -> Result<Output> {
    let kernel = kernel(guest, cx)?;
    let toolchain = Toolchain::of(&kernel)?;
    let (ready, module) = (toolchain.ready(), toolchain.built(toolchain::NAME));
    // In memory, where a guest that does not answer, or is paused, has it too.
    let loaded = match attach(guest, cx) {
        Ok(machine) => Guest::attach(machine.name())
            .and_then(|guest| guest.modules())
            .map(|modules| Some(modules.iter().any(|module| module.name == toolchain::NAME)))
            .map_err(anyhow::Error::from),
        Err(error) if is_down(&error) => Ok(None),
        Err(error) => Err(error),
    };
    let words = match ready {
        toolchain::Ready::Whole => "ready",
        toolchain::Ready::Nothing => "not made yet: `klab kmod build` makes it",
        _ => "made in part: `klab kmod build` goes on",
    };
    let text = format!(
        "kernel     {}\ntoolchain  {words}\nmodule     {}\nguest      {}\n",
        kernel.release,
        module
            .as_ref()
            .map_or("not built".to_owned(), |path| path.display().to_string()),
        match &loaded {
            Ok(Some(true)) => "the module is loaded".to_owned(),
            Ok(Some(false)) => "the module is not loaded: `klab kmod load` does".to_owned(),
            Ok(None) => "none is up".to_owned(),
            Err(error) => format!("not known: {error:#}"),
        }
    );
    let why = loaded.as_ref().err().map(|error| format!("{error:#}"));
    let value = json!({ "kernel": kernel.release, "toolchain": ready, "module": module,
        "loaded": loaded.as_ref().map_or(Value::Null, |loaded| json!(loaded)), "error": why });
    Ok(Output {
        code: loaded.is_err().into(),
        ..Output::new(text, &value)?
    })
}
