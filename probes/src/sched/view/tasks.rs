//! Tasks as a table, and as the tree of parents and children.

use std::fmt::Write as _;

use crate::Missing;
use crate::sched::{Task, TaskNode, TaskState, TaskTree, Tasks};
use crate::view::svg::{ACCENT, FAINT, INK};
use crate::view::{Align, Svg, Table, Text, View, clean, escape, missing_text, or_unknown};

/// The children of one parent that a picture draws; the rest is counted.
const SIBLINGS: usize = 24;
/// Tasks that a picture draws at most.
const DRAWN: usize = 160;

crate::lists! { Task => table }

fn table(tasks: &Tasks) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("PID", Right),
        ("PPID", Right),
        ("S", Left),
        ("CPU", Right),
        ("NI", Right),
        ("THR", Right),
        ("UID", Right),
        ("TASK_STRUCT", Left),
        ("COMM", Left),
    ]);
    for task in tasks {
        table.row([
            task.pid.to_string(),
            or_unknown(task.ppid),
            task.state.to_string(),
            task.cpu.to_string(),
            task.nice.to_string(),
            or_unknown(task.nr_threads),
            or_unknown(task.uid),
            format!("{:#x}", task.at.0),
            called(task),
        ]);
    }
    let s = if tasks.len() == 1 { "" } else { "s" };
    table.note(format!("{} task{s}", tasks.len()));
    table.lacks(&tasks.missing);
    table
}

/// The name, in brackets for kernel threads, as `ps` has it. The bracket of a process that calls itself so is a byte,
/// [`text_of`](crate::text_of)'s way: it looks like no kernel thread.
fn called(task: &Task) -> String {
    match (task.kthread, task.comm.strip_prefix('[')) {
        (true, _) => format!("[{}]", task.name()),
        (false, Some(rest)) => format!("\\x5b{rest}"),
        (false, None) => task.comm.clone(),
    }
}

impl View for Task {
    fn text(&self) -> String {
        fields(self).text()
    }

    fn html(&self) -> Option<String> {
        fields(self).html()
    }

    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }
}

fn fields(task: &Task) -> Table {
    let mut table = Table::new([
        ("TASK_STRUCT", Align::Left),
        (&*format!("{:#x}", task.at.0), Align::Left),
    ]);
    let address = |at: crate::memory::GuestVirt| format!("{:#x}", at.0);
    let rows = [
        ("pid", task.pid.to_string()),
        ("tgid", task.tgid.to_string()),
        ("comm", task.comm.clone()),
        ("full name", task.name().to_owned()),
        ("__state", format!("{} ({})", task.state, task.state.name())),
        (
            "flags",
            format!(
                "{:#x}{}",
                task.flags,
                if task.kthread { " (PF_KTHREAD)" } else { "" }
            ),
        ),
        ("real_parent->tgid", or_unknown(task.ppid)),
        ("real_parent", address(task.parent)),
        ("group_leader", address(task.group_leader)),
        ("signal", address(task.signal)),
        ("signal->nr_threads", or_unknown(task.nr_threads)),
        ("start_boottime", format!("{} ns", task.start_time)),
        (
            "real_cred->uid, euid",
            format!("{}, {}", or_unknown(task.uid), or_unknown(task.euid)),
        ),
        (
            "real_cred->gid, egid",
            format!("{}, {}", or_unknown(task.gid), or_unknown(task.egid)),
        ),
        (
            "cpu",
            format!(
                "{}{}",
                task.cpu,
                if task.on_cpu { " (on it now)" } else { "" }
            ),
        ),
        ("prio", format!("{} (nice {})", task.prio, task.nice)),
        (
            "policy",
            format!("{} (SCHED_{})", task.policy.0, task.policy.name()),
        ),
        ("mm", task.mm.map_or_else(|| "NULL".to_owned(), address)),
        ("stack", address(task.stack)),
    ];
    for (name, value) in rows {
        table.row([name.to_owned(), value]);
    }
    table.lacks(&task.missing);
    table
}

