//! klab's kernel module: built for a guest's kernel, loaded, unloaded.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use vm::agent::Client;
use vm::toolchain::{self, Toolchain};
use vm::{Kernel, KernelChoice, Machine};

use super::cli::Kmod;
use super::machine::attach;
use super::output::{Context, Output};
use super::progress::Shown;

/// Runs one of them.
pub(crate) fn run(command: &Kmod, cx: &mut Context<'_>) -> Result<Output> {
    match command {
        Kmod::Build { guest, source } => build(guest.as_deref(), source.as_deref(), cx),
        Kmod::Load { guest } => load(guest.as_deref(), cx),
        Kmod::Unload { guest } => {
            let (machine, mut client) = connect(guest.as_deref(), cx)?;
            client.unload_module(toolchain::NAME)?;
            Output::new(
                format!("the module is no longer in {}\n", machine.name()),
                &json!({ "name": machine.name(), "loaded": false }),
            )
        }
        Kmod::Status { guest } => status(guest.as_deref(), cx),
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
