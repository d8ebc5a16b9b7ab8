//! Packets to and from the guest: the far end of its virtio-net card's cable.
//!
//! There is no network: the cable ends in this process. Frames are built and parsed with `pnet_packet`, and the
//! addresses are of TEST-NET-1 (RFC 5737), which no network has.

mod connection;
mod describe;
mod frame;
mod topology;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use vm::{Cable, Machine};

pub use connection::Connection;
pub use describe::describe;
pub(crate) use describe::{addresses, fragment};
pub use frame::{End, Frame, Tcp};
pub use topology::Rule;

use crate::guest::Guest;
use crate::{Error, Result};

/// This end of the cable.
pub const HOST: End = End {
    mac: [0x52, 0x54, 0x00, 0x6b, 0x6c, 0x01],
    ip: Ipv4Addr::new(192, 0, 2, 1),
};
/// The guest's end.
pub const GUEST: End = End {
    mac: vm::GUEST_MAC,
    ip: Ipv4Addr::new(192, 0, 2, 2),
};
/// Frames kept for [`Net::receive`]; older ones are dropped for newer ones.
const KEPT: usize = 1024;
/// Interval at which the reader checks that anyone still holds the cable.
const SLICE: Duration = Duration::from_millis(100);

/// The cable of the guest's network card, held by this process; clones are the same cable. The guest's questions for
/// this end's address (ARP) are answered for as long as it is held.
#[derive(Debug, Clone)]
pub struct Net {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    machine: Machine,
    end: Arc<HostEnd>,
}

/// State that the reader's thread shares.
#[derive(Debug)]
struct HostEnd {
    cable: Cable,
    came: Mutex<VecDeque<Frame>>,
    news: Condvar,
    unplugged: AtomicBool,
}

/// The cables that this process holds.
static HELD: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

impl Guest {
    /// Takes the cable of the guest's network card: loads its driver, gives `eth0` the address [`GUEST`], and takes it
    /// up. Called again, it gives the same cable, and sets the card up anew after a reset.
    ///
    /// # Errors
    /// When another process holds the cable, or the guest's kernel has no driver for the card.
    pub fn net(&self) -> Result<Net> {
        let machine = self.machine()?;
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|one| one.strong_count() > 0);
        let same = |inner: &Arc<Inner>| inner.machine.run_dir() == machine.run_dir();
        let inner = match held.iter().filter_map(Weak::upgrade).find(same) {
            Some(inner) => inner,
            None => {
                let inner = Arc::new(Inner::plug_in(machine)?);
                held.push(Arc::downgrade(&inner));
                inner
            }
        };
        drop(held);
        topology::card(self)?;
        Ok(Net { inner })
    }
}

impl Inner {
    fn plug_in(machine: Machine) -> Result<Self> {
        let end = Arc::new(HostEnd {
            cable: machine.cable()?,
            came: Mutex::default(),
            news: Condvar::new(),
            unplugged: AtomicBool::new(false),
        });
        let reader = Arc::clone(&end);
        std::thread::Builder::new()
            .name("klab-net".to_owned())
            .spawn(move || reader.read())
            .map_err(|error| Error::machine(format!("no thread for the network cable: {error}")))?;
        Ok(Self { machine, end })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end.unplugged.store(true, Ordering::Release);
    }
}

impl HostEnd {
    /// Takes what comes and answers ARP, until nobody holds the cable.
    fn read(&self) {
        while !self.unplugged.load(Ordering::Acquire) {
            let Ok(frame) = self.cable.receive(SLICE) else {
                std::thread::sleep(SLICE);
                continue;
            };
            let Some(frame) = frame.map(Frame) else {
                continue;
            };
            if let Some(answer) = frame.arp_answer(HOST) {
                // A guest that is gone asks no more.
                let _ = self.cable.send(&answer.0);
            }
            let mut came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
            if came.len() == KEPT {
                came.pop_front();
            }
            came.push_back(frame);
            self.news.notify_all();
        }
    }
}

impl Net {
    /// Gives the guest a frame.
    ///
    /// # Errors
    /// When QEMU is not there to take it.
    pub fn send(&self, frame: &Frame) -> Result<()> {
        Ok(self.inner.end.cable.send(&frame.0)?)
    }

    /// The next frame from the guest; `None` when none comes within `patience`.
    #[must_use]
    pub fn receive(&self, patience: Duration) -> Option<Frame> {
        self.wait(patience, |_| true)
    }

    /// The next frame from the guest that `wanted` takes; those before it are dropped.
    #[must_use]
    pub fn wait(&self, patience: Duration, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let until = Instant::now() + patience;
        let mut came = self
            .inner
            .end
            .came
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            while let Some(frame) = came.pop_front() {
                if wanted(&frame) {
                    return Some(frame);
                }
            }
            let left = until.checked_duration_since(Instant::now())?;
            came = self
                .inner
                .end
                .news
                .wait_timeout(came, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Drops the frames that came so far.
    pub fn clear(&self) {
        let mut came = self
            .inner
            .end
            .came
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        came.clear();
    }

    /// Begins a TCP connection to a port of the guest, from `source`: sends SYN and waits for SYN ACK.
    ///
    /// # Errors
    /// When the guest refuses it or does not answer.
    pub fn connect(&self, source: u16, port: u16) -> Result<Connection> {
        Connection::open(self, source, port)
    }

    /// Sends one TCP segment that belongs to no connection.
    ///
    /// # Errors
    /// As [`Net::send`].
    pub fn segment(&self, header: Tcp, payload: &[u8]) -> Result<Frame> {
        let frame = Frame::tcp(HOST, GUEST, header, payload)?;
        self.send(&frame)?;
        Ok(frame)
    }

    /// Sends a UDP datagram.
    ///
    /// # Errors
    /// As [`Net::send`].
    pub fn datagram(&self, source: u16, port: u16, payload: &[u8]) -> Result<Frame> {
        let frame = Frame::udp((HOST, source), (GUEST, port), payload)?;
        self.send(&frame)?;
        Ok(frame)
    }

    /// Sends an ICMP echo request.
    ///
    /// # Errors
    /// As [`Net::send`].
    pub fn ping(&self, id: u16, seq: u16) -> Result<Frame> {
        let frame = Frame::echo(HOST, GUEST, id, seq, b"klab")?;
        self.send(&frame)?;
        Ok(frame)
    }
}
