//! What Jupyter finds of this kernel: its spec, and the extension of JupyterLab by which an address in an output is a link.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

/// Path of the program that was installed into an environment.
const INSTALLED: &str = "bin/klab";
/// Text of the extension.
const EXTENSION: &str = include_str!("labextension.js");
/// Its file, in its folder.
const SCRIPT: &str = "static/klab.js";

/// Writes the spec for this program, and the extension, under `prefix` (a Python environment or `/usr/local`), or for this
/// user, and returns the folder of the spec.
///
/// # Errors
///
/// If the folder cannot be written.
pub(crate) fn install(prefix: Option<&Path>) -> Result<PathBuf> {
    let share = match prefix {
        Some(prefix) => prefix.join("share/jupyter"),
        None => user()?,
    };
    let folder = share.join("kernels/klab");
    let program = std::env::current_exe()?;
    let program = match prefix.map(|prefix| prefix.join(INSTALLED)) {
        // The environment may be another one's by then: this is how a wheel is made.
        Some(installed) if installed.canonicalize().is_ok_and(|path| path == program) => {
            Path::new("{resource_dir}/../../../..").join(INSTALLED)
        }
        _ => program,
    };
    let spec = json!({
        "argv": [program, "kernel", "--connection-file", "{connection_file}"],
        "display_name": "klab (Rust, live Linux kernel)",
        "language": "rust",
        "interrupt_mode": "message",
        "metadata": {"debugger": true},
    });
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join("kernel.json"), format!("{spec:#}\n")))
        .with_context(|| format!("cannot write the kernel spec into {}", folder.display()))?;
    let extension = share.join("labextensions/klab");
    extend(&extension)
        .with_context(|| format!("cannot write the extension into {}", extension.display()))?;
    Ok(folder)
}

/// Writes JupyterLab's extension, as it finds one that was built before.
fn extend(folder: &Path) -> std::io::Result<()> {
    let package = json!({
        "name": "klab",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "An address in an output of klab's is a link that shows what is there",
        "license": env!("CARGO_PKG_LICENSE"),
        "jupyterlab": {
            "extension": true,
            "outputDir": ".",
            "_build": {"load": SCRIPT, "extension": "./extension"},
        },
    });
    let script = folder.join(SCRIPT);
    fs::create_dir_all(script.parent().unwrap_or(folder))?;
    fs::write(script, EXTENSION)?;
    fs::write(folder.join("package.json"), format!("{package:#}\n"))
}

/// Jupyter's folder for a user's data.
fn user() -> Result<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from);
    folder("JUPYTER_DATA_DIR")
        .or_else(|| Some(folder("XDG_DATA_HOME")?.join("jupyter")))
        .or_else(|| Some(folder("HOME")?.join(".local/share/jupyter")))
        .context("no home folder: set HOME, or give --prefix")
}
