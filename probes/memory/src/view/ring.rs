//! A `list_head` ring, drawn as the ring it is.

use std::f64::consts::TAU;

use super::svg::{ACCENT, FAINT, INK, shorten};
use super::{Align, Anchor, Svg, Table, Text, View};
use crate::base::{GuestVirt, Missing};

/// As many nodes are drawn as boxes with both links; more become dots.
const BOXES: usize = 10;
/// As many nodes are drawn at all; of more, the first and the last.
const DOTS: usize = 60;

/// One node of a ring.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RingNode {
    /// The `list_head` itself: what `next` and `prev` of its neighbours point to.
    pub at: GuestVirt,
    /// The structure around it.
    pub container: GuestVirt,
    /// Label: a task's `comm` and pid, a module's name.
    pub label: String,
}

/// A list whose links were followed, ready to be drawn.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ListRing {
    /// The head's name and address.
    pub head: RingNode,
    /// The structure that the nodes lie in, and the member: `task_struct`, `tasks`.
    pub container: String,
    /// The member that is the `list_head`.
    pub member: String,
    /// All nodes in list order, without the head.
    pub nodes: Vec<RingNode>,
    /// Number of nodes before the link that cannot be followed, for which `missing` has the reason: the list is broken, or its memory is
    /// not there. Those behind it were found from the other end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<usize>,
    /// Parts of it that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

impl ListRing {
    /// Things that are drawn, head first: a node, or how many are left out there.
    fn shown(&self) -> Vec<std::result::Result<&RingNode, usize>> {
        let head = std::iter::once(Ok(&self.head));
        if self.nodes.len() <= DOTS {
            return head.chain(self.nodes.iter().map(Ok)).collect();
        }
        let (first, last) = (DOTS * 2 / 3, DOTS / 3 - 1);
        let left_out = self.nodes.len() - first - last;
        let end = &self.nodes[self.nodes.len() - last..];
        head.chain(self.nodes[..first].iter().map(Ok))
            .chain([Err(left_out)])
            .chain(end.iter().map(Ok))
            .collect()
    }

    /// The node whose link cannot be followed.
    fn last_before(&self) -> Option<&RingNode> {
        match self.broken? {
            0 => Some(&self.head),
            before => self.nodes.get(before - 1),
        }
    }

    fn title(&self) -> String {
        let (n, s) = (
            self.nodes.len(),
            if self.nodes.len() == 1 { "" } else { "s" },
        );
        let broken = match self.last_before() {
            Some(last) => format!("; not followed behind {}", last.at),
            None => String::new(),
        };
        format!(
            "{}: {n} node{s}, each in a {} as .{}{broken}",
            self.head.label, self.container, self.member
        )
    }

    fn boxes(&self) -> String {
        const W: f64 = 158.0;
        const H: f64 = 50.0;
        const GAP: f64 = 34.0;
        let nodes: Vec<&RingNode> = std::iter::once(&self.head).chain(&self.nodes).collect();
        let n = nodes.len();
        let place = |radius: f64, i: usize| {
            let angle = TAU * i as f64 / n as f64 - TAU / 4.0;
            (1.6 * radius * angle.cos(), radius * angle.sin())
        };
        let clear =
            |p: (f64, f64), q: (f64, f64)| f64::max((p.0 - q.0).abs() - W, (p.1 - q.1).abs() - H);
        let apart = |radius: f64| {
            n == 1 || (0..n).all(|i| clear(place(radius, i), place(radius, (i + 1) % n)) >= GAP)
        };
        let mut radius = 70.0;
        while !apart(radius) && radius < 2000.0 {
            radius += 6.0;
        }
        let (mut left, mut top) = (W / 2.0, H / 2.0);
        for i in 0..n {
            let (x, y) = place(radius, i);
            left = f64::max(left, W / 2.0 - x);
            top = f64::max(top, H / 2.0 - y);
        }
        let (cx, cy) = (left + 24.0, top + 52.0);
        let bottom = (0..n).map(|i| place(radius, i).1).fold(0.0, f64::max);
        let width = f64::max(2.0 * cx, Svg::text_width(&self.title(), 13.0) + 40.0);
        let mut svg = Svg::new(width, cy + bottom + H / 2.0 + 46.0);
        svg.text(
            (16.0, 24.0),
            &self.title(),
            Text {
                size: 13.0,
                bold: true,
                ..Text::default()
            },
        );
        let at = |i: usize| {
            let (x, y) = place(radius, i);
            (cx + x, cy + y)
        };
        for (i, node) in nodes.iter().enumerate() {
            let (from, to) = (at(i), at((i + 1) % n));
            if n > 1 && self.last_before() != Some(node) {
                link(&mut svg, from, to, (W, H), 6.0, INK, "");
                // The two links of a pair of nodes run between the same boxes.
                let aside = if n == 2 { 18.0 } else { 6.0 };
                link(&mut svg, to, from, (W, H), aside, FAINT, "4 3");
            }
        }
        for (i, node) in nodes.iter().enumerate() {
            let (x, y) = at(i);
            let head = i == 0;
            let (fill, stroke) = if head {
                ("#fff1e6", ACCENT)
            } else {
                ("#e8f1fb", "#3b6ea5")
            };
            svg.rect((x - W / 2.0, y - H / 2.0), (W, H), fill, stroke);
            let line = |svg: &mut Svg, dy: f64, text: &str, bold: bool, fill: &str| {
                svg.text(
                    (x, y + dy),
                    text,
                    Text {
                        anchor: Anchor::Middle,
                        bold,
                        fill,
                        ..Text::default()
                    },
                );
            };
            line(&mut svg, -9.0, &shorten(&node.label, 22), true, INK);
            line(&mut svg, 5.0, &node.at.to_string(), false, INK);
            let below = if head {
                "the list's head".to_owned()
            } else {
                format!("in {:#x}", node.container.0)
            };
            line(&mut svg, 19.0, &below, false, FAINT);
        }
        let legend = cy + bottom + H / 2.0 + 28.0;
        svg.arrow(&[(16.0, legend - 4.0), (44.0, legend - 4.0)], INK, 1.3, "");
        svg.text((50.0, legend), "next", Text::default());
        svg.arrow(
            &[(100.0, legend - 4.0), (128.0, legend - 4.0)],
            FAINT,
            1.3,
            "4 3",
        );
        svg.text((134.0, legend), "prev", Text::default());
        svg.finish(&self.title())
    }

