//! Areas of the vmalloc space.

use super::{VmallocArea, VmallocAreas};
use crate::memory::PAGE_SIZE;
use crate::view::{Align, Table, bytes};

crate::lists! { VmallocArea => vmalloc }

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
    table
}
