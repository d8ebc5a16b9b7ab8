//! Loading modules as modprobe does, by `modules.dep`.

use std::{
    ffi::CString,
    fs::{self, File},
    path::{Path, PathBuf},
};

use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};

use crate::error::{Context as _, Error, Result};

/// Loads the module `name` after what it depends on; a name with a `/` is a file, loaded as it is. Gives
/// the names that were not there yet.
pub(crate) fn load(name: &str, params: &str) -> Result<Vec<String>> {
    let mut loaded = Vec::new();
    if name.contains('/') {
        insert(Path::new(name), params)?;
        loaded.push(module_name(name));
        return Ok(loaded);
    }
    let name = normal(name);
    if is_there(&name) {
        return Ok(loaded);
    }
    let folder = folder()?;
    let Some(mut files) = dependencies(
        &fs::read_to_string(folder.join("modules.dep")).unwrap_or_default(),
        &name,
    ) else {
        return Err(Error(format!(
            "this guest has no module `{name}`: it is neither loaded nor in {}",
            folder.display()
        )));
    };
    // modules.dep names the module first and what must be loaded first last.
    files.reverse();
    let last = files.len().saturating_sub(1);
    for (i, file) in files.iter().enumerate() {
        let module = module_name(file);
        if !is_there(&module) {
            insert(&folder.join(file), if i == last { params } else { "" })?;
            loaded.push(module);
        }
    }
    Ok(loaded)
}

/// Unloads a module that nothing uses.
pub(crate) fn unload(name: &str) -> Result<()> {
    let name = normal(name);
    let c_name = CString::new(name.as_str())?;
    delete_module(&c_name, DeleteModuleFlags::O_NONBLOCK).map_err(|e| {
        let e = e.desc();
        Error(format!(
            "cannot unload `{name}`: {e} (loaded and unused modules can be unloaded; see `lsmod`)"
        ))
    })
}

fn folder() -> Result<PathBuf> {
    let uname = nix::sys::utsname::uname()?;
    Ok(Path::new("/lib/modules").join(uname.release()))
}

fn insert(file: &Path, params: &str) -> Result<()> {
    let module = File::open(file).context(file.display())?;
    let params = CString::new(params)?;
    match finit_module(&module, &params, ModuleInitFlags::empty()) {
        // Another load of the same module was faster.
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(e) => Err(Error(format!(
            "the kernel refuses {}: {} (the kernel log says why)",
            file.display(),
            e.desc()
        ))),
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
