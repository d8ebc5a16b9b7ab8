//! Swap areas.

use super::{SwapArea, SwapAreas};
use crate::memory::PAGE_SIZE;
use crate::view::{Align, Table, bytes};

crate::lists! { SwapArea => swap }

fn swap(areas: &SwapAreas) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("AREA", Right),
        ("SWAP_INFO_STRUCT", Left),
        ("PATH", Left),
        ("KIND", Left),
        ("SIZE", Right),
        ("USED", Right),
        ("PRIORITY", Right),
        ("", Left),
    ];
    let mut table = Table::new(columns);
    for area in areas.iter() {
        table.row([
            area.number.to_string(),
            area.at.to_string(),
            area.path.clone(),
            if area.device { "device" } else { "file" }.to_owned(),
            bytes(area.pages.saturating_mul(PAGE_SIZE)),
            bytes(area.used.saturating_mul(PAGE_SIZE)),
            area.priority.to_string(),
            if area.writable { "" } else { "being emptied" }.to_owned(),
        ]);
    }
    let s = if areas.len() == 1 { "" } else { "s" };
    table.note(format!("{} swap area{s}", areas.len()));
    table
}
