use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
    time::{Duration, Instant},
};

use klab_wire::{Answer, Ask, CHUNK};

use super::{Client, Error, Result, unexpected};

/// Time limit for an answer that has begun to come.
const MOMENT: Duration = Duration::from_millis(5);
/// The most that [`Client::read`] keeps.
const MAX_READ: usize = 64 << 20;

impl Client {
    /// Writes `data` to the guest's file `path` with permission bits `mode`; missing folders are made. The
    /// file appears under its name once it is complete.
    ///
    /// # Errors
    /// When the guest cannot write it or `data` cannot be read.
    pub fn push(&mut self, path: &str, mode: u32, mut data: impl Read) -> Result<()> {
        let id = self.link.send(
            Ask::Push {
                path: path.to_owned(),
                mode,
            },
            self.timeout,
        )?;
        let mut buf = vec![0; CHUNK];
        loop {
            let n = read_full(&mut data, &mut buf)
                .map_err(Error::io(format!("cannot read what to push to {path}")))?;
            let last = n < buf.len();
            // A guest that cannot write it says so at once; there may be no end of what is read.
            if self.link.has_news()?
                && let Some(answer) = self.link.receive(id, Instant::now() + MOMENT)?
            {
                return Err(match answer {
                    Answer::Error(text) => Error::Agent(text),
                    other => unexpected(&other),
                });
            }
            self.link.send_as(
                id,
                Ask::Chunk {
                    data: buf[..n].to_vec(),
                    last,
                },
                self.timeout,
            )?;
            if last {
                break;
            }
        }
        match self.answer(id)? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Copies a file of the host into the guest, with its permission bits.
    ///
    /// # Errors
    /// As [`Client::push`].
    pub fn push_file(&mut self, from: &Path, to: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let file = File::open(from).map_err(Error::io(from.display().to_string()))?;
        let mode = file
            .metadata()
            .map_err(Error::io(from.display().to_string()))?
            .permissions()
            .mode()
            & 0o7777;
        self.push(to, mode, file)
    }

    /// Copies the guest's file `path`, which may be one of `/proc`, to `to`; gives its length in bytes.
    ///
    /// # Errors
    /// When the guest cannot read it or `to` cannot be written.
    pub fn pull(&mut self, path: &str, mut to: impl Write) -> Result<u64> {
        let mut len = 0;
        self.stream(
            Ask::Pull {
                path: path.to_owned(),
            },
            |answer| match answer {
                Answer::Output { data, .. } => {
                    len += data.len() as u64;
                    to.write_all(&data).map_err(Error::io(format!(
                        "cannot write what is pulled from {path}"
                    )))
                }
                other => Err(unexpected(&other)),
            },
        )?;
        Ok(len)
    }

    /// The bytes of the guest's file `path`.
    ///
    /// # Errors
    /// As [`Client::pull`]; [`Error::TooMuch`] past 64 MiB.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream(
            Ask::Pull {
                path: path.to_owned(),
            },
            |answer| match answer {
                Answer::Output { data, .. } if bytes.len() + data.len() <= MAX_READ => {
                    bytes.extend_from_slice(&data);
                    Ok(())
                }
                Answer::Output { .. } => Err(Error::TooMuch(MAX_READ)),
                other => Err(unexpected(&other)),
            },
        )?;
        Ok(bytes)
    }
}

/// Reads until `buf` is full or the source ends.
fn read_full(from: &mut impl Read, buf: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match from.read(&mut buf[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}
