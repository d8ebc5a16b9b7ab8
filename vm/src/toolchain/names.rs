//! The names that a kernel's own modules have.

use std::fs;
use std::io;
use std::path::Path;

use crate::error::{At, Result};
use crate::kernels::Kernel;

/// Folders below a kernel's modules are not deeper.
const DEPTH: usize = 16;

/// The file of the kernel's own module of this name, below its modules' folder; one that is built in has its line of
/// `modules.builtin`.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn own(kernel: &Kernel, name: &str) -> Result<Option<String>> {
    let builtin = kernel.modules.join("modules.builtin");
    let text = match fs::read_to_string(&builtin) {
        // A kernel by path may have none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.at("read", &builtin)?,
    };
    if let Some(line) = text.lines().find(|line| is(line, name)) {
        return Ok(Some(format!("{line}, built in")));
    }
    find(&kernel.modules, Path::new(""), name, DEPTH)
}

fn find(root: &Path, below: &Path, name: &str, depth: usize) -> Result<Option<String>> {
    let folder = root.join(below);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.at("read", &folder)?,
    };
    for entry in entries {
        let entry = entry.at("read", &folder)?;
        let kind = entry.file_type().at("look at", &entry.path())?;
        let path = below.join(entry.file_name());
        // `build` and `source` are links, and lead elsewhere.
        if kind.is_dir() && depth > 0 {
            if let Some(found) = find(root, &path, name, depth - 1)? {
                return Ok(Some(found));
            }
        } else if let Some(path) = path.to_str().filter(|path| is(path, name)) {
            return Ok(Some(path.to_owned()));
        }
    }
    Ok(None)
}

/// Tells whether `kernel/drivers/block/loop.ko.xz` is the module `loop`.
fn is(path: &str, name: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split_once(".ko").is_some_and(|(stem, end)| {
        (end.is_empty() || end.starts_with('.')) && stem.replace('-', "_") == name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_module() {
        assert!(is("kernel/drivers/block/loop.ko.xz", "loop"));
        assert!(is("kernel/net/netfilter/nft-ct.ko", "nft_ct"));
        assert!(!is("kernel/drivers/block/loop.kobject", "loop"));
        assert!(!is("kernel/drivers/block/zloop.ko", "loop"));
        assert!(!is("modules.order", "modules"));
    }
}
