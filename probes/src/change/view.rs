//! A write, shown.

use super::Change;
use crate::view::{View, clean};

impl View for Change {
    fn text(&self) -> String {
        let Self {
            what,
            at,
            ty,
            old,
            new,
            guest,
        } = self;
        clean(&format!(
            "{what} ({ty} at {at}): {old} -> {new}; the guest is changed by hand until `klab reset {guest}`"
        ))
    }
}

crate::displays!(Change);
