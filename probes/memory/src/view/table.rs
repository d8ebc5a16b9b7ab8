//! Rows and columns.

use std::fmt::Write as _;

use super::escape::markup;
use super::{View, clean, escape};
use crate::Missing;

/// Rows of a page of a longer table.
const PAGE: usize = 200;
/// Search, order and pages, in the browser.
const SCRIPT: &str = include_str!("table.js");

/// Side of its column at which a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table: aligned columns in text, a `<table>` in HTML; one of more than 200 rows has pages there, with a search.
///
/// ```
/// use klab_memory::view::{Align, Table, View};
/// let mut table = Table::new([("PID", Align::Right), ("COMM", Align::Left)]);
/// table.row(["1", "init"]);
/// table.row(["1024", "sh"]);
/// assert_eq!(table.text(), " PID COMM\n   1 init\n1024 sh\n");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
    note: Option<String>,
    missing: Vec<Missing>,
}

impl Table {
    /// A table with these columns and no rows.
    #[must_use]
    pub fn new<'a>(columns: impl IntoIterator<Item = (&'a str, Align)>) -> Self {
        let columns = columns
            .into_iter()
            .map(|(name, align)| (name.to_owned(), align))
            .collect();
        Self {
            columns,
            rows: Vec::new(),
            note: None,
            missing: Vec::new(),
        }
    }

    /// Adds a row; cells that are missing are empty, cells without a column are dropped.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let mut cells: Vec<String> = cells.into_iter().map(|cell| clean(&cell.into())).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// A line below the rows: what is left out, where it comes from.
    pub fn note(&mut self, note: impl Into<String>) {
        self.note = Some(clean(&note.into()));
    }

    /// Adds what could not be read: a line for each below the rows, up to `MISSING` of them, and the count of the rest.
    pub fn lacks(&mut self, missing: &[Missing]) {
        self.missing.extend_from_slice(missing);
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Tells whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl View for Table {
    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }

    fn text(&self) -> String {
        let width = |i: usize, name: &str| {
            let cells = self.rows.iter().map(|row| row[i].chars().count());
            cells.chain([name.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, (name, _))| width(i, name))
            .collect();
        let names: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let mut out = String::new();
        for row in std::iter::once(&names).chain(&self.rows) {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                if i > 0 {
                    line.push(' ');
                }
                let width = widths[i];
                // Writing to a String does not fail.
                let _ = match self.columns[i].1 {
                    Align::Left => write!(line, "{cell:<width$}"),
                    Align::Right => write!(line, "{cell:>width$}"),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        if let Some(note) = &self.note {
            out.push_str(note);
            out.push('\n');
        }
        out.push_str(&missing_text(&self.missing));
        out
    }

    fn html(&self) -> Option<String> {
        let side = |align| {
            if align == Align::Left {
                "left"
            } else {
                "right"
            }
        };
        let long = self.rows.len() > PAGE;
        let mut out = String::new();
        if long {
            out.push_str(&bar(self.rows.len()));
        }
        out.push_str(
            "<table style=\"border-collapse:collapse;font-family:monospace;font-size:12px;line-height:1.35\"><thead><tr>",
        );
        for (name, align) in &self.columns {
            let _ = write!(
                out,
                "<th style=\"text-align:{};padding:2px 8px;border-bottom:1px solid #888;white-space:nowrap\">{}</th>",
                side(*align),
                escape(name)
            );
        }
        out.push_str("</tr></thead><tbody>");
        for (index, row) in self.rows.iter().enumerate() {
            // The script shows the rows that are not on the first page.
            out.push_str(if index < PAGE { "<tr>" } else { "<tr hidden>" });
            for (cell, (_, align)) in row.iter().zip(&self.columns) {
                let _ = write!(
                    out,
                    "<td style=\"text-align:{};padding:1px 8px;white-space:pre\">{}</td>",
                    side(*align),
                    markup(cell)
                );
            }
            out.push_str("</tr>");
        }
        out.push_str("</tbody></table>");
        if let Some(note) = &self.note {
            let _ = write!(
                out,
                "<div style=\"font-size:12px;padding:2px 8px;opacity:.75\">{}</div>",
                markup(note)
            );
        }
        out.push_str(&missing_html(&self.missing));
        if long {
            let _ = write!(out, "<script>{SCRIPT}</script></div>");
        }
        Some(out)
    }
}

/// Bar above a long table. Without scripts, as in a notebook that was not run here, it says that there is more.
fn bar(rows: usize) -> String {
    // The attribute keeps JupyterLab from taking what is typed for its own keys.
    format!(
        "<div><div data-klab-bar=\"{PAGE}\" data-lm-suppress-shortcuts=\"true\" style=\"font-size:12px;padding:2px 8px\">\
         <input type=\"search\" placeholder=\"search\" aria-label=\"search\" hidden> \
         <button type=\"button\" aria-label=\"the page before\" hidden>&lsaquo;</button> \
         <button type=\"button\" aria-label=\"the next page\" hidden>&rsaquo;</button> \
         <span>rows 1 to {PAGE} of {rows}: run the cell for the others</span></div>"
    )
}

/// Lines that are said of what could not be read; the rest is counted.
const MISSING: usize = 50;

/// Lists the parts that could not be read, a line each.
pub fn missing_text(missing: &[Missing]) -> String {
    let mut out = String::new();
    for one in missing.iter().take(MISSING) {
        out.push_str(&clean(&one.to_string()));
        out.push('\n');
    }
    if missing.len() > MISSING {
        // Writing to a String does not fail.
        let _ = writeln!(out, "not shown: {} more", missing.len() - MISSING);
    }
    out
}

/// The same for a page.
pub fn missing_html(missing: &[Missing]) -> String {
    let lines = missing_text(missing);
    lines
        .lines()
        .map(|line| {
            format!(
                "<div style=\"font-size:12px;padding:2px 8px;color:#b3261e\">{}</div>",
                escape(line)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_wrote_cannot_leave_its_cell() {
        let mut table = Table::new([("COMM", Align::Left)]);
        table.row(["</td><script>alert(1)</script>\x1b[2J\n"]);
        table.note("<i>");
        let html = table.html().unwrap();
        assert!(
            !html.contains("<script>") && !html.contains("<i>"),
            "{html}"
        );
        assert_eq!(table.text().lines().count(), 3);
        assert!(!table.text().contains('\x1b'));
    }

    #[test]
    fn what_could_not_be_read_stands_below_the_rows() {
        let fault = crate::Error::Absent("</div>\x1b gone".to_owned());
        let mut table = Table::new([("A", Align::Left)]);
        table.row(["x"]);
        table.lacks(&vec![Missing::new("task 7", &fault); MISSING + 2]);
        let text = table.text();
        assert!(text.starts_with("A\nx\nnot shown: task 7: "), "{text}");
        assert!(text.ends_with("not shown: 2 more\n"), "{text}");
        assert!(!text.contains('\x1b'));
        assert!(!table.html().unwrap().contains("task 7: </div>"));
    }

    #[test]
    fn a_long_table_has_pages() {
        let of = |rows: usize| {
            let mut table = Table::new([("N", Align::Right)]);
            (0..rows).for_each(|row| table.row([row.to_string()]));
            table.html().unwrap()
        };
        assert!(!of(PAGE).contains("<script>"));
        let long = of(PAGE + 3);
        assert_eq!(long.matches("<tr hidden>").count(), 3);
        assert_eq!(long.matches("<script>").count(), 1);
        assert_eq!(long.matches("<div").count(), long.matches("</div>").count());
    }

    #[test]
    fn rows_are_as_wide_as_the_header() {
        let mut table = Table::new([("A", Align::Left), ("B", Align::Right)]);
        table.row(["x"]);
        table.row(["y", "10", "dropped"]);
        assert_eq!(table.text(), "A  B\nx\ny 10\n");
    }
}