impl View for TaskTree {
    fn text(&self) -> String {
        let mut out = String::new();
        // Which levels above go on below this line.
        let mut open: Vec<bool> = Vec::new();
        let mut work: Vec<(usize, &TaskNode, bool)> = level(&self.roots, 0);
        while let Some((depth, node, last)) = work.pop() {
            open.truncate(depth.saturating_sub(1));
            for on in &open {
                out.push_str(if *on { "|  " } else { "   " });
            }
            if depth > 0 {
                out.push_str(if last { "`- " } else { "|- " });
                open.push(!last);
            }
            // Writing to a String does not fail.
            let _ = writeln!(
                out,
                "{} {} {}",
                node.task.pid,
                clean(&called(&node.task)),
                node.task.state
            );
            work.extend(level(&node.children, depth + 1));
        }
        out.push_str(&missing_text(&self.missing));
        out
    }

    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }

    fn html(&self) -> Option<String> {
        Some(format!(
            "<pre style=\"font-family:monospace;font-size:12px;line-height:1.3\">{}</pre>",
            self.text()
                .lines()
                .map(escape)
                .collect::<Vec<_>>()
                .join("\n")
        ))
    }

    fn svg(&self) -> Option<String> {
        Some(picture(self))
    }
}

/// Nodes of one level, the last first, so that they come off a stack in order.
fn level(nodes: &[TaskNode], depth: usize) -> Vec<(usize, &TaskNode, bool)> {
    let last = nodes.len().saturating_sub(1);
    nodes
        .iter()
        .enumerate()
        .rev()
        .map(|(i, node)| (depth, node, i == last))
        .collect()
}

/// One line of the picture.
enum Line<'a> {
    Task(&'a Task),
    Left(usize),
}

/// The lines to draw: each with its depth and the line of its parent.
fn lines(tree: &TaskTree) -> Vec<(usize, Option<usize>, Line<'_>)> {
    let mut lines = Vec::new();
    let mut work: Vec<(usize, Option<usize>, std::result::Result<&TaskNode, usize>)> = Vec::new();
    push(&mut work, &tree.roots, 0, None);
    while let Some((depth, parent, item)) = work.pop() {
        match item {
            Ok(_) if lines.len() >= DRAWN => {
                let rest = 1 + work.iter().filter(|(_, _, item)| item.is_ok()).count();
                lines.push((depth, parent, Line::Left(rest)));
                break;
            }
            Ok(node) => {
                let here = lines.len();
                lines.push((depth, parent, Line::Task(&node.task)));
                push(&mut work, &node.children, depth + 1, Some(here));
            }
            Err(count) => lines.push((depth, parent, Line::Left(count))),
        }
    }
    lines
}

fn push<'a>(
    work: &mut Vec<(
        usize,
        Option<usize>,
        std::result::Result<&'a TaskNode, usize>,
    )>,
    nodes: &'a [TaskNode],
    depth: usize,
    parent: Option<usize>,
) {
    let shown = if nodes.len() > SIBLINGS {
        SIBLINGS - 1
    } else {
        nodes.len()
    };
    if shown < nodes.len() {
        work.push((depth, parent, Err(nodes.len() - shown)));
    }
    work.extend(
        nodes[..shown]
            .iter()
            .rev()
            .map(|node| (depth, parent, Ok(node))),
    );
}

