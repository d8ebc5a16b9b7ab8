//! Pools of huge pages.

use super::{HugePool, HugePools};
use crate::view::{Align, Table, bytes};

crate::lists! { HugePool => huge }

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
