//! Loading modules as modprobe does, by `modules.dep`.

use std::{
    ffi::CString,
    fs::{self, File},
    path::{Path, PathBuf},
};

use klab_wire::Answer;
use nix::{
    errno::Errno,
    kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module},
};

use crate::error::{Context as _, Error, reason};

/// A result whose error is the answer that says so.
type Result<T> = std::result::Result<T, Answer>;

impl From<Error> for Answer {
    fn from(Error(text): Error) -> Self {
        Self::Error(text)
    }
}

/// Loads the module `name` after what it depends on; a name with a `/` is a file, loaded as it is. Gives
/// the names that were not there yet; `loading` hears each before the kernel is asked.
pub(crate) fn load(name: &str, params: &str, loading: &mut dyn FnMut(&str)) -> Result<Vec<String>> {
    let mut loaded = Vec::new();
    if name.contains('/') {
        let module = module_name(name);
        loading(&module);
        insert(Path::new(name), &module, params)?;
        loaded.push(module);
        return Ok(loaded);
    }
    let name = normal(name);
    if is_there(&name) {
        return Ok(loaded);
    }
    let folder = folder()?;
    let list = folder.join("modules.dep");
    let text = fs::read_to_string(&list).map_err(|e| reason(&e));
    let Some(mut files) = dependencies(&text.context(list.display())?, &name) else {
        return Err(Answer::Error(format!(
            "this guest has no module `{name}`: it is neither loaded nor in {}",
            folder.display()
        )));
    };
    // modules.dep names the module first and what must be loaded first last.
    files.reverse();
    let last = files.len().saturating_sub(1);
    for (i, file) in files.iter().enumerate() {
        let module = module_name(file);
        if is_there(&module) {
            continue;
        }
        loading(&module);
        let params = if i == last { params } else { "" };
        match insert(&folder.join(file), &module, params) {
            Ok(()) => loaded.push(module),
            // Another load of the same module was faster.
            Err(Answer::Refused { errno, .. })
                if errno == Errno::EEXIST as i32 && is_there(&module) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(loaded)
}

/// Unloads a module that nothing uses.
pub(crate) fn unload(name: &str) -> Result<()> {
    let name = normal(name);
    let c_name = CString::new(name.as_str()).map_err(Error::from)?;
    delete_module(&c_name, DeleteModuleFlags::O_NONBLOCK).map_err(|e| refused(&name, e))
}

fn folder() -> Result<PathBuf> {
    let uname = nix::sys::utsname::uname().map_err(Error::from)?;
    Ok(Path::new("/lib/modules").join(uname.release()))
}

fn insert(file: &Path, module: &str, params: &str) -> Result<()> {
    let opened = File::open(file).map_err(|e| reason(&e));
    let opened = opened.context(file.display())?;
    let params = CString::new(params).map_err(Error::from)?;
    finit_module(&opened, &params, ModuleInitFlags::empty()).map_err(|e| refused(module, e))
}

fn refused(module: &str, errno: Errno) -> Answer {
    Answer::Refused {
        module: module.to_owned(),
        errno: errno as i32,
    }
}

/// Loaded, or built in with something under `/sys/module`.
fn is_there(name: &str) -> bool {
    let sys = Path::new("/sys/module").join(name);
    match fs::read_to_string(sys.join("initstate")) {
        Ok(state) => state.trim() == "live",
        Err(_) => sys.exists(),
    }
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// `kernel/net/nft-ct.ko` is `nft_ct`.
fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    normal(base.split(".ko").next().unwrap_or(base))
}

/// The files of `name` in a `modules.dep`: itself, then what it depends on.
fn dependencies(modules_dep: &str, name: &str) -> Option<Vec<String>> {
    modules_dep.lines().find_map(|line| {
        let (file, rest) = line.split_once(':')?;
        (module_name(file) == name).then(|| {
            std::iter::once(file)
                .chain(rest.split_whitespace())
                .map(str::to_owned)
                .collect()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_and_dependencies_kept_in_order() {
        let dep = "kernel/a/nf-nat.ko: kernel/b/nf_conntrack.ko kernel/c/libcrc32c.ko\nkernel/c/libcrc32c.ko:\n";
        let files = dependencies(dep, &normal("nf-nat")).unwrap();
        assert_eq!(
            files,
            [
                "kernel/a/nf-nat.ko",
                "kernel/b/nf_conntrack.ko",
                "kernel/c/libcrc32c.ko"
            ]
        );
        assert_eq!(dependencies(dep, "libcrc32c").unwrap().len(), 1);
        assert!(dependencies(dep, "crc32c").is_none());
    }
}
