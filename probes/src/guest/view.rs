//! Snapshots of a guest.

use super::{Snapshot, Snapshots};
use crate::view::{Align, Table, View, bytes, clean};

impl View for Snapshot {
    fn text(&self) -> String {
        let Self {
            name,
            bytes: size,
            guest,
            ..
        } = self;
        clean(&format!(
            "the guest {guest} as it is now is the snapshot {name} ({})",
            bytes(*size)
        ))
    }
}

crate::displays!(Snapshot);

crate::lists! { Snapshot => table }

fn table(snapshots: &Snapshots) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("SNAPSHOT", Left),
        ("TAKEN", Right),
        ("SIZE", Right),
        ("GUEST", Left),
    ]);
    for one in snapshots {
        table.row([
            one.name.clone(),
            one.taken.to_string(),
            bytes(one.bytes),
            one.guest.clone(),
        ]);
    }
    table.note("TAKEN: seconds since 1970".to_owned());
    table
}
