//! Setting the kernel up, and running it: the one place that knows the commands, the cells and the protocol.

use std::sync::Arc;

use anyhow::Result;

use crate::cells::Cells;
use crate::commands::Setup;
use crate::prepare::{self, Folder};
use crate::spec;

/// Does what a subcommand says; returns what there is to say.
pub(crate) fn run(setup: &Setup) -> Result<String> {
    match setup {
        Setup::Kernel { connection_file } => {
            let folder = Folder::take()?;
            let served = klab_protocol::run(connection_file, |background| {
                Ok(Arc::new(Cells::start(background)?))
            });
            drop(folder);
            served?;
        }
        Setup::Kernelspec { prefix, user: _ } => {
            return Ok(format!("{}\n", spec::install(prefix.as_deref())?.display()));
        }
        Setup::Prepare { template: true } => prepare::build()?,
        Setup::Prepare { template: false } => prepare::prepare(&|text| eprint!("{text}"))?,
    }
    Ok(String::new())
}
