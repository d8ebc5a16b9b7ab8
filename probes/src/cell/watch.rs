//! What changes: a view that is shown anew every so often, and the difference between two.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use similar::{ChangeTag, TextDiff};

use super::{Bundle, check_interrupt, display};
use crate::view::{View, escape};

/// How often a wait looks whether the cell is stopped.
const LOOK: Duration = Duration::from_millis(20);

/// Shows a view in one place, read anew every `every`, until the cell is stopped.
///
/// ```no_run
/// # use probes::prelude::*;
/// # let guest = Guest::attach("default")?;
/// watch(Duration::from_secs(1), || guest.tasks())?;
/// # Ok::<(), probes::Error>(())
/// ```
///
/// # Errors
///
/// What `read` fails with; what was read before stays.
///
/// # Panics
///
/// If the cell is stopped, as [`check_interrupt`] does: its variables are kept.
pub fn watch<V: View, E: fmt::Display>(
    every: Duration,
    mut read: impl FnMut() -> Result<V, E>,
) -> Result<(), E> {
    let shown = display(Bundle::from(&read()?));
    loop {
        let begun = Instant::now();
        while begun.elapsed() < every {
            check_interrupt();
            std::thread::sleep(LOOK.min(every));
        }
        check_interrupt();
        shown.update(Bundle::from(&read()?));
    }
}

/// Compares two views, line by line; blanks do not count.
///
/// ```no_run
/// # use probes::prelude::*;
/// # let guest = Guest::attach("default")?;
/// let before = guest.tasks()?;
/// guest.agent()?.shell("sleep 100 &")?;
/// diff(&before, &guest.tasks()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
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

impl View for Diff {
    fn text(&self) -> String {
        let lines = self.shown().into_iter();
        lines
            .map(|(sign, text)| format!("{sign} {text}\n"))
            .collect()
    }

    fn html(&self) -> Option<String> {
        let lines: String = self
            .shown()
            .into_iter()
            .map(|(sign, text)| {
                let color = match sign {
                    '-' => "#c0392b33",
                    '+' => "#27ae6033",
                    _ => "transparent",
                };
                format!(
                    "<div style=\"background:{color}\">{sign} {}</div>",
                    escape(&text)
                )
            })
            .collect();
        Some(format!(
            "<div style=\"font-family:monospace;white-space:pre\">{lines}</div>"
        ))
    }
}

crate::displays!(Diff);

#[cfg(test)]
mod tests {
    use super::*;

    struct Text(&'static str);

    impl View for Text {
        fn text(&self) -> String {
            self.0.to_owned()
        }
    }

    #[test]
    fn what_differs_is_marked_and_a_wider_column_is_no_difference() {
        let before = Text("PID NAME\n1 init\n2 a<b\n3 x\n");
        let after = Text("PID  NAME\n1    init\n3    x\n1000 new\n");
        let diff = diff(&before, &after);
        assert_eq!(
            diff.text(),
            "  PID  NAME\n  (1 line the same)\n- 2 a<b\n  (1 line the same)\n+ 1000 new\n"
        );
        assert!(diff.html().unwrap().contains("- 2 a&lt;b"));
        assert_eq!(diff.lines.len(), 5);
    }

    #[test]
    fn a_watch_ends_with_what_its_reader_fails_with() {
        let mut times = 0;
        let ended = watch(Duration::from_millis(1), || {
            times += 1;
            match times {
                4 => Err("gone"),
                _ => Ok(Text("x")),
            }
        });
        assert_eq!((ended, times), (Err("gone"), 4));
    }
}
