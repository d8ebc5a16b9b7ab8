//! The part of TCP that a lesson needs: SYN, data, FIN, one segment at a time.

use std::time::Duration;

use super::{Frame, Net, Tcp};
use crate::{Error, Result};

/// Time limit for the guest's answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first sequence number: any will do.
const ISS: u32 = 1000;

/// A TCP connection to the guest, from this end of the cable.
#[derive(Debug, Clone)]
pub struct Connection {
    net: Net,
    source: u16,
    port: u16,
    seq: u32,
    ack: u32,
}

impl Connection {
    pub(super) fn open(net: &Net, source: u16, port: u16) -> Result<Self> {
        let mut connection = Self {
            net: net.clone(),
            source,
            port,
            seq: ISS,
            ack: 0,
        };
        net.clear();
        connection.segment(Tcp::SYN, b"")?;
        connection.seq = connection.seq.wrapping_add(1);
        let answer = connection.answer()?;
        if answer.flags & Tcp::RST != 0 {
            return Err(Error::machine(format!(
                "the guest refuses port {port}: nobody listens there"
            )));
        }
        connection.ack = answer.seq.wrapping_add(1);
        connection.segment(Tcp::ACK, b"")?;
        Ok(connection)
    }

    /// Sends data as one segment; gives it.
    ///
    /// # Errors
    /// As [`Net::send`].
    pub fn send(&mut self, data: &[u8]) -> Result<Frame> {
        let frame = self.segment(Tcp::PSH | Tcp::ACK, data)?;
        self.seq = self.seq.wrapping_add(data.len() as u32);
        Ok(frame)
    }

    /// Waits until the guest says that it has all that was sent.
    ///
    /// # Errors
    /// When it does not in five seconds.
    pub fn acknowledged(&self) -> Result<()> {
        loop {
            let answer = self.answer()?;
            if answer.flags & Tcp::ACK != 0 && answer.ack == self.seq {
                return Ok(());
            }
        }
    }

    /// Sends FIN: no more data will come.
    ///
    /// # Errors
    /// As [`Net::send`].
    pub fn finish(&mut self) -> Result<Frame> {
        let frame = self.segment(Tcp::FIN | Tcp::ACK, b"")?;
        self.seq = self.seq.wrapping_add(1);
        Ok(frame)
    }

    fn segment(&self, flags: u8, data: &[u8]) -> Result<Frame> {
        let header = Tcp {
            source: self.source,
            destination: self.port,
            seq: self.seq,
            ack: self.ack,
            flags,
        };
        self.net.segment(header, data)
    }

    /// The next segment of the guest for this connection.
    fn answer(&self) -> Result<Tcp> {
        let ours = |frame: &Frame| {
            let header = frame.tcp_header();
            header.is_some_and(|tcp| (tcp.source, tcp.destination) == (self.port, self.source))
        };
        let frame = self.net.wait(PATIENCE, ours);
        frame.and_then(|frame| frame.tcp_header()).ok_or_else(|| {
            Error::machine(format!(
                "the guest does not answer on port {} within {} s",
                self.port,
                PATIENCE.as_secs()
            ))
        })
    }
}
