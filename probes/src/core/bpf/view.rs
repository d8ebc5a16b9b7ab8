//! Programs, maps and links in tables.

use super::Bpf;
use crate::Missing;
use crate::view::{Align, Table, View};

impl View for Bpf {
    fn text(&self) -> String {
        let tables = tables(self).into_iter().map(|table| table.text());
        tables.collect::<Vec<_>>().join("\n")
    }

    fn html(&self) -> Option<String> {
        tables(self).iter().map(View::html).collect()
    }

    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }
}

/// Programs; maps and links where there are some.
fn tables(all: &Bpf) -> Vec<Table> {
    use Align::{Left, Right};
    let mut programs = Table::new([
        ("PROGRAM", Right),
        ("TYPE", Left),
        ("NAME", Left),
        ("TAG", Left),
        ("INSNS", Right),
        ("CODE", Left),
        ("BYTES", Right),
        ("UID", Right),
        ("MAPS", Left),
    ]);
    for program in &all.programs {
        let maps: Vec<String> = program.maps.iter().map(u32::to_string).collect();
        programs.row([
            program.id.to_string(),
            program.kind.clone(),
            program.name.clone(),
            program.tag.clone(),
            program.len.to_string(),
            format!("{:#x}", program.bpf_func.0),
            program.jited_len.to_string(),
            program.uid.to_string(),
            maps.join(" "),
        ]);
    }
    programs.note(format!("{} programs", all.programs.len()));
    let mut maps = Table::new([
        ("MAP", Right),
        ("TYPE", Left),
        ("NAME", Left),
        ("KEY", Right),
        ("VALUE", Right),
        ("ENTRIES", Right),
        ("FLAGS", Left),
        ("HELD BY", Right),
    ]);
    for map in &all.maps {
        maps.row([
            map.id.to_string(),
            map.kind.clone(),
            map.name.clone(),
            map.key_size.to_string(),
            map.value_size.to_string(),
            map.max_entries.to_string(),
            format!("{:#x}", map.flags),
            map.refcnt.to_string(),
        ]);
    }
    let mut links = Table::new([("LINK", Right), ("TYPE", Left), ("PROGRAM", Right)]);
    for link in &all.links {
        links.row([
            link.id.to_string(),
            link.kind.clone(),
            link.program.map_or_else(String::new, |id| id.to_string()),
        ]);
    }
    programs.lacks(&all.missing);
    let mut tables = vec![programs];
    tables.extend([maps, links].into_iter().filter(|table| !table.is_empty()));
    tables
}

crate::displays!(Bpf);
