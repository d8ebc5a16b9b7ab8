//! The commands that read a guest's memory.

use anyhow::{Result, bail};

use super::cli::Look;
use super::{Context, Output};

/// Runs one of them.
pub(crate) fn run(command: &Look, cx: &mut Context<'_>) -> Result<Output> {
    bail!("{command:?} on {} is not part of this build", cx.guest)
}
