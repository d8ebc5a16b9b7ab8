//! klab's own module, into a guest and out of it.

use std::path::Path;

use super::Toolchain;
use crate::agent::Client;
use crate::error::Result;
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

/// Whether klab's module is loaded in the guest.
///
/// # Errors
/// When the agent does not answer.
pub fn kmod_is_loaded(client: &mut Client) -> Result<bool> {
    Ok(client.modules()?.iter().any(|module| module.name == NAME))
}
