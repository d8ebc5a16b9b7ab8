//! The toolchain of Rust modules for a guest's kernel: a Debian 13 in a folder, with the compilers that the kernel was
//! built with, and the kernel's source prepared in Debian's configuration.
//!
//! Debian's headers packages do not hold what Rust needs of the kernel's build, so the source is prepared once for
//! each kernel, in steps that appear whole: if one is interrupted, the next call goes on.

mod load;
mod module;
mod names;
mod root;

pub use load::{NAME, kmod_is_loaded, source};
pub use module::Built;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::Flock;
use serde::Serialize;

use crate::error::{At, Error, Result};
use crate::kernels::apt::Apt;
use crate::kernels::{Kernel, Suite, series};
use crate::paths;
use crate::progress::Progress;

/// Packages that the root holds besides the kernel's own. Nothing is configured in it: no package's script runs.
const PACKAGES: [&str; 31] = [
    "bash",
    "bc",
    "bindgen",
    "bison",
    "bzip2",
    "coreutils",
    "cpio",
    "dash",
    "diffutils",
    "findutils",
    "flex",
    "gawk",
    "gcc",
    "gcc-14",
    "grep",
    "gzip",
    "kmod",
    "libclang-dev",
    "libelf-dev",
    "libssl-dev",
    "make",
    "mawk",
    "pahole",
    "perl",
    "perl-base",
    "python3-minimal",
    "rust-src",
    "rustc",
    "sed",
    "tar",
    "xz-utils",
];

/// Progress of a kernel's toolchain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ready {
    /// Nothing is there.
    Nothing,
    /// Compilers, headers and the packed source.
    Root,
    /// The source is unpacked.
    Source,
    /// Modules can be built.
    Whole,
}

/// The toolchain of one kernel.
#[derive(Debug, Clone)]
pub struct Toolchain {
    folder: PathBuf,
    release: String,
}

impl Toolchain {
    /// Toolchain of `kernel`, whether it is made yet or not.
    ///
    /// # Errors
    /// [`Error::NoRust`] for a kernel without `CONFIG_RUST`.
    pub fn of(kernel: &Kernel) -> Result<Self> {
        // With its modules, or beside the image as `boot/config-RELEASE`.
        let beside = kernel
            .vmlinuz
            .with_file_name(format!("config-{}", kernel.release));
        let found = [kernel.modules.join("config"), beside]
            .iter()
            .find_map(|path| fs::read_to_string(path).ok());
        if found.is_some_and(|text| !has_rust(&text)) {
            return Err(Error::NoRust(kernel.release.clone()));
        }
        let base = paths::private(&paths::cache()?.join("toolchains"), "KLAB_CACHE")?;
        Ok(Self {
            folder: base.join(&kernel.release),
            release: kernel.release.clone(),
        })
    }

    /// State of the toolchain.
    pub fn ready(&self) -> Ready {
        match () {
            () if self.source().join(".klab-prepared").exists() => Ready::Whole,
            () if self.source().is_dir() => Ready::Source,
            () if self.root().is_dir() => Ready::Root,
            () => Ready::Nothing,
        }
    }

    /// Makes what is missing, some minutes the first time. Another process at it is waited for.
    ///
    /// # Errors
    /// When packages cannot be fetched, a step of the kernel's build fails ([`Error::Step`]), or Debian's compiler is no
    /// longer the one that the kernel was built with ([`Error::Mismatch`]).
    pub fn ensure(&self, progress: &mut dyn Progress) -> Result<()> {
        if self.ready() == Ready::Whole {
            return Ok(());
        }
        let _lock = self.lock(progress)?;
        if self.ready() < Ready::Root {
            self.make_root(progress)?;
        }
        if self.ready() < Ready::Source {
            self.unpack_source(progress)?;
        }
        if self.ready() < Ready::Whole {
            self.prepare(progress)?;
        }
        Ok(())
    }

    /// Folder of the source and its build, `/build/linux` as the root sees it.
    fn source(&self) -> PathBuf {
        self.root().join("build/linux")
    }

    fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// For one at a time; waits for another, as long as the user does.
    fn lock(&self, progress: &mut dyn Progress) -> Result<Flock<File>> {
        fs::create_dir_all(&self.folder).at("make", &self.folder)?;
        let mut said = false;
        loop {
            let lock = paths::lock(&self.folder.join("lock"), Duration::from_millis(200))?;
            match lock {
                Some(lock) => return Ok(lock),
                None if progress.stopped() => {
                    return Err(Error::Interrupted(
                        "the wait for another build was stopped: nothing was built".to_owned(),
                    ));
                }
                None if !std::mem::replace(&mut said, true) => {
                    progress.step("waiting for another command, which builds with this toolchain");
                }
                None => {}
            }
        }
    }

