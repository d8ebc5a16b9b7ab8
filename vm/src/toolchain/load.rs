//! klab's own module, into a guest and out of it.

use std::path::Path;

use super::Toolchain;
use crate::agent::Client;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::progress::Progress;

/// The name of klab's module, and of its device under `/dev`.
pub const NAME: &str = "klab";
/// Its sources.
pub const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../kmod");
/// Where it lies in a guest.
const GUEST: &str = "/run/klab.ko";

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
        let module = toolchain.build(NAME, Path::new(SOURCE), progress)?;
        client.push_file(&module, GUEST)?;
        client.load_module(GUEST, "")?;
        Ok(true)
    }
}

impl Machine {
    /// Builds the module of one Rust source and loads it with these parameters; one of its name that came the same way
    /// is unloaded first. Gives its name. `client` is one of this machine.
    ///
    /// # Errors
    /// As [`Machine::load_kmod`]; [`Error::BadOption`] where a module of the kernel's own has that name.
    pub fn load_source(
        &self,
        client: &mut Client,
        source: &str,
        parameters: &str,
        progress: &mut dyn Progress,
    ) -> Result<String> {
        let toolchain = Toolchain::of(self.kernel()?)?;
        toolchain.ensure(progress)?;
        let built = toolchain.build_source(source, progress)?;
        let name = &built.name;
        if client.modules()?.iter().any(|module| module.name == *name) {
            // `O`: built out of the kernel's tree (Documentation/admin-guide/tainted-kernels.rst).
            let taints = client.read(&format!("/sys/module/{name}/taint"))?;
            if !taints.contains(&b'O') {
                return Err(Error::BadOption(format!(
                    "the kernel has a module {name} of its own: give this one another name"
                )));
            }
            client.unload_module(name)?;
        }
        let to = format!("/run/{name}.ko");
        client.push_file(&built.path, &to)?;
        client.load_module(&to, parameters)?;
        Ok(built.name)
    }
}

/// Whether klab's module is loaded in the guest.
///
/// # Errors
/// When the agent does not answer.
pub fn kmod_is_loaded(client: &mut Client) -> Result<bool> {
    Ok(client.modules()?.iter().any(|module| module.name == NAME))
}
