//! `/dev/klab` of the guest's module.

use klab_wire::{Answer, Ask, MAX_IOCTL};

use super::{Client, Error, Result, unexpected};

impl Client {
    /// Opens `/dev/klab`, which the agent holds for this client until [`Client::device_close`] or until the client
    /// is dropped; what was armed by it ends then. Opened once more, the first is closed.
    ///
    /// # Errors
    /// When the module is not loaded in the guest.
    pub fn device_open(&mut self) -> Result<()> {
        self.done(Ask::DeviceOpen)
    }

    /// Closes the device; nothing if it is not open.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn device_close(&mut self) -> Result<()> {
        self.done(Ask::DeviceClose)
    }

    /// Issues an ioctl on the open device. `data` is what it takes; what it gives is as long as the size in
    /// `request` says.
    ///
    /// # Errors
    /// When the device is not open or the module refuses, in the kernel's words; [`Error::TooMuch`] for more than
    /// 16 KiB.
    pub fn device_ioctl(&mut self, request: u32, data: &[u8]) -> Result<Vec<u8>> {
        if data.len() > MAX_IOCTL {
            return Err(Error::TooMuch(MAX_IOCTL));
        }
        let ask = Ask::DeviceIoctl {
            request,
            data: data.to_owned(),
        };
        match self.call(ask)? {
            Answer::Output { data, .. } => Ok(data),
            other => Err(unexpected(&other)),
        }
    }
}
