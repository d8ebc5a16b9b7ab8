//! Kernel releases: how they sort, and how an image names its own.

use std::cmp::Ordering;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{At, Result};

/// The releases of the cloud images among these package names, newest first.
pub(crate) fn releases(packages: &[String]) -> Vec<String> {
    let mut releases: Vec<String> = packages
        .iter()
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter(|release| {
            release.starts_with(|c: char| c.is_ascii_digit()) && release.ends_with("-cloud-amd64")
        })
        .map(str::to_owned)
        .collect();
    releases.sort_by(|a, b| compare(b, a));
    releases
}

/// Orders releases by their numbers, as far as they have numbers.
fn compare(a: &str, b: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit())
            .filter_map(|part| part.parse().ok())
            .collect()
    };
    numbers(a).cmp(&numbers(b)).then_with(|| a.cmp(b))
}

/// Whether `release` is `asked` or goes on from it at a border: `6.1` begins `6.1.0-50`, not `6.12.3`.
pub(crate) fn begins(release: &str, asked: &str) -> bool {
    release
        .strip_prefix(asked)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-', '+', '~']))
}

/// `uname -r` of a bzImage, by the pointer in its header (`kernel_version`, Documentation/arch/x86/boot.rst);
/// `None` where the file is no bzImage.
pub(crate) fn of_image(path: &Path) -> Result<Option<String>> {
    let file = File::open(path).at("open", path)?;
    let mut header = [0; 0x210];
    if file.read_exact_at(&mut header, 0).is_err() || header[0x202..0x206] != *b"HdrS" {
        return Ok(None);
    }
    let at = u64::from(u16::from_le_bytes([header[0x20e], header[0x20f]])) + 0x200;
    let mut text = [0; 128];
    let len = file.read_at(&mut text, at).at("read", path)?;
    let words = text[..len]
        .split(|byte| matches!(byte, 0 | b' '))
        .next()
        .unwrap_or_default();
    let release = String::from_utf8_lossy(words).into_owned();
    let sane = !release.is_empty()
        && release
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-._~".contains(c));
    Ok(sane.then_some(release))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_comes_first() {
        let names = [
            "linux-image-7.2.9+deb13-cloud-amd64",
            "linux-image-7.2.12+deb13-cloud-amd64",
            "linux-image-6.19.14+deb13-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64-dbg",
            "linux-image-cloud-amd64",
            "linux-image-7.3.4+deb13-amd64",
        ]
        .map(str::to_owned);
        let sorted = releases(&names);
        assert_eq!(
            sorted,
            [
                "7.2.12+deb13-cloud-amd64",
                "7.2.9+deb13-cloud-amd64",
                "6.19.14+deb13-cloud-amd64"
            ]
        );
    }

    #[test]
    fn a_release_ends_at_a_border() {
        assert!(begins("6.1.0-50-cloud-amd64", "6.1"));
        assert!(!begins("6.12.95+deb12-cloud-amd64", "6.1"));
        assert!(begins("6.12.95+deb12-cloud-amd64", "6.12.95"));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(of_image(file.path()).unwrap(), None);
        std::fs::write(file.path(), [0xff; 4096]).unwrap();
        assert_eq!(of_image(file.path()).unwrap(), None);
    }
}
