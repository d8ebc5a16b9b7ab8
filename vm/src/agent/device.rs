//! `/dev/klab` of the guest's module.

use klab_wire::{Answer, Ask, MAX_IOCTL};
use nix::errno::Errno;

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
    /// When the device is not open or the module refuses, in the kernel's words; [`Error::OldModule`] for one that does not
    /// know the request; [`Error::TooMuch`] for more than 16 KiB.
    pub fn device_ioctl(&mut self, request: u32, data: &[u8]) -> Result<Vec<u8>> {
        if data.len() > MAX_IOCTL {
            return Err(Error::TooMuch(MAX_IOCTL));
        }
        let ask = Ask::DeviceIoctl {
            request,
            data: data.to_owned(),
        };
        match self.call(ask) {
            Ok(Answer::Output { data, .. }) => Ok(data),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(of_ioctl(error)),
        }
    }
}

/// The error of an ioctl: the device's word for a command that it does not know says nothing to a user.
fn of_ioctl(error: Error) -> Error {
    match error {
        Error::Agent(text) if text.ends_with(Errno::ENOTTY.desc()) => Error::OldModule,
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_module_is_named_with_the_cure() {
        // As `vm/agent/src/device.rs` says it.
        let of = |errno: Errno| of_ioctl(Error::Agent(format!("/dev/klab: {}", errno.desc())));
        let said = of(Errno::ENOTTY).to_string();
        assert!(
            said.contains("older klab") && said.contains("klab kmod unload"),
            "{said}"
        );
        assert!(matches!(of(Errno::EBUSY), Error::Agent(_)));
    }
}
