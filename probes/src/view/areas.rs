//! Areas of the vmalloc space, swap areas, pools of huge pages.

use super::{Align, Table, View, bytes};
use crate::hugetlb::HugePools;
use crate::memory::PAGE_SIZE;
use crate::swap::SwapAreas;
use crate::vmalloc::VmallocAreas;

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

impl View for SwapAreas {
    fn text(&self) -> String {
        swap(self).text()
    }

    fn html(&self) -> Option<String> {
        swap(self).html()
    }

    fn missing(&self) -> Vec<crate::Missing> {
        swap(self).missing()
    }
}

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
    table.lacks(&areas.missing);
    table
}

impl View for HugePools {
    fn text(&self) -> String {
        huge(self).text()
    }

    fn html(&self) -> Option<String> {
        huge(self).html()
    }

    fn missing(&self) -> Vec<crate::Missing> {
        huge(self).missing()
    }
}

fn huge(pools: &HugePools) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("SIZE", Right),
        ("TOTAL", Right),
        ("FREE", Right),
        ("RESERVED", Right),
        ("SURPLUS", Right),
        ("OVERCOMMIT", Right),
        ("HSTATE", Left),
        ("", Left),
    ];
    let mut table = Table::new(columns);
    for pool in pools.iter() {
        table.row([
            bytes(pool.size),
            pool.total.to_string(),
            pool.free.to_string(),
            pool.reserved.to_string(),
            pool.surplus.to_string(),
            pool.overcommit.to_string(),
            pool.at.to_string(),
            if pool.default { "the default size" } else { "" }.to_owned(),
        ]);
    }
    table
}

crate::displays!(VmallocAreas, SwapAreas, HugePools);
