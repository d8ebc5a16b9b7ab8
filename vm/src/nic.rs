//! The far end of the guest's network card: Ethernet frames, as bytes, over a Unix datagram socket.
//!
//! QEMU's `dgram` netdev sends what the guest transmits to `net.host` and gives the guest what comes to `net`, both
//! in the guest's run folder. Nobody else can reach them, and nothing leaves the host.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{At, Error, Result};

/// Name of QEMU's socket in the run folder.
pub(crate) const GUEST_END: &str = "net";
/// Name of the socket that it sends to.
pub(crate) const HOST_END: &str = "net.host";
/// The card's address.
pub const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x6b, 0x6c, 0x02];
/// The longest frame that a card without offloads sends, with room to spare.
pub const MAX_FRAME: usize = 16 * 1024;

/// The other end of the cable of a guest's card; one at a time. What the guest sends while nobody holds this is lost,
/// as on a cable that is not plugged in.
#[derive(Debug)]
pub struct Cable {
    socket: UnixDatagram,
    here: PathBuf,
    there: PathBuf,
    /// Held for the cable's life.
    _lock: File,
}

impl Cable {
    /// Plugs in to the card of the guest in `run_dir`.
    ///
    /// # Errors
    /// [`Error::CableTaken`] when another holds this end; when the socket cannot be made.
    pub(crate) fn connect(run_dir: &Path, guest: &str) -> Result<Self> {
        let path = run_dir.join("net.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .at("open", &path)?;
        if lock.try_lock().is_err() {
            return Err(Error::CableTaken(guest.to_owned()));
        }
        let (here, there) = (run_dir.join(HOST_END), run_dir.join(GUEST_END));
        // A holder that was killed leaves its socket.
        match fs::remove_file(&here) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).at("remove", &here);
            }
            _ => {}
        }
        let socket = UnixDatagram::bind(&here).at("make", &here)?;
        Ok(Self {
            socket,
            here,
            there,
            _lock: lock,
        })
    }

    /// Gives the guest a frame: destination, source, type, payload; the check sum is not part of it.
    ///
    /// # Errors
    /// When QEMU is not there to take it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.socket
            .send_to(frame, &self.there)
            .at("send a frame to", &self.there)
            .map(drop)
    }

    /// The next frame that the guest sent; `None` when none comes within `patience`.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn receive(&self, patience: Duration) -> Result<Option<Vec<u8>>> {
        // A time of zero would mean for ever.
        let patience = patience.max(Duration::from_millis(1));
        self.socket
            .set_read_timeout(Some(patience))
            .at("wait at", &self.here)?;
        let mut frame = vec![0; MAX_FRAME];
        match self.socket.recv(&mut frame) {
            Ok(bytes) => {
                frame.truncate(bytes);
                Ok(Some(frame))
            }
            Err(error) if waited(&error) => Ok(None),
            Err(error) => Err(error).at("receive at", &self.here),
        }
    }
}

fn waited(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.here);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_go_both_ways_and_one_holds_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let guest = UnixDatagram::bind(folder.path().join(GUEST_END)).unwrap();
        let cable = Cable::connect(folder.path(), "x").unwrap();
        assert!(matches!(
            Cable::connect(folder.path(), "x"),
            Err(Error::CableTaken(_))
        ));
        cable.send(b"in").unwrap();
        let mut frame = [0; 8];
        assert_eq!(guest.recv(&mut frame).unwrap(), 2);
        assert_eq!(cable.receive(Duration::ZERO).unwrap(), None);
        guest.send_to(b"out", folder.path().join(HOST_END)).unwrap();
        assert_eq!(
            cable.receive(Duration::from_secs(1)).unwrap().unwrap(),
            b"out"
        );
        drop(cable);
        Cable::connect(folder.path(), "x").unwrap();
    }
}
