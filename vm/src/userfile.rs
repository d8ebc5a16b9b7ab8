//! A file at a path that the user gave: which may be a link, a device, a FIFO, or a file that is there already.
//!
//! What is there stays as it is until the new file is whole. That has no name before (`O_TMPFILE`), so that nothing is left of one
//! whose program is killed; where the file system has no files without names it has one of its own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, fcntl};
use nix::unistd::linkat;

use crate::error::{Error, Result};

/// Links that are followed: as many as the kernel follows (`MAXSYMLINKS`).
const LINKS: usize = 40;
/// Time that a FIFO may be without a reader.
const READER: Duration = Duration::from_secs(30);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A file that is being written for the user. Dropped, it leaves all as it was.
#[derive(Debug)]
pub struct UserFile {
    file: File,
    /// As the user wrote it.
    path: PathBuf,
    place: Place,
}

/// Place of the file until it is whole, and its destination.
#[derive(Debug)]
enum Place {
    /// It was there, and is no plain file: what is written is there at once.
    Stream,
    /// It has no name yet.
    Unnamed(PathBuf),
    /// It has this name for the time being.
    Named(PathBuf, PathBuf),
}

impl UserFile {
    /// A plain file, as a format needs that is written here and there. It is for this user alone.
    ///
    /// # Errors
    /// When something is there that is no plain file, or the file cannot be written.
    pub fn plain(path: &Path) -> Result<Self> {
        let target = target(path)?;
        match target.kind {
            None | Some(Kind::File) => Self::beside(path, target.path),
            Some(kind) => Err(refused(path, kind)),
        }
    }

    /// A file that is written from its beginning to its end: also a FIFO that somebody reads, or a device, which are written into.
    /// `wait` is called while a FIFO has no reader yet.
    ///
    /// # Errors
    /// When a folder or a socket is there, nobody reads the FIFO, or the file cannot be written.
    pub fn stream(path: &Path, wait: &dyn Fn()) -> Result<Self> {
        let target = target(path)?;
        match target.kind {
            None | Some(Kind::File) => Self::beside(path, target.path),
            Some(Kind::Fifo | Kind::Device | Kind::Open) => {
                let file = into(path, wait)?;
                Ok(Self {
                    file,
                    path: path.to_owned(),
                    place: Place::Stream,
                })
            }
            Some(kind) => Err(refused(path, kind)),
        }
    }

    fn beside(path: &Path, target: PathBuf) -> Result<Self> {
        let failed = |error| fault(path, error);
        // One that may not be written is not replaced either.
        match File::options().write(true).open(&target) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let folder = target.parent().unwrap_or(Path::new("/"));
        let mut options = File::options();
        options.read(true).write(true).mode(0o600);
        let unnamed = options
            .clone()
            .custom_flags(OFlag::O_TMPFILE.bits())
            .open(folder);
        let (file, place) = match unnamed {
            Ok(file) => (file, Place::Unnamed(target)),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::PermissionDenied
                ) =>
            {
                return Err(failed(error));
            }
            Err(_) => {
                let (part, file) =
                    unique(&target, |part| options.clone().create_new(true).open(part))
                        .map_err(failed)?;
                (file, Place::Named(part, target))
            }
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            place,
        })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Tells whether it is a plain file, which appears when it is whole.
    pub fn is_plain(&self) -> bool {
        !matches!(self.place, Place::Stream)
    }

    /// An error of writing it, in one sentence.
    pub fn fault(&self, error: io::Error) -> Error {
        fault(&self.path, error)
    }

    /// Puts the whole file in its place; gives the place.
    ///
    /// # Errors
    /// When the file system refuses; what was there is there still.
    pub fn place(mut self) -> Result<PathBuf> {
        let failed = |error| fault(&self.path, error);
        (&self.file).flush().map_err(failed)?;
        let place = std::mem::replace(&mut self.place, Place::Stream);
        let (part, target) = match place {
            Place::Stream => return Ok(self.path.clone()),
            Place::Named(part, target) => (part, target),
            Place::Unnamed(target) => {
                let from = format!("/proc/self/fd/{}", self.file.as_fd().as_raw_fd());
                let link = |to: &Path| {
                    let linked = linkat(
                        AT_FDCWD,
                        from.as_str(),
                        AT_FDCWD,
                        to,
                        AtFlags::AT_SYMLINK_FOLLOW,
                    );
                    linked.map_err(io::Error::from)
                };
                match link(&target) {
                    Ok(()) => return Ok(target),
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                        return Err(failed(error));
                    }
                    // It replaces what is there in one step, for which it needs a name.
                    Err(_) => (unique(&target, link).map_err(failed)?.0, target),
                }
            }
        };
        let placed = fs::rename(&part, &target);
        if placed.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&part);
        }
        placed.map_err(failed)?;
        Ok(target)
    }
}

