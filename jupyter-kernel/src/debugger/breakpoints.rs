//! Breakpoints as a front end sets them: by a function's name, by a line of its instructions, by a line of a cell.
//!
//! A line of a cell stands for the first function of the kernel that it names: `%break vfs_read` or `guest.breakpoint("vfs_read")?`.

use std::collections::BTreeMap;

use anyhow::Result;
use probes::debug::Stopped;
use probes::guest::Guest;
use probes::memory::GuestVirt;
use serde_json::{Value, json};

use super::kept;
use super::source::{Sources, is_source};

/// Name under which the breakpoints are kept that are of no text.
const FUNCTIONS: &str = "";

/// The breakpoints that are set, by the text that they are in: the front end's own word, and the address.
#[derive(Debug, Default)]
pub(super) struct Breakpoints(BTreeMap<String, Vec<(Value, Option<GuestVirt>)>>);

/// One that is wished for.
struct Wish {
    asked: Value,
    /// Spellings of the place, the likeliest first.
    places: Vec<String>,
    condition: Option<String>,
}

impl Breakpoints {
    /// All of them, as `debugInfo` lists them.
    pub(super) fn all(&self) -> Vec<Value> {
        let texts = self.0.iter().filter(|(path, _)| *path != FUNCTIONS);
        texts
            .map(|(path, set)| {
                let lines: Vec<&Value> = set.iter().map(|(asked, _)| asked).collect();
                json!({"source": path, "breakpoints": lines})
            })
            .collect()
    }

    /// Forgets all: the guest is let go.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Sets those of a text, `code` if it is a cell's, in place of those that it had.
    pub(super) fn set_lines(
        &mut self,
        guest: &Guest,
        (path, code): (&str, Option<&str>),
        asked: &[Value],
        sources: &mut Sources,
    ) -> Result<Vec<Value>> {
        let wishes = asked.iter().map(|asked| {
            let line = asked["line"].as_u64().unwrap_or(0) as usize;
            let places = match is_source(path) {
                true => sources
                    .at(guest, path, line)
                    .map_or(Vec::new(), |at| vec![at.to_string()]),
                false => code.map_or(Vec::new(), |code| functions(code, line)),
            };
            Wish {
                asked: json!({"line": line}),
                places,
                condition: condition(asked),
            }
        });
        let wishes = wishes.collect();
        self.set(guest, path, wishes)
    }

    /// Sets those of functions, in place of those that there were.
    pub(super) fn set_functions(&mut self, guest: &Guest, asked: &[Value]) -> Result<Vec<Value>> {
        let wishes = asked.iter().map(|asked| Wish {
            asked: asked.clone(),
            places: asked["name"]
                .as_str()
                .map(str::to_owned)
                .into_iter()
                .collect(),
            condition: condition(asked),
        });
        let wishes = wishes.collect();
        self.set(guest, FUNCTIONS, wishes)
    }

    fn set(&mut self, guest: &Guest, path: &str, wishes: Vec<Wish>) -> Result<Vec<Value>> {
        let old = self.0.remove(path).unwrap_or_default();
        if wishes.is_empty() && (old.is_empty() || !kept::is_kept()) {
            return Ok(Vec::new());
        }
        let others: Vec<GuestVirt> = self
            .0
            .values()
            .flatten()
            .filter_map(|(_, at)| *at)
            .collect();
        let (set, shown) = kept::still(guest, |stopped| {
            for at in old.iter().filter_map(|(_, at)| *at) {
                if !others.contains(&at) {
                    stopped.remove(at)?;
                }
            }
            Ok(wishes.iter().map(|wish| add(stopped, wish)).unzip())
        })?;
        self.0.insert(path.to_owned(), set);
        Ok(shown)
    }
}

/// Sets one, and says what came of it.
fn add(stopped: &mut Stopped, wish: &Wish) -> ((Value, Option<GuestVirt>), Value) {
    let mut why =
        "no function of the kernel is named here: `vfs_read`, `tun:tun_chr_open`".to_owned();
    for place in &wish.places {
        match stopped.add(place, wish.condition.as_deref()) {
            Ok(at) => {
                let shown = json!({"verified": true, "line": wish.asked["line"], "message": format!("{place} at {at}"), "instructionReference": at.to_string()});
                return ((wish.asked.clone(), Some(at)), shown);
            }
            Err(error) => why = error.to_string(),
        }
    }
    let shown = json!({"verified": false, "line": wish.asked["line"], "message": why});
    ((wish.asked.clone(), None), shown)
}

fn condition(asked: &Value) -> Option<String> {
    let text = asked["condition"].as_str()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The words of a cell's line that may be functions: those in quotes first.
fn functions(code: &str, line: usize) -> Vec<String> {
    let Some(line) = line.checked_sub(1).and_then(|line| code.lines().nth(line)) else {
        return Vec::new();
    };
    let word = |c: char| c.is_ascii_alphanumeric() || "_.:@+".contains(c);
    let is_name = |word: &&str| {
        word.len() > 2 && word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
    };
    let words = |text: &str| {
        let words = text.split(|c: char| !word(c)).filter(is_name);
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let quoted: Vec<String> = line.split('"').skip(1).step_by(2).flat_map(words).collect();
    // The first word of a `%` line is the command.
    let rest = match line.trim_start().strip_prefix('%') {
        Some(rest) => rest
            .split_once(char::is_whitespace)
            .map_or("", |(_, rest)| rest),
        None => line,
    };
    let mut all = quoted;
    all.extend(words(rest));
    all.truncate(16);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_functions() {
        let code =
            "%break vfs_read --stay\nlet hits = guest.break_at(\"tun:open\", |call| 1)?;\n%%sh";
        assert_eq!(functions(code, 1), ["vfs_read", "stay"]);
        assert_eq!(functions(code, 2)[0], "tun:open");
        assert_eq!(functions(code, 3), Vec::<String>::new());
        assert_eq!(functions(code, 9), Vec::<String>::new());
    }
}
