//! A module: built from its sources, and looked at before a guest is asked to load it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use super::Toolchain;
use crate::error::{At, Error, Result};
use crate::progress::Progress;
use crate::temporary::Temporary;

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
        self.make(name, &work)
    }

    /// Builds the module of one Rust source, which is named by its `module!` block; gives its `.ko` in a folder that is
    /// removed when dropped. The toolchain must be whole ([`Toolchain::ensure`]).
    ///
    /// # Errors
    /// [`Error::BadOption`] for a source that names no module; as [`Toolchain::build`].
    pub fn build_source(&self, source: &str, progress: &mut dyn Progress) -> Result<Built> {
        let name = module_name(source)?;
        let _lock = self.lock()?;
        progress.step(&format!("building the module {name}"));
        let modules = self.folder.join("modules");
        fs::create_dir_all(&modules).at("make", &modules)?;
        let work = Temporary::folder(&modules)?;
        let texts = [
            ("Kbuild".to_owned(), format!("obj-m := {name}.o\n")),
            (format!("{name}.rs"), source.to_owned()),
        ];
        for (file, text) in texts {
            let to = work.path().join(file);
            fs::write(&to, text).at("write", &to)?;
        }
        let path = self.make(name, work.path())?;
        Ok(Built {
            name: name.to_owned(),
            path,
            _work: work,
        })
    }

    fn make(&self, name: &str, work: &Path) -> Result<PathBuf> {
        self.run(
            &format!("building the module {name}"),
            "make -C /build/linux M=/module modules",
            Some(work),
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

/// A module that was built from one source.
#[derive(Debug)]
pub struct Built {
    /// Its name.
    pub name: String,
    /// Its `.ko`, as long as this value lives.
    pub path: PathBuf,
    _work: Temporary,
}

/// The name that a Rust module's `module!` block gives it: `name: "hello"`.
fn module_name(source: &str) -> Result<&str> {
    let name = source.split_once("module").and_then(|(_, rest)| {
        let line = rest
            .lines()
            .find_map(|line| line.trim_start().strip_prefix("name:"))?;
        line.split('"').nth(1)
    });
    let Some(name) = name else {
        return Err(Error::BadOption(
            "the source names no module: it needs `module! { type: .., name: \"hello\", license: \"GPL\" }`".to_owned(),
        ));
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name == super::NAME || name.is_empty() || name.len() > 55 || !name.chars().all(plain) {
        return Err(Error::BadOption(format!(
            "a module cannot be named {name:?}: up to 55 of a-z, 0-9 and _, and not klab's own name"
        )));
    }
    Ok(name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_names_its_module() {
        let named = |name: &str| {
            format!(
                "use kernel::prelude::*;\nmodule! {{\n    type: Hello,\n    name: \"{name}\",\n}}\n"
            )
        };
        assert_eq!(module_name(&named("hello")).unwrap(), "hello");
        for bad in ["", "klab", "../up", "Hello", "a b"] {
            let said = module_name(&named(bad)).unwrap_err().to_string();
            assert!(said.contains("cannot be named"), "{said}");
        }
        let said = module_name("fn main() {}").unwrap_err().to_string();
        assert!(said.contains("names no module"), "{said}");
    }
}