impl Drop for UserFile {
    fn drop(&mut self) {
        if let Place::Named(part, _) = &self.place {
            let _ = fs::remove_file(part);
        }
    }
}

impl Write for &UserFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.file).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&self.file).flush()
    }
}

/// Kind of thing at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
    Fifo,
    Socket,
    Device,
    /// A file that a process has open already, by its entry in `/proc`: `/dev/stdout` leads there.
    Open,
}

struct Target {
    path: PathBuf,
    /// `None` where nothing is.
    kind: Option<Kind>,
}

/// Target of a path; the last part need not be there.
fn target(path: &Path) -> Result<Target> {
    let failed = |error: io::Error| fault(path, error);
    let ends = path.components().next_back();
    let slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if slash || !matches!(ends, Some(Component::Normal(_))) {
        return Err(failed(ErrorKind::IsADirectory.into()));
    }
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        let name = at
            .file_name()
            .ok_or_else(|| failed(ErrorKind::IsADirectory.into()))?;
        let folder = match at.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let folder = fs::canonicalize(folder).map_err(failed)?;
        let place = folder.join(name);
        let meta = match fs::symlink_metadata(&place) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Target {
                    path: place,
                    kind: None,
                });
            }
            meta => meta.map_err(failed)?,
        };
        let kind = meta.file_type();
        if kind.is_symlink() {
            if folder.starts_with("/proc") {
                return Ok(Target {
                    path: place,
                    kind: Some(Kind::Open),
                });
            }
            at = folder.join(fs::read_link(&place).map_err(failed)?);
            continue;
        }
        let kind = if kind.is_file() {
            Kind::File
        } else if kind.is_dir() {
            Kind::Folder
        } else if kind.is_fifo() {
            Kind::Fifo
        } else if kind.is_socket() {
            Kind::Socket
        } else {
            Kind::Device
        };
        return Ok(Target {
            path: place,
            kind: Some(kind),
        });
    }
    Err(failed(io::Error::from(nix::errno::Errno::ELOOP)))
}

