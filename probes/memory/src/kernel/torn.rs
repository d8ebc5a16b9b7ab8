//! Readings of a kernel that runs while it is read.

use super::Kernel;
use crate::{Error, Result};

/// Number of tries before the kernel is said to change too fast.
const TRIES: u32 = 8;

impl Kernel {
    /// Reads until two readings in a row are the same, errors included, and gives that; a reading of a structure that
    /// the guest changed in the middle is thus never shown. `what` names it in the error.
    ///
    /// It costs two readings at least. What is equal may still have changed and changed back in between; only
    /// `Guest::paused` excludes that.
    ///
    /// # Errors
    /// [`Error::Torn`] when no two readings in a row were the same.
    pub fn consistent<T: PartialEq>(
        &self,
        what: &str,
        mut read: impl FnMut(&Self) -> Result<T>,
    ) -> Result<T> {
        let mut last = read(self);
        for _ in 1..TRIES {
            let next = read(self);
            if next == last {
                return next;
            }
            last = next;
        }
        Err(Error::Torn {
            what: what.to_owned(),
            tries: TRIES,
        })
    }
}
