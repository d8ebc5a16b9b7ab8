//! Kernels of the guest: stock Debian cloud kernels, fetched once and cached, or any vmlinuz.

pub(crate) mod apt;
mod debug;
mod version;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};
use crate::paths;
use crate::progress::Progress;
use crate::temporary::Temporary;
use apt::Apt;
pub use apt::Suite;
use version::Asked;

/// A kernel that a guest can boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// The compressed image that QEMU loads.
    pub vmlinuz: PathBuf,
    /// `lib/modules/RELEASE`: the folder that holds `kernel/`.
    pub modules: PathBuf,
}

/// The kernel to boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelChoice {
    /// The newest Debian 13 backports cloud kernel whose image, headers and source are all there.
    #[default]
    Default,
    /// A Debian kernel by the beginning of its release: `6.1`, `6.12`, `7.3.4+deb13-cloud-amd64`; a Debian and a flavour
    /// may follow: `6.12+deb13`, `6.1-rt`, `default-generic`.
    Release(String),
    /// A vmlinuz and its modules (`None`: looked for beside it and in `/lib/modules`).
    Path {
        /// The image.
        vmlinuz: PathBuf,
        /// `lib/modules/RELEASE`.
        modules: Option<PathBuf>,
    },
}

impl FromStr for KernelChoice {
    type Err = std::convert::Infallible;

    /// `default`, a path (it has a `/`), or a release.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "" | "default" => Self::Default,
            path if path.contains('/') => Self::Path {
                vmlinuz: path.into(),
                modules: None,
            },
            release => Self::Release(release.to_owned()),
        })
    }
}

impl fmt::Display for KernelChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Release(release) => f.write_str(release),
            Self::Path { vmlinuz, .. } => write!(f, "{}", vmlinuz.display()),
        }
    }
}

impl Kernel {
    /// Finds the kernel in the cache, or fetches it. The first answer to a [`KernelChoice`] is remembered.
    ///
    /// # Errors
    /// [`Error::UnknownKernel`] if there is none of this release; [`Error::BadKernel`] if the image or its modules are
    /// not whole; [`Error::NoNetwork`], [`Error::Apt`] and [`Error::DiskFull`] if it cannot be fetched.
    pub fn resolve(choice: &KernelChoice, progress: &mut dyn Progress) -> Result<Self> {
        let asked = match choice {
            KernelChoice::Path { vmlinuz, modules } => return by_path(vmlinuz, modules.as_deref()),
            KernelChoice::Default => "default",
            KernelChoice::Release(release) => release,
        };
        let folder = paths::private(&paths::cache()?.join("kernels"), "KLAB_CACHE")?;
        if let Some(kernel) = remembered(&folder, asked) {
            return Ok(kernel);
        }
        let lock = paths::lock(&folder.join("lock"), Duration::from_secs(1800))?;
        let _lock = lock.ok_or_else(|| Error::Locked("(kernels)".to_owned()))?;
        if let Some(kernel) = remembered(&folder, asked) {
            return Ok(kernel);
        }
        let (apt, release) = select(asked, progress)?;
        let kernel = match whole(&folder, &release) {
            Some(kernel) => kernel,
            None => fetch(&apt, &folder, &release, progress)?,
        };
        let mut chosen = read_chosen(&folder);
        chosen.insert(asked.to_owned(), release);
        let text = serde_json::to_vec_pretty(&chosen).unwrap_or_default();
        paths::write_whole(&folder.join("chosen.json"), &text)?;
        Ok(kernel)
    }
}

