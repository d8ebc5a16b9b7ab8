//! Debian packages without root: apt on private folders, with the machine's own mirror and apt's signature checks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};
use crate::paths;
use crate::progress::Progress;
use crate::temporary::Temporary;

/// A Debian release that packages are taken from, with its backports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Suite {
    /// Its codename.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// One package that apt would fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Archive {
    file: String,
    size: u64,
}

/// apt on folders of our own for one [`Suite`]. Holds that folder's lock.
#[derive(Debug)]
pub(crate) struct Apt {
    root: PathBuf,
    suite: Suite,
    _lock: Flock<File>,
}

/// Names that Debian's main archive gives to a release; the machine's apt has one of them.
const RELEASES: [&str; 8] = [
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "stable",
    "testing",
    "unstable",
    "oldstable",
];
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];
/// Package lists older than this are fetched anew before something is looked for in them.
const LISTS_LIVE: Duration = Duration::from_secs(24 * 3600);

impl Apt {
    /// Opens the private folders of `suite`, making them where needed. No network.
    pub(crate) fn open(suite: Suite) -> Result<Self> {
        let root = paths::cache()?.join("apt").join(suite.name());
        for folder in ["lists/partial", "archives/partial", "empty/partial"] {
            fs::create_dir_all(root.join(folder)).at("make", &root)?;
        }
        let patience = Duration::from_secs(600);
        let lock = paths::lock(&root.join("lock"), patience)?
            .ok_or_else(|| Error::Locked(format!("(packages of {})", suite.name())))?;
        paths::tidy(&root);
        let apt = Self {
            root,
            suite,
            _lock: lock,
        };
        let keyring = KEYRINGS.iter().find(|path| Path::new(path).exists());
        let keyring = keyring.ok_or(Error::NoTool {
            tool: KEYRINGS[0],
            package: "debian-archive-keyring",
        })?;
        let (mirror, suite) = (mirror()?, suite.name());
        let list = format!(
            "deb [signed-by={keyring}] {mirror} {suite} main\ndeb [signed-by={keyring}] {mirror} {suite}-backports main\n"
        );
        fs::write(apt.root.join("sources.list"), list).at("write in", &apt.root)?;
        fs::write(apt.root.join("status"), "").at("write in", &apt.root)?;
        fs::write(apt.root.join("apt.conf"), apt.conf()?).at("write in", &apt.root)?;
        Ok(apt)
    }

    /// The machine's own `Acquire` settings (proxies, retries), none of its hooks, all folders ours.
    fn conf(&self) -> Result<String> {
        let dump = output(Command::new("apt-config").args(["dump", "Acquire"]))?;
        let kept = dump.lines().filter(|line| {
            line.starts_with("Acquire::")
                && !line.starts_with("Acquire::IndexTargets")
                && !line.starts_with("Acquire::Languages")
        });
        let mut conf: String = kept.flat_map(|line| [line, "\n"]).collect();
        let root = self.root.display();
        conf += &format!(
            "Dir::Etc::Main \"/dev/null\";\nDir::Etc::Parts \"/dev/null\";\nDir::Etc::SourceList \"{root}/sources.list\";\n\
             Dir::Etc::SourceParts \"/dev/null\";\nDir::Etc::Preferences \"/dev/null\";\nDir::Etc::PreferencesParts \"/dev/null\";\n\
             Dir::State::Lists \"{root}/lists\";\nDir::State::Status \"{root}/status\";\nDir::State::Extended_States \"{root}/extended\";\n\
             Dir::Cache \"{root}\";\nDir::Cache::Archives \"{root}/archives\";\nDir::Log \"{root}\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\nAPT::Sandbox::User \"root\";\nDebug::NoLocking \"1\";\n\
             APT::Install-Recommends \"0\";\nAPT::Install-Suggests \"0\";\nAPT::Get::Assume-Yes \"1\";\n"
        );
        Ok(conf)
    }

    fn command(&self, program: &str) -> Command {
        // The child ends with us: an interrupted command leaves nothing running, and apt carries on next time.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", program])
            .env("APT_CONFIG", self.root.join("apt.conf"));
        command
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        command
    }

    /// Fetches the package lists unless they are fresh.
    pub(crate) fn refresh(&self, progress: &mut dyn Progress) -> Result<()> {
        let stamp = self.root.join("refreshed");
        let age = fs::metadata(&stamp)
            .and_then(|meta| meta.modified())
            .ok()
            .map(|then| SystemTime::now().duration_since(then));
        if age.is_some_and(|age| age.is_ok_and(|age| age < LISTS_LIVE)) {
            return Ok(());
        }
        progress.step(&format!(
            "fetching the package lists of Debian {}",
            self.suite.name()
        ));
        paths::need_room(&self.root, 200 << 20, "KLAB_CACHE")?;
        let mut command = self.command("apt-get");
        command.args([
            "-qq",
            "-o",
            "APT::Status-Fd=1",
            "-o",
            "APT::Update::Error-Mode=any",
            "update",
        ]);
        self.watch("fetching the package lists", command, None, progress)?;
        fs::write(&stamp, "").at("write", &stamp)
    }

