//! An address space drawn: the real one of a process, and beside it the 32-bit one of the textbooks.

use crate::memory::PAGE_SIZE;
use crate::mm::{AddressMap, Vma, VmaKind};
use crate::view::svg::{ACCENT, FAINT, INK, shorten};
use crate::view::{Anchor, Svg, Text, bytes, sum_of_bytes};

/// Mappings that are drawn one by one; of more, neighbours of the same name are drawn as one.
const BLOCKS: usize = 70;
/// Left edge of the real map.
const X: f64 = 440.0;
/// Width.
const W: f64 = 330.0;
const TOP: f64 = 66.0;

fn colour(kind: VmaKind) -> (&'static str, &'static str) {
    match kind {
        VmaKind::Code => ("#dbe9fa", "#3b6ea5"),
        VmaKind::Data => ("#fdebd0", "#b7791f"),
        VmaKind::ReadOnly => ("#eef1f4", "#8592a0"),
        VmaKind::Heap => ("#d8f0e0", "#1f8f4e"),
        VmaKind::Stack => ("#f9dcd3", ACCENT),
        VmaKind::Special => ("#efe3fa", "#8a4fbf"),
        VmaKind::Anonymous => ("#fbf7d5", "#a39413"),
    }
}

/// A piece of the address space, drawn as one block.
struct Block {
    /// First and last address.
    first: u64,
    last: u64,
    height: f64,
    what: What,
}

enum What {
    /// One mapping, or several neighbours of one name.
    Mapped { kind: VmaKind, label: String },
    /// Nothing is mapped here.
    Gap(String),
    /// Not the process's.
    Kernel(String),
}

fn mapped(vmas: &[Vma]) -> Block {
    let (first, last) = (&vmas[0], &vmas[vmas.len() - 1]);
    let size = bytes(
        vmas.iter()
            .fold(0u64, |sum, vma| sum.saturating_add(vma.len())),
    );
    let in_bytes = |pages: u64| pages.saturating_mul(PAGE_SIZE);
    let resident = sum_of_bytes(vmas.iter().map(|vma| vma.resident.map(in_bytes)));
    let name = match first.name.rsplit_once('/') {
        Some((_, file)) => file,
        None if first.name.is_empty() => "(anonymous)",
        None => &*first.name,
    };
    let perms = if vmas.len() == 1 {
        first.perms()
    } else {
        format!("{} mappings", vmas.len())
    };
    let label = format!("{perms} {} {size}, {resident} in RAM", shorten(name, 22));
    // The program is known by its code before its constants.
    let kind = vmas
        .iter()
        .map(|vma| vma.kind)
        .min_by_key(|kind| *kind == VmaKind::ReadOnly)
        .unwrap_or(first.kind);
    Block {
        first: first.start.0,
        last: last.end.0.wrapping_sub(1),
        height: 19.0,
        what: What::Mapped { kind, label },
    }
}

