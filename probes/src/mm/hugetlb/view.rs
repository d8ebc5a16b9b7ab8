//! Pools of huge pages.

use super::HugePools;
use crate::view::{Align, Table, View, bytes};

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

crate::displays!(HugePools);