    fn dots(&self) -> String {
        let shown = self.shown();
        let n = shown.len();
        let label = |item: &std::result::Result<&RingNode, usize>| match item {
            Ok(node) => format!("{} {:#x}", shorten(&node.label, 24), node.at.0),
            Err(left_out) => format!("… {left_out} more, not drawn …"),
        };
        let longest = shown
            .iter()
            .map(|item| Svg::text_width(&label(item), 11.0))
            .fold(0.0, f64::max);
        let radius = f64::max(90.0, n as f64 * 15.0 / TAU);
        let reach = radius + longest + 22.0;
        let (cx, cy) = (reach + 12.0, reach + 40.0);
        let mut svg = Svg::new(2.0 * cx, cy + reach + 12.0);
        svg.text(
            (16.0, 24.0),
            &self.title(),
            Text {
                size: 13.0,
                bold: true,
                ..Text::default()
            },
        );
        let at = |i: f64, r: f64| {
            let angle = TAU * i / n as f64 - TAU / 4.0;
            (cx + r * angle.cos(), cy + r * angle.sin())
        };
        for (i, item) in shown.iter().enumerate() {
            if item.is_ok_and(|node| self.last_before() == Some(node)) {
                continue;
            }
            let (from, to) = (i as f64 + 0.22, i as f64 + 0.78);
            svg.arrow(&[at(from, radius), at(to, radius)], FAINT, 1.1, "");
        }
        for (i, item) in shown.iter().enumerate() {
            let i = i as f64;
            let (fill, stroke) = match item {
                Ok(node) if **node == self.head => ("#fff1e6", ACCENT),
                Ok(_) => ("#cfe3f8", "#3b6ea5"),
                Err(_) => ("#fcfcfa", FAINT),
            };
            svg.circle(at(i, radius), 4.5, fill, stroke);
            let degrees = 360.0 * i / n as f64 - 90.0;
            let (turn, anchor) = if degrees > 90.0 {
                (degrees - 180.0, Anchor::End)
            } else {
                (degrees, Anchor::Start)
            };
            let (x, y) = at(i, radius + 12.0);
            // A text stands on its baseline: move it down by a third of its height, across its own direction.
            let (sin, cos) = turn.to_radians().sin_cos();
            let place = (x - 4.0 * sin, y + 4.0 * cos);
            let fill = if item.is_ok() { INK } else { FAINT };
            svg.text(
                place,
                &label(item),
                Text {
                    anchor,
                    turn,
                    fill,
                    bold: i == 0.0,
                    ..Text::default()
                },
            );
        }
        svg.text(
            (cx, cy - 4.0),
            &self.container,
            Text {
                anchor: Anchor::Middle,
                size: 13.0,
                bold: true,
                ..Text::default()
            },
        );
        svg.text(
            (cx, cy + 14.0),
            &format!(".{}", self.member),
            Text {
                anchor: Anchor::Middle,
                size: 12.0,
                fill: FAINT,
                ..Text::default()
            },
        );
        svg.finish(&self.title())
    }
}

/// An arrow between two boxes, moved to its right by `aside` so that there is room for the one that comes back.
fn link(
    svg: &mut Svg,
    from: (f64, f64),
    to: (f64, f64),
    size: (f64, f64),
    aside: f64,
    stroke: &str,
    dash: &str,
) {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = dx.hypot(dy).max(1.0);
    let (ux, uy) = (dx / length, dy / length);
    let (ox, oy) = (-uy * aside, ux * aside);
    // Distance from a box's centre at which the line leaves it.
    let edge = f64::min(
        size.0 / 2.0 / ux.abs().max(1e-6),
        size.1 / 2.0 / uy.abs().max(1e-6),
    );
    let (start, end) = (edge + 3.0, length - edge - 3.0);
    if end <= start {
        return;
    }
    let point = |d: f64| (from.0 + ux * d + ox, from.1 + uy * d + oy);
    svg.arrow(&[point(start), point(end)], stroke, 1.3, dash);
}

impl View for ListRing {
    fn text(&self) -> String {
        let mut table = Table::new([
            ("", Align::Right),
            ("LIST_HEAD", Align::Left),
            (&*self.container.to_uppercase(), Align::Left),
            ("", Align::Left),
        ]);
        table.row([
            "head".to_owned(),
            self.head.at.to_string(),
            String::new(),
            self.head.label.clone(),
        ]);
        for (i, node) in self.nodes.iter().enumerate() {
            table.row([
                (i + 1).to_string(),
                node.at.to_string(),
                node.container.to_string(),
                node.label.clone(),
            ]);
        }
        table.note(self.title());
        table.lacks(&self.missing);
        table.text()
    }

    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }

    fn svg(&self) -> Option<String> {
        Some(if self.nodes.len() < BOXES {
            self.boxes()
        } else {
            self.dots()
        })
    }
}
