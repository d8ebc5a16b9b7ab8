//! Setting the kernel up, and running it: the one place that knows the commands, the cells and the protocol.

use std::sync::Arc;

use anyhow::Result;

use crate::cells::Cells;
use crate::commands::Setup;
use crate::lab;
use crate::session::program;
use crate::spec;

/// Runs a subcommand; returns its message.
pub(crate) fn run(setup: &Setup) -> Result<String> {
    match setup {
        Setup::Kernel { connection_file } => {
            klab_protocol::run(connection_file, |background| {
                Ok(Arc::new(Cells::start(background)?))
            })?;
        }
        Setup::Lab { folder, no_browser } => lab::run(folder.as_deref(), *no_browser)?,
        Setup::Kernelspec { prefix, user: _ } => {
            return Ok(format!("{}\n", spec::install(prefix.as_deref())?.display()));
        }
        Setup::Prepare => program::prepare()?,
    }
    Ok(String::new())
}
