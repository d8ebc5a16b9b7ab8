//! Slab caches and their objects.

use crate::Missing;
use crate::mm::slab::{SlabCache, SlabCaches, SlabObject, SlabObjects};
use crate::view::{Align, Table, View, bytes, or_unknown, sum_of_bytes};

/// Objects of a cache that a view shows; `--json` and the value have all.
const SHOWN: usize = 20;

crate::lists! { SlabCache => caches }

fn columns() -> Table {
    use Align::{Left, Right};
    Table::new([
        ("CACHE", Left),
        ("SIZE", Right),
        ("IN USE", Right),
        ("OBJECTS", Right),
        ("SLABS", Right),
        ("ORDER", Right),
        ("PER SLAB", Right),
        ("PARTIAL", Right),
        ("CPUS", Right),
        ("BARNS", Right),
        ("MEMORY", Right),
        ("TYPE", Left),
    ])
}

fn row(cache: &SlabCache) -> [String; 12] {
    let free = &cache.free;
    [
        cache.name.clone(),
        cache.size.to_string(),
        or_unknown(cache.in_use()),
        or_unknown(cache.objects),
        or_unknown(cache.slabs),
        cache.order.to_string(),
        cache.objects_per_slab.to_string(),
        or_unknown(free.partial),
        or_unknown(free.on_cpus()),
        or_unknown(free.barns),
        or_unknown(cache.bytes().map(bytes)),
        match (&cache.c_type, cache.refcount > 1) {
            (ty, false) => ty.clone().unwrap_or_default(),
            (Some(ty), true) => format!("{ty}, merged"),
            (None, true) => "merged".to_owned(),
        },
    ]
}

const FREE: &str =
    "free objects: on PARTIAL slabs of nodes, kept by CPUS, in full sheaves in BARNS";

fn caches(caches: &SlabCaches) -> Table {
    let mut table = columns();
    let mut order: Vec<&SlabCache> = caches.iter().collect();
    order.sort_by_key(|cache| std::cmp::Reverse(cache.bytes()));
    for cache in order {
        table.row(row(cache));
    }
    let sum = sum_of_bytes(caches.iter().map(SlabCache::bytes));
    table.note(format!("{} caches, {sum}; {FREE}", caches.len()));
    table
}

impl View for SlabObjects {
    fn text(&self) -> String {
        let parts = tables(self);
        parts.iter().map(Table::text).collect::<Vec<_>>().join("\n")
    }

    fn html(&self) -> Option<String> {
        tables(self).iter().map(Table::html).collect()
    }

    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }
}

fn tables(all: &SlabObjects) -> Vec<Table> {
    use Align::{Left, Right};
    let mut cache = columns();
    cache.row(row(&all.cache));
    cache.note(format!("kmem_cache at {}; {FREE}", all.cache.at));
    let mut cpus = Table::new([
        ("CPU", Right),
        ("SLAB", Left),
        ("FREE", Right),
        ("REMOTE", Right),
        ("PARTIAL SLABS", Right),
        ("FREE", Right),
        ("MAIN", Right),
        ("SPARE", Right),
        ("RCU", Right),
    ]);
    for cpu in &all.cpus {
        let numbers = [
            cpu.free,
            cpu.remote_free,
            cpu.partial_slabs,
            cpu.partial_free,
            cpu.main,
            cpu.spare,
            cpu.rcu,
        ];
        let slab = cpu.slab.map_or_else(String::new, |at| at.to_string());
        let mut cells = vec![cpu.cpu.to_string(), slab];
        cells.extend(numbers.map(or_unknown));
        cpus.row(cells);
    }
    let mut nodes = Table::new([
        ("NODE", Right),
        ("SLABS", Right),
        ("OBJECTS", Right),
        ("PARTIAL", Right),
        ("FREE", Right),
        ("FULL SHEAVES", Right),
        ("OBJECTS", Right),
        ("EMPTY", Right),
    ]);
    for node in &all.nodes {
        let numbers = [
            node.slabs,
            node.objects,
            node.partial_slabs,
            node.partial_free,
            node.barn_full,
            node.barn_objects,
            node.barn_empty,
        ];
        let mut cells = vec![node.node.to_string()];
        cells.extend(numbers.map(or_unknown));
        nodes.row(cells);
    }
    let mut objects = Table::new([("OBJECTS IN USE", Left)]);
    for at in all.objects.iter().take(SHOWN) {
        objects.row([at.to_string()]);
    }
    let more = all.objects.len().saturating_sub(SHOWN);
    objects.note(match more {
        0 => format!("{} objects are in use", all.objects.len()),
        more => format!("and {more} more: --json has all"),
    });
    objects.lacks(&all.missing);
    vec![cache, cpus, nodes, objects]
}

impl View for SlabObject {
    fn text(&self) -> String {
        object(self).text()
    }

    fn html(&self) -> Option<String> {
        object(self).html()
    }

    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }
}

fn object(object: &SlabObject) -> Table {
    let at = format!("{} + {:#x}", object.at, object.offset);
    let mut table = Table::new([("OBJECT", Align::Left), (&*at, Align::Left)]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("cache", format!("{} at {}", object.cache, object.cache_at));
    row("size", object.size.to_string());
    row("slab", format!("{}, object {}", object.slab, object.index));
    row(
        "state",
        match object.in_use {
            Some(true) => "in use",
            Some(false) => "free",
            None => "not known",
        }
        .to_owned(),
    );
    if let Some(ty) = &object.c_type {
        row("type", ty.clone());
    }
    table.lacks(&object.missing);
    table
}

crate::displays!(SlabObjects, SlabObject);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestVirt;
    use crate::mm::slab::FreeObjects;

    fn cache(partial: Option<u64>) -> SlabCache {
        SlabCache {
            at: GuestVirt(0xffff_8880_0000_1000),
            name: "filp".to_owned(),
            c_type: None,
            object_size: 192,
            size: 256,
            align: 64,
            objects_per_slab: 16,
            order: 0,
            refcount: 1,
            slabs: Some(4),
            objects: Some(64),
            partial_slabs: Some(2),
            free: FreeObjects {
                partial,
                cpu: Some(3),
                remote: Some(0),
                cpu_partial: Some(0),
                sheaves: Some(0),
                barns: Some(0),
            },
        }
    }

    #[test]
    fn a_count_that_could_not_be_read_is_no_number() {
        let (known, unknown) = (cache(Some(5)), cache(None));
        assert_eq!((known.in_use(), known.active()), (Some(56), Some(59)));
        assert_eq!((unknown.in_use(), unknown.active()), (None, None));
        assert_eq!(row(&known)[2..8].join(" "), "56 64 4 0 16 5");
        assert_eq!(row(&unknown)[2..8].join(" "), "? 64 4 0 16 ?");
        let json = serde_json::to_value(&unknown).unwrap();
        assert!(json["free"]["partial"].is_null());
        let unknown = SlabCache {
            slabs: None,
            ..unknown
        };
        let text = SlabCaches::from(vec![known, unknown]).text();
        assert!(text.contains("2 caches, at least 16 KiB;"), "{text}");
    }
}
