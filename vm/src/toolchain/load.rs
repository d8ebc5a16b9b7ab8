//! klab's own module, into a guest and out of it.

use std::path::PathBuf;

use super::{Built, Toolchain, names};
use crate::agent::Client;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::paths;
use crate::progress::Progress;

/// The name of klab's module, and of its device under `/dev`.
pub const NAME: &str = "klab";
/// The folder of its sources in the repository.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../kmod");
/// Path of the module in a guest.
const GUEST: &str = "/run/klab.ko";

/// Folder of the sources of klab's module: what came with an installed klab, else the repository's.
pub fn source() -> PathBuf {
    paths::shipped("kmod").unwrap_or_else(|| SOURCE.into())
}

impl Machine {
    /// Loads klab's module, built for this guest's kernel first where it is not (the first time for a kernel this takes
    /// some minutes); `false` if it was loaded already. `client` is one of this machine.
    ///
    /// # Errors
    /// As [`Toolchain::of`], [`Toolchain::ensure`] and [`Toolchain::build`]; when the guest's kernel refuses the module.
    pub fn load_kmod(&self, client: &mut Client, progress: &mut dyn Progress) -> Result<bool> {
        let toolchain = Toolchain::of(self.kernel()?)?;
        if kmod_is_loaded(client)? {
            return Ok(false);
        }
        toolchain.ensure(progress)?;
        let module = toolchain.build(NAME, &source(), progress)?;
        unless_stopped(progress, "nothing was loaded")?;
        client.push_file(&module, GUEST)?;
        match client.load_module_with(GUEST, "", progress) {
            // Another command was faster.
            Err(_) if kmod_is_loaded(client)? => Ok(false),
            loaded => Ok(loaded.map(|_| true)?),
        }
    }

    /// Builds the module `name` of one Rust source for this guest's kernel.
    ///
    /// # Errors
    /// As [`Toolchain::of`], [`Toolchain::ensure`] and [`Toolchain::build_source`]; [`Error::BadOption`] where the kernel
    /// has a module of that name of its own.
    pub fn build_source(
        &self,
        name: &str,
        source: &str,
        progress: &mut dyn Progress,
    ) -> Result<Built> {
        let kernel = self.kernel()?;
        if let Some(file) = names::own(kernel, &name.replace('-', "_"))? {
            return Err(taken(name, &file));
        }
        let toolchain = Toolchain::of(kernel)?;
        toolchain.ensure(progress)?;
        toolchain.build_source(name, source, progress)
    }

    /// Loads a module that was built of a source with these parameters; one of its name that came the same way is
    /// unloaded first. `client` is one of this machine.
    ///
    /// # Errors
    /// When the guest's kernel refuses it, or keeps the one that is to be replaced; [`Error::BadOption`] where one of that
    /// name did not come from outside of the kernel's tree.
    pub fn load_built(
        &self,
        client: &mut Client,
        built: &Built,
        parameters: &str,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let name = &built.name;
        unless_stopped(progress, "nothing was loaded")?;
        if client.modules()?.iter().any(|module| module.name == *name) {
            // `O`: built out of the kernel's tree (Documentation/admin-guide/tainted-kernels.rst).
            let taints = client.read(&format!("/sys/module/{name}/taint"))?;
            if !taints.contains(&b'O') {
                return Err(taken(name, "it is loaded"));
            }
            progress.step(&format!("unloading the {name} of an earlier run"));
            client.unload_module_with(name, progress)?;
            unless_stopped(
                progress,
                &format!("the {name} of an earlier run was unloaded, and nothing was loaded"),
            )?;
        }
        let to = format!("/run/{name}.ko");
        client.push_file(&built.path, &to)?;
        client.load_module_with(&to, parameters, progress)?;
        Ok(())
    }
}

fn taken(name: &str, why: &str) -> Error {
    Error::BadOption(format!(
        "the kernel has a module {name} of its own ({why}): give this one another name"
    ))
}

/// Fails with what was done so far when the user wants an end.
fn unless_stopped(progress: &dyn Progress, done: &str) -> Result<()> {
    if progress.stopped() {
        return Err(Error::Interrupted(format!("stopped: {done}")));
    }
    Ok(())
}

/// Tells whether klab's module is loaded in the guest.
///
/// # Errors
/// When the agent does not answer.
pub fn kmod_is_loaded(client: &mut Client) -> Result<bool> {
    Ok(client.modules()?.iter().any(|module| module.name == NAME))
}
