//! Programs in memory.

use crate::process::exec::{Auxv, ElfFunction, ElfImage, ElfImages, Vdso};
use crate::view::sections::{Sections, fields, lacking};
use crate::view::{Align, Table};

/// Symbols of a library that a view lists; the rest is counted.
const SYMBOLS: usize = 40;

crate::faces! {
    Auxv => auxv,
    ElfImages => images,
    Vdso => vdso,
}

fn auxv(auxv: &Auxv) -> Table {
    let mut table = Table::new([
        ("AT_", Align::Left),
        ("VALUE", Align::Right),
        ("", Align::Right),
        ("POINTS TO", Align::Left),
    ]);
    for entry in &auxv.entries {
        table.row([
            entry.name.clone(),
            format!("{:#x}", entry.value),
            entry.value.to_string(),
            entry.points_to.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn functions(all: &[ElfFunction]) -> String {
    let one = |function: &ElfFunction| match &function.symbol {
        Some(symbol) => format!("{} {symbol}", function.at),
        None => function.at.to_string(),
    };
    all.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Describes an image, with its segments, sections and symbols.
fn image(image: &ElfImage, sections: &mut Vec<(String, Table)>, symbols: bool) {
    let mut rows = vec![
        ("header", image.base.to_string()),
        ("type", format!("{}, bias {:#x}", image.kind, image.bias)),
    ];
    if let Some(entry) = image.entry {
        rows.push(("entry", entry.to_string()));
    }
    if let Some(interpreter) = &image.interpreter {
        rows.push(("interpreter", interpreter.clone()));
    }
    if let Some(dynamic) = &image.dynamic {
        rows.extend(dynamic.soname.clone().map(|name| ("name", name)));
        rows.push(("needs", dynamic.needed.join(" ")));
        rows.push(("before main", functions(&dynamic.init)));
        rows.push(("after main", functions(&dynamic.fini)));
        rows.push(("symbols", dynamic.symbols.len().to_string()));
    }
    if !image.missing.is_empty() {
        rows.push(("not in RAM", image.missing.join(", ")));
    }
    rows.retain(|(_, text)| !text.is_empty());
    sections.push((image.path.clone(), fields(rows)));
    let mut segments = Table::new([
        ("SEGMENT", Align::Left),
        ("", Align::Left),
        ("AT", Align::Left),
        ("SIZE", Align::Right),
        ("OFFSET", Align::Right),
        ("IN FILE", Align::Right),
    ]);
    for segment in &image.segments {
        segments.row([
            segment.kind.clone(),
            segment.flags.clone(),
            segment.at.to_string(),
            format!("{:#x}", segment.mem_size),
            format!("{:#x}", segment.offset),
            format!("{:#x}", segment.file_size),
        ]);
    }
    sections.push((format!("{}: segments", image.path), segments));
    if !image.sections.is_empty() {
        let mut table = Table::new([
            ("SECTION", Align::Left),
            ("AT", Align::Left),
            ("SIZE", Align::Right),
        ]);
        for section in &image.sections {
            table.row([
                section.name.clone(),
                section.at.to_string(),
                format!("{:#x}", section.size),
            ]);
        }
        sections.push((format!("{}: sections", image.path), table));
    }
    if let (Some(dynamic), true) = (&image.dynamic, symbols) {
        let mut table = Table::new([
            ("SYMBOL", Align::Left),
            ("AT", Align::Left),
            ("SIZE", Align::Right),
        ]);
        for symbol in dynamic.symbols.iter().take(SYMBOLS) {
            table.row([
                symbol.name.clone(),
                symbol.at.to_string(),
                symbol.size.to_string(),
            ]);
        }
        table.note(format!("{} symbols", dynamic.symbols.len()));
        sections.push((format!("{}: symbols", image.path), table));
    }
}

fn images(all: &ElfImages) -> Sections {
    let mut sections = Vec::new();
    for one in &all.images {
        image(one, &mut sections, false);
    }
    let mut code = Table::new([
        ("START", Align::Left),
        ("END", Align::Left),
        ("", Align::Left),
        ("FILE", Align::Left),
    ]);
    for mapping in &all.code {
        code.row([
            mapping.start.to_string(),
            mapping.end.to_string(),
            mapping.perms.clone(),
            mapping.path.clone(),
        ]);
    }
    sections.push(("may be executed".to_owned(), code));
    lacking(&mut sections, &all.missing);
    Sections(sections)
}

fn vdso(vdso: &Vdso) -> Sections {
    let mut sections = Vec::new();
    image(&vdso.image, &mut sections, true);
    Sections(sections)
}
