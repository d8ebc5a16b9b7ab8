//! The Python package `klab`, drgn on klab's reader, put into the Python environment. Its native half was built in one
//! call of cargo with the program: by itself it would want other features of `probes`' dependencies, and all of `probes`
//! anew.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::board::Board;
use crate::lab::sources;
use crate::paths::Paths;
use crate::process::plain;
use crate::python::own;
use crate::stamp::Stamp;

/// The package's name among those of the environment.
const PACKAGE: &str = "klab";
/// The native half, as cargo calls it and as Python does. It is for every Python since 3.11.
const BUILT: &str = "lib_native.so";
const NATIVE: &str = "_native.abi3.so";

/// Installs the package. The environment and the native half must be there.
pub(crate) fn ensure(board: &Board, paths: &Paths) -> Result<()> {
    const NAME: &str = "drgn";
    board.begin(NAME);
    // In the environment, so that it goes with it.
    let stamp = Stamp::new(paths.venv().join("klab-drgn-stamp"), sources(&paths.root)?);
    if stamp.is_set() {
        board.end(NAME, "present");
        return Ok(());
    }
    stamp.clear()?;
    let package = site_packages(paths)?.join(PACKAGE);
    install(paths, &package)?;
    stamp.set()?;
    board.end(NAME, "installed");
    Ok(())
}

/// Folder of the environment's packages.
fn site_packages(paths: &Paths) -> Result<PathBuf> {
    let script = "import sysconfig; print(sysconfig.get_path('platlib'))";
    let mut python = plain(paths.venv_program("python"));
    let output = own(python.args(["-c", script])).output()?;
    if !output.status.success() {
        bail!("the Python environment does not start: `cargo xtask clean` is the way to a new one");
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// Puts the package in the place of what is there.
pub(crate) fn install(paths: &Paths, package: &Path) -> Result<()> {
    let sources = paths.root.join("jupyter-kernel/drgn/python").join(PACKAGE);
    replace(&sources, &paths.program(BUILT), package)
        .with_context(|| format!("cannot write {}", package.display()))
}

/// Puts the sources and the native half in the place of what is there.
fn replace(sources: &Path, native: &Path, package: &Path) -> Result<()> {
    if package.exists() {
        fs::remove_dir_all(package)?;
    }
    fs::create_dir_all(package)?;
    for entry in fs::read_dir(sources)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            fs::copy(&path, package.join(name))?;
        }
    }
    fs::copy(native, package.join(NATIVE))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_replaced_as_a_whole() {
        let folder = std::env::temp_dir().join(format!("xtask-drgn-{}", std::process::id()));
        let [sources, package] = ["sources", "package"].map(|name| folder.join(name));
        fs::create_dir_all(sources.join("__pycache__")).unwrap();
        fs::create_dir_all(&package).unwrap();
        fs::write(package.join("gone.py"), "old").unwrap();
        fs::write(sources.join("__init__.py"), "new").unwrap();
        fs::write(folder.join(BUILT), "native").unwrap();
        replace(&sources, &folder.join(BUILT), &package).unwrap();
        let mut names: Vec<_> = fs::read_dir(&package)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["__init__.py", NATIVE]);
        fs::remove_dir_all(folder).unwrap();
    }
}