/// The blocks from the lowest address to the highest.
fn blocks(map: &AddressMap) -> Vec<Block> {
    let one_by_one = map.vmas.len() <= BLOCKS;
    let alike = |a: &Vma, b: &Vma| !one_by_one && a.name == b.name && a.end == b.start;
    let mut groups: Vec<Block> = map.vmas.chunk_by(alike).map(mapped).collect();
    if groups.len() > BLOCKS {
        // Still too many: the middle is counted.
        let (from, to) = (BLOCKS / 2, groups.len() - BLOCKS / 2);
        let (first, last) = (groups[from].first, groups[to - 1].last);
        let label = format!("… {} more mappings, not drawn …", to - from);
        let block = Block {
            first,
            last,
            height: 24.0,
            what: What::Kernel(label),
        };
        groups.splice(from..to, [block]);
    }
    let mut blocks = Vec::new();
    let mut next = 0u64;
    let gap = |from: u64, to: u64, heap_below: bool| {
        let hint = if heap_below {
            " (the heap grows up into it)"
        } else {
            ""
        };
        let label = format!("{} unmapped{hint}", bytes(to - from));
        Block {
            first: from,
            last: to - 1,
            height: 22.0,
            what: What::Gap(label),
        }
    };
    let mut heap_below = false;
    for block in groups {
        if block.first > next {
            blocks.push(gap(next, block.first, heap_below));
        }
        heap_below = matches!(
            block.what,
            What::Mapped {
                kind: VmaKind::Heap,
                ..
            }
        );
        next = block.last.saturating_add(1).max(next);
        blocks.push(block);
    }
    let end = map.mm.task_size.0;
    if end > next {
        blocks.push(gap(next, end, heap_below));
        next = end;
    }
    // The upper half begins at the lowest address that is negative and canonical: with four levels or with five.
    let half = if end > 1 << 47 { 56 } else { 47 };
    let kernel = (u64::MAX << half).max(next);
    if kernel > next {
        let label = format!("not canonical: no address ({})", bytes(kernel - next));
        blocks.push(Block {
            first: next,
            last: kernel - 1,
            height: 26.0,
            what: What::Gap(label),
        });
    }
    let label = format!(
        "kernel space, {}: the same in each process",
        bytes(u64::MAX - kernel + 1)
    );
    blocks.push(Block {
        first: kernel,
        last: u64::MAX,
        height: 34.0,
        what: What::Kernel(label),
    });
    blocks
}

pub(crate) fn picture(map: &AddressMap) -> String {
    let title = format!("address space of {} ({})", map.pid, map.comm);
    let blocks = blocks(map);
    let height: f64 = blocks.iter().map(|block| block.height).sum();
    let bottom = TOP + height;
    let mut svg = Svg::new(X + W + 250.0, f64::max(bottom, TOP + 430.0) + 54.0);
    svg.text(
        (16.0, 26.0),
        &title,
        Text {
            size: 13.0,
            bold: true,
            ..Text::default()
        },
    );
    let heading = |svg: &mut Svg, x: f64, text: &str| {
        svg.text(
            (x, 52.0),
            text,
            Text {
                anchor: Anchor::Middle,
                fill: FAINT,
                ..Text::default()
            },
        );
    };
    heading(&mut svg, 130.0, "32-bit x86, as in textbooks");
    heading(&mut svg, X + W / 2.0, "this process, read just now");
    textbook(&mut svg);
    let mut y = bottom;
    let mut places = Vec::new();
    for block in &blocks {
        y -= block.height;
        draw(&mut svg, block, y);
        places.push((block.first, block.last, y, block.height));
    }
    markers(&mut svg, map, &places);
    legend(&mut svg, f64::max(bottom, TOP + 430.0) + 30.0);
    svg.finish(&title)
}

fn draw(svg: &mut Svg, block: &Block, y: f64) {
    let middle = y + block.height / 2.0 + 3.5;
    let inside = Text {
        size: 10.0,
        ..Text::default()
    };
    let address = Text {
        size: 10.0,
        fill: FAINT,
        anchor: Anchor::End,
        ..Text::default()
    };
    match &block.what {
        What::Mapped { kind, label } => {
            let (fill, stroke) = colour(*kind);
            svg.rect((X, y + 0.5), (W, block.height - 1.0), fill, stroke);
            svg.text((X + 8.0, middle), label, inside);
            let range = format!("{:012x}-{:012x}", block.first, block.last.wrapping_add(1));
            svg.text((X - 8.0, middle), &range, address);
        }
        What::Gap(label) => {
            svg.line(&[(X, y), (X, y + block.height)], "#9aa5b1", 1.0, "2 3");
            svg.line(
                &[(X + W, y), (X + W, y + block.height)],
                "#9aa5b1",
                1.0,
                "2 3",
            );
            let style = Text {
                anchor: Anchor::Middle,
                fill: FAINT,
                ..inside
            };
            svg.text((X + W / 2.0, middle), label, style);
        }
        What::Kernel(label) => {
            svg.rect((X, y + 0.5), (W, block.height - 1.0), "#e4e7eb", "#64707d");
            svg.text(
                (X + W / 2.0, middle),
                label,
                Text {
                    anchor: Anchor::Middle,
                    ..inside
                },
            );
            svg.text((X - 8.0, middle), &format!("{:016x}", block.first), address);
        }
    }
}

