//! `/dev/klab`, held open for one host: what it arms ends with it.
//!
//! With `unsafe`, for an ioctl has no safe form. It is sound because the pointer is to a buffer of the most bytes
//! that an ioctl's number can name, the module touches no more than its number names, and no ioctl of the module
//! has a pointer in it.
#![allow(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    os::fd::AsRawFd,
};

use klab_wire::MAX_IOCTL;

use crate::error::{Context as _, Error, Result, reason};

const PATH: &str = "/dev/klab";

/// The open device.
#[derive(Debug)]
pub(crate) struct Device(File);

impl Device {
    pub(crate) fn open() -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(PATH);
        Ok(Self(file.map_err(|e| reason(&e)).context(format_args!(
            "{PATH} (is klab's module loaded? `klab kmod load`)"
        ))?))
    }

    /// Issues `request` on a copy of `data`; gives the copy back, as long as the request's number says.
    pub(crate) fn ioctl(&self, request: u32, data: &[u8]) -> Result<Vec<u8>> {
        let mut buffer = vec![0_u8; MAX_IOCTL];
        let Some(part) = buffer.get_mut(..data.len()) else {
            return Err(Error(format!("an ioctl takes at most {MAX_IOCTL} bytes")));
        };
        part.copy_from_slice(data);
        // SAFETY: `buffer` is as long as the size field of any request can say.
        let done = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::c_ulong::from(request) as libc::Ioctl,
                buffer.as_mut_ptr(),
            )
        };
        if done < 0 {
            let error = std::io::Error::last_os_error();
            return Err(Error(format!("{PATH}: {}", reason(&error))));
        }
        buffer.truncate(request as usize >> 16 & (MAX_IOCTL - 1));
        Ok(buffer)
    }
}
