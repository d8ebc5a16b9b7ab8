//! View of what is at an address: the whole chain, or its last link.

use crate::search::what::{Thing, What};
use crate::view::{Align, Table, View};

impl What {
    /// Describes it in one line, by its most exact known meaning.
    #[must_use]
    pub fn brief(&self) -> String {
        let told = self
            .things
            .iter()
            .map(words)
            .filter(|(weight, ..)| *weight > 0);
        match told.max_by_key(|(weight, ..)| *weight) {
            Some((_, name, text)) => format!("{name} {text}"),
            None if self.phys.is_none() => format!("{}: {}", self.region.name, self.mapped),
            None => self.region.name.to_owned(),
        }
    }
}

/// Its name, what it is, and how much that says of the address.
fn words(thing: &Thing) -> (u8, &'static str, String) {
    let inside = |member: &Option<String>| {
        member
            .as_ref()
            .map_or_else(String::new, |m| format!(".{m}"))
    };
    match thing {
        Thing::Symbol { symbol, member } => {
            let member = member
                .as_ref()
                .map_or_else(String::new, |m| format!(" = {}.{m}", symbol.name));
            (9, "symbol", symbol.text() + &member)
        }
        Thing::Number(text) => (9, "no address", text.clone()),
        Thing::Module(name) => (5, "module", name.clone()),
        Thing::Alias(at) => (0, "also at", at.to_string()),
        Thing::PerCpu {
            cpu,
            symbol,
            member,
            offset,
        } => {
            let name = symbol
                .as_ref()
                .map_or_else(|| format!("allocated, offset {offset:#x}"), View::text);
            let of = symbol.as_ref().zip(member.as_ref());
            let member =
                of.map_or_else(String::new, |(symbol, m)| format!(" = {}.{m}", symbol.name));
            (8, "per-CPU", format!("of CPU {cpu}: {name}{member}"))
        }
        Thing::Stack { pid, comm, end, .. } => (
            7,
            "stack",
            format!("of {pid} ({comm}), which begins at {end}"),
        ),
        Thing::Vmalloc(area) => (
            4,
            "vmalloc",
            format!("{}, {:#x} bytes: {}", area.start, area.size, area.purpose()),
        ),
        Thing::StructPage { pfn, member } => (
            6,
            "struct page",
            format!("of pfn {pfn:#x}{}", inside(member)),
        ),
        Thing::Page(of) => {
            let mapping = of.mapping.as_ref().map(ToString::to_string);
            let mapping = mapping.map_or_else(String::new, |text| {
                format!(", page {:#x} of {text}", of.index.unwrap_or(0))
            });
            let flags = if of.flags.is_empty() {
                String::new()
            } else {
                format!("; {}", of.flags.join(" "))
            };
            (
                1,
                "page",
                format!("pfn {:#x}: {}{mapping}{flags}", of.pfn, of.describe()),
            )
        }
        Thing::Slab {
            object,
            member,
            about,
        } => {
            let state = match object.in_use {
                Some(true) => "",
                Some(false) => "free ",
                None => "(in use or free: a list is broken) ",
            };
            let ty = object.c_type.as_deref().unwrap_or("object");
            let merged = if object.merged { ", merged" } else { "" };
            let about = about
                .as_ref()
                .map_or_else(String::new, |about| format!(", {about}"));
            let into = match member {
                Some(member) => format!(": {member}"),
                None => format!(" + {:#x}", object.offset),
            };
            let text = format!(
                "{state}{ty} at {}{about}{into} (cache {}{merged}, {} bytes)",
                object.at, object.cache, object.size
            );
            (3, "slab", text)
        }
        Thing::Vma {
            pid,
            comm,
            start,
            end,
            perms,
            name,
            offset,
        } => {
            let offset = offset.map_or_else(String::new, |offset| format!(" + {offset:#x}"));
            (
                2,
                "mapping",
                format!(
                    "of {pid} ({comm}) {:#x}-{:#x} {perms} {name}{offset}",
                    start.0, end.0
                ),
            )
        }
        Thing::Swapped { path, slot } => (3, "swapped out", format!("to page {slot:#x} of {path}")),
    }
}

impl View for What {
    fn text(&self) -> String {
        table(self).text()
    }

    fn html(&self) -> Option<String> {
        table(self).html()
    }

    fn missing(&self) -> Vec<crate::Missing> {
        table(self).missing()
    }
}

fn table(what: &What) -> Table {
    let at = what.at.to_string();
    let mut table = Table::new([("ADDRESS", Align::Left), (&*at, Align::Left)]);
    let region = &what.region;
    table.row([
        "region".to_owned(),
        format!("{}: {} to {}", region.name, region.start, region.last),
    ]);
    table.row(["mapped".to_owned(), what.mapped.clone()]);
    for thing in &what.things {
        let (_, name, text) = words(thing);
        table.row([name.to_owned(), text]);
    }
    table.lacks(&what.missing);
    table
}

crate::displays!(What);
