//! A module: built from its sources, and looked at before a guest is asked to load it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use super::Toolchain;
use crate::error::{At, Error, Result};
use crate::progress::Progress;
use crate::temporary::Temporary;

/// Files that are taken of a module's folder, by their ends.
const SOURCES: [&str; 5] = ["Kbuild", "rs", "c", "h", "S"];

impl Toolchain {
    /// Builds the module `name` from the sources in `folder` (a `Kbuild`, `.rs`, `.c`, `.h`); gives its `.ko`. The folder
    /// stays as it is. The toolchain must be whole ([`Toolchain::ensure`]).
    ///
    /// # Errors
    /// [`Error::Step`] with the compiler's words; [`Error::Mismatch`] where the result would not load.
    pub fn build(&self, name: &str, folder: &Path, progress: &mut dyn Progress) -> Result<PathBuf> {
        let _lock = self.lock(progress)?;
        let work = self.folder.join("modules").join(name);
        fs::create_dir_all(&work).at("make", &work)?;
        let made = work.join(format!("{name}.ko"));
        if update(folder, &work)? && made.exists() {
            fs::remove_file(&made).at("remove", &made)?;
        }
        if is_newest(&made, &work, &self.source().join(".klab-prepared")) {
            self.check(&made)?;
            return Ok(made);
        }
        progress.step(&format!("building the module {name}"));
        Ok(self.make(name, &work, progress)?.0)
    }

    /// Builds the module `name` of one Rust source; gives its `.ko` in a folder that is removed when dropped. The kernel
    /// has `_` where a name has `-`. The toolchain must be whole ([`Toolchain::ensure`]).
    ///
    /// # Errors
    /// [`Error::BadOption`] for what cannot be a module's name; as [`Toolchain::build`].
    pub fn build_source(
        &self,
        name: &str,
        source: &str,
        progress: &mut dyn Progress,
    ) -> Result<Built> {
        let name = plain_name(name)?;
        let _lock = self.lock(progress)?;
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
        let (path, warnings) = self.make(&name, work.path(), progress)?;
        Ok(Built {
            name,
            path,
            warnings,
            _work: work,
        })
    }

    /// Gives the `.ko` and what the compiler warned of.
    fn make(
        &self,
        name: &str,
        work: &Path,
        progress: &mut dyn Progress,
    ) -> Result<(PathBuf, String)> {
        let mut said = Warnings::default();
        self.run(
            &format!("building the module {name}"),
            "make -C /build/linux M=/module modules",
            Some(work),
            progress,
            &mut |line, _| said.line(line),
        )?;
        let made = work.join(format!("{name}.ko"));
        self.check(&made)?;
        Ok((made, said.end()))
    }

    /// Path at which [`Toolchain::build`] leaves the module `name`, if it was built.
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
    /// Warnings of the compiler, in its words; empty if there are none.
    pub warnings: String,
    _work: Temporary,
}

/// The compiler's warnings about the module in a build's output: each from its first line to an empty one.
#[derive(Debug, Default)]
struct Warnings {
    block: Vec<String>,
    said: String,
}

impl Warnings {
    /// More of it is no use to anybody.
    const MOST: usize = 64 << 10;

    fn line(&mut self, line: &str) {
        if line.starts_with("warning") {
            self.flush();
            self.block.push(line.to_owned());
        } else if line.trim().is_empty() {
            self.flush();
        } else if !self.block.is_empty() {
            self.block.push(line.to_owned());
        }
    }

    /// Without a place it is no warning about the source: rustc's count of them, make's word on the compiler.
    fn flush(&mut self) {
        let block = std::mem::take(&mut self.block);
        let placed = block.iter().any(|line| line.trim().starts_with("--> "));
        // The kernel's build asks for it (`-W missing-docs`), and a cell is no crate that others read.
        let docs = block
            .first()
            .is_some_and(|line| line.ends_with(" documentation for the crate"));
        if placed && !docs && self.said.len() < Self::MOST {
            self.said.push_str(&block.join("\n"));
            self.said.push_str("\n\n");
        }
    }

    fn end(mut self) -> String {
        self.flush();
        self.said
    }
}

/// The name that the kernel and rustc give a module whose `module!` says `name`.
fn plain_name(name: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let as_named = name.replace('-', "_");
    if as_named == super::NAME || name.is_empty() || name.len() > 55 || !as_named.chars().all(plain)
    {
        return Err(Error::BadOption(format!(
            "a module cannot be named {name:?}: up to 55 of a-z, 0-9, - and _, and not klab's own name"
        )));
    }
    Ok(as_named)
}

/// `vermagic=` of `.modinfo`.
fn vermagic(file: &object::File<'_>) -> Option<String> {
    let data = file.section_by_name(".modinfo")?.data().ok()?;
    let entry = data
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"vermagic="))?;
    Some(String::from_utf8_lossy(entry).trim().to_owned())
}