    /// The names of all packages that begin with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The newest version of each of these packages; those that have none are left out.
    pub(crate) fn versions(&self, packages: &[String]) -> Result<BTreeMap<String, String>> {
        if packages.is_empty() {
            return Ok(BTreeMap::new());
        }
        let text = output(self.command("apt-cache").arg("madison").args(packages))?;
        let mut versions = BTreeMap::new();
        for line in text.lines() {
            let mut fields = line.split('|').map(str::trim);
            if let (Some(name), Some(version), Some(place)) =
                (fields.next(), fields.next(), fields.next())
            {
                // Newest first; the Sources lines are of no use here.
                if !place.ends_with("Sources") {
                    versions
                        .entry(name.to_owned())
                        .or_insert_with(|| version.to_owned());
                }
            }
        }
        Ok(versions)
    }

    /// Fetches these packages, and with `closure` all that they depend on, and unpacks them into `to`.
    pub(crate) fn unpack(
        &self,
        packages: &[&str],
        closure: bool,
        to: &Path,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        self.fetch(packages, closure, progress, |deb| {
            output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(to)).map(drop)
        })
    }

    /// Fetches one package, and unpacks what of it has a name like `pattern` (as a shell's) into `to`.
    pub(crate) fn unpack_some(
        &self,
        package: &str,
        pattern: &str,
        to: &Path,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        self.fetch(&[package], false, progress, |deb| {
            let tar =
                r#"dpkg-deb --fsys-tarfile "$0" | tar --extract --directory="$1" --wildcards "$2""#;
            output(
                Command::new("sh")
                    .args(["-c", tar])
                    .arg(deb)
                    .arg(to)
                    .arg(pattern),
            )
            .map(drop)
        })
    }

    /// Fetches packages, and gives each to `unpack`.
    fn fetch(
        &self,
        packages: &[&str],
        closure: bool,
        progress: &mut dyn Progress,
        unpack: impl Fn(&Path) -> Result<()>,
    ) -> Result<()> {
        let archives = self.root.join("archives");
        // apt leaves out what is in its archives already, as an interrupted fetch leaves it: it looks where nothing is.
        let nothing = format!("Dir::Cache::Archives={}", self.root.join("empty").display());
        let verb: &[&str] = if closure {
            &["install", "--download-only"]
        } else {
            &["download"]
        };
        let uris = output(
            self.command("apt-get")
                .args(["-qq", "--print-uris", "-o", &nothing])
                .args(verb)
                .args(packages),
        )?;
        let wanted: Vec<Archive> = uris.lines().filter_map(archive).collect();
        let total: u64 = wanted.iter().map(|archive| archive.size).sum();
        paths::need_room(&self.root, total.saturating_mul(7), "KLAB_CACHE")?;
        progress.bytes(0, total);
        let mut command = self.command("apt-get");
        command
            .current_dir(&archives)
            .args(["-qq", "-o", "APT::Status-Fd=1"])
            .args(verb)
            .args(packages);
        self.watch(
            &format!("fetching {}", packages.join(", ")),
            command,
            Some(total),
            progress,
        )?;
        for archive in &wanted {
            unpack(&archives.join(&archive.file))?;
        }
        for archive in &wanted {
            let deb = archives.join(&archive.file);
            fs::remove_file(&deb).at("remove", &deb)?;
        }
        Ok(())
    }

    /// Runs apt-get, turns its `dlstatus:` lines into progress and its errors into a sentence.
    fn watch(
        &self,
        what: &str,
        mut command: Command,
        total: Option<u64>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let (_temporary, errors) = Temporary::file(&self.root)?;
        let copy = errors.try_clone().at("write in", &self.root)?;
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(copy)
            .spawn()
            .map_err(|_| missing("setpriv"))?;
        if let Some(out) = child.stdout.take() {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let percent = line
                    .strip_prefix("dlstatus:")
                    .and_then(|rest| rest.split(':').nth(1)?.parse::<f64>().ok());
                if let (Some(percent), Some(total)) = (percent, total) {
                    // Both are small and positive; a bar needs no more exactness than that.
                    progress.bytes(
                        (percent.clamp(0.0, 100.0) / 100.0 * total as f64) as u64,
                        total,
                    );
                }
            }
        }
        let status = child.wait().at("wait for apt in", &self.root)?;
        if status.success() {
            return Ok(());
        }
        Err(apt_error(what, &tail(errors), &self.root))
    }
}

