//! klab's kernel module: built for a guest's kernel, loaded, unloaded.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use probes::Guest;
use probes::printk::Log;
use probes::view::View;
use serde_json::json;
use vm::agent::Client;
use vm::toolchain::{self, Toolchain};
use vm::{Kernel, KernelChoice, Machine};

use super::cli::{Kmod, KmodCell};
use super::machine::attach;
use super::output::{Context, Output, Stream};
use super::progress::Shown;

/// Runs one of them.
pub(crate) fn run(command: &Kmod, cx: &mut Context<'_>) -> Result<Output> {
    match command {
        Kmod::Build { guest, source } => build(guest.as_deref(), source.as_deref(), cx),
        Kmod::Load { guest } => load(guest.as_deref(), cx),
        Kmod::Unload { module, guest } => {
            let (machine, mut client) = connect(guest.as_deref(), cx)?;
            client.unload_module(module)?;
            Output::new(
                format!("the module {module} is no longer in {}\n", machine.name()),
                &json!({ "name": machine.name(), "module": module, "loaded": false }),
            )
        }
        Kmod::Status { guest } => status(guest.as_deref(), cx),
    }
}

/// `%%kmod`: the body as a module, and what the kernel's log got meanwhile; `%kmod COMMAND` without one.
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
    let (machine, mut client) = connect(cell.guest.as_deref(), cx)?;
    let guest = Guest::attach(machine.name())?;
    let before = guest.log()?.last().map(|record| record.seq);
    // On the lines where it stands in the cell, since the compiler names them.
    let source = format!("\n{body}");
    let parameters = cell.parameters.join(" ");
    let loaded = machine.load_source(&mut client, &source, &parameters, &mut Shown::on(cx));
    let records = guest.log()?;
    let new = records
        .iter()
        .filter(|record| before.is_none_or(|before| record.seq > before));
    let log: Log = new.cloned().collect();
    match loaded {
        Ok(name) => Ok(Output {
            html: log.html(),
            ..Output::new(log.text(), &json!({ "module": name, "log": log }))?
        }),
        Err(error) => {
            (cx.sink)(Stream::Stderr, log.text().as_bytes());
            Err(in_cell(error))
        }
    }
}

/// The compiler's words, which name the cell instead of a file in the build's folder.
fn in_cell(error: vm::Error) -> anyhow::Error {
    match error {
        vm::Error::Step { what, why, .. } if why.starts_with("error") => {
            let lines = why.lines().map(|line| match line.split_once("--> ") {
                Some((before, place)) if before.trim().is_empty() && !place.contains('/') => {
                    let place = place.split_once(".rs:").map_or(place, |(_, place)| place);
                    format!("{before}--> cell:{place}")
                }
                _ => line.to_owned(),
            });
            let lines: Vec<String> = lines.collect();
            anyhow::anyhow!("{what} failed:\n{}", lines.join("\n"))
        }
        error => error.into(),
    }
}

/// The kernel of the guest that is meant, else the one that `klab up` would boot.
pub(super) fn kernel(guest: Option<&str>, cx: &mut Context<'_>) -> Result<Kernel> {
    match (attach(guest, cx), guest) {
        (Ok(machine), _) => Ok(machine.kernel()?.clone()),
        (Err(error), Some(_)) => Err(error),
        (Err(_), None) => Ok(Kernel::resolve(&KernelChoice::Default, &mut Shown::on(cx))?),
    }
}

fn connect(guest: Option<&str>, cx: &Context<'_>) -> Result<(Machine, Client)> {
    let machine = attach(guest, cx)?;
    let client = machine.agent()?;
    Ok((machine, client))
}

fn build(guest: Option<&str>, source: Option<&Path>, cx: &mut Context<'_>) -> Result<Output> {
    let kernel = kernel(guest, cx)?;
    let toolchain = Toolchain::of(&kernel)?;
    let source = source.unwrap_or(Path::new(toolchain::SOURCE));
    let mut shown = Shown::on(cx);
    toolchain.ensure(&mut shown)?;
    let start = Instant::now();
    let module = toolchain.build(toolchain::NAME, source, &mut shown)?;
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
    let loaded = match connect(guest, cx) {
        Ok((_, mut client)) => Some(toolchain::kmod_is_loaded(&mut client)?),
        Err(_) => None,
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
        match loaded {
            Some(true) => "the module is loaded",
            Some(false) => "the module is not loaded: `klab kmod load` does",
            None => "none is up",
        }
    );
    Output::new(
        text,
        &json!({ "kernel": kernel.release, "toolchain": ready, "module": module, "loaded": loaded }),
    )
}
