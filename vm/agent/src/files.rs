//! Files in and out.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use klab_wire::{Answer, CHUNK, Stream};

use crate::{
    error::{Context as _, Error, Result, reason},
    session::Responder,
};

/// A file on its way in.
#[derive(Debug)]
pub(crate) struct Push {
    file: File,
    path: PathBuf,
    /// File that becomes `path` at the end; none when `path` itself is written, as those of `/proc` are.
    part: Option<PathBuf>,
    mode: u32,
}

impl Push {
    pub(crate) fn begin(path: String, mode: u32) -> Result<Self> {
        let path = PathBuf::from(path);
        let Some(name) = path.file_name().filter(|_| path.is_absolute()) else {
            return Err(Error(format!(
                "cannot push to `{}`: it is no absolute path of a file",
                path.display()
            )));
        };
        if fs::metadata(&path).is_ok_and(|m| !m.is_file())
            || ["/proc", "/sys"].iter().any(|p| path.starts_with(p))
        {
            let file = OpenOptions::new()
                .write(true)
                .open(&path)
                .map_err(|e| failed(&path, &e))?;
            return Ok(Self {
                file,
                path,
                part: None,
                mode,
            });
        }
        let part = path.with_file_name(format!(".{}.klab-part", name.to_string_lossy()));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| failed(folder, &e))?;
        }
        let file = File::create(&part).map_err(|e| failed(&path, &e))?;
        Ok(Self {
            file,
            path,
            part: Some(part),
            mode,
        })
    }

    pub(crate) fn chunk(&mut self, data: &[u8]) -> Result<()> {
        self.file
            .write_all(data)
            .map_err(|e| failed(&self.path, &e))
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        if let Some(part) = &self.part {
            self.file
                .set_permissions(fs::Permissions::from_mode(self.mode & 0o7777))
                .map_err(|e| failed(&self.path, &e))?;
            fs::rename(part, &self.path).map_err(|e| failed(&self.path, &e))?;
            self.part = None;
        }
        Ok(())
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            let _ = fs::remove_file(part);
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error(format!(
        "cannot write `{}` in the guest: {}",
        path.display(),
        reason(error)
    ))
}

/// Sends the bytes of a file; one that would block (a log, a pipe) ends where it would.
pub(crate) fn pull(path: &str, to: &Responder) -> Result<()> {
    let say = |e: &io::Error| format!("cannot read `{path}` in the guest: {}", reason(e));
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| Error(say(&e)))?;
    let mut buf = vec![0; CHUNK];
    loop {
        match file.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(n) => to
                .send(Answer::Output {
                    stream: Stream::Stdout,
                    data: buf[..n].to_vec(),
                })
                .context("the host has gone")?,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(Error(say(&e))),
        }
    }
}