/// `'URI' FILE SIZE HASH`, as `--print-uris` gives it; names are kept to one path component.
fn archive(line: &str) -> Option<Archive> {
    let mut fields = line.rsplit_once("' ")?.1.split(' ');
    let (file, size) = (fields.next()?, fields.next()?.parse().ok()?);
    (file.ends_with(".deb") && !file.contains('/')).then(|| Archive {
        file: file.to_owned(),
        size,
    })
}

/// Debian's main archive, as the machine's apt is set to reach it: apt itself reads both forms of its lists.
fn mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
        "Identifier: Packages",
    ]);
    let text = output(&mut command)?;
    choose_mirror(&text).ok_or(Error::NoMirror)
}

fn choose_mirror(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split('|');
        let (uri, release, component) = (fields.next()?, fields.next()?, fields.next()?);
        let fetched = ["http:", "https:", "mirror", "file:", "tor+"]
            .iter()
            .any(|scheme| uri.starts_with(scheme));
        (fetched && component == "main" && RELEASES.contains(&release)).then(|| uri.to_owned())
    })
}

fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .map_err(|_| missing(&command.get_program().to_string_lossy()))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let program = command.get_program().to_string_lossy();
    Err(apt_error(
        &program,
        &String::from_utf8_lossy(&out.stderr),
        Path::new(&*program),
    ))
}

fn missing(program: &str) -> Error {
    match program {
        "setpriv" => Error::NoTool {
            tool: "setpriv",
            package: "util-linux",
        },
        "dpkg-deb" => Error::NoTool {
            tool: "dpkg-deb",
            package: "dpkg",
        },
        _ => Error::NoTool {
            tool: "apt-get",
            package: "apt",
        },
    }
}

fn tail(mut file: File) -> String {
    let mut text = String::new();
    let rewound = std::io::Seek::rewind(&mut file);
    let _ = rewound.and_then(|()| file.take(64 << 10).read_to_string(&mut text));
    text
}

/// apt's own words, first the cases that have a cure of their own.
fn apt_error(what: &str, text: &str, root: &Path) -> Error {
    let line = |words: &[&str]| {
        text.lines()
            .find(|line| words.iter().any(|word| line.contains(word)))
            .map(|line| line.trim().to_owned())
    };
    if line(&[
        "No space left",
        "not have enough space",
        "Write error",
        "Disk quota",
    ])
    .is_some()
    {
        return Error::DiskFull {
            path: root.to_owned(),
            need: "more".to_owned(),
            variable: "KLAB_CACHE",
        };
    }
    let network = [
        "Could not resolve",
        "Temporary failure",
        "Could not connect",
        "Connection",
        "Cannot initiate",
        "Unable to connect",
        "timed out",
        "Could not handshake",
    ];
    if let Some(why) = line(&network) {
        let why = why.trim_start_matches("E: ").trim_start_matches("W: ");
        return Error::NoNetwork(why.trim_end_matches('.').to_owned());
    }
    let why = line(&["E: ", "error"])
        .or_else(|| text.lines().next_back().map(str::to_owned))
        .unwrap_or_default();
    Error::Apt {
        what: what.to_owned(),
        why: why.trim_start_matches("E: ").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_is_the_main_archive() {
        let text = "http://m.example/debian-security/|bookworm-security|main\ncdrom:[x]/|bookworm|main\n\
                    http://m.example/debian/|bookworm-updates|main\nhttp://m.example/debian/|bookworm|contrib\n\
                    http://m.example/debian/|bookworm|main\n";
        assert_eq!(
            choose_mirror(text).as_deref(),
            Some("http://m.example/debian/")
        );
        assert_eq!(choose_mirror("https://other.example/|nodistro|main"), None);
    }

    #[test]
    fn archives_stay_in_their_folder() {
        let line = "'http://m.example/pool/x/x_1%3a2_amd64.deb' x_1%3a2_amd64.deb 955316 SHA256:00";
        assert_eq!(
            archive(line),
            Some(Archive {
                file: "x_1%3a2_amd64.deb".to_owned(),
                size: 955_316
            })
        );
        assert_eq!(archive("'http://m.example/x' ../x.deb 1 SHA256:00"), None);
        assert_eq!(archive("nonsense"), None);
    }

    #[test]
    fn errors_carry_their_cure() {
        let offline =
            "E: Failed to fetch http://m.example/x  Temporary failure resolving 'm.example'\n";
        assert!(matches!(
            apt_error("x", offline, Path::new("/")),
            Error::NoNetwork(_)
        ));
        let full = "E: Write error - write (28: No space left on device)\n";
        assert!(matches!(
            apt_error("x", full, Path::new("/")),
            Error::DiskFull { .. }
        ));
        assert!(matches!(
            apt_error("x", "E: Unable to locate package y\n", Path::new("/")),
            Error::Apt { .. }
        ));
    }
}
