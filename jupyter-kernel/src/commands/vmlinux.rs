//! The vmlinux with DWARF of a guest's kernel.

use anyhow::Result;
use serde_json::json;
use vm::Kernel;

use super::kmod;
use super::output::{Context, Output};
use super::progress::Shown;

/// Fetches it, and says where it is.
pub(crate) fn run(kernel: Option<&str>, cx: &mut Context<'_>) -> Result<Output> {
    let kernel = match kernel {
        Some(name) => Kernel::resolve(&name.parse().unwrap_or_default(), &mut Shown::on(cx))?,
        None => kmod::kernel(None, cx)?,
    };
    let path = kernel.vmlinux(&mut Shown::on(cx))?;
    Output::new(
        format!("{}\n", path.display()),
        &json!({ "kernel": kernel.release, "vmlinux": path }),
    )
}
