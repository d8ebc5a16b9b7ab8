//! Programs of Debian's packages, with the libraries that they are linked to.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use object::{
    Endianness,
    elf::{DT_NEEDED, FileHeader64},
    read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _},
};

use super::{Archive, bad};
use crate::{
    error::{At as _, Result},
    kernels::{self, Suite},
    progress::Progress,
};

const PACKAGES: &[&str] = &["busybox-static", "dash", "iproute2", "nftables"];
/// Each program: where Debian may have it, and where it goes. Debian's own `bin` and `sbin` are links into `usr`.
const PROGRAMS: &[(&[&str], &str)] = &[
    (&["usr/bin/busybox", "bin/busybox"], "bin/busybox"),
    // Busybox's own shell prefers its applets to programs of the same name, `ip` among them.
    (&["usr/bin/dash", "bin/dash"], "bin/sh"),
    (
        &["usr/bin/ip", "bin/ip", "usr/sbin/ip", "sbin/ip"],
        "usr/sbin/ip",
    ),
    (&["usr/sbin/tc", "sbin/tc"], "usr/sbin/tc"),
    (&["usr/bin/ss", "bin/ss"], "usr/bin/ss"),
    (&["usr/sbin/nft", "sbin/nft"], "usr/sbin/nft"),
];
/// Folders of libraries; without the `usr`, those in which the loader looks for them when it has no cache.
const LIBRARIES: &[&str] = &[
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
    "lib",
];

/// The folder, which looks like `/`, with the tools' packages.
pub(super) fn root(progress: &mut dyn Progress) -> Result<PathBuf> {
    kernels::debs(PACKAGES, Suite::Trixie, progress)
}

/// Adds the programs of `root` and all libraries that they need.
pub(super) fn add(archive: &mut Archive, root: &Path) -> Result<()> {
    let mut libraries = Vec::new();
    for (sources, to) in PROGRAMS {
        let from = sources.iter().map(|s| root.join(s)).find(|p| p.is_file());
        let from = from.ok_or_else(|| bad(root, format!("has no {}", sources[0])))?;
        libraries.extend(add_elf(archive, &from, to)?);
    }
    let mut seen = BTreeSet::new();
    while let Some(name) = libraries.pop() {
        if seen.insert(name.clone()) {
            let from = LIBRARIES
                .iter()
                .map(|l| root.join(l).join(&name))
                .find(|p| p.is_file());
            let from = from.ok_or_else(|| bad(root, format!("has no {name}")))?;
            // The loader is where the programs say it is, all else where it looks.
            let to = if name.starts_with("ld-linux") {
                "lib64"
            } else {
                "lib/x86_64-linux-gnu"
            };
            libraries.extend(add_elf(archive, &from, &format!("{to}/{name}"))?);
        }
    }
    Ok(())
}

/// Adds one program or library; the names of the libraries that it needs.
fn add_elf(archive: &mut Archive, from: &Path, to: &str) -> Result<Vec<String>> {
    let bytes = fs::read(from).at("read", from)?;
    let needed =
        needed(&bytes).map_err(|e| bad(from, format!("is no program of this machine: {e}")))?;
    archive.file(to, 0o755, bytes);
    Ok(needed)
}

/// The `DT_NEEDED` of an ELF file, and the loader that it names.
fn needed(bytes: &[u8]) -> object::read::Result<Vec<String>> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut names = Vec::new();
    for segment in header.program_headers(endian, bytes)? {
        if let Some(loader) = segment.interpreter(endian, bytes)? {
            names.extend(text(loader).rsplit('/').next().map(str::to_owned));
        }
    }
    let sections = header.sections(endian, bytes)?;
    if let Some((entries, link)) = sections.dynamic(endian, bytes)? {
        let strings = sections.strings(endian, bytes, link)?;
        for entry in entries
            .iter()
            .filter(|e| e.tag32(endian) == Some(DT_NEEDED))
        {
            names.push(text(entry.string(endian, strings)?));
        }
    }
    Ok(names)
}

/// Tells whether an ELF program needs no loader.
pub(super) fn is_static(bytes: &[u8]) -> bool {
    let loader = || {
        let header = FileHeader64::<Endianness>::parse(bytes)?;
        let endian = header.endian()?;
        for segment in header.program_headers(endian, bytes)? {
            if segment.interpreter(endian, bytes)?.is_some() {
                return Ok(true);
            }
        }
        object::read::Result::Ok(false)
    };
    matches!(loader(), Ok(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_needs_libc_and_a_loader() {
        let me = fs::read(std::env::current_exe().unwrap()).unwrap();
        let needed = needed(&me).unwrap();
        assert!(needed.iter().any(|n| n == "libc.so.6"), "{needed:?}");
        assert!(
            needed.iter().any(|n| n.starts_with("ld-linux")),
            "{needed:?}"
        );
        assert!(!is_static(&me));
        assert!(!is_static(b"no ELF"));
    }
}
