//! The error of a request: one sentence, sent to the host as it is.

use std::{fmt::Display, io};

/// A sentence for the host.
#[derive(Debug)]
pub(crate) struct Error(pub(crate) String);

/// A result with a sentence for the host.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Says what was done when something failed.
pub(crate) trait Context<T> {
    /// `what: the error`.
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|e| Error(format!("{what}: {e}")))
    }
}

/// An errno as a sentence without its number.
pub(crate) fn reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.to_string(),
        |n| nix::errno::Errno::from_raw(n).desc().to_owned(),
    )
}
