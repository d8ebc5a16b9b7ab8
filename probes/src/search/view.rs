//! Result of a search.

use crate::Missing;
use crate::search::{Hit, Hits, Space};
use crate::view::{Align, Table, View, bytes};

impl View for Hits {
    fn text(&self) -> String {
        table(self).text()
    }

    fn html(&self) -> Option<String> {
        table(self).html()
    }

    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }
}

/// The bytes as text, a point for each that is none.
fn printable(hit: &Hit) -> String {
    let letter = |byte: &u8| match byte {
        0x20..=0x7e => char::from(*byte),
        _ => '.',
    };
    let more = if hit.len > hit.bytes.len() as u64 {
        ".."
    } else {
        ""
    };
    hit.bytes.iter().map(letter).collect::<String>() + more
}

fn table(hits: &Hits) -> Table {
    use Align::Left;
    let mut table = Table::new([("ADDRESS", Left), ("BYTES", Left), ("WHAT IS THERE", Left)]);
    for hit in hits.iter() {
        let at = match hit.at {
            Some(at) => at.to_string(),
            None => format!("{:#014x}", hit.phys.0),
        };
        table.row([at, printable(hit), hit.what.clone()]);
    }
    let space = match hits.space {
        Space::Kernel => "the kernel's memory".to_owned(),
        Space::Physical => "physical memory".to_owned(),
        Space::User(pid) => format!("what process {pid} has in memory"),
    };
    let more = if hits.more {
        " so far, there may be more"
    } else {
        ""
    };
    let s = if hits.len() == 1 { "" } else { "s" };
    table.note(format!(
        "{}: {} hit{s}{more} in {} of {} of {space}",
        hits.needle,
        hits.len(),
        bytes(hits.searched),
        bytes(hits.total)
    ));
    table.lacks(&hits.missing);
    table
}

crate::displays!(Hits);
