//! Counters of memory.

use super::{Counter, CounterKind, VmStat};
use crate::view::{Align, Table};

crate::lists! { Counter => counters }

fn counters(stat: &VmStat) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("COUNTER", Left),
        ("VALUE", Right),
        ("HELD", Right),
        ("OF", Left),
    ]);
    for counter in stat.iter() {
        let of = match counter.kind {
            CounterKind::Zone => "zones",
            CounterKind::Numa => "NUMA events",
            CounterKind::Node => "nodes",
            CounterKind::Limit => "limits",
            CounterKind::Event => "events",
        };
        let held = match counter.held {
            Some(0) => String::new(),
            Some(held) => format!("{held:+}"),
            None => "?".to_owned(),
        };
        table.row([
            counter.name.clone(),
            counter.value.to_string(),
            held,
            of.to_owned(),
        ]);
    }
    table.note("HELD is what the CPUs have counted and not yet added to it");
    table
}
