//! Preparations before the first cell: the library of the cells, compiled once, and the sources of
//! the standard library.
//!
//! evcxr compiles every cell as a crate of its own, in a folder with its own target directory. A
//! template of that folder, with `probes` compiled in it as one dylib, is made once for each state of the
//! sources; every kernel copies it. So no cell and no start compiles `probes`.
//!
//! ```text
//! CACHE/cells/HASH/source    the sources of probes, as they were when the template was made
//! CACHE/cells/HASH/template  evcxr's folder, with Cargo.lock and target
//! CACHE/cells/HASH/shared    the crate that has the library's versions and features
//! CACHE/cells/HASH/stubs     empty libraries that a cell is linked to
//! CACHE/cells/HASH/compiled  cells that were compiled against it
//! CACHE/sessions/UUID        one running kernel's copy of the template, and links to the sources of std
//! CACHE/rust-library         the sources of std, if the toolchain has none
//! ```

mod answers;
mod cargo;
mod compiled;
mod link;
mod manifest;
mod process;
mod rust_src;
mod rustc;
mod session;
mod source;
mod template;
mod text;
mod waiting;

pub(crate) use cargo::{hook, without};
pub(crate) use process::cell_process;
pub(crate) use session::{Folder, owns, session};
pub(crate) use template::{build, lock, prepare};
pub(crate) use waiting::waits;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// Names klab's cache.
const CACHE: &str = "KLAB_CACHE";
/// evcxr's variable for the folder it works in.
const EVCXR_TMPDIR: &str = "EVCXR_TMPDIR";
/// rust-analyzer's variable for the sources of the standard library.
const RUST_SRC_PATH: &str = "RUST_SRC_PATH";

/// The first cell of every session, which is kept when the process of the cells is restarted.
///
/// Its `?` makes evcxr let cells use `?`. It does so at the first one it meets, by compiling that cell again; if the
/// cell's value is also to be shown, that second try would show it by `Debug`, without its picture.
pub(crate) fn imports() -> Result<String> {
    let probes = source::folder()?.join("probes");
    Ok(format!(
        ":dep probes = {{ path = {probes:?} }}\nuse probes::prelude::*;\nOk::<(), std::fmt::Error>(())?;"
    ))
}

/// Lets rust-analyzer see the library and that of Rust: until now it had nothing to read. Returns the line for evcxr that
/// makes it look.
///
/// # Errors
///
/// If the session's folder cannot be written.
pub(crate) fn show_libraries() -> Result<String> {
    let folder = std::env::var_os(EVCXR_TMPDIR).context("EVCXR_TMPDIR is not set")?;
    cargo::hide(Path::new(&folder), false)?;
    rust_src::show()?;
    // It looks when the manifest has another text.
    let probes = source::folder()?.join("probes");
    Ok(format!(
        ":dep probes = {{ path = {probes:?}, features = [] }}"
    ))
}

/// Code that every new process of the cells runs first.
pub(crate) fn prelude() -> &'static str {
    r#"
    if let Err(error) = probes::cell::start() {
        eprintln!("cells cannot reach the kernel: {error}");
    }
    let guest: probes::guest::LazyGuest = probes::guest::LazyGuest::from_env();
    "#
}

/// klab's cache folder, as klab has named it.
fn cache() -> Result<PathBuf> {
    let cache = std::env::var_os(CACHE).filter(|path| !path.is_empty());
    Ok(cache.context("KLAB_CACHE is not set: klab does it")?.into())
}

/// State of all this, or how to get it: what `klab doctor` says.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    rust_src: Result<String, String>,
    library: Result<String, String>,
}

/// Looks, and changes nothing.
pub(crate) fn status() -> Status {
    Status {
        rust_src: rust_src(),
        library: cell_library(),
    }
}

/// Folder of the sources of std; else how to get them.
fn rust_src() -> Result<String, String> {
    match rust_src::expected() {
        Err(error) => Err(format!("{error:#}")),
        Ok(path) if path.is_dir() => Ok(path.display().to_string()),
        Ok(_) => Err(
            "`klab prepare` takes Debian's, `rustup component add rust-src` the toolchain's"
                .to_owned(),
        ),
    }
}

/// Folder of the compiled library of the cells; else how to get it.
fn cell_library() -> Result<String, String> {
    match template::folder() {
        Err(error) => Err(format!("{error:#}")),
        Ok(path) if path.is_dir() => Ok(path.display().to_string()),
        Ok(_) => Err("`klab prepare` compiles it (about a minute)".to_owned()),
    }
}