/// Tells whether a module was made after all that it is made of: the sources in `work`, and the kernel's.
fn is_newest(made: &Path, work: &Path, prepared: &Path) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified());
    let Ok(when) = changed(made) else {
        return false;
    };
    let Ok(sources) = sources(work) else {
        return false;
    };
    // The folder itself changes when a source is removed, and when the module is made, which is after the last of it.
    let mut all = sources.iter().map(PathBuf::as_path).chain([prepared]);
    all.all(|path| changed(path).is_ok_and(|then| then < when))
}

/// The sources of a module in a folder.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_source = |path: &Path| {
        let end = path
            .extension()
            .or(path.file_name())
            .and_then(|end| end.to_str());
        let made = path.to_str().is_some_and(|path| path.ends_with(".mod.c"));
        end.is_some_and(|end| SOURCES.contains(&end)) && !made
    };
    let entries = fs::read_dir(folder).at("read", folder)?;
    let paths = entries
        .filter_map(std::result::Result::ok)
        .map(|entry| entry.path());
    Ok(paths
        .filter(|path| path.is_file() && is_source(path))
        .collect())
}

/// Brings the sources in `work` to what they are in `folder`: only what differs is written, so that only that is built. Tells
/// whether anything did.
fn update(folder: &Path, work: &Path) -> Result<bool> {
    let mut differed = false;
    let wanted = sources(folder)?;
    if !wanted.iter().any(|path| path.ends_with("Kbuild")) {
        return Err(Error::Mismatch(format!(
            "{} has no Kbuild: name the folder of a module's sources",
            folder.display()
        )));
    }
    for path in &wanted {
        let to = work.join(path.file_name().unwrap_or_default());
        let text = fs::read(path).at("read", path)?;
        if fs::read(&to).ok().as_deref() != Some(&*text) {
            fs::write(&to, text).at("write", &to)?;
            differed = true;
        }
    }
    for path in sources(work)? {
        if !folder.join(path.file_name().unwrap_or_default()).exists() {
            fs::remove_file(&path).at("remove", &path)?;
            differed = true;
        }
    }
    Ok(differed)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(plain_name("hello").unwrap(), "hello");
        assert_eq!(plain_name("gc-dash").unwrap(), "gc_dash");
        for bad in ["", "klab", "../up", "Hello", "a b", "a.b", &"x".repeat(56)] {
            let said = plain_name(bad).unwrap_err().to_string();
            assert!(said.contains("cannot be named"), "{said}");
        }
    }

    #[test]
    fn a_module_is_made_again_only_after_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let [from, work] = ["from", "work"].map(|name| folder.path().join(name));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&work).unwrap();
        let write = |path: &Path, text: &str, second: u64| {
            fs::write(path, text).unwrap();
            let when = std::time::UNIX_EPOCH + std::time::Duration::from_secs(second);
            File::options()
                .append(true)
                .open(path)
                .unwrap()
                .set_modified(when)
                .unwrap();
        };
        write(&from.join("Kbuild"), "obj-m := x.o\n", 1);
        write(&from.join("x.c"), "int x;\n", 1);
        assert!(update(&from, &work).unwrap());
        let (made, prepared) = (work.join("x.ko"), folder.path().join("prepared"));
        write(&prepared, "", 1);
        assert!(!is_newest(&made, &work, &prepared));
        let later = 1 << 33;
        write(&made, "", later);
        assert!(!update(&from, &work).unwrap() && is_newest(&made, &work, &prepared));
        // The kernel's source was prepared anew since; a build of a changed source failed.
        write(&prepared, "", later + 1);
        assert!(!is_newest(&made, &work, &prepared));
        write(&prepared, "", 1);
        write(&work.join("x.c"), "int y;\n", later + 1);
        assert!(!is_newest(&made, &work, &prepared));
        fs::remove_file(from.join("x.c")).unwrap();
        assert!(update(&from, &work).unwrap());
    }

    #[test]
    fn warnings_are_those_with_a_place() {
        // Output of make and rustc 1.85 when a module with a warning is built.
        let output = "\
make: Entering directory '/build/linux'
make[1]: Entering directory '/module'
  RUSTC [M] gcwarn.o
warning: unused variable: `unused`
  --> /module/gcwarn.rs:10:13
   |
10 |         let unused = 5;
   |             ^^^^^^ help: if this is intentional, prefix it with an underscore: `_unused`
   |
   = note: `#[warn(unused_variables)]` on by default

warning: 1 warning emitted

  MODPOST Module.symvers
  LD [M]  gcwarn.ko
";
        let mut warnings = Warnings::default();
        output.lines().for_each(|line| warnings.line(line));
        let said = warnings.end();
        assert!(
            said.starts_with("warning: unused variable: `unused`\n"),
            "{said}"
        );
        assert!(said.ends_with("on by default\n\n"), "{said}");
        let mut none = Warnings::default();
        [
            "warning: missing documentation for the crate",
            "  --> gc.rs:1:1",
            "",
            "warning: the compiler differs from the one used to build the kernel",
            "  CC x.o",
        ]
        .iter()
        .for_each(|line| none.line(line));
        assert_eq!(none.end(), "");
    }
}
