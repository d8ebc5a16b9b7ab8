//! Slab caches and their objects.

use crate::Missing;
use crate::mm::slab::{SlabCache, SlabCaches, SlabObject, SlabObjects};
use crate::view::{Align, Table, View, bytes};

/// Objects of a cache that a view shows; `--json` and the value have all.
const SHOWN: usize = 20;

impl View for SlabCaches {
    fn text(&self) -> String {
        caches(self).text()
    }

    fn html(&self) -> Option<String> {
        caches(self).html()
    }

    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }
}

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
        cache.in_use().to_string(),
        cache.objects.to_string(),
        cache.slabs.to_string(),
        cache.order.to_string(),
        cache.objects_per_slab.to_string(),
        free.partial.to_string(),
        (free.cpu + free.remote + free.cpu_partial + free.sheaves).to_string(),
        free.barns.to_string(),
        bytes(cache.bytes()),
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
    let sum = caches
        .iter()
        .map(SlabCache::bytes)
        .fold(0, u64::saturating_add);
    table.note(format!("{} caches, {}; {FREE}", caches.len(), bytes(sum)));
    table.lacks(&caches.missing);
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
        cells.extend(numbers.map(|number| number.to_string()));
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
        cells.extend(numbers.map(|number| number.to_string()));
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

crate::displays!(SlabCaches, SlabObjects, SlabObject);
