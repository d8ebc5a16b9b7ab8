//! A whole way of a packet, written down, and compared with one that was captured.
//!
//! A line is `name [$skb] [+N|-N] [@device] [head] [: words]`. All stages must be there in this order and no others.
//! - `$skb` is which `sk_buff` it is: the first time it binds, then it must be the same. Without it: `$a`.
//! - `+N` or `-N`: by how much `data` moved since that `sk_buff` was last seen; without it, it did not move.
//! - `@device` binds the device and its network namespace likewise.
//! - `head`: this `sk_buff` has other memory from here on; without it, it has what it had, and a clone has its original's.
//! - `words` must be in what the stage says beside its name.
//! - A line that begins with `?` may be missing; one with `~` is at the end, in any order.

use std::collections::HashMap;

use probes::skb::{Path, Stage, What};
use probes::view::View;

/// Text of a stage.
fn says(stage: &Stage) -> String {
    let what = match &stage.what {
        What::NoHook(_) => "no hook".to_owned(),
        What::Hook(hook) => {
            let rules: Vec<String> = hook
                .rules
                .iter()
                .map(|hit| format!("{}#{} {}", hit.chain, hit.handle, hit.statement))
                .collect();
            format!(
                "{} {} {} {}",
                hook.hook.unwrap_or("?"),
                hook.priority.unwrap_or(0),
                hook.verdict.unwrap_or("?"),
                rules.join(", ")
            )
        }
        What::Dropped { reason, location } => format!("{reason} in {location}"),
        What::Consumed { location } => format!("in {location}"),
        What::Derived { .. } => "made".to_owned(),
        What::Resized => "resized".to_owned(),
        What::Merged { .. } => "merged".to_owned(),
        What::Call | What::Tracepoint => String::new(),
    };
    let conntrack = stage.conntrack.as_ref().map_or_else(String::new, |known| {
        format!(
            " ct {}{}",
            known.state,
            if known.reply { " reply" } else { "" }
        )
    });
    format!(
        "{what}{conntrack} {}",
        stage.note.as_deref().unwrap_or_default()
    )
}

#[derive(Default)]
struct Bound<'a> {
    skbs: HashMap<&'a str, u64>,
    devices: HashMap<&'a str, (u32, u32)>,
    data: HashMap<u64, i64>,
    heads: HashMap<u64, u64>,
}

impl<'a> Bound<'a> {
    /// Tells whether a stage is what a line says; binds what the line names.
    fn fits(&mut self, stage: &Stage, line: &'a str) -> Result<(), String> {
        let (line, words) = match line.split_once(" : ") {
            Some((line, words)) => (line, words),
            None => (line, ""),
        };
        let mut parts = line.split_whitespace();
        let name = parts.next().unwrap_or_default();
        if stage.name != name {
            return Err(format!("it is {}", stage.name));
        }
        let (mut skb, mut moved, mut fresh) = ("$a", 0, false);
        for part in parts {
            match part.as_bytes()[0] {
                b'$' => skb = part,
                b'+' | b'-' => moved = part.parse::<i64>().unwrap(),
                b'@' => {
                    let here = (stage.ifindex, stage.netns);
                    if *self.devices.entry(part).or_insert(here) != here || here.1 == 0 {
                        return Err(format!("{part} is {:?}, here {here:?}", self.devices[part]));
                    }
                }
                _ => fresh = part == "head",
            }
        }
        let at = stage.skb.0;
        let others = self
            .skbs
            .iter()
            .any(|(other, known)| *other != skb && *known == at);
        if *self.skbs.entry(skb).or_insert(at) != at || others {
            return Err(format!("{skb} is {:#x}, here {at:#x}", self.skbs[skb]));
        }
        if !stage.head.is_null() {
            let data = i64::from(stage.geometry.data);
            let before = self.data.insert(at, data);
            if before.is_some_and(|before| data - before != moved && !fresh) {
                return Err(format!("data moved by {}", data - before.unwrap_or(0)));
            }
            let head = stage.head.0;
            let shared = self.heads.is_empty() || self.heads.values().any(|known| *known == head);
            let same = match self.heads.insert(at, head) {
                Some(before) => before == head,
                None => shared,
            };
            if same == fresh {
                return Err("its memory is not the one it should be".to_owned());
            }
        }
        let said = says(stage);
        if !said.contains(words) {
            return Err(format!("it says `{said}`"));
        }
        Ok(())
    }
}

/// Compares; the error says where they part, with the whole way.
pub(crate) fn compare(path: &Path, lines: &[&str]) -> Result<(), String> {
    let mut bound = Bound::default();
    let (last, lines): (Vec<&str>, Vec<&str>) = lines
        .iter()
        .copied()
        .partition(|line| line.starts_with('~'));
    let mut last: Vec<&str> = last.into_iter().map(|line| &line[1..]).collect();
    let mut lines = lines.into_iter().peekable();
    for (index, stage) in path.iter().enumerate() {
        let fault = |why: String, line: &str| {
            Err(format!(
                "stage {index}: `{line}`, but {why}:\n{}",
                path.text()
            ))
        };
        loop {
            let Some(line) = lines.peek().copied() else {
                // One at the end, whichever fits.
                let name = |line: &str| {
                    line.trim_start_matches('?').split(' ').next() == Some(stage.name.as_str())
                };
                let fits = last.iter().position(|line| {
                    name(line) && bound.fits(stage, line.trim_start_matches('?')).is_ok()
                });
                match fits {
                    Some(at) => drop(last.remove(at)),
                    None => return fault(format!("it is {}", stage.name), "the end"),
                }
                break;
            };
            let optional = line.starts_with('?');
            let wanted = line.trim_start_matches('?');
            let named = wanted.split(' ').next() == Some(stage.name.as_str());
            if optional && !named {
                lines.next();
                continue;
            }
            if let Err(why) = bound.fits(stage, wanted) {
                return fault(why, line);
            }
            lines.next();
            break;
        }
    }
    let missing = lines.chain(last).find(|line| !line.starts_with('?'));
    match missing {
        Some(line) => Err(format!("`{line}` is missing:\n{}", path.text())),
        None if path.incomplete => Err(format!("records were lost:\n{}", path.text())),
        None => Ok(()),
    }
}
