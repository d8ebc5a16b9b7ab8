//! A cell's object made a library by one call of `ld`.
//!
//! rustc links by `cc`, which starts two more programs, and the linker reads the symbols of seven libraries: a quarter of a cell's time. A cell that
//! has no crate of the user's and declares nothing foreign needs none of that: in a library names may stay open until it is loaded. So it is linked
//! to stubs, empty libraries with the names of the true ones, which tell the loader what to load. What this does not know goes rustc's way.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// The libraries of each cell beside that of Rust, whose name has a hash.
const LIBRARIES: [&str; 4] = ["libprobes.so", "libgcc_s.so.1", "libm.so.6", "libc.so.6"];
/// The one foreign word that evcxr itself writes.
const OWN: &str = "pub extern \"C\" fn run_user_code_";
/// Set once `ld` has failed: the next cells go rustc's way at once.
static FAILED: AtomicBool = AtomicBool::new(false);

/// The linking of one session's cells.
#[derive(Debug)]
pub(super) struct Link {
    stubs: Vec<PathBuf>,
    /// What rustc's compiled code may call that is in no shared library.
    builtins: PathBuf,
}

impl Link {
    /// With the stubs in `folder`, made if they are not there; `toolchain` is the folder of the libraries of Rust.
    pub(super) fn of(folder: &Path, toolchain: &Path) -> Option<Self> {
        if FAILED.load(Ordering::Relaxed) {
            return None;
        }
        let found = |begin: &str, end: &str| {
            let mut names = fs::read_dir(toolchain)
                .ok()?
                .flatten()
                .map(|entry| entry.file_name());
            names.find(|name| {
                let name = name.to_string_lossy();
                name.starts_with(begin) && name.ends_with(end)
            })
        };
        let std = found("libstd-", ".so")?;
        let builtins = toolchain.join(found("libcompiler_builtins-", ".rlib")?);
        let names = LIBRARIES.iter().map(OsString::from).chain([std]);
        let stubs = names
            .map(|name| stub(folder, &name))
            .collect::<Option<_>>()?;
        Some(Self { stubs, builtins })
    }

    /// Makes `library` of `object`. An error if that fails, where rustc may know more; the status says whether `ld` was stopped.
    pub(super) fn link(&self, object: &Path, library: &Path) -> io::Result<ExitStatus> {
        let linked = Command::new("ld")
            .args([
                "-shared",
                "--eh-frame-hdr",
                "--gc-sections",
                "--strip-debug",
            ])
            .args(["-z", "noexecstack", "-z", "relro", "-z", "now"])
            // The library of the cells is beside them.
            .args(["--enable-new-dtags", "-z", "origin", "-rpath", "$ORIGIN"])
            .arg("-o")
            .arg(library)
            .arg(object)
            .arg(&self.builtins)
            .args(["--no-as-needed"])
            .args(&self.stubs)
            .stdin(Stdio::null())
            .output();
        match linked {
            Ok(linked) if linked.status.success() || linked.status.signal().is_some() => {
                Ok(linked.status)
            }
            Ok(linked) => {
                FAILED.store(true, Ordering::Relaxed);
                Err(io::Error::other(
                    String::from_utf8_lossy(&linked.stderr).into_owned(),
                ))
            }
            Err(error) => {
                FAILED.store(true, Ordering::Relaxed);
                Err(error)
            }
        }
    }
}

/// Tells whether a cell can be linked so: it names nothing foreign, whose library or version only the true linking finds.
pub(super) fn knows(cell: &str) -> bool {
    cell.matches("extern").count() == cell.matches(OWN).count()
}

/// An empty library of this name in `folder`.
fn stub(folder: &Path, name: &OsString) -> Option<PathBuf> {
    let path = folder.join(name);
    if path.exists() {
        return Some(path);
    }
    fs::create_dir_all(folder).ok()?;
    let mut named = OsString::from("-Wl,-soname,");
    named.push(name);
    let new = folder.join(format!("{}.new", std::process::id()));
    let made = Command::new("cc")
        .args(["-shared", "-nostdlib", "-x", "c", "/dev/null", "-o"])
        .arg(&new)
        .arg(named)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    (made.status.success() && fs::rename(new, &path).is_ok()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_foreign_goes_rustcs_way() {
        for cell in [
            "unsafe extern \"C\" { fn getpid() -> i32; }",
            "unsafe  extern { fn getpid() -> i32; }",
            "extern crate alloc;",
        ] {
            assert!(!knows(cell), "{cell}");
        }
        // evcxr's own function.
        assert!(knows(
            "#[unsafe(no_mangle)]\npub extern \"C\" fn run_user_code_1(a: u8) {}"
        ));
    }

    #[test]
    fn an_object_is_linked_to_what_stubs_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("rust")).unwrap();
        fs::write(at("rust").join("libstd-1.so"), "").unwrap();
        // An archive of nothing.
        fs::write(at("rust").join("libcompiler_builtins-1.rlib"), "!<arch>\n").unwrap();
        fs::write(
            at("a.c"),
            "int open_until_loaded(void); int f(void) { return open_until_loaded(); }",
        )
        .unwrap();
        let compiled = Command::new("cc")
            .args(["-c", "-fPIC", "-o"])
            .args([at("a.o"), at("a.c")])
            .status();
        assert!(compiled.unwrap().success());
        assert!(Link::of(&at("stubs"), &at("nothing")).is_none());
        let link = Link::of(&at("stubs"), &at("rust")).unwrap();
        assert!(link.link(&at("a.o"), &at("a.so")).unwrap().success());
        let library = fs::read(at("a.so")).unwrap();
        for name in LIBRARIES.into_iter().chain(["libstd-1.so", "$ORIGIN"]) {
            let name = name.as_bytes();
            assert!(library.windows(name.len()).any(|word| word == name));
        }
        link.link(&at("a.c"), &at("b.so")).unwrap_err();
        // The next cells do not try it.
        assert!(Link::of(&at("stubs"), &at("rust")).is_none());
    }
}
