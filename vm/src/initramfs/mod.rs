//! The guest kernel's first file system, which is also its last: the agent as `/init`, busybox, dash, `ip`,
//! `tc`, `ss` and `nft` with their libraries, and the modules that a lesson may load with what they depend on.
//!
//! The archive is a plain newc cpio: to unpack a compressed one takes the emulated kernel longer than to copy it.
//! Equal sources give equal bytes: entries are sorted, times are zero.

mod agent;
mod archive;
mod modules;
mod tools;

use std::{
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

pub use agent::agent_binary;
use archive::Archive;

use crate::{
    error::{At as _, Error, Result},
    kernels::Kernel,
    paths,
    progress::Progress,
};

/// Grows when this code puts something else into the archive.
const LAYOUT: u32 = 4;

/// The initramfs for `kernel`, from the cache or made now. Its name holds a hash of all it was made of, so that
/// two of one path are the same.
///
/// # Errors
/// Without an agent ([`agent_binary`]), without the packages of its tools, for a module that cannot be read, or
/// when the cache cannot be written.
pub fn build(kernel: &Kernel, progress: &mut dyn Progress) -> Result<PathBuf> {
    let agent_path = agent_binary(progress)?;
    let agent = fs::read(&agent_path).at("read", &agent_path)?;
    let tools = tools::root(progress)?;
    let folder = paths::private(&paths::cache()?.join("initramfs"), "KLAB_CACHE")?;
    let path = folder.join(format!(
        "{}-{}.cpio",
        kernel.release,
        key(kernel, &agent, &tools)?
    ));
    if path.is_file() {
        return Ok(path);
    }
    progress.step("making the guest's initramfs");
    let mut archive = Archive::new();
    base(&mut archive);
    archive.file("init", 0o755, agent);
    tools::add(&mut archive, &tools)?;
    modules::add(&mut archive, kernel)?;
    paths::write_whole(&path, &archive.bytes().at("make", &path)?)?;
    Ok(path)
}

/// Key of all that the archive is made of.
fn key(kernel: &Kernel, agent: &[u8], tools: &Path) -> Result<String> {
    let modules = kernel.modules.join("kernel");
    let changed = fs::metadata(&modules)
        .and_then(|m| m.modified())
        .at("look at", &modules)?;
    let mut hash = Sha256::new();
    hash.update(LAYOUT.to_le_bytes());
    hash.update(agent);
    let wanted = modules::WANTED;
    hash.update(format!(
        "{kernel:?} {changed:?} {wanted:?} {}",
        tools.display()
    ));
    Ok(hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Folders, the devices that a kernel without devtmpfs gives to PID 1, and a few files that programs look for.
fn base(archive: &mut Archive) {
    for folder in [
        "dev", "proc", "sys", "run", "tmp", "root", "var/log", "usr/bin", "usr/sbin", "bin", "sbin",
    ] {
        archive.folder(folder);
    }
    archive.device("dev/console", 0o600, (5, 1));
    archive.device("dev/null", 0o666, (1, 3));
    archive.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n".to_vec(),
    );
    archive.file(
        "etc/group",
        0o644,
        b"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n".to_vec(),
    );
    archive.file(
        "etc/hosts",
        0o644,
        b"127.0.0.1 localhost klab\n::1 localhost\n".to_vec(),
    );
    archive.file("etc/hostname", 0o644, b"klab\n".to_vec());
}

/// A sentence as this crate's error.
fn bad(path: &Path, why: impl Into<String>) -> Error {
    Error::Initramfs {
        path: path.to_owned(),
        why: why.into(),
    }
}
