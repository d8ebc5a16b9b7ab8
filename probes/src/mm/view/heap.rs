//! The heap, a square a page.

use std::fmt::Write as _;

use crate::Missing;
use crate::memory::PAGE_SIZE;
use crate::mm::Heap;
use crate::view::svg::{ACCENT, FAINT};
use crate::view::{Svg, Text, View, bytes, clean, missing_text};

/// Pages in a row.
const ROW: usize = 64;

fn title(heap: &Heap) -> String {
    format!("heap of {} ({})", heap.pid, heap.comm)
}

fn summary(heap: &Heap) -> String {
    let present = heap
        .present
        .iter()
        .filter(|present| **present == Some(true))
        .count() as u64;
    let mut text = format!(
        "brk - start_brk = {}, {} of {} pages in RAM",
        bytes(heap.len()),
        present,
        heap.present.len() as u64 + heap.not_looked_at
    );
    if heap.not_looked_at > 0 {
        // Writing to a String does not fail.
        let _ = write!(
            text,
            " of those looked at; the last {} pages were not",
            heap.not_looked_at
        );
    }
    text
}

fn rows(heap: &Heap) -> impl Iterator<Item = (u64, &[Option<bool>])> {
    let first = heap.start_brk.page().0;
    let at = move |row: usize| first.wrapping_add((row * ROW) as u64 * PAGE_SIZE);
    heap.present
        .chunks(ROW)
        .enumerate()
        .map(move |(row, pages)| (at(row), pages))
}

impl View for Heap {
    fn text(&self) -> String {
        let mut out = format!(
            "{}\nend_data  {:#x}\nstart_brk {:#x}\n",
            clean(&title(self)),
            self.end_data.0,
            self.start_brk.0
        );
        for (at, pages) in rows(self) {
            let line: String = pages
                .iter()
                .map(|present| match present {
                    Some(true) => '#',
                    Some(false) => '.',
                    None => '?',
                })
                .collect();
            let _ = writeln!(out, "  {at:#x} {line}");
        }
        let _ = writeln!(out, "brk       {:#x}\n{}", self.brk.0, summary(self));
        out.push_str(&missing_text(&self.missing));
        out
    }

    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }

    fn svg(&self) -> Option<String> {
        const LEFT: f64 = 142.0;
        const CELL: f64 = 9.0;
        let lines = self.present.len().div_ceil(ROW);
        let top = 84.0;
        let bottom = top + CELL * lines as f64;
        let mut svg = Svg::new(LEFT + CELL * ROW as f64 + 20.0, bottom + 64.0);
        svg.text(
            (16.0, 26.0),
            &title(self),
            Text {
                size: 13.0,
                bold: true,
                ..Text::default()
            },
        );
        svg.text(
            (16.0, 48.0),
            &format!(
                "end_data {:#x}: the program's own data ends",
                self.end_data.0
            ),
            Text {
                fill: FAINT,
                ..Text::default()
            },
        );
        svg.text(
            (16.0, 70.0),
            &format!("start_brk {:#x}: the heap begins", self.start_brk.0),
            Text {
                fill: ACCENT,
                ..Text::default()
            },
        );
        for (row, (at, pages)) in rows(self).enumerate() {
            let y = top + CELL * row as f64;
            svg.text(
                (16.0, y + 8.0),
                &format!("{at:#x}"),
                Text {
                    size: 9.0,
                    fill: FAINT,
                    ..Text::default()
                },
            );
            for (column, present) in pages.iter().enumerate() {
                let (fill, stroke) = match present {
                    Some(true) => ("#1f8f4e", "#176c3b"),
                    Some(false) => ("#ffffff", "#b5d9c2"),
                    None => ("#e0e0e0", "#9aa5b1"),
                };
                svg.rect(
                    (LEFT + CELL * column as f64, y),
                    (CELL - 1.5, CELL - 1.5),
                    fill,
                    stroke,
                );
            }
        }
        svg.text(
            (16.0, bottom + 20.0),
            &format!("brk {:#x}: the heap ends, it grows from here", self.brk.0),
            Text {
                fill: ACCENT,
                ..Text::default()
            },
        );
        svg.text(
            (16.0, bottom + 44.0),
            &format!(
                "{}; green: in RAM, white: not touched yet, or swapped out{}",
                summary(self),
                match self.present.contains(&None) {
                    true => ", grey: cannot be read",
                    false => "",
                }
            ),
            Text::default(),
        );
        Some(svg.finish(&title(self)))
    }
}

crate::displays!(Heap);
