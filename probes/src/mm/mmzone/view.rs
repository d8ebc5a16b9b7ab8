//! Zones, and free blocks.

use super::{Buddy, Node, Zones};
use crate::Missing;
use crate::memory::PAGE_SIZE;
use crate::view::{Align, ListView, Table, View, bytes};

impl ListView for Node {
    fn text(nodes: &Zones) -> String {
        zones(nodes).text() + "\n" + &per_cpu(nodes).text()
    }

    fn html(nodes: &Zones) -> Option<String> {
        Some(zones(nodes).html()? + &per_cpu(nodes).html()?)
    }
}

fn zones(nodes: &Zones) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("NODE", Right),
        ("ZONE", Left),
        ("START_PFN", Right),
        ("SPANNED", Right),
        ("PRESENT", Right),
        ("MANAGED", Right),
        ("FREE", Right),
        ("MIN", Right),
        ("LOW", Right),
        ("HIGH", Right),
        ("BOOST", Right),
        ("PROTECTION", Left),
    ];
    let mut table = Table::new(columns);
    let mut managed = 0u64;
    for node in nodes.iter() {
        for zone in &node.zones {
            managed = managed.saturating_add(zone.managed);
            let marks = &zone.watermarks;
            let reserve: Vec<String> = zone.lowmem_reserve.iter().map(i64::to_string).collect();
            let numbers = [
                zone.start_pfn,
                zone.spanned,
                zone.present,
                zone.managed,
                zone.free,
                marks.min,
                marks.low,
                marks.high,
                marks.boost,
            ];
            let mut cells = vec![node.id.to_string(), zone.name.clone()];
            cells.extend(numbers.map(|number| number.to_string()));
            cells.push(reserve.join(" "));
            table.row(cells);
        }
    }
    let managed = bytes(managed.saturating_mul(PAGE_SIZE));
    table.note(format!("in pages of 4 KiB; {managed} are managed"));
    table
}

fn per_cpu(nodes: &Zones) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("NODE", Right),
        ("ZONE", Left),
        ("CPU", Right),
        ("COUNT", Right),
        ("HIGH", Right),
        ("BATCH", Right),
        ("THRESHOLD", Right),
    ];
    let mut table = Table::new(columns);
    for node in nodes.iter() {
        for zone in &node.zones {
            for cpu in &zone.per_cpu {
                table.row([
                    node.id.to_string(),
                    zone.name.clone(),
                    cpu.cpu.to_string(),
                    cpu.count.to_string(),
                    cpu.high.to_string(),
                    cpu.batch.to_string(),
                    cpu.stat_threshold
                        .map_or_else(String::new, |t| t.to_string()),
                ]);
            }
        }
    }
    table.note("free pages that each CPU keeps, and how much it counts before it adds to the zone's counters");
    table
}

impl View for Buddy {
    fn text(&self) -> String {
        free(self).text() + "\n" + &blocks(self).text()
    }

    fn html(&self) -> Option<String> {
        Some(free(self).html()? + &blocks(self).html()?)
    }

    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }
}

fn free(buddy: &Buddy) -> Table {
    let orders = buddy.iter().map(|zone| zone.areas.len()).max().unwrap_or(0);
    let orders: Vec<String> = (0..orders).map(|order| order.to_string()).collect();
    let mut columns = vec![
        ("NODE", Align::Right),
        ("ZONE", Align::Left),
        ("TYPE", Align::Left),
    ];
    columns.extend(orders.iter().map(|order| (&**order, Align::Right)));
    let mut table = Table::new(columns);
    let mut pages = 0u64;
    for zone in buddy.iter() {
        pages = pages.saturating_add(zone.free());
        let head = [zone.node.to_string(), zone.zone.clone()];
        let mut row = |name: &str, counts: Vec<Option<u64>>| {
            let mut cells = head.to_vec();
            cells.push(name.to_owned());
            cells.extend(counts.into_iter().map(count));
            table.row(cells);
        };
        let all = zone.areas.iter().map(|area| Some(area.nr_free));
        row("all", all.collect());
        for (i, ty) in buddy.types.iter().enumerate() {
            let of = zone.areas.iter();
            let of = of.map(|area| area.by_type.get(i).copied().flatten());
            let of: Vec<Option<u64>> = of.collect();
            if of.iter().any(|count| *count != Some(0)) {
                row(ty, of);
            }
        }
    }
    table.note(format!(
        "free blocks by order: a block of order n has 2^n pages; {} are free",
        bytes(pages.saturating_mul(PAGE_SIZE))
    ));
    table
}

fn blocks(buddy: &Buddy) -> Table {
    let mut columns = vec![("NODE", Align::Right), ("ZONE", Align::Left)];
    columns.extend(buddy.types.iter().map(|ty| (&**ty, Align::Right)));
    let mut table = Table::new(columns);
    for zone in buddy.iter() {
        let mut cells = vec![zone.node.to_string(), zone.zone.clone()];
        let of = |i| {
            zone.blocks
                .as_ref()
                .and_then(|blocks| blocks.get(i).copied())
        };
        cells.extend((0..buddy.types.len()).map(|i| count(of(i))));
        table.row(cells);
    }
    table.note("pageblocks of 512 pages by what is to be allocated from them");
    table.lacks(&buddy.missing);
    table
}

/// A count; `?` for one that is not known.
fn count(count: Option<u64>) -> String {
    count.map_or_else(|| "?".to_owned(), |count| count.to_string())
}

crate::displays!(Buddy);