/// Opens what is no plain file, to write into it.
fn into(path: &Path, wait: &dyn Fn()) -> Result<File> {
    let failed = |error: io::Error| fault(path, error);
    let until = Instant::now() + READER;
    let mut options = File::options();
    options.append(true).custom_flags(OFlag::O_NONBLOCK.bits());
    loop {
        match options.open(path) {
            Ok(file) => {
                let flags = fcntl(&file, FcntlArg::F_GETFL).map_err(|e| failed(e.into()))?;
                let flags = OFlag::from_bits_truncate(flags) - OFlag::O_NONBLOCK;
                fcntl(&file, FcntlArg::F_SETFL(flags)).map_err(|e| failed(e.into()))?;
                return Ok(file);
            }
            // A FIFO that nobody reads (fifo(7)).
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENXIO as i32) => {
                if Instant::now() >= until {
                    return Err(Error::NotWritable {
                        path: path.to_owned(),
                        why: "nobody reads it: start its reader first".to_owned(),
                    });
                }
                wait();
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

/// A name beside `target` that nothing has, with which `make` has made something.
fn unique<T>(target: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(PathBuf, T)> {
    let name = target.file_name().unwrap_or_default();
    loop {
        let mut part = OsString::from(".");
        // Room for what follows it, within the 255 bytes of a name.
        part.push(name.to_string_lossy().chars().take(40).collect::<String>());
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        part.push(format!(".{}-{number}.part", std::process::id()));
        let part = target.with_file_name(part);
        match make(&part) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => return made.map(|made| (part, made)),
        }
    }
}

fn refused(path: &Path, kind: Kind) -> Error {
    let what = match kind {
        Kind::File => "a file",
        Kind::Folder => "a folder",
        Kind::Fifo => "a FIFO",
        Kind::Socket => "a socket",
        Kind::Device => "a device",
        Kind::Open => "an open file of a process",
    };
    Error::NotWritable {
        path: path.to_owned(),
        why: format!("it is {what}: name a plain file"),
    }
}

fn fault(path: &Path, error: io::Error) -> Error {
    let why = match error.kind() {
        ErrorKind::IsADirectory => "it is a folder: name a plain file".to_owned(),
        _ => error.to_string(),
    };
    Error::NotWritable {
        path: path.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::{Mode, SFlag, makedev, mknod};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn write(path: &Path, text: &str) -> Result<PathBuf> {
        let file = UserFile::plain(path)?;
        (&file).write_all(text.as_bytes()).unwrap();
        file.place()
    }

    #[test]
    fn what_is_there_stays_until_the_new_file_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("core");
        fs::write(folder.path().join("core.part"), "another's").unwrap();
        assert_eq!(write(&path, "one").unwrap(), path.canonicalize().unwrap());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let file = UserFile::plain(&path).unwrap();
        (&file).write_all(b"half").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        write(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        let part = fs::read_to_string(folder.path().join("core.part")).unwrap();
        assert_eq!(part, "another's");
        assert_eq!(names(folder.path()), ["core", "core.part"]);
    }

    #[test]
    fn a_file_with_a_name_of_its_own_does_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x".repeat(250));
        let named = || {
            let (part, file) = unique(&target, |part| {
                File::options().write(true).create_new(true).open(part)
            })
            .unwrap();
            UserFile {
                file,
                path: target.clone(),
                place: Place::Named(part, target.clone()),
            }
        };
        drop(named());
        assert!(names(folder.path()).is_empty());
        let (one, two) = (named(), named());
        assert_eq!(names(folder.path()).len(), 2);
        one.place().unwrap();
        two.place().unwrap();
        assert_eq!(names(folder.path()).len(), 1);
    }

    #[test]
    fn links_are_followed_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (to, link) = (folder.path().join("to"), folder.path().join("link"));
        symlink("to", &link).unwrap();
        write(&link, "dangling before").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&to).unwrap(), "dangling before");
        write(&link, "again").unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "again");
        symlink("loop", folder.path().join("loop")).unwrap();
        assert!(write(&folder.path().join("loop"), "").is_err());
        assert_eq!(names(folder.path()), ["link", "loop", "to"]);
    }

    #[test]
    fn what_is_no_plain_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        let mut refused = vec!["folder", "fifo", "socket", "folder/", "none/file", ".."];
        // A copy of /dev/full, where this user may make one.
        let full = mknod(
            &at("full"),
            SFlag::S_IFCHR,
            Mode::S_IRUSR | Mode::S_IWUSR,
            makedev(1, 7),
        );
        if full.is_ok() {
            refused.push("full");
        }
        for name in refused {
            let before = fs::symlink_metadata(at(name))
                .map(|meta| (meta.mode(), meta.ino()))
                .ok();
            let said = write(&at(name), "x").unwrap_err().to_string();
            assert!(said.lines().count() == 1 && said.contains(name), "{said}");
            let after = fs::symlink_metadata(at(name))
                .map(|meta| (meta.mode(), meta.ino()))
                .ok();
            assert_eq!(before, after, "{name}");
        }
        for path in ["/dev/null", "/dev/stdout", "/proc/self/fd/1", "/", ""] {
            assert!(UserFile::plain(Path::new(path)).is_err(), "{path}");
        }
        if full.is_ok() {
            let file = UserFile::stream(&at("full"), &|| {}).unwrap();
            assert!((&file).write_all(b"x").is_err());
        }
        assert!(UserFile::stream(&at("folder"), &|| {}).is_err());
        assert!(UserFile::stream(&at("socket"), &|| {}).is_err());
    }

    #[test]
    fn a_fifo_is_written_into_once_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let reader = {
            let fifo = fifo.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                fs::read(fifo).unwrap()
            })
        };
        let file = UserFile::stream(&fifo, &|| {}).unwrap();
        assert!(!file.is_plain());
        let bytes = vec![7; 1 << 20];
        (&file).write_all(&bytes).unwrap();
        file.place().unwrap();
        assert!(reader.join().unwrap() == bytes);
        assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    }
}