    fn make_root(&self, progress: &mut dyn Progress) -> Result<()> {
        let apt = Apt::open(Suite::Trixie)?;
        apt.refresh(progress)?;
        let headers = format!("linux-headers-{}", self.release);
        let source = format!("linux-source-{}", series(&self.release));
        let versions = apt.versions(&[headers.clone(), source.clone()])?;
        let (Some(of_headers), Some(of_source)) = (versions.get(&headers), versions.get(&source))
        else {
            return Err(Error::Mismatch(format!(
                "Debian has no {headers} and {source} (any more), which a module for linux {} needs: \
                 `klab up --kernel default` boots a kernel that has them",
                self.release
            )));
        };
        if of_headers != of_source {
            return Err(Error::Mismatch(format!(
                "Debian's {source} is {of_source}, but linux {} is {of_headers}: remove its folder in the cache \
                 (`kernels`) and `klab up` takes one that fits",
                self.release
            )));
        }
        progress.step("fetching the module's compilers");
        let temporary = self.folder.join("root.new");
        fresh(&temporary)?;
        // base-files has the links `/bin -> usr/bin`, which must be there before anything is unpacked through them.
        apt.unpack(&["base-files"], false, &temporary, progress)?;
        let mut packages = PACKAGES.to_vec();
        packages.extend([headers.as_str(), source.as_str()]);
        apt.unpack(&packages, true, &temporary, progress)?;
        // Files that the packages' scripts would have made, as far as a build needs them.
        let awk = temporary.join("usr/bin/awk");
        std::os::unix::fs::symlink("mawk", &awk).at("make", &awk)?;
        fs::rename(&temporary, self.root()).at("make", &self.root())
    }

    fn unpack_source(&self, progress: &mut dyn Progress) -> Result<()> {
        progress.step("unpacking the kernel's source");
        let name = format!("linux-source-{}", series(&self.release));
        let temporary = self.root().join("build/new");
        fresh(&temporary)?;
        paths::need_room(&temporary, 4 << 30, "KLAB_CACHE")?;
        let archive = format!("/usr/src/{name}.tar.xz");
        // Headers of one graphics driver are a fifth of the source, and no part of what is built here.
        let words =
            format!("tar -C /build/new --exclude='*/drivers/gpu/drm/amd/include' -xf {archive}");
        let what = "unpacking the kernel's source";
        self.run(what, &words, None, progress, &mut |_, _| {})?;
        fs::rename(temporary.join(name), self.source()).at("make", &self.source())
    }

    /// Debian's configuration, and what modules need of the kernel's build: scripts, bindings, the kernel's crates.
    fn prepare(&self, progress: &mut dyn Progress) -> Result<()> {
        let (source, root) = (self.source(), self.root());
        let headers = root
            .join("usr/src")
            .join(format!("linux-headers-{}", self.release));
        for name in [".config", "Module.symvers"] {
            let from = headers.join(name);
            fs::copy(&from, source.join(name)).at("copy", &from)?;
        }
        let text = fs::read_to_string(source.join(".config")).at("read", &source)?;
        if !has_rust(&text) {
            return Err(Error::NoRust(self.release.clone()));
        }
        self.same_compiler(&text, progress)?;
        let stem = self.release.find(['+', '-']).unwrap_or(self.release.len());
        let local = self.release.get(stem..).unwrap_or_default();
        let file = source.join("localversion");
        fs::write(&file, format!("{local}\n")).at("write", &file)?;
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        for goal in ["olddefconfig", "prepare", "modules_prepare"] {
            let what = format!("preparing the kernel's source ({goal})");
            progress.step(&what);
            let words = format!(
                "make -C /build/linux -j{jobs} KBUILD_BUILD_USER=klab KBUILD_BUILD_HOST=klab {goal}"
            );
            self.run(&what, &words, None, progress, &mut |line, progress| {
                // The Rust parts take nearly all of the time: each is a step of its own.
                if let Some(part) = line
                    .strip_prefix("  RUSTC")
                    .or(line.strip_prefix("  BINDGEN"))
                {
                    progress.step(&format!(
                        "preparing {}",
                        part.trim_start_matches([' ', 'L', 'P']).trim()
                    ));
                }
            })?;
        }
        let release = source.join("include/config/kernel.release");
        let made = fs::read_to_string(&release).at("read", &release)?;
        if made.trim() != self.release {
            return Err(Error::Mismatch(format!(
                "the prepared source calls itself {}, not {}: remove {}, and `klab kmod build` begins anew",
                made.trim(),
                self.release,
                self.folder.display()
            )));
        }
        let done = source.join(".klab-prepared");
        fs::write(&done, "").at("write", &done)
    }

    /// The compiler's whole version text is part of every Rust symbol's name.
    fn same_compiler(&self, configuration: &str, progress: &mut dyn Progress) -> Result<()> {
        let wanted = configuration.lines().find_map(|line| {
            line.strip_prefix("CONFIG_RUSTC_VERSION_TEXT=\"")?
                .strip_suffix('"')
        });
        let mut here = String::new();
        self.run(
            "asking rustc for its version",
            "rustc --version",
            None,
            progress,
            &mut |line, _| {
                here = line.to_owned();
            },
        )?;
        if wanted.is_none_or(|wanted| wanted == here) {
            return Ok(());
        }
        Err(Error::Mismatch(format!(
            "linux {} was built by `{}`, but Debian's compiler is `{here}` now: a module of it would not find the \
             kernel's Rust symbols; remove the kernel's folder in the cache and `klab up` takes a newer kernel",
            self.release,
            wanted.unwrap_or_default()
        )))
    }
}

fn has_rust(configuration: &str) -> bool {
    configuration.lines().any(|line| line == "CONFIG_RUST=y")
}

/// An empty folder in the place of what an interrupted step left.
fn fresh(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).at("remove", folder)?;
    }
    fs::create_dir_all(folder).at("make", folder)
}
