//! The `guest` that every cell finds in scope.

use std::ops::Deref;
use std::sync::OnceLock;

use super::Guest;

/// A guest that is attached to when a cell first uses it: a notebook may be opened before its guest is up.
///
/// It is used as a [`Guest`]. It is not `Clone`, so that `guest.clone()` is a [`Guest`].
#[derive(Debug)]
pub struct LazyGuest {
    name: String,
    guest: OnceLock<Guest>,
}

impl LazyGuest {
    /// The guest that `$KLAB_GUEST` names, else `default`.
    #[must_use]
    pub fn from_env() -> Self {
        let name = std::env::var("KLAB_GUEST")
            .ok()
            .filter(|name| !name.is_empty());
        Self {
            name: name.unwrap_or_else(|| "default".to_owned()),
            guest: OnceLock::new(),
        }
    }
}

impl Deref for LazyGuest {
    type Target = Guest;

    /// # Panics
    ///
    /// If the guest is not up, with the sentence that says how to get one: the cell fails with it. The
    /// next use tries again.
    #[track_caller]
    fn deref(&self) -> &Guest {
        if let Some(guest) = self.guest.get() {
            return guest;
        }
        match Guest::attach(&self.name) {
            Ok(guest) => self.guest.get_or_init(|| guest),
            Err(error) => std::panic::panic_any(error.to_string()),
        }
    }
}
