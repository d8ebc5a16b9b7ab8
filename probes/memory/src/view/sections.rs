//! Tables under headings, and tables of names and values.

use super::{Align, Table, View, clean, escape};
use crate::Missing;

/// Parts under headings.
#[derive(Debug)]
pub struct Sections(pub Vec<(String, Table)>);

impl View for Sections {
    fn text(&self) -> String {
        let part = |(title, table): &(String, Table)| {
            let lines = table.text();
            let lines = lines.lines().map(|line| format!("  {line}\n"));
            format!("{}\n{}", clean(title), lines.collect::<String>())
        };
        self.0.iter().map(part).collect::<Vec<_>>().join("\n")
    }

    fn html(&self) -> Option<String> {
        let part = |(title, table): &(String, Table)| {
            let html = table.html().unwrap_or_default();
            format!("<b style=\"font-size:13px\">{}</b>{html}", escape(title))
        };
        Some(self.0.iter().map(part).collect())
    }

    fn missing(&self) -> Vec<Missing> {
        self.0
            .iter()
            .flat_map(|(_, table)| table.missing())
            .collect()
    }
}

/// A last part for what could not be read, where there is something.
pub fn lacking(parts: &mut Vec<(String, Table)>, missing: &[Missing]) {
    if missing.is_empty() {
        return;
    }
    let mut table = Table::new([("", Align::Left)]);
    table.lacks(missing);
    parts.push(("what could not be read".to_owned(), table));
}

/// A table of names and values.
pub fn fields<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> Table {
    let mut table = Table::new([("FIELD", Align::Left), ("VALUE", Align::Left)]);
    for (name, value) in rows {
        table.row([name.to_owned(), value]);
    }
    table
}
