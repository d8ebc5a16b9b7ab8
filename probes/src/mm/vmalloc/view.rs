//! Areas of the vmalloc space.

use super::VmallocAreas;
use crate::memory::PAGE_SIZE;
use crate::view::{Align, Table, View, bytes};

impl View for VmallocAreas {
    fn text(&self) -> String {
        vmalloc(self).text()
    }

    fn html(&self) -> Option<String> {
        vmalloc(self).html()
    }

    fn missing(&self) -> Vec<crate::Missing> {
        vmalloc(self).missing()
    }
}

fn vmalloc(areas: &VmallocAreas) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("START", Left),
        ("SIZE", Right),
        ("PAGES", Right),
        ("WHAT", Left),
    ]);
    for area in areas.iter() {
        table.row([
            area.start.to_string(),
            bytes(area.size),
            area.pages.to_string(),
            area.purpose(),
        ]);
    }
    let pages = areas
        .iter()
        .map(|area| area.pages)
        .fold(0, u64::saturating_add);
    let pages = bytes(pages.saturating_mul(PAGE_SIZE));
    table.note(format!("{} areas, {pages} of memory", areas.len()));
    table.lacks(&areas.missing);
    table
}

crate::displays!(VmallocAreas);
