//! A module: built from its sources, and looked at before a guest is asked to load it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use super::Toolchain;
use crate::error::{At, Error, Result};
use crate::progress::Progress;

/// What is taken of a module's folder.
const SOURCES: [&str; 5] = ["Kbuild", "rs", "c", "h", "S"];

impl Toolchain {
    /// Builds the module `name` from the sources in `folder` (a `Kbuild`, `.rs`, `.c`, `.h`); gives its `.ko`. The folder
    /// stays as it is. The toolchain must be whole ([`Toolchain::ensure`]).
    ///
    /// # Errors
    /// [`Error::Step`] with the compiler's words; [`Error::Mismatch`] where the result would not load.
    pub fn build(&self, name: &str, folder: &Path, progress: &mut dyn Progress) -> Result<PathBuf> {
        let _lock = self.lock()?;
        progress.step(&format!("building the module {name}"));
        let work = self.folder.join("modules").join(name);
        fs::create_dir_all(&work).at("make", &work)?;
        update(folder, &work)?;
        let what = format!("building the module {name}");
        self.run(
            &what,
            "make -C /build/linux M=/module modules",
            Some(&work),
            &mut |_| {},
        )?;
        let made = work.join(format!("{name}.ko"));
        self.check(&made)?;
        Ok(made)
    }

    /// Where [`Toolchain::build`] leaves the module `name`, if it was built.
    pub fn built(&self, name: &str) -> Option<PathBuf> {
        let made = self
            .folder
            .join("modules")
            .join(name)
            .join(format!("{name}.ko"));
        made.is_file().then_some(made)
    }

    /// Says why the kernel would not load this module: it is for another kernel, or wants a symbol that the kernel does
    /// not have.
    ///
    /// # Errors
    /// [`Error::Mismatch`], one sentence.
    pub fn check(&self, module: &Path) -> Result<()> {
        let bytes = fs::read(module).at("read", module)?;
        let release = &self.release;
        let mismatch = |why: String| {
            Err(Error::Mismatch(format!(
                "{} {why}: `klab kmod build` makes one for linux {release}",
                module.display()
            )))
        };
        let Ok(file) = object::File::parse(&*bytes) else {
            return mismatch("is no kernel module".to_owned());
        };
        let Some(magic) = vermagic(&file) else {
            return mismatch("does not say for which kernel it is".to_owned());
        };
        if magic.split(' ').next() != Some(release) {
            return mismatch(format!("is for linux {magic}"));
        }
        let symvers = self.source().join("Module.symvers");
        let text = fs::read_to_string(&symvers).at("read", &symvers)?;
        let known: HashSet<&str> = text
            .lines()
            .filter_map(|line| line.split('\t').nth(1))
            .collect();
        let unknown = file.symbols().find_map(|symbol| {
            let name = symbol.name().ok().filter(|name| !name.is_empty())?;
            (symbol.is_undefined() && !known.contains(name)).then(|| name.to_owned())
        });
        match unknown {
            Some(name) => mismatch(format!(
                "needs the symbol {name}, which the kernel does not export"
            )),
            None => Ok(()),
        }
    }
}

/// `vermagic=` of `.modinfo`.
fn vermagic(file: &object::File<'_>) -> Option<String> {
    let data = file.section_by_name(".modinfo")?.data().ok()?;
    let entry = data
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"vermagic="))?;
    Some(String::from_utf8_lossy(entry).trim().to_owned())
}

/// Brings the sources in `work` to what they are in `folder`: only what differs is written, so that only that is built.
fn update(folder: &Path, work: &Path) -> Result<()> {
    let is_source = |path: &Path| {
        let end = path
            .extension()
            .or(path.file_name())
            .and_then(|end| end.to_str());
        let made = path.to_str().is_some_and(|path| path.ends_with(".mod.c"));
        end.is_some_and(|end| SOURCES.contains(&end)) && !made
    };
    let list = |folder: &Path| -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(folder).at("read", folder)?;
        let paths = entries
            .filter_map(std::result::Result::ok)
            .map(|entry| entry.path());
        Ok(paths
            .filter(|path| path.is_file() && is_source(path))
            .collect())
    };
    let sources = list(folder)?;
    if !sources.iter().any(|path| path.ends_with("Kbuild")) {
        return Err(Error::Mismatch(format!(
            "{} has no Kbuild: name the folder of a module's sources",
            folder.display()
        )));
    }
    for path in &sources {
        let to = work.join(path.file_name().unwrap_or_default());
        let text = fs::read(path).at("read", path)?;
        if fs::read(&to).ok().as_deref() != Some(&*text) {
            fs::write(&to, text).at("write", &to)?;
        }
    }
    for path in list(work)? {
        if !folder.join(path.file_name().unwrap_or_default()).exists() {
            fs::remove_file(&path).at("remove", &path)?;
        }
    }
    Ok(())
}
