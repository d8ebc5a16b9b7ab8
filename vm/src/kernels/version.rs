//! Kernel releases: how they sort, and how an image names its own.

use std::cmp::Ordering;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{At, Result};

/// Debian's builds of one kernel for x86-64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// For virtual machines: what is meant where none is named.
    Cloud,
    /// For all machines.
    Generic,
    /// For all machines, with `PREEMPT_RT`.
    Rt,
}

impl Flavour {
    /// The end of its releases.
    fn suffix(self) -> &'static str {
        match self {
            Self::Cloud => "-cloud-amd64",
            Self::Generic => "-amd64",
            Self::Rt => "-rt-amd64",
        }
    }

    /// A release of this flavour without its end.
    fn strip(self, release: &str) -> Option<&str> {
        let stem = release.strip_suffix(self.suffix())?;
        let other = [Self::Cloud, Self::Rt]
            .iter()
            .any(|other| release.ends_with(other.suffix()));
        (self != Self::Generic || !other).then_some(stem)
    }
}

/// Kernel asked for: a version, or its beginning, perhaps of one Debian, and a flavour. As `6.1`, `6.12+deb13-rt`,
/// `default-generic` or a whole release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    /// Numbers with dots, and what else begins a release; `default` for the newest.
    version: &'a str,
    /// `deb12` or `deb13`, where it was named after the beginning of a version.
    pub(crate) debian: Option<&'a str>,
    pub(crate) flavour: Flavour,
}

impl<'a> Asked<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        let named = [
            ("-cloud", Flavour::Cloud),
            ("-generic", Flavour::Generic),
            ("-rt", Flavour::Rt),
        ];
        let short = named
            .iter()
            .find_map(|(end, flavour)| Some((text.strip_suffix(end)?, *flavour)));
        let whole = [Flavour::Cloud, Flavour::Rt, Flavour::Generic]
            .into_iter()
            .find_map(|flavour| Some((flavour.strip(text)?, flavour)));
        let (stem, flavour) = short.or(whole).unwrap_or((text, Flavour::Cloud));
        let (version, debian) = match stem.split_once("+deb") {
            Some((version, _)) => (version, stem.get(version.len() + 1..)),
            None => (stem, None),
        };
        Self {
            version,
            debian,
            flavour,
        }
    }

    /// Tells whether it is the newest that is asked for.
    pub(crate) fn is_default(self) -> bool {
        self.version == "default"
    }

    /// Tells whether Debian 12 is where such a version is looked for first: it has 6.1, and 6.12 among its backports.
    pub(crate) fn is_of_debian_12(self) -> bool {
        ["6.1", "6.12"]
            .iter()
            .any(|series| begins(self.version, series))
    }

    pub(crate) fn is(self, release: &str) -> bool {
        let Some(stem) = self.flavour.strip(release) else {
            return false;
        };
        let of_debian = self.debian.is_none_or(|debian| stem.ends_with(debian));
        of_debian && (self.is_default() || begins(stem, self.version))
    }
}

/// The releases among these package names that were asked for, newest first.
pub(crate) fn releases(packages: &[String], asked: Asked<'_>) -> Vec<String> {
    let mut releases: Vec<String> = packages
        .iter()
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter(|release| release.starts_with(|c: char| c.is_ascii_digit()) && asked.is(release))
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

/// Tells whether `release` is `asked` or goes on from it at a border: `6.1` begins `6.1.0-50`, not `6.12.3`.
fn begins(release: &str, asked: &str) -> bool {
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

    fn found(asked: &str) -> Vec<String> {
        let names = [
            "linux-image-6.1.0-50-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.1.0-50-rt-amd64",
            "linux-image-6.12.95+deb12-rt-amd64",
            "linux-image-6.12.117+deb13-rt-amd64",
            "linux-image-7.2.9+deb13-cloud-amd64",
            "linux-image-7.2.12+deb13-cloud-amd64",
            "linux-image-6.19.14+deb13-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64-dbg",
            "linux-image-cloud-amd64",
            "linux-image-7.3.4+deb13-amd64",
        ]
        .map(str::to_owned);
        releases(&names, Asked::parse(asked))
    }

    #[test]
    fn newest_comes_first() {
        assert_eq!(
            found("default"),
            [
                "7.2.12+deb13-cloud-amd64",
                "7.2.9+deb13-cloud-amd64",
                "6.19.14+deb13-cloud-amd64",
                "6.1.0-50-cloud-amd64"
            ]
        );
    }

    #[test]
    fn flavours_are_told_apart() {
        for (asked, release) in [
            ("6.1", "6.1.0-50-cloud-amd64"),
            ("6.1-generic", "6.1.0-50-amd64"),
            ("6.1.0-50-amd64", "6.1.0-50-amd64"),
            ("6.1.0-50-rt-amd64", "6.1.0-50-rt-amd64"),
            ("6.12-rt", "6.12.117+deb13-rt-amd64"),
            ("6.12+deb12-rt", "6.12.95+deb12-rt-amd64"),
            ("6.12.95+deb12-rt-amd64", "6.12.95+deb12-rt-amd64"),
            ("default-generic", "7.3.4+deb13-amd64"),
        ] {
            assert_eq!(
                found(asked).first().map(String::as_str),
                Some(release),
                "{asked}"
            );
        }
        for asked in ["7.3", "6.12", "6.2-rt", "6.12+deb11-rt", "", "-rt-amd64"] {
            let found = found(asked);
            assert!(found.is_empty(), "{asked}: {found:?}");
        }
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