fn read_chosen(folder: &Path) -> BTreeMap<String, String> {
    let text = fs::read(folder.join("chosen.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn remembered(folder: &Path, asked: &str) -> Option<Kernel> {
    whole(folder, read_chosen(folder).get(asked)?)
}

/// The cached kernel `release`, if it is all there. Folders appear by rename, so that half of one is never seen;
/// what someone removed since is noticed here.
fn whole(folder: &Path, release: &str) -> Option<Kernel> {
    let kernel = layout(&folder.join(release), release);
    (kernel.vmlinuz.is_file() && kernel.modules.join("kernel").is_dir()).then_some(kernel)
}

/// Debian's 6.x packages have `boot/vmlinuz-RELEASE` and `lib/modules`; from 7.x all is in `usr/lib/modules`.
fn layout(root: &Path, release: &str) -> Kernel {
    let new = root.join("usr/lib/modules").join(release);
    let old = root.join("lib/modules").join(release);
    let modules = if old.is_dir() { old } else { new };
    let boot = root.join(format!("boot/vmlinuz-{release}"));
    let vmlinuz = if boot.is_file() {
        boot
    } else {
        modules.join("vmlinuz")
    };
    Kernel {
        release: release.to_owned(),
        vmlinuz,
        modules,
    }
}

/// The release to fetch, and the apt that has it.
fn select(asked: &str, progress: &mut dyn Progress) -> Result<(Apt, String)> {
    let wanted = Asked::parse(asked);
    let suites = match (wanted.debian, wanted.is_default()) {
        (Some("deb12"), _) => &[Suite::Bookworm][..],
        (Some("deb13"), _) | (_, true) => &[Suite::Trixie],
        _ if wanted.is_of_debian_12() => &[Suite::Bookworm, Suite::Trixie],
        _ => &[Suite::Trixie, Suite::Bookworm],
    };
    let mut known = Vec::new();
    for &suite in suites {
        let apt = Apt::open(suite)?;
        apt.refresh(progress)?;
        let names = apt.names("linux-image-")?;
        let releases = version::releases(&names, wanted);
        let found = match wanted.is_default() {
            true => newest_buildable(&apt, &releases)?,
            false => releases.into_iter().next(),
        };
        if let Some(release) = found {
            return Ok((apt, release));
        }
        known.extend(version::releases(&names, Asked::parse("default")));
    }
    known.truncate(8);
    let known = if known.is_empty() {
        "Debian has none".to_owned()
    } else {
        format!("the newest are {}", known.join(", "))
    };
    Err(Error::UnknownKernel {
        asked: asked.to_owned(),
        known,
    })
}

/// The newest of `releases` (newest first) whose headers and source are there in the image's own version: a
/// module can be built for no other.
fn newest_buildable(apt: &Apt, releases: &[String]) -> Result<Option<String>> {
    let packages = |release: &str| {
        [
            format!("linux-image-{release}"),
            format!("linux-headers-{release}"),
            format!("linux-source-{}", series(release)),
        ]
    };
    let newest = &releases[..releases.len().min(12)];
    let all: Vec<String> = newest
        .iter()
        .flat_map(|release| packages(release))
        .collect();
    let versions = apt.versions(&all)?;
    Ok(newest
        .iter()
        .find(|release| {
            let [image, headers, source] = packages(release).map(|name| versions.get(&name));
            image.is_some() && image == headers && image == source
        })
        .cloned())
}

/// `7.3` of `7.3.4+deb13-cloud-amd64`: what Debian's source package is named by.
pub(crate) fn series(release: &str) -> String {
    let stem = release.split(['+', '-']).next().unwrap_or(release);
    stem.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// Fetches the packages of `release` into a folder that appears whole or not at all.
fn fetch(apt: &Apt, folder: &Path, release: &str, progress: &mut dyn Progress) -> Result<Kernel> {
    progress.step(&format!("fetching linux {release}"));
    // From 7.x the image package only depends on the packages that hold the parts.
    let parts =
        ["image", "binary", "modules", "base"].map(|part| format!("linux-{part}-{release}"));
    let there = apt.versions(&parts)?;
    let wanted: Vec<&str> = parts
        .iter()
        .filter(|name| there.contains_key(*name))
        .map(String::as_str)
        .collect();
    paths::tidy(folder);
    let temporary = Temporary::folder(folder)?;
    apt.unpack(&wanted, false, temporary.path(), progress)?;
    let kernel = layout(temporary.path(), release);
    if !kernel.vmlinuz.is_file() {
        return Err(Error::BadKernel {
            path: kernel.vmlinuz,
            why: "is not in Debian's package: choose another kernel (`--kernel`)".to_owned(),
        });
    }
    let to = folder.join(release);
    if to.exists() {
        fs::remove_dir_all(&to).at("remove", &to)?;
    }
    temporary.place(&to)?;
    whole(folder, release).ok_or_else(|| Error::BadKernel {
        path: to,
        why: "lacks its modules: run the command again".to_owned(),
    })
}

/// A kernel that the user brought.
fn by_path(vmlinuz: &Path, modules: Option<&Path>) -> Result<Kernel> {
    let bad = |path: &Path, why: &str| Error::BadKernel {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let vmlinuz =
        fs::canonicalize(vmlinuz).map_err(|_| bad(vmlinuz, "is not there: name a bzImage"))?;
    let release = version::of_image(&vmlinuz)?.ok_or_else(|| {
        bad(
            &vmlinuz,
            "is no x86 Linux image (bzImage): a vmlinuz is needed, not a vmlinux",
        )
    })?;
    let candidates = match (modules, vmlinuz.parent()) {
        (Some(given), _) => vec![
            given.to_owned(),
            given.join("lib/modules").join(&release),
            given.join(&release),
        ],
        (None, Some(beside)) => vec![
            beside.to_owned(),
            beside.join("../lib/modules").join(&release),
            PathBuf::from("/lib/modules").join(&release),
        ],
        (None, None) => Vec::new(),
    };
    let found = candidates.iter().find(|path| path.join("kernel").is_dir());
    let modules = found.ok_or_else(|| {
        bad(&vmlinuz, &format!("has no modules beside it or in /lib/modules/{release}: name their folder (`lib/modules/{release}`)"))
    })?;
    Ok(Kernel {
        modules: fs::canonicalize(modules).at("find", modules)?,
        release,
        vmlinuz,
    })
}

/// Fetches Debian packages with all they depend on, and gives the folder in which they are unpacked (it looks
/// like `/`). Cached per suite and set of packages.
///
/// # Errors
/// [`Error::NoNetwork`], [`Error::Apt`] and [`Error::DiskFull`] if they cannot be fetched; [`Error::NoTool`] without a
/// tool that unpacks them.
pub fn debs(packages: &[&str], suite: Suite, progress: &mut dyn Progress) -> Result<PathBuf> {
    let folder = paths::private(&paths::cache()?.join("debs"), "KLAB_CACHE")?;
    let mut names = packages.to_vec();
    names.sort_unstable();
    let to = folder.join(format!("{}-{}", suite.name(), names.join("-")));
    if to.is_dir() {
        return Ok(to);
    }
    let apt = Apt::open(suite)?;
    if to.is_dir() {
        return Ok(to);
    }
    apt.refresh(progress)?;
    progress.step(&format!("fetching {}", names.join(", ")));
    paths::tidy(&folder);
    let temporary = Temporary::folder(&folder)?;
    apt.unpack(&names, true, temporary.path(), progress)?;
    temporary.place(&to)?;
    Ok(to)
}
