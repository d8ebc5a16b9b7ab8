//! The table of initcalls, level by level.

use crate::core::initcall::{Initcall, Initcalls};
use crate::view::{Align, Table};

crate::lists! { Initcall => table }

fn table(calls: &Initcalls) -> Table {
    let mut table = Table::new([
        ("LEVEL", Align::Left),
        ("ENTRY", Align::Left),
        ("FUNCTION", Align::Left),
    ]);
    for call in calls.iter() {
        table.row([
            call.level.to_owned(),
            call.entry.to_string(),
            call.name.clone(),
        ]);
    }
    table.note(format!("{} initcalls", calls.len()));
    table
}