fn picture(tree: &TaskTree) -> String {
    const ROW: f64 = 21.0;
    const STEP: f64 = 30.0;
    let lines = lines(tree);
    let total = tree.flat().len();
    let title = format!("task tree: {total} tasks");
    let label = |line: &Line<'_>| match line {
        Line::Task(task) => format!("{} {}", task.pid, called(task)),
        Line::Left(count) => format!("… {count} more, not drawn"),
    };
    let x = |depth: usize| 18.0 + STEP * depth as f64;
    let y = |row: usize| 52.0 + ROW * row as f64;
    let right = lines
        .iter()
        .map(|(depth, _, line)| x(*depth) + Svg::text_width(&label(line), 11.0) + 60.0);
    let width = right.fold(360.0, f64::max);
    let mut svg = Svg::new(width, y(lines.len()) + 26.0);
    svg.text(
        (16.0, 24.0),
        &title,
        Text {
            size: 13.0,
            bold: true,
            ..Text::default()
        },
    );
    for (row, (depth, parent, _)) in lines.iter().enumerate() {
        if let Some(parent) = parent {
            let from = x(depth.saturating_sub(1)) + 9.0;
            svg.line(
                &[
                    (from, y(*parent) + 8.0),
                    (from, y(row)),
                    (x(*depth), y(row)),
                ],
                "#9aa5b1",
                1.0,
                "",
            );
        }
    }
    for (row, (depth, _, line)) in lines.iter().enumerate() {
        let (left, middle) = (x(*depth), y(row));
        let label = label(line);
        let Line::Task(task) = line else {
            svg.text(
                (left + 4.0, middle + 4.0),
                &label,
                Text {
                    fill: FAINT,
                    ..Text::default()
                },
            );
            continue;
        };
        let width = Svg::text_width(&label, 11.0) + 34.0;
        let (fill, stroke) = if task.kthread {
            ("#eef1f4", "#9aa5b1")
        } else {
            ("#e8f1fb", "#3b6ea5")
        };
        svg.rect((left, middle - 8.5), (width, 17.0), fill, stroke);
        let letter = task.state.to_string();
        svg.circle((left + 10.0, middle), 6.5, colour(task.state), "none");
        let white = Text {
            size: 9.0,
            fill: "#ffffff",
            bold: true,
            anchor: crate::view::Anchor::Middle,
            ..Text::default()
        };
        svg.text((left + 10.0, middle + 3.2), &letter, white);
        svg.text(
            (left + 22.0, middle + 4.0),
            &label,
            Text {
                fill: INK,
                ..Text::default()
            },
        );
    }
    let y = y(lines.len()) + 6.0;
    svg.text(
        (16.0, y),
        "blue: processes   grey: kernel threads   disc: state",
        Text {
            size: 10.0,
            fill: FAINT,
            ..Text::default()
        },
    );
    svg.finish(&title)
}

fn colour(state: TaskState) -> &'static str {
    match state {
        TaskState::Running => "#1f8f4e",
        TaskState::Sleeping => "#3b6ea5",
        TaskState::Idle | TaskState::Parked => "#8592a0",
        TaskState::DiskSleep => "#8a4fbf",
        TaskState::Stopped | TaskState::Traced => "#b7791f",
        TaskState::Dead | TaskState::Zombie => ACCENT,
    }
}

crate::displays!(Task, TaskTree);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::testing::task;

    fn tree() -> TaskTree {
        TaskTree::new(
            [(1, 0), (9, 1), (10, 9), (11, 1), (2, 0), (3, 2)]
                .map(|(pid, ppid)| task(pid, ppid))
                .into_iter()
                .collect(),
        )
    }

    #[test]
    fn the_tree_is_drawn_with_its_branches() {
        assert_eq!(
            tree().text(),
            "1 task-1 S\n|- 9 task-9 S\n|  `- 10 task-10 S\n`- 11 task-11 S\n2 task-2 S\n`- 3 task-3 S\n"
        );
    }

    #[test]
    fn a_name_cannot_break_out_of_the_page() {
        let mut evil = task(1, 0);
        evil.comm = "</text><script>\x1b\n".to_owned();
        let tasks: Tasks = [evil].into_iter().collect();
        let tree = TaskTree::new(tasks.clone());
        for page in [
            tasks.html().unwrap(),
            tree.html().unwrap(),
            tree.svg().unwrap(),
        ] {
            assert!(!page.contains("<script"), "{page}");
        }
        assert_eq!(tree.text().lines().count(), 1);
    }

    #[test]
    fn what_is_not_drawn_is_counted() {
        let tasks: Tasks = (1..=500).map(|pid| task(pid, i32::from(pid > 1))).collect();
        let svg = TaskTree::new(tasks).svg().unwrap();
        assert!(svg.contains("task tree: 500 tasks"));
        assert!(svg.contains("… 476 more, not drawn"), "{svg}");
    }
}
