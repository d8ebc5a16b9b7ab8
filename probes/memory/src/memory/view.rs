//! A walk of the page tables, level by level.

use crate::memory::{EntryKind, Level, PageWalk, Step};
use crate::view::svg::{ACCENT, FAINT, INK};
use crate::view::{Align, Anchor, Svg, Table, Text, View, bytes};
use crate::{ErrorKind, Missing};

/// The lowest bit of the index into a table of this level, where the walk shows it: the root's depends on whether
/// there are four levels or five, which a walk that ends there does not tell.
fn shift(walk: &PageWalk, level: Level) -> Option<u32> {
    Some(match level {
        Level::Pte => 12,
        Level::Pmd => 21,
        Level::Pud => 30,
        Level::P4d => 39,
        Level::Pgd => match walk.steps.get(1)?.level {
            Level::P4d => 48,
            _ => 39,
        },
    })
}

fn says(step: &Step) -> String {
    match step.kind {
        EntryKind::Table(next) => format!("the next table is at {:#x}", next.0),
        EntryKind::Page { phys, size } => {
            format!("maps a page of {} at {:#x}", bytes(size), phys.0)
        }
        EntryKind::Empty => "empty: not mapped".to_owned(),
        EntryKind::ProtNone(phys) => format!("PROT_NONE: a page at {:#x}, but no access", phys.0),
        EntryKind::Swap { ty, offset } => {
            format!("not present: swap type {ty}, offset {offset:#x}")
        }
    }
}

fn flags(step: &Step) -> String {
    if step.entry.present() {
        step.entry.flags().join(" ")
    } else {
        "not PRESENT".to_owned()
    }
}

fn outcome(walk: &PageWalk) -> String {
    match (walk.phys, walk.page_size()) {
        (Some(phys), Some(size)) => {
            let offset = walk.at.0 & (size - 1);
            let fault = match walk.steps.last().map(|step| step.kind) {
                Some(EntryKind::ProtNone(_)) => "; without access: the processor would fault",
                _ => "",
            };
            format!(
                "physical {:#x} = page {:#x} + offset {offset:#x}{fault}",
                phys.0,
                phys.0.saturating_sub(offset)
            )
        }
        // The lower half of the address space is the process's own.
        _ if walk.at.0 >> 63 == 0 => {
            "not mapped in these tables: an access faults; each process has its own, `klab vtop --pid PID` walks them"
                .to_owned()
        }
        _ => "not mapped: an access faults".to_owned(),
    }
}

impl View for PageWalk {
    fn text(&self) -> String {
        table(self).text()
    }

    fn html(&self) -> Option<String> {
        table(self).html()
    }

    fn svg(&self) -> Option<String> {
        Some(picture(self))
    }

    fn missing(&self) -> Vec<Missing> {
        let ends = self.phys.is_none().then(|| Missing {
            what: format!("the page of {}", self.at),
            kind: ErrorKind::Unmapped,
            at: Some(self.at),
            error: outcome(self),
        });
        ends.into_iter().collect()
    }
}

fn table(walk: &PageWalk) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("LEVEL", Left),
        ("TABLE", Left),
        ("INDEX", Right),
        ("ENTRY", Left),
        ("FLAGS", Left),
        ("", Left),
    ]);
    for step in &walk.steps {
        table.row([
            step.level.name().to_owned(),
            format!("{:#x}", step.table.0),
            step.index.to_string(),
            format!("{:#x}", step.entry.0),
            flags(step),
            says(step),
        ]);
    }
    table.note(format!("{}: {}", walk.at, outcome(walk)));
    table
}

fn picture(walk: &PageWalk) -> String {
    const LEFT: f64 = 16.0;
    const CARD: f64 = 232.0;
    const CARD_W: f64 = 470.0;
    const CARD_H: f64 = 60.0;
    const STEP: f64 = 84.0;
    let title = format!("page-table walk of {}", walk.at);
    let top = 50.0;
    let y = |row: usize| top + STEP * row as f64;
    let rows = walk.steps.len();
    let mut svg = Svg::new(CARD + CARD_W + 20.0, y(rows) + 62.0);
    svg.text(
        (LEFT, 26.0),
        &title,
        Text {
            size: 13.0,
            bold: true,
            ..Text::default()
        },
    );
    for (row, step) in walk.steps.iter().enumerate() {
        let y = y(row);
        let ends = !step.entry.present();
        // The part of the address that is the index.
        svg.rect((LEFT, y + 8.0), (172.0, 44.0), "#f3ecfb", "#8a4fbf");
        let bits = shift(walk, step.level).map_or_else(
            || "address".to_owned(),
            |low| format!("bits {}..{low}", low + 8),
        );
        svg.text(
            (LEFT + 10.0, y + 26.0),
            &bits,
            Text {
                fill: FAINT,
                ..Text::default()
            },
        );
        svg.text(
            (LEFT + 10.0, y + 43.0),
            &format!("index {} ({:#x})", step.index, step.index),
            Text {
                bold: true,
                ..Text::default()
            },
        );
        svg.arrow(
            &[(LEFT + 172.0, y + 30.0), (CARD - 2.0, y + 30.0)],
            "#8a4fbf",
            1.2,
            "",
        );
        let (fill, stroke) = if ends {
            ("#fff1e6", ACCENT)
        } else {
            ("#e8f1fb", "#3b6ea5")
        };
        svg.rect((CARD, y), (CARD_W, CARD_H), fill, stroke);
        let head = format!(
            "{} table at physical {:#x}",
            step.level.name(),
            step.table.0
        );
        svg.text(
            (CARD + 12.0, y + 17.0),
            &head,
            Text {
                bold: true,
                ..Text::default()
            },
        );
        let entry = format!("[{}] = {:#018x}: {}", step.index, step.entry.0, says(step));
        svg.text(
            (CARD + 12.0, y + 34.0),
            &entry,
            Text {
                fill: INK,
                size: 10.5,
                ..Text::default()
            },
        );
        svg.text(
            (CARD + 12.0, y + 50.0),
            &flags(step),
            Text {
                fill: FAINT,
                size: 10.0,
                ..Text::default()
            },
        );
        let x = CARD + CARD_W / 2.0;
        svg.arrow(
            &[(x, y + CARD_H), (x, y + STEP - 2.0)],
            if ends { ACCENT } else { INK },
            1.4,
            "",
        );
    }
    let y = y(rows);
    let mapped = walk.phys.is_some();
    let (fill, stroke) = if mapped {
        ("#e9f6ee", "#1f8f4e")
    } else {
        ("#fff1e6", ACCENT)
    };
    svg.rect((CARD, y), (CARD_W, 40.0), fill, stroke);
    let middle = Text {
        anchor: Anchor::Middle,
        bold: true,
        ..Text::default()
    };
    svg.text((CARD + CARD_W / 2.0, y + 24.0), &outcome(walk), middle);
    if let Some(size) = walk.page_size() {
        svg.rect((LEFT, y + 2.0), (172.0, 36.0), "#f3ecfb", "#8a4fbf");
        let text = format!(
            "bits {}..0: {:#x}",
            size.ilog2() - 1,
            walk.at.0 & (size - 1)
        );
        svg.text(
            (LEFT + 10.0, y + 24.0),
            &text,
            Text {
                bold: true,
                ..Text::default()
            },
        );
        svg.arrow(
            &[(LEFT + 172.0, y + 20.0), (CARD - 2.0, y + 20.0)],
            "#8a4fbf",
            1.2,
            "",
        );
    }
    svg.finish(&title)
}

crate::displays!(PageWalk);
