//! The table of initcalls, level by level.

use crate::core::initcall::Initcalls;
use crate::view::{Align, Table, View};

impl View for Initcalls {
    fn text(&self) -> String {
        table(self).text()
    }

    fn html(&self) -> Option<String> {
        table(self).html()
    }
}

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

crate::displays!(Initcalls);