/// The members of `mm_struct` at their addresses, on the right.
fn markers(svg: &mut Svg, map: &AddressMap, places: &[(u64, u64, f64, f64)]) {
    const ROW: f64 = 13.0;
    let mm = &map.mm;
    let all = [
        ("task_size", mm.task_size),
        ("env_end", mm.env_end),
        ("arg_start", mm.arg_start),
        ("start_stack", mm.start_stack),
        ("mmap_base", mm.mmap_base),
        ("brk", mm.brk),
        ("start_brk", mm.start_brk),
        ("end_data", mm.end_data),
        ("start_data", mm.start_data),
        ("end_code", mm.end_code),
        ("start_code", mm.start_code),
    ];
    // An address is drawn at its place within its block; blocks are not to scale, so only their order is.
    let y_of = |at: u64| {
        let (first, last, y, height) = places
            .iter()
            .find(|(first, last, ..)| (*first..=*last).contains(&at))?;
        Some(y + height * (1.0 - (at - first) as f64 / ((last - first) as f64 + 1.0)))
    };
    let mut marks: Vec<(f64, String)> = all
        .iter()
        .filter_map(|(name, at)| Some((y_of(at.0)?, format!("{name} {:#x}", at.0))))
        .collect();
    marks.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Labels go down until none covers another, then up again from the bottom if they left the map.
    let mut ys: Vec<f64> = Vec::new();
    for (y, _) in &marks {
        ys.push(ys.last().map_or(*y, |above| f64::max(*y, above + ROW)));
    }
    let mut floor = places.first().map_or(TOP, |(_, _, y, height)| y + height) + 6.0;
    for y in ys.iter_mut().rev() {
        *y = f64::min(*y, floor);
        floor = *y - ROW;
    }
    for ((y, label), at) in marks.iter().zip(ys) {
        svg.line(
            &[(X + W, *y), (X + W + 14.0, *y), (X + W + 34.0, at)],
            ACCENT,
            0.9,
            "",
        );
        svg.text(
            (X + W + 38.0, at + 3.5),
            label,
            Text {
                size: 10.5,
                fill: INK,
                ..Text::default()
            },
        );
    }
}

/// The map that textbooks draw of a 32-bit process.
fn textbook(svg: &mut Svg) {
    const LEFT: f64 = 20.0;
    const WIDE: f64 = 220.0;
    let kernel = ("#e4e7eb", "#64707d");
    let rows = [
        (
            "kernel space, 1 GiB",
            48.0,
            Some(kernel),
            "0xc0000000  TASK_SIZE",
        ),
        ("stack", 34.0, Some(colour(VmaKind::Stack)), ""),
        ("↓ the stack grows down", 44.0, None, ""),
        (
            "memory mapped segment ↓",
            48.0,
            Some(colour(VmaKind::Anonymous)),
            "",
        ),
        ("↑ the heap grows up", 60.0, None, "brk"),
        ("heap", 40.0, Some(colour(VmaKind::Heap)), "start_brk"),
        ("BSS", 32.0, Some(colour(VmaKind::Data)), "end_data"),
        (
            "data",
            32.0,
            Some(colour(VmaKind::Data)),
            "start_data, end_code",
        ),
        (
            "text",
            40.0,
            Some(colour(VmaKind::Code)),
            "0x08048000  start_code",
        ),
        ("unmapped", 26.0, None, "0"),
    ];
    let mut y = TOP;
    for (label, height, fill, below) in rows {
        match fill {
            Some((fill, stroke)) => svg.rect((LEFT, y + 0.5), (WIDE, height - 1.0), fill, stroke),
            None => {
                svg.line(&[(LEFT, y), (LEFT, y + height)], "#9aa5b1", 1.0, "2 3");
                svg.line(
                    &[(LEFT + WIDE, y), (LEFT + WIDE, y + height)],
                    "#9aa5b1",
                    1.0,
                    "2 3",
                );
            }
        }
        let below_room = if below.is_empty() { 3.5 } else { -2.0 };
        let style = Text {
            anchor: Anchor::Middle,
            bold: fill.is_some(),
            fill: if fill.is_some() { INK } else { FAINT },
            ..Text::default()
        };
        svg.text(
            (LEFT + WIDE / 2.0, y + height / 2.0 + below_room),
            label,
            style,
        );
        y += height;
        svg.text(
            (LEFT + 6.0, y - 4.0),
            below,
            Text {
                size: 9.5,
                fill: FAINT,
                ..Text::default()
            },
        );
    }
}

