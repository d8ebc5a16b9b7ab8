//! The difference between two views.

mod view;

use serde::Serialize;
use similar::{ChangeTag, TextDiff};

use crate::view::View;

/// Compares two views, line by line; blanks do not count.
///
/// ```no_run
/// # use klab_memory::{Result, cell::diff, kernel::Kernel};
/// # fn demo(kernel: &Kernel) -> Result<()> {
/// let before = kernel.eval("init_task.signal->stats")?;
/// diff(&before, &kernel.eval("init_task.signal->stats")?);
/// # Ok(())
/// # }
/// ```
pub fn diff<V: View + ?Sized>(before: &V, after: &V) -> Diff {
    let (before, after) = (before.text(), after.text());
    let words = |text: &str| -> Vec<String> {
        let lines = text.lines();
        lines
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    let texts: [Vec<&str>; 2] = [before.lines().collect(), after.lines().collect()];
    let (old, new) = (words(&before), words(&after));
    let old: Vec<&str> = old.iter().map(String::as_str).collect();
    let new: Vec<&str> = new.iter().map(String::as_str).collect();
    let line = |side: usize, at: Option<usize>| {
        at.and_then(|at| texts[side].get(at))
            .copied()
            .unwrap_or_default()
            .to_owned()
    };
    let lines = TextDiff::from_slices(&old, &new)
        .iter_all_changes()
        .map(|change| match change.tag() {
            ChangeTag::Delete => Line::Gone(line(0, change.old_index())),
            ChangeTag::Insert => Line::New(line(1, change.new_index())),
            ChangeTag::Equal => Line::Same(line(1, change.new_index())),
        })
        .collect();
    Diff { lines }
}

/// The difference between two views.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diff {
    /// All lines of both, in order.
    pub lines: Vec<Line>,
}

/// A line of two views.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A line of both.
    Same(String),
    /// A line of the first alone.
    Gone(String),
    /// A line of the second alone.
    New(String),
}

impl Diff {
    /// The lines to show, each with its sign: what differs, the heading above it, and how many are the same between.
    fn shown(&self) -> Vec<(char, String)> {
        let mut shown = Vec::new();
        let mut same = 0_usize;
        for (at, line) in self.lines.iter().enumerate() {
            let (sign, text) = match line {
                Line::Same(text) if at == 0 => (' ', text),
                Line::Same(_) => {
                    same += 1;
                    continue;
                }
                Line::Gone(text) => ('-', text),
                Line::New(text) => ('+', text),
            };
            note(&mut shown, &mut same);
            shown.push((sign, text.clone()));
        }
        note(&mut shown, &mut same);
        shown
    }
}

fn note(shown: &mut Vec<(char, String)>, same: &mut usize) {
    match std::mem::take(same) {
        0 => {}
        1 => shown.push((' ', "(1 line the same)".to_owned())),
        lines => shown.push((' ', format!("({lines} lines the same)"))),
    }
}
