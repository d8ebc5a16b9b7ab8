//! Kernel stacks: a bar a task, as long as what it uses.

use crate::sched::KernelStacks;
use crate::view::svg::{ACCENT, FAINT};
use crate::view::{Align, Anchor, Svg, Table, Text, View, bytes};

/// Stacks that are drawn one by one: the deepest.
const ROWS: usize = 32;

impl View for KernelStacks {
    fn text(&self) -> String {
        use Align::{Left, Right};
        let columns = [
            ("PID", Right),
            ("COMM", Left),
            ("STACK", Left),
            ("USED", Right),
            ("OF", Right),
        ];
        let mut table = Table::new(columns);
        for of in &self.stacks {
            table.row([
                of.pid.to_string(),
                of.comm.clone(),
                of.stack.start.to_string(),
                of.stack.used().map_or_else(String::new, |n| n.to_string()),
                of.stack.size().to_string(),
            ]);
        }
        table.note(left_out(self));
        table.text()
    }

    fn svg(&self) -> Option<String> {
        Some(picture(self))
    }
}

fn left_out(stacks: &KernelStacks) -> String {
    format!(
        "{} sleeping, {} left out: on a CPU or gone",
        stacks.stacks.len(),
        stacks.left_out
    )
}

fn picture(stacks: &KernelStacks) -> String {
    const LEFT: f64 = 190.0;
    const WIDE: f64 = 480.0;
    const ROW: f64 = 17.0;
    const TOP: f64 = 58.0;
    let shown = stacks.stacks.len().min(ROWS);
    let bottom = TOP + ROW * shown as f64;
    let title = format!("kernel stacks, {} each", bytes(stacks.size));
    let mut svg = Svg::new(LEFT + WIDE + 90.0, bottom + 34.0);
    let faint = |anchor| Text {
        fill: FAINT,
        size: 10.5,
        anchor,
        ..Text::default()
    };
    let head = Text {
        size: 13.0,
        bold: true,
        ..Text::default()
    };
    svg.text((16.0, 24.0), &title, head);
    svg.text((LEFT, 48.0), "top (pt_regs)", faint(Anchor::Start));
    let end = "guard page, not mapped";
    svg.text((LEFT + WIDE, 48.0), end, faint(Anchor::End));
    for (row, of) in stacks.stacks.iter().take(ROWS).enumerate() {
        let y = TOP + ROW * row as f64;
        let used = of.stack.used().unwrap_or(0).min(stacks.size);
        let part = used as f64 / stacks.size.max(1) as f64;
        svg.text(
            (LEFT - 8.0, y + 11.5),
            &format!("{} {}", of.pid, of.comm),
            Text {
                anchor: Anchor::End,
                ..Text::default()
            },
        );
        svg.rect((LEFT, y + 1.0), (WIDE, ROW - 3.0), "#f4f6f8", "#9aa5b1");
        svg.rect((LEFT, y + 1.0), (WIDE * part, ROW - 3.0), "#f9dcd3", ACCENT);
        let at = (LEFT + WIDE * part + 6.0, y + 11.5);
        svg.text(at, &format!("{used} bytes"), faint(Anchor::Start));
    }
    let mut note = left_out(stacks);
    if let Some(next) = stacks.stacks.get(shown) {
        let (more, used) = (stacks.stacks.len() - shown, next.stack.used().unwrap_or(0));
        note = format!("{more} more, each {used} bytes or less; {note}");
    }
    svg.text((16.0, bottom + 20.0), &note, faint(Anchor::Start));
    svg.finish(&title)
}

crate::displays!(KernelStacks);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestVirt;
    use crate::sched::{KernelStack, StackOf};

    #[test]
    fn many_and_absurd_stacks_are_drawn() {
        let of = |pid: i32, sp: u64| StackOf {
            pid,
            comm: "<b>".to_owned(),
            stack: KernelStack {
                start: GuestVirt(0x1000),
                end: GuestVirt(0x5000),
                sp: Some(GuestVirt(sp)),
            },
        };
        let mut stacks = KernelStacks {
            size: 0x4000,
            stacks: (0..100).map(|pid| of(pid, 0x4f00)).collect(),
            left_out: 2,
        };
        let svg = stacks.svg().unwrap();
        assert!(svg.contains("68 more, each 256 bytes or less"), "{svg}");
        assert!(!svg.contains("<b>"));
        assert_eq!(stacks.text().lines().count(), 102);
        stacks.stacks = vec![of(1, u64::MAX)];
        stacks.size = 0;
        assert!(stacks.svg().is_some());
    }
}