fn legend(svg: &mut Svg, y: f64) {
    let kinds = [
        (VmaKind::Code, "code"),
        (VmaKind::ReadOnly, "read-only"),
        (VmaKind::Data, "data"),
        (VmaKind::Heap, "heap"),
        (VmaKind::Anonymous, "anonymous"),
        (VmaKind::Stack, "stack"),
        (VmaKind::Special, "by the kernel"),
    ];
    let mut x = 20.0;
    for (kind, name) in kinds {
        let (fill, stroke) = colour(kind);
        svg.rect((x, y - 9.0), (12.0, 12.0), fill, stroke);
        svg.text(
            (x + 17.0, y + 1.0),
            name,
            Text {
                size: 10.5,
                ..Text::default()
            },
        );
        x += 40.0 + Svg::text_width(name, 10.5);
    }
    svg.text(
        (x, y + 1.0),
        "blocks are not to scale",
        Text {
            size: 10.5,
            fill: FAINT,
            ..Text::default()
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestVirt;
    use crate::mm::testing::{mm, vma};
    use crate::view::View;

    fn map(vmas: Vec<Vma>) -> AddressMap {
        AddressMap {
            pid: 1,
            comm: "<b>".to_owned(),
            mm: mm(),
            vmas: vmas.into(),
        }
    }

    #[test]
    fn the_whole_space_is_covered_without_overlap() {
        let top = (1u64 << 47) - 0x1000;
        let vmas = vec![
            vma(0x40_0000, 0x40_1000, 5, "/bin/a", VmaKind::Code),
            vma(0x40_1000, 0x40_9000, 3, "[heap]", VmaKind::Heap),
            vma(top - 0x2000, top, 3, "[stack]", VmaKind::Stack),
        ];
        for vmas in [vec![], vmas] {
            let blocks = blocks(&map(vmas));
            assert_eq!(blocks[0].first, 0);
            assert_eq!(blocks[blocks.len() - 1].last, u64::MAX);
            for pair in blocks.windows(2) {
                assert_eq!(pair[0].last + 1, pair[1].first);
            }
        }
    }

    #[test]
    fn many_mappings_are_joined_then_counted() {
        let many = |name: fn(u64) -> String| {
            map((1..=1000)
                .map(|i| vma(i << 16, (i + 1) << 16, 3, &name(i), VmaKind::Data))
                .collect())
        };
        assert!(picture(&many(|_| "/lib/x".to_owned())).contains("1000 mappings x"));
        let svg = picture(&many(|i| format!("/lib/{i}")));
        assert!(svg.contains("… 930 more mappings, not drawn …"), "{svg}");
    }

    #[test]
    fn a_hostile_map_is_drawn_all_the_same() {
        let mut bad = map(vec![
            vma(0x5000, 0x1000, 7, "</text><script>", VmaKind::Code),
            vma(0x2000, u64::MAX, 7, "", VmaKind::Heap),
            vma(0, 0, 7, "", VmaKind::Stack),
        ]);
        for task_size in [0, 1, u64::MAX] {
            bad.mm.fields.task_size = GuestVirt(task_size);
            bad.mm.fields.brk = GuestVirt(task_size);
            assert!(!picture(&bad).contains("<script"));
            assert!(!bad.text().is_empty());
        }
    }
}
