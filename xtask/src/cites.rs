//! `cargo xtask cites`: every citation of the kernel's source, `PATH:LINE@TAG`, opened and looked at.
//!
//! A citation holds when a name that the text before it has in backticks stands on the line that it cites. The names
//! are found by [`names`]; [`Sources`] has the kernel's files.

mod names;
mod sources;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::process::ExitCode;

use anyhow::{Result, bail};

use self::names::{Block, blocks};
use self::sources::Sources;
use crate::paths::Paths;
use crate::tree;

/// `PATH:LINE@TAG`, or `PATH:FIRST-LAST@TAG`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Citation {
    path: String,
    first: usize,
    last: usize,
    tag: String,
}

impl Citation {
    /// The citation that this word is.
    fn parse(word: &str) -> Option<Self> {
        let (place, tag) = word.split_once('@')?;
        let (path, lines) = place.rsplit_once(':')?;
        let (first, last) = lines.split_once('-').unwrap_or((lines, lines));
        let is_tag = tag.starts_with('v') && tag.contains(|c: char| c.is_ascii_digit());
        (is_tag && path.contains('/')).then_some(())?;
        Some(Self {
            path: path.to_owned(),
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            tag: tag.to_owned(),
        })
    }
}

impl fmt::Display for Citation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path, self.first)?;
        if self.last != self.first {
            write!(f, "-{}", self.last)?;
        }
        write!(f, "@{}", self.tag)
    }
}

/// Finds the fault of `citation` in the text of the cited file, whose line should have one of `names`.
fn fault(citation: &Citation, names: &[String], text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    if citation.first == 0 || citation.last < citation.first || citation.last > lines.len() {
        return Some(format!("the file has {} lines", lines.len()));
    }
    if names.is_empty() {
        return Some("nothing in backticks says what is there".to_owned());
    }
    let has = |line: &&str| names.iter().any(|name| names::has_word(line, name));
    if lines[citation.first - 1..citation.last].iter().any(has) {
        return None;
    }
    let nearest = (1..=lines.len())
        .filter(|number| has(&lines[number - 1]))
        .min_by_key(|number| number.abs_diff(citation.first));
    let wanted = names.join("`, `");
    Some(match nearest {
        Some(number) => format!("`{wanted}` is not there, the nearest is line {number}"),
        None => format!("`{wanted}` is not in the file"),
    })
}

/// Looks at every citation of the tree, in the kernel's sources that are at hand and in `folders`.
pub(crate) fn run(folders: &[&str]) -> Result<ExitCode> {
    let paths = Paths::new()?;
    let sources = Sources::find(&paths.cache.join("toolchains"), folders)?;
    let (mut right, mut wrong) = (0, 0);
    let mut unread: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in tree::files(&paths.root, &[".rs", ".md"])? {
        let text = fs::read_to_string(&path)?;
        let blocks = blocks(&text, path.extension().is_some_and(|ending| ending == "md"));
        for (number, citation, names) in Block::citations(&blocks) {
            let shown = path.strip_prefix(&paths.root).unwrap_or(&path).display();
            let place = format!("{shown}:{number}: {citation}");
            let fault = match sources.read(&citation.tag, &citation.path) {
                None => {
                    unread.entry(citation.tag).or_default().push(place);
                    continue;
                }
                Some(Ok(text)) => fault(&citation, &names, &text),
                Some(Err(error)) => Some(error.to_string()),
            };
            match fault {
                None => right += 1,
                Some(fault) => {
                    wrong += 1;
                    println!("{place}: {fault}");
                }
            }
        }
    }
    let not_read: usize = unread.values().map(Vec::len).sum();
    for (tag, places) in &unread {
        println!(
            "NOT CHECKED, no source of {tag} is at hand (`cargo xtask cites FOLDER` takes one):"
        );
        places.iter().for_each(|place| println!("    {place}"));
    }
    println!(
        "{right} citations are right, {wrong} are wrong, {not_read} were NOT CHECKED; sources of {sources}"
    );
    if right + wrong == 0 {
        bail!(
            "nothing was checked: `klab kmod build` unpacks the source of the default kernel, or name a folder"
        );
    }
    Ok(if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "int a;\nstruct task_struct {\n\tint pid;\n};\n";

    fn cited(word: &str) -> Citation {
        Citation::parse(word).unwrap()
    }

    #[test]
    fn a_citation_is_read_and_written() {
        for word in ["mm/Kconfig:837@v7.3.4", "kernel/fork.c:1-9@v6.12"] {
            assert_eq!(cited(word).to_string(), word);
        }
        for word in [
            "a@v1",
            "fork.c:1@v6",
            "user@host:/x",
            "mm/x.c:a@v6",
            "mm/x.c:1@latest",
        ] {
            assert_eq!(Citation::parse(word), None, "{word}");
        }
    }

    #[test]
    fn a_name_must_stand_on_the_cited_line() {
        let at = |word: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            fault(&cited(word), &names, TEXT)
        };
        assert_eq!(at("a/b.c:2@v1", &["task_struct"]), None);
        assert_eq!(at("a/b.c:1-3@v1", &["pid"]), None);
        let moved = at("a/b.c:1@v1", &["pid"]).unwrap();
        assert!(moved.contains("line 3"), "{moved}");
        let absent = at("a/b.c:1@v1", &["task"]).unwrap();
        assert!(absent.contains("not in the file"), "{absent}");
        assert!(at("a/b.c:9@v1", &["pid"]).unwrap().contains("4 lines"));
        assert!(at("a/b.c:1@v1", &[]).unwrap().contains("backticks"));
    }
}
