//! A write, shown.

use super::{Change, Returned};
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

impl View for Returned {
    fn text(&self) -> String {
        let arguments: Vec<String> = self
            .arguments
            .iter()
            .map(|one| format!("{} = {}", one.name, one.value))
            .collect();
        let value = match &self.value {
            Some(value) => format!("{value} ({})", self.ty),
            None => "nothing".to_owned(),
        };
        clean(&format!(
            "{}({}) returned {value}; the guest is changed by hand until `klab reset {}`",
            self.function,
            arguments.join(", "),
            self.guest
        ))
    }
}

crate::displays!(Change, Returned);
