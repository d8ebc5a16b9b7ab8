//! The sources that cells link, kept as they were when the template was made: a library that changes
//! under a running session would be compiled anew by the next cell.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// Folders and files that `probes` is compiled from, in the repository.
const PARTS: [&str; 5] = ["Cargo.toml", "Cargo.lock", "kmod", "probes", "vm"];

/// The repository that this program was built from.
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// `CACHE/cells/HASH`: the hash is of the compiler and of the sources.
pub(super) fn root() -> Result<PathBuf> {
    // A session belongs to the sources that it began with.
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(root) = ROOT.get() {
        return Ok(root.clone());
    }
    let mut hash = Sha256::new();
    hash.update(compiler()?);
    // The way in which the template is made is part of its identity.
    for how in [
        include_str!("answers.rs"),
        include_str!("cargo.rs"),
        include_str!("compiled.rs"),
        include_str!("link.rs"),
        include_str!("manifest.rs"),
        include_str!("rustc.rs"),
        include_str!("template.rs"),
        include_str!("text.rs"),
        include_str!("waiting.rs"),
    ] {
        hash.update(how);
    }
    for part in PARTS {
        hash_tree(&Path::new(REPOSITORY).join(part), &mut hash)?;
    }
    let hash: String = hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let root = super::cache()?.join("cells").join(hash);
    Ok(ROOT.get_or_init(|| root).clone())
}

/// The copy of the sources.
pub(super) fn folder() -> Result<PathBuf> {
    Ok(root()?.join("source"))
}

/// Copies the sources into `to`.
pub(super) fn copy(to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for part in PARTS {
        copy_tree(&Path::new(REPOSITORY).join(part), &to.join(part))?;
    }
    Ok(())
}

fn compiler() -> Result<Vec<u8>> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("rustc does not start: is Rust in PATH?")?;
    if !output.status.success() {
        bail!(
            "`rustc -vV` fails: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

/// Folders without anything that cells link.
const LEFT_OUT: [&str; 3] = ["fuzz", "target", "tests"];

/// The entries of a folder that are sources, in order.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut entries = fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<Vec<_>, _>>()
        })
        .with_context(|| {
            format!(
                "cannot read {}: klab needs the repository it was built from",
                folder.display()
            )
        })?;
    entries.retain(|path| {
        let left_out = |name: &str| path.file_name() == Some(OsStr::new(name));
        !LEFT_OUT.into_iter().any(left_out)
    });
    entries.sort();
    Ok(entries)
}

fn hash_tree(path: &Path, hash: &mut Sha256) -> Result<()> {
    hash.update(path.as_os_str().as_encoded_bytes());
    if path.is_dir() {
        entries(path)?
            .iter()
            .try_for_each(|entry| hash_tree(entry, hash))
    } else {
        hash.update(fs::read(path).with_context(|| {
            format!(
                "cannot read {}: klab needs the repository it was built from",
                path.display()
            )
        })?);
        Ok(())
    }
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in entries(from)? {
            let name = entry.file_name().unwrap_or_default();
            copy_tree(&entry, &to.join(name))?;
        }
    } else {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_has_the_hash_of_the_sources_but_for_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("a");
        fs::create_dir_all(from.join("target")).unwrap();
        fs::create_dir_all(from.join("tests")).unwrap();
        fs::write(from.join("x.rs"), "1").unwrap();
        fs::write(from.join("target/y"), "2").unwrap();
        copy_tree(&from, &folder.path().join("b")).unwrap();
        assert_eq!(fs::read(folder.path().join("b/x.rs")).unwrap(), b"1");
        assert!(!folder.path().join("b/target").exists());
        assert!(!folder.path().join("b/tests").exists());
    }

    #[test]
    fn a_changed_source_changes_the_hash() {
        let folder = tempfile::tempdir().unwrap();
        let hash = |text: &str| {
            fs::write(folder.path().join("x.rs"), text).unwrap();
            let mut hash = Sha256::new();
            hash_tree(folder.path(), &mut hash).unwrap();
            hash.finalize()
        };
        assert_ne!(hash("1"), hash("2"));
        assert_eq!(hash("1"), hash("1"));
    }
}
