//! Sources of the kernel in folders, each of one version.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The sources that are at hand, by tag.
#[derive(Debug)]
pub(super) struct Sources(BTreeMap<String, PathBuf>);

impl Sources {
    /// Sources that klab unpacked to build modules (`vm::toolchain`), and the user's.
    pub(super) fn find(toolchains: &Path, folders: &[&str]) -> Result<Self> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(toolchains).into_iter().flatten() {
            let source = entry?.path().join("root/build/linux");
            if source.is_dir() {
                found.insert(tag_of(&source)?, source);
            }
        }
        for folder in folders {
            let source = PathBuf::from(folder);
            found.insert(tag_of(&source)?, source);
        }
        Ok(Self(found))
    }

    /// The text of a file; `None` where there is no source of this tag.
    pub(super) fn read(&self, tag: &str, path: &str) -> Option<io::Result<String>> {
        Some(fs::read_to_string(self.0.get(tag)?.join(path)))
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tags: Vec<&str> = self.0.keys().map(String::as_str).collect();
        f.write_str(if tags.is_empty() { "nothing" } else { "" })?;
        f.write_str(&tags.join(", "))
    }
}

/// The tag of the version that the Makefile of a source says.
fn tag_of(source: &Path) -> Result<String> {
    let makefile = source.join("Makefile");
    let text = fs::read_to_string(&makefile)
        .with_context(|| format!("{} is no source of the kernel", source.display()))?;
    version(&text).with_context(|| format!("{} says no version", makefile.display()))
}

fn version(makefile: &str) -> Option<String> {
    let value = |name: &str| {
        makefile
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='))
            .map(str::trim)
    };
    let (major, minor) = (value("VERSION")?, value("PATCHLEVEL")?);
    Some(match value("SUBLEVEL")? {
        "0" => format!("v{major}.{minor}"),
        third => format!("v{major}.{minor}.{third}"),
    })
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn a_makefile_says_the_tag() {
        let of = |third| {
            version(&format!(
                "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = {third}\n"
            ))
        };
        assert_eq!(of("0").as_deref(), Some("v6.12"));
        assert_eq!(of("95").as_deref(), Some("v6.12.95"));
        assert_eq!(version("all:"), None);
    }
}
